"""Image messages to arrays and back, for nodes and bags alike.

Messages are duck-typed (rclpy, rosbags, or a plain object with the same fields). Colour comes out
as (H, W, 3) uint8 RGB, grey as (H, W) uint8; `rgb8` and `mono8` are views of the message, nothing
is copied. Everything malformed raises `BagError` with one line; callers turn that into a
`types.BadFrame`. Encodings are named as in sensor_msgs/image_encodings.hpp.

Depth (`decode_depth`, `encode_depth`) and intrinsics (`camera_from_info`) are here for importers
and live in `depth_images` and `camera_info`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from kpvo_ros.bags.camera_info import camera_from_info, camera_info_fields
from kpvo_ros.bags.depth_images import decode_depth, encode_depth
from kpvo_ros.bags.image_files import decode_color
from kpvo_ros.bags.pixels import ImageMessage, check_buffer, view_pixels, view_rows
from kpvo_ros.errors import BagError

__all__ = [
    'ENCODINGS',
    'camera_from_info',
    'camera_info_fields',
    'decode_compressed',
    'decode_depth',
    'decode_image',
    'encode_compressed',
    'encode_depth',
    'encode_image',
    'stamp_ns_of',
]


class CompressedMessage(Protocol):
    """The fields of sensor_msgs/CompressedImage."""

    format: str
    data: Any


def decode_image(msg: ImageMessage) -> np.ndarray:
    """Decode a sensor_msgs/Image.

    16 bit images keep their upper 8 bits; `8UC3` and `8UC4` count as BGR(A), OpenCV's order.

    Returns:
        (H, W, 3) uint8 RGB, or (H, W) uint8 for grey encodings; possibly a view of `msg.data`.

    Raises:
        BagError: the encoding is unknown, or size, step and data do not fit together.
    """
    decoder = _DECODERS.get(msg.encoding.strip().lower())
    if decoder is None:
        raise BagError(
            f'image encoding {msg.encoding[:40]!r} is not supported: use one of '
            f'{", ".join(ENCODINGS)}'
        )
    try:
        return decoder(msg)
    except cv2.error:
        raise BagError(
            f'image of {msg.width}x{msg.height} cannot be {msg.encoding!r}: '
            'check width and encoding'
        ) from None


def decode_compressed(msg: CompressedMessage) -> np.ndarray:
    """Decode a sensor_msgs/CompressedImage that holds JPEG or PNG.

    The container is told by the data itself; `format` only matters for PNGs of raw Bayer images
    (`'bayer_rggb8; png compressed '`).

    Returns:
        (H, W, 3) uint8 RGB, or (H, W) uint8 when stored grey.

    Raises:
        BagError: the data is damaged or holds something else.
    """
    image = decode_color(check_buffer(msg.data, 1), f'compressed image ({msg.format[:60]!r})')
    encoding = msg.format.split(';')[0].strip().lower()
    bayer = _BAYER_TO_RGB.get(encoding.rstrip('0123456789'))
    if bayer is not None and image.ndim == 2 and min(image.shape) > 1:
        return cv2.cvtColor(image, bayer)
    return image


def encode_image(image: np.ndarray, encoding: str) -> tuple[np.ndarray, int]:
    """Encode an image for a sensor_msgs/Image.

    Args:
        image: (H, W, 3) uint8 RGB or (H, W) uint8 grey.
        encoding: mono8, mono16, rgb8, bgr8, rgba8 or bgra8.

    Returns:
        data (M,) uint8 contiguous in native byte order, and step.

    Raises:
        BagError: encoding or array cannot be meant.
    """
    if encoding not in _ENCODERS:
        raise BagError(f'cannot encode {encoding!r}: use one of {", ".join(_ENCODERS)}')
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.size == 0:
        raise BagError(
            f'cannot encode an array {image.shape} of {image.dtype}: '
            'give (H, W, 3) or (H, W) uint8'
        )
    from_gray, from_rgb = _ENCODERS[encoding]
    code = from_gray if image.ndim == 2 else from_rgb
    pixels = image if code is None else cv2.cvtColor(image, code)
    if encoding == 'mono16':
        pixels = pixels.astype(np.uint16) * 257  # 255 becomes 65535
    data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    return data, data.size // image.shape[0]


def encode_compressed(image: np.ndarray, container: str, quality: int = 95) -> np.ndarray:
    """Encode an image for a sensor_msgs/CompressedImage.

    Args:
        image: (H, W, 3) uint8 RGB or (H, W) uint8 grey.
        container: 'jpeg' or 'png'.
        quality: of JPEG, 1..100.

    Returns:
        (M,) uint8 file content.

    Raises:
        BagError: the container is unknown or the array is not an image.
    """
    if container not in ('jpeg', 'png'):
        raise BagError(f'cannot compress as {container!r}: use jpeg or png')
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if container == 'jpeg' else []
    stored = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    try:
        return cv2.imencode(f'.{container}', stored, options)[1].reshape(-1)
    except cv2.error:
        raise BagError(f'cannot compress an array {image.shape} of {image.dtype}') from None


def stamp_ns_of(header: Any) -> int:
    """Stamp of a std_msgs/Header, nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _raw(
    dtype: npt.DTypeLike, channels: int, code: int | None = None
) -> Callable[[ImageMessage], np.ndarray]:
    """A decoder for packed pixels and an optional colour conversion."""

    def decode(msg: ImageMessage) -> np.ndarray:
        pixels = view_pixels(msg, dtype, channels)
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        return pixels if code is None else cv2.cvtColor(pixels, code)

    return decode


