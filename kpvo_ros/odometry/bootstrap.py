"""The first two views: relative pose from points without any depth.

Essential matrix with a parallax test. The test is on the median angle between rays after the
rotation is taken out: a camera that only turned has none, and a map made from it would be noise.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import KeyframeConfig
from kpvo_ros.geometry import solve
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.odometry.tracking import to_ideal_pixels

MIN_SIGHTS = 40  # fewer tracks than this and the essential matrix is guesswork
MIN_SUPPORT = 0.6  # share of the tracks that must obey it


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


def _parallax_rad(ray0: np.ndarray, ray1: np.ndarray, R_1_0: np.ndarray) -> np.ndarray:
    ones = np.ones((len(ray0), 1))
    a = np.concatenate([ray0, ones], 1) @ R_1_0.T
    b = np.concatenate([ray1, ones], 1)
    cross = np.linalg.norm(np.cross(a, b), axis=1)
    return np.arctan2(cross, np.einsum('ni,ni->n', a, b))
