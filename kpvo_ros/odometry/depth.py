"""Depth readings at keypoints, where they can be trusted."""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import ScaleConfig
from kpvo_ros.frontend.depth_map import LearnedDepth

_EDGE = 0.05  # relative spread in a 3x3 neighbourhood above which a reading is an edge
_LEARNED_EDGE = 0.3  # the same of a learned depth, whose pixels are larger and edges soft


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
    center, spread, _ = _around(depth_m, xy)
    with np.errstate(invalid='ignore'):
        good = (center >= config.min_depth_m) & (center <= config.max_depth_m)
        good &= spread < _EDGE * center
    return np.where(good, center, np.nan)


def read_learned(
    depth: LearnedDepth, ray: np.ndarray, config: ScaleConfig, bias_sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """Learned depth where points are seen, and how certain it is there.

    Args:
        depth: of the image.
        ray: (N, 2) where the points are seen, on the plane z = 1.
        config: range of believable depths.
        bias_sigma: relative standard deviation that no depth is better than.

    Returns:
        (N,) float64 metres, NaN on edges and where nothing is known, and (N,) relative standard
        deviations.
    """
    camera = depth.camera
    xy = ray * (camera.fx, camera.fy) + (camera.cx, camera.cy)
    inside = np.isfinite(xy).all(1) & camera.contains(xy)
    center, spread, pixel = _around(depth.depth_m, np.where(inside[:, None], xy, 0.0))
    with np.errstate(invalid='ignore'):
        good = inside & (center >= config.min_depth_m) & (center <= config.max_depth_m)
        good &= spread < _LEARNED_EDGE * center
        # Half a pixel off, the depth of a slanted surface is a quarter of the spread off.
        sigma = np.sqrt(depth.sigma[pixel] ** 2 + bias_sigma**2 + (0.25 * spread / center) ** 2)
    return np.where(good, center, np.nan), sigma


def _around(
    depth_m: np.ndarray, xy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """(N,) nearest depth, (N,) spread of its 3x3 neighbourhood, and rows and columns."""
    height, width = depth_m.shape
    column = np.clip(np.rint(xy[:, 0]).astype(int), 1, width - 2)
    row = np.clip(np.rint(xy[:, 1]).astype(int), 1, height - 2)
    offsets = np.arange(-1, 2)
    patch = depth_m[row[:, None, None] + offsets[:, None], column[:, None, None] + offsets]
    with np.errstate(invalid='ignore'):
        spread = np.nanmax(np.where(np.isnan(patch), -np.inf, patch), axis=(1, 2)) - np.nanmin(
            np.where(np.isnan(patch), np.inf, patch), axis=(1, 2)
        )
    return patch[:, 1, 1].astype(np.float64), spread, (row, column)
