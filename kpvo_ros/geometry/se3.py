"""Rigid motions: exponential and logarithm of SO(3) and SE(3), quaternions, covariance transport.

Conventions, the only ones of the package:

* `T_a_b` is the 4x4 pose of frame b in frame a; it maps coordinates of b into a.
* A twist `xi` is (6,), translation first: x y z rx ry rz. So are all 6x6 covariances.
* A pose is disturbed on the right, in its own (child) axes: `T = T_mean @ exp_se3(xi)`. A
  covariance called *local* is the covariance of that xi. ROS messages instead carry the error of
  the translation in the parent frame and of a rotation about the parent's fixed axes;
  `local_to_ros_covariance` is the only bridge.
* Quaternions are x y z w, angles radians, roll/pitch/yaw about fixed axes x, y, z (REP-103).

Functions take any leading batch dimensions unless their shapes say otherwise; all is float64.
Formulas: Barfoot, "State Estimation for Robotics", chapters 7 and 9; the branch free logarithm
goes through the quaternion and is exact for small angles and for angles near pi alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kpvo_ros.errors import GeometryError

Array = npt.NDArray[np.float64]

_SMALL_ANGLE_RAD = 0.1  # below, closed forms cancel digits and the series is exact to 1e-16


# -- rotations --------------------------------------------------------------------------------


def hat(w: npt.ArrayLike) -> Array:
    """Skew matrix of a vector: `hat(w) @ v == cross(w, v)`; (..., 3) -> (..., 3, 3)."""
    w = np.asarray(w, dtype=np.float64)
    W = np.zeros((*w.shape[:-1], 3, 3))
    W[..., 2, 1], W[..., 0, 2], W[..., 1, 0] = w[..., 0], w[..., 1], w[..., 2]
    W[..., 1, 2], W[..., 2, 0], W[..., 0, 1] = -w[..., 0], -w[..., 1], -w[..., 2]
    return W


def vee(W: npt.ArrayLike) -> Array:
    """Vector of the skew part of a matrix, inverse of `hat`; (..., 3, 3) -> (..., 3)."""
    W = np.asarray(W, dtype=np.float64)
    S = 0.5 * (W - np.swapaxes(W, -1, -2))
    return np.stack([S[..., 2, 1], S[..., 0, 2], S[..., 1, 0]], axis=-1)


def exp_so3(w: npt.ArrayLike) -> Array:
    """Rotation matrix of a rotation vector, (..., 3) radians -> (..., 3, 3)."""
    w = np.asarray(w, dtype=np.float64)
    angle = _norm(w)[..., None]
    W = hat(w)
    return np.eye(3) + _sinc(angle) * W + _half_cosc(angle) * (W @ W)


def log_so3(R: npt.ArrayLike) -> Array:
    """Rotation vector of a rotation matrix, (..., 3, 3) -> (..., 3) radians, norm at most pi."""
    quat = quat_xyzw_from_matrix(R)
    sine = _norm(quat[..., :3])
    angle = 2.0 * np.arctan2(sine, quat[..., 3:])
    tiny = sine < 1e-12
    return quat[..., :3] * np.where(tiny, 2.0, angle / np.where(tiny, 1.0, sine))


def rotation_angle_rad(R: npt.ArrayLike) -> Array:
    """Angle of a rotation, 0 to pi; (..., 3, 3) or (..., 4, 4) -> (...)."""
    R = np.asarray(R, dtype=np.float64)[..., :3, :3]
    return np.linalg.norm(log_so3(R), axis=-1)


def is_rotation(R: npt.ArrayLike, tolerance: float = 1e-6) -> bool:
    """Whether R (3, 3) is finite, orthonormal within `tolerance`, and right handed."""
    R = np.asarray(R, dtype=np.float64)
    if R.shape != (3, 3) or not np.isfinite(R).all():
        return False
    return bool(np.abs(R @ R.T - np.eye(3)).max() <= tolerance and np.linalg.det(R) > 0)


def nearest_rotation(M: npt.ArrayLike) -> Array:
    """Rotation closest to M (..., 3, 3) in the Frobenius norm (removes rounding drift).

    Raises:
        GeometryError: M is not finite, or so singular that no rotation is closest.
    """
    M = np.asarray(M, dtype=np.float64)
    if not np.isfinite(M).all():
        raise GeometryError('a rotation holds NaN or infinity: check the source of the pose')
    U, singular, Vt = np.linalg.svd(M)
    if (singular[..., 1] < 1e-9).any():
        raise GeometryError(f'matrix of rank < 2 is no rotation, singular values {singular}')
    U[..., :, 2] *= np.sign(np.linalg.det(U @ Vt))[..., None]
    return U @ Vt


# -- quaternions and angles -------------------------------------------------------------------


def quat_xyzw_from_matrix(R: npt.ArrayLike) -> Array:
    """Unit quaternion with w >= 0; (..., 3, 3) -> (..., 4) in the order x y z w.

    Shepperd's method: of the four equivalent formulas the one with the largest divisor is taken.
    """
    R = np.asarray(R, dtype=np.float64)
    x2, y2, z2 = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    xy, xz, yz = (R[..., i, j] + R[..., j, i] for i, j in ((0, 1), (0, 2), (1, 2)))
    wx, wy, wz = (R[..., i, j] - R[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    rows = (
        (1 + x2 - y2 - z2, xy, xz, wx),
        (xy, 1 - x2 + y2 - z2, yz, wy),
        (xz, yz, 1 - x2 - y2 + z2, wz),
        (wx, wy, wz, 1 + x2 + y2 + z2),
    )
    outer = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)  # 4 q q^T
    best = np.argmax(np.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    quat = np.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :]
    quat = quat / _norm(quat)
    return np.where(quat[..., 3:] < 0, -quat, quat)


def matrix_from_quat_xyzw(quat_xyzw: npt.ArrayLike) -> Array:
    """Rotation matrix of a quaternion of any length; (..., 4) x y z w -> (..., 3, 3).

    Raises:
        GeometryError: the quaternion is zero or not finite (an unset message field).
    """
    quat = np.asarray(quat_xyzw, dtype=np.float64)
    if quat.shape[-1:] != (4,):
        raise GeometryError(f'a quaternion needs 4 numbers x y z w, got shape {quat.shape}')
    largest = np.abs(quat).max(axis=-1, keepdims=True)
    if not np.isfinite(quat).all() or (largest == 0).any():
        raise GeometryError(f'quaternion {quat.tolist()} is zero or NaN: set x y z w (0 0 0 1)')
    quat = quat / largest  # first, so that squares of tiny or huge entries stay finite
    quat = quat / _norm(quat)
    V = hat(quat[..., :3])
    return np.eye(3) + 2.0 * (quat[..., 3, None, None] * V + V @ V)


def rpy_to_matrix(roll: float, pitch: float, yaw: float) -> Array:
    """Rotation (3, 3) by roll, pitch, yaw radians about the fixed axes x, y, z, in this order."""
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def matrix_to_rpy(R: npt.ArrayLike) -> tuple[float, float, float]:
    """Roll, pitch, yaw of R (3, 3) or (4, 4); at pitch +-90 degrees yaw takes all, roll is 0."""
    R = np.asarray(R, dtype=np.float64)
    cos_pitch = np.hypot(R[0, 0], R[1, 0])
    pitch = np.arctan2(-R[2, 0], cos_pitch)
    if cos_pitch < 1e-9:
        return 0.0, float(pitch), float(np.arctan2(-R[0, 1], R[1, 1]))
    roll, yaw = np.arctan2(R[2, 1], R[2, 2]), np.arctan2(R[1, 0], R[0, 0])
    return float(roll), float(pitch), float(yaw)


def yaw_of(T: npt.ArrayLike) -> float:
    """Heading of the x axis of T (4, 4) or (3, 3) about the parent's z axis, radians."""
    T = np.asarray(T, dtype=np.float64)
    return float(np.arctan2(T[1, 0], T[0, 0]))


