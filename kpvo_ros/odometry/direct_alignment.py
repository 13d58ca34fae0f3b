"""The motion between two images from all their grey values, where one of them has depth.

Every pixel of image 0 with depth and some contrast is carried into image 1 by a guess of the
motion; Gauss-Newton on SE(3) makes the grey values agree, from coarse to fine. No keypoint is
needed, so it works on blurred and weakly textured views where matches fail; it needs a guess that
is right to some 15 pixels, such as a pose network's.

Inverse compositional (Baker & Matthews 2004, "Lucas-Kanade 20 years on"): the derivatives are
those of image 0, made once per level. Photometric error with depth after Kerl 2013, "Robust
odometry estimation for RGB-D cameras"; one gain and one offset of the light (Engel 2018, "Direct
sparse odometry"); Huber's loss. Lenses are the caller's to undo.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpvo_ros.errors import OdometryError
from kpvo_ros.geometry import se3

Array = npt.NDArray[np.float64]

LEVELS = 3  # of the pyramid, halved each time
MIN_PIXELS = 100  # of a level with depth and contrast; with fewer it is passed over
_ITERATIONS = 30  # of a level, at most
_STEP_DONE = 1e-5  # of a step: radians, and translation over the median depth
_FLAT = 1.5  # slope in grey values per pixel below which a pixel tells nothing
_HUBER = 1.345  # standard deviations from which on an error counts linearly
_NOISE = 1.0  # grey values: least standard deviation of the errors
_INLIER_NOISE, _INLIER_PX = 6.0, 1.0  # grey values, and pixels of shift, of an explained error
_SAME_SURFACE = 0.9  # ratio of nearest depth to another of the same surface
_NOISE_CORRELATION = 30.0  # pixels whose noise counts as one independent error
_DEPTH_CORRELATION = 2000.0  # pixels whose errors of depth do: networks err over whole surfaces
_FIRST_DAMPING, _LAST_DAMPING, _MAX_DAMPING = 1e-3, 1e-9, 1e4
_BORDER_PX = 1.0  # at the edge of image 1 nothing is looked up
_NEAREST = 1e-3  # of a point's depth: nearer to camera 1 it has no usable pixel
_NO_IDEA = 10.0  # relative standard deviation of a depth that means nothing
_SMALLEST_PX = 16  # side of an image that is still halved


class Alignment(NamedTuple):
    """The motion that makes two images agree.

    Attributes:
        T_1_0: (4, 4) pose of camera 0 in camera 1, in the unit of the depth; the guess itself
            where nothing could be aligned.
        information: (6, 6) inverse covariance of xi in `T_1_0 exp_se3(xi)`, translation first,
            from the errors that are left and those of the depth. Zero where nothing could be
            aligned, singular where the images leave a direction open.
        inlier_share: of the pixels with depth and contrast those that meet, within image 1, a
            grey value which a shift of one pixel would explain.
        iterations: steps that were tried, of all levels.
    """

    T_1_0: Array
    information: Array
    inlier_share: float
    iterations: int


def align(
    gray0: npt.ArrayLike,
    depth0: npt.ArrayLike,
    gray1: npt.ArrayLike,
    K: npt.ArrayLike,
    T_1_0: npt.ArrayLike,
    *,
    depth_sigma: npt.ArrayLike = 0.1,
) -> Alignment:
    """Improve a guess of the motion between two images.

    Args:
        gray0: (H, W) grey values 0..255, of any number type; some 256x192 are plenty.
        depth0: (H, W) depth of image 0 along the optical axis; not finite or not positive is
            unknown.
        gray1: (H, W) the other image.
        K: (3, 3) pinhole matrix of both.
        T_1_0: (4, 4) guess.
        depth_sigma: relative standard deviation of the depth, a number or (H, W); pixels whose
            grey value hangs on it count less, and the motion is known less well.

    Raises:
        OdometryError: the shapes do not fit, or the guess is no motion.
    """
    gray0, gray1 = (np.asarray(gray, np.float32) for gray in (gray0, gray1))
    depth0, K = np.asarray(depth0, np.float64), np.asarray(K, np.float64)
    T = np.array(T_1_0, np.float64)
    sigma = np.asarray(depth_sigma, np.float64)
    _check(gray0, depth0, gray1, K, T, sigma)
    T[:3, :3] = se3.nearest_rotation(T[:3, :3])
    with np.errstate(divide='ignore'):
        rho = np.where(np.isfinite(depth0) & (depth0 > 0), 1.0 / depth0, 0.0)
    sigma = np.broadcast_to(np.nan_to_num(sigma, nan=_NO_IDEA), rho.shape).clip(0.0, _NO_IDEA)
    light = np.array([1.0, 0.0])  # gain and offset
    levels = [_Level.of(view) for view in _pyramid(_View(gray0, gray1, rho, sigma, K))]
    iterations, information, share = 0, np.zeros((6, 6)), 0.0
    for number, level in reversed(list(enumerate(levels))):
        if len(level.value) < MIN_PIXELS:
            continue
        T, light, steps = _minimise(level, T, light)
        iterations += steps
        if number == 0:
            state = level.compare(T, light)
            information, share = level.information(state, T, light), level.inlier_share(state)
    return Alignment(T, information, share, iterations)


# ------------------------------------------------------------------------------------ private


class _Comparison(NamedTuple):
    """Errors of a level's pixels at some motion and light.

    Attributes:
        error: (N,) grey value met in image 1 less the one expected; 0 outside.
        inside: (N,) bool, the pixel lies before camera 1 and within image 1.
    """

    error: Array
    inside: npt.NDArray[np.bool_]

    @property
    def is_seen(self) -> bool:
        """Whether enough of the pixels are inside."""
        return bool(self.inside.sum() >= MIN_PIXELS)

    def cost(self, spread: Array) -> float:
        """Mean of Huber's loss over the pixels inside, infinite where they are too few."""
        if not self.is_seen:
            return np.inf
        size = np.abs(self.error / spread)[self.inside]
        return float(np.where(size < _HUBER, size**2, _HUBER * (2 * size - _HUBER)).mean())


