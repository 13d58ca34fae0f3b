"""Generators of indoor worlds: a furnished room and a corridor with doors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic import props
from kpvo_ros.synthetic.builder import Skin, WorldBuilder
from kpvo_ros.synthetic.lighting import Lamp, Lighting
from kpvo_ros.synthetic.texture import TextureAtlas, standard_atlas
from kpvo_ros.synthetic.world import Motion, MotionKind, World

_WALL = 0.2  # thickness of walls, metres
_PAPERS = (('wallpaper', 2.4), ('brick', 2.6), ('plaster', 2.5), ('wood', 2.2), ('concrete', 2.4))
Rng = np.random.Generator


def make_room(
    seed: int,
    *,
    n_objects: int = 40,
    size_m: tuple[float, float, float] = (9.0, 7.0, 2.8),
    n_moving: int = 0,
    atlas: TextureAtlas | None = None,
) -> World:
    """A room with a table in the middle, furniture and pictures along the walls.

    The origin is on the floor in the middle; between the table and the furniture there is space
    to walk around (see `trajectory.walk_room`).

    Args:
        seed: everything random.
        n_objects: pieces of furniture, pictures and panels together.
        size_m: length x, width y, height z.
        n_moving: people who walk around the table.
        atlas: textures, `standard_atlas()` by default.

    Raises:
        SyntheticError: the room is too small to walk in.
    """
    length, width, height = size_m
    if min(length, width) < 5 or height < 2.2:
        raise SyntheticError(f'room {size_m} is too small: at least 5 x 5 x 2.2 m')
    rng = np.random.default_rng(seed)
    b = WorldBuilder(atlas or standard_atlas(), rng)
    floor = str(rng.choice(['parquet', 'tiles', 'carpet']))
    _shell(b, rng, size_m, Skin(floor, 2.4))
    props.table(b, props.place(0, 0, rng.uniform(-0.3, 0.3)), (1.6, 0.9, 0.75))
    props.crates(b, rng, props.place(0.2, 0.1, 0.3, 0.75))
    for x in (-0.5, 0.5):
        props.chair(b, rng, props.place(x, 0.75 * rng.choice([-1, 1]), rng.uniform(0, 6)))
    walls = [_Wall(yaw, size_m) for yaw in (0.0, np.pi / 2, np.pi, -np.pi / 2)]
    for index in range(max(0, n_objects - 5)):
        _furnish(b, rng, walls[index % 4])
    for index in range(n_moving):
        period = float(rng.uniform(14, 22)) * (-1) ** index
        motion = b.move(Motion(MotionKind.CIRCLE, period_s=period, phase_rad=1.5 + index))
        props.person(b, rng, props.place(1.9, 0, np.pi / 2), motion)
    z = height - 0.35
    corners = [(-length / 3, -width / 4), (length / 3, -width / 4)]
    lamps = (
        Lamp((0.6, 0.3, z), (5.0, 4.6, 3.9)),
        *(Lamp((x, y, z), (1.3, 1.2, 1.05)) for x, y in corners),
    )
    for lamp in lamps:
        x, y, _ = lamp.position
        b.ellipsoid(
            (x, y, height - 0.14), (0.4, 0.4, 0.2), Skin('concrete', 1.0), casts_shadow=False
        )
    return b.build(Lighting.indoor(lamps))


def make_corridor(
    seed: int,
    *,
    n_objects: int = 60,
    length_m: float = 36.0,
    width_m: float = 2.6,
    height_m: float = 2.8,
    atlas: TextureAtlas | None = None,
) -> World:
    """A straight corridor along x from x = 0, with doors, posters, pipes and things left lying.

    Args:
        seed: everything random.
        n_objects: doors, posters, panels, pipes and boxes together.
        length_m: inner length along x.
        width_m: inner width.
        height_m: inner height.
        atlas: textures, `standard_atlas()` by default.

    Raises:
        SyntheticError: the corridor is too narrow or short to walk in.
    """
    if length_m < 6 or width_m < 1.6 or height_m < 2.2:
        raise SyntheticError(
            f'corridor {length_m} x {width_m} x {height_m} m is too small: '
            'at least 6 x 1.6 x 2.2 m'
        )
    rng = np.random.default_rng(seed)
    b = WorldBuilder(atlas or standard_atlas(), rng)
    _corridor_shell(b, rng, (length_m, width_m, height_m))
    _corridor_things(b, rng, n_objects, length_m, width_m)
    count = min(8, max(2, round(length_m / 4.5)))
    xs = (np.arange(count) + 0.5) * length_m / count
    lamps = tuple(Lamp((float(x), 0.0, height_m - 0.3), (2.6, 2.5, 2.3)) for x in xs)
    for x in xs:
        b.box((x, 0, height_m - 0.05), (0.9, 0.3, 0.1), Skin('metal', 1.0), casts_shadow=False)
    return b.build(Lighting.indoor(lamps))


class _Wall:
    """One wall of a room seen from inside: hands out free places from left to right."""

    def __init__(self, yaw: float, size_m: tuple[float, float, float]) -> None:
        length, width, self.height = size_m
        along_x = abs(np.sin(yaw)) > 0.5  # the wall lies along x
        self.distance = (width if along_x else length) / 2
        self.extent = (length if along_x else width) - 1.0
        self.yaw = yaw
        self.turn = 0

    def next_place(self, rng: Rng) -> float:
        """Coordinate along the wall, spread over it evenly (golden ratio) with some chance."""
        self.turn += 1
        share = (self.turn * 0.618 + rng.uniform(-0.04, 0.04)) % 1.0
        return (share - 0.5) * self.extent

    def pose(self, along: float, z: float, gap: float = 0.0) -> np.ndarray:
        """Frame on the wall whose x axis points into the room."""
        inwards = self.yaw + np.pi
        x = (self.distance - gap) * np.cos(self.yaw) - along * np.sin(self.yaw)
        y = (self.distance - gap) * np.sin(self.yaw) + along * np.cos(self.yaw)
        return props.place(float(x), float(y), inwards, z)


def _furnish(b: WorldBuilder, rng: Rng, wall: _Wall) -> None:
    """Put one thing on or before a wall."""
    along = wall.next_place(rng)
    choice = 0.85 if wall.turn % 4 == 2 else rng.random()
    standing: tuple[Callable[..., None], ...] = (
        props.shelf,
        props.sofa,
        props.plant,
        props.crates,
    )
    if choice < 0.45:
        thing = standing[int(rng.integers(len(standing)))]
        thing(b, rng, wall.pose(along, 0.0, 0.02 if thing in (props.shelf, props.sofa) else 0.4))
    elif choice < 0.8:
        wide, high = rng.uniform(0.5, 1.2), rng.uniform(0.5, 1.1)
        skin = Skin(f'poster_{rng.integers(6)}', None)
        z = rng.uniform(1.1, wall.height - high / 2 - 0.1)
        b.box((0.015, 0, 0), (0.03, wide, high), skin, pose=wall.pose(along, float(z)))
    elif choice < 0.92:
        pose = wall.pose(along, 1.75, 0.05)
        b.landmark(b.next_class(), pose[:3, 3], wall.yaw + np.pi, (0.5, 0.5))
    else:
        skin = Skin('door', None, props.pastel(rng, 0.6))
        b.box((0.03, 0, 1.02), (0.06, 0.92, 2.04), skin, pose=wall.pose(along, 0.0))


def _shell(b: WorldBuilder, rng: Rng, size: tuple[float, float, float], floor: Skin) -> None:
    """Floor, ceiling and four walls of different looks."""
    length, width, height = size
    b.box((0, 0, -0.25), (length + 1, width + 1, 0.5), floor, casts_shadow=False)
    ceiling = Skin('plaster', 3.0)
    b.box((0, 0, height + 0.25), (length + 1, width + 1, 0.5), ceiling, casts_shadow=False)
    papers = rng.permutation(len(_PAPERS))
    for index, (x, y) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
        name, repeat = _PAPERS[papers[index]]
        skin = Skin(name, repeat, props.pastel(rng, 0.75))
        centre = (x * (length + _WALL) / 2, y * (width + _WALL) / 2, height / 2)
        extent = (_WALL if x else length + 1, width + 1 if x else _WALL, height)
        b.box(centre, extent, skin, casts_shadow=False)


def _corridor_shell(b: WorldBuilder, rng: Rng, size: tuple[float, float, float]) -> None:
    """Floor, ceiling, walls on all sides, and a pipe under the ceiling on either side."""
    length, width, height = size
    middle = length / 2
    b.box(
        (middle, 0, -0.25),
        (length + 1, width + 1, 0.5),
        Skin(str(rng.choice(['tiles', 'parquet', 'paving'])), 2.4),
        casts_shadow=False,
    )
    b.box(
        (middle, 0, height + 0.25),
        (length + 1, width + 1, 0.5),
        Skin('concrete', 2.4),
        casts_shadow=False,
    )
    for x, yaw in ((-_WALL / 2, 0.0), (length + _WALL / 2, np.pi)):
        skin = Skin('brick', 2.6)
        b.box((x, 0, height / 2), (_WALL, width + 1, height), skin, yaw=yaw, casts_shadow=False)
    for side in (-1, 1):
        _corridor_wall(b, rng, side, length, width, height)
        b.cylinder(
            (0, 0, 0),
            (0.12, 0.12, length),
            Skin('metal', 0.8, props.pastel(rng, 0.4)),
            pose=_lying(middle, side * (width / 2 - 0.12), height - 0.2),
        )


def _corridor_wall(
    b: WorldBuilder, rng: Rng, side: int, length: float, width: float, height: float
) -> None:
    """A wall in panels of changing material, some of them set forward a little."""
    start = 0.0
    while start < length:
        reach = min(float(rng.uniform(3.0, 5.0)), length - start)
        name, repeat = _PAPERS[int(rng.integers(len(_PAPERS)))]
        skin = Skin(name, repeat, props.pastel(rng, 0.7))
        y = side * (width / 2 + _WALL / 2 - float(rng.choice([0.0, 0.06])))
        centre = (start + reach / 2, y, height / 2)
        b.box(centre, (reach, _WALL, height), skin, casts_shadow=False)
        start += reach


def _corridor_things(b: WorldBuilder, rng: Rng, count: int, length: float, width: float) -> None:
    """Doors, posters, landmark panels and boxes, alternating between the sides."""
    for index in range(count):
        side = 1 if index % 2 else -1
        x = (index + rng.uniform(0.2, 0.8)) * (length - 2.0) / max(count, 1) + 1.0
        wall = props.place(float(x), side * (width / 2 - 0.06), -side * np.pi / 2)
        choice = rng.random()
        if choice < 0.25:
            skin = Skin('door', None, props.pastel(rng, 0.5))
            b.box((0.02, 0, 1.04), (0.06, 0.95, 2.08), skin, pose=wall)
        elif choice < 0.62:
            wide, high, z = rng.uniform(0.4, 1.0), rng.uniform(0.4, 1.0), rng.uniform(1.1, 1.8)
            skin = Skin(f'poster_{rng.integers(6)}', None)
            b.box((0.02, 0, z), (0.03, wide, high), skin, pose=wall)
        elif choice < 0.75:
            position = (wall @ np.array([0.05, 0, 1.6, 1]))[:3]
            b.landmark(b.next_class(), position, -side * np.pi / 2, (0.5, 0.5))
        else:
            lateral = side * (width / 2 - 0.36)
            props.crates(b, rng, props.place(float(x), lateral, rng.uniform(-0.2, 0.2)))


def _lying(x: float, y: float, z: float) -> np.ndarray:
    """Frame whose z axis lies along the corridor."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    pose[:3, 3] = x, y, z
    return pose
