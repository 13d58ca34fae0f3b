"""The first two views: how the camera moved, from points without any depth.

A camera that only turned must not start a map, which would be made of noise: the essential matrix
of noisy sights mixes up turning and shifting and then finds parallax where there is none. So the
best plain rotation is fitted first. When it explains the sights, the camera has turned. Otherwise
an essential matrix and, where a plane explains the sights as well, the motions that its homography
allows compete (model selection after Mur-Artal, ORB-SLAM, 2015): the essential matrix of one plane
has two solutions, and which is right is seen by where they put the points.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from kpvo_ros.config.runtime import KeyframeConfig
from kpvo_ros.geometry import se3, solve
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.odometry.tracking import to_ideal_pixels

MIN_SIGHTS = 40  # fewer tracks than this and the essential matrix is guesswork
MIN_SUPPORT = 0.75  # share of the tracks that must obey it; pure noise reaches two thirds
MIN_TURN_ERROR_PX = 2.0  # median error that the best rotation must leave; tracks are half as bad
PLANE_SHARE = 0.9  # of the inliers of the essential matrix, from which a plane is a rival
RIVAL_SHARE = 0.9  # support of the second-best motion, relative, that makes a plane ambiguous
MAX_TRANSFER_PX = 2.0  # error of a point that supports a motion


@dataclasses.dataclass(frozen=True)
class Turn:
    """The best plain rotation between two views.

    Attributes:
        R_1_0: (3, 3) rotation from the first view's axes to the second's.
        error_px: median distance of the sights from it, at the centre of the image.
        moved_px: median way of the sights in the image.
    """

    R_1_0: np.ndarray
    error_px: float
    moved_px: float


def turn_between(sights: Sights, local_map: LocalMap, camera: Camera) -> Turn:
    """How the camera has turned since the first keyframe, were it on the spot.

    Args:
        sights: present sights of points whose anchor is the first keyframe; not empty.
        local_map: the map that holds them.
        camera: intrinsics.
    """
    usable = np.isfinite(sights.ray).all(1)  # what the lens cannot show is NaN
    ray0, ray1 = local_map.ray[sights.point[usable]], sights.ray[usable]
    if not len(ray1):
        return Turn(np.eye(3), 0.0, 0.0)
    agrees = np.ones(len(ray0), bool)
    for _ in range(5):  # least squares over the better half: false tracks must not pull
        R_1_0 = _best_rotation(ray0[agrees], ray1[agrees])
        error = _parallax_rad(ray0, ray1, R_1_0)
        agrees = error <= np.median(error)
    moved = np.median(np.linalg.norm(ray1 - ray0, axis=1))
    return Turn(R_1_0, camera.fx * float(np.median(error)), camera.fx * float(moved))


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
    if turn_between(sights, local_map, camera).error_px < MIN_TURN_ERROR_PX:
        return None
    ray0 = local_map.ray[sights.point]
    xy0, xy1 = to_ideal_pixels(camera, ray0), to_ideal_pixels(camera, sights.ray)
    result = solve.estimate_essential(xy0, xy1, camera, camera, threshold_px=1.0, seed=seed)
    if result is None or result.count < MIN_SUPPORT * len(sights):
        return None
    T_1_0 = result.T_1_0
    plane = solve.estimate_homography(xy0, xy1, threshold_px=MAX_TRANSFER_PX, seed=seed)
    if plane is not None and plane.count >= PLANE_SHARE * result.count:
        chosen = _of_plane(plane.H_1_0, T_1_0, ray0, sights.ray, camera)
        if chosen is None:
            return None
        T_1_0 = chosen
    parallax = _parallax_rad(ray0, sights.ray, T_1_0[:3, :3])[result.inliers]
    if np.rad2deg(np.median(parallax)) < config.bootstrap_parallax_deg:
        return None
    return T_1_0


def _of_plane(
    H_1_0: np.ndarray, T_1_0: np.ndarray, ray0: np.ndarray, ray1: np.ndarray, camera: Camera
) -> np.ndarray | None:
    """The motion with most support among those of a plane and of the essential matrix.

    None when two that differ have about the same: more parallax will tell.
    """
    count, rotations, shifts, _ = cv2.decomposeHomographyMat(H_1_0, camera.K)
    rivals = [T_1_0]
    for R, t in zip(rotations[:count], shifts[:count], strict=True):
        length = float(np.linalg.norm(t))
        if length > 1e-9:
            rivals.append(se3.from_rt(R, t.ravel() / length))
    support = np.array([_support(T, ray0, ray1, camera) for T in rivals])
    best = int(support.argmax())
    for T, votes in zip(rivals, support, strict=True):
        differs = se3.rotation_angle_rad(T[:3, :3].T @ rivals[best][:3, :3]) > np.deg2rad(1.0)
        differs |= float(T[:3, 3] @ rivals[best][:3, 3]) < np.cos(np.deg2rad(15.0))
        if differs and votes > RIVAL_SHARE * support[best]:
            return None
    return rivals[best]


def _support(T_1_0: np.ndarray, ray0: np.ndarray, ray1: np.ndarray, camera: Camera) -> int:
    """How many points lie in front of both cameras and are seen where the motion puts them."""
    turned = np.c_[ray0, np.ones(len(ray0))] @ T_1_0[:3, :3].T
    shift = T_1_0[:3, 3]
    # ray1 x (turned + rho shift) = 0, solved for rho by least squares
    a = shift[:2] - ray1 * shift[2]
    c = turned[:, :2] - ray1 * turned[:, 2:]
    with np.errstate(invalid='ignore', divide='ignore'):
        rho = -np.einsum('ni,ni->n', a, c) / np.einsum('ni,ni->n', a, a)
        p = turned + rho[:, None] * shift
        error = camera.fx * np.linalg.norm(p[:, :2] / p[:, 2:] - ray1, axis=1)
    return int(((rho > 0) & (p[:, 2] > 0) & (error < MAX_TRANSFER_PX)).sum())


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
