"""The way of the base as its wheels counted it, in one piece.

Wheel odometries come late, in gaps, and are set to zero by their drivers. What counts here is the
way between two instants, so a pose that nobody can have driven to is taken for a reset: the log
goes on from where it was.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from kpvo_ros.geometry import se3

REACH_NS = 100_000_000  # how far behind the image the newest pose may lag
MAX_GAP_NS = 200_000_000  # of poses, within which nothing is known of the way
_LENGTH = 2000  # poses kept: 20 s at 100 Hz
_REORDERED_NS = 1_000_000_000  # an older pose within is late, further back is another run
_FIRST_M_S, _FIRST_RAD_S = 30.0, 6.0  # speeds while none is known
_SPARE_M_S, _SPARE_RAD_S = 1.0, 2.0  # beyond twice the last speed
_SPARE_M, _SPARE_RAD = 0.05, 0.1


class PoseLog:
    """Poses over time, interpolated, and a little beyond the newest."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._stamps_ns: list[int] = []
        self._poses: list[np.ndarray] = []
        self._T_log_odom = np.eye(4)
        self._velocity: np.ndarray | None = None  # (6,) of the last step

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest pose, None without any."""
        return self._stamps_ns[-1] if self._stamps_ns else None

    def add(self, stamp_ns: int, T_odom_base: np.ndarray) -> None:
        """Take a (4, 4) pose; late ones are left out, a stamp long past begins a new log."""
        if self._stamps_ns and stamp_ns <= self._stamps_ns[-1]:
            if self._stamps_ns[-1] - stamp_ns <= _REORDERED_NS:
                return
            self._begin()
        T = self._T_log_odom @ T_odom_base
        if self._stamps_ns:
            dt_s = (stamp_ns - self._stamps_ns[-1]) * 1e-9
            step = se3.log_se3(se3.inverse(self._poses[-1]) @ T)
            if self._is_leap(step, dt_s):
                T = self._poses[-1] @ se3.exp_se3(self._ahead(stamp_ns))
                self._T_log_odom = T @ se3.inverse(T_odom_base)
            else:
                self._velocity = step / dt_s
        self._stamps_ns.append(stamp_ns)
        self._poses.append(T)
        if len(self._stamps_ns) > 2 * _LENGTH:
            del self._stamps_ns[:_LENGTH], self._poses[:_LENGTH]

    def step(self, from_ns: int, to_ns: int) -> np.ndarray | None:
        """(4, 4) motion between two instants in base axes of the first; None when not known."""
        T_from, T_to = self._at(from_ns), self._at(to_ns)
        return None if T_from is None or T_to is None else se3.inverse(T_from) @ T_to

    def _at(self, stamp_ns: int) -> np.ndarray | None:
        after = bisect_left(self._stamps_ns, stamp_ns)
        if after == len(self._stamps_ns):
            if after == 0 or stamp_ns - self._stamps_ns[-1] > REACH_NS:
                return None
            return self._poses[-1] @ se3.exp_se3(self._ahead(stamp_ns))
        if self._stamps_ns[after] == stamp_ns:
            return self._poses[after]
        if after == 0:
            return None
        before_ns, after_ns = self._stamps_ns[after - 1], self._stamps_ns[after]
        if after_ns - before_ns > MAX_GAP_NS:
            return None
        share = (stamp_ns - before_ns) / (after_ns - before_ns)
        return se3.interpolate(self._poses[after - 1], self._poses[after], share)

    def _ahead(self, stamp_ns: int) -> np.ndarray:
        """(6,) step from the newest pose on, at the last speed; none over a gap."""
        ahead_ns = stamp_ns - self._stamps_ns[-1]
        if self._velocity is None or ahead_ns > MAX_GAP_NS:
            return np.zeros(6)
        return self._velocity * ahead_ns * 1e-9

    def _is_leap(self, step: np.ndarray, dt_s: float) -> bool:
        """Whether no base can have made the step."""
        way, turn = float(np.linalg.norm(step[:3])), float(np.linalg.norm(step[3:]))
        if self._velocity is None:
            return way > _FIRST_M_S * dt_s + _SPARE_M or turn > _FIRST_RAD_S * dt_s + _SPARE_RAD
        speed = 2.0 * float(np.linalg.norm(self._velocity[:3])) + _SPARE_M_S
        rate = 2.0 * float(np.linalg.norm(self._velocity[3:])) + _SPARE_RAD_S
        return way > speed * dt_s + _SPARE_M or turn > rate * dt_s + _SPARE_RAD
