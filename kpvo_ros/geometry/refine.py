"""Pose of a camera from points and their pixels: robust refinement, and how sure it is.

Levenberg and Marquardt's method on the reprojection error under a robust loss (iteratively
reweighted least squares), with the analytic Jacobian. The disturbance is that of `se3`:
`T_world_camera = T_mean @ exp_se3(xi)`, xi in the axes of the camera. So the covariance is local,
and `se3.local_to_ros_covariance(covariance, T_world_camera)` is what ROS wants.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import numpy.typing as npt

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import exp_se3, inverse, nearest_rotation, transform

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MINIMAL_PNP = 3
_NEAREST = 1e-6  # points closer to the image plane are behind, in units of the map
_BEHIND_PX = 1e4  # error charged for a point behind the camera
_COST_DONE = 1e-9
_STEP_DONE = 1e-10
_PRIOR_COUNT = 6.0  # weight of the expected noise, in residuals, against the measured one
_SIGMAS_IN_THRESHOLD = 2.5
_KNOWING_NOTHING = np.array([1e3] * 3 + [np.pi] * 3) ** 2  # variances in metres and radians


class Loss(enum.Enum):
    """How errors beyond the scale of the noise count."""

    SQUARED = 'squared'  # fully: no outliers expected
    HUBER = 'huber'  # linearly
    CAUCHY = 'cauchy'  # logarithmically: gross errors nearly vanish

    def cost(self, squared: Array) -> Array:
        """Loss of squared errors in units of the scale; `squared` itself near zero."""
        if self is Loss.CAUCHY:
            return np.log1p(squared)
        if self is Loss.HUBER:
            return np.where(squared <= 1, squared, 2 * np.sqrt(squared) - 1)
        return squared

    def weight(self, squared: Array) -> Array:
        """Derivative of `cost`: the weight of an error in the next least squares step."""
        if self is Loss.CAUCHY:
            return 1 / (1 + squared)
        if self is Loss.HUBER:
            return 1 / np.sqrt(np.maximum(squared, 1))
        return np.ones_like(squared)


@dataclasses.dataclass(frozen=True)
class PnpResult:
    """Pose of a camera in the frame of the points.

    Attributes:
        T_camera_world: (4, 4).
        inliers: (N,) bool, pixels the pose explains within the threshold.
        covariance: (6, 6) local covariance of `T_world_camera`, in the axes of the camera,
            translation first. Never zero; bounded where the points leave a direction open.
        rmse_px: root mean square of the inliers' distances to their pixels.
    """

    T_camera_world: Array
    inliers: Mask
    covariance: Array
    rmse_px: float

    @property
    def T_world_camera(self) -> Array:
        """(4, 4) the same pose the other way round."""
        return inverse(self.T_camera_world)

    @property
    def count(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


def refine_pnp(
    xy: npt.ArrayLike,
    points: npt.ArrayLike,
    camera: Camera,
    T_camera_world: npt.ArrayLike,
    *,
    sigma_px: npt.ArrayLike | None = None,
    slope: Array | None = None,
    loss: Loss = Loss.CAUCHY,
    loss_scale_px: float = 1.0,
    threshold_px: float = 3.0,
    iterations: int = 20,
) -> PnpResult | None:
    """Improves a pose until the robust reprojection error stops falling.

    Args:
        xy: (N, 2) ideal pinhole pixels (`Camera.undistort`); NaN rows are outliers.
        points: (N, 3) in the world; NaN rows are outliers.
        camera: its matrix is used, its lens is not.
        T_camera_world: (4, 4) pose to start from.
        sigma_px: (N,) noise of each pixel relative to the others (a pyramid level's scale);
            scale and threshold are multiplied by it. Ones by default.
        slope: (N, 2, 2) `Camera.distort_jacobian` of the pixels as stored, so that errors count as
            large as they are in the picture of a wide lens; None counts ideal pixels.
        loss: robust loss.
        loss_scale_px: error at which the loss leaves the parabola.
        threshold_px: error up to which a pixel is an inlier.
        iterations: at most so many steps.

    Returns:
        The refined pose, or None when fewer than three pixels end as inliers.

    Raises:
        GeometryError: shapes do not fit, or a scale is not positive.
    """
    xy, points = check_pairs(xy, points)
    if not (loss_scale_px > 0 and threshold_px > 0):
        raise GeometryError(f'loss_scale_px {loss_scale_px} and threshold_px must be positive')
    sigma = np.ones(len(xy)) if sigma_px is None else np.asarray(sigma_px, dtype=np.float64)
    usable = usable_pairs(xy, points)
    problem = _Problem(
        xy[usable],
        points[usable],
        camera,
        loss,
        loss_scale_px * sigma[usable],
        None if slope is None else slope[usable],
    )
    T = _minimise(problem, np.array(T_camera_world, dtype=np.float64), iterations)
    return summarize_pnp(xy, points, camera, T, threshold_px, sigma, slope)


def summarize_pnp(
    xy: Array,
    points: Array,
    camera: Camera,
    T_camera_world: Array,
    threshold_px: float,
    sigma: Array | None = None,
    slope: Array | None = None,
) -> PnpResult | None:
    """Inliers, covariance and error of a pose as it is; None with fewer than three inliers."""
    sigma = np.ones(len(xy)) if sigma is None else sigma
    residual, J = _residuals(xy, transform(T_camera_world, points), camera, slope)
    inliers = np.linalg.norm(residual, axis=-1) < threshold_px * sigma
    if inliers.sum() < MINIMAL_PNP:
        return None
    weighted = residual[inliers] / sigma[inliers, None]
    noise = _noise_variance(weighted, threshold_px)
    J = (J[inliers] / sigma[inliers, None, None]).reshape(-1, 6)
    information = J.T @ J / noise + np.diag(1.0 / _KNOWING_NOTHING)
    rmse_px = float(np.sqrt((residual[inliers] ** 2).sum(axis=-1).mean()))
    covariance = np.linalg.inv(information)
    return PnpResult(T_camera_world, inliers, 0.5 * (covariance + covariance.T), rmse_px)


def check_pairs(xy: npt.ArrayLike, points: npt.ArrayLike) -> tuple[Array, Array]:
    """Pixels (N, 2) and points (N, 3) as float64.

    Raises:
        GeometryError: the shapes do not fit.
    """
    xy, points = np.asarray(xy, dtype=np.float64), np.asarray(points, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] != 2 or points.shape != (len(xy), 3):
        raise GeometryError(f'need xy (N, 2) and points (N, 3), got {xy.shape} and {points.shape}')
    return xy, points


def usable_pairs(xy: Array, points: Array) -> Mask:
    """(N,) bool: rows without NaN or infinity."""
    rows = np.isfinite(np.hstack([xy, points]))
    return np.logical_and.reduce(rows, axis=1)


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Robust least squares of the reprojection error."""

    xy: Array  # (N, 2)
    points: Array  # (N, 3)
    camera: Camera
    loss: Loss
    scale_px: Array  # (N,)
    slope: Array | None  # (N, 2, 2)

    def linearize(self, T_camera_world: Array) -> tuple[float, Array, Array]:
        """Cost, gradient (6,) and Gauss-Newton Hessian (6, 6) at a pose."""
        local = transform(T_camera_world, self.points)
        residual, J = _residuals(self.xy, local, self.camera, self.slope)
        squared = (residual**2).sum(axis=-1) / self.scale_px**2
        weight = self.loss.weight(squared) / self.scale_px**2
        weighted = J * weight[:, None, None]
        gradient = np.einsum('nij,ni->j', weighted, residual)
        hessian = weighted.reshape(-1, 6).T @ J.reshape(-1, 6)
        return float(self.loss.cost(squared).sum()), gradient, hessian


def _minimise(problem: _Problem, T: Array, iterations: int) -> Array:
    """Levenberg and Marquardt: damp more when a step fails, less when it helps."""
    T[:3, :3] = nearest_rotation(T[:3, :3])
    if len(problem.xy) < MINIMAL_PNP:
        return T
    cost, gradient, hessian = problem.linearize(T)
    damping = 1e-4
    for _ in range(iterations):
        scale = np.maximum(np.diag(hessian), 1e-9)
        step = np.linalg.solve(hessian + np.diag(damping * scale), -gradient)
        T_new = exp_se3(-step) @ T
        new = problem.linearize(T_new)
        if new[0] > cost:
            damping *= 10.0
            if damping > 1e8:
                break
            continue
        done = cost - new[0] <= _COST_DONE * cost or np.abs(step).max() < _STEP_DONE
        T, (cost, gradient, hessian) = T_new, new
        damping = max(damping * 0.1, 1e-9)
        if done:
            break
    return T


def _residuals(
    xy: Array, local: Array, camera: Camera, slope: Array | None
) -> tuple[Array, Array]:
    """Image minus pixel (N, 2), and its derivative (N, 2, 6) with respect to xi.

    `slope` carries both over into the pixels of the stored picture, to first order.
    A point behind the camera gets a large constant error, so that no step gains by hiding it.
    """
    z = local[:, 2]
    ahead = z > _NEAREST
    inv_z = 1.0 / np.where(ahead, z, 1.0)
    u, v = local[:, 0] * inv_z, local[:, 1] * inv_z
    fx, fy = camera.fx, camera.fy
    J = np.zeros((len(xy), 2, 6))
    J[:, 0, 0], J[:, 0, 2] = -fx * inv_z, fx * u * inv_z
    J[:, 1, 1], J[:, 1, 2] = -fy * inv_z, fy * v * inv_z
    J[:, 0, 3], J[:, 0, 4], J[:, 0, 5] = fx * u * v, -fx * (1 + u * u), fx * v
    J[:, 1, 3], J[:, 1, 4], J[:, 1, 5] = fy * (1 + v * v), -fy * u * v, -fy * u
    residual = np.stack([fx * u + camera.cx, fy * v + camera.cy], axis=-1) - xy
    if slope is not None:
        residual, J = np.einsum('nij,nj->ni', slope, residual), slope @ J
    hidden = z <= _NEAREST
    J[hidden], residual[hidden] = 0.0, _BEHIND_PX
    return residual, J


def _noise_variance(residual: Array, threshold_px: float) -> float:
    """Variance of one pixel coordinate, drawn towards what the threshold implies.

    With many points the measured residuals decide; with few, whose residuals fit by themselves,
    the noise at which the threshold makes sense does.
    """
    expected = (threshold_px / _SIGMAS_IN_THRESHOLD) ** 2
    freedom = max(residual.size - 6, 0)
    measured = (residual**2).sum()
    return float((measured + _PRIOR_COUNT * expected) / (freedom + _PRIOR_COUNT))
