"""Pairs the distances of a wheel odometry with those of the visual map.

Wheels slip and vision drifts, so the scale is the ratio of summed distances over a window of
keyframe steps, weighted by length; its spread comes from the scatter of the single ratios.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from kpvo_ros.types import WheelOdometry

LOG_LENGTH = 1000  # wheel poses kept: 10 s at 100 Hz
WINDOW = 30  # keyframe steps the ratio is taken over
MIN_STEP_M = 0.02  # shorter steps are noise
MIN_WAY_M = 0.10  # no ratio before the wheels went this far
MAX_GAP_NS = 200_000_000  # no interpolation over longer holes in the wheel odometry


class WheelLog:
    """Recent wheel poses, and the steps seen by both odometries."""

    def __init__(self) -> None:
        self._stamps: deque[int] = deque(maxlen=LOG_LENGTH)
        self._positions: deque[np.ndarray] = deque(maxlen=LOG_LENGTH)
        self.forget_pairs()

    def forget_pairs(self) -> None:
        """The unit of the map changed in an unknown way."""
        self._steps: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, wheel: WheelOdometry) -> None:
        """Take a pose; one that goes back in time starts a new log."""
        if self._stamps and wheel.stamp_ns <= self._stamps[-1]:
            if wheel.stamp_ns == self._stamps[-1]:
                return
            self._stamps.clear()
            self._positions.clear()
            self._last = None
        self._stamps.append(wheel.stamp_ns)
        self._positions.append(wheel.T_odom_base[:3, 3].copy())

    def pair(self, stamp_ns: int, T_odom_camera: np.ndarray) -> str:
        """Add the step from the last keyframe to this one.

        Returns:
            Why there is no step, '' when there is one.
        """
        wheel = self._position_at(stamp_ns)
        if wheel is None:
            return 'no wheel odometry at the time of the image; check its topic and clock'
        camera, last = T_odom_camera[:3, 3].copy(), self._last
        if last is None:
            self._last = wheel, camera
            return ''
        way = float(np.linalg.norm(wheel - last[0]))
        if way < MIN_STEP_M:
            return ''
        self._last = wheel, camera
        self._steps.append((way, float(np.linalg.norm(camera - last[1]))))
        return ''

    def ratio(self) -> tuple[float | None, float]:
        """(metres per map unit, relative standard deviation); (None, 1.0) when unknown."""
        steps = np.array(self._steps).reshape(-1, 2)
        way, seen = steps.sum(0)
        if way < MIN_WAY_M or seen <= 0:
            return None, 1.0
        scatter = steps[:, 0] - way / seen * steps[:, 1]
        sigma = float(np.sqrt((scatter**2).sum())) / way
        return float(way / seen), max(sigma, 0.05 / np.sqrt(len(steps)))

    def stretch(self, factor: float, about: np.ndarray) -> None:
        """The map was stretched by `factor` about a point (3,) of it."""
        self._steps = deque(((w, s * factor) for w, s in self._steps), maxlen=WINDOW)
        if self._last is not None:
            wheel, camera = self._last
            self._last = wheel, about + factor * (camera - about)

    def move(self, T_new_old: np.ndarray) -> None:
        """The map lies elsewhere in its frame now; T_new_old is (4, 4)."""
        if self._last is not None:
            wheel, camera = self._last
            self._last = wheel, T_new_old[:3, :3] @ camera + T_new_old[:3, 3]

    def _position_at(self, stamp_ns: int) -> np.ndarray | None:
        stamps = np.array(self._stamps)
        after = int(np.searchsorted(stamps, stamp_ns))
        if after < len(stamps) and stamps[after] == stamp_ns:
            return self._positions[after]
        if not 0 < after < len(stamps):
            # Wheel messages often lag the image a little: the newest one may stand in.
            late = after == len(stamps) and after > 0 and stamp_ns - stamps[-1] < MAX_GAP_NS // 4
            return self._positions[-1] if late else None
        gap = stamps[after] - stamps[after - 1]
        if gap > MAX_GAP_NS:
            return None
        share = (stamp_ns - stamps[after - 1]) / gap
        before = self._positions[after - 1]
        return before + share * (self._positions[after] - before)
