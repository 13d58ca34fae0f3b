"""A recording loses nothing: frames that waited for the map get their poses afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_world import (
    CAMERA_HEIGHT_M,
    START_NS,
    T_BASE_CAMERA,
    Film,
    World,
    replayed,
    shoot,
    sideways_walk,
    statuses,
)

from kpvo_ros.evaluation.alignment import Alignment, align
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.waiting import MAX_FRAMES, Waiting, WaitingFrame
from kpvo_ros.types import OdometryEstimate, Status

NONE = ('scale.source=none',)
HEIGHT = (
    'scale.source=camera_height',
    f'scale.camera_height_m={CAMERA_HEIGHT_M}',
    'scale.camera_pitch_deg=5.7',
)


def told(
    estimates: list[OdometryEstimate], late: list[OdometryEstimate]
) -> dict[int, OdometryEstimate]:
    """The pose of every frame by stamp, as a trajectory file has them."""
    known = {one.stamp_ns: one for one in estimates if one.has_pose}
    return known | {one.stamp_ns: one for one in late}


@pytest.fixture(scope='module')
def mono(walk: Film) -> tuple[list[OdometryEstimate], list[OdometryEstimate]]:
    return replayed(walk.frames, *NONE)


def test_every_frame_of_a_recording_gets_a_pose(
    walk: Film, mono: tuple[list[OdometryEstimate], list[OdometryEstimate]]
) -> None:
    assert set(told(*mono)) == {frame.stamp_ns for frame in walk.frames}


def test_late_poses_belong_to_frames_that_had_none_and_come_once_in_order(
    mono: tuple[list[OdometryEstimate], list[OdometryEstimate]],
) -> None:
    estimates, late = mono
    stamps = [one.stamp_ns for one in late]
    first = next(one for one in estimates if one.status is Status.TRACKING)
    assert stamps == sorted(set(stamps)) and stamps[-1] < first.stamp_ns
    assert not set(stamps) & {one.stamp_ns for one in estimates if one.has_pose}
    assert all(one.has_pose and 'late' in one.reason for one in late)
    assert all(np.linalg.eigvalsh(one.covariance).min() > 0 for one in late)


def test_late_poses_lie_on_the_path(
    walk: Film, mono: tuple[list[OdometryEstimate], list[OdometryEstimate]]
) -> None:
    known = told(*mono)
    poses = np.stack([known[frame.stamp_ns].T_odom_camera for frame in walk.frames])
    truth = walk.T_odom_base @ T_BASE_CAMERA
    errors = np.linalg.norm(
        (align(truth, poses, Alignment.SIM3).apply(poses) - truth)[:, :3, 3], axis=1
    )
    late = [row for row, frame in enumerate(walk.frames) if 'late' in known[frame.stamp_ns].reason]
    assert len(late) >= 10
    assert np.sqrt((errors[late] ** 2).mean()) < 0.005 * walk.path_m
    np.testing.assert_allclose(poses[0], T_BASE_CAMERA, atol=1e-9)  # odom starts at the base


def test_late_poses_are_metric_where_the_others_are(walk: Film) -> None:
    estimates, late = replayed(walk.frames, *HEIGHT)
    known = told(estimates, late)
    assert len(known) == 80 and len(late) >= 10
    poses = np.stack([known[frame.stamp_ns].T_odom_camera for frame in walk.frames])
    # One path: the step from the last late pose to the first timely one is like its neighbours.
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    seam = max(row for row in range(80) if 'late' in known[walk.frames[row].stamp_ns].reason)
    assert steps[seam] < 1.5 * np.median(steps[seam + 1 : seam + 6])


def test_a_robot_is_told_nothing_late_and_its_pose_does_not_leap(walk: Film) -> None:
    estimates, late = replayed(walk.frames[:30], 'scale.source=depth')
    assert late == [] and statuses(estimates) == 'T' * 30


def test_a_standing_camera_without_depth_tracks_from_the_second_frame(room: World) -> None:
    film = shoot(room, np.repeat(sideways_walk(2)[:1], 10, axis=0))
    estimates, late = replayed(film.frames, *NONE)
    assert statuses(estimates) == 'S' + 'T' * 9
    for one in estimates:
        np.testing.assert_allclose(one.T_odom_base, np.eye(4), atol=1e-12)
    assert [one.stamp_ns for one in late] == [film.frames[0].stamp_ns]
    np.testing.assert_allclose(late[0].T_odom_base, np.eye(4), atol=1e-12)


# --------------------------------------------------------------------- the frames that wait


def located(row: int, x: float) -> WaitingFrame:
    return WaitingFrame(START_NS + row, None, se3.from_rt(np.eye(3), [x, 0, 0]), np.eye(6))


def test_waiting_frames_move_and_stretch_with_the_map() -> None:
    waiting = Waiting()
    waiting.add(WaitingFrame(START_NS))
    waiting.add(located(1, 3.0))
    waiting.rescale(2.0, np.array([1.0, 0.0, 0.0]))
    waiting.move(se3.from_rt(se3.rpy_to_matrix(0, 0, np.pi / 2), [0, 0, 7]))
    blind, seen = waiting
    assert not blind.is_located and seen.is_located and seen.T_odom_camera is not None
    np.testing.assert_allclose(seen.T_odom_camera[:3, 3], [0, 5, 7], atol=1e-12)


def test_only_so_many_frames_wait_and_the_oldest_are_given_up() -> None:
    waiting = Waiting()
    for row in range(MAX_FRAMES + 5):
        waiting.add(located(row, 0.0))
    assert len(waiting) == MAX_FRAMES
    assert next(iter(waiting)).stamp_ns == START_NS + 5
    waiting.forget()
    assert len(waiting) == 0
