"""Which way the surface around a point is tilted, from the depths of its neighbours.

On a plane the inverse depth is a linear function of the image, so the tilt of a surface is the
slope of a line fitted to the inverse depths of the points around, seen from the same keyframe. A
patch of a floor, bent without it, fits wherever its lines happen to cross, pixels off.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from kpvo_ros.odometry.local_map import LocalMap

NEIGHBOURS = 10  # points that a plane is fitted to
MAX_REACH = 0.2  # on the plane z = 1, how far they may be
MIN_SPREAD = 0.01  # the same, standard deviation they need in both directions
MAX_SCATTER = 0.02  # relative, of their inverse depths about the plane; else it is none
MAX_TILT = 6.0  # relative change of inverse depth per unit of the image; steeper is an edge


def measure_tilt(local_map: LocalMap, keyframes: np.ndarray) -> None:
    """Give the points of some keyframes the tilt of the surface they lie on.

    Points without a depth, or whose neighbours do not lie on a plane, face their keyframe.

    Args:
        local_map: the map; `tilt` is replaced.
        keyframes: (K,) rows.
    """
    for row in keyframes:
        point = np.flatnonzero((local_map.anchor == row) & local_map.has_depth)
        if len(point) >= NEIGHBOURS:
            sigma = np.sqrt(local_map.variance[point])
            tilt = tilt_of(local_map.ray[point], local_map.rho[point], sigma)
            local_map.tilt[point] = tilt


def tilt_of(ray: np.ndarray, rho: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Tilt at each of the points of one view.

    Args:
        ray: (N, 2) on the plane z = 1, N >= NEIGHBOURS.
        rho: (N,) inverse depths.
        sigma: (N,) standard deviations of them.

    Returns:
        (N, 2) d rho / d ray, zero where no plane fits.
    """
    distance, near = cKDTree(ray).query(ray, NEIGHBOURS)
    sigma2 = sigma**2 + (0.01 * rho) ** 2
    share = (distance < MAX_REACH) / sigma2[near]
    share /= share.sum(1, keepdims=True)
    x, y, height = (_off_mean(values[near], share) for values in (*ray.T, rho))
    xx, xy, yy, xh, yh = (
        (share * first * second).sum(1)
        for first, second in ((x, x), (x, y), (y, y), (x, height), (y, height))
    )
    determinant = xx * yy - xy**2
    smallest = (xx + yy - np.hypot(xx - yy, 2 * xy)) / 2  # variance across the narrow side
    is_plane = (smallest > MIN_SPREAD**2) & (determinant > 0)
    determinant = np.where(is_plane, determinant, 1.0)
    tilt = np.stack([yy * xh - xy * yh, xx * yh - xy * xh], axis=1) / determinant[:, None]
    off = height - tilt[:, :1] * x - tilt[:, 1:] * y
    is_plane &= (share * off**2).sum(1) < (MAX_SCATTER * rho) ** 2
    is_plane &= np.linalg.norm(tilt, axis=1) < MAX_TILT * rho
    return np.where(is_plane[:, None], tilt, 0.0)


def _off_mean(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(N, K) distances from their weighted means."""
    return values - (share * values).sum(1, keepdims=True)
