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
    weight = (distance < MAX_REACH) / (sigma[near] ** 2 + (0.01 * rho[near]) ** 2)
    total = weight.sum(1, keepdims=True)
    share = weight / total
    middle = np.einsum('nk,nkc->nc', share, ray[near])
    offset = ray[near] - middle[:, None]
    height = rho[near] - (share * rho[near]).sum(1, keepdims=True)
    spread = np.einsum('nk,nkc,nkd->ncd', share, offset, offset)
    lean = np.einsum('nk,nkc,nk->nc', share, offset, height)
    is_wide = np.linalg.eigvalsh(spread)[:, 0] > MIN_SPREAD**2
    spread[~is_wide] = np.eye(2)
    tilt = np.linalg.solve(spread, lean[..., None])[..., 0]
    off = height - np.einsum('nkc,nc->nk', offset, tilt)
    scatter = np.sqrt((share * off**2).sum(1)) / rho
    is_plane = is_wide & (scatter < MAX_SCATTER)
    is_plane &= np.linalg.norm(tilt, axis=1) < MAX_TILT * rho
    return np.where(is_plane[:, None], tilt, 0.0)
