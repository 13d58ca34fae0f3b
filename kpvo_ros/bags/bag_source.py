"""A bag as a `Source`: images with intrinsics and depth, wheel odometry, ground truth, extrinsics.

Topics not named by the user are guessed. Records keep the order of recording.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from kpvo_ros.bags.bag_stream import BagStream, StreamOptions
from kpvo_ros.bags.camera_info import camera_from_info
from kpvo_ros.bags.images import stamp_ns_of
from kpvo_ros.bags.intrinsics import read_intrinsics
from kpvo_ros.bags.poses import StaticTransforms, clean_frame, pose_from_msg
from kpvo_ros.bags.reader import Bag
from kpvo_ros.bags.source import OPTICAL_FRAME, Notes, Record, Selection, SourceInfo, SourceKind
from kpvo_ros.bags.topics import TopicChoice, choose_topics
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Trajectory

_INFOS_TO_TRY = 100


class BagSource:
    """The `Source` over a bag.

    Args:
        path: the bag.
        topics: topics named by the user.
        intrinsics: YAML file that takes precedence over camera_info.
        selection: which images are wanted.
        rectified: the images are rectified already.

    Raises:
        BagError: the bag cannot be read or has no images or no intrinsics.
    """

    def __init__(
        self,
        path: Path,
        topics: TopicChoice,
        intrinsics: Path | None,
        selection: Selection,
        rectified: bool = False,
    ) -> None:
        self._bag = Bag(path)
        self._selection = selection
        self._rectified = rectified
        self._trust_depth = topics.depth is not None
        try:
            self._topics, guesses = choose_topics(self._bag.topics, topics)
            self._notes = Notes(path.name, [*self._bag.notes, *guesses])
            if intrinsics is not None:
                self._topics = dataclasses.replace(self._topics, camera_info=None)
                self._camera = read_intrinsics(intrinsics)
            else:
                self._camera = self._first_camera()
            self._camera_frame = self._first_frame_id()
            self._tree = self._read_tree()
        except BagError:
            self._bag.close()
            raise

    @property
    def topics(self) -> TopicChoice:
        """The topics in use."""
        return self._topics

    @property
    def info(self) -> SourceInfo:
        """What the index of the bag and the first messages tell."""
        whole = self._selection.start_s == 0.0 and self._selection.duration_s is None
        count = self._bag.topics[str(self._topics.image)].count
        return SourceInfo(
            name=self._bag.path.resolve().stem,
            kind=SourceKind.BAG,
            n_frames=-(-count // self._selection.stride) if whole else None,
            camera=self._camera,
            has_depth=self._topics.depth is not None,
            has_ground_truth=self._topics.ground_truth is not None,
            notes=tuple(self._notes),
        )

    def records(self) -> Iterator[Record]:
        """Stream the bag."""
        options = StreamOptions(
            self._topics, self._camera, self._rectified, self._trust_depth, self._axes_of
        )
        yield from BagStream(self._bag, options, self._notes, self._selection.picker()).records()
        for note in self._bag.notes:
            self._notes.add(note)

    def ground_truth(self) -> Trajectory | None:
        """`T_world_camera` from the ground truth topic, None without one."""
        if self._topics.ground_truth is None:
            return None
        poses: dict[int, np.ndarray] = {}
        for _, _, msg in self._bag.messages({self._topics.ground_truth}):
            T_body_camera = self._body_to_camera(msg)
            if T_body_camera is None:
                return None
            pose = getattr(msg.pose, 'pose', msg.pose)  # one level deeper beside a covariance
            try:
                T_world_body = pose_from_msg(pose.position, pose.orientation)
            except BagError as error:
                self._notes.add(f'ground truth pose left out: {error}')
                continue
            poses[stamp_ns_of(msg.header)] = T_world_body @ T_body_camera
        if not poses:
            return None
        stamps = sorted(poses)
        return Trajectory(np.array(stamps, np.int64), np.array([poses[s] for s in stamps]))

    def extrinsics(self) -> np.ndarray | None:
        """`T_base_camera` from /tf_static, None without a way from base to camera."""
        base = self._tree.base_of(self._camera_frame)
        return None if base is None else self._tree.lookup(base, self._camera_frame)

    def close(self) -> None:
        """Release the bag."""
        self._bag.close()

    def __enter__(self) -> BagSource:
        """Return the source itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the source."""
        self.close()

    def _first_camera(self) -> Camera:
        topic = self._topics.camera_info
        if topic is None:
            raise BagError(
                f'bag {str(self._bag.path)!r} has no camera_info for {self._topics.image}: '
                'pass a YAML file with --intrinsics'
            )
        reason = 'no message can be read'
        for _, _, msg in itertools.islice(self._bag.messages({topic}), _INFOS_TO_TRY):
            try:
                return camera_from_info(msg, rectified=self._rectified)
            except BagError as error:
                reason = str(error)
        raise BagError(
            f'no usable intrinsics on {topic} ({reason}): pass a YAML file with --intrinsics'
        )

    def _first_frame_id(self) -> str:
        for _, _, msg in self._bag.messages({str(self._topics.image)}):
            return clean_frame(msg.header.frame_id) or OPTICAL_FRAME
        raise BagError(f'no readable image on {self._topics.image}: record it again')

    def _read_tree(self) -> StaticTransforms:
        tree = StaticTransforms()
        if self._topics.tf_static is not None:
            for _, _, msg in self._bag.messages({self._topics.tf_static}):
                tree.add_message(msg)
        return tree

    def _axes_of(self, frame: str) -> np.ndarray:
        """(3, 3) rotation from the axes of a frame into those of the base."""
        base = self._tree.base_of(frame)
        T_base_frame = None if base is None else self._tree.lookup(base, frame)
        if T_base_frame is None:
            self._notes.add(
                f'/tf_static has no way from the base to {frame!r}: its axes are taken for those '
                'of the base'
            )
            return np.eye(3)
        return T_base_frame[:3, :3]

    def _body_to_camera(self, msg: Any) -> np.ndarray | None:
        """Where the camera sits on the body whose pose a ground truth message gives."""
        body = clean_frame(getattr(msg, 'child_frame_id', ''))
        if not body:  # a stamped pose does not say whose it is
            body = self._tree.base_of(self._camera_frame) or self._camera_frame
            self._notes.add(f'ground truth is taken as the pose of {body!r}')
        T_body_camera = self._tree.lookup(body, self._camera_frame)
        if T_body_camera is None:
            self._notes.add(
                f'ground truth left out: /tf_static has no way from {body!r} to '
                f'{self._camera_frame!r}'
            )
        return T_body_camera
