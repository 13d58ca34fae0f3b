"""Plane curves a camera can follow: a straight line, a spline, a lap around a block.

A curve is sampled densely by arc length. Heading is continuous everywhere; on the lap the
curvature is continuous too (corners are clothoid, arc, clothoid), so nothing turns with a jerk.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from scipy.interpolate import CubicSpline

from kpvo_ros.errors import SyntheticError

_STEP_M = 0.01
_CORNER_RADIUS_M = 6.5
_CORNER_RAMP_M = 5.0  # over which the curvature rises and falls
_SHORTEST_LAP_M = 120.0


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A curve in the ground plane.

    Attributes:
        distance: (M,) metres along it, from 0.
        xy: (M, 2) metres.
        heading: (M,) radians, unwrapped.
        closed: whether the end is the start.
    """

    distance: np.ndarray
    xy: np.ndarray
    heading: np.ndarray
    closed: bool

    @property
    def length_m(self) -> float:
        """Length of the curve."""
        return float(self.distance[-1])

    @property
    def curvature(self) -> np.ndarray:
        """(M,) radians per metre, positive to the left."""
        if self.length_m == 0:
            return np.zeros_like(self.heading)
        return np.gradient(self.heading, self.distance)

    def at(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, 2) and headings (N,) at (N,) metres along the curve."""
        x = np.interp(distance, self.distance, self.xy[:, 0])
        y = np.interp(distance, self.distance, self.xy[:, 1])
        return np.stack([x, y], axis=-1), np.interp(distance, self.distance, self.heading)


def line(start: tuple[float, float], heading_rad: float, length_m: float) -> Curve:
    """A straight line; length 0 is a point with a heading."""
    distance = np.linspace(0.0, length_m, max(2, round(length_m / _STEP_M)))
    direction = np.array([np.cos(heading_rad), np.sin(heading_rad)])
    xy = np.asarray(start, dtype=np.float64) + distance[:, None] * direction
    return Curve(distance, xy, np.full(len(distance), heading_rad), closed=False)


def spline(points: npt.ArrayLike, closed: bool) -> Curve:
    """A cubic spline through points (K, 2).

    Raises:
        SyntheticError: fewer than three different points.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(np.unique(points, axis=0)) < 3:
        raise SyntheticError(f'a spline needs three different points (K, 2), got {points.shape}')
    if closed:
        points = np.concatenate([points, points[:1]])
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    curve = CubicSpline(knots, points, bc_type='periodic' if closed else 'natural')
    s = np.linspace(0.0, knots[-1], max(200, round(knots[-1] / _STEP_M)))
    xy, velocity = curve(s), curve(s, 1)
    distance = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    heading = np.unwrap(np.arctan2(velocity[:, 1], velocity[:, 0]))
    return Curve(distance, xy, heading, closed)


def lap(length_m: float) -> Curve:
    """A counterclockwise lap around a block centred on the origin; see `block_sides`.

    It starts in the middle of the side towards -y, heading along +x.

    Raises:
        SyntheticError: the lap is too short for a block.
    """
    side, depth = block_sides(length_m)
    bend, cut, arc = _corner()
    straights = [side / 2 - cut, depth - 2 * cut, side - 2 * cut, depth - 2 * cut, side / 2 - cut]
    knots, values, position = [0.0], [0.0], 0.0
    for index, straight in enumerate(straights):
        position += straight
        if index < 4:
            knots += list(position + bend[:, 0])
            values += list(bend[:, 1])
            position += arc
    distance = np.linspace(0.0, length_m, round(length_m / _STEP_M) + 1)
    curvature = np.interp(distance, [*knots, length_m], [*values, 0.0])
    heading, xy = _integrate(distance, curvature)
    share = (distance / length_m)[:, None]  # spread the tiny rest so that the lap closes exactly
    heading += (2 * np.pi - heading[-1]) * share[:, 0]
    xy = xy - share * xy[-1] + [0.0, -depth / 2]
    return Curve(distance, xy, heading, closed=True)


def block_sides(length_m: float) -> tuple[float, float]:
    """Sides (x, y) of the rectangle whose outline with rounded corners is `length_m` long.

    Raises:
        SyntheticError: it would leave no room for houses inside.
    """
    if not length_m >= _SHORTEST_LAP_M:
        raise SyntheticError(
            f'a loop of {length_m} m is too short for a block: at least {_SHORTEST_LAP_M:g} m'
        )
    _, cut, arc = _corner()
    half = (length_m + 4 * (2 * cut - arc)) / 2
    return 0.6 * half, 0.4 * half


def _corner() -> tuple[np.ndarray, float, float]:
    """A left turn by 90 degrees.

    Returns:
        (4, 2) distance and curvature of its knots, how much it cuts off each straight line, and
        its own length.
    """
    peak = 1 / _CORNER_RADIUS_M
    plateau = np.pi / 2 / peak - _CORNER_RAMP_M
    arc = plateau + 2 * _CORNER_RAMP_M
    knots = np.array([0.0, _CORNER_RAMP_M, _CORNER_RAMP_M + plateau, arc])
    bend = np.stack([knots, [0.0, peak, peak, 0.0]], axis=-1)
    distance = np.linspace(0.0, arc, 4001)
    _, xy = _integrate(distance, np.interp(distance, bend[:, 0], bend[:, 1]))
    return bend, float(xy[-1, 0]), float(arc)


def _integrate(distance: np.ndarray, curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Heading (M,) and positions (M, 2) of a curve that starts at the origin along +x."""
    step = np.diff(distance)
    heading = np.concatenate([[0.0], np.cumsum(0.5 * (curvature[1:] + curvature[:-1]) * step)])
    middle = 0.5 * (heading[1:] + heading[:-1])
    moves = np.stack([np.cos(middle), np.sin(middle)], axis=-1) * step[:, None]
    return heading, np.concatenate([[[0.0, 0.0]], np.cumsum(moves, axis=0)])