def _paired(code: int) -> Callable[[ImageMessage], np.ndarray]:
    """A decoder for pixels that share their colour in pairs.

    The width is checked here because OpenCV 4.6 ends the process over an odd one.
    """
    decode = _raw(np.uint8, 2, code)

    def decode_even(msg: ImageMessage) -> np.ndarray:
        if msg.width % 2:
            raise BagError(f'{msg.encoding!r} needs an even width, got {msg.width}')
        return decode(msg)

    return decode_even


def _planar(code: int) -> Callable[[ImageMessage], np.ndarray]:
    """A decoder for a luminance plane followed by one of interleaved colour of half height."""

    def decode(msg: ImageMessage) -> np.ndarray:
        if msg.height % 2 or msg.width % 2:
            raise BagError(f'{msg.encoding!r} needs an even size, got {msg.width}x{msg.height}')
        return cv2.cvtColor(view_rows(msg, msg.height * 3 // 2), code)

    return decode


# OpenCV names a Bayer pattern after the pixels at (1, 1) and (2, 1), ROS after (0, 0) and (1, 0).
_BAYER_TO_RGB = {
    'bayer_rggb': cv2.COLOR_BayerBG2RGB,
    'bayer_bggr': cv2.COLOR_BayerRG2RGB,
    'bayer_gbrg': cv2.COLOR_BayerGR2RGB,
    'bayer_grbg': cv2.COLOR_BayerGB2RGB,
}
_DECODERS: dict[str, Callable[[ImageMessage], np.ndarray]] = {
    'rgb8': _raw(np.uint8, 3),
    'bgr8': _raw(np.uint8, 3, cv2.COLOR_BGR2RGB),
    'mono8': _raw(np.uint8, 1),
    'rgba8': _raw(np.uint8, 4, cv2.COLOR_RGBA2RGB),
    'bgra8': _raw(np.uint8, 4, cv2.COLOR_BGRA2RGB),
    'mono16': _raw(np.uint16, 1),
    'rgb16': _raw(np.uint16, 3),
    'bgr16': _raw(np.uint16, 3, cv2.COLOR_BGR2RGB),
    **{f'{name}8': _raw(np.uint8, 1, code) for name, code in _BAYER_TO_RGB.items()},
    **{f'{name}16': _raw(np.uint16, 1, code) for name, code in _BAYER_TO_RGB.items()},
    'yuv422': _paired(cv2.COLOR_YUV2RGB_UYVY),
    'uyvy': _paired(cv2.COLOR_YUV2RGB_UYVY),
    'yuv422_yuy2': _paired(cv2.COLOR_YUV2RGB_YUY2),
    'yuyv': _paired(cv2.COLOR_YUV2RGB_YUY2),
    'nv12': _planar(cv2.COLOR_YUV2RGB_NV12),
    'nv21': _planar(cv2.COLOR_YUV2RGB_NV21),
    '8uc1': _raw(np.uint8, 1),
    '8uc3': _raw(np.uint8, 3, cv2.COLOR_BGR2RGB),
    '8uc4': _raw(np.uint8, 4, cv2.COLOR_BGRA2RGB),
    '16uc1': _raw(np.uint16, 1),
}
ENCODINGS = tuple(_DECODERS)
"""Names of the raw encodings `decode_image` reads, in lower case."""

_ENCODERS: dict[str, tuple[int | None, int | None]] = {
    'mono8': (None, cv2.COLOR_RGB2GRAY),
    'mono16': (None, cv2.COLOR_RGB2GRAY),
    'rgb8': (cv2.COLOR_GRAY2RGB, None),
    'bgr8': (cv2.COLOR_GRAY2BGR, cv2.COLOR_RGB2BGR),
    'rgba8': (cv2.COLOR_GRAY2RGBA, cv2.COLOR_RGB2RGBA),
    'bgra8': (cv2.COLOR_GRAY2BGRA, cv2.COLOR_RGB2BGRA),
}
