"""Two views and more: epipolar geometry, triangulation, parallax.

`T_1_0` is the pose of camera 0 in camera 1. Rays are directions in an optical frame, mostly
`Camera.unproject` (z = 1). Pixels are those of ideal pinholes. Everything is vectorised over N
points; a point that cannot be triangulated is NaN, not an exception.
Sources: Hartley and Zisserman, "Multiple View Geometry", chapters 9 to 13; Lindstrom,
"Triangulation made easy", CVPR 2010.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.se3 import hat, inverse, transform

Array = npt.NDArray[np.float64]

_PARALLEL_RAD = 1e-7  # rays closer than this meet nowhere
_RANGE_REFINEMENTS = 3


def essential(T_1_0: npt.ArrayLike) -> Array:
    """E (3, 3) with `ray1^T E ray0 = 0`."""
    T = np.asarray(T_1_0, dtype=np.float64)
    return hat(T[:3, 3]) @ T[:3, :3]


def fundamental(T_1_0: npt.ArrayLike, K0: npt.ArrayLike, K1: npt.ArrayLike) -> Array:
    """F (3, 3) with `[xy1, 1]^T F [xy0, 1] = 0` in pixels."""
    return _inverse(K1).T @ essential(T_1_0) @ _inverse(K0)


def homography_from_plane(
    T_1_0: npt.ArrayLike,
    normal: npt.ArrayLike,
    distance: float,
    K0: npt.ArrayLike,
    K1: npt.ArrayLike,
) -> Array:
    """H (3, 3), last entry 1, from pixels of view 0 to those of view 1, of points on a plane.

    The plane is `normal . p = distance` in camera 0.

    Raises:
        GeometryError: the plane goes through camera 0, or camera 1 sees it edge on.
    """
    T, normal = np.asarray(T_1_0, dtype=np.float64), np.asarray(normal, dtype=np.float64)
    if not abs(distance) > 1e-12:
        raise GeometryError(f'plane at distance {distance} from the camera has no homography')
    K1 = np.asarray(K1, dtype=np.float64)
    H = K1 @ (T[:3, :3] + np.outer(T[:3, 3], normal) / distance) @ _inverse(K0)
    if abs(H[2, 2]) < 1e-12 or abs(np.linalg.det(H)) < 1e-12 * np.abs(H).max() ** 3:
        raise GeometryError('plane is seen edge on from one camera: choose another view')
    return H / H[2, 2]


def epipolar_distance(F: npt.ArrayLike, xy0: npt.ArrayLike, xy1: npt.ArrayLike) -> Array:
    """(N,) distance of pixels xy1 (N, 2) from the epipolar lines of xy0 (N, 2), pixels."""
    lines1, _, residual = _epipolar_terms(F, xy0, xy1)
    return np.abs(residual) / _norm_or_nan(lines1[:, :2])


def sampson_distance(F: npt.ArrayLike, xy0: npt.ArrayLike, xy1: npt.ArrayLike) -> Array:
    """(N,) first-order distance of pairs (N, 2), (N, 2) to the epipolar constraint, pixels.

    With an essential matrix and rays cut to their x, y it is in normalised units.
    """
    lines1, lines0, residual = _epipolar_terms(F, xy0, xy1)
    return np.abs(residual) / _norm_or_nan(np.hstack([lines1[:, :2], lines0[:, :2]]))


def parallax_rad(rays0: npt.ArrayLike, rays1_in_0: npt.ArrayLike) -> Array:
    """(N,) angle between rays (N, 3) of any length, both given in the axes of one frame."""
    a, b = np.asarray(rays0, dtype=np.float64), np.asarray(rays1_in_0, dtype=np.float64)
    return np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(axis=-1))


def triangulate(rays0: npt.ArrayLike, rays1: npt.ArrayLike, T_1_0: npt.ArrayLike) -> Array:
    """Points in camera 0 seen along two rays each; least squares in the image planes.

    The rays are first moved by the smallest amount that lets them meet (Lindstrom's two
    iterations), so there is no bias towards near or far.

    Args:
        rays0: (N, 3) in camera 0, z > 0.
        rays1: (N, 3) in camera 1, z > 0.
        T_1_0: (4, 4).

    Returns:
        (N, 3); NaN where the rays are parallel or meet behind a camera.
    """
    T_1_0 = np.asarray(T_1_0, dtype=np.float64)
    x0, x1 = _on_unit_plane(rays0), _on_unit_plane(rays1)
    x0, x1 = _meet(x0, x1, essential(T_1_0).T)
    R_0_1, c1_in_0 = T_1_0[:3, :3].T, inverse(T_1_0)[:3, 3]
    x1_in_0 = x1 @ R_0_1.T
    normal = np.cross(x0, x1_in_0)
    squared = (normal * normal).sum(axis=-1)
    # The two signed distances along the rays, from c0 + d0 x0 = c1 + d1 x1.
    depth0 = _divide((normal * np.cross(c1_in_0, x1_in_0)).sum(axis=-1), squared)
    depth1 = _divide((normal * np.cross(c1_in_0, x0)).sum(axis=-1), squared)
    apart = parallax_rad(x0, x1_in_0) > _PARALLEL_RAD
    good = apart & (depth0 > 0) & (depth1 > 0)
    return np.where(good[:, None], depth0[:, None] * x0, np.nan)


def triangulate_views(
    T_world_cameras: npt.ArrayLike, rays: npt.ArrayLike, seen: npt.ArrayLike | None = None
) -> Array:
    """Points in the world seen along rays from V cameras; least squares of the angles.

    Args:
        T_world_cameras: (V, 4, 4) poses of the cameras.
        rays: (V, N, 3) in each camera, any length.
        seen: (V, N) bool, which rays exist; all of them by default. NaN rays do not exist.

    Returns:
        (N, 3); NaN where fewer than two rays exist, all are parallel, or the point lies behind
        a camera that sees it.
    """
    T = np.asarray(T_world_cameras, dtype=np.float64)
    rays = np.asarray(rays, dtype=np.float64)
    exists = np.isfinite(rays).all(axis=-1)
    exists = exists if seen is None else exists & np.asarray(seen, dtype=bool)
    d = np.einsum('vij,vnj->vni', T[:, :3, :3], np.where(exists[..., None], rays, [0.0, 0.0, 1.0]))
    d = d / np.linalg.norm(d, axis=-1, keepdims=True)
    centers = T[:, None, :3, 3]
    weight = exists.astype(np.float64)
    for _ in range(_RANGE_REFINEMENTS):
        points, solvable = _meet_rays(centers, d, weight)
        ranges = np.linalg.norm(points - centers, axis=-1)
        # Divided by its range a distance from a ray is an angle, whose noise is the same for all.
        weight = exists / np.maximum(ranges, 1e-9) ** 2
    ahead = (((points - centers) * d).sum(axis=-1) > 0) | ~exists
    good = solvable & ahead.all(axis=0) & (exists.sum(axis=0) >= 2)
    return np.where(good[:, None], points, np.nan)


def reprojection_error(
    T_camera_world: npt.ArrayLike, points: npt.ArrayLike, xy: npt.ArrayLike, K: npt.ArrayLike
) -> Array:
    """(N,) pixels between xy (N, 2) and the image of points (N, 3); infinite behind the camera."""
    local = transform(T_camera_world, points)
    z = np.where(local[:, 2] > 0, local[:, 2], np.nan)
    image = (local / z[:, None]) @ np.asarray(K, dtype=np.float64).T
    error = np.linalg.norm(image[:, :2] - np.asarray(xy, dtype=np.float64), axis=-1)
    return np.where(np.isfinite(error), error, np.inf)


def _epipolar_terms(
    F: npt.ArrayLike, xy0: npt.ArrayLike, xy1: npt.ArrayLike
) -> tuple[Array, Array, Array]:
    """Lines (N, 3) in view 1, lines (N, 3) in view 0, and the residuals (N,)."""
    F = np.asarray(F, dtype=np.float64)
    x0, x1 = _homogeneous(xy0), _homogeneous(xy1)
    lines1 = x0 @ F.T
    return lines1, x1 @ F, (x1 * lines1).sum(axis=-1)


def _meet(x0: Array, x1: Array, E: Array) -> tuple[Array, Array]:
    """Smallest change of points (N, 3) on z = 1 so that `x0^T E x1 = 0` (Lindstrom, niter2)."""
    n0, n1 = x1 @ E[:2].T, x0 @ E[:, :2]
    inner = E[:2, :2]
    a = ((n0 @ inner) * n1).sum(axis=-1)
    b = 0.5 * ((n0 * n0).sum(axis=-1) + (n1 * n1).sum(axis=-1))
    c = ((x0 @ E) * x1).sum(axis=-1)
    d = np.sqrt(np.maximum(b * b - a * c, 0.0))
    step = _divide(c, b + d)[:, None]
    m0, m1 = n0 - (step * n1) @ inner.T, n1 - (step * n0) @ inner
    step = step * _divide(2.0 * d, (m0 * m0).sum(axis=-1) + (m1 * m1).sum(axis=-1))[:, None]
    x0, x1 = x0.copy(), x1.copy()
    x0[:, :2] -= step * m0
    x1[:, :2] -= step * m1
    return x0, x1


def _meet_rays(centers: Array, d: Array, weight: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Points (N, 3) nearest to rays (V, N, 3) from centers (V, 1, 3), and which are unique."""
    across = weight[..., None, None] * (np.eye(3) - d[..., :, None] * d[..., None, :])
    A = across.sum(axis=0)
    b = np.einsum('vnij,vnj->ni', across, np.broadcast_to(centers, d.shape))
    spread = np.linalg.eigvalsh(A)
    solvable = spread[:, 0] > _PARALLEL_RAD**2 * np.maximum(spread[:, 2], 1e-300)
    A = np.where(solvable[:, None, None], A, np.eye(3))
    return np.linalg.solve(A, b[..., None])[..., 0], solvable


def _on_unit_plane(rays: npt.ArrayLike) -> Array:
    rays = np.asarray(rays, dtype=np.float64)
    return rays / np.where(rays[:, 2:] > 0, rays[:, 2:], np.nan)


def _inverse(K: npt.ArrayLike) -> Array:
    return np.linalg.inv(np.asarray(K, dtype=np.float64))


def _homogeneous(xy: npt.ArrayLike) -> Array:
    xy = np.asarray(xy, dtype=np.float64)
    return np.hstack([xy[:, :2], np.ones((len(xy), 1))])


def _norm_or_nan(v: Array) -> Array:
    """(N,) norms; NaN instead of zero, for points at the epipole."""
    norm = np.linalg.norm(v, axis=-1)
    return np.where(norm > 0, norm, np.nan)


def _divide(a: Array, b: Array) -> Array:
    """Quotient of a and b, 0 where b is 0."""
    return np.where(b != 0, a / np.where(b != 0, b, 1.0), 0.0)
