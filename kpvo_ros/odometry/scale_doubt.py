"""What an uncertain unit makes of a position: the longer the way, the less is known.

The relative error of the unit is a first-order Gauss-Markov process over the way driven: errors of
one calibration last for ever, those of a floor that is measured again and again are forgotten
after some metres. A loop driven with one wrong unit closes all the same; one driven with a unit
that wandered does not. Both follow from

    cov(p) = sigma^2 integral integral exp(-|s - s'| / memory) dp dp'^T.
"""

from __future__ import annotations

import math

import numpy as np


class ScaleDoubt:
    """Accumulates the covariance of the position that comes from the unit alone.

    Args:
        memory_m: way over which an error of the unit lasts; infinite for a constant one.
    """

    def __init__(self, memory_m: float) -> None:
        self._memory_m = memory_m
        self._position: np.ndarray | None = None
        self._way = np.zeros(3)  # what was driven with the present error
        self._covariance = np.zeros((3, 3))

    def at(self, position: np.ndarray, relative_sigma: float) -> np.ndarray:
        """(3, 3) covariance in the axes of `position`.

        Args:
            position: (3,) newest position; the first one is known exactly.
            relative_sigma: of the unit, at present.
        """
        if self._position is not None:
            step = position - self._position
            cross = np.outer(step, self._way)
            self._covariance = self._covariance + relative_sigma**2 * (
                cross + cross.T + np.outer(step, step)
            )
            length = float(np.linalg.norm(step))
            self._way = self._way * math.exp(-length / self._memory_m) + step
        self._position = position
        return self._covariance
