"""What a network sees of depth and motion, and the pictures it is shown.

The lens is taken out first (`Camera.rectified`: only what the image really shows), then the
picture is resized with its matrix. No torch here: the odometry uses these without a network too.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

import cv2
import numpy as np

from kpvo_ros.frontend.gray import to_gray
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Frame

_CAMERAS = 4  # whose maps are kept


@dataclasses.dataclass(frozen=True)
class LearnedDepth:
    """What a network saw in one image. It may be smaller than the image, and has no distortion.

    Attributes:
        stamp_ns: of the image.
        frame_id: its optical frame.
        camera: pinhole of `depth_m`, with the optical frame of the image.
        depth_m: (H, W) float32 metres along the optical axis, NaN where unknown.
        sigma: (H, W) float32 standard deviation of the logarithm of the depth.
        T_before_camera: (4, 4) pose of the camera in the camera of the image before, metres; the
            identity when there was none.
    """

    stamp_ns: int
    frame_id: str
    camera: Camera
    depth_m: np.ndarray
    sigma: np.ndarray
    T_before_camera: np.ndarray

    def trusted(self, max_sigma: float) -> LearnedDepth:
        """The same without the depths that are less certain than this."""
        sure = self.sigma <= max_sigma
        return dataclasses.replace(
            self, depth_m=np.where(sure, self.depth_m, np.float32(np.nan)).astype(np.float32)
        )

    def points(self, range_m: float) -> np.ndarray:
        """(H, W, 3) float32 points in the optical frame; NaN where unknown or out of range."""
        ray = self.camera.unproject(self.camera.pixel_centers())
        point = ray * self.depth_m[..., None]
        with np.errstate(invalid='ignore'):
            near = np.linalg.norm(point, axis=-1) <= range_m
        return np.where(near[..., None], point, np.nan).astype(np.float32)


class DepthSource(Protocol):
    """Looks at images; may be asked by several threads at once."""

    def look(self, frame: Frame, before: Frame | None = None) -> LearnedDepth:
        """Depth of an image, and the motion since another one.

        Args:
            frame: the image.
            before: one that shows the same place from elsewhere; None without one.
        """
        ...


def seen_by(camera: Camera, width: int, height: int) -> Camera:
    """The pinhole of `picture_of` a frame of that camera."""
    return camera.rectified().resized(width, height)


def picture_of(frame: Frame, width: int, height: int, *, is_gray: bool) -> np.ndarray:
    """The image of a frame without distortion, in another size; see `seen_by`.

    Args:
        frame: the frame.
        width: of the picture.
        height: of the picture.
        is_gray: whether to take the colours out, if there are any.

    Returns:
        (height, width) or (height, width, 3) uint8.
    """
    image = to_gray(frame.image) if is_gray else frame.image
    if frame.camera.is_distorted:
        image = cv2.remap(image, *_ideal_maps(frame.camera), cv2.INTER_LINEAR)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


@functools.lru_cache(maxsize=_CAMERAS)
def _ideal_maps(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    return camera.undistort_maps(camera.rectified())
