"""Even coverage: strong keypoints everywhere instead of all of them on one poster."""

from __future__ import annotations

import numpy as np


def spread_evenly(
    xy: np.ndarray, score: np.ndarray, shape: tuple[int, ...], cell_px: int, count: int
) -> np.ndarray:
    """Choose up to `count` keypoints, the best of every cell first.

    Keypoints are ranked within their grid cell by score; all first ranks come before all second
    ranks, and within a rank the stronger comes first. (Round robin over cells.)

    Args:
        xy: (N, 2) pixels.
        score: (N,) higher is better.
        shape: image shape (H, W, ...).
        cell_px: side of a square cell.
        count: how many to keep.

    Returns:
        (M,) int64 indices, M = min(N, count), in order of preference.
    """
    columns = -(-shape[1] // cell_px)
    column_row = (xy // cell_px).astype(np.int64)
    cell = column_row[:, 1] * columns + column_row[:, 0]
    by_cell = np.lexsort((-score, cell))  # cells together, strongest first
    starts = np.r_[True, np.diff(cell[by_cell]) != 0]
    first_of_cell = np.maximum.accumulate(np.where(starts, np.arange(len(by_cell)), 0))
    rank = np.empty(len(xy), np.int64)
    rank[by_cell] = np.arange(len(by_cell)) - first_of_cell
    return np.lexsort((-score, rank))[:count]


def far_from(xy: np.ndarray, others_xy: np.ndarray, distance_px: float) -> np.ndarray:
    """(N,) bool: which of `xy` lie at least about `distance_px` from every one of `others_xy`.

    Works on a coarse occupancy grid: exact to one cell, and independent of how many there are.
    """
    if not len(xy) or not len(others_xy):
        return np.ones(len(xy), bool)
    low = np.minimum(xy.min(0), others_xy.min(0)) - 2 * distance_px
    size = np.ceil((np.maximum(xy.max(0), others_xy.max(0)) - low) / distance_px).astype(int) + 3
    taken = np.zeros(size, bool)
    cells = ((others_xy - low) / distance_px).astype(int)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            taken[cells[:, 0] + dx, cells[:, 1] + dy] = True
    own = ((xy - low) / distance_px).astype(int)
    return ~taken[own[:, 0], own[:, 1]]
