"""Robust solvers: absolute pose, relative pose and homography from pairs with outliers.

The minimal solvers and the sample consensus are PoseLib's (Larsson and contributors; locally
optimised RANSAC). Pixels are ideal pinhole pixels (`Camera.undistort` first), unless
`estimate_pnp` is told that they are those of the picture; rows with NaN are outliers. The same
input and seed give the same answer. Too few pairs, or none that agree, is an ordinary bad frame:
the answer is None. A result is never made up.

`refine_pnp` and the fits to points are offered here too, so a caller needs one module.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import poselib

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.camera import Camera, DistortionModel
from kpvo_ros.geometry.fit import PlaneFit, fit_plane_ransac, umeyama
from kpvo_ros.geometry.refine import (
    MINIMAL_PNP,
    Loss,
    PnpResult,
    check_pairs,
    refine_pnp,
    summarize_pnp,
    usable_pairs,
)
from kpvo_ros.geometry.se3 import from_rt, nearest_rotation

__all__ = [
    'HomographyResult',
    'Loss',
    'PlaneFit',
    'PnpResult',
    'RelativePoseResult',
    'estimate_essential',
    'estimate_homography',
    'estimate_pnp',
    'fit_plane_ransac',
    'refine_pnp',
    'umeyama',
]

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_MINIMAL_ESSENTIAL = 5
_MINIMAL_HOMOGRAPHY = 4


@dataclasses.dataclass(frozen=True)
class RelativePoseResult:
    """Motion between two views up to scale.

    Attributes:
        T_1_0: (4, 4) pose of camera 0 in camera 1; its translation has length 1. Without
            parallax (pure rotation) the direction of the translation means nothing.
        inliers: (N,) bool.
    """

    T_1_0: Array
    inliers: Mask

    @property
    def count(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


@dataclasses.dataclass(frozen=True)
class HomographyResult:
    """Plane to plane map between two views.

    Attributes:
        H_1_0: (3, 3), last entry 1, maps pixels of view 0 to view 1.
        inliers: (N,) bool.
    """

    H_1_0: Array
    inliers: Mask

    @property
    def count(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


def estimate_pnp(
    xy: npt.ArrayLike,
    points: npt.ArrayLike,
    camera: Camera,
    *,
    threshold_px: float = 3.0,
    seed: int = 0,
    T_camera_world: npt.ArrayLike | None = None,
    max_iterations: int = 1000,
    as_stored: bool = False,
) -> PnpResult | None:
    """Pose of a camera from points and pixels, most of which may be wrong.

    Args:
        xy: (N, 2) ideal pinhole pixels, or see `as_stored`.
        points: (N, 3) in the world.
        camera: its matrix is used; its lens only for pixels as stored.
        threshold_px: error up to which a pixel is an inlier, in the pixels given.
        seed: of the sampling.
        T_camera_world: (4, 4) guess that competes with the sampled poses, None without one.
        max_iterations: number of minimal samples.
        as_stored: `xy` are pixels of the distorted picture. A fisheye needs this: near its rim an
            error of one pixel is one of ten and more ideal pixels.

    Returns:
        The pose, or None with fewer than three pairs or inliers. Three inliers prove nothing:
        callers ask for many more.

    Raises:
        GeometryError: shapes do not fit.
    """
    xy, points = check_pairs(xy, points)
    ideal = camera.undistort(xy) if as_stored else xy
    usable = usable_pairs(ideal, points)
    if usable.sum() < MINIMAL_PNP:
        return None
    model = _with_lens(camera) if as_stored else _pinhole(camera)
    options = _options('max_reproj_error', threshold_px, seed, max_iterations)
    initial = None if T_camera_world is None else _to_poselib(T_camera_world)
    pose, info = poselib.estimate_absolute_pose(
        xy[usable], points[usable], model, options, {}, initial
    )
    T = from_rt(pose.R, pose.t)
    if info['num_inliers'] < MINIMAL_PNP or not np.isfinite(T).all():
        return None
    slope = camera.distort_jacobian(xy) if as_stored and camera.is_distorted else None
    return summarize_pnp(ideal, points, camera, T, threshold_px, slope=slope)


def estimate_essential(
    xy0: npt.ArrayLike,
    xy1: npt.ArrayLike,
    camera0: Camera,
    camera1: Camera,
    *,
    threshold_px: float = 1.0,
    seed: int = 0,
    max_iterations: int = 1000,
) -> RelativePoseResult | None:
    """Motion between two views from pairs of pixels.

    Args:
        xy0: (N, 2) ideal pinhole pixels of view 0.
        xy1: (N, 2) ideal pinhole pixels of view 1.
        camera0: matrix of view 0.
        camera1: matrix of view 1.
        threshold_px: Sampson distance up to which a pair is an inlier.
        seed: of the sampling.
        max_iterations: number of minimal samples.

    Returns:
        The motion, or None with fewer than five pairs or inliers.

    Raises:
        GeometryError: shapes do not fit.
    """
    xy0, xy1, usable = _check_two_views(xy0, xy1)
    if usable.sum() < _MINIMAL_ESSENTIAL:
        return None
    pose, info = poselib.estimate_relative_pose(
        xy0[usable],
        xy1[usable],
        _pinhole(camera0),
        _pinhole(camera1),
        _options('max_epipolar_error', threshold_px, seed, max_iterations),
        {},
    )
    length = float(np.linalg.norm(pose.t))
    if info['num_inliers'] < _MINIMAL_ESSENTIAL or not length > 0:
        return None
    T_1_0 = from_rt(pose.R, np.asarray(pose.t) / length)
    return RelativePoseResult(T_1_0, _spread(info['inliers'], usable))


def estimate_homography(
    xy0: npt.ArrayLike,
    xy1: npt.ArrayLike,
    *,
    threshold_px: float = 2.0,
    seed: int = 0,
    max_iterations: int = 1000,
) -> HomographyResult | None:
    """Homography from pixels (N, 2) of view 0 to pixels (N, 2) of view 1.

    Arguments are as in `estimate_essential`; the threshold is a transfer error.

    Returns:
        The map, or None with fewer than four pairs or inliers, or for a degenerate one.

    Raises:
        GeometryError: shapes do not fit.
    """
    xy0, xy1, usable = _check_two_views(xy0, xy1)
    if usable.sum() < _MINIMAL_HOMOGRAPHY:
        return None
    options = _options('max_reproj_error', threshold_px, seed, max_iterations)
    H, info = poselib.estimate_homography(xy0[usable], xy1[usable], options, {})
    if info['num_inliers'] < _MINIMAL_HOMOGRAPHY:
        return None
    H = np.asarray(H) / H[2, 2] if H[2, 2] != 0 else np.full((3, 3), np.nan)
    if not np.isfinite(H).all():
        return None
    return HomographyResult(H, _spread(info['inliers'], usable))


def _check_two_views(xy0: npt.ArrayLike, xy1: npt.ArrayLike) -> tuple[Array, Array, Mask]:
    xy0, xy1 = np.asarray(xy0, dtype=np.float64), np.asarray(xy1, dtype=np.float64)
    if xy0.ndim != 2 or xy0.shape[1] != 2 or xy1.shape != xy0.shape:
        raise GeometryError(f'need two sets of pixels (N, 2), got {xy0.shape} and {xy1.shape}')
    return xy0, xy1, np.isfinite(xy0).all(axis=1) & np.isfinite(xy1).all(axis=1)


def _spread(inliers: list[bool], usable: Mask) -> Mask:
    """Flags of the usable rows put back among all rows."""
    mask = np.zeros(len(usable), dtype=bool)
    mask[usable] = inliers
    return mask


def _options(name: str, threshold_px: float, seed: int, max_iterations: int) -> dict:
    if not threshold_px > 0:
        raise GeometryError(f'threshold_px {threshold_px} must be positive')
    return {
        name: float(threshold_px),
        'seed': int(seed),
        'max_iterations': int(max_iterations),
        'min_iterations': min(100, int(max_iterations)),
    }


def _pinhole(camera: Camera) -> dict:
    """The matrix of a camera as PoseLib takes it; it counts pixels with plain parameters too."""
    return {
        'model': 'PINHOLE',
        'width': camera.width,
        'height': camera.height,
        'params': [camera.fx, camera.fy, camera.cx, camera.cy],
    }


def _with_lens(camera: Camera) -> dict:
    """The camera with its lens as PoseLib takes it (COLMAP's models, OpenCV's coefficients)."""
    k = camera.distortion
    if not camera.is_distorted:
        return _pinhole(camera)
    name, coefficients = 'OPENCV_FISHEYE', k
    if camera.model is not DistortionModel.EQUIDISTANT:
        only_k1_k2 = not any(k[4:])
        name = 'OPENCV' if only_k1_k2 else 'FULL_OPENCV'
        coefficients = k[:4] if only_k1_k2 else (*k, *(0.0,) * (8 - len(k)))
    plain = _pinhole(camera)
    return {**plain, 'model': name, 'params': [*plain['params'], *coefficients]}


def _to_poselib(T_camera_world: npt.ArrayLike) -> poselib.CameraPose:
    T = np.asarray(T_camera_world, dtype=np.float64)
    pose = poselib.CameraPose()
    pose.R, pose.t = nearest_rotation(T[:3, :3]), T[:3, 3]
    return pose
