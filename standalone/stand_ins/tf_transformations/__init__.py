"""Rotations and rigid transforms as 4x4 matrices and quaternions (x, y, z, w).

For machines without a ROS 2 installation: the commonly used functions of tf_transformations,
with the same names and call signatures. Euler axes are named as there: 's' (static) or 'r'
(rotating) followed by three axes; 'sxyz' is roll, pitch, yaw about fixed axes.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

Axes = str | tuple[int, int, int, int]

_SEQUENCES = ('xyz', 'xyx', 'xzy', 'xzx', 'yzx', 'yzy', 'yxz', 'yxy', 'zxy', 'zxz', 'zyx', 'zyz')


def identity_matrix() -> np.ndarray:
    """The 4x4 identity."""
    return np.identity(4)


def translation_matrix(direction: ArrayLike) -> np.ndarray:
    """4x4 shift by a vector."""
    matrix = np.identity(4)
    matrix[:3, 3] = np.asarray(direction)[:3]
    return matrix


def translation_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """The shift in a 4x4 matrix."""
    return np.array(matrix)[:3, 3].copy()


def rotation_matrix(
    angle: float, direction: ArrayLike, point: ArrayLike | None = None
) -> np.ndarray:
    """4x4 turn about an axis, through `point` when given."""
    turn = _matrix(Rotation.from_rotvec(angle * unit_vector(np.asarray(direction)[:3])))
    if point is not None:
        centre = np.asarray(point, float)[:3]
        turn[:3, 3] = centre - turn[:3, :3] @ centre
    return turn


def inverse_matrix(matrix: np.ndarray) -> np.ndarray:
    """The inverse of a square matrix."""
    return np.linalg.inv(matrix)


def concatenate_matrices(*matrices: np.ndarray) -> np.ndarray:
    """The product of all matrices, left to right."""
    return functools.reduce(np.dot, matrices, np.identity(4))


def euler_matrix(ai: float, aj: float, ak: float, axes: Axes = 'sxyz') -> np.ndarray:
    """4x4 rotation of three Euler angles in radians."""
    return _matrix(_from_euler(ai, aj, ak, axes))


def euler_from_matrix(matrix: np.ndarray, axes: Axes = 'sxyz') -> tuple[float, float, float]:
    """Three Euler angles in radians of a 3x3 or 4x4 rotation."""
    return _to_euler(Rotation.from_matrix(np.asarray(matrix)[:3, :3]), axes)


def euler_from_quaternion(
    quaternion: ArrayLike, axes: Axes = 'sxyz'
) -> tuple[float, float, float]:
    """Three Euler angles in radians."""
    return _to_euler(Rotation.from_quat(quaternion), axes)


def quaternion_from_euler(ai: float, aj: float, ak: float, axes: Axes = 'sxyz') -> np.ndarray:
    """Quaternion (xyzw) of three Euler angles in radians."""
    return _from_euler(ai, aj, ak, axes).as_quat()


def quaternion_about_axis(angle: float, axis: ArrayLike) -> np.ndarray:
    """Quaternion (xyzw) of a turn about an axis."""
    return Rotation.from_rotvec(angle * unit_vector(np.asarray(axis)[:3])).as_quat()


def quaternion_matrix(quaternion: ArrayLike) -> np.ndarray:
    """4x4 rotation; a quaternion without length is no rotation: identity."""
    if np.dot(quaternion, quaternion) < 1e-15:
        return np.identity(4)
    return _matrix(Rotation.from_quat(quaternion))


def quaternion_from_matrix(matrix: np.ndarray) -> np.ndarray:
    """Quaternion (xyzw) of a 3x3 or 4x4 rotation, w not negative."""
    return Rotation.from_matrix(np.asarray(matrix)[:3, :3]).as_quat(canonical=True)


def quaternion_multiply(quaternion1: ArrayLike, quaternion0: ArrayLike) -> np.ndarray:
    """Quaternion (xyzw) of the second argument's turn followed by the first's."""
    x1, y1, z1, w1 = np.asarray(quaternion1, float)
    x0, y0, z0, w0 = np.asarray(quaternion0, float)
    return np.array(
        (
            w1 * x0 + x1 * w0 + y1 * z0 - z1 * y0,
            w1 * y0 - x1 * z0 + y1 * w0 + z1 * x0,
            w1 * z0 + x1 * y0 - y1 * x0 + z1 * w0,
            w1 * w0 - x1 * x0 - y1 * y0 - z1 * z0,
        )
    )


def quaternion_conjugate(quaternion: ArrayLike) -> np.ndarray:
    """Quaternion (xyzw) with the vector part turned round."""
    x, y, z, w = np.asarray(quaternion, float)
    return np.array((-x, -y, -z, w))


def quaternion_inverse(quaternion: ArrayLike) -> np.ndarray:
    """The quaternion whose product with this one is the identity."""
    return quaternion_conjugate(quaternion) / np.dot(quaternion, quaternion)


def quaternion_slerp(
    quat0: ArrayLike,
    quat1: ArrayLike,
    fraction: float,
    spin: int = 0,
    shortestpath: bool = True,
) -> np.ndarray:
    """Quaternion (xyzw) between two rotations along the great arc.

    `spin` adds that many half turns on the way (an even number keeps the length of one); without
    `shortestpath` the arc is the one between the quaternions as given, maybe the long way round.
    """
    start, end = (np.asarray(q, float) / np.linalg.norm(q) for q in (quat0, quat1))
    cosine = float(start @ end)
    if shortestpath and cosine < 0.0:
        cosine, end = -cosine, -end
    angle = math.acos(min(1.0, max(-1.0, cosine))) + spin * math.pi
    if fraction in (0.0, 1.0) or abs(math.sin(angle)) < 1e-12:
        return end if fraction == 1.0 else start
    return (
        math.sin((1.0 - fraction) * angle) * start + math.sin(fraction * angle) * end
    ) / math.sin(angle)


def vector_norm(
    data: ArrayLike, axis: int | None = None, out: np.ndarray | None = None
) -> np.ndarray | float:
    """Length of a vector, or of every vector along an axis."""
    norm: Any = np.linalg.norm(np.asarray(data, float), axis=axis)
    if out is None:
        return norm
    out[...] = norm
    return out


def unit_vector(
    data: ArrayLike, axis: int | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """The vector (or every vector along an axis) at length one."""
    vector = np.asarray(data, float)
    norm = np.linalg.norm(vector, axis=axis, keepdims=axis is not None)
    if out is None:
        return vector / norm
    out[...] = vector / norm
    return out


def _matrix(rotation: Rotation) -> np.ndarray:
    matrix = np.identity(4)
    matrix[:3, :3] = rotation.as_matrix()
    return matrix


def _from_euler(ai: float, aj: float, ak: float, axes: Axes) -> Rotation:
    return Rotation.from_euler(_sequence(axes), [ai, aj, ak])


def _to_euler(rotation: Rotation, axes: Axes) -> tuple[float, float, float]:
    first, second, third = rotation.as_euler(_sequence(axes))
    return float(first), float(second), float(third)


def _sequence(axes: Axes) -> str:
    """The axes in scipy's letters: small for static, capital for rotating axes."""
    if not isinstance(axes, str):
        axes = _named(axes)
    kind, names = axes[0].lower(), axes[1:].lower()
    if kind not in 'sr' or names not in _SEQUENCES:
        raise KeyError(axes)
    return names if kind == 's' else names.upper()


def _named(axes: tuple[int, int, int, int]) -> str:
    """The letters of (inner axis, parity, repetition, frame)."""
    inner, parity, repetition, frame = axes
    second = (inner + (2 if parity else 1)) % 3
    third = inner if repetition else 3 - inner - second
    names = ''.join('xyz'[axis] for axis in (inner, second, third))
    return f'r{names[::-1]}' if frame else f's{names}'
