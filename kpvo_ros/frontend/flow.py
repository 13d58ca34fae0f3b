"""Points followed from one image to the next by pyramidal Lucas-Kanade (Bouguet 2000).

Sub-pixel by nature and cheaper than any extraction. A track survives only if flowing back leads
to its start (forward-backward check, Kalal 2010).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from kpvo_ros.config.runtime import TrackingConfig


class FlowTracker:
    """Follows pixels between consecutive images."""

    def __init__(self, config: TrackingConfig) -> None:
        self._max_error_px = config.flow_max_error_px
        stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
        self._coarse: dict[str, Any] = {
            'winSize': (config.flow_window_px, config.flow_window_px),
            'maxLevel': config.flow_levels,
            'criteria': stop,
        }
        self._fine: dict[str, Any] = {
            'winSize': (config.flow_refine_px, config.flow_refine_px),
            'maxLevel': 1,
            'criteria': stop,
            'flags': cv2.OPTFLOW_USE_INITIAL_FLOW,
        }

    def track(
        self, gray0: np.ndarray, gray1: np.ndarray, xy0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the points of image 0 in image 1.

        Args:
            gray0: (H, W) uint8.
            gray1: (H, W) uint8 of the same size.
            xy0: (N, 2) float32 pixels in image 0.

        Returns:
            xy1 (N, 2) float32, and (N,) bool which of them are tracked.
        """
        if not len(xy0):
            return np.zeros((0, 2), np.float32), np.zeros(0, bool)
        start = np.ascontiguousarray(xy0, np.float32)
        xy1, found, _ = cv2.calcOpticalFlowPyrLK(gray0, gray1, start, start.copy(), **self._coarse)
        xy1, fine, _ = cv2.calcOpticalFlowPyrLK(gray0, gray1, start, xy1, **self._fine)
        back, found_back, _ = cv2.calcOpticalFlowPyrLK(
            gray1, gray0, xy1, start.copy(), **self._fine
        )
        error = np.linalg.norm(back - start, axis=1)
        height, width = gray1.shape
        inside = ((xy1 >= 0) & (xy1 <= (width - 1, height - 1))).all(1)
        ok = np.concatenate([found, fine, found_back], axis=1).all(1)
        ok &= inside & (error < self._max_error_px)
        return xy1, ok
