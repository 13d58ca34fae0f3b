"""Raw image buffers as arrays: size checks, row padding, byte order. No copies.

Messages are duck-typed: anything with the fields of sensor_msgs/Image will do, whether it comes
from rclpy (`array.array`) or from rosbags (`ndarray`).
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kpvo_ros.bags.image_files import MAX_PIXELS
from kpvo_ros.errors import BagError


class ImageMessage(Protocol):
    """The fields of sensor_msgs/Image that matter here."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


def view_pixels(msg: ImageMessage, dtype: npt.DTypeLike, channels: int) -> np.ndarray:
    """View the data of an image message as pixels.

    Args:
        msg: the message.
        dtype: type of one number, in native byte order.
        channels: numbers in one pixel.

    Returns:
        (H, W) for one channel, else (H, W, channels); shares memory with the message unless the
        bytes have to be swapped.

    Raises:
        BagError: size, step and data do not fit together.
    """
    stored = np.dtype(dtype)
    pixel_bytes = stored.itemsize * channels
    height, width, step = check_size(msg, pixel_bytes)
    buffer = check_buffer(msg.data, step * (height - 1) + width * pixel_bytes)
    strides = (step, pixel_bytes, stored.itemsize)
    pixels = np.ndarray((height, width, channels), stored, buffer, strides=strides)
    if stored.itemsize > 1 and bool(msg.is_bigendian) != (sys.byteorder == 'big'):
        pixels = pixels.byteswap()
    return pixels[:, :, 0] if channels == 1 else pixels


def view_rows(msg: ImageMessage, rows: int) -> np.ndarray:
    """View bytes as (rows, width), for planar formats with more rows than the image.

    Raises:
        BagError: size, step and data do not fit together.
    """
    _, width, step = check_size(msg, 1)
    buffer = check_buffer(msg.data, step * (rows - 1) + width)
    return np.ndarray((rows, width), np.uint8, buffer, strides=(step, 1))


def check_size(msg: ImageMessage, pixel_bytes: int) -> tuple[int, int, int]:
    """(height, width, step) of a message, when they make sense.

    Raises:
        BagError: the image is empty, absurdly large, or its rows are too short.
    """
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    if height <= 0 or width <= 0:
        raise BagError(f'image has size {width}x{height}: the camera sent no pixels')
    if height * width > MAX_PIXELS:
        raise BagError(f'image claims {width}x{height} pixels: refused above 100 megapixels')
    if step < width * pixel_bytes:
        raise BagError(
            f'image rows of {step} bytes are too short for {width} pixels of {msg.encoding!r}: '
            'check step and encoding'
        )
    return height, width, step


def check_buffer(data: Any, needed: int) -> np.ndarray:
    """(M,) uint8 view of message data that holds at least the bytes needed.

    Raises:
        BagError: the data is cut off or is not bytes.
    """
    try:
        buffer = np.frombuffer(data, np.uint8)
    except (TypeError, ValueError):  # an empty buffer is a ValueError
        buffer = np.empty(0, np.uint8)
    if buffer.size < needed:
        raise BagError(
            f'image data is cut off: {buffer.size} bytes of {needed}: check the connection or bag'
        )
    return buffer
