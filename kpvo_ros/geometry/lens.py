"""Lens models: between directions in the optical frame and points on the normalised image plane.

The plane is what remains of a pixel after the camera matrix is taken off: `(u - cx) / fx`,
`(v - cy) / fy`. All lenses have the same methods, so a camera need not ask which it has; all
answer NaN where the lens shows nothing, also where the polynomial has turned back on itself and
would show a far point inside the picture a second time.

* `IdealLens`: the pinhole.
* `BrownLens`: OpenCV's radial and tangential polynomial (plumb_bob, rational_polynomial).
  Brown, "Decentering distortion of lenses", 1966.
* `EquidistantLens`: OpenCV's fisheye. Kannala and Brandt, "A generic camera model", 2006.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_ITERATIONS = 20
_STEP_DONE = 1e-13  # normalised units, far below a millionth of a pixel
_RESIDUAL_OK = 1e-9
SIDEWAYS = 1e-9  # z of a unit ray so far off the axis that it never meets the plane z = 1
_NEGLIGIBLE = 1e-15  # a highest coefficient that bends nothing


class Lens(Protocol):
    """What a camera asks of its lens."""

    @property
    def angle_max_rad(self) -> float:
        """Largest angle off the axis the model covers."""

    def to_plane(self, points: Array) -> Array:
        """Image of points, (..., 3) in the optical frame -> (..., 2) on the plane."""

    def to_ray(self, plane: Array) -> Array:
        """Direction (..., 3), of any length, seen at (..., 2) on the plane."""

    def ray_jacobian(self, plane: Array) -> Array:
        """(..., 2, 2) derivative of the ray's point on z = 1 with respect to the plane.

        NaN where `to_ray` is, and for rays 90 degrees or more off the axis.
        """


class IdealLens:
    """No distortion: the plane is z = 1."""

    angle_max_rad = 0.5 * np.pi

    def to_plane(self, points: Array) -> Array:
        """See `Lens`; NaN behind the camera."""
        z = points[..., 2:]
        return points[..., :2] / np.where(z > 0, z, np.nan)

    def to_ray(self, plane: Array) -> Array:
        """See `Lens`; z is 1."""
        return _with_z(plane, 1.0)

    def ray_jacobian(self, plane: Array) -> Array:
        """See `Lens`; the identity."""
        jacobian = np.where(np.isfinite(plane).all(axis=-1), 1.0, np.nan)
        return jacobian[..., None, None] * np.eye(2)


class BrownLens:
    """Radial polynomial (or quotient of two) in r^2, and decentering terms.

    Args:
        coefficients: k1 k2 p1 p2 k3 [k4 k5 k6], OpenCV's order.
    """

    def __init__(self, coefficients: tuple[float, ...]) -> None:
        k1, k2, self._p1, self._p2, k3, *denominator = coefficients
        self._top = (k1, k2, k3)
        self._low = tuple(denominator) or (0.0, 0.0, 0.0)
        self._radius_max = self._first_fold()

    @property
    def angle_max_rad(self) -> float:
        """See `Lens`."""
        return float(np.arctan(self._radius_max))

    def to_plane(self, points: Array) -> Array:
        """See `Lens`; NaN behind the camera and beyond the fold of the polynomial."""
        ideal = IdealLens().to_plane(points)
        r2 = (ideal * ideal).sum(axis=-1, keepdims=True)
        ideal = np.where(r2 <= self._radius_max**2, ideal, np.nan)
        x, y = ideal[..., 0], ideal[..., 1]
        return np.stack(self._distort(x, y, *self._radial(x, y)[:2]), axis=-1)

    def to_ray(self, plane: Array) -> Array:
        """See `Lens`; z is 1. Newton's method, from the distorted point itself."""
        target_x, target_y = plane[..., 0], plane[..., 1]
        x, y = self._clamp(target_x, target_y)
        for _ in range(_ITERATIONS):
            r2, radial, slope = self._radial(x, y)
            image_x, image_y = self._distort(x, y, r2, radial)
            error_x, error_y = target_x - image_x, target_y - image_y
            step_x, step_y = self._newton_step(x, y, radial, slope, error_x, error_y)
            x, y = self._clamp(x + step_x, y + step_y)
            if not (np.maximum(np.abs(step_x), np.abs(step_y)) > _STEP_DONE).any():
                break
        image_x, image_y = self._distort(x, y, *self._radial(x, y)[:2])
        found = np.hypot(image_x - target_x, image_y - target_y) < _RESIDUAL_OK
        return _with_z(np.where(found[..., None], np.stack([x, y], axis=-1), np.nan), 1.0)

    def ray_jacobian(self, plane: Array) -> Array:
        """See `Lens`; the inverse of the derivative of the distortion."""
        ideal = self.to_ray(plane)
        x, y = ideal[..., 0], ideal[..., 1]
        a, b, d = self._slopes(x, y, *self._radial(x, y)[1:])
        with np.errstate(divide='ignore', invalid='ignore'):  # infinite on the fold itself
            inverse = np.stack([d, -b, -b, a], axis=-1) / (a * d - b * b)[..., None]
        return inverse.reshape(*plane.shape[:-1], 2, 2)

    def _radial(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """r^2, the radial factor, and its derivative with respect to r^2."""
        r2 = x * x + y * y
        top, top_slope = _cubic(r2, self._top)
        if not any(self._low):
            return r2, top, top_slope
        low, low_slope = _cubic(r2, self._low)
        return r2, top / low, (top_slope * low - top * low_slope) / (low * low)

    def _distort(self, x: Array, y: Array, r2: Array, radial: Array) -> tuple[Array, Array]:
        xy2 = 2.0 * x * y
        return (
            x * radial + self._p1 * xy2 + self._p2 * (r2 + 2.0 * x * x),
            y * radial + self._p1 * (r2 + 2.0 * y * y) + self._p2 * xy2,
        )

    def _newton_step(
        self, x: Array, y: Array, radial: Array, slope: Array, error_x: Array, error_y: Array
    ) -> tuple[Array, Array]:
        """Solves the symmetric 2x2 system of every point; a singular one does not move."""
        a, b, d = self._slopes(x, y, radial, slope)
        det = a * d - b * b
        inv = np.where(np.abs(det) > 1e-12, 1.0, 0.0) / np.where(np.abs(det) > 1e-12, det, 1.0)
        return inv * (d * error_x - b * error_y), inv * (a * error_y - b * error_x)

    def _slopes(
        self, x: Array, y: Array, radial: Array, slope: Array
    ) -> tuple[Array, Array, Array]:
        """a, b, d of the symmetric derivative [[a, b], [b, d]] of the distortion."""
        return (
            radial + 2.0 * slope * x * x + 2.0 * self._p1 * y + 6.0 * self._p2 * x,
            2.0 * (slope * x * y + self._p1 * x + self._p2 * y),
            radial + 2.0 * slope * y * y + 6.0 * self._p1 * y + 2.0 * self._p2 * x,
        )

    def _clamp(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Pulls points back to just inside the fold, where the mapping can be inverted."""
        if np.isinf(self._radius_max):
            return x, y
        radius = np.hypot(x, y)
        shrink = np.minimum(1.0, self._radius_max / np.where(radius > 0, radius, 1.0))
        return x * shrink, y * shrink

    def _first_fold(self) -> float:
        """Ideal radius at which the distorted radius stops growing; infinite if it never does."""
        r2 = np.polynomial.Polynomial([0.0, 1.0])
        top, low = (np.polynomial.Polynomial([1.0, *k]) for k in (self._top, self._low))
        growth = top * low + 2 * r2 * (top.deriv() * low - top * low.deriv())
        return float(np.sqrt(min(_first_positive_root(growth), _first_positive_root(low))))


class EquidistantLens:
    """Image radius is a polynomial of the angle off the axis; sees beyond 90 degrees.

    Args:
        coefficients: k1 k2 k3 k4 of `radius = angle (1 + k1 angle^2 + ... + k4 angle^8)`.
    """

    def __init__(self, coefficients: tuple[float, ...]) -> None:
        self._k = np.array([1.0, *coefficients])
        growth = np.polynomial.Polynomial(self._k * (1, 3, 5, 7, 9))
        self._angle_max = float(min(np.sqrt(_first_positive_root(growth)), np.pi))

    @property
    def angle_max_rad(self) -> float:
        """See `Lens`."""
        return self._angle_max

    def to_plane(self, points: Array) -> Array:
        """See `Lens`; NaN beyond the fold of the polynomial and straight behind."""
        xy, z = points[..., :2], points[..., 2:]
        norm = np.sqrt((xy * xy).sum(axis=-1, keepdims=True))
        angle = np.arctan2(norm, z)
        seen = (angle <= self._angle_max) & ((norm > 0) | (z > 0))
        on_axis = norm == 0
        unit = xy / np.where(on_axis, 1.0, norm)
        return np.where(seen, unit * self._radius(angle), np.nan)

    def to_ray(self, plane: Array) -> Array:
        """See `Lens`; a unit vector. Newton's method on the angle."""
        radius = np.sqrt((plane * plane).sum(axis=-1, keepdims=True))
        angle = np.minimum(radius, self._angle_max)
        for _ in range(_ITERATIONS):
            slope = self._radius_slope(angle)
            slope = np.where(np.abs(slope) > 1e-12, slope, 1.0)
            new = np.clip(angle + (radius - self._radius(angle)) / slope, 0.0, self._angle_max)
            step, angle = np.abs(new - angle), new
            if not (step > _STEP_DONE).any():
                break
        found = np.abs(self._radius(angle) - radius) < _RESIDUAL_OK
        unit = plane / np.where(radius == 0, 1.0, radius)
        ray = np.concatenate([unit * np.sin(angle), np.cos(angle)], axis=-1)
        return np.where(found, ray, np.nan)

    def ray_jacobian(self, plane: Array) -> Array:
        """See `Lens`; radial and tangential stretch differ more and more off the axis."""
        ray = self.to_ray(plane)
        sine = np.hypot(ray[..., 0], ray[..., 1])
        angle = np.arctan2(sine, ray[..., 2])
        cosine = np.where(ray[..., 2] > SIDEWAYS, ray[..., 2], np.nan)
        radial = 1.0 / (cosine * cosine * self._radius_slope(angle))
        on_axis = sine == 0
        radius = np.where(on_axis, 1.0, self._radius(angle))
        tangential = np.where(on_axis, radial, sine / (cosine * radius))
        unit = ray[..., :2] / np.where(on_axis, 1.0, sine)[..., None]
        outward = unit[..., :, None] * unit[..., None, :]
        around: Array = tangential[..., None, None] * (np.eye(2) - outward)
        return around + radial[..., None, None] * outward

    def _radius(self, angle: Array) -> Array:
        return angle * np.polynomial.polynomial.polyval(angle * angle, self._k)

    def _radius_slope(self, angle: Array) -> Array:
        slopes: Array = self._k * (1, 3, 5, 7, 9)
        return np.asarray(np.polynomial.polynomial.polyval(angle * angle, slopes), np.float64)


def _cubic(r2: Array, k: tuple[float, ...]) -> tuple[Array, Array]:
    """1 + k1 r2 + k2 r2^2 + k3 r2^3 and its derivative."""
    k1, k2, k3 = k
    return 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3)), k1 + r2 * (2.0 * k2 + 3.0 * k3 * r2)


def _with_z(plane: Array, z: float) -> Array:
    """Appends a third coordinate; NaN stays NaN in all three."""
    out = np.empty((*plane.shape[:-1], 3))
    out[..., :2] = plane
    out[..., 2] = np.where(np.isnan(plane[..., 0]), np.nan, z)
    return out


def _first_positive_root(polynomial: np.polynomial.Polynomial) -> float:
    """Smallest real root above zero; infinite without one."""
    roots = polynomial.trim(_NEGLIGIBLE).roots()
    real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 1e-9)]
    return float(real.min()) if len(real) else float('inf')
