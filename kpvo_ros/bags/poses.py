"""Poses in messages, and the static transform tree of a bag."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from kpvo_ros.errors import BagError, GeometryError
from kpvo_ros.geometry import se3

BASE_FRAMES = ('base_link', 'base_footprint', 'base')


def pose_from_msg(position: Any, orientation: Any) -> np.ndarray:
    """(4, 4) `T_parent_child` from the translation and quaternion of any message.

    Raises:
        BagError: a number is not finite, or the quaternion is zero.
    """
    t = np.array([position.x, position.y, position.z], dtype=np.float64)
    if not np.isfinite(t).all():
        raise BagError('pose holds NaN: check what published it')
    try:
        R = se3.matrix_from_quat_xyzw([orientation.x, orientation.y, orientation.z, orientation.w])
    except GeometryError as error:
        raise BagError(f'pose without orientation: {error}') from None
    return se3.from_rt(R, t)


def clean_frame(frame_id: str) -> str:
    """Frame name without the leading slash of ROS 1."""
    return frame_id.lstrip('/')


class StaticTransforms:
    """The frames of /tf_static and the way from one to the other."""

    def __init__(self) -> None:
        self._edges: dict[str, dict[str, np.ndarray]] = {}

    def add_message(self, msg: Any) -> None:
        """Take the transforms of a tf2_msgs/TFMessage; broken ones are left out."""
        for stamped in msg.transforms:
            move = stamped.transform
            try:
                T_parent_child = pose_from_msg(move.translation, move.rotation)
            except BagError:
                continue
            self.add(stamped.header.frame_id, stamped.child_frame_id, T_parent_child)

    def add(self, parent: str, child: str, T_parent_child: np.ndarray) -> None:
        """Connect two frames; the newest word counts."""
        parent, child = clean_frame(parent), clean_frame(child)
        self._edges.setdefault(parent, {})[child] = T_parent_child
        self._edges.setdefault(child, {})[parent] = se3.inverse(T_parent_child)

    def __contains__(self, frame: str) -> bool:
        """Whether any transform names the frame."""
        return frame in self._edges

    def lookup(self, frame_a: str, frame_b: str) -> np.ndarray | None:
        """(4, 4) `T_a_b`, None when the frames are not connected."""
        if frame_a == frame_b:
            return np.eye(4)
        reached = {frame_a: np.eye(4)}
        queue = deque([frame_a])
        while queue:
            frame = queue.popleft()
            for neighbour, T_frame_neighbour in self._edges.get(frame, {}).items():
                if neighbour not in reached:
                    reached[neighbour] = reached[frame] @ T_frame_neighbour
                    queue.append(neighbour)
        return reached.get(frame_b)

    def base_of(self, camera_frame: str, names: Iterable[str] = BASE_FRAMES) -> str | None:
        """The robot base the camera is mounted on, by its customary names."""
        for name in names:
            if self.lookup(name, camera_frame) is not None:
                return name
        return None
