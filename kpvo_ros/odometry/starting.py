"""From no map to a map: at once with depth, else when two views have parallax.

Until then there are two things a camera can still know: that it stands (`standstill`) and how it
turned. Everything else is waited for.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.bootstrap import Turn, relative_pose, turn_between
from kpvo_ros.odometry.local_map import Sights
from kpvo_ros.odometry.mapping import Mapping
from kpvo_ros.odometry.tracking import Tracker
from kpvo_ros.odometry.waiting import WaitingFrame
from kpvo_ros.types import Frame

TURN_SIGMA_M = 0.03  # of the position of a camera that is known to have turned
TURN_SIGMA_RAD = np.deg2rad(0.1)  # of its rotation, at least
TURN_SHARE = 0.1  # of the turn that may have been a shift along a wall far ahead
_TURN_ERROR_PX = 0.7  # median error of a plain rotation up to which the camera only turned
_TURN_KEPT = 0.5  # share of the first view's points in sight, below which a turn begins anew
# Two views without enough parallax are tried again when the points have moved so much further;
# the next frame of a fast camera shows the same and costs 20 ms.
_TRY_AGAIN = 1.05


class Progress(enum.Enum):
    """How far a frame has brought it."""

    WAITING = enum.auto()  # nothing is known of its pose
    TURNED = enum.auto()  # its rotation is
    MAP = enum.auto()  # it made the map


@dataclasses.dataclass(frozen=True)
class Start:
    """What a frame without a map has brought.

    Attributes:
        progress: see there.
        reason: one line that says what is waited for.
        is_keyframe: whether the frame was kept as a view.
    """

    progress: Progress
    reason: str
    is_keyframe: bool


def start(
    mapping: Mapping, tracker: Tracker, config: VoConfig, frame: Frame, sights: Sights | None
) -> Start:
    """Try to make the first map.

    Args:
        mapping: the map side; begins views and maps.
        tracker: finds points by descriptor where optical flow is not wanted.
        config: all parameters.
        frame: the image.
        sights: points of the first view followed into it, None when there is no first view.
    """
    if mapping.scale.needs_depth:
        return _start_from_depth(mapping, frame)
    if config.tracking.method == 'descriptor' and sights is not None:
        everything = np.arange(len(mapping.map))
        features = mapping.extract(frame)
        sights = tracker.search(features, mapping.map, frame.camera, everything)
    if sights is None or len(sights) < config.tracking.degraded_inliers:
        return _start_anew(mapping, frame, 'first view of the map')
    mapping.sights = sights
    turn = turn_between(sights, mapping.map, frame.camera)
    if turn.error_px < _TURN_ERROR_PX:
        return _turn(mapping, frame, turn)
    T_camera_keyframe = None
    if turn.moved_px > _TRY_AGAIN * mapping.waiting.tried_px:
        mapping.waiting.tried_px = turn.moved_px
        T_camera_keyframe = relative_pose(
            sights, mapping.map, frame.camera, config.keyframes, config.seed
        )
    if T_camera_keyframe is None:
        mapping.waiting.add(WaitingFrame(frame.stamp_ns, sights=sights))
        return Start(Progress.WAITING, 'waiting for parallax: move the camera sideways', False)
    if not mapping.begin_from_two_views(frame, T_camera_keyframe):
        return _start_anew(mapping, frame, 'two views gave too few points: starting anew')
    return Start(Progress.MAP, '', True)


def _start_from_depth(mapping: Mapping, frame: Frame) -> Start:
    if frame.depth_m is None:
        return Start(Progress.WAITING, 'no depth image yet (scale.source=depth)', False)
    known = mapping.begin_from_depth(frame)
    if not mapping.has_map:
        return Start(Progress.WAITING, f'only {known} keypoints with depth', False)
    return Start(Progress.MAP, '', True)


def _start_anew(mapping: Mapping, frame: Frame, reason: str) -> Start:
    """This frame is the first of two views."""
    mapping.waiting.forget()
    mapping.begin_views(frame)
    pose = mapping.motion.T_odom_camera, mapping.motion.covariance
    mapping.waiting.add(WaitingFrame(frame.stamp_ns, None, *pose))  # by definition
    return Start(Progress.WAITING, reason, True)


def _turn(mapping: Mapping, frame: Frame, turn: Turn) -> Start:
    """The camera has only turned since the first view: that much is measured."""
    T_first = mapping.map.T_odom_keyframe[0]
    T = T_first @ se3.from_rt(turn.R_1_0.T, np.zeros(3))
    sigma_rad = TURN_SIGMA_RAD + TURN_SHARE * se3.rotation_angle_rad(turn.R_1_0)
    noise = np.diag([TURN_SIGMA_M**2] * 3 + [float(sigma_rad) ** 2] * 3)
    mapping.motion.measure(frame.stamp_ns, T, mapping.map.covariance[0] + noise, noise)
    is_worn = len(mapping.sights) < _TURN_KEPT * len(mapping.map)
    if is_worn:
        mapping.waiting.forget()
        mapping.begin_views(frame)
    return Start(Progress.TURNED, 'turning on the spot: no parallax yet', is_worn)
