"""Images that cannot be used, whatever they show."""

from __future__ import annotations

import numpy as np

from kpvo_ros.types import Frame

MIN_CONTRAST = 3.0  # grey levels of standard deviation; below, the image shows nothing


def misfit(frame: Frame, needs_depth: bool) -> str | None:
    """Why the parts of a frame do not belong together, None when they do."""
    if frame.gray.shape != (frame.camera.height, frame.camera.width):
        return f'image {frame.gray.shape} does not match its camera_info: frame ignored'
    depth_m = frame.depth_m if needs_depth else None
    if depth_m is not None and depth_m.shape != frame.gray.shape:
        return f'depth image {depth_m.shape} is not that of the image {frame.gray.shape}'
    return None


def emptiness(gray: np.ndarray) -> str | None:
    """Why a grey image (H, W) shows nothing, None when it shows something."""
    if float(gray[::4, ::4].std()) < MIN_CONTRAST:
        return 'image without contrast (dark, covered or overexposed?)'
    return None
