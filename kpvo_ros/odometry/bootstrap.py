"""The first two views: relative pose from points without any depth.

Essential matrix with two tests that a camera which only turned must fail, because a map made from
it would be noise. A plain rotation must not explain the sights: the essential matrix of a few
noisy ones in a corner of the image mixes up turning and shifting, and then finds parallax where
there is none. And the median angle between rays after the rotation is taken out must suffice.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import KeyframeConfig
from kpvo_ros.geometry import solve
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.odometry.tracking import to_ideal_pixels

MIN_SIGHTS = 40  # fewer tracks than this and the essential matrix is guesswork
MIN_SUPPORT = 0.75  # share of the tracks that must obey it; pure noise reaches two thirds
MIN_TURN_ERROR_PX = 2.0  # median error that the best rotation must leave; tracks are half as bad


def relative_pose(
    sights: Sights, local_map: LocalMap, camera: Camera, config: KeyframeConfig, seed: int
) -> np.ndarray | None:
    """Pose of the first keyframe in the present camera, translation of length 1.

    Args:
        sights: present sights of points whose anchor is the first keyframe.
        local_map: the map that holds them.
        camera: intrinsics.
        config: keyframe parameters (the parallax).
        seed: of the robust solver.

    Returns:
        (4, 4) T_camera_keyframe, or None as long as the views do not suffice.
    """
    if len(sights) < MIN_SIGHTS:
        return None
    ray0 = local_map.ray[sights.point]
    if camera.fx * _turn_error_rad(ray0, sights.ray) < MIN_TURN_ERROR_PX:
        return None
    result = solve.estimate_essential(
        to_ideal_pixels(camera, ray0),
        to_ideal_pixels(camera, sights.ray),
        camera,
        camera,
        threshold_px=1.0,
        seed=seed,
    )
    if result is None or result.count < MIN_SUPPORT * len(sights):
        return None
    parallax = _parallax_rad(ray0, sights.ray, result.T_1_0[:3, :3])[result.inliers]
    if np.rad2deg(np.median(parallax)) < config.bootstrap_parallax_deg:
        return None
    return result.T_1_0


def _turn_error_rad(ray0: np.ndarray, ray1: np.ndarray) -> float:
    """Median angle between the rays that the best rotation leaves."""
    usable = np.isfinite(ray1).all(1)  # what the lens cannot show is NaN
    ray0, ray1 = ray0[usable], ray1[usable]
    if not len(ray1):
        return 0.0
    agrees = np.ones(len(ray0), bool)
    for _ in range(5):  # least squares over the better half: false tracks must not pull
        error = _parallax_rad(ray0, ray1, _best_rotation(ray0[agrees], ray1[agrees]))
        agrees = error <= np.median(error)
    return float(np.median(error))


def _best_rotation(ray0: np.ndarray, ray1: np.ndarray) -> np.ndarray:
    """Kabsch 1976; defined for any rays, also for a degenerate heap of them."""
    U, _, Vt = np.linalg.svd(_directions(ray1).T @ _directions(ray0))
    U[:, 2] *= np.linalg.det(U @ Vt)
    return U @ Vt


def _parallax_rad(ray0: np.ndarray, ray1: np.ndarray, R_1_0: np.ndarray) -> np.ndarray:
    a, b = _directions(ray0) @ R_1_0.T, _directions(ray1)
    cross = np.linalg.norm(np.cross(a, b), axis=1)
    return np.arctan2(cross, np.einsum('ni,ni->n', a, b))


def _directions(ray: np.ndarray) -> np.ndarray:
    """(N, 3) unit vectors of (N, 2) coordinates on the plane z = 1."""
    ray = np.concatenate([ray, np.ones((len(ray), 1))], 1)
    return ray / np.linalg.norm(ray, axis=1, keepdims=True)
