"""The converter object."""

from __future__ import annotations

import array
import sys
from typing import TYPE_CHECKING

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from cv_bridge import encodings

if TYPE_CHECKING:
    from std_msgs.msg import Header


class CvBridgeError(TypeError):
    """An image cannot be converted."""


class CvBridge:
    """Converts both ways; holds no state."""

    def imgmsg_to_cv2(self, img_msg: Image, desired_encoding: str = 'passthrough') -> np.ndarray:
        """The pixels as (H, W) or (H, W, C); shares memory with the message where it can.

        Raises:
            CvBridgeError: the encoding is unknown, cannot be converted, or the data is too short.
        """
        try:
            image = _pixels(img_msg)
            return encodings.convert(image, img_msg.encoding, desired_encoding)
        except (ValueError, cv2.error) as error:
            raise CvBridgeError(str(error)) from error

    def compressed_imgmsg_to_cv2(
        self, cmprs_img_msg: CompressedImage, desired_encoding: str = 'passthrough'
    ) -> np.ndarray:
        """The decoded pixels: BGR or grey as stored, then converted.

        Raises:
            CvBridgeError: the data is not an image, or the conversion does not exist.
        """
        data = np.frombuffer(cmprs_img_msg.data, np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_ANYCOLOR) if data.size else None
        if image is None:
            raise CvBridgeError(f'cannot decode {data.size} bytes as {cmprs_img_msg.format!r}')
        try:
            return encodings.convert(
                image, 'mono8' if image.ndim == 2 else 'bgr8', desired_encoding
            )
        except (ValueError, cv2.error) as error:
            raise CvBridgeError(str(error)) from error

    def cv2_to_imgmsg(
        self, cvim: np.ndarray, encoding: str = 'passthrough', header: Header | None = None
    ) -> Image:
        """A message holding a copy of the pixels.

        Raises:
            TypeError: not an array.
            CvBridgeError: the array does not fit the encoding.
        """
        if not isinstance(cvim, np.ndarray):
            raise TypeError(f'an image must be a numpy array, not {type(cvim).__name__}')
        try:
            actual = encodings.generic_name(cvim)
            named = actual if encoding in ('', 'passthrough') else encoding
            fits = encodings.element_and_channels(named) == encodings.element_and_channels(actual)
        except ValueError as error:
            raise CvBridgeError(str(error)) from error
        if not fits:
            raise CvBridgeError(f'an array of {actual} is no {encoding} image')
        return _image_message(cvim, named, header)

    def cv2_to_compressed_imgmsg(
        self, cvim: np.ndarray, dst_format: str = 'jpg'
    ) -> CompressedImage:
        """A compressed message of a grey or BGR image.

        Raises:
            TypeError: not an array.
            CvBridgeError: OpenCV cannot write this format.
        """
        if not isinstance(cvim, np.ndarray):
            raise TypeError(f'an image must be a numpy array, not {type(cvim).__name__}')
        try:
            written, data = cv2.imencode(f'.{dst_format}', cvim)
        except cv2.error as error:
            raise CvBridgeError(f'cannot write format "{dst_format}"') from error
        if not written:
            raise CvBridgeError(f'cannot write format "{dst_format}"')
        message = CompressedImage(format=dst_format)
        message.data = _as_array(data)
        return message

    def encoding_to_dtype_with_channels(self, encoding: str) -> tuple[str, int]:
        """('uint8', 3) for 'bgr8'."""
        element, channels = encodings.element_and_channels(encoding)
        return element.name, channels


def _pixels(message: Image) -> np.ndarray:
    """A view of the message's data, without the padding of its rows."""
    element, channels = encodings.element_and_channels(message.encoding)
    row_bytes = message.width * channels * element.itemsize
    if not message.width or not message.height:
        raise ValueError(f'image is empty: {message.width} x {message.height}')
    if message.step < row_bytes or len(message.data) < message.step * message.height:
        raise ValueError(
            f'{message.width} x {message.height} {message.encoding} with step {message.step} '
            f'does not fit into {len(message.data)} bytes'
        )
    data = np.frombuffer(message.data, np.uint8, message.step * message.height)
    rows = data.reshape(message.height, message.step)[:, :row_bytes]
    stored = element.newbyteorder('>' if message.is_bigendian else '<')
    if row_bytes != message.step:
        rows = np.ascontiguousarray(rows)
    pixels = rows.view(stored).astype(element, copy=False)
    return pixels if channels == 1 else pixels.reshape(message.height, message.width, channels)


def _image_message(pixels: np.ndarray, encoding: str, header: Header | None) -> Image:
    message = Image() if header is None else Image(header=header)
    message.height, message.width = pixels.shape[:2]
    message.encoding = encoding
    message.is_bigendian = int(sys.byteorder == 'big')
    message.data = _as_array(pixels.astype(pixels.dtype.newbyteorder('='), copy=False))
    message.step = len(message.data) // message.height if message.height else 0
    return message


def _as_array(values: np.ndarray) -> array.array:
    """Bytes the way rclpy takes without a check of each one."""
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return data
