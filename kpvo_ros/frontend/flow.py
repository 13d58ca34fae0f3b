"""Points followed from one image to another by pyramidal Lucas-Kanade (Bouguet 2000).

Sub-pixel by nature and cheaper than any extraction. Three passes: a wide patch finds the point
on the coarse levels of the pyramid, a small patch refines it at full resolution (small patches
suffer less from depth edges and zoom), and the small patch flows back from there: a track survives
only if that leads to its start (forward-backward check, Kalal 2010).

The wide patch never sees the full resolution, because the small one goes there anyway. OpenCV
sums eight columns of a patch at once and the rest one by one, hence a wide patch of 16, not 15: it
costs half.
"""

from __future__ import annotations

import cv2
import numpy as np

from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.frontend.brightness import match_brightness

_COARSE_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)
_FINE_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.02)


class FlowTracker:
    """Follows pixels between images that look alike.

    Args:
        config: parameters.
        matches_brightness: undo what auto exposure did in between.
    """

    def __init__(self, config: TrackingConfig, matches_brightness: bool = True) -> None:
        self._matches_brightness = matches_brightness
        self._max_error_px = config.flow_max_error_px
        self._levels = config.flow_levels
        self._wide = (config.flow_window_px, config.flow_window_px)
        self._small = (config.flow_refine_px, config.flow_refine_px)

    def track(
        self,
        gray0: np.ndarray,
        gray1: np.ndarray,
        xy0: np.ndarray,
        guess: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the points of image 0 in image 1.

        Args:
            gray0: (H, W) uint8.
            gray1: (H, W) uint8 of the same size.
            xy0: (N, 2) pixels in image 0.
            guess: (N, 2) where they are expected in image 1, NaN where nothing is known; where
                they are in image 0 by default.

        Returns:
            xy1 (N, 2) float32, and (N,) bool which of them are tracked.
        """
        if not len(xy0):
            return np.zeros((0, 2), np.float32), np.zeros(0, bool)
        if self._matches_brightness:
            gray0 = match_brightness(gray0, gray1)
        start = np.ascontiguousarray(xy0, np.float32)
        xy1 = start.copy()
        if guess is not None:
            known = np.isfinite(guess).all(1)
            xy1[known] = guess[known]
        xy1, found = self._find(gray0, gray1, start, xy1)
        xy1, refined = self._flow_small(gray0, gray1, start, xy1)
        back, returned = self._flow_small(gray1, gray0, xy1, start)
        error_px = np.linalg.norm(back - start, axis=1)
        height, width = gray1.shape
        inside = ((xy1 >= 0) & (xy1 <= (width - 1, height - 1))).all(1)
        return xy1, found & refined & returned & inside & (error_px < self._max_error_px)

    def _find(
        self, gray0: np.ndarray, gray1: np.ndarray, xy0: np.ndarray, xy1: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rough position, from the pyramid without its finest level."""
        if not self._levels:
            return xy1, np.ones(len(xy1), bool)
        half1, found, _ = cv2.calcOpticalFlowPyrLK(
            cv2.pyrDown(gray0),
            cv2.pyrDown(gray1),
            xy0 / 2,
            xy1 / 2,
            winSize=self._wide,
            maxLevel=self._levels - 1,
            criteria=_COARSE_STOP,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )
        return half1 * 2, found[:, 0] > 0

    def _flow_small(
        self, gray0: np.ndarray, gray1: np.ndarray, xy0: np.ndarray, xy1: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Exact position, from the finest level alone."""
        xy1, found, _ = cv2.calcOpticalFlowPyrLK(
            gray0,
            gray1,
            xy0,
            xy1.copy(),  # OpenCV writes into it
            winSize=self._small,
            maxLevel=0,
            criteria=_FINE_STOP,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )
        return xy1, found[:, 0] > 0
