"""What happened between two frames of a video: standing, only turning, or moving enough to learn.

Depth and translation show in the parallax alone: in what is left of the flow of the picture when
the rotation is taken out (Bian 2021, "Auto-Rectify", found hand-held videos useless for exactly
that reason). Points are followed (Lucas and Kanade 1981) and the rotation is that of a robust
essential matrix. A rotation alone is tried first: where it explains the flow, the essential
matrix is free to call any part of it a translation.
"""

from __future__ import annotations

import dataclasses
import enum

import cv2
import numpy as np
import numpy.typing as npt

from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import nearest_rotation
from kpvo_ros.geometry.solve import estimate_essential

Array = npt.NDArray[np.float64]

_POINTS = 300
_FEWEST_POINTS = 30
_ACROSS = 40  # corners side by side in the width of the picture
_QUALITY = 0.005  # of the best corner
_WINDOW_SHARE, _SMALLEST_WINDOW_PX = 0.08, 11  # of the width
_LEVELS = 3
_BACK_PX = 0.7  # a point that is followed there and back again comes home
_SHARE = 0.35  # of the points that are found again: less is another place
_EPIPOLAR_PX = 0.7
_ITERATIONS = 400
# A rotation that errs by less than this share of the wanted parallax explains the flow: the rest
# is noise, wide lenses, and what the essential matrix would call any translation.
_EXPLAINED = 0.3
_REWEIGHTINGS = 8


class Verdict(enum.Enum):
    """What a pair of frames is good for; the values are words for a log."""

    USABLE = 'usable'
    STANDING = 'standing'
    ROTATING = 'only turning'
    APART = 'too far apart'


@dataclasses.dataclass(frozen=True, eq=False)
class PairMotion:
    """What was seen between two frames.

    Attributes:
        verdict: see `Verdict`.
        parallax_px: median length of the flow without the rotation; NaN when points are lost.
        R_1_0: (3, 3) measured rotation from camera 0 to camera 1; identity when points are lost.
    """

    verdict: Verdict
    parallax_px: float
    R_1_0: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Watched:
    """A frame that is ready to be compared.

    Attributes:
        gray: (H, W) uint8.
        points: (N, 1, 2) float32 corners.
    """

    gray: np.ndarray
    points: np.ndarray


class ParallaxMeter:
    """Judges pairs of frames of one camera.

    Args:
        K: (3, 3) pinhole matrix.
        size_hw: of the frames.
        min_px: less parallax is none.
        max_px: more is too far apart.
    """

    def __init__(
        self, K: npt.ArrayLike, size_hw: tuple[int, int], min_px: float, max_px: float
    ) -> None:
        K = np.asarray(K, dtype=np.float64)
        height, width = size_hw
        self._camera = Camera(width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        self._min_px, self._max_px = min_px, max_px
        self._spacing_px = max(3, round(width / _ACROSS))
        self._window_px = max(round(_WINDOW_SHARE * width), _SMALLEST_WINDOW_PX)

    def watch(self, gray: np.ndarray) -> Watched:
        """Prepare a frame (H, W) uint8; do it once for all its pairs."""
        corners = cv2.goodFeaturesToTrack(gray, _POINTS, _QUALITY, self._spacing_px)
        if corners is None:
            corners = np.zeros((0, 1, 2), np.float32)
        return Watched(gray, corners)

    def between(self, first: Watched, second: Watched) -> PairMotion:
        """What the camera did from the first frame to the second."""
        lost = PairMotion(Verdict.APART, np.nan, np.eye(3))
        xy0, xy1 = _follow(first, second, self._window_px)
        if len(xy0) < max(_FEWEST_POINTS, _SHARE * len(first.points)):
            return lost
        if _median(xy1 - xy0) < self._min_px:
            return PairMotion(Verdict.STANDING, _median(xy1 - xy0), np.eye(3))
        R_1_0 = self._best_rotation(xy0, xy1)
        parallax_px = _median(xy1 - self._turned(xy0, R_1_0))
        if parallax_px > _EXPLAINED * self._min_px:
            motion = estimate_essential(
                xy0, xy1, self._camera, self._camera,
                threshold_px=_EPIPOLAR_PX, max_iterations=_ITERATIONS,
            )  # fmt: skip
            if motion is None or motion.count < _SHARE * len(xy0):
                return lost
            R_1_0 = motion.T_1_0[:3, :3]
            parallax_px = _median(xy1 - self._turned(xy0, R_1_0))
        return PairMotion(self._verdict(parallax_px), parallax_px, R_1_0)

    def _verdict(self, parallax_px: float) -> Verdict:
        if parallax_px < self._min_px:
            return Verdict.ROTATING
        # Also when it is not finite: a point turned behind the camera.
        return Verdict.USABLE if parallax_px <= self._max_px else Verdict.APART

    def _best_rotation(self, xy0: Array, xy1: Array) -> Array:
        """The rotation (3, 3) that alone explains most of the flow, by least absolute errors."""
        rays0, rays1 = self._camera.rays(xy0), self._camera.rays(xy1)
        weight, tip = np.ones((len(xy0), 1)), 0.1 / self._camera.fx
        R_1_0 = np.eye(3)
        for _ in range(_REWEIGHTINGS):
            R_1_0 = nearest_rotation((weight * rays1).T @ rays0)
            error = np.linalg.norm(rays1 - rays0 @ R_1_0.T, axis=1, keepdims=True)
            weight = 1.0 / (error + tip)
        return R_1_0

    def _turned(self, xy: Array, R_1_0: Array) -> Array:
        """(N, 2) where points at infinity would be: the homography K R K^-1."""
        return self._camera.project(self._camera.unproject(xy) @ R_1_0.T)


def _follow(first: Watched, second: Watched, window_px: int) -> tuple[Array, Array]:
    """(N, 2) points of both frames, those that come home when followed back."""
    nothing = np.zeros((0, 2))
    if not len(first.points):
        return nothing, nothing
    there, found = _flow(first.gray, second.gray, first.points, window_px)
    back, again = _flow(second.gray, first.gray, there, window_px)
    home = np.linalg.norm(back - first.points, axis=2) < _BACK_PX
    kept = (home & (found > 0) & (again > 0)).ravel()
    return first.points[kept, 0].astype(np.float64), there[kept, 0].astype(np.float64)


def _flow(
    gray0: np.ndarray, gray1: np.ndarray, points: np.ndarray, window_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 1, 2) where the points of a picture are in another, and (N, 1) whether they are."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        gray0,
        gray1,
        points,
        None,  # type: ignore[call-overload]
        winSize=(window_px, window_px),
        maxLevel=_LEVELS,
    )
    return moved, found


def _median(flow: Array) -> float:
    return float(np.median(np.linalg.norm(flow, axis=1)))
