"""Pose of a camera from sights of points whose depth is more or less known.

Every sight has its own 2x2 covariance: the noise of the sight plus, along the epipolar line, what
the uncertain inverse depth makes of it. A point whose depth is known to the millimetre pulls in
both directions, one seen twice from nearly the same place only across its epipolar line, and a
point without any depth still holds the rotation. So the same solver serves an RGB-D camera, a
monocular map and a camera that turns on the spot into places nobody has triangulated (marginalised
depth; compare the inverse-depth filter of Civera 2008).

Gauss-Newton with damping under a Cauchy loss (Triggs 1999), on coordinates of the plane z = 1. The
disturbance is local: T = T_mean exp(xi), xi = (x y z rx ry rz) in the axes of the camera.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.geometry.refine import Loss

_GAIN_DONE = 1e-2  # squared sigmas that a step promises, below which it is not worth another
_MAX_DAMPING = 1e6


@dataclasses.dataclass(frozen=True)
class Sightings:
    """What is to be explained; N points.

    Attributes:
        direction: (N, 3) ray of first sight (z = 1 in its own camera) turned into the odom frame.
        origin: (N, 3) where that camera was.
        rho: (N,) inverse depth along that ray.
        variance: (N,) of `rho`.
        ray: (N, 2) where the point is seen now, on the plane z = 1.
        sigma: (N,) standard deviation of that.
    """

    direction: np.ndarray
    origin: np.ndarray
    rho: np.ndarray
    variance: np.ndarray
    ray: np.ndarray
    sigma: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Sightings:
        return Sightings(
            self.direction[chosen],
            self.origin[chosen],
            self.rho[chosen],
            self.variance[chosen],
            self.ray[chosen],
            self.sigma[chosen],
        )


@dataclasses.dataclass(frozen=True)
class Resection:
    """A pose and how it is supported.

    Attributes:
        T_odom_camera: (4, 4).
        covariance: (6, 6) local.
        surprise: (N,) distance of each sight from where it is expected, in its own sigmas.
        blur: (N,) sigma of the expected place along the epipolar line, in sigmas of the sight.
    """

    T_odom_camera: np.ndarray
    covariance: np.ndarray
    surprise: np.ndarray
    blur: np.ndarray


def resect(
    seen: Sightings,
    T_odom_camera: np.ndarray,
    prior_covariance: np.ndarray,
    iterations: int = 12,
) -> Resection:
    """The pose that explains the sights best.

    Args:
        seen: sights; false ones are tolerated.
        T_odom_camera: (4, 4) where to start, also the mean of the prior.
        prior_covariance: (6, 6) local, how far the pose may be from there.
        iterations: at most so many steps.
    """
    prior = _Prior(T_odom_camera, np.linalg.inv(prior_covariance))
    T = T_odom_camera
    now = _linearise(seen, T, prior)
    damping = 1e-6
    for _ in range(iterations):
        scale = np.diag(np.diag(now.hessian))
        step = np.linalg.solve(now.hessian + damping * scale, -now.gradient)
        if -float(now.gradient @ step) < _GAIN_DONE:
            break
        trial = _linearise(seen, T @ se3.exp_se3(step), prior)
        if trial.cost < now.cost:
            T, now, damping = T @ se3.exp_se3(step), trial, damping * 0.1
            continue
        damping = max(damping, 1e-5) * 10.0
        if damping > _MAX_DAMPING:
            break
    covariance = np.linalg.inv(now.hessian)
    return Resection(T, 0.5 * (covariance + covariance.T), np.sqrt(now.squared), now.blur)


@dataclasses.dataclass(frozen=True)
class _Prior:
    T: np.ndarray
    information: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Linear:
    cost: float
    gradient: np.ndarray  # (6,)
    hessian: np.ndarray  # (6, 6)
    squared: np.ndarray  # (N,) squared Mahalanobis distances
    blur: np.ndarray  # (N,)


def _linearise(seen: Sightings, T: np.ndarray, prior: _Prior) -> _Linear:
    p = (seen.direction + seen.rho[:, None] * (seen.origin - T[:3, 3])) @ T[:3, :3]
    ahead = p[:, 2] > 1e-9
    inv_z = 1.0 / np.where(ahead, p[:, 2], 1.0)
    u = p[:, :2] * inv_z[:, None]
    error = u - seen.ray
    shift = (seen.origin - T[:3, 3]) @ T[:3, :3]
    along = (shift[:, :2] - u * shift[:, 2:]) * inv_z[:, None]  # d u / d rho
    steep = np.einsum('ni,ni->n', along, along)
    spread = seen.variance * steep / seen.sigma**2
    # S^-1 = (I - share n n^T) / sigma^2 with n the direction of the epipolar line
    share = spread / (1.0 + spread) / np.maximum(steep, 1e-300)
    on_line = np.einsum('ni,ni->n', along, error)
    squared = (np.einsum('ni,ni->n', error, error) - share * on_line**2) / seen.sigma**2
    squared = np.where(ahead, np.maximum(squared, 0.0), 1e12)
    weight = np.where(ahead, Loss.CAUCHY.weight(squared / _CAUCHY**2), 0.0) / seen.sigma**2
    J = _slope(u, seen.rho * inv_z)
    J_on_line = np.einsum('ni,nij->nj', along, J)
    hessian = (J * weight[:, None, None]).reshape(-1, 6).T @ J.reshape(-1, 6)
    hessian -= (J_on_line * (weight * share)[:, None]).T @ J_on_line
    gradient = np.einsum('nij,ni->j', J, error * weight[:, None])
    gradient -= J_on_line.T @ (weight * share * on_line)
    off = se3.log_se3(se3.inverse(prior.T) @ T)
    pull = prior.information @ off
    cost = _CAUCHY**2 * float(Loss.CAUCHY.cost(squared / _CAUCHY**2).sum()) + float(off @ pull)
    return _Linear(cost, gradient + pull, hessian + prior.information, squared, np.sqrt(spread))


_CAUCHY = 2.0  # sigmas at which the loss leaves the parabola


def _slope(u: np.ndarray, rho_here: np.ndarray) -> np.ndarray:
    """(N, 2, 6) derivative of u with respect to xi; `rho_here` is the inverse depth here."""
    J = np.zeros((len(u), 2, 6))
    a, b = u[:, 0], u[:, 1]
    J[:, 0, 0] = J[:, 1, 1] = -rho_here
    J[:, 0, 2], J[:, 1, 2] = a * rho_here, b * rho_here
    J[:, 0, 3], J[:, 0, 4], J[:, 0, 5] = a * b, -(1 + a * a), b
    J[:, 1, 3], J[:, 1, 4], J[:, 1, 5] = 1 + b * b, -a * b, -a
    return J
