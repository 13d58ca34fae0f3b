"""Generators of outdoor worlds: a straight street, and a ring of streets around a city block."""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic import props
from kpvo_ros.synthetic.builder import Skin, WorldBuilder
from kpvo_ros.synthetic.curves import block_sides
from kpvo_ros.synthetic.lighting import Lamp, Lighting
from kpvo_ros.synthetic.texture import TextureAtlas, standard_atlas
from kpvo_ros.synthetic.world import Motion, MotionKind, World

ROAD_M = 7.0  # width of the road
LANE_M = 1.6  # from its middle to the middle of the right lane
_KERB = ROAD_M / 2
_FRONT = _KERB + 2.8  # from the middle of the road to the house fronts
_PAVEMENT_Z = 0.12
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class _Street:
    """A straight piece of road: coordinates are metres along it and to its left."""

    origin: tuple[float, float]
    yaw: float
    length: float

    def pose(self, along: float, left: float, turn: float = 0.0, z: float = 0.0) -> np.ndarray:
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        x = self.origin[0] + along * cosine - left * sine
        y = self.origin[1] + along * sine + left * cosine
        return props.place(float(x), float(y), self.yaw + turn, z)


def make_street(
    seed: int,
    *,
    n_objects: int = 60,
    length_m: float = 120.0,
    n_moving: int = 0,
    lighting: Lighting | None = None,
    atlas: TextureAtlas | None = None,
) -> World:
    """A straight street along x from x = 0, its middle at y = 0, closed by houses at both ends.

    Args:
        seed: everything random.
        n_objects: houses, cars, trees, lamps, columns and panels together.
        length_m: length of the road.
        n_moving: moving cars and people, in addition.
        lighting: light; a clear day by default.
        atlas: textures, `standard_atlas()` by default.

    Raises:
        SyntheticError: the street is too short.
    """
    if length_m < 30:
        raise SyntheticError(f'a street of {length_m} m is too short: at least 30 m')
    rng = np.random.default_rng(seed)
    b = WorldBuilder(atlas or standard_atlas(), rng)
    _ground(b, (length_m / 2, 0.0), length_m + 200)
    street = _Street((0.0, 0.0), 0.0, length_m)
    _road(b, street, crossings=True)
    for side in (-1, 1):
        _pavement(b, street, side)
    spans = [(street, -1, 0.0, length_m), (street, 1, 0.0, length_m)]
    count = _houses(b, rng, spans, n_objects // 2)
    for along, turn in ((-9.0, 0.0), (length_m + 9.0, np.pi)):
        props.house(b, rng, street.pose(along, 0, turn), 24.0, 9.0, 3)
    lamps = _street_things(b, rng, [street], [-1, 1], max(0, n_objects - count - 2))
    _traffic(b, rng, street, n_moving)
    return b.build(_light(lighting or Lighting.day(float(rng.uniform(0.6, 1.2)), 0.75), lamps))


def make_loop_street(
    seed: int,
    *,
    n_objects: int = 60,
    length_m: float = 200.0,
    n_moving: int = 0,
    lighting: Lighting | None = None,
    atlas: TextureAtlas | None = None,
) -> World:
    """Four streets around a block of houses, for the closed path `trajectory.loop`.

    The path of the given length runs counterclockwise in the right lane, centred on the origin.

    Args:
        seed: everything random.
        n_objects: houses, cars, trees, lamps, columns and panels together.
        length_m: length of one round in the right lane, at least 120 m.
        n_moving: moving cars and people, in addition.
        lighting: light; a clear day by default.
        atlas: textures, `standard_atlas()` by default.

    Raises:
        SyntheticError: the loop is too short for houses inside.
    """
    length, width = (side - 2 * LANE_M for side in block_sides(length_m))
    rng = np.random.default_rng(seed)
    b = WorldBuilder(atlas or standard_atlas(), rng)
    _ground(b, (0.0, 0.0), length + width + 200)
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    streets = [
        _Street((x * length / 2, y * width / 2), k * np.pi / 2, width if k % 2 else length)
        for k, (x, y) in enumerate(corners)
    ]
    inside, outside = [], []
    for street, (x, y) in zip(streets, corners, strict=True):
        _road(b, street, crossings=True)
        centre = (x * length / 2, y * width / 2, -0.25)
        b.box(centre, (ROAD_M, ROAD_M, 0.5), Skin('asphalt', 7.0), casts_shadow=False)
        for side in (-1, 1):
            _pavement(b, street, side)
        inside.append((street, 1, _FRONT + 0.5, street.length - _FRONT - 0.5))
        outside.append((street, -1, -_FRONT, street.length + _FRONT))
    count = _houses(b, rng, [*inside, *outside], n_objects // 2)
    lamps = _street_things(b, rng, streets, [-1, 1], max(0, n_objects - count))
    _traffic(b, rng, streets[0], n_moving)
    return b.build(_light(lighting or Lighting.day(0.9, 0.85), lamps))


def _light(lighting: Lighting, lamps: list[tuple[float, float, float]]) -> Lighting:
    """Street lamps are lit where there is no sun."""
    if lighting.sun_direction is not None or lighting.lamps or sum(lighting.sky) > 0.3:
        return lighting
    lit = tuple(Lamp(position, (16.0, 13.0, 8.0)) for position in lamps)
    return dataclasses.replace(lighting, lamps=lit)


def _ground(b: WorldBuilder, centre: tuple[float, float], size: float) -> None:
    position = (*centre, -0.53)
    b.box(position, (size, size, 1.0), Skin('grass', 5.0), casts_shadow=False)


def _road(b: WorldBuilder, street: _Street, crossings: bool) -> None:
    length = street.length - ROAD_M
    middle = street.pose(street.length / 2, 0.0, z=-0.25)
    skin = Skin('road', ROAD_M, cells=1)
    b.box((0, 0, 0), (length, ROAD_M, 0.5), skin, pose=middle, casts_shadow=False)
    if not crossings:
        return
    for along in (ROAD_M / 2 + 2.5, street.length - ROAD_M / 2 - 2.5):
        pose = street.pose(along, 0.0, z=0.002)
        skin = Skin('crossing', None)
        b.box((0, 0, 0), (3.0, ROAD_M, 0.004), skin, pose=pose, casts_shadow=False)


def _pavement(b: WorldBuilder, street: _Street, side: int) -> None:
    """A strip between kerb and house fronts; those outside a block meet at the corners."""
    width = _FRONT - _KERB
    reach = street.length + (ROAD_M + 2 * width if side < 0 else -ROAD_M)
    pose = street.pose(street.length / 2, side * (_KERB + width / 2), z=_PAVEMENT_Z - 0.25)
    b.box((0, 0, 0), (reach, width, 0.5), Skin('paving', 3.2), pose=pose, casts_shadow=False)


def _houses(
    b: WorldBuilder, rng: Rng, spans: list[tuple[_Street, int, float, float]], count: int
) -> int:
    """Rows of houses along spans (street, side, from, to); returns how many were built."""
    total = sum(end - start for _, _, start, end in spans)
    typical = max(9.0, min(24.0, total / max(1, count)))
    built = 0
    for street, side, start, end in spans:
        along = start
        while end - along >= 6.0:
            axes = max(2, round(typical * rng.uniform(0.75, 1.25) / props.FLOOR_M))
            width = min(axes, int((end - along) / props.FLOOR_M)) * props.FLOOR_M
            setback = float(rng.choice([0.0, 0.0, 0.4, 0.8]))
            left, turn = side * (_FRONT + setback), -side * np.pi / 2
            pose = street.pose(along + width / 2, left, turn)
            props.house(b, rng, pose, width, 8.0, int(rng.integers(2, 5)))
            along += width + float(rng.choice([0.0, 0.0, 1.5]))
            built += 1
    return built


def _street_things(
    b: WorldBuilder, rng: Rng, streets: list[_Street], sides: list[int], count: int
) -> list[tuple[float, float, float]]:
    """Parked cars, trees, lamps, columns, bins and landmark panels; returns the lamps' bulbs."""
    lamps = []
    lengths = np.array([street.length - 2 * ROAD_M for street in streets])
    bounds = np.concatenate([[0.0], np.cumsum(lengths)])
    for index in range(count):
        spot = (index + rng.uniform(0.15, 0.85)) / count * bounds[-1]
        which = min(int(np.searchsorted(bounds, spot, side='right')) - 1, len(streets) - 1)
        street, along = streets[which], float(spot - bounds[which]) + ROAD_M
        side = sides[index % len(sides)]
        kind = index % 6
        kerbside = side * (_KERB + 0.55)
        if kind in (0, 3):
            left = side * (_KERB - 0.95 if side > 0 else _KERB + 1.6)
            z = 0.0 if side > 0 else _PAVEMENT_Z
            props.car(b, rng, street.pose(along, left, np.pi * (side > 0), z))
        elif kind == 1:
            props.tree(b, rng, street.pose(along, kerbside, z=_PAVEMENT_Z))
        elif kind == 2:
            turn = -side * np.pi / 2
            lamps.append(props.street_lamp(b, street.pose(along, kerbside, turn, _PAVEMENT_Z)))
        elif kind == 4:
            thing = props.kiosk_column if rng.random() < 0.4 else props.bin_or_box
            thing(b, rng, street.pose(along, side * (_KERB + 1.3), rng.uniform(0, 6), _PAVEMENT_Z))
        else:
            _landmark_post(b, street, along, side)
    return lamps


def _landmark_post(b: WorldBuilder, street: _Street, along: float, side: int) -> None:
    """A panel on a post at the kerb, turned towards those who come along the street."""
    post = street.pose(along, side * (_KERB + 0.8))
    skin = Skin('metal', 1.0, (0.4, 0.4, 0.42))
    b.cylinder((0, 0, 1.35), (0.1, 0.1, 2.7), skin, pose=post)
    yaw = street.yaw + np.pi + side * np.deg2rad(25.0)
    position = post[:3, 3] + [0.12 * np.cos(yaw), 0.12 * np.sin(yaw), 2.2]
    b.landmark(b.next_class(), position, float(yaw), (1.0, 1.0))


def _traffic(b: WorldBuilder, rng: Rng, street: _Street, count: int) -> None:
    """Cars and people that go up and down the street."""
    heading = np.array([np.cos(street.yaw), np.sin(street.yaw), 0.0])
    for index in range(count):
        along = street.length * (0.25 + 0.5 * (index + rng.random()) / count)
        is_car = index % 2 == 0
        reach = 0.22 * street.length if is_car else 4.0
        vector = reach * heading
        motion = b.move(
            Motion(
                MotionKind.OSCILLATE,
                vector=(float(vector[0]), float(vector[1]), 0.0),
                period_s=float(rng.uniform(22, 34)),
                phase_rad=float(rng.uniform(0, 6)),
            )
        )
        if is_car:
            props.car(b, rng, street.pose(along, LANE_M, np.pi), motion)
        else:
            side = int(rng.choice([-1, 1]))
            pose = street.pose(along, side * (_KERB + 1.9), 0.0, _PAVEMENT_Z)
            props.person(b, rng, pose, motion)
