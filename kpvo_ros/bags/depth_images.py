"""Depth messages to metric arrays and back.

REP-118: 32FC1 holds metres with NaN for unknown, 16UC1 millimetres with zero for unknown. The
compressed form is that of compressed_depth_image_transport: a header of 12 bytes (format, two
quantisation parameters) before a 16 bit PNG; floats are stored as inverse depth.
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np

from kpvo_ros.bags.image_files import decode_any, metres_from_units
from kpvo_ros.bags.pixels import check_buffer, view_pixels
from kpvo_ros.errors import BagError

_HEADER = struct.Struct('<i2f')
_PNG = b'\x89PNG'
_MILLIMETRES_PER_METRE = 1000.0
_MAX_DEPTH_MM = 65535


def decode_depth(msg: Any) -> np.ndarray:
    """Decode depth from a sensor_msgs/Image or sensor_msgs/CompressedImage.

    Returns:
        (H, W) float32 metres along the optical axis, NaN where unknown; always a new array.

    Raises:
        BagError: it is no depth, or it is damaged.
    """
    if hasattr(msg, 'format'):
        return _decode_compressed(msg)
    encoding = msg.encoding.strip().lower()
    if encoding == '32fc1':
        depth_m = view_pixels(msg, np.float32, 1).copy()
        depth_m[~((depth_m > 0.0) & (depth_m < np.inf))] = np.nan
        return depth_m
    if encoding in ('16uc1', 'mono16'):
        raw = view_pixels(msg, np.uint16, 1)
        return metres_from_units(raw, _MILLIMETRES_PER_METRE, 'depth image')
    raise BagError(f'depth encoding {msg.encoding[:40]!r} is not supported: use 32FC1 or 16UC1')


def encode_depth(depth_m: np.ndarray, encoding: str = '32FC1') -> tuple[np.ndarray, int]:
    """Encode depth for a sensor_msgs/Image.

    Args:
        depth_m: (H, W) float metres, NaN where unknown.
        encoding: 32FC1 (metres) or 16UC1 (millimetres; beyond 65.5 m counts as unknown).

    Returns:
        data (M,) uint8 contiguous in native byte order, and step.

    Raises:
        BagError: the encoding is another, or the array is not (H, W).
    """
    if depth_m.ndim != 2 or depth_m.size == 0:
        raise BagError(f'cannot encode depth of shape {depth_m.shape}: give (H, W) metres')
    if encoding == '32FC1':
        pixels = np.ascontiguousarray(depth_m, dtype=np.float32)
    elif encoding == '16UC1':
        pixels = _millimetres(depth_m)
    else:
        raise BagError(f'cannot encode depth as {encoding!r}: use 32FC1 or 16UC1')
    data = pixels.reshape(-1).view(np.uint8)
    return data, data.size // depth_m.shape[0]


def encode_compressed_depth(depth_m: np.ndarray) -> tuple[np.ndarray, str]:
    """Encode depth as millimetres in a PNG, for a sensor_msgs/CompressedImage.

    Returns:
        (M,) uint8 data, and the message's format string.
    """
    png = cv2.imencode('.png', _millimetres(depth_m))[1].tobytes()
    data = np.frombuffer(_HEADER.pack(0, 0.0, 0.0) + png, np.uint8)
    return data, '16UC1; compressedDepth png'


def _millimetres(depth_m: np.ndarray) -> np.ndarray:
    millimetres = np.rint(np.nan_to_num(depth_m, nan=0.0, posinf=0.0) * _MILLIMETRES_PER_METRE)
    inside = (millimetres > 0) & (millimetres <= _MAX_DEPTH_MM)
    return np.where(inside, millimetres, 0).astype(np.uint16)


def _decode_compressed(msg: Any) -> np.ndarray:
    what = f'compressed depth ({msg.format[:60]!r})'
    data = check_buffer(msg.data, _HEADER.size + 1).tobytes()
    start = 0 if data[:4] == _PNG else _HEADER.size
    if data[start : start + 4] != _PNG:
        raise BagError(f'{what} holds no PNG: record depth with the png format, not rvl')
    raw = decode_any(data[start:], what)
    if start and msg.format.strip().lower().startswith('32fc1'):
        _, a, b = _HEADER.unpack_from(data)
        return _from_inverse(raw, a, b, what)
    return metres_from_units(raw, _MILLIMETRES_PER_METRE, what)


def _from_inverse(raw: np.ndarray, a: float, b: float, what: str) -> np.ndarray:
    """Undo the quantisation `raw = a / depth + b`; zero is unknown."""
    if not (np.isfinite(a) and np.isfinite(b)) or raw.ndim != 2 or raw.dtype != np.uint16:
        raise BagError(f'{what} has a damaged header: record the topic again')
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        depth_m = np.float32(a) / (raw.astype(np.float32) - np.float32(b))
    depth_m[(raw == 0) | ~((depth_m > 0.0) & (depth_m < np.inf))] = np.nan
    return depth_m
