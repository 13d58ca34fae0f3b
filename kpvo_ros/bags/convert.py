"""Any `Source` to a rosbag2 that this package, and `ros2 bag play`, read back.

Topics: /camera/image_raw (or image_raw/compressed), /camera/camera_info, /camera/depth (or
depth/compressedDepth), /wheel_odometry, /imu (only the gyro, in axes of base_link), /ground_truth
(nav_msgs/Odometry: pose of the optical frame in `world`) and /tf_static (base_link to the optical
frame).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path

from kpvo_ros.bags.source import OPTICAL_FRAME, Record, Source
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.errors import BagError
from kpvo_ros.types import BadFrame, Frame, Gyro, WheelOdometry

IMAGE_TOPIC = '/camera/image_raw'
CAMERA_INFO_TOPIC = '/camera/camera_info'
DEPTH_TOPIC = '/camera/depth'
WHEEL_TOPIC = '/wheel_odometry'
IMU_TOPIC = '/imu'
GROUND_TRUTH_TOPIC = '/ground_truth'
WORLD_FRAME = 'world'
BASE_FRAME = 'base_link'
ODOM_FRAME = 'odom'
Progress = Callable[[int, 'int | None'], None]


@dataclasses.dataclass(frozen=True)
class ConversionSummary:
    """What went into the bag.

    Attributes:
        frames: images written.
        bad_frames: images that could not be read and are missing from the bag.
        wheel_poses: poses of the wheel odometry written.
        truth_poses: poses of the ground truth written.
    """

    frames: int
    bad_frames: int
    wheel_poses: int
    truth_poses: int


def convert(
    source: Source,
    out_path: str | Path,
    storage: str = 'mcap',
    compressed: bool = False,
    progress: Progress | None = None,
) -> ConversionSummary:
    """Write everything a source offers into a new bag.

    Args:
        source: what to read.
        out_path: directory to create.
        storage: 'mcap' or 'sqlite3'.
        compressed: images as JPEG and depth as PNG in millimetres, instead of raw.
        progress: called with (images read, images in all or None).

    Raises:
        BagError: the bag cannot be written, or the source has no readable image.
    """
    with BagWriter(out_path, storage) as writer:
        conversion = _Conversion(source, writer, compressed)
        total = source.info.n_frames
        for record in source.records():
            conversion.add(record)
            if progress is not None:
                progress(conversion.images, total)
        conversion.finish()
    summary = conversion.summary()
    if summary.frames == 0:
        raise BagError(
            f'no image of {source.info.name!r} could be read ({conversion.last_reason}): '
            f'{str(out_path)!r} holds no images'
        )
    return summary


class _Conversion:
    """What has been written so far, and what is still to come."""

    def __init__(self, source: Source, writer: BagWriter, compressed: bool) -> None:
        self._source = source
        self._writer = writer
        self._compressed = compressed
        self._truth = source.ground_truth()
        self._truth_written = 0
        self._counts: dict[type, int] = {Frame: 0, BadFrame: 0, WheelOdometry: 0, Gyro: 0}
        self._frame_id = OPTICAL_FRAME
        self.last_reason = 'the source is empty'

    @property
    def images(self) -> int:
        """Images seen, good and bad."""
        return self._counts[Frame] + self._counts[BadFrame]

    def summary(self) -> ConversionSummary:
        """Counts of what was written."""
        counts = self._counts
        return ConversionSummary(
            counts[Frame], counts[BadFrame], counts[WheelOdometry], self._truth_written
        )

    def add(self, record: Record) -> None:
        """Write one record."""
        self._counts[type(record)] += 1
        if isinstance(record, BadFrame):
            self.last_reason = record.reason
        elif isinstance(record, WheelOdometry):
            self._writer.write_odometry(
                WHEEL_TOPIC, record.stamp_ns, record.T_odom_base, ODOM_FRAME, BASE_FRAME
            )
        elif isinstance(record, Gyro):
            rate = record.angular_velocity
            self._writer.write_gyro(IMU_TOPIC, record.stamp_ns, rate, BASE_FRAME)
        else:
            if self._counts[Frame] == 1:
                self._begin(record)
            self._write_truth(until_ns=record.stamp_ns)
            self._write_frame(record)

    def finish(self) -> None:
        """Write the ground truth after the last image."""
        self._write_truth(until_ns=None)

    def _begin(self, frame: Frame) -> None:
        self._frame_id = frame.frame_id
        T_base_camera = self._source.extrinsics()
        if T_base_camera is not None:
            transforms = [(BASE_FRAME, self._frame_id, T_base_camera)]
            self._writer.write_static_transforms(frame.stamp_ns, transforms)

    def _write_truth(self, until_ns: int | None) -> None:
        truth = self._truth
        while truth is not None and self._truth_written < len(truth):
            stamp_ns = int(truth.stamps_ns[self._truth_written])
            if until_ns is not None and stamp_ns > until_ns:
                return
            T_world_camera = truth.poses[self._truth_written]
            self._writer.write_odometry(
                GROUND_TRUTH_TOPIC, stamp_ns, T_world_camera, WORLD_FRAME, self._frame_id
            )
            self._truth_written += 1

    def _write_frame(self, frame: Frame) -> None:
        stamp_ns, frame_id = frame.stamp_ns, frame.frame_id
        self._writer.write_camera_info(CAMERA_INFO_TOPIC, stamp_ns, frame.camera, frame_id)
        if self._compressed:
            topic = f'{IMAGE_TOPIC}/compressed'
            self._writer.write_compressed_image(topic, stamp_ns, frame.image, frame_id)
        else:
            self._writer.write_image(IMAGE_TOPIC, stamp_ns, frame.image, frame_id)
        if frame.depth_m is None:
            return
        if self._compressed:
            topic = f'{DEPTH_TOPIC}/compressedDepth'
            self._writer.write_depth(topic, stamp_ns, frame.depth_m, frame_id, 'compressedDepth')
        else:
            self._writer.write_depth(DEPTH_TOPIC, stamp_ns, frame.depth_m, frame_id)
