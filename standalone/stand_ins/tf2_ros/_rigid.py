"""Rigid transforms as plain tuples: (translation xyz, quaternion xyzw).

Three numbers and four: numpy would cost more than it gives.
"""

from __future__ import annotations

import math
from typing import NamedTuple

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class Rigid(NamedTuple):
    """The pose of a child frame in its parent."""

    translation: Vector
    quat_xyzw: Quaternion


IDENTITY = Rigid((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def compose(T_a_b: Rigid, T_b_c: Rigid) -> Rigid:
    """T_a_c."""
    moved = rotate(T_a_b.quat_xyzw, T_b_c.translation)
    t = T_a_b.translation
    return Rigid(
        (t[0] + moved[0], t[1] + moved[1], t[2] + moved[2]),
        _multiply(T_a_b.quat_xyzw, T_b_c.quat_xyzw),
    )


def invert(T_a_b: Rigid) -> Rigid:
    """T_b_a."""
    x, y, z, w = T_a_b.quat_xyzw
    back = (-x, -y, -z, w)
    moved = rotate(back, T_a_b.translation)
    return Rigid((-moved[0], -moved[1], -moved[2]), back)


def interpolate(first: Rigid, second: Rigid, ratio: float) -> Rigid:
    """Straight line in translation, shortest great arc in rotation; ratio 0 gives `first`."""
    a, b = first.translation, second.translation
    translation = (
        a[0] + ratio * (b[0] - a[0]),
        a[1] + ratio * (b[1] - a[1]),
        a[2] + ratio * (b[2] - a[2]),
    )
    return Rigid(translation, _slerp(first.quat_xyzw, second.quat_xyzw, ratio))


def rotate(quat_xyzw: Quaternion, v: Vector) -> Vector:
    """The vector turned by the unit quaternion."""
    x, y, z, w = quat_xyzw
    # v + 2 w (q x v) + 2 q x (q x v)
    cx, cy, cz = y * v[2] - z * v[1], z * v[0] - x * v[2], x * v[1] - y * v[0]
    return (
        v[0] + 2.0 * (w * cx + y * cz - z * cy),
        v[1] + 2.0 * (w * cy + z * cx - x * cz),
        v[2] + 2.0 * (w * cz + x * cy - y * cx),
    )


def normalized(quat_xyzw: Quaternion) -> Quaternion:
    """The quaternion at length one; ValueError when it has no direction."""
    norm = math.sqrt(sum(value * value for value in quat_xyzw))
    if not math.isfinite(norm) or norm < 1e-9:
        raise ValueError(f'quaternion {quat_xyzw} has no direction')
    x, y, z, w = quat_xyzw
    return (x / norm, y / norm, z / norm, w / norm)


def _multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def _slerp(a: Quaternion, b: Quaternion, ratio: float) -> Quaternion:
    cosine = sum(p * q for p, q in zip(a, b, strict=True))
    if cosine < 0.0:  # q and -q are one rotation: take the near one
        b = (-b[0], -b[1], -b[2], -b[3])
        cosine = -cosine
    if cosine > 1.0 - 1e-9:  # nearly equal: the chord is the arc
        weights = (1.0 - ratio, ratio)
    else:
        angle = math.acos(cosine)
        weights = (
            math.sin((1.0 - ratio) * angle) / math.sin(angle),
            math.sin(ratio * angle) / math.sin(angle),
        )
    x, y, z, w = (weights[0] * p + weights[1] * q for p, q in zip(a, b, strict=True))
    return normalized((x, y, z, w))