class _Level(NamedTuple):
    """What one level of the pyramid needs of image 0, and image 1 itself.

    Attributes:
        points: (N, 3) points of camera 0 with contrast.
        value: (N,) their grey values.
        slope: (N,) length of the slope there, grey values per pixel.
        J: (N, 6) derivative of the value with respect to a twist of camera 0's points.
        depth_sigma: (N,) relative standard deviation of their depth.
        gray1: (H, W) float32.
        K: (3, 3).
    """

    points: Array
    value: Array
    slope: Array
    J: Array
    depth_sigma: Array
    gray1: np.ndarray
    K: Array

    @classmethod
    def of(cls, view: _View) -> _Level:
        """Points, values and derivatives; any of them may be none."""
        gray0, K = _smoothed(view.gray0), view.K
        dy, dx = (np.asarray(d, np.float64) for d in np.gradient(gray0))
        slope = np.hypot(dx, dy)
        chosen = (view.rho > 0) & (slope > _FLAT)
        y, x = np.nonzero(chosen)
        z = 1.0 / view.rho[chosen]
        u, v = (x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]
        gx, gy = dx[chosen] * K[0, 0], dy[chosen] * K[1, 1]
        along = gx * u + gy * v
        twist = (gx / z, gy / z, -along / z, -gy - along * v, gx + along * u, gy * u - gx * v)
        return cls(
            np.stack([u * z, v * z, z], axis=1),
            gray0[chosen].astype(np.float64),
            slope[chosen],
            np.stack(twist, axis=1),
            view.sigma[chosen],
            _smoothed(view.gray1),
            K,
        )

    def compare(self, T_1_0: Array, light: Array) -> _Comparison:
        """Look the points up in image 1."""
        height, width = self.gray1.shape
        p = self.points @ T_1_0[:3, :3].T + T_1_0[:3, 3]
        ahead = p[:, 2] > _NEAREST * self.points[:, 2]
        z = np.where(ahead, p[:, 2], 1.0)
        x = p[:, 0] / z * self.K[0, 0] + self.K[0, 2]
        y = p[:, 1] / z * self.K[1, 1] + self.K[1, 2]
        last_x, last_y = width - 1 - _BORDER_PX, height - 1 - _BORDER_PX
        inside = ahead & (x >= _BORDER_PX) & (y >= _BORDER_PX) & (x <= last_x) & (y <= last_y)
        met = _bilinear(self.gray1, np.where(inside, x, 0.0), np.where(inside, y, 0.0))
        return _Comparison(np.where(inside, met - light[0] * self.value - light[1], 0.0), inside)

    def noise(self, state: _Comparison) -> float:
        """Robust standard deviation of the errors, grey values."""
        return max(_NOISE, 1.4826 * float(np.median(np.abs(state.error[state.inside]))))

    def depth_noise(self, T_1_0: Array) -> Array:
        """(N,) standard deviation of the errors that a wrong depth alone would make.

        A point too far by a share s of its depth meets in image 1 what, to first order, lies in
        image 0 where a point displaced by s times the way to camera 1 would.
        """
        return np.abs(self.J[:, :3] @ se3.inverse(T_1_0)[:3, 3]) * self.depth_sigma

    def normal_equations(
        self, state: _Comparison, spread: Array, light: Array, variance: Array
    ) -> tuple[Array, Array]:
        """Hessian (8, 8) and right-hand side (8,) of a step of twist, gain and offset."""
        size = np.abs(state.error) / spread
        weight = state.inside / np.maximum(1.0, size / _HUBER) / variance
        J = np.column_stack([light[0] * self.J, self.value, np.ones(len(size))])
        weighted = J * weight[:, None]
        return weighted.T @ J, weighted.T @ state.error

    def information(self, state: _Comparison, T_1_0: Array, light: Array) -> Array:
        """(6, 6) what the errors tell of the motion when the light is not known."""
        if not state.is_seen:
            return np.zeros((6, 6))
        noise, depth_noise = self.noise(state), self.depth_noise(T_1_0)
        variance = _NOISE_CORRELATION * noise**2 + _DEPTH_CORRELATION * depth_noise**2
        spread = np.hypot(noise, depth_noise)
        H, _ = self.normal_equations(state, spread, light, variance)
        cross = H[:6, 6:]
        known = H[:6, :6] - cross @ np.linalg.pinv(H[6:, 6:], hermitian=True) @ cross.T
        return 0.5 * (known + known.T)

    def inlier_share(self, state: _Comparison) -> float:
        """See `Alignment`."""
        explained = np.abs(state.error) < _INLIER_NOISE + _INLIER_PX * self.slope
        return float((explained & state.inside).mean())


