"""Poses that agree with the image and cannot be true all the same."""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.local_map import NO_SIGHTS
from kpvo_ros.odometry.mapping import Mapping
from kpvo_ros.odometry.motion import MotionState
from kpvo_ros.odometry.tracking import Guess, Pose

MAX_SIGMAS = 4.0  # between a pose and the one the wheels have led to


def doubt(mapping: Mapping, stamp_ns: int, pose: Pose | None, limits: TrackingConfig) -> str:
    """Why a pose in the map cannot be believed, '' when it can.

    Args:
        mapping: with the state before.
        stamp_ns: time of the pose.
        pose: None when none was found.
        limits: what the robot can do.
    """
    if pose is None:
        return 'too few points of the map found in the image'
    problem = ''
    if mapping.motion.doubt is not None:
        guess = mapping.guess(stamp_ns, NO_SIGHTS, is_lost=True)
        problem = misled(pose.T_odom_camera, guess, mapping.motion.led_by)
    return problem or far_fetched(mapping.motion, stamp_ns, pose.T_odom_camera, limits)


def far_fetched(
    motion: MotionState, stamp_ns: int, T_odom_camera: np.ndarray, limits: TrackingConfig
) -> str:
    """Why the robot cannot have come there since the last measured pose, '' when it can.

    Args:
        motion: the state before.
        stamp_ns: time of the pose.
        T_odom_camera: (4, 4) the pose.
        limits: what the robot can do.
    """
    speed, turn = motion.implied_speed(stamp_ns, T_odom_camera)
    if motion.in_metres and speed > limits.max_speed_m_s:
        return f'pose implies {speed:.1f} m/s, more than tracking.max_speed_m_s'
    if turn > limits.max_turn_rad_s:
        return f'pose implies {turn:.1f} rad/s, more than tracking.max_turn_rad_s'
    return ''


def misled(T_odom_camera: np.ndarray, guess: Guess, leader: str) -> str:
    """Why a pose cannot be that of a camera that was led elsewhere, '' when it can.

    Args:
        T_odom_camera: (4, 4) the pose.
        guess: where it was led, and how well that is known.
        leader: what led it, e.g. 'the wheels'.
    """
    off = se3.log_se3(se3.inverse(guess.T_odom_camera) @ T_odom_camera)
    surprise = float(np.sqrt(off @ np.linalg.solve(guess.covariance, off)))
    if surprise > MAX_SIGMAS:
        return f'pose is {np.linalg.norm(off[:3]):.2f} m from where {leader} have led'
    return ''
