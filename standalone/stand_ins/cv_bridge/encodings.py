"""What the encoding names of sensor_msgs/Image mean as arrays, and how colours convert."""

from __future__ import annotations

import re

import cv2
import numpy as np

# name -> (element type, channels); the generic ones ('32FC1', '16UC3'...) are parsed
_NAMED = {
    'mono8': (np.uint8, 1),
    'mono16': (np.uint16, 1),
    'rgb8': (np.uint8, 3),
    'bgr8': (np.uint8, 3),
    'rgba8': (np.uint8, 4),
    'bgra8': (np.uint8, 4),
    'rgb16': (np.uint16, 3),
    'bgr16': (np.uint16, 3),
    'rgba16': (np.uint16, 4),
    'bgra16': (np.uint16, 4),
    'bayer_rggb8': (np.uint8, 1),
    'bayer_bggr8': (np.uint8, 1),
    'bayer_gbrg8': (np.uint8, 1),
    'bayer_grbg8': (np.uint8, 1),
    'bayer_rggb16': (np.uint16, 1),
    'bayer_bggr16': (np.uint16, 1),
    'bayer_gbrg16': (np.uint16, 1),
    'bayer_grbg16': (np.uint16, 1),
    'yuv422': (np.uint8, 2),
    'yuv422_yuy2': (np.uint8, 2),
    'uyvy': (np.uint8, 2),
    'yuyv': (np.uint8, 2),
}
_GENERIC = re.compile(r'(8U|8S|16U|16S|32S|32F|64F)(?:C(\d+))?')
_GENERIC_TYPES = {
    '8U': np.uint8,
    '8S': np.int8,
    '16U': np.uint16,
    '16S': np.int16,
    '32S': np.int32,
    '32F': np.float32,
    '64F': np.float64,
}
# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the corner
_BAYER = {
    'bayer_rggb': 'BayerBG',
    'bayer_bggr': 'BayerRG',
    'bayer_gbrg': 'BayerGR',
    'bayer_grbg': 'BayerGB',
}
_YUV = {'yuv422': 'UYVY', 'uyvy': 'UYVY', 'yuv422_yuy2': 'YUY2', 'yuyv': 'YUY2'}
_COLOURS = {'mono': 'GRAY', 'rgb': 'RGB', 'bgr': 'BGR', 'rgba': 'RGBA', 'bgra': 'BGRA'}


def element_and_channels(encoding: str) -> tuple[np.dtype, int]:
    """Element type and channel count of an encoding; ValueError when it is unknown."""
    if encoding in _NAMED:
        kind, channels = _NAMED[encoding]
        return np.dtype(kind), channels
    generic = _GENERIC.fullmatch(encoding)
    if generic is None:
        raise ValueError(f'unknown image encoding "{encoding}"')
    return np.dtype(_GENERIC_TYPES[generic[1]]), int(generic[2] or 1)


def generic_name(image: np.ndarray) -> str:
    """The generic encoding ('8UC3') of an array."""
    for name, kind in _GENERIC_TYPES.items():
        if image.dtype == kind:
            return f'{name}C{1 if image.ndim == 2 else image.shape[2]}'
    raise ValueError(f'arrays of {image.dtype} have no image encoding')


def convert(image: np.ndarray, source: str, target: str) -> np.ndarray:
    """The image in another encoding.

    Colours convert into each other. An image without colour meaning ('32FC1') only changes its
    element type. 8 and 16 bit stand for the same range of brightness.

    Raises:
        ValueError: there is no such conversion.
    """
    if target in ('', 'passthrough') or source == target:
        return image
    element, channels = element_and_channels(target)
    if source in _NAMED and target in _NAMED:
        image = _convert_colour(image, source, target)
    elif target in _NAMED or channels != element_and_channels(source)[1]:
        raise _no_conversion(source, target)
    return _convert_element(image, element)


def _convert_colour(image: np.ndarray, source: str, target: str) -> np.ndarray:
    origin, goal = _family(source), _family(target)
    if origin == goal:
        return image
    if goal not in _COLOURS:
        raise _no_conversion(source, target)
    if origin in _YUV:
        code = f'COLOR_YUV2{_COLOURS[goal]}_{_YUV[origin]}'
    elif origin in _BAYER:
        code = f'COLOR_{_BAYER[origin]}2{_COLOURS[goal]}'
    else:
        code = f'COLOR_{_COLOURS[origin]}2{_COLOURS[goal]}'
    return cv2.cvtColor(image, getattr(cv2, code))


def _family(encoding: str) -> str:
    """The encoding without its bit depth: 'rgb8' is 'rgb'."""
    return re.sub(r'(8|16)$', '', encoding)


def _convert_element(image: np.ndarray, element: np.dtype) -> np.ndarray:
    if image.dtype == element:
        return image
    sizes = (image.dtype.itemsize, element.itemsize)
    scale = {(1, 2): 65535.0 / 255.0, (2, 1): 255.0 / 65535.0}.get(sizes, 1.0)
    if element.kind == 'f':
        return (image * scale).astype(element)
    limits = np.iinfo(element)
    return np.clip(np.rint(image * scale), limits.min, limits.max).astype(element)


def _no_conversion(source: str, target: str) -> ValueError:
    return ValueError(f'no conversion from encoding "{source}" to "{target}"')
