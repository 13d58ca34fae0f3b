"""Things that stand in worlds: houses, cars, trees, lamps, furniture, people.

Each function adds one object made of a few primitives. `pose` is the (4, 4) frame of the object in
the world: origin on the ground, x forward (a house's front faces x), z up.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.geometry.se3 import from_rt, rpy_to_matrix
from kpvo_ros.synthetic.builder import Skin, WorldBuilder

FLOOR_M = 3.0  # one storey and one window axis of the facade textures
_FACADES = ('facade_brick', 'facade_plaster', 'facade_office')
Rng = np.random.Generator
Tint = tuple[float, float, float]


def place(x: float, y: float, yaw: float = 0.0, z: float = 0.0) -> np.ndarray:
    """Pose (4, 4) of an object that stands upright."""
    return from_rt(rpy_to_matrix(0.0, 0.0, yaw), np.array([x, y, z]))


def pastel(rng: Rng, low: float = 0.55, high: float = 1.0) -> Tint:
    """A random light tint."""
    red, green, blue = (float(value) for value in rng.uniform(low, high, 3))
    return red, green, blue


def house(
    b: WorldBuilder, rng: Rng, pose: np.ndarray, width_m: float, depth_m: float, storeys: int
) -> None:
    """A house whose front lies in the plane x = 0 and looks along +x.

    It has a gable or a flat roof; some have shops on the ground floor or balconies.
    """
    height = storeys * FLOOR_M
    number = b.new_object()
    options = {'pose': pose, 'object_id': number}
    facade = str(rng.choice(_FACADES))
    skin = Skin(facade, 4 * FLOOR_M, pastel(rng, 0.7), cells=4)
    b.box((-depth_m / 2, 0, height / 2), (depth_m, width_m, height), skin, **options)
    if facade == 'facade_office' or rng.random() < 0.3:
        b.box(
            (-depth_m / 2, 0, height + 0.2),
            (depth_m + 0.5, width_m + 0.3, 0.4),
            Skin('concrete', 4.0),
            **options,
        )
        b.box(
            (-depth_m / 2, width_m / 5, height + 1.2),
            (3.0, 2.5, 1.8),
            Skin('metal', 2.5),
            **options,
        )
    else:
        _gable(b, rng, pose, width_m, depth_m, height, number)
    if rng.random() < 0.5:
        for y in np.arange(-width_m / 2 + FLOOR_M, width_m / 2 - 2, 2 * FLOOR_M):
            b.box(
                (0.05, y, 1.6), (0.3, 5.6, 3.2), Skin('shop', None, pastel(rng, 0.75)), **options
            )
            b.box(
                (0.6, y, 3.15), (1.1, 5.4, 0.12), Skin('fabric', 1.6, pastel(rng, 0.6)), **options
            )
    else:
        y = (rng.integers(0, round(width_m / FLOOR_M)) + 0.5) * FLOOR_M - width_m / 2
        b.box((0.04, y, 1.1), (0.2, 1.2, 2.2), Skin('door', None, pastel(rng, 0.5)), **options)
    for storey in range(1, storeys):
        if rng.random() < 0.35:
            y = (rng.integers(0, round(width_m / FLOOR_M)) + 0.5) * FLOOR_M - width_m / 2
            z = storey * FLOOR_M + 0.55
            b.box((0.5, y, z), (1.0, 2.6, 1.0), Skin('metal', 1.5, pastel(rng, 0.3)), **options)


def _gable(
    b: WorldBuilder, rng: Rng, pose: np.ndarray, width: float, depth: float, z: float, number: int
) -> None:
    """A long box on its edge, sunk to half into the house."""
    lying = from_rt(rpy_to_matrix(0.0, np.pi / 4, 0.0), np.array([-depth / 2, 0.0, z - 0.25]))
    side = (depth + 0.7) / np.sqrt(2)
    skin = Skin('roof', 4.0, pastel(rng, 0.6))
    b.box((0, 0, 0), (side, width + 0.02, side), skin, pose=pose @ lying, object_id=number)
    y = rng.uniform(-0.3, 0.3) * width
    b.box(
        (-depth / 2, y, z + depth / 2),
        (0.8, 0.8, 2.0),
        Skin('brick', 2.0),
        pose=pose,
        object_id=number,
    )


def car(b: WorldBuilder, rng: Rng, pose: np.ndarray, motion: int = -1) -> None:
    """A car, 4.2 m long: body, cabin, four wheels."""
    options = {'object_id': b.new_object(), 'motion': motion}
    tint = pastel(rng, 0.15)
    b.box((0, 0, 0.66), (4.2, 1.75, 0.72), Skin('car_body', None, tint), pose=pose, **options)
    b.box(
        (-0.2, 0, 1.26),
        (2.2, 1.55, 0.50),
        Skin('car_glass', None, pastel(rng, 0.6)),
        pose=pose,
        **options,
    )
    b.box((-0.2, 0, 1.53), (2.0, 1.45, 0.05), Skin('metal', 2.0, tint), pose=pose, **options)
    for x in (-1.3, 1.3):
        for y in (-0.82, 0.82):
            axle = from_rt(rpy_to_matrix(np.pi / 2, 0.0, 0.0), np.array([x, y, 0.32]))
            b.cylinder(
                (0, 0, 0), (0.64, 0.64, 0.22), Skin('tyre', 1.0), pose=pose @ axle, **options
            )


def tree(b: WorldBuilder, rng: Rng, pose: np.ndarray) -> None:
    """A tree with a crown of two ellipsoids."""
    options = {'pose': pose, 'object_id': b.new_object()}
    trunk, crown = rng.uniform(1.8, 2.8), rng.uniform(2.2, 3.6)
    b.cylinder((0, 0, trunk / 2), (0.34, 0.34, trunk + 0.8), Skin('bark', 1.0), **options)
    skin = Skin('leaves', 1.8, pastel(rng, 0.75))
    b.ellipsoid((0, 0, trunk + 0.40 * crown), (0.9 * crown, 0.9 * crown, crown), skin, **options)
    x, y = rng.uniform(-0.25, 0.25, 2) * crown
    top = (x, y, trunk + 0.85 * crown)
    b.ellipsoid(top, (0.6 * crown, 0.6 * crown, 0.7 * crown), skin, **options)


def street_lamp(b: WorldBuilder, pose: np.ndarray) -> tuple[float, float, float]:
    """A lamp post that reaches over the road along +x; returns where its bulb is."""
    options = {'pose': pose, 'object_id': b.new_object()}
    skin = Skin('metal', 1.0, (0.3, 0.33, 0.3))
    b.cylinder((0, 0, 2.6), (0.16, 0.16, 5.2), skin, **options)
    b.cylinder((0, 0, 0.4), (0.30, 0.30, 0.8), skin, **options)
    b.box((0.7, 0, 5.2), (1.5, 0.09, 0.09), skin, **options)
    b.box((1.45, 0, 5.12), (0.55, 0.26, 0.14), Skin('metal', 1.0), **options)
    x, y, z = (pose @ np.array([1.45, 0, 4.95, 1.0]))[:3]
    return float(x), float(y), float(z)


def kiosk_column(b: WorldBuilder, rng: Rng, pose: np.ndarray) -> None:
    """An advertising column."""
    options = {'pose': pose, 'object_id': b.new_object()}
    skin = Skin(f'poster_{rng.integers(6)}', 1.3)
    b.cylinder((0, 0, 1.4), (1.25, 1.25, 2.8), skin, **options)
    b.cylinder((0, 0, 2.9), (1.45, 1.45, 0.25), Skin('metal', 1.0, (0.25, 0.4, 0.3)), **options)


def bin_or_box(b: WorldBuilder, rng: Rng, pose: np.ndarray) -> None:
    """A litter bin, a letter box, or a stack of crates."""
    options = {'pose': pose, 'object_id': b.new_object()}
    choice = rng.integers(3)
    if choice == 0:
        b.cylinder((0, 0, 0.5), (0.55, 0.55, 1.0), Skin('metal', 0.8, pastel(rng, 0.2)), **options)
    elif choice == 1:
        b.box((0, 0, 0.6), (0.5, 0.6, 1.2), Skin('metal', 1.0, (0.9, 0.6, 0.05)), **options)
    else:
        b.box((0, 0, 0.3), (0.8, 0.7, 0.6), Skin('cardboard', None), **options)
        b.box((0.05, 0.04, 0.8), (0.6, 0.5, 0.4), Skin('wood', 0.8), yaw=0.4, **options)


def person(b: WorldBuilder, rng: Rng, pose: np.ndarray, motion: int = -1) -> None:
    """Somebody: legs, coat, head."""
    options = {'pose': pose, 'object_id': b.new_object(), 'motion': motion}
    b.cylinder((0, 0, 0.42), (0.30, 0.34, 0.84), Skin('fabric', 0.5, (0.25, 0.3, 0.5)), **options)
    b.cylinder((0, 0, 1.12), (0.34, 0.48, 0.62), Skin('fabric', 0.7, pastel(rng, 0.4)), **options)
    b.ellipsoid(
        (0, 0, 1.58), (0.22, 0.20, 0.28), Skin('plaster', 0.9, (0.75, 0.5, 0.4)), **options
    )


def table(b: WorldBuilder, pose: np.ndarray, size: tuple[float, float, float]) -> None:
    """A table with four legs; size is length, width and height."""
    options = {'pose': pose, 'object_id': b.new_object()}
    length, width, height = size
    skin = Skin('wood', 1.4)
    b.box((0, 0, height - 0.02), (length, width, 0.04), skin, **options)
    for x in (-length / 2 + 0.06, length / 2 - 0.06):
        for y in (-width / 2 + 0.06, width / 2 - 0.06):
            b.box((x, y, (height - 0.04) / 2), (0.06, 0.06, height - 0.04), skin, **options)


def chair(b: WorldBuilder, rng: Rng, pose: np.ndarray) -> None:
    """A chair whose back is at -x."""
    options = {'pose': pose, 'object_id': b.new_object()}
    skin = Skin('fabric', 0.6, pastel(rng, 0.5))
    b.box((0, 0, 0.45), (0.44, 0.44, 0.06), skin, **options)
    b.box((-0.20, 0, 0.75), (0.04, 0.42, 0.54), skin, **options)
    b.cylinder((0, 0, 0.21), (0.08, 0.08, 0.42), Skin('metal', 0.5), **options)
    b.cylinder((0, 0, 0.02), (0.46, 0.46, 0.04), Skin('metal', 0.5), **options)


def shelf(b: WorldBuilder, rng: Rng, pose: np.ndarray) -> None:
    """A bookcase with its back at x = 0, looking along +x."""
    options = {'pose': pose, 'object_id': b.new_object()}
    width, height = rng.uniform(0.9, 1.5), rng.uniform(1.6, 2.2)
    b.box((0.17, 0, height / 2), (0.34, width, height), Skin('bookshelf', None), **options)
    b.box((0.18, 0, height + 0.02), (0.38, width + 0.04, 0.04), Skin('wood', 1.0), **options)


def sofa(b: WorldBuilder, rng: Rng, pose: np.ndarray) -> None:
    """A sofa with its back at x = 0, looking along +x."""
    options = {'pose': pose, 'object_id': b.new_object()}
    skin = Skin('fabric', 1.1, pastel(rng, 0.5))
    b.box((0.45, 0, 0.22), (0.8, 1.7, 0.44), skin, **options)
    b.box((0.10, 0, 0.45), (0.2, 1.7, 0.9), skin, **options)
    for y in (-0.92, 0.92):
        b.box((0.42, y, 0.31), (0.84, 0.18, 0.62), skin, **options)


def plant(b: WorldBuilder, rng: Rng, pose: np.ndarray) -> None:
    """A pot with a bush."""
    options = {'pose': pose, 'object_id': b.new_object()}
    b.cylinder((0, 0, 0.2), (0.38, 0.38, 0.4), Skin('brick', 0.8), **options)
    height = rng.uniform(0.6, 1.1)
    b.ellipsoid((0, 0, 0.4 + height / 2), (0.6, 0.6, height), Skin('leaves', 0.8), **options)


def crates(b: WorldBuilder, rng: Rng, pose: np.ndarray) -> None:
    """One to three stacked boxes."""
    options = {'pose': pose, 'object_id': b.new_object()}
    z = 0.0
    for _ in range(int(rng.integers(1, 4))):
        size = rng.uniform(0.3, 0.55, 3)
        skin = Skin(str(rng.choice(['cardboard', 'wood', 'metal'])), None, pastel(rng, 0.7))
        b.box((0, 0, z + size[2] / 2), size, skin, yaw=float(rng.uniform(-0.3, 0.3)), **options)
        z += float(size[2])
