"""How sights and readings become depths: inverse depth along the ray of first sight.

A point without depth, one with a noisy reading and one triangulated to the millimetre are the same
thing with different variances, and every further sight is one scalar Kalman update (Civera 2008).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kpvo_ros.odometry.local_map import LocalMap, Sights, homogeneous

MIN_BASELINE = 0.3  # parallax of the typical point that a new depth needs, of the one asked for


def triangulate(
    local_map: LocalMap,
    sights: Sights,
    T_odom_camera: np.ndarray,
    sigma_ray: float,
    min_parallax_rad: float,
) -> None:
    """Fold sights from a known pose into the depths of their points.

    Points with depth get a Kalman update along their ray; points without get a depth when
    the parallax suffices and the two rays agree.

    Args:
        local_map: the map.
        sights: what was seen.
        T_odom_camera: (4, 4) pose of the image.
        sigma_ray: standard deviation of a sight on the plane z = 1 (pixels / focal length).
        min_parallax_rad: angle between the rays a new point needs.
    """
    turned, shift = local_map.rays_seen_from(sights.point, T_odom_camera)
    known = local_map.has_depth[sights.point]
    _update(local_map, sights[known], turned[known], shift[known], sigma_ray)
    fresh = ~known
    # A depth from a baseline that gives the other points no parallax is a false track.
    baseline = np.linalg.norm(shift, axis=1) * local_map.typical_rho(sights.point)
    fresh &= (baseline > MIN_BASELINE * min_parallax_rad) | ~local_map.has_depth.any()
    _begin(local_map, sights[fresh], turned[fresh], shift[fresh], sigma_ray, min_parallax_rad)


def fuse_readings(
    local_map: LocalMap,
    sights: Sights,
    depth: np.ndarray,
    T_odom_camera: np.ndarray,
    relative_sigma: npt.ArrayLike,
) -> None:
    """Fold depth readings into the depths of the points seen there.

    Args:
        local_map: the map.
        sights: what was seen.
        depth: (N,) depth along the optical axis of this image, NaN where unknown.
        T_odom_camera: (4, 4) pose of the image.
        relative_sigma: standard deviation of a reading divided by it, (N,) or one for all.
    """
    turned, shift = local_map.rays_seen_from(sights.point, T_odom_camera)
    ahead = depth - shift[:, 2]
    with np.errstate(invalid='ignore', divide='ignore'):
        rho = turned[:, 2] / ahead
        variance = (np.asarray(relative_sigma) * depth * rho / ahead) ** 2
    point, usable = sights.point, np.isfinite(rho) & (rho > 0) & (ahead > 0)
    old_rho, old_variance = local_map.rho[point], local_map.variance[point]
    # A reading that contradicts a well-known point is an edge or a reflection, not news.
    gate = (rho - old_rho) ** 2 < 9.0 * (variance + old_variance)
    usable &= gate | ~np.isfinite(old_variance)
    point = point[usable]
    weight_old = np.where(np.isfinite(old_variance), 1.0 / old_variance, 0.0)[usable]
    weight_new = 1.0 / variance[usable]
    total = weight_old + weight_new
    local_map.rho[point] = (weight_old * old_rho[usable] + weight_new * rho[usable]) / total
    local_map.variance[point] = 1.0 / total
    weight_old = local_map.sensor_information[point]
    total = weight_old + weight_new
    local_map.sensor_rho[point] = (
        weight_old * local_map.sensor_rho[point] + weight_new * rho[usable]
    ) / total
    local_map.sensor_information[point] = total


def _update(
    local_map: LocalMap, sights: Sights, turned: np.ndarray, shift: np.ndarray, sigma_ray: float
) -> None:
    point = sights.point
    p = turned + local_map.rho[point, None] * shift
    predicted = p[:, :2] / p[:, 2:]
    slope = (shift[:, :2] - predicted * shift[:, 2:]) / p[:, 2:]  # d predicted / d rho
    residual = sights.ray - predicted
    steep = np.einsum('ni,ni->n', slope, slope)
    information = steep / sigma_ray**2
    # Only the residual along the epipolar line speaks of depth; 3 sigma of both guard it.
    along = np.einsum('ni,ni->n', slope, residual)
    allowed = 9.0 * steep * (sigma_ray**2 + steep * local_map.variance[point])
    good = (p[:, 2] > 0) & (along**2 <= allowed)
    variance = 1.0 / (1.0 / local_map.variance[point] + information)
    rho = local_map.rho[point] + variance * along / sigma_ray**2
    good &= rho > 0
    local_map.rho[point[good]] = rho[good]
    local_map.variance[point[good]] = variance[good]


def _begin(
    local_map: LocalMap,
    sights: Sights,
    turned: np.ndarray,
    shift: np.ndarray,
    sigma_ray: float,
    min_parallax_rad: float,
) -> None:
    # ray x (turned + rho shift) = 0, solved for rho by least squares
    a = shift[:, :2] - sights.ray * shift[:, 2:]
    c = turned[:, :2] - sights.ray * turned[:, 2:]
    steep = np.einsum('ni,ni->n', a, a)
    with np.errstate(invalid='ignore', divide='ignore'):
        rho = -np.einsum('ni,ni->n', a, c) / steep
        p = turned + rho[:, None] * shift
        error = np.linalg.norm(p[:, :2] / p[:, 2:] - sights.ray, axis=1)
        slope2 = steep / p[:, 2] ** 2
    seen = homogeneous(sights.ray)
    good = _angle(turned, seen) >= min_parallax_rad
    good &= (rho > 0) & (p[:, 2] > 0) & (error < 3.0 * sigma_ray)
    point = sights.point[good]
    local_map.rho[point] = rho[good]
    local_map.variance[point] = sigma_ray**2 / slope2[good]


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cross = np.linalg.norm(np.cross(a, b), axis=1)
    return np.arctan2(cross, np.einsum('ni,ni->n', a, b))
