"""Depth readings at keypoints, where they can be trusted."""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import ScaleConfig

_EDGE = 0.05  # relative spread in a 3x3 neighbourhood above which a reading is an edge


def read_depth(depth_m: np.ndarray | None, xy: np.ndarray, config: ScaleConfig) -> np.ndarray:
    """Depth at pixels; a reading on an edge belongs to either side and is refused.

    Args:
        depth_m: (H, W) float32 metres, NaN where unknown; None without a sensor.
        xy: (N, 2) pixels.
        config: range of believable depths.

    Returns:
        (N,) float64 metres, NaN where there is no trustworthy reading.
    """
    if depth_m is None or not len(xy):
        return np.full(len(xy), np.nan)
    height, width = depth_m.shape
    column = np.clip(np.rint(xy[:, 0]).astype(int), 1, width - 2)
    row = np.clip(np.rint(xy[:, 1]).astype(int), 1, height - 2)
    offsets = np.arange(-1, 2)
    patch = depth_m[row[:, None, None] + offsets[:, None], column[:, None, None] + offsets]
    center = patch[:, 1, 1].astype(np.float64)
    with np.errstate(invalid='ignore'):
        spread = np.nanmax(np.where(np.isnan(patch), -np.inf, patch), axis=(1, 2)) - np.nanmin(
            np.where(np.isnan(patch), np.inf, patch), axis=(1, 2)
        )
        good = (center >= config.min_depth_m) & (center <= config.max_depth_m)
        good &= spread < _EDGE * center
    return np.where(good, center, np.nan)
