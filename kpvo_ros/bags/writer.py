"""Writing rosbag2 recordings that `ros2 bag play` of Jazzy replays, without ROS.

Messages are built here from arrays and poses, or passed through as CDR bytes. What was written
stays readable whatever happens: files are completed when an exception passes, and everything
older than a second is on disk should the process be killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kpvo_ros.bags.messages import MessageFactory
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

_FLUSH_INTERVAL_S = 1.0
_BAG_VERSION: Literal[9] = 9  # metadata version of Jazzy


class BagWriter:
    """A new rosbag2 directory; a context manager.

    Args:
        path: directory to create.
        storage: 'mcap' or 'sqlite3'.

    Raises:
        BagError: the path exists or cannot be created, or the storage is unknown.
    """

    def __init__(self, path: str | Path, storage: str = 'mcap') -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        plugins = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
        if storage not in plugins:
            raise BagError(f'unknown bag storage {storage!r}: use mcap or sqlite3')
        self.path = Path(path)
        if self.path.exists():
            raise BagError(f'{str(path)!r} exists already: remove it or choose another name')
        self._messages = MessageFactory()
        self._connections: dict[tuple[str, str], Connection] = {}
        self._clock_ns: dict[str, int] = {}
        self._flushed_s = time.monotonic()
        try:
            self._writer: Writer | None = Writer(
                self.path, version=_BAG_VERSION, storage_plugin=plugins[storage]
            )
            self._writer.open()
        except OSError as error:
            raise BagError(f'cannot create bag {str(path)!r}: {error.strerror}') from None

    def write_image(
        self,
        topic: str,
        stamp_ns: int,
        image: np.ndarray,
        frame_id: str,
        encoding: str | None = None,
    ) -> None:
        """Write (H, W, 3) RGB or (H, W) grey uint8; encoding defaults to rgb8 or mono8.

        Raises:
            BagError: the image cannot be encoded so.
        """
        encoding = encoding or ('mono8' if image.ndim == 2 else 'rgb8')
        msg = self._messages.image(stamp_ns, frame_id, image, encoding)
        self._write_stamped(topic, stamp_ns, msg)

    def write_compressed_image(
        self,
        topic: str,
        stamp_ns: int,
        image: np.ndarray,
        frame_id: str,
        container: str = 'jpeg',
        quality: int = 95,
    ) -> None:
        """Write (H, W, 3) RGB or (H, W) grey uint8 as 'jpeg' or 'png'.

        Raises:
            BagError: the image cannot be encoded so.
        """
        msg = self._messages.compressed_image(stamp_ns, frame_id, image, container, quality)
        self._write_stamped(topic, stamp_ns, msg)

    def write_depth(
        self,
        topic: str,
        stamp_ns: int,
        depth_m: np.ndarray,
        frame_id: str,
        encoding: str = '32FC1',
    ) -> None:
        """Write (H, W) metres, NaN unknown, as '32FC1', '16UC1' or 'compressedDepth' (PNG).

        Raises:
            BagError: the depth cannot be encoded so.
        """
        msg = self._messages.depth(stamp_ns, frame_id, depth_m, encoding)
        self._write_stamped(topic, stamp_ns, msg)

    def write_camera_info(self, topic: str, stamp_ns: int, camera: Camera, frame_id: str) -> None:
        """Write the intrinsics of the image with the same stamp."""
        msg = self._messages.camera_info(stamp_ns, frame_id, camera)
        self._write_stamped(topic, stamp_ns, msg)

    def write_odometry(
        self,
        topic: str,
        stamp_ns: int,
        T_parent_child: np.ndarray,
        frame_id: str,
        child_frame_id: str,
    ) -> None:
        """Write a (4, 4) pose as nav_msgs/Odometry without twist and covariance."""
        msg = self._messages.odometry(stamp_ns, frame_id, child_frame_id, T_parent_child)
        self._write_stamped(topic, stamp_ns, msg)

    def write_gyro(
        self, topic: str, stamp_ns: int, angular_velocity: np.ndarray, frame_id: str
    ) -> None:
        """Write a rate of turn (3,) rad/s in axes of `frame_id` as sensor_msgs/Imu."""
        msg = self._messages.gyro(stamp_ns, frame_id, angular_velocity)
        self._write_stamped(topic, stamp_ns, msg)

    def write_static_transforms(
        self, stamp_ns: int, transforms: Sequence[tuple[str, str, np.ndarray]]
    ) -> None:
        """Write (parent, child, (4, 4) T_parent_child) to /tf_static."""
        msg = self._messages.transforms(stamp_ns, transforms)
        self._write_stamped('/tf_static', stamp_ns, msg)

    def write(self, topic: str, recorded_ns: int, msg: Any) -> None:
        """Write a message of rosbags' Jazzy type store."""
        self.write_raw(topic, msg.__msgtype__, recorded_ns, self._messages.serialize(msg))

    def write_raw(
        self,
        topic: str,
        msgtype: str,
        recorded_ns: int,
        data: bytes | memoryview,
        definition: str | None = None,
    ) -> None:
        """Write a message that is serialised already.

        Args:
            topic: its topic.
            msgtype: its type, such as sensor_msgs/msg/Image.
            recorded_ns: when it was received, nanoseconds, not negative.
            data: CDR bytes.
            definition: text of the .msg file, for types outside of the common interfaces.

        Raises:
            BagError: the type is unknown, the time is negative, or the disk is full.
        """
        if not 0 <= recorded_ns < 2**63:
            raise BagError(f'cannot record at time {recorded_ns}: bags start at 0')
        writer = self._open_writer()
        key = (topic, msgtype)
        if key not in self._connections:
            self._connections[key] = self._messages.connect(writer, topic, msgtype, definition)
        try:
            writer.write(self._connections[key], recorded_ns, data)
            if time.monotonic() - self._flushed_s > _FLUSH_INTERVAL_S:
                self.flush()
        except (OSError, sqlite3.Error) as error:
            raise BagError(
                f'cannot write to {str(self.path)!r} ({error}): free some disk'
            ) from None

    def flush(self) -> None:
        """Hand everything written so far to the operating system."""
        from rosbags.rosbag2.storage_mcap import McapWriter
        from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

        storage = self._open_writer().storage
        if isinstance(storage, McapWriter):
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
        elif isinstance(storage, Sqlite3Writer):
            storage.conn.commit()
        self._flushed_s = time.monotonic()

    def close(self) -> None:
        """Complete the bag with its index and metadata.yaml; closing twice is allowed."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            writer.close()
        except (OSError, sqlite3.Error) as error:
            raise BagError(
                f'cannot complete {str(self.path)!r} ({error}): free some disk'
            ) from None

    def __enter__(self) -> BagWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Complete the bag, also when an exception passes: what was written is kept."""
        self.close()

    def _write_stamped(self, topic: str, stamp_ns: int, msg: Any) -> None:
        """Recording time follows the stamps of a topic but never goes back, as in real life."""
        self._clock_ns[topic] = max(self._clock_ns.get(topic, stamp_ns), stamp_ns)
        self.write(topic, self._clock_ns[topic], msg)

    def _open_writer(self) -> Any:
        if self._writer is None:
            raise BagError(f'bag {str(self.path)!r} is closed: open a new one')
        return self._writer
