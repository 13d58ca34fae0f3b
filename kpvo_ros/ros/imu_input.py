"""The gyro of a robot: messages kept until an image comes, turned into axes of the base.

An IMU is rarely mounted in the axes of the robot. How it sits is asked of TF once per frame name;
where TF does not know, its axes are taken for those of the base, and the log says so.
"""

from __future__ import annotations

from collections import deque
import time

import numpy as np
from rclpy.node import Node
from rclpy.time import Time
from sensor_msgs.msg import Imu
from tf2_ros import Buffer, TransformException, TransformListener

from kpvo_ros.bags.images import stamp_ns_of
from kpvo_ros.config.runtime import FramesConfig
from kpvo_ros.ros import convert
from kpvo_ros.ros.image_input import subscribe
from kpvo_ros.types import Gyro

TOPIC = 'imu'
_QUEUE = 1000  # messages kept between two images: 5 s at 200 Hz


class ImuInput:
    """Listens to the topic imu while it is open.

    Args:
        node: subscribes.
        frames: name of the base frame, and how long to wait for TF.

    Attributes:
        newest_ns: stamp of the message that came last, None before the first.
    """

    def __init__(self, node: Node, frames: FramesConfig) -> None:
        self._node = node
        self._frames = frames
        self._messages: deque[Imu] = deque(maxlen=_QUEUE)
        self.newest_ns: int | None = None
        self._mounts: dict[str, np.ndarray] = {}  # (3, 3) rotations into the base, by frame
        self._first_asked_s: float | None = None
        self._buffer = Buffer()  # without a node: never asked to wait, offers no service
        self._listener: TransformListener | None = TransformListener(self._buffer, node)
        self._subscription = subscribe(node, Imu, TOPIC, self._on_message, depth=200)

    def take(self) -> list[Gyro]:
        """The rates that came since the last call; none while TF may still tell the mount."""
        gyros = []
        while self._messages:
            mount = self._mount(self._messages[0].header.frame_id)
            if mount is None:
                break
            gyro = convert.gyro_from_message(self._messages.popleft(), mount)
            if gyro is not None:
                gyros.append(gyro)
        return gyros

    def clear(self) -> None:
        """Forget what was not taken yet."""
        self._messages.clear()

    def close(self) -> None:
        """Stop to listen."""
        self._node.destroy_subscription(self._subscription)
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None
        self.clear()

    def _on_message(self, message: Imu) -> None:
        self._messages.append(message)
        self.newest_ns = stamp_ns_of(message.header)

    def _mount(self, frame: str) -> np.ndarray | None:
        """(3, 3) rotation from axes of a frame into those of the base; None: ask again."""
        if frame not in self._mounts:
            R_base_imu = self._look_up(frame)
            if R_base_imu is None:
                return None
            self._mounts[frame] = R_base_imu
        return self._mounts[frame]

    def _look_up(self, frame: str) -> np.ndarray | None:
        base = self._frames.base_frame
        if frame == base:
            return np.eye(3)
        if self._first_asked_s is None:
            self._first_asked_s = time.monotonic()
        try:
            found = self._buffer.lookup_transform(base, frame, Time())
        except TransformException:
            found = None
        T_base_imu = None if found is None else convert.matrix_from_transform(found.transform)
        if T_base_imu is not None:
            self._node.get_logger().info(f'gyro on the robot from TF {base} <- {frame}')
            return T_base_imu[:3, :3]
        if time.monotonic() - self._first_asked_s < self._frames.tf_timeout_s:
            return None
        self._node.get_logger().warning(
            f'TF has no {base} <- {frame}: the axes of the gyro are taken for those of {base}'
        )
        return np.eye(3)
