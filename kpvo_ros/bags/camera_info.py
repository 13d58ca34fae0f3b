"""sensor_msgs/CameraInfo to `Camera` and back.

Width, height, K and D of the message describe the full sensor; binning and region of interest
say which part of it the images show. Field names are lower case in ROS 2, upper case in ROS 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kpvo_ros.bags.cameras import build_camera
from kpvo_ros.errors import BagError, GeometryError
from kpvo_ros.geometry.camera import Camera, DistortionModel

_WHAT = 'camera_info'


def camera_from_info(msg: Any, *, rectified: bool = False) -> Camera:
    """Intrinsics of the images that go with a CameraInfo message.

    Args:
        msg: sensor_msgs/CameraInfo of ROS 1 or 2.
        rectified: the images are rectified: take P and no distortion instead of K and D.

    Raises:
        BagError: the camera is uncalibrated, or the numbers make no sense.
    """
    if rectified:
        P = _numbers(msg, 'p', 12)
        numbers, model, distortion = [P[0], P[5], P[2], P[6]], 'none', []
    else:
        K = _numbers(msg, 'k', 9)
        numbers, model = [K[0], K[4], K[2], K[5]], str(msg.distortion_model) or 'plumb_bob'
        distortion = _numbers(msg, 'd', None)
    full = build_camera(int(msg.width), int(msg.height), numbers, model, distortion, _WHAT)
    try:
        return _as_imaged(full, msg)
    except GeometryError as error:
        raise BagError(f'{_WHAT} has a wrong region of interest or binning: {error}') from None


def camera_info_fields(camera: Camera) -> dict[str, Any]:
    """Values for the fields of a ROS 2 CameraInfo message, header excluded.

    Returns:
        height, width, distortion_model, d (C,), k (9,), r (9,), p (12,), all float64. An ideal
        pinhole is written as plumb_bob with zeros, which every consumer understands.
    """
    ideal = camera.model is DistortionModel.NONE
    return {
        'height': camera.height,
        'width': camera.width,
        'distortion_model': (DistortionModel.PLUMB_BOB if ideal else camera.model).value,
        'd': np.zeros(5) if ideal else np.array(camera.distortion, dtype=np.float64),
        'k': camera.K.ravel(),
        'r': np.eye(3).ravel(),
        'p': np.hstack([camera.K, np.zeros((3, 1))]).ravel(),
    }


def _numbers(msg: Any, name: str, count: int | None) -> list[float]:
    """A field by its ROS 2 or ROS 1 name."""
    values = getattr(msg, name if hasattr(msg, name) else name.upper())
    numbers = [float(value) for value in values]
    if count is not None and len(numbers) != count:
        raise BagError(f'{_WHAT} has {name.upper()} of {len(numbers)} numbers: it needs {count}')
    return numbers


def _as_imaged(full: Camera, msg: Any) -> Camera:
    """Cut and bin the full sensor as the images are."""
    camera, roi = full, msg.roi
    if roi.width and roi.height:
        camera = camera.cropped(
            int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
        )
    bin_x, bin_y = max(1, int(msg.binning_x)), max(1, int(msg.binning_y))
    if bin_x == bin_y == 1:
        return camera
    width, height = camera.width // bin_x, camera.height // bin_y
    return camera.cropped(0, 0, width * bin_x, height * bin_y).resized(width, height)
