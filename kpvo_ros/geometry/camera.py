"""The camera: size, intrinsics and lens of an image, as one value.

Pixels are in OpenCV's sense: (0, 0) is the centre of the top left pixel, so the picture covers
-0.5 .. width - 0.5. The optical frame has z forward, x right, y down (REP-103). Everything is
float64 and takes any leading dimensions; where a lens shows nothing the answer is NaN, never an
exception, so one bad point does not stop a frame.
"""

from __future__ import annotations

import dataclasses
import enum
import functools

import numpy as np
import numpy.typing as npt

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.lens import SIDEWAYS, Array, BrownLens, EquidistantLens, IdealLens, Lens

_WIDEST_RECTIFIED_RAD = np.deg2rad(70.0)  # half angle; a plane picture beyond is mostly stretch
_NOWHERE_PX = -64.0  # outside every picture, for any interpolation kernel of cv2.remap


class DistortionModel(enum.Enum):
    """How a lens bends rays; values are the names of sensor_msgs/CameraInfo."""

    NONE = 'none'
    PLUMB_BOB = 'plumb_bob'  # k1 k2 p1 p2 k3
    RATIONAL = 'rational_polynomial'  # k1 k2 p1 p2 k3 k4 k5 k6
    EQUIDISTANT = 'equidistant'  # k1 k2 k3 k4

    @classmethod
    def parse(cls, name: str) -> DistortionModel:
        """Model of a name as drivers and data sets write it; letters' case does not matter.

        Raises:
            GeometryError: nobody knows that name.
        """
        key = name.strip().lower().replace('-', '_').replace(' ', '_')
        if key not in _ALIASES:
            known = ', '.join(model.value for model in cls)
            raise GeometryError(f'unknown distortion model {name!r}: use one of {known}')
        return _ALIASES[key]

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return _SIZES[self]


_SIZES = {
    DistortionModel.NONE: 0,
    DistortionModel.PLUMB_BOB: 5,
    DistortionModel.RATIONAL: 8,
    DistortionModel.EQUIDISTANT: 4,
}
_ALIASES = {
    **{model.value: model for model in DistortionModel},
    **dict.fromkeys(('', 'pinhole', 'perspective', 'ideal', 'linear'), DistortionModel.NONE),
    **dict.fromkeys(
        ('radtan', 'radial_tangential', 'brown', 'brown_conrady', 'opencv'),
        DistortionModel.PLUMB_BOB,
    ),
    **dict.fromkeys(('rational', 'opencv8'), DistortionModel.RATIONAL),
    **dict.fromkeys(
        ('fisheye', 'opencv_fisheye', 'kannala_brandt', 'kannala_brandt4', 'kb4'),
        DistortionModel.EQUIDISTANT,
    ),
}


