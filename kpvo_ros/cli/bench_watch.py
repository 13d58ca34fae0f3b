"""Looks over the shoulder of a replay and keeps what it published, frame by frame."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kpvo_ros.errors import BagError
from kpvo_ros.evaluation.continuity import Answers
from kpvo_ros.types import Frame, OdometryEstimate, Status

MIN_CONTRAST = 3.0  # grey levels of standard deviation; below, an image shows nothing


class Watch:
    """An observer of `bags.replay.replay`."""

    def __init__(self) -> None:
        self._looks: list[_Look] = []

    def __call__(self, frame: Frame, estimate: OdometryEstimate) -> None:
        """Take one answer. Whether a frame shows something is judged by its image alone."""
        self._looks.append(
            _Look(
                stamp_ns=estimate.stamp_ns,
                T_odom_camera=estimate.T_odom_camera,
                T_odom_base=estimate.T_odom_base,
                covariance=estimate.covariance,
                status=estimate.status,
                visible=float(frame.gray[::4, ::4].std()) >= MIN_CONTRAST,
                map_id=estimate.map_id,
            )
        )

    @property
    def answers(self) -> Answers:
        """What was published for the camera.

        Raises:
            BagError: not one image could be read.
        """
        if not self._looks:
            raise BagError('not one image of the recording could be read')
        return Answers(
            stamps_ns=self.stamps_ns,
            poses=np.stack([look.T_odom_camera for look in self._looks]),
            status=tuple(look.status for look in self._looks),
            visible=np.array([look.visible for look in self._looks]),
            map_id=np.array([look.map_id for look in self._looks], np.int64),
        )

    @property
    def stamps_ns(self) -> np.ndarray:
        """(N,) int64."""
        return np.array([look.stamp_ns for look in self._looks], np.int64)

    @property
    def base_poses(self) -> np.ndarray:
        """(N, 4, 4) `T_odom_base` as published."""
        return np.stack([look.T_odom_base for look in self._looks])

    @property
    def covariances(self) -> np.ndarray:
        """(N, 6, 6) of `base_poses`, ROS convention."""
        return np.stack([look.covariance for look in self._looks])


class _Look(NamedTuple):
    """What is kept of one answer; the keypoints of a whole run would fill the memory."""

    stamp_ns: int
    T_odom_camera: np.ndarray
    T_odom_base: np.ndarray
    covariance: np.ndarray
    status: Status
    visible: bool
    map_id: int