def _minimise(level: _Level, T: Array, light: Array) -> tuple[Array, Array, int]:
    """Levenberg and Marquardt: motion and light with the least error, and the steps tried."""
    state, damping, steps = level.compare(T, light), _FIRST_DAMPING, 0
    if not state.is_seen:
        return T, light, 0
    depth = float(np.median(level.points[:, 2]))
    spread = np.hypot(level.noise(state), level.depth_noise(T))
    H, g = level.normal_equations(state, spread, light, spread**2)
    while steps < _ITERATIONS and damping < _MAX_DAMPING:
        steps += 1
        diagonal = np.maximum(np.diag(H), 1e-9 * np.diag(H).max())
        step = np.linalg.solve(H + np.diag(damping * diagonal), g)
        T_new, light_new = T @ se3.exp_se3(-step[:6]), light + step[6:]
        new = level.compare(T_new, light_new)
        if not new.cost(spread) < state.cost(spread) or light_new[0] <= 0:
            damping *= 10.0
            continue
        T, light, state, damping = T_new, light_new, new, max(0.1 * damping, _LAST_DAMPING)
        if max(np.abs(step[:3]).max() / depth, np.abs(step[3:6]).max()) < _STEP_DONE:
            break
        spread = np.hypot(level.noise(state), level.depth_noise(T))
        H, g = level.normal_equations(state, spread, light, spread**2)
    return T, light, steps


