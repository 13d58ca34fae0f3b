"""Where the camera sits on the robot: from TF, else from parameters, saying which."""

from __future__ import annotations

import time

import numpy as np
from rclpy.node import Node
from rclpy.time import Time
from tf2_ros import Buffer, TransformException, TransformListener

from kpvo_ros.config.runtime import FramesConfig
from kpvo_ros.odometry.extrinsics import extrinsics_from
from kpvo_ros.ros.convert import matrix_from_transform


class CameraMount:
    """Finds `T_base_camera` once, waiting a bounded time for TF.

    Args:
        node: its TF is listened to while this object is open.
        frames: names of the frames, and the extrinsics for a robot without TF.
    """

    def __init__(self, node: Node, frames: FramesConfig) -> None:
        self._node = node
        self._frames = frames
        self._buffer = Buffer()  # without a node: never asked to wait, offers no service
        self._listener: TransformListener | None = TransformListener(self._buffer, node)
        self._first_asked_s: float | None = None

    def find(self, camera_frame: str) -> np.ndarray | None:
        """(4, 4) pose of `camera_frame` in the base frame; None while TF may still come."""
        if self._first_asked_s is None:
            self._first_asked_s = time.monotonic()
        T_base_camera = self._from_tf(camera_frame) if camera_frame else None
        if T_base_camera is not None:
            self._tell(f'TF {self._frames.base_frame} <- {camera_frame}', T_base_camera)
            return T_base_camera
        waited_s = time.monotonic() - self._first_asked_s
        if camera_frame and waited_s < self._frames.tf_timeout_s:
            return None
        reason = (
            f'TF has no {self._frames.base_frame} <- {camera_frame} after {waited_s:.1f} s'
            if camera_frame
            else 'images have no frame_id'
        )
        T_base_camera = extrinsics_from(self._frames)
        self._tell(f'parameters frames.extrinsics_* ({reason})', T_base_camera)
        return T_base_camera

    def close(self) -> None:
        """Stop to listen."""
        if self._listener is not None:
            self._listener.unregister()
            self._listener = None

    def _from_tf(self, camera_frame: str) -> np.ndarray | None:
        if camera_frame == self._frames.base_frame:
            return np.eye(4)
        try:
            found = self._buffer.lookup_transform(self._frames.base_frame, camera_frame, Time())
        except TransformException:
            return None
        return matrix_from_transform(found.transform)

    def _tell(self, source: str, T_base_camera: np.ndarray) -> None:
        x, y, z = T_base_camera[:3, 3]
        forward = ' '.join(f'{value:.3f}' for value in T_base_camera[:3, 2])
        self._node.get_logger().info(
            f'camera on the robot from {source}: '
            f'position {x:.3f} {y:.3f} {z:.3f} m, looking along [{forward}]'
        )
