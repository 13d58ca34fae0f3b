"""Where a frame is in the map: from the points that were followed, else from descriptors."""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.odometry.local_map import NO_SIGHTS, Sights
from kpvo_ros.odometry.mapping import Mapping
from kpvo_ros.odometry.stopwatch import Stopwatch
from kpvo_ros.odometry.tracking import Pose, Tracker
from kpvo_ros.types import Frame, Status


def locate(
    mapping: Mapping,
    tracker: Tracker,
    config: TrackingConfig,
    frame: Frame,
    sights: Sights,
    watch: Stopwatch,
    *,
    is_blind: bool,
) -> tuple[Pose | None, Sights]:
    """Pose from the followed points; when they are too few, from descriptors.

    Args:
        mapping: the map side, which has a map.
        tracker: finds points and solves poses.
        config: parameters.
        frame: the image.
        sights: points of the map followed into it.
        watch: takes the times.
        is_blind: whether the last image gave no pose.

    Returns:
        The pose, None when none is supported, and the sights it was solved from.
    """
    local_map, camera, motion = mapping.map, frame.camera, mapping.motion
    if is_blind and motion.doubt is None and not motion.is_fresh(frame.stamp_ns):
        return None, NO_SIGHTS  # a corridor looks the same two metres on: see `Odometry._lose`
    with watch.stage('solve'):
        guess = mapping.guess(frame.stamp_ns, sights, is_blind)
        pose = tracker.solve(sights, local_map, camera, guess)
    if config.method == 'flow' or (pose and pose.inliers >= config.degraded_inliers):
        return pose, sights
    with watch.stage('search'):
        everything = np.arange(len(local_map))
        features = mapping.extract(frame)
        found = tracker.search(features, local_map, camera, everything)
        searched = tracker.solve(found, local_map, camera, guess)
    if searched and (pose is None or searched.inliers > pose.inliers):
        return searched, found
    return pose, sights


def support(inliers: int, is_firm: bool, config: TrackingConfig) -> tuple[Status, str]:
    """How far a measured pose can be trusted, and why no further.

    Args:
        inliers: points that support it.
        is_firm: whether points of known depth hold the position.
        config: parameters.
    """
    if inliers < config.degraded_inliers:
        return Status.DEGRADED, f'only {inliers} points support the pose'
    if not is_firm:
        return Status.DEGRADED, 'no depth in sight yet: rotation measured, position predicted'
    return Status.TRACKING, ''
