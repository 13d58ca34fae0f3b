"""Keypoints drawn over their image, for people."""

from __future__ import annotations

import cv2
import numpy as np

from kpvo_ros.types import Features

_GREEN = (40, 220, 60)
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)


def draw_features(image: np.ndarray, features: Features, text: str = '') -> np.ndarray:
    """A new (H, W, 3) uint8 RGB picture: `image` with a circle per keypoint and a line of text.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8; left as it is.
        features: keypoints of that image.
        text: written at the top left; '' for none.
    """
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()
    for x, y in np.rint(features.xy).astype(int).tolist():
        cv2.circle(canvas, (x, y), 3, _GREEN, 1, cv2.LINE_AA)
    if text:
        for color, width in ((_BLACK, 3), (_WHITE, 1)):
            cv2.putText(
                canvas, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, width, cv2.LINE_AA
            )
    return canvas
