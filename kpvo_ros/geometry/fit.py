"""Fits to points in space: similarity between two sets, plane through most of one.

Sources: Umeyama, "Least-squares estimation of transformation parameters between two point
patterns", 1991; Torr and Zisserman, "MLESAC", 2000 (the truncated cost of the plane search).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kpvo_ros.errors import GeometryError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_RANK_TOLERANCE = 1e-14  # of the cross covariance, so 1e-7 of a length
_REFINEMENTS = 5


def umeyama(
    source: npt.ArrayLike, target: npt.ArrayLike, with_scale: bool = True
) -> tuple[float, Array, Array]:
    """Similarity that carries one point set onto another with least squared error.

    Args:
        source: (N, 3).
        target: (N, 3), `target ~ scale * R @ source + t`.
        with_scale: False keeps scale at 1.

    Returns:
        scale, R (3, 3), t (3,).

    Raises:
        GeometryError: shapes differ, fewer than three points, NaN, or the points lie on a line
            (or in one place), so that no single rotation is best.
    """
    source, target = np.asarray(source, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3:
        raise GeometryError(f'alignment needs two (N, 3) sets, got {source.shape}, {target.shape}')
    if len(source) < 3 or not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise GeometryError(f'alignment needs 3 or more finite points, got {len(source)}')
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    centered = source - mean_source
    U, singular, Vt = np.linalg.svd((target - mean_target).T @ centered)
    if singular[1] <= _RANK_TOLERANCE * singular[0]:
        raise GeometryError('points to align lie on a line or in one place: use a longer path')
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    R = (U * signs) @ Vt
    scale = float((singular * signs).sum() / (centered**2).sum()) if with_scale else 1.0
    return scale, R, mean_target - scale * R @ mean_source


@dataclasses.dataclass(frozen=True)
class PlaneFit:
    """A plane `normal . p = offset`.

    Attributes:
        normal: (3,) unit vector.
        offset: signed distance from the origin along the normal, metres.
        offset_sigma: standard deviation of `offset` from the scatter of the inliers, metres.
        inliers: (N,) bool.
        rmse: root mean square distance of the inliers from the plane, metres.
    """

    normal: Array
    offset: float
    offset_sigma: float
    inliers: Mask
    rmse: float

    @property
    def count(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


def fit_plane_ransac(
    points: npt.ArrayLike,
    threshold: npt.ArrayLike,
    *,
    seed: int = 0,
    normal_prior: npt.ArrayLike | None = None,
    max_tilt_rad: float = np.deg2rad(15.0),
    iterations: int = 256,
    min_inliers: int = 10,
) -> PlaneFit | None:
    """Plane through most of the points; the rest may be anything.

    Args:
        points: (N, 3) metres; NaN rows are outliers.
        threshold: distance up to which a point is on the plane, metres; a number or (N,), for
            points whose noise grows with range.
        seed: of the random triples; the same seed gives the same plane.
        normal_prior: (3,) expected normal. The answer points its way (else away from the origin).
        max_tilt_rad: largest angle between normal and prior.
        iterations: number of random triples.
        min_inliers: fewer is no plane.

    Returns:
        The plane, or None when no plane has enough inliers.

    Raises:
        GeometryError: points are not (N, 3), a threshold is not positive, the prior is zero.
    """
    points, limit = _check_plane_input(points, threshold)
    prior = None if normal_prior is None else _unit(normal_prior)
    usable = np.isfinite(points).all(axis=1)
    if usable.sum() < max(3, min_inliers):
        return None
    search = _PlaneSearch(points[usable], limit[usable], prior, float(np.cos(max_tilt_rad)))
    candidates = search.hypotheses(np.random.default_rng(seed), iterations)
    if candidates is None:
        return None
    normal, offset = search.refine(*search.best(*candidates))
    inliers = np.zeros(len(points), dtype=bool)
    inliers[usable] = np.abs(points[usable] @ normal - offset) < limit[usable]
    if inliers.sum() < min_inliers:
        return None
    if offset < 0 and prior is None:
        normal, offset = -normal, -offset
    residual = points[inliers] @ normal - offset
    rmse = float(np.sqrt((residual**2).mean()))
    sigma = _offset_sigma(points[inliers], normal, residual)
    return PlaneFit(normal, offset, sigma, inliers, rmse)


@dataclasses.dataclass(frozen=True)
class _PlaneSearch:
    """The finite points of one plane search."""

    points: Array
    limit: Array
    prior: Array | None
    cos_tilt: float

    def hypotheses(self, rng: np.random.Generator, count: int) -> tuple[Array, Array] | None:
        """Normals (K, 3) and offsets (K,) of planes through random triples, or None."""
        triples = self.points[rng.integers(len(self.points), size=(count, 3))]
        normals = np.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
        lengths = np.linalg.norm(normals, axis=1)
        spread = np.abs(triples - triples[:, :1]).max(axis=(1, 2))
        proper = lengths > 1e-9 * np.maximum(spread, 1e-300) ** 2
        normals, anchors = normals[proper] / lengths[proper, None], triples[proper, 0]
        if self.prior is not None:
            # The prior itself, through single points, serves where few triples are on the plane.
            normals = np.vstack([normals, np.tile(self.prior, (count, 1))])
            anchors = np.vstack([anchors, triples[:, 0]])
            cosine = normals @ self.prior
            normals = normals * np.where(cosine < 0, -1.0, 1.0)[:, None]
            allowed = np.abs(cosine) >= self.cos_tilt
            normals, anchors = normals[allowed], anchors[allowed]
        return (normals, (normals * anchors).sum(axis=1)) if len(normals) else None

    def best(self, normals: Array, offsets: Array) -> tuple[Array, float]:
        """The hypothesis with the least truncated squared distance."""
        distance = (normals @ self.points.T - offsets[:, None]) / self.limit
        winner = int(np.minimum(distance**2, 1.0).sum(axis=1).argmin())
        return normals[winner], float(offsets[winner])

    def refine(self, normal: Array, offset: float) -> tuple[Array, float]:
        """Least squares on the inliers, repeated; stays within the tilt the prior allows."""
        for _ in range(_REFINEMENTS):
            on_plane = np.abs(self.points @ normal - offset) < self.limit
            if on_plane.sum() < 3:
                break
            weight = 1.0 / self.limit[on_plane] ** 2
            center = np.average(self.points[on_plane], axis=0, weights=weight)
            scaled = (self.points[on_plane] - center) * np.sqrt(weight)[:, None]
            _, axes = np.linalg.eigh(scaled.T @ scaled)
            new = axes[:, 0] * (1.0 if axes[:, 0] @ normal >= 0 else -1.0)
            if self.prior is not None and new @ self.prior < self.cos_tilt:
                break
            normal, offset = new, float(new @ center)
        return normal, offset


def _offset_sigma(points: Array, normal: Array, residual: Array) -> float:
    """Standard deviation of the offset when two tilts were estimated with it."""
    across = np.linalg.svd(normal[None])[2][1:]
    design = np.hstack([np.ones((len(points), 1)), points @ across.T])
    variance = (residual**2).sum() / max(len(points) - 3, 1)
    return float(np.sqrt(variance * np.linalg.pinv(design.T @ design)[0, 0]))


def _check_plane_input(points: npt.ArrayLike, threshold: npt.ArrayLike) -> tuple[Array, Array]:
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise GeometryError(f'plane fit needs points (N, 3), got {points.shape}')
    limit = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (len(points),))
    if not (limit > 0).all():
        raise GeometryError('plane fit needs a positive threshold in metres')
    return points, limit


def _unit(vector: npt.ArrayLike) -> Array:
    vector = np.asarray(vector, dtype=np.float64)
    norm = np.linalg.norm(vector)
    if not (norm > 0 and np.isfinite(norm)):
        raise GeometryError(f'normal_prior {vector.tolist()} must be a finite non-zero vector')
    return vector / norm
