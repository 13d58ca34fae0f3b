"""The floor in front of the camera, measured by aligning its picture in two views.

The floor is the plane n . p = h in camera coordinates, written as the vector m = n / h, because
the inverse depth of a floor pixel with ray r is then simply m . r. Two views of known relative
pose predict where every floor pixel went; m is found by Gauss-Newton on the grey-value
differences (`strip_alignment`) and filtered over keyframes.

Only the strip the robot is about to drive over is used: kerbs, lawns and walls begin beside it.
Lengths are in map units; everything is relative to h, so that the unit does not matter.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.strip_alignment import (
    MIN_CORRELATION,
    MIN_PIXELS,
    StripAlignment,
    flatten,
)

STRIP_HALF_WIDTH = 1.2  # of the strip, in camera heights
STRIP_LENGTH = 8.5  # how far ahead the strip is used, in camera heights
LOOKS_AHEAD = 0.8  # share of the motion that is forward, above which the strip bends with it
MAX_PIXELS = 4000  # of the strip; more gain nothing but time
MIN_FLOOR = 0.25  # share of the strip that must be floor
MAX_SURPRISE = 16.0  # squared Mahalanobis distance above which a fit is some other surface
MAX_REFUSALS = 20  # surprises in a row after which the known floor is given up
GOOD_BASELINE = 0.4  # motion between two views that is waited for, in camera heights
FIRST_BASELINE = 0.1  # the same for the first fit, whose view is used again until it is good
MAX_SIGMA = 0.15  # relative, of a height from two views; less certain ones wait for more motion
FIRST_SIGMA = 0.04  # the same for the first one, which defines the unit
SEARCHED_PIXELS = 20000  # that are looked through for the strip of every height tried
SEARCH = (0.3, 30.0, 60)  # heights tried first: from, to (in baselines), how many
_COARSE_PX = 16  # rows and columns in which the floor's uppermost row is looked for
NEAR_HINT = 2.0  # how much more or less than one that fitted a moment ago is tried
NORMAL_SIGMA_RAD = np.deg2rad(2.0)  # prior knowledge of pitch and roll
NORMAL_WALK_RAD = np.deg2rad(0.05)  # how much they change from keyframe to keyframe
HEIGHT_WALK = 0.002  # relative change of h from keyframe to keyframe (drift of the map's unit)
YOUNG_FITS = 15.0  # fits after which a map's unit has settled; before, it drifts more
HEIGHT_NOISE = 0.01  # relative unevenness of real floors between two fits


_Plane = tuple[np.ndarray, np.ndarray]  # m (3,) and its covariance (3, 3)


@dataclasses.dataclass(frozen=True)
class _View:
    gray: np.ndarray  # (H, W) float32, local mean and contrast removed
    T_odom_camera: np.ndarray


class _Below(NamedTuple):
    """Pixels that may show the floor ahead.

    Attributes:
        xy: (N, 2) integer pixels.
        rays: (N, 3) of them, z = 1.
    """

    xy: np.ndarray
    rays: np.ndarray


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
        self._before: _Plane | None = None  # known before the first fit with this view
        self._wanted = GOOD_BASELINE  # of the next fit, in camera heights
        self._below: tuple[Camera, _Below] | None = None
        self.m: np.ndarray | None = None
        self.covariance = np.zeros((3, 3))
        self._refusals = self._fits = 0
        self._hint: float | None = None  # a height that fitted, but too early to be sure

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

    def stretch(self, factor: float, about: np.ndarray) -> None:
        """The map was stretched by `factor` about a point (3,) of it."""
        if self._hint is not None:
            self._hint *= factor
        if self.m is not None:
            self.m, self.covariance = self.m / factor, self.covariance / factor**2
        if self._before is not None:
            m, covariance = self._before
            self._before = m / factor, covariance / factor**2
        if self._view is not None:
            T = self._view.T_odom_camera.copy()
            T[:3, 3] = about + factor * (T[:3, 3] - about)
            self._view = dataclasses.replace(self._view, T_odom_camera=T)

    def move(self, T_new_old: np.ndarray) -> None:
        """The map lies elsewhere in its frame now; T_new_old is (4, 4)."""
        if self._view is not None:
            T = T_new_old @ self._view.T_odom_camera
            self._view = dataclasses.replace(self._view, T_odom_camera=T)

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
            self._view = _View(flatten(gray), T_odom_camera)
            self._pixels_below(camera)  # now, because the next view has more to do
            return None
        T_now_last = se3.inverse(T_odom_camera) @ self._view.T_odom_camera
        baseline = float(np.linalg.norm(T_now_last[:3, 3]))
        if self.m is not None and baseline < self._wanted * self.height:
            return None
        last, now = self._view, _View(flatten(gray), T_odom_camera)
        fit = self._measure(last, now, T_now_last, camera)
        self._hint = None if fit is None else float(1.0 / np.linalg.norm(fit[0]))
        if fit is None or self._surprises(*fit):
            self._look_from(now)
            if self.m is not None:
                self.covariance = self.covariance + self._walk(self.m, 0.0, self._drift)
            return 'the floor ahead is not seen, or is no textured plane'
        if self._is_too_early(*fit, baseline):
            return None
        self._fuse(*fit)
        self._fits, self._refusals = self._fits + 1, 0
        if baseline < GOOD_BASELINE * self.height:
            self._wanted = min(GOOD_BASELINE, 2.0 * baseline / self.height)
        else:
            self._look_from(now)
        return ''

    def _look_from(self, view: _View) -> None:
        """The next fits are made from this view."""
        self._view, self._wanted = view, GOOD_BASELINE
        self._before = None if self.m is None else (self.m, self.covariance)

    def _is_too_early(self, m: np.ndarray, information: np.ndarray, baseline: float) -> bool:
        """Whether the views show too little parallax yet; more, for the one that sets the unit."""
        sigma = _relative_sigma(m, information)
        if self.m is not None:
            return sigma > MAX_SIGMA
        return sigma > FIRST_SIGMA or baseline * np.linalg.norm(m) < FIRST_BASELINE

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
        strip = None if start is None else self._strip_of(camera, start, bend)
        if start is None or strip is None:
            return None
        alignment = StripAlignment(last.gray, now.gray, T_now_last, camera, *strip)
        floor = alignment.floor_pixels(start)
        if floor.sum() < max(MIN_PIXELS, MIN_FLOOR * len(floor)):
            return None
        xy, rays = strip
        alignment = StripAlignment(last.gray, now.gray, T_now_last, camera, xy[floor], rays[floor])
        return alignment.fit(start)

    def _search(
        self, last: _View, now: _View, T_now_last: np.ndarray, camera: Camera
    ) -> np.ndarray | None:
        """The m of the best of many heights, None when no height fits."""
        baseline = float(np.linalg.norm(T_now_last[:3, 3]))
        best, best_score = None, MIN_CORRELATION
        bend, count = _bend(T_now_last), MAX_PIXELS // 4
        below = self._pixels_below(camera)
        step = max(1, len(below.xy) // SEARCHED_PIXELS)
        below = _Below(*(part[::step] for part in below))
        rho_h = below.rays @ self._normal  # the same for all heights
        near = rho_h > 1.0 / STRIP_LENGTH
        below, rho_h = _Below(*(part[near] for part in below)), rho_h[near]
        heights = max(baseline, 1e-9) * np.geomspace(*SEARCH)
        if self._hint is not None:
            heights = heights[np.abs(np.log(heights / self._hint)) < np.log(NEAR_HINT)]
        for height in heights:
            chosen = _strip(below, rho_h, bend * height)
            if len(chosen) * step < MIN_PIXELS:
                return None
            chosen = chosen[:: max(1, len(chosen) // count)]
            strip = below.xy[chosen], below.rays[chosen]
            m = self._normal / height
            score = StripAlignment(last.gray, now.gray, T_now_last, camera, *strip).correlation(m)
            if score > best_score:
                best, best_score = m, score
        return best

    def _pixels_below(self, camera: Camera) -> _Below:
        """All pixels that may show the floor ahead."""
        if self._below is None or self._below[0] != camera:
            coarse = _grid(camera, 0, _COARSE_PX)
            rows = coarse[self._may_be_floor(camera.unproject(coarse.astype(np.float64)))][:, 1]
            first = max(0, int(rows.min(initial=camera.height)) - 2 * _COARSE_PX)
            xy = _grid(camera, first, 1)
            rays = camera.unproject(xy.astype(np.float64))
            below = self._may_be_floor(rays)
            self._below = camera, _Below(xy[below], rays[below])
        return self._below[1]

    def _may_be_floor(self, rays: np.ndarray) -> np.ndarray:
        """(N,) bool for rays (N, 3), z = 1: not beyond twice the strip, with a level camera."""
        return rays @ self._normal > 1.0 / (2 * STRIP_LENGTH)

    def _strip_of(
        self, camera: Camera, m: np.ndarray, bend: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Pixels (N, 2) of the strip ahead and their rays (N, 3), None when it is not in sight."""
        below, height = self._pixels_below(camera), 1.0 / np.linalg.norm(m)
        chosen = _strip(below, below.rays @ (m * height), bend * height)
        if len(chosen) < MIN_PIXELS:
            return None
        chosen = chosen[:: max(1, len(chosen) // MAX_PIXELS)]
        return below.xy[chosen], below.rays[chosen]

    def _fuse(self, m: np.ndarray, information: np.ndarray) -> None:
        """Kalman update of the filtered plane with a measured one."""
        prior, prior_covariance = self._prior(m)
        prior_information = np.linalg.inv(prior_covariance)
        self.covariance = np.linalg.inv(prior_information + information)
        self.m = self.covariance @ (prior_information @ prior + information @ m)

    def _prior(self, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(plane, covariance) known before this view: at first how the camera is mounted."""
        if self._before is None:
            prior = self._normal * np.linalg.norm(m)
            return prior, self._walk(prior, NORMAL_SIGMA_RAD, 10.0)
        m, covariance = self._before
        return m, covariance + self._walk(m, NORMAL_WALK_RAD, self._drift)

    @staticmethod
    def _walk(m: np.ndarray, turn_rad: float, stretch: float) -> np.ndarray:
        """Covariance of m when its direction and its relative length vary by so much."""
        length = np.linalg.norm(m)
        along = np.outer(m, m) / length**2
        return length**2 * (turn_rad**2 * (np.eye(3) - along) + stretch**2 * along)


def _bend(T_now_last: np.ndarray) -> float:
    """Curvature of the way between two views, radians to the right per map unit.

    Zero for a camera that does not look where it goes: what is ahead is not its way then.
    """
    T_last_now = se3.inverse(T_now_last)
    baseline = float(np.linalg.norm(T_last_now[:3, 3]))
    turn_rad = float(np.arctan2(T_last_now[0, 2], T_last_now[2, 2]))
    looks_ahead = T_last_now[2, 3] > LOOKS_AHEAD * baseline > 0
    return turn_rad / baseline if looks_ahead else 0.0


def _strip(below: _Below, rho_h: np.ndarray, bend: float) -> np.ndarray:
    """Numbers of the pixels that show the strip ahead.

    The strip bends with the way of the camera: in a curve, what lies straight ahead is somebody
    else's lawn.

    Args:
        below: N pixels.
        rho_h: (N,) height over depth of each, were it floor.
        bend: radians to the right per camera height of way.
    """
    inside = rho_h > 1.0 / STRIP_LENGTH
    rho_h = np.maximum(rho_h, 1e-9)
    aside = below.rays[:, 0] / rho_h - 0.5 * bend / rho_h**2
    return np.flatnonzero(inside & (np.abs(aside) < STRIP_HALF_WIDTH))


def _grid(camera: Camera, first_row: int, step: int) -> np.ndarray:
    """(N, 2) int pixels of every `step`-th row and column."""
    rows, columns = np.mgrid[first_row : camera.height : step, 0 : camera.width : step]
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def _relative_sigma(m: np.ndarray, information: np.ndarray) -> float:
    """Standard deviation of 1 / |m| relative to it, with the normal free."""
    if np.linalg.cond(information) > 1e12:
        return float('inf')
    return float(np.sqrt(m @ np.linalg.inv(information) @ m)) / float(m @ m)
