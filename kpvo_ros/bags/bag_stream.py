"""One pass over the messages of a bag, turned into records.

Intrinsics are those of the newest camera_info before the image. Depth is joined to its image by
stamp; what cannot be laid over the image is left out with a note, the image is still worth having.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import numpy as np

from kpvo_ros.bags.camera_info import camera_from_info
from kpvo_ros.bags.images import decode_compressed, decode_depth, decode_image, stamp_ns_of
from kpvo_ros.bags.joining import DepthJoiner
from kpvo_ros.bags.poses import clean_frame, pose_from_msg
from kpvo_ros.bags.reader import Bag, RawMessage
from kpvo_ros.bags.source import Notes, Record, SelectionPicker, make_frame
from kpvo_ros.bags.topics import TopicChoice
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import BadFrame, Gyro, WheelOdometry

DEPTH_TOLERANCE_NS = 20_000_000


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """How to read a bag.

    Attributes:
        topics: the topics to read; camera_info is None when `camera` is to stay.
        camera: intrinsics of images before the first camera_info.
        rectified: the images are rectified already.
        trust_depth: lay depth over the image although its frame has another name.
        axes_of: (3, 3) rotation from the axes of a frame, by its name, into those of the base.
    """

    topics: TopicChoice
    camera: Camera
    rectified: bool
    trust_depth: bool
    axes_of: Callable[[str], np.ndarray]


class BagStream:
    """The state of one pass.

    Args:
        bag: where the messages come from.
        options: how to read it.
        notes: takes what there is to remark.
        picker: which images are wanted.
    """

    def __init__(
        self, bag: Bag, options: StreamOptions, notes: Notes, picker: SelectionPicker
    ) -> None:
        self._bag = bag
        self._options = options
        self._notes = notes
        self._picker = picker
        self._camera: Camera | BagError = options.camera
        self._info_key = ''
        self._joiner: DepthJoiner[_Image | Record, Any] = DepthJoiner(DEPTH_TOLERANCE_NS)

    def records(self) -> Iterator[Record]:
        """Read from the first to the last message."""
        topics = self._options.topics
        wanted = {topics.image, topics.camera_info, topics.depth, topics.odometry, topics.imu}
        wanted.discard(None)
        for raw in self._bag.raw_messages({str(topic) for topic in wanted}):
            self._take(raw)
            for pending, depth in self._joiner.ready(raw.recorded_ns):
                yield self._finish(pending, depth)
        for pending, depth in self._joiner.flush():
            yield self._finish(pending, depth)

    def _take(self, raw: RawMessage) -> None:
        """Queue a message, or remember what it says about those to come."""
        topics = self._options.topics
        try:
            msg = self._bag.deserialize(raw)
        except BagError as error:
            self._take_damaged(raw, error)
            return
        stamp_ns = self._stamp_of(msg, raw)
        if raw.topic == topics.camera_info:
            self._take_info(msg)
        elif raw.topic == topics.depth:
            self._joiner.add_depth(stamp_ns, raw.recorded_ns, msg)
        elif raw.topic == topics.odometry:
            self._take_wheels(stamp_ns, raw, msg)
        elif raw.topic == topics.imu:
            self._take_gyro(stamp_ns, raw, msg)
        elif self._picker.take_image(stamp_ns):
            image = _Image(stamp_ns, msg, self._camera)
            self._joiner.add(
                stamp_ns, raw.recorded_ns, image, wants_depth=topics.depth is not None
            )

    def _take_damaged(self, raw: RawMessage, error: BagError) -> None:
        is_image = raw.topic == self._options.topics.image
        if is_image and self._picker.take_image(raw.recorded_ns):
            bad = BadFrame(raw.recorded_ns, str(error))
            self._joiner.add(raw.recorded_ns, raw.recorded_ns, bad, wants_depth=False)

    def _take_info(self, msg: Any) -> None:
        """Intrinsics from now on, or the reason why there are none; drivers repeat themselves."""
        key = repr([value for name, value in vars(msg).items() if name != 'header'])
        if key == self._info_key:
            return
        self._info_key = key
        try:
            self._camera = camera_from_info(msg, rectified=self._options.rectified)
        except BagError as error:
            self._camera = error

    def _take_wheels(self, stamp_ns: int, raw: RawMessage, msg: Any) -> None:
        if not self._picker.in_window(stamp_ns):
            return
        pose = msg.pose.pose
        try:
            wheels = WheelOdometry(stamp_ns, pose_from_msg(pose.position, pose.orientation))
        except BagError as error:
            self._notes.add(f'wheel odometry left out: {error}')
            return
        self._joiner.add(stamp_ns, raw.recorded_ns, wheels, wants_depth=False)

    def _take_gyro(self, stamp_ns: int, raw: RawMessage, msg: Any) -> None:
        if not self._picker.in_window(stamp_ns):
            return
        rate = np.array([getattr(msg.angular_velocity, axis) for axis in 'xyz'], np.float64)
        if not np.isfinite(rate).all():
            self._notes.add('gyro left out: it shows NaN')
            return
        R_base_imu = self._options.axes_of(clean_frame(msg.header.frame_id))
        gyro = Gyro(stamp_ns, R_base_imu @ rate)
        self._joiner.add(stamp_ns, raw.recorded_ns, gyro, wants_depth=False)

    def _stamp_of(self, msg: Any, raw: RawMessage) -> int:
        stamp_ns = stamp_ns_of(msg.header)
        if stamp_ns == 0 and raw.recorded_ns > 0:
            self._notes.add(f'{raw.topic} has messages without stamp: recording time is used')
            return raw.recorded_ns
        return stamp_ns

    def _finish(self, pending: _Image | Record, depth: Any) -> Record:
        """Decode an image and its depth map; other records pass."""
        if not isinstance(pending, _Image):
            return pending
        if isinstance(pending.camera, BagError):
            return BadFrame(pending.stamp_ns, str(pending.camera))
        msg = pending.msg
        try:
            image = decode_compressed(msg) if hasattr(msg, 'format') else decode_image(msg)
        except BagError as error:
            return BadFrame(pending.stamp_ns, str(error))
        frame_id = clean_frame(msg.header.frame_id)
        depth_m = None if depth is None else self._decode_depth(depth, frame_id, image.shape[:2])
        return make_frame(pending.stamp_ns, image, pending.camera, frame_id, depth_m)

    def _decode_depth(
        self, msg: Any, image_frame: str, shape: tuple[int, ...]
    ) -> np.ndarray | None:
        """None, with a note, when it cannot be laid over the image."""
        depth_frame = clean_frame(msg.header.frame_id)
        if depth_frame != image_frame and not self._options.trust_depth:
            self._notes.add(
                f'depth is left out: it is in frame {depth_frame!r}, images in {image_frame!r}; '
                'name an aligned topic with depth_topic'
            )
            return None
        try:
            depth_m = decode_depth(msg)
        except BagError as error:
            self._notes.add(f'depth is left out: {error}')
            return None
        if depth_m.shape != shape:
            height, width = depth_m.shape
            self._notes.add(
                f'depth is left out: it is {width}x{height}, not of the size of the image; '
                'name an aligned topic with depth_topic'
            )
            return None
        return depth_m


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image message that waits for its depth, with the intrinsics of its time."""

    stamp_ns: int
    msg: Any
    camera: Camera | BagError
