"""Encoded images (JPEG, PNG, BMP, PNM): size before decoding, pixels as stored, metric depth.

Orientation tags are ignored on purpose: intrinsics belong to the pixels as stored.
"""

from __future__ import annotations

from pathlib import Path
import re
import struct

import cv2
import numpy as np

from kpvo_ros.errors import BagError

IMAGE_SUFFIXES = frozenset({'.jpg', '.jpeg', '.png', '.bmp', '.pgm', '.ppm'})
MAX_PIXELS = 100_000_000
_MAX_FILE_BYTES = 8 * MAX_PIXELS


def read_image(path: Path) -> np.ndarray:
    """Read an image file.

    Returns:
        (H, W, 3) uint8 RGB, or (H, W) uint8 when the file is grey.

    Raises:
        BagError: the file is missing, damaged or larger than 100 megapixels.
    """
    return decode_color(_read_bytes(path), f'image {path.name!r}')


def read_depth(path: Path, units_per_metre: float) -> np.ndarray:
    """Read a depth map stored as integers.

    Returns:
        (H, W) float32 metres, NaN where the file holds zero.

    Raises:
        BagError: the file is missing, damaged, not one channel, or too large.
    """
    what = f'depth map {path.name!r}'
    return metres_from_units(decode_any(_read_bytes(path), what), units_per_metre, what)


def metres_from_units(raw: np.ndarray, units_per_metre: float, what: str) -> np.ndarray:
    """(H, W) stored depth to float32 metres; zero and non-finite values become NaN."""
    if raw.ndim != 2 or raw.dtype == np.uint8:
        raise BagError(f'{what} is not one channel of 16 bit: depth is stored as 16 bit PNG')
    depth_m = raw.astype(np.float32)
    depth_m *= np.float32(1.0 / units_per_metre)
    depth_m[~(depth_m > 0.0) | np.isinf(depth_m)] = np.nan
    return depth_m


def decode_color(data: bytes | memoryview | np.ndarray, what: str) -> np.ndarray:
    """Decode to (H, W, 3) uint8 RGB, or (H, W) uint8 when stored grey.

    Raises:
        BagError: with `what` as its subject.
    """
    image = _decode(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_IGNORE_ORIENTATION, what)
    if image.ndim == 2:
        return image
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_any(data: bytes | memoryview | np.ndarray, what: str) -> np.ndarray:
    """Decode to the channels and depth as stored (OpenCV's channel order).

    Raises:
        BagError: with `what` as its subject.
    """
    return _decode(data, cv2.IMREAD_UNCHANGED, what)


def encoded_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) told by the header of a JPEG, PNG, BMP or PNM, None for anything else."""
    try:
        if data[:8] == b'\x89PNG\r\n\x1a\n':
            return struct.unpack('>II', data[16:24])
        if data[:2] == b'\xff\xd8':
            return _jpeg_size(data)
        if data[:2] == b'BM':
            width, height = struct.unpack('<ii', data[18:26])
            return width, abs(height)
        if data[:1] == b'P' and data[1:2] in b'2356':
            return _pnm_size(data)
    except (struct.error, ValueError, IndexError):
        pass
    return None


def _decode(data: bytes | memoryview | np.ndarray, flags: int, what: str) -> np.ndarray:
    buffer = np.frombuffer(data, np.uint8)
    size = encoded_size(buffer[: 1 << 20].tobytes())
    if size is None:
        raise BagError(f'{what} is not a JPEG, PNG, BMP or PNM: the data is damaged or empty')
    width, height = size
    if width * height > MAX_PIXELS:
        raise BagError(f'{what} claims {width}x{height} pixels: refused above 100 megapixels')
    try:
        image = cv2.imdecode(buffer, flags)
    except cv2.error:
        image = None
    if image is None or image.size == 0:
        raise BagError(f'{what} cannot be decoded: the data is damaged or cut off')
    return image


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Walk the segments to the start-of-frame marker."""
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack('>HH', data[at + 5 : at + 9])
            return width, height
        standalone = marker == 0x01 or 0xD0 <= marker <= 0xD9
        at += 2 if standalone else 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return None


def _pnm_size(data: bytes) -> tuple[int, int]:
    lines = (line.split(b'#')[0] for line in data[2:512].split(b'\n'))
    words = b' '.join(lines).split()
    return int(words[0]), int(words[1])


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise BagError(f'{path.name!r} is too large for an image: check the folder')
        return path.read_bytes()
    except OSError:
        raise BagError(f'{str(path)!r} cannot be read: check that the file exists') from None


def natural_key(path: Path) -> list[tuple[int, int | str]]:
    """Order of file names in which the numbers in them count as numbers."""
    words = re.split(r'(\d+)', path.name)
    return [(0, int(word)) if word.isdecimal() else (1, word) for word in words]