@dataclasses.dataclass(frozen=True)
class Camera:
    """Intrinsics of one image.

    Attributes:
        width, height: size of the image, pixels.
        fx, fy: focal lengths, pixels.
        cx, cy: principal point, pixels.
        model: lens model.
        distortion: its coefficients in OpenCV's order. What drivers send is mended where it is
            unambiguous: none at all is no distortion (not for EQUIDISTANT, which is bent
            by itself), plumb_bob may lack k3, zeros too many at the end are dropped.

    Raises:
        GeometryError: a number is not finite, a size or focal length is not positive, or the
            coefficients do not fit the model.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: DistortionModel = DistortionModel.NONE
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _check_size(self.width, self.height)
        for name in ('width', 'height'):
            object.__setattr__(self, name, int(getattr(self, name)))
        for name in ('fx', 'fy', 'cx', 'cy'):
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        if self.fx <= 0 or self.fy <= 0:
            raise GeometryError(
                f'focal lengths fx={self.fx:g} fy={self.fy:g} must be positive: calibrate the '
                'camera (an uncalibrated driver sends zeros)'
            )
        object.__setattr__(self, 'distortion', _coefficients(self.model, self.distortion))

    @classmethod
    def from_matrix(
        cls,
        width: int,
        height: int,
        K: npt.ArrayLike,
        model: DistortionModel = DistortionModel.NONE,
        distortion: npt.ArrayLike = (),
    ) -> Camera:
        """Camera of a matrix K, (3, 3) or its 9 numbers by rows.

        Raises:
            GeometryError: K has another shape or a skew, or see the class.
        """
        flat = np.asarray(K, dtype=np.float64).ravel()
        if flat.shape != (9,):
            raise GeometryError(
                f'a camera matrix has 9 numbers, got {flat.size}: give fx 0 cx ...'
            )
        fx, skew, cx, _, fy, cy = flat[:6]
        if abs(skew) > 1e-6 * abs(fx):
            raise GeometryError(f'camera matrix with skew {skew:g} is not supported: set it to 0')
        coefficients = tuple(np.asarray(distortion, dtype=np.float64).ravel().tolist())
        return cls(width, height, fx, fy, cx, cy, model, coefficients)

    @functools.cached_property
    def K(self) -> Array:
        """(3, 3) camera matrix, read-only."""
        K = np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])
        K.setflags(write=False)
        return K

    @property
    def is_distorted(self) -> bool:
        """Whether pixels differ from those of the pinhole with the same matrix."""
        return self.model is DistortionModel.EQUIDISTANT or any(self.distortion)

    def project(self, points: npt.ArrayLike) -> Array:
        """Pixels (..., 2) of points (..., 3) in the optical frame; NaN where they are not seen.

        Not seen means behind the camera, for EQUIDISTANT beyond the angle the lens model covers.
        Pixels outside the picture are given as they are.
        """
        return self._to_pixels(self._lens.to_plane(np.asarray(points, dtype=np.float64)))

    def unproject(self, xy: npt.ArrayLike) -> Array:
        """Points (..., 3) on the plane z = 1 seen at pixels (..., 2).

        NaN where the lens model reaches no such pixel, and for rays 90 degrees or more off axis.
        """
        ray = self._lens.to_ray(self._to_plane(xy))
        if self.model is not DistortionModel.EQUIDISTANT:
            return ray
        return ray / np.where(ray[..., 2:] > SIDEWAYS, ray[..., 2:], np.nan)

    def rays(self, xy: npt.ArrayLike) -> Array:
        """Unit directions (..., 3) seen at pixels (..., 2); fisheye rays may point backwards."""
        ray = self._lens.to_ray(self._to_plane(xy))
        return ray / np.sqrt((ray * ray).sum(axis=-1, keepdims=True))

    def ray_jacobian(self, xy: npt.ArrayLike) -> Array:
        """(..., 2, 2) derivative of `unproject`'s x, y with respect to the pixel; NaN as there."""
        return self._lens.ray_jacobian(self._to_plane(xy)) / self._focal

    def ray_sigma(self, xy: npt.ArrayLike) -> Array:
        """(...) how far one pixel reaches on the plane z = 1 at pixels (..., 2).

        The root of the area a pixel covers there: 1 / f for a pinhole, and more and more towards
        the rim of a fisheye, where a step of one pixel turns the ray as much as anywhere but the
        plane recedes. NaN where `unproject` is.
        """
        if not self.is_distorted:
            steady = 1.0 / np.sqrt(self.fx * self.fy)
            return np.where(np.isfinite(np.asarray(xy)).all(axis=-1), steady, np.nan)
        J = self.ray_jacobian(xy)
        return np.sqrt(np.abs(J[..., 0, 0] * J[..., 1, 1] - J[..., 0, 1] * J[..., 1, 0]))

    def undistort(self, xy: npt.ArrayLike) -> Array:
        """Pixels (..., 2) a pinhole with the same matrix would show instead of these."""
        if not self.is_distorted:
            return np.array(xy, dtype=np.float64)
        return self._to_pixels(self.unproject(xy)[..., :2])

    def distort(self, xy: npt.ArrayLike) -> Array:
        """Pixels (..., 2) of this camera from those of the pinhole, inverse of `undistort`."""
        if not self.is_distorted:
            return np.array(xy, dtype=np.float64)
        return self.project(IdealLens().to_ray(self._to_plane(xy)))

    def distort_jacobian(self, xy: npt.ArrayLike) -> Array:
        """(..., 2, 2) derivative of `distort` where it yields `xy`; NaN as in `ray_jacobian`."""
        J = self.ray_jacobian(xy) * self._focal[:, None]  # ideal pixels by stored ones
        adjugate = np.stack([J[..., 1, 1], -J[..., 0, 1], -J[..., 1, 0], J[..., 0, 0]], axis=-1)
        det = J[..., 0, 0] * J[..., 1, 1] - J[..., 0, 1] * J[..., 1, 0]
        return (adjugate / det[..., None]).reshape(J.shape)

    def contains(self, xy: npt.ArrayLike, border_px: float = 0.0) -> npt.NDArray[np.bool_]:
        """Whether pixels (..., 2) lie on the picture, at least `border_px` from the edge."""
        xy = np.asarray(xy, dtype=np.float64)
        high = np.array([self.width, self.height]) - 1 - border_px
        inside = (xy >= border_px) & (xy <= high)
        return inside[..., 0] & inside[..., 1]

    def resized(self, width: int, height: int) -> Camera:
        """Camera of the same picture scaled to another size (as cv2.resize does)."""
        _check_size(width, height)
        sx, sy = width / self.width, height / self.height
        return dataclasses.replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )

    def cropped(self, x: int, y: int, width: int, height: int) -> Camera:
        """Camera of the part `image[y:y + height, x:x + width]`.

        Raises:
            GeometryError: the part is empty or leaves the picture.
        """
        _check_size(width, height)
        if x < 0 or y < 0 or x + width > self.width or y + height > self.height:
            raise GeometryError(
                f'crop {width}x{height} at ({x}, {y}) leaves the image of '
                f'{self.width}x{self.height}: choose a smaller one'
            )
        return dataclasses.replace(
            self, width=width, height=height, cx=self.cx - x, cy=self.cy - y
        )

    def rectified(self, balance: float = 0.0) -> Camera:
        """Pinhole of the same size that shows this camera's picture without distortion.

        The ratio of its focal lengths stays, so circles remain circles.

        Args:
            balance: 0 shows only pixels this camera has, 1 shows all it has with empty corners.

        Raises:
            GeometryError: balance lies outside 0..1.
        """
        if not 0.0 <= balance <= 1.0:
            raise GeometryError(f'balance {balance:g} must lie in 0..1: 0 crops, 1 keeps all')
        if not self.is_distorted:
            return dataclasses.replace(self, model=DistortionModel.NONE, distortion=())
        inner, outer = self._ideal_rectangles()
        low, high = (1.0 - balance) * inner + balance * outer
        zooms = self._size / (high - low) / self._focal
        fx, fy = self._focal * ((1.0 - balance) * zooms.max() + balance * zooms.min())
        cx, cy = 0.5 * (self._size - 1.0) - 0.5 * (low + high) * (fx, fy)
        return Camera(self.width, self.height, fx, fy, cx, cy)

    def undistort_maps(
        self, target: Camera
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Maps (H, W) float32 for `cv2.remap`: this camera's picture as `target` would see it.

        Pixels of the target this camera does not see point far outside the picture.
        """
        rays = target.rays(target.pixel_centers())
        xy = np.nan_to_num(self.project(rays), nan=_NOWHERE_PX).astype(np.float32)
        return np.ascontiguousarray(xy[..., 0]), np.ascontiguousarray(xy[..., 1])

    def pixel_centers(self) -> Array:
        """(H, W, 2) x, y of every pixel's centre."""
        x, y = np.arange(self.width, dtype=np.float64), np.arange(self.height, dtype=np.float64)
        return np.stack(np.meshgrid(x, y), axis=-1)

    def fov_deg(self) -> tuple[float, float]:
        """Horizontal and vertical field of view through the principal point, degrees.

        NaN when the lens model does not reach an edge of the picture.
        """
        right, bottom = self.width - 0.5, self.height - 0.5
        edges = [[-0.5, self.cy], [right, self.cy], [self.cx, -0.5], [self.cx, bottom]]
        angles = np.rad2deg(np.arccos(np.clip(self.rays(edges)[:, 2], -1.0, 1.0)))
        return float(angles[0] + angles[1]), float(angles[2] + angles[3])

    @functools.cached_property
    def _lens(self) -> Lens:
        if not self.is_distorted:
            return IdealLens()
        if self.model is DistortionModel.EQUIDISTANT:
            return EquidistantLens(self.distortion)
        return BrownLens(self.distortion)

    def _to_plane(self, xy: npt.ArrayLike) -> Array:
        return (np.asarray(xy, dtype=np.float64) - self._center) / self._focal

    def _to_pixels(self, plane: Array) -> Array:
        return plane * self._focal + self._center

    @functools.cached_property
    def _size(self) -> Array:
        return np.array([self.width, self.height], dtype=np.float64)

    @functools.cached_property
    def _focal(self) -> Array:
        return np.array([self.fx, self.fy])

    @functools.cached_property
    def _center(self) -> Array:
        return np.array([self.cx, self.cy])

    def _ideal_rectangles(self) -> tuple[Array, Array]:
        """Corners (2, 2) of the rectangles on z = 1 inside and around this camera's picture."""
        x = np.linspace(-0.5, self.width - 0.5, 33)
        y = np.linspace(-0.5, self.height - 0.5, 33)
        left, right = (self._limited(np.full(33, edge), y)[:, 0] for edge in (x[0], x[-1]))
        top, bottom = (self._limited(x, np.full(33, edge))[:, 1] for edge in (y[0], y[-1]))
        inner = np.array([[left.max(), top.max()], [right.min(), bottom.min()]])
        outer = np.array([[left.min(), top.min()], [right.max(), bottom.max()]])
        return inner, outer

    def _limited(self, x: Array, y: Array) -> Array:
        """Points (N, 2) on z = 1 of pixels, those too far off the axis pulled in."""
        xy = np.stack([x, y], axis=-1)
        ideal = self.unproject(xy)[:, :2]
        direction = self._to_plane(xy)
        direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
        limit = np.tan(min(_WIDEST_RECTIFIED_RAD, self._lens.angle_max_rad))
        too_far = ~(np.linalg.norm(ideal, axis=-1, keepdims=True) < limit)  # NaN is too far
        return np.where(too_far, direction * limit, ideal)


def _check_size(width: int, height: int) -> None:
    if not all(size > 0 and float(size).is_integer() for size in (width, height)):
        raise GeometryError(f'image size {width}x{height} must be two positive whole numbers')


def _finite(name: str, value: float) -> float:
    if not np.isfinite(value):
        raise GeometryError(
            f'intrinsic {name}={value} must be a finite number: calibrate the camera'
        )
    return float(value)


def _coefficients(model: DistortionModel, values: tuple[float, ...]) -> tuple[float, ...]:
    """Coefficients brought to the model's length, when only zeros have to be added or dropped."""
    given = tuple(float(value) for value in values)
    if not np.isfinite(given).all():
        raise GeometryError(f'distortion {given} must be finite: calibrate the camera')
    size = model.size
    if not given and model is not DistortionModel.EQUIDISTANT:
        return (0.0,) * size
    padded = (*given, 0.0) if (model, len(given)) == (DistortionModel.PLUMB_BOB, 4) else given
    if len(padded) < size or any(padded[size:]):
        raise GeometryError(
            f'distortion model {model.value} needs {size} coefficients, got {len(given)}: '
            'check the distortion model and its numbers'
        )
    return padded[:size]
