"""Serialised messages: their classes by name, and their stamps changed where they lie.

A message that begins with a std_msgs/Header has its stamp right behind the 4 bytes of the CDR
head: int32 seconds, uint32 nanoseconds, in the byte order the head tells. Changing these eight
bytes is all it takes to restamp a megabyte of image.
"""

from __future__ import annotations

import importlib
import struct
from typing import Any

from rclpy.serialization import deserialize_message, serialize_message

from kpvo_ros.errors import RosError

_HEAD_BYTES = 4
_STAMP_END = 12
_BILLION = 1_000_000_000


def message_class(type_name: str) -> Any:
    """Class of a type name such as 'sensor_msgs/msg/Image'.

    Raises:
        RosError: the package with that message is not installed.
    """
    package, _, name = type_name.replace('/msg/', '/').partition('/')
    try:
        if not (package.isidentifier() and name.isidentifier()):  # names come from strangers' bags
            raise ImportError
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        raise RosError(
            f'message type {type_name!r} is not installed; install its package'
        ) from None


def begins_with_header(message_type: Any) -> bool:
    """Whether the first field of a message is a std_msgs/Header."""
    fields = message_type.get_fields_and_field_types()
    return next(iter(fields.values()), '') == 'std_msgs/Header'


def stamp_ns_in(data: bytes) -> int:
    """Stamp of a serialised message that begins with a header, nanoseconds."""
    seconds, nanoseconds = struct.unpack(_stamp_format(data), data[_HEAD_BYTES:_STAMP_END])
    return seconds * _BILLION + nanoseconds


def with_shifted_stamps(data: bytes, message_type: Any, offset_ns: int) -> bytes:
    """The serialised message with every stamp moved by `offset_ns`.

    Headers at the front and those of a TFMessage are moved; other types come back unchanged.
    """
    if begins_with_header(message_type):
        stamp = divmod(stamp_ns_in(data) + offset_ns, _BILLION)
        packed = struct.pack(_stamp_format(data), *stamp)
        return b''.join((data[:_HEAD_BYTES], packed, memoryview(data)[_STAMP_END:]))
    if message_type.__name__ == 'TFMessage':
        message = deserialize_message(data, message_type)
        for transform in message.transforms:
            stamp_ns = transform.header.stamp.sec * _BILLION + transform.header.stamp.nanosec
            shifted = divmod(stamp_ns + offset_ns, _BILLION)
            transform.header.stamp.sec, transform.header.stamp.nanosec = shifted
        return serialize_message(message)
    return data


def _stamp_format(data: bytes) -> str:
    if len(data) < _STAMP_END:
        raise RosError(f'serialised message of {len(data)} bytes is cut off; record it again')
    return '<iI' if data[1] & 1 else '>iI'
