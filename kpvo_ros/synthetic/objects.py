"""Single things that can be put into photos: built of primitives, standing on the ground.

Method A (seed 000, [0019]) pastes renderings of three-dimensional objects. Each kind here is a
function that adds one object to a `WorldBuilder`: origin on the ground, z up, all sizes, turns
and textures drawn from the generator. Kinds that drive or walk in real life are marked movable,
so that what moves in training pairs is what moves in the world ([0013]).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

from kpvo_ros.geometry.se3 import from_rt, rpy_to_matrix
from kpvo_ros.synthetic import props
from kpvo_ros.synthetic.builder import Skin, WorldBuilder

Rng = np.random.Generator
_ORIGIN = np.eye(4)
SURFACES = (
    *('brick', 'plaster', 'concrete', 'wallpaper', 'wood', 'metal', 'cardboard', 'fabric'),
    *('bark', 'tiles', 'cobbles', 'paving', 'bookshelf', 'facade_brick', 'facade_plaster'),
)
_PICTURES = (
    *(f'poster_{k}' for k in range(6)),
    *('landmark_disc', 'landmark_triangle', 'landmark_square', 'landmark_cross'),
    *('landmark_star', 'landmark_arrow', 'landmark_ring', 'landmark_diamond'),
    *('shop', 'door', 'bookshelf', 'cardboard', 'facade_office'),
)


@dataclasses.dataclass(frozen=True)
class ObjectKind:
    """One sort of thing.

    Attributes:
        name: of the sort.
        build: adds one of it to a builder.
        movable: it goes about on its own in real life.
    """

    name: str
    build: Callable[[WorldBuilder, Rng], None]
    movable: bool = False


def surface(rng: Rng, repeat_m: float = 1.0) -> Skin:
    """A random material, or a picture over the whole face, in a random tint."""
    tint = props.pastel(rng, 0.35)
    if rng.random() < 0.4:
        return Skin(str(rng.choice(_PICTURES)), None, tint)
    return Skin(str(rng.choice(SURFACES)), repeat_m * float(rng.uniform(0.6, 1.6)), tint)


def box_stack(b: WorldBuilder, rng: Rng) -> None:
    """One to four boxes on each other, each turned a little."""
    number, z = b.new_object(), 0.0
    size = rng.uniform(0.5, 1.4, 3)
    for _ in range(int(rng.integers(1, 5))):
        yaw = float(rng.uniform(-0.5, 0.5))
        b.box((0, 0, z + size[2] / 2), size, surface(rng), yaw=yaw, object_id=number)
        z += float(size[2])
        size = size * rng.uniform(0.6, 0.95, 3)


def prism(b: WorldBuilder, rng: Rng) -> None:
    """An upright prism over a regular hexagon, octagon or decagon.

    The n boxes between opposite sides of a regular 2n-gon fill it exactly; their tops differ by
    two millimetres so that one of them decides the colour there.
    """
    number, n = b.new_object(), int(rng.integers(3, 6))
    width, height = float(rng.uniform(0.6, 1.6)), float(rng.uniform(0.6, 2.4))
    side = width * float(np.tan(np.pi / (2 * n)))
    skin = surface(rng)
    for k in range(n):
        top = height - 0.002 * k
        size, yaw = (width, side, top), k * np.pi / n
        b.box((0, 0, top / 2), size, skin, yaw=yaw, object_id=number)


def wedge(b: WorldBuilder, rng: Rng) -> None:
    """A lying prism over a triangle: a long box on its edge, sunk to half into the ground."""
    turn = np.pi / 4 + float(rng.uniform(-0.25, 0.25))
    side, length = float(rng.uniform(0.8, 1.8)), float(rng.uniform(0.8, 2.4))
    lying = from_rt(rpy_to_matrix(0.0, turn, 0.0), np.zeros(3))
    b.box((0, 0, 0), (side, length, side * rng.uniform(0.8, 1.2)), surface(rng), pose=lying)


def cone(b: WorldBuilder, rng: Rng) -> None:
    """A cone on a plate, of thin discs, with stripes."""
    number = b.new_object()
    height, radius = float(rng.uniform(0.6, 1.6)), float(rng.uniform(0.2, 0.55))
    colours = (props.pastel(rng, 0.1), props.pastel(rng, 0.6))
    texture, steps = str(rng.choice(SURFACES)), 24
    plate = Skin('metal', 0.8, colours[0])
    b.box((0, 0, 0.03), (2.4 * radius, 2.4 * radius, 0.06), plate, object_id=number)
    for k in range(steps):
        wide = 2 * radius * (1 - 0.92 * k / steps)
        skin = Skin(texture, 0.7, colours[(k // 6) % 2])
        z = 0.06 + (k + 0.5) * height / steps
        b.cylinder((0, 0, z), (wide, wide, height / steps), skin, object_id=number)


def drum(b: WorldBuilder, rng: Rng) -> None:
    """An upright cylinder with a lid, sometimes two beside each other."""
    number = b.new_object()
    for k in range(int(rng.integers(1, 3))):
        wide, high = float(rng.uniform(0.4, 1.0)), float(rng.uniform(0.6, 1.8))
        b.cylinder((0, 1.05 * k, high / 2), (wide, wide, high), surface(rng), object_id=number)
        lid = Skin('metal', 0.6, props.pastel(rng, 0.2))
        rim = (1.08 * wide, 1.08 * wide, 0.07)
        b.cylinder((0, 1.05 * k, high), rim, lid, object_id=number)


def sign_post(b: WorldBuilder, rng: Rng) -> None:
    """One or two panels on a pole, with grey backs."""
    number = b.new_object()
    high, size = float(rng.uniform(1.4, 2.6)), float(rng.uniform(0.5, 1.0))
    pole = Skin('metal', 0.7, (0.4, 0.4, 0.42))
    b.cylinder((0, 0, high / 2), (0.09, 0.09, high), pole, object_id=number)
    for k in range(int(rng.integers(1, 3))):
        z, yaw = high - size / 2 - 1.05 * size * k, float(rng.uniform(-0.2, 0.2))
        face = Skin(str(rng.choice(_PICTURES)), None, props.pastel(rng, 0.6))
        pose = props.place(0.0, 0.0, yaw, z)
        for x, skin in ((0.065, face), (0.05, Skin('metal', 0.9))):
            b.box((x, 0, 0), (0.015, size, size), skin, pose=pose, object_id=number)


def board(b: WorldBuilder, rng: Rng) -> None:
    """Two boards leaning on each other, open at the sides."""
    number, lean = b.new_object(), float(rng.uniform(0.15, 0.4))
    wide, high = float(rng.uniform(0.6, 1.1)), float(rng.uniform(0.8, 1.4))
    for side in (-1, 1):
        pitch = from_rt(
            rpy_to_matrix(0.0, -side * lean, 0.0),
            np.array([side * np.sin(lean) * high / 2, 0.0, np.cos(lean) * high / 2]),
        )
        skin = Skin(str(rng.choice(_PICTURES)), None, props.pastel(rng, 0.6))
        b.box((0, 0, 0), (0.03, wide, high), skin, pose=pitch, object_id=number)


def gate(b: WorldBuilder, rng: Rng) -> None:
    """Two pillars with a beam on top; one sees through it."""
    number, skin = b.new_object(), surface(rng)
    wide, high, thick = rng.uniform(1.2, 2.2), rng.uniform(1.2, 2.4), rng.uniform(0.25, 0.5)
    for side in (-0.5, 0.5):
        b.box((0, side * wide, high / 2), (thick, thick, high), skin, object_id=number)
    beam = (1.1 * thick, wide + 1.6 * thick, 0.9 * thick)
    b.box((0, 0, high + 0.45 * thick), beam, surface(rng), object_id=number)


def steps(b: WorldBuilder, rng: Rng) -> None:
    """A flight of three to five steps."""
    number, skin = b.new_object(), surface(rng)
    wide, rise, count = rng.uniform(0.8, 1.8), rng.uniform(0.15, 0.28), int(rng.integers(3, 6))
    for k in range(count):
        high, x = rise * (k + 1), 0.32 * (k - count / 2)
        b.box((x, 0, high / 2), (0.32, wide, high), skin, object_id=number)


def composition(b: WorldBuilder, rng: Rng) -> None:
    """Three to six boxes, cylinders and ellipsoids grown into each other."""
    number = b.new_object()
    for k in range(int(rng.integers(3, 7))):
        size = rng.uniform(0.35, 1.1, 3)
        reach = 0.0 if k == 0 else 0.55
        x, y = rng.uniform(-reach, reach, 2)
        z = size[2] / 2 + (float(rng.uniform(0, 0.9)) if k else 0.0)
        add = (b.box, b.cylinder, b.ellipsoid)[int(rng.integers(3)) if k else 0]
        add((x, y, z), size, surface(rng), yaw=float(rng.uniform(0, 3)), object_id=number)


def cart(b: WorldBuilder, rng: Rng) -> None:
    """A delivery robot or van: a body on four wheels, its top loaded or bare."""
    number, long = b.new_object(), float(rng.uniform(0.8, 2.6))
    wide, high = long * float(rng.uniform(0.5, 0.7)), long * float(rng.uniform(0.35, 0.7))
    wheel = 0.24 * long
    body = Skin(str(rng.choice(['car_body', 'metal', *_PICTURES])), None, props.pastel(rng, 0.3))
    b.box((0, 0, 0.6 * wheel + high / 2), (long, wide, high), body, object_id=number)
    if rng.random() < 0.6:
        size = (0.5 * long, 0.8 * wide, 0.4 * high)
        top = (0.1 * long, 0, 0.6 * wheel + 1.2 * high)
        b.box(top, size, surface(rng, 0.6), object_id=number)
    for x in (-0.33 * long, 0.33 * long):
        for y in (-0.5 * wide, 0.5 * wide):
            axle = from_rt(rpy_to_matrix(np.pi / 2, 0.0, 0.0), np.array([x, y, wheel / 2]))
            tyre = (wheel, wheel, 0.16 * wide)
            b.cylinder((0, 0, 0), tyre, Skin('tyre', 1.0), pose=axle, object_id=number)


def ball(b: WorldBuilder, rng: Rng) -> None:
    """A ball."""
    wide = float(rng.uniform(0.3, 0.8))
    skin = Skin(str(rng.choice([*SURFACES, *_PICTURES])), 0.5, props.pastel(rng, 0.3))
    b.ellipsoid((0, 0, wide / 2), (wide, wide, wide), skin)


def _upright(
    build: Callable[[WorldBuilder, Rng, np.ndarray], None],
) -> Callable[[WorldBuilder, Rng], None]:
    return lambda b, rng: build(b, rng, _ORIGIN)


KINDS: tuple[ObjectKind, ...] = (
    ObjectKind('box_stack', box_stack),
    ObjectKind('car', _upright(props.car), movable=True),
    ObjectKind('composition', composition),
    ObjectKind('sign_post', sign_post),
    ObjectKind('prism', prism),
    ObjectKind('person', _upright(props.person), movable=True),
    ObjectKind('wedge', wedge),
    ObjectKind('column', _upright(props.kiosk_column)),
    ObjectKind('cone', cone),
    ObjectKind('cart', cart, movable=True),
    ObjectKind('board', board),
    ObjectKind('crates', _upright(props.crates)),
    ObjectKind('drum', drum),
    ObjectKind('gate', gate),
    ObjectKind('shelf', _upright(props.shelf)),
    ObjectKind('steps', steps),
    ObjectKind('ball', ball, movable=True),
    ObjectKind('bin', _upright(props.bin_or_box)),
    ObjectKind('plant', _upright(props.plant)),
    ObjectKind('sofa', _upright(props.sofa)),
    ObjectKind('tree', _upright(props.tree)),
)