class _View(NamedTuple):
    """Two pictures of one size: grey values, and of image 0 inverse depth (0 is unknown), sigma.

    Attributes:
        gray0: (H, W) float32.
        gray1: (H, W) float32.
        rho: (H, W) inverse depth of image 0, 0 where it is unknown.
        sigma: (H, W) relative standard deviation of it.
        K: (3, 3).
    """

    gray0: np.ndarray
    gray1: np.ndarray
    rho: Array
    sigma: Array
    K: Array

    def halved(self) -> _View:
        """Half the size; pixels lie as in `Camera.resized`."""
        K = self.K.copy()
        K[:2] *= 0.5
        K[:2, 2] -= 0.25
        rho, sigma = _halved_depth(self.rho, self.sigma)
        return _View(_blocks(self.gray0).mean(0), _blocks(self.gray1).mean(0), rho, sigma, K)


def _pyramid(view: _View) -> list[_View]:
    """The views at full size, half, and so on."""
    views = [view]
    while len(views) < LEVELS and min(views[-1].gray0.shape) >= _SMALLEST_PX:
        views.append(views[-1].halved())
    return views


def _blocks(image: np.ndarray) -> np.ndarray:
    """(4, H / 2, W / 2): the pixels of each block of 2x2; an odd row or column is left out."""
    height, width = (side // 2 for side in image.shape)
    even = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    return even.transpose(1, 3, 0, 2).reshape(4, height, width)


def _halved_depth(rho: Array, sigma: Array) -> tuple[Array, Array]:
    """Inverse depth and sigma of the nearest surface in blocks of 2x2 pixels.

    A contour belongs to what is in front. Inverse depth is linear on planes, so it is averaged.
    """
    blocks = _blocks(rho)
    same = (blocks > _SAME_SURFACE * blocks.max(0)) & (blocks > 0)
    count = np.maximum(same.sum(0), 1)
    return (blocks * same).sum(0) / count, (_blocks(sigma) * same).sum(0) / count


def _smoothed(image: np.ndarray) -> np.ndarray:
    """Means over neighbours, weighted 1 2 1 both ways, so that slopes hold for a pixel or two."""
    padded = np.pad(image, 1, mode='edge')
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16


def _bilinear(image: np.ndarray, x: Array, y: Array) -> Array:
    """(N,) values of an image at pixels left of its last column and above its last row."""
    left, top = x.astype(np.intp), y.astype(np.intp)
    a, b = x - left, y - top
    flat, corner = image.reshape(-1), top * image.shape[1] + left
    upper = (1 - a) * flat[corner] + a * flat[corner + 1]
    corner += image.shape[1]
    return (1 - b) * upper + b * ((1 - a) * flat[corner] + a * flat[corner + 1])


def _check(
    gray0: np.ndarray, depth0: Array, gray1: np.ndarray, K: Array, T: Array, sigma: Array
) -> None:
    """Refuse what cannot be aligned.

    Raises:
        OdometryError: see `align`.
    """
    if gray0.ndim != 2 or not gray0.shape == depth0.shape == gray1.shape:
        raise OdometryError(
            f'alignment needs two grey images and a depth of one size (H, W), got {gray0.shape}, '
            f'{gray1.shape} and {depth0.shape}: resize them'
        )
    if sigma.shape not in ((), depth0.shape):
        raise OdometryError(
            f'depth_sigma {sigma.shape} is neither a number nor of the size of the depth '
            f'{depth0.shape}: resize it'
        )
    if K.shape != (3, 3) or T.shape != (4, 4) or not np.isfinite(T).all():
        raise OdometryError(
            f'alignment needs K (3, 3) and a finite guess (4, 4), got {K.shape} and {T.shape}: '
            'start from the identity where there is no guess'
        )
