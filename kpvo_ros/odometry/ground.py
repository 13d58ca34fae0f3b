"""The floor in front of the camera, measured by aligning its picture in two views.

The floor is the plane n . p = h in camera coordinates, written as the vector m = n / h, because
the inverse depth of a floor pixel with ray r is then simply m . r. Two views of known relative
pose predict where every floor pixel went; m is found by Gauss-Newton on the grey-value
differences and filtered over keyframes. Direct alignment uses weak asphalt texture that yields no
keypoint (the idea of plane-guided matching in Song & Chandraker, CVPR 2014).

Only the strip the robot is about to drive over is used: kerbs, lawns and walls begin beside it.
Lengths are in map units; everything is relative to h, so that the unit does not matter.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera

STRIP_HALF_WIDTH = 1.2  # of the strip, in camera heights
STRIP_LENGTH = 8.5  # how far ahead the strip is used, in camera heights
LOOKS_AHEAD = 0.8  # share of the motion that is forward, above which the strip bends with it
MAX_PIXELS = 4000  # of the strip; more gain nothing but time
MIN_PIXELS = 300  # fewer and the floor counts as not seen
MIN_CORRELATION = 0.7  # of the aligned strips; less and it is not (or not one) plane
CELLS = (6, 3)  # of the strip, along and across; each is floor or not
CELL_CORRELATION = 0.5  # above which a cell moves like the floor
MIN_FLOOR = 0.25  # share of the strip that must be floor
MAX_SURPRISE = 16.0  # squared Mahalanobis distance above which a fit is some other surface
MAX_REFUSALS = 20  # surprises in a row after which the known floor is given up
GOOD_BASELINE = 0.4  # motion between two views that is waited for, in camera heights
MAX_SIGMA = 0.15  # relative, of a height from two views; less certain ones wait for more motion
FIRST_SIGMA = 0.04  # the same for the first one, which defines the unit
SEARCH = (0.3, 30.0, 60)  # heights tried first: from, to (in baselines), how many
NORMAL_SIGMA_RAD = np.deg2rad(2.0)  # prior knowledge of pitch and roll
NORMAL_WALK_RAD = np.deg2rad(0.05)  # how much they change from keyframe to keyframe
HEIGHT_WALK = 0.002  # relative change of h from keyframe to keyframe (drift of the map's unit)
YOUNG_FITS = 15.0  # fits after which a map's unit has settled; before, it drifts more
HEIGHT_NOISE = 0.01  # relative unevenness of real floors between two fits
PIXEL_CORRELATION = 30.0  # pixels that count as one independent measurement


@dataclasses.dataclass(frozen=True)
class _View:
    gray: np.ndarray  # (H, W) float32, local mean and contrast removed
    T_odom_camera: np.ndarray


class GroundPlane:
    """Tracks the floor over keyframes.

    Args:
        pitch_rad: angle by which the camera looks down, as mounted.

    Attributes:
        m: (3,) normal / height in the newest camera, None before the first fit.
        covariance: (3, 3) of `m`.
    """

    def __init__(self, pitch_rad: float) -> None:
        self._normal = np.array([0.0, np.cos(pitch_rad), np.sin(pitch_rad)])
        self._view: _View | None = None
        self._rays: tuple[Camera, np.ndarray, np.ndarray] | None = None
        self.m: np.ndarray | None = None
        self.covariance = np.zeros((3, 3))
        self._refusals = self._fits = 0

    @property
    def height(self) -> float:
        """Height of the camera over the floor, map units."""
        assert self.m is not None
        return float(1.0 / np.linalg.norm(self.m))

    @property
    def relative_sigma(self) -> float:
        """Standard deviation of `height` / height."""
        assert self.m is not None
        return float(
            np.hypot(_relative_sigma(self.m, np.linalg.inv(self.covariance)), self._drift)
        )

    @property
    def _drift(self) -> float:
        """Relative change of the map's unit until the next fit; a young map is still settling."""
        return HEIGHT_WALK * max(1.0, YOUNG_FITS / max(1, self._fits))

    def rescale(self, factor: float) -> None:
        """The map was stretched by `factor` about the newest camera."""
        if self.m is not None:
            self.m, self.covariance = self.m / factor, self.covariance / factor**2

    def update(self, gray: np.ndarray, T_odom_camera: np.ndarray, camera: Camera) -> str | None:
        """Look at a frame; most frames cost nothing, because the camera has hardly moved.

        Args:
            gray: (H, W) uint8.
            T_odom_camera: (4, 4) pose in the map.
            camera: intrinsics.

        Returns:
            '' when the floor was measured, why it could not be, or None when it is not yet time.
        """
        if self._view is None:
            self._view = _View(_flatten(gray), T_odom_camera)
            return None
        T_now_last = se3.inverse(T_odom_camera) @ self._view.T_odom_camera
        baseline = float(np.linalg.norm(T_now_last[:3, 3]))
        if self.m is not None and baseline < GOOD_BASELINE * self.height:
            return None
        last, now = self._view, _View(_flatten(gray), T_odom_camera)
        fit = self._measure(last, now, T_now_last, camera)
        if fit is None or self._surprises(*fit):
            self._view = now
            if self.m is not None:
                self.covariance = self.covariance + self._walk(self.m, 0.0, self._drift)
            return 'the floor ahead is not seen, or is no textured plane'
        if _relative_sigma(*fit) > (FIRST_SIGMA if self.m is None else MAX_SIGMA):
            return None  # too little parallax yet
        self._view, self._refusals = now, 0
        self._fuse(*fit)
        self._fits += 1
        return ''

    def _surprises(self, m: np.ndarray, information: np.ndarray) -> bool:
        """Whether a fit contradicts what is known of the floor: a wall or kerb in the strip."""
        if _relative_sigma(m, information) > MAX_SIGMA:
            return False
        prior, covariance = self._prior(m)
        covariance = covariance + np.linalg.inv(information)
        covariance = covariance + self._walk(prior, 0.0, HEIGHT_NOISE)
        off = m - prior
        if off @ np.linalg.solve(covariance, off) <= MAX_SURPRISE:
            return False
        self._refusals += self.m is not None
        if self._refusals > MAX_REFUSALS:
            self.m, self._refusals = None, 0
        return True

    def _measure(
        self, last: _View, now: _View, T_now_last: np.ndarray, camera: Camera
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """(m, information) from two views, None when they do not show a floor."""
        start = self.m if self.m is not None else self._search(last, now, T_now_last, camera)
        bend = _bend(T_now_last)
        strip = None if start is None else self._strip(camera, start, bend, MAX_PIXELS)
        if start is None or strip is None:
            return None
        alignment = _Alignment(last.gray, now.gray, T_now_last, camera, *strip)
        floor = alignment.floor_pixels(start)
        if floor.sum() < max(MIN_PIXELS, MIN_FLOOR * len(floor)):
            return None
        xy, rays = strip
        alignment = _Alignment(last.gray, now.gray, T_now_last, camera, xy[floor], rays[floor])
        return alignment.fit(start)

    def _search(
        self, last: _View, now: _View, T_now_last: np.ndarray, camera: Camera
    ) -> np.ndarray | None:
        """The m of the best of many heights, None when no height fits."""
        baseline = float(np.linalg.norm(T_now_last[:3, 3]))
        best, best_score = None, MIN_CORRELATION
        for height in max(baseline, 1e-9) * np.geomspace(*SEARCH):
            m = self._normal / height
            strip = self._strip(camera, m, _bend(T_now_last), MAX_PIXELS // 4)
            if strip is None:
                return None
            score = _Alignment(last.gray, now.gray, T_now_last, camera, *strip).correlation(m)
            if score > best_score:
                best, best_score = m, score
        return best

    def _strip(
        self, camera: Camera, m: np.ndarray, bend: float, count: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """About `count` pixels (N, 2) of the strip ahead and their rays (N, 3).

        The strip bends with the way of the camera, `bend` radians per map unit to the right: in a
        curve, what lies straight ahead is somebody else's lawn.
        """
        if self._rays is None or self._rays[0] != camera:
            grid = np.indices((camera.height, camera.width))[::-1].reshape(2, -1).T
            rays = camera.unproject(grid.astype(np.float64))
            below = rays @ self._normal > 1.0 / (2 * STRIP_LENGTH)
            self._rays = (camera, grid[below], rays[below])
        _, xy, rays = self._rays
        rho_h = rays @ (m / np.linalg.norm(m))  # height / depth of the pixel, were it floor
        inside = rho_h > 1.0 / STRIP_LENGTH
        rho_h = np.maximum(rho_h, 1e-9)
        aside = rays[:, 0] / rho_h - 0.5 * bend / np.linalg.norm(m) / rho_h**2
        inside &= np.abs(aside) < STRIP_HALF_WIDTH
        chosen = np.flatnonzero(inside)
        if len(chosen) < MIN_PIXELS:
            return None
        chosen = chosen[:: max(1, len(chosen) // count)]
        return xy[chosen], rays[chosen]

    def _fuse(self, m: np.ndarray, information: np.ndarray) -> None:
        """Kalman update of the filtered plane with a measured one."""
        prior, prior_covariance = self._prior(m)
        prior_information = np.linalg.inv(prior_covariance)
        self.covariance = np.linalg.inv(prior_information + information)
        self.m = self.covariance @ (prior_information @ prior + information @ m)

    def _prior(self, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(plane, covariance) known before the fit `m`: at first how the camera is mounted."""
        if self.m is None:
            prior = self._normal * np.linalg.norm(m)
            return prior, self._walk(prior, NORMAL_SIGMA_RAD, 10.0)
        return self.m, self.covariance + self._walk(self.m, NORMAL_WALK_RAD, self._drift)

    @staticmethod
    def _walk(m: np.ndarray, turn_rad: float, stretch: float) -> np.ndarray:
        """Covariance of m when its direction and its relative length vary by so much."""
        length = np.linalg.norm(m)
        along = np.outer(m, m) / length**2
        return length**2 * (turn_rad**2 * (np.eye(3) - along) + stretch**2 * along)


class _Alignment:
    """Grey values of the strip in the last view against where m puts them in the new view."""

    def __init__(
        self,
        last: np.ndarray,
        now: np.ndarray,
        T_now_last: np.ndarray,
        camera: Camera,
        xy: np.ndarray,
        rays: np.ndarray,
    ) -> None:
        self._now, self._camera = now, camera
        self._turned = rays @ T_now_last[:3, :3].T
        self._shift = T_now_last[:3, 3]
        self._rays = rays
        self._value = last[xy[:, 1], xy[:, 0]]

    def correlation(self, m: np.ndarray) -> float:
        """Correlation of the two strips, -1 when too little of the strip stays in view."""
        value, inside, _, _ = self._look_up(m)
        if inside.sum() < max(MIN_PIXELS, 0.3 * len(inside)):
            return -1.0
        return _correlation(value[inside], self._value[inside])

    def floor_pixels(self, m: np.ndarray) -> np.ndarray:
        """(N,) bool: pixels in cells of the strip that move like the floor `m` does."""
        value, inside, _, _ = self._look_up(m)
        cell = _cells(self._rays @ m, self._rays[:, 0], CELLS)
        cell[~inside] = -1
        floor = np.zeros(len(cell), bool)
        for one in range(CELLS[0] * CELLS[1]):
            chosen = np.flatnonzero(cell == one)
            if len(chosen) < 20:
                continue
            likeness = _correlation(value[chosen], self._value[chosen])
            floor[chosen] = likeness > CELL_CORRELATION
        return floor

    def fit(self, m: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Gauss-Newton from `m`: (m, information (3, 3)), None when the strips do not agree."""
        information = np.zeros((3, 3))
        for _ in range(12):
            value, inside, xy, p = self._look_up(m)
            if inside.sum() < MIN_PIXELS:
                return None
            residual = (value - self._value)[inside]
            slope = self._slope(xy[inside], p[inside]) @ self._shift
            jacobian = slope[:, None] * self._rays[inside]  # (N, 3) d value / d m
            sigma = 1.4826 * float(np.median(np.abs(residual))) + 1e-3
            weight = 1.0 / np.maximum(1.0, np.abs(residual) / (1.5 * sigma))
            information = (jacobian * weight[:, None]).T @ jacobian / sigma**2
            step = np.linalg.lstsq(
                information, (jacobian * weight[:, None]).T @ residual / sigma**2, rcond=None
            )[0]
            m = m - step
            if np.linalg.norm(step) < 1e-4 * np.linalg.norm(m):
                break
        if not np.isfinite(m).all() or self.correlation(m) < MIN_CORRELATION:
            return None
        return m, information / PIXEL_CORRELATION

    def _look_up(self, m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Grey values, (N,) bool inside the image, pixels (N, 2) and points (N, 3) / depth."""
        p = self._turned + (self._rays @ m)[:, None] * self._shift
        with np.errstate(invalid='ignore', divide='ignore'):
            xy = self._camera.project(p)
        inside = (p[:, 2] > 0) & self._camera.contains(xy, 2.0)
        value = _bilinear(self._now, np.where(inside[:, None], xy, 0.0))
        return value, inside, xy, p

    def _slope(self, xy: np.ndarray, p: np.ndarray) -> np.ndarray:
        """(N, 3) d value / d p through the lens-free projection."""
        half_x, half_y = np.array([0.5, 0.0]), np.array([0.0, 0.5])
        gx = _bilinear(self._now, xy + half_x) - _bilinear(self._now, xy - half_x)
        gy = _bilinear(self._now, xy + half_y) - _bilinear(self._now, xy - half_y)
        gx, gy = gx * self._camera.fx / p[:, 2], gy * self._camera.fy / p[:, 2]
        gz = -(gx * p[:, 0] + gy * p[:, 1]) / p[:, 2]
        return np.stack([gx, gy, gz], 1)


def _bend(T_now_last: np.ndarray) -> float:
    """Curvature of the way between two views, radians to the right per map unit.

    Zero for a camera that does not look where it goes: what is ahead is not its way then.
    """
    T_last_now = se3.inverse(T_now_last)
    baseline = float(np.linalg.norm(T_last_now[:3, 3]))
    turn_rad = float(np.arctan2(T_last_now[0, 2], T_last_now[2, 2]))
    looks_ahead = T_last_now[2, 3] > LOOKS_AHEAD * baseline > 0
    return turn_rad / baseline if looks_ahead else 0.0


def _relative_sigma(m: np.ndarray, information: np.ndarray) -> float:
    """Standard deviation of 1 / |m| relative to it, with the normal free."""
    if np.linalg.cond(information) > 1e12:
        return float('inf')
    return float(np.sqrt(m @ np.linalg.inv(information) @ m)) / float(m @ m)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets of grey values; -1 where one of them is constant and shows nothing."""
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else -1.0


def _cells(near: np.ndarray, side: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(N,) int cell of each pixel: `shape` bins of equal count by nearness, then by side."""
    rank = np.empty((2, len(near)), int)
    rank[0, np.argsort(near)] = np.arange(len(near))
    rank[1, np.argsort(side)] = np.arange(len(near))
    return (rank[0] * shape[0] // len(near)) * shape[1] + rank[1] * shape[1] // len(near)


def _bilinear(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(N,) values of a float32 image at (N, 2) pixels."""
    x, y = (np.ascontiguousarray(xy[None, :, axis], np.float32) for axis in (0, 1))
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def _flatten(gray: np.ndarray) -> np.ndarray:
    """Local mean and contrast removed: exposure and shading drop out."""
    image = gray.astype(np.float32)
    mean = cv2.GaussianBlur(image, (0, 0), 6.0)
    contrast = np.sqrt(cv2.GaussianBlur((image - mean) ** 2, (0, 0), 6.0)) + 2.0
    return (cv2.GaussianBlur(image, (0, 0), 1.0) - mean) / contrast
