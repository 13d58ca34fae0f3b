"""Metres per map unit, by learned depths against the depths the map has measured itself.

Every keyframe gives one ratio: the median, over the points that are triangulated well, of the
learned depth over that of the map. A network errs over whole surfaces and whole rooms, so the
spread of the points says little; that of the keyframes says more, and what they have in common
does not average out at all (`bias_sigma`).
"""

from __future__ import annotations

from collections import deque
import math

import numpy as np

WINDOW = 30  # keyframes the ratio is taken over
MIN_KEYFRAMES = 2  # from which on it can be told whether they agree
MIN_POINTS = 20  # of a keyframe
_GAUSS = 1.4826  # standard deviations per median distance from the median


class DepthUnit:
    """The ratios of the last keyframes.

    Args:
        bias_sigma: relative standard deviation that the ratio is never better than.
    """

    def __init__(self, bias_sigma: float) -> None:
        self._bias_sigma = bias_sigma
        self.forget()

    def forget(self) -> None:
        """A new map begins; its unit is unknown again."""
        self._logs: deque[float] = deque(maxlen=WINDOW)

    def add(self, ratios: np.ndarray) -> bool:
        """Take the ratios (N,) of the points of a keyframe; whether there were enough."""
        if len(ratios) < MIN_POINTS:
            return False
        self._logs.append(float(np.median(np.log(ratios))))
        return True

    def stretch(self, factor: float) -> None:
        """The map was stretched: a unit of it is fewer metres now."""
        self._logs = deque((one - math.log(factor) for one in self._logs), maxlen=WINDOW)

    @property
    def metres(self) -> float | None:
        """Per map unit, None before the first keyframe."""
        return math.exp(float(np.median(self._logs))) if self._logs else None

    @property
    def is_firm(self) -> bool:
        """Whether enough keyframes have told."""
        return len(self._logs) >= MIN_KEYFRAMES

    @property
    def relative_sigma(self) -> float:
        """Standard deviation of `metres`; 1 as long as too few keyframes tell it."""
        if not self.is_firm:
            return 1.0
        logs = np.array(self._logs)
        spread = _GAUSS * float(np.median(np.abs(logs - np.median(logs))))
        return math.hypot(spread / math.sqrt(len(logs)), self._bias_sigma)