# -- poses ------------------------------------------------------------------------------------


def from_rt(R: npt.ArrayLike, t: npt.ArrayLike) -> Array:
    """Pose (..., 4, 4) from a rotation (..., 3, 3) and a translation (..., 3); both broadcast.

    Raises:
        GeometryError: a shape is wrong.
    """
    R, t = np.asarray(R, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if R.shape[-2:] != (3, 3) or t.shape[-1:] != (3,):
        raise GeometryError(f'a pose needs R (..., 3, 3) and t (..., 3), got {R.shape}, {t.shape}')
    batch = np.broadcast_shapes(R.shape[:-2], t.shape[:-1])
    T = np.zeros((*batch, 4, 4))
    T[..., :3, :3], T[..., :3, 3], T[..., 3, 3] = R, t, 1.0
    return T


def inverse(T: npt.ArrayLike) -> Array:
    """Inverse of rigid poses (..., 4, 4): `inverse(T_a_b)` is `T_b_a`."""
    T = np.asarray(T, dtype=np.float64)
    Rt = np.swapaxes(T[..., :3, :3], -1, -2)
    return from_rt(Rt, -(Rt @ T[..., :3, 3:])[..., 0])


def transform(T_a_b: npt.ArrayLike, points_b: npt.ArrayLike) -> Array:
    """Points (N, 3) of frame b in frame a, (N, 3)."""
    T = np.asarray(T_a_b, dtype=np.float64)
    return np.asarray(points_b, dtype=np.float64) @ T[:3, :3].T + T[:3, 3]


def exp_se3(xi: npt.ArrayLike) -> Array:
    """Pose of a twist, (..., 6) translation first -> (..., 4, 4)."""
    xi = np.asarray(xi, dtype=np.float64)
    rho, phi = xi[..., :3], xi[..., 3:]
    return from_rt(exp_so3(phi), (left_jacobian_so3(phi) @ rho[..., None])[..., 0])


def log_se3(T: npt.ArrayLike) -> Array:
    """Twist of a pose, (..., 4, 4) -> (..., 6) translation first; inverse of `exp_se3`."""
    T = np.asarray(T, dtype=np.float64)
    phi = log_so3(T[..., :3, :3])
    rho = left_jacobian_inverse_so3(phi) @ T[..., :3, 3:]
    return np.concatenate([rho[..., 0], phi], axis=-1)


def interpolate(T0: npt.ArrayLike, T1: npt.ArrayLike, alpha: npt.ArrayLike) -> Array:
    """Pose on the screw motion from T0 (alpha 0) to T1 (alpha 1); alpha beyond extrapolates.

    Poses are (..., 4, 4), alpha is (...) or a number; all broadcast.
    """
    T0 = np.asarray(T0, dtype=np.float64)
    xi = log_se3(inverse(T0) @ np.asarray(T1, dtype=np.float64))
    return T0 @ exp_se3(np.asarray(alpha, dtype=np.float64)[..., None] * xi)


# -- Jacobians --------------------------------------------------------------------------------


def left_jacobian_so3(phi: npt.ArrayLike) -> Array:
    """J with `exp_so3(phi + d) = exp_so3(J d) exp_so3(phi)`; the right one is J(-phi)."""
    phi = np.asarray(phi, dtype=np.float64)
    angle = _norm(phi)[..., None]
    W = hat(phi)
    return np.eye(3) + _half_cosc(angle) * W + _cubic(angle) * (W @ W)


def left_jacobian_inverse_so3(phi: npt.ArrayLike) -> Array:
    """Inverse of `left_jacobian_so3` in closed form, for angles below 2 pi."""
    phi = np.asarray(phi, dtype=np.float64)
    angle = _norm(phi)[..., None]
    W = hat(phi)
    small, safe = _split(angle)
    closed = (1.0 - 0.5 * safe / np.tan(0.5 * safe)) / safe**2
    series = 1 / 12 + angle**2 / 720 + angle**4 / 30240 + angle**6 / 1209600
    return np.eye(3) - 0.5 * W + np.where(small, series, closed) * (W @ W)


def left_jacobian_se3(xi: npt.ArrayLike) -> Array:
    """J (..., 6, 6) with `exp_se3(xi + d) = exp_se3(J d) exp_se3(xi)`; the right one is J(-xi)."""
    xi = np.asarray(xi, dtype=np.float64)
    J = left_jacobian_so3(xi[..., 3:])
    return _block(J, _coupling(xi), J)


def left_jacobian_inverse_se3(xi: npt.ArrayLike) -> Array:
    """Inverse of `left_jacobian_se3` in closed form."""
    xi = np.asarray(xi, dtype=np.float64)
    J_inv = left_jacobian_inverse_so3(xi[..., 3:])
    return _block(J_inv, -J_inv @ _coupling(xi) @ J_inv, J_inv)


def adjoint(T: npt.ArrayLike) -> Array:
    """Ad (..., 6, 6) with `T exp_se3(xi) = exp_se3(Ad xi) T`, translation first."""
    T = np.asarray(T, dtype=np.float64)
    R = T[..., :3, :3]
    return _block(R, hat(T[..., :3, 3]) @ R, R)


# -- covariances (6, 6) -----------------------------------------------------------------------


def transport_covariance(covariance: npt.ArrayLike, T: npt.ArrayLike) -> Array:
    """`Ad(T) covariance Ad(T)^T`: a twist's covariance in the child frame of T, in the parent's.

    With the local covariance of T itself it gives the local covariance of `inverse(T)`.
    """
    Ad = adjoint(T)
    return _symmetric(Ad @ np.asarray(covariance, dtype=np.float64) @ np.swapaxes(Ad, -1, -2))


def compose_covariance(
    cov_a_b: npt.ArrayLike, cov_b_c: npt.ArrayLike, T_b_c: npt.ArrayLike
) -> Array:
    """Local covariance of `T_a_b @ T_b_c` from two independent local ones, to first order."""
    return transport_covariance(cov_a_b, inverse(T_b_c)) + np.asarray(cov_b_c, dtype=np.float64)


def compose_ros_covariance(
    cov_a_b: npt.ArrayLike, cov_b_c: npt.ArrayLike, T_a_b: npt.ArrayLike, T_b_c: npt.ArrayLike
) -> Array:
    """ROS covariance of `T_a_b @ T_b_c` from two independent ROS covariances, to first order."""
    T_a_b, T_b_c = np.asarray(T_a_b, dtype=np.float64), np.asarray(T_b_c, dtype=np.float64)
    local_a_b = ros_to_local_covariance(cov_a_b, T_a_b)
    local_b_c = ros_to_local_covariance(cov_b_c, T_b_c)
    return local_to_ros_covariance(compose_covariance(local_a_b, local_b_c, T_b_c), T_a_b @ T_b_c)


def local_to_ros_covariance(cov_local: npt.ArrayLike, T: npt.ArrayLike) -> Array:
    """Covariance as ROS wants it: translation and fixed-axis rotation in the parent's axes.

    Args:
        cov_local: (..., 6, 6) covariance of xi in `T exp_se3(xi)`.
        T: (..., 4, 4) the mean pose.
    """
    return transport_covariance(cov_local, _rotation_only(T))


def ros_to_local_covariance(cov_ros: npt.ArrayLike, T: npt.ArrayLike) -> Array:
    """Inverse of `local_to_ros_covariance`."""
    return transport_covariance(cov_ros, inverse(_rotation_only(T)))


# -- private ----------------------------------------------------------------------------------


def _norm(v: Array) -> Array:
    """Euclidean norm of the last axis, which stays as 1."""
    return np.sqrt((v * v).sum(axis=-1, keepdims=True))


def _split(angle: Array) -> tuple[npt.NDArray[np.bool_], Array]:
    """Where the series applies, and the angles with those entries made harmless."""
    small = angle < _SMALL_ANGLE_RAD
    return small, np.where(small, 1.0, angle)


def _sinc(angle: Array) -> Array:
    """sin(a) / a."""
    return np.sinc(angle / np.pi)


def _half_cosc(angle: Array) -> Array:
    """(1 - cos(a)) / a^2, without cancellation."""
    return 0.5 * _sinc(0.5 * angle) ** 2


def _cubic(angle: Array) -> Array:
    """(a - sin(a)) / a^3."""
    small, safe = _split(angle)
    series = 1 / 6 - angle**2 / 120 + angle**4 / 5040 - angle**6 / 362880
    return np.where(small, series, (safe - np.sin(safe)) / safe**3)


def _coupling(xi: Array) -> Array:
    """The upper right block Q of the left Jacobian of SE(3) (Barfoot, equation 7.86)."""
    angle = _norm(xi[..., 3:])[..., None]
    P, W = hat(xi[..., :3]), hat(xi[..., 3:])
    small, safe = _split(angle)
    quartic = (safe**2 + 2 * np.cos(safe) - 2) / (2 * safe**4)
    quartic = np.where(small, 1 / 24 - angle**2 / 720 + angle**4 / 40320, quartic)
    quintic = (2 * safe - 3 * np.sin(safe) + safe * np.cos(safe)) / (2 * safe**5)
    quintic = np.where(small, 1 / 120 - angle**2 / 2520 + angle**4 / 120960, quintic)
    WP, PW = W @ P, P @ W
    WPW = WP @ W
    return (
        0.5 * P
        + _cubic(angle) * (WP + PW + WPW)
        + quartic * (W @ WP + PW @ W - 3 * WPW)
        + quintic * (WPW @ W + W @ WPW)
    )


def _block(A: Array, B: Array, D: Array) -> Array:
    """[[A, B], [0, D]] of 3x3 blocks."""
    M = np.zeros((*A.shape[:-2], 6, 6))
    M[..., :3, :3], M[..., :3, 3:], M[..., 3:, 3:] = A, B, D
    return M


def _rotation_only(T: npt.ArrayLike) -> Array:
    T = np.array(T, dtype=np.float64)
    T[..., :3, 3] = 0.0
    return T


def _symmetric(M: Array) -> Array:
    return 0.5 * (M + np.swapaxes(M, -1, -2))


T_BASE_OPTICAL: Array = from_rt([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0, 0, 0])
"""Optical frame looking along the base x axis (REP-103): z = base x, x = -base y, y = -base z."""
T_BASE_OPTICAL.setflags(write=False)
