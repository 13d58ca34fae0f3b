"""The grey image that all of the front end works on."""

from __future__ import annotations

import cv2
import numpy as np

from kpvo_ros.errors import FrontendError


def to_gray(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 luminance of an (H, W) or (H, W, 3) RGB uint8 image.

    Raises:
        FrontendError: any other shape or type.
    """
    if image.dtype != np.uint8 or image.size == 0:
        raise FrontendError(f'an image is non-empty uint8, got {image.shape} {image.dtype}')
    if image.ndim == 2:
        return image
    if image.ndim == 3 and image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    raise FrontendError(f'an image is (H, W) or (H, W, 3), got {image.shape}')
