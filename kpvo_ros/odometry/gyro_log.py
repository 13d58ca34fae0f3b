"""Rates of a gyro: how the base turned between two instants, and the bias learned at rest."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from kpvo_ros.geometry import se3

REACH_NS = 100_000_000  # how far behind the image the newest rate may lag
MAX_GAP_NS = 200_000_000  # of rates, within which nothing is known of the turn
_LENGTH = 4000  # rates kept: 20 s at 200 Hz
_REORDERED_NS = 1_000_000_000  # an older rate within is late, further back is another run
_MAX_BIAS_RAD_S = 0.2  # what turns faster is no gyro at rest
_FLOOR_RAD_S = 5e-4  # standard deviation of the best learned bias: it drifts with the warmth
_STILL_RAD = 2e-3  # turn that a resting camera does not notice


class GyroLog:
    """Rates over time.

    Args:
        bias_sigma_rad_s: standard deviation of a bias that was not learned yet.

    Attributes:
        bias_rad_s: (3,) learned.
        bias_sigma_rad_s: its standard deviation.
    """

    def __init__(self, bias_sigma_rad_s: float) -> None:
        self.bias_rad_s = np.zeros(3)
        self.bias_sigma_rad_s = bias_sigma_rad_s
        self._rest_ns = 0, 0  # from, to
        self._before_rest = self.bias_rad_s, bias_sigma_rad_s
        self._begin()

    def _begin(self) -> None:
        self._stamps_ns: list[int] = []
        self._rates: list[np.ndarray] = []

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest rate, None without any."""
        return self._stamps_ns[-1] if self._stamps_ns else None

    def add(self, stamp_ns: int, rate_rad_s: np.ndarray) -> None:
        """Take a rate (3,); late ones are left out, a stamp long past begins a new log."""
        if not np.isfinite(rate_rad_s).all():
            return
        if self._stamps_ns and stamp_ns <= self._stamps_ns[-1]:
            if self._stamps_ns[-1] - stamp_ns <= _REORDERED_NS:
                return
            self._begin()
        self._stamps_ns.append(stamp_ns)
        self._rates.append(np.asarray(rate_rad_s, np.float64))
        if len(self._stamps_ns) > 2 * _LENGTH:
            del self._stamps_ns[:_LENGTH], self._rates[:_LENGTH]

    def learn(self, from_ns: int, to_ns: int) -> None:
        """The base stood between two instants: what was measured then is bias and noise.

        Rests that follow upon each other are one: the longer it lasts, the less can a turn that
        the camera did not notice be taken for bias.
        """
        start_ns, end_ns = self._rest_ns
        if from_ns != end_ns:
            start_ns = from_ns
            self._before_rest = (
                self.bias_rad_s,
                float(np.hypot(self.bias_sigma_rad_s, _FLOOR_RAD_S)),
            )
        self._rest_ns = start_ns, to_ns
        rows = slice(bisect_right(self._stamps_ns, start_ns), bisect_right(self._stamps_ns, to_ns))
        rates = np.array(self._rates[rows]).reshape(-1, 3)
        if len(rates) < 2 or np.linalg.norm(rates.mean(0)) > _MAX_BIAS_RAD_S:
            return
        noise = float(rates.std(0).max()) / np.sqrt(len(rates))
        sigma = np.hypot(noise, _STILL_RAD / ((to_ns - start_ns) * 1e-9))
        before, sigma_before = self._before_rest
        share = sigma_before**2 / (sigma_before**2 + sigma**2)
        self.bias_rad_s = before + share * (rates.mean(0) - before)
        self.bias_sigma_rad_s = float(max(_FLOOR_RAD_S, np.sqrt(share) * sigma))

    def turn(self, from_ns: int, to_ns: int) -> np.ndarray | None:
        """(3, 3) rotation between two instants, without the bias; None when not known."""
        stamps = self._stamps_ns
        if not stamps or from_ns < stamps[0] or to_ns > stamps[-1] + REACH_NS:
            return None
        if to_ns <= from_ns:
            return np.eye(3)
        first = max(0, bisect_right(stamps, from_ns) - 1)
        last = min(len(stamps), bisect_left(stamps, to_ns) + 1)
        known = np.array(stamps[first:last])
        if len(known) > 1 and int(np.diff(known).max()) > MAX_GAP_NS:
            return None
        rates = np.array(self._rates[first:last]) - self.bias_rad_s
        inside = known[(known > from_ns) & (known < to_ns)]
        times = np.concatenate([[from_ns], inside, [to_ns]])
        at = np.stack([np.interp(times - from_ns, known - from_ns, axis) for axis in rates.T], 1)
        steps = 0.5 * (at[1:] + at[:-1]) * (np.diff(times) * 1e-9)[:, None]
        R = np.eye(3)
        for step in se3.exp_so3(steps):
            R = R @ step
        return R
