"""Pictures of one scene under two exposures made alike.

Lucas-Kanade takes a point to keep its brightness. Auto exposure breaks that promise: a step of
10 % triples the error of a track, one of 30 % ends nine tracks of ten. What the camera did is seen
in the histograms (be it gain, offset, gamma or saturation), and a table of 256 numbers undoes it.
"""

from __future__ import annotations

import cv2
import numpy as np

_LEVELS = np.arange(256)
_ALIKE = 2.0  # mean change of brightness, grey levels, below which rounding would cost more
_MIN_SPREAD = 1.0  # grey levels of standard deviation below which there is nothing to scale


def match_brightness(gray0: np.ndarray, gray1: np.ndarray) -> np.ndarray:
    """Picture 0 with the histogram of picture 1.

    Args:
        gray0: (H, W) uint8.
        gray1: (H, W) uint8 that shows much the same.

    Returns:
        (H, W) uint8; `gray0` itself when the two are about equally bright.
    """
    share0, share1 = _histogram(gray0), _histogram(gray1)
    table = np.interp(share0.cumsum(), share1.cumsum(), _LEVELS)
    if share0 @ np.abs(table - _LEVELS) < _ALIKE:
        return gray0
    return cv2.LUT(gray0, np.rint(table).astype(np.uint8))


def match_values(values0: np.ndarray, values1: np.ndarray) -> np.ndarray:
    """The table that gives pixels of picture 0 mean and spread of the same things in picture 1.

    Args:
        values0: (N,) uint8 pixels of picture 0.
        values1: (N,) uint8 the same points in picture 1, as far as one knows.

    Returns:
        (256,) uint8 for `cv2.LUT`.
    """
    mean0, mean1 = float(values0.mean()), float(values1.mean())
    spread0, spread1 = float(values0.std()), float(values1.std())
    gain = spread1 / spread0 if min(spread0, spread1) > _MIN_SPREAD else 1.0
    table = gain * (_LEVELS - mean0) + mean1
    change = abs(mean1 - mean0) + abs(gain - 1.0) * spread0
    if change < _ALIKE:
        table = _LEVELS.astype(float)
    return np.clip(np.rint(table), 0, 255).astype(np.uint8)


def _histogram(gray: np.ndarray) -> np.ndarray:
    """(256,) share of the pixels at each level; one pixel of four will do."""
    counts = cv2.calcHist([np.ascontiguousarray(gray[::2, ::2])], [0], None, [256], [0, 256])
    return counts[:, 0] / counts.sum()
