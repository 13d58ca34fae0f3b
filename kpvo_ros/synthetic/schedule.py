"""When a carrier is where on a curve: cruising, slowing down in bends, stopping on the way."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np
from scipy import ndimage

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.curves import Curve

_TICK_S = 0.002  # resolution of the speed profile


@dataclasses.dataclass(frozen=True)
class Stop:
    """A pause on the way.

    Attributes:
        at: where, as a share 0..1 of the way.
        hold_s: how long the camera does not move along the curve.
        turn_rad: how far it turns on the spot meanwhile; the heading stays turned afterwards, so
            give full turns unless the stop is at the end.
    """

    at: float
    hold_s: float
    turn_rad: float = 0.0


@dataclasses.dataclass(frozen=True)
class Carrier:
    """Who carries the camera.

    Attributes:
        speed_m_s: cruising speed.
        ramp_s: time to reach it.
        turn_rate_rad_s: the carrier slows down in bends that would turn it faster.
        height_m: of the camera above ground.
        pitch_rad: how far the camera looks down.
        bob_m: amplitude of the up and down, and to half of it sideways.
        sway_rad: amplitude of roll, pitch and yaw around the heading.
        rate_hz: main frequency of both.
    """

    speed_m_s: float
    ramp_s: float
    turn_rate_rad_s: float
    height_m: float
    pitch_rad: float
    bob_m: float
    sway_rad: float
    rate_hz: float


HAND = Carrier(0.9, 1.0, 0.7, 1.45, 0.05, 0.020, 0.020, 1.8)
ROBOT = Carrier(1.3, 1.0, 0.7, 0.60, 0.0, 0.002, 0.004, 4.0)
CAR = Carrier(6.0, 4.0, 0.55, 1.50, 0.02, 0.008, 0.004, 2.5)


def schedule(
    curve: Curve, carrier: Carrier, stops: Sequence[Stop]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Time, distance, share of cruising speed, and turn on the spot at every tick: (M,) each.

    The carrier's own clock, in which it always cruises, is slowed to a halt around stops.
    """
    speed = carrier.speed_m_s / np.maximum(
        1.0, carrier.speed_m_s * np.abs(curve.curvature) / carrier.turn_rate_rad_s
    )
    speed = _smooth(speed, curve, reach_m=4.0 * carrier.speed_m_s / 6.0)
    pace = np.diff(curve.distance) / (0.5 * (speed[1:] + speed[:-1]))
    cruise = np.concatenate([[0.0], np.cumsum(pace)])  # own clock at each point of the curve
    gate, turn = _gates(curve, carrier, stops, cruise)
    own = np.concatenate([[0.0], np.cumsum(0.5 * (gate[1:] + gate[:-1]) * _TICK_S)])
    distance = np.interp(own, cruise, curve.distance)
    return np.arange(len(gate)) * _TICK_S, distance, gate, turn


def ease(x: np.ndarray) -> np.ndarray:
    """From 0 to 1 with zero slope and curvature at both ends."""
    return x**3 * (10 - 15 * x + 6 * x**2)


def _gates(
    curve: Curve, carrier: Carrier, stops: Sequence[Stop], cruise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of cruising speed and turn on the spot at every tick."""
    rise = ease(np.arange(0, carrier.ramp_s, _TICK_S) / carrier.ramp_s)
    pieces, turns, turned, clock = [], [np.zeros(1)], 0.0, 0.0
    moves = curve.length_m > 0
    last = Stop(1.0, 0.0)
    for stop in (*stops, last) if moves else stops:
        own = float(np.interp(stop.at * curve.length_m, curve.distance, cruise))
        straight = own - clock - carrier.ramp_s  # both ramps together take half of two ramps
        if moves and straight < -1e-6:
            raise SyntheticError(
                f'stop at {stop.at:g} of the way is too close to the one before: '
                f'{-straight:.1f} s of cruising are missing'
            )
        cruising = np.ones(max(0, round(straight / _TICK_S)))
        hold = np.zeros(round(stop.hold_s / _TICK_S))
        moving = [rise, cruising, rise[::-1]] if moves else []
        pieces += [*moving, hold]
        turns.append(np.full(sum(map(len, moving)), turned))
        turns.append(turned + stop.turn_rad * ease(np.linspace(0, 1, len(hold))))
        turned += stop.turn_rad
        clock = own
    gate = np.concatenate([*pieces, [0.0]])
    turn = np.concatenate(turns)
    return gate, turn[: len(gate)]


def _smooth(speed: np.ndarray, curve: Curve, reach_m: float) -> np.ndarray:
    """Brake before bends: no faster than the limit anywhere, changing over some `reach_m`.

    Three running means of the lowest limit within their common reach.
    """
    if curve.length_m == 0:
        return speed
    mode = 'wrap' if curve.closed else 'nearest'
    width = max(1, round(reach_m / (curve.length_m / len(speed))))
    speed = ndimage.minimum_filter1d(speed, 3 * width, mode=mode)
    for _ in range(3):
        speed = ndimage.uniform_filter1d(speed, width, mode=mode)
    return speed
