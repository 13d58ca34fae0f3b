"""Completeness and jumps, from answers written by hand whose numbers can be counted."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.continuity import Answers, continuity, jumps, standstill_drift
from kpvo_ros.types import Status, Trajectory

STATUS = {'s': Status.STARTING, 't': Status.TRACKING, 'd': Status.DEGRADED, 'l': Status.LOST}
PERIOD_NS = 100_000_000
STEP_M = 0.1


def straight(count, step_m=STEP_M, yaw_rad=0.0):
    """Poses that go along the world's x axis, each looking `yaw_rad` to the left of it."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler('z', yaw_rad).as_matrix()
    poses[:, 0, 3] = np.arange(count) * step_m
    return poses


def stamps(count):
    return 1_700_000_000_000_000_000 + np.arange(count, dtype=np.int64) * PERIOD_NS


def answered(states, poses=None, visible=None, map_id=None):
    """Answers from one letter per frame."""
    count = len(states)
    return Answers(
        stamps_ns=stamps(count),
        poses=straight(count) if poses is None else poses,
        status=tuple(STATUS[letter] for letter in states),
        visible=np.ones(count, bool) if visible is None else np.array([v == '1' for v in visible]),
        map_id=np.zeros(count, np.int64) if map_id is None else np.array([int(m) for m in map_id]),
    )


def truth(count):
    return Trajectory(stamps(count), straight(count))


# -------------------------------------------------------------------------------- completeness


def test_a_run_without_a_gap_is_complete():
    result = continuity(answered('tttdt'))
    assert (result.frames, result.visible, result.maps) == (5, 5, 1)
    assert result.answered_percent == result.tracked_percent == result.completed_percent == 100.0
    assert result.main_map_percent == 100.0
    assert (result.first_tracked, result.lost_frames, result.longest_lost_s) == (0, 0, 0.0)


def test_frames_before_the_first_measured_one_are_no_answer_unless_filled_afterwards():
    answers = answered('sstttttttt')
    alone = continuity(answers)
    assert (alone.answered_percent, alone.completed_percent, alone.first_tracked) == (80, 80, 2)
    filled = continuity(answers, Trajectory(answers.stamps_ns[1:], straight(10)[1:]))
    assert (filled.answered_percent, filled.completed_percent) == (90.0, 90.0)
    assert filled.tracked_percent == 80.0
    assert filled.lost_frames == 0


def test_held_frames_are_answered_but_not_completed():
    result = continuity(answered('ttllltttll'))
    assert result.answered_percent == 100.0
    assert result.tracked_percent == result.completed_percent == 50.0
    assert result.lost_frames == 5
    assert result.longest_lost_s == pytest.approx(0.3)


def test_a_stretch_at_the_end_lasts_until_the_last_frame():
    assert continuity(answered('ttllll')).longest_lost_s == pytest.approx(0.3)


def test_nobody_is_blamed_for_black_frames():
    result = continuity(answered('ttlllltttt', visible='1100001111'))
    assert result.visible == 6
    assert result.tracked_percent == result.completed_percent == 100.0
    assert result.lost_frames == 4
    dark = continuity(answered('sss', visible='000'))
    assert dark.tracked_percent is None
    assert dark.completed_percent is None
    assert dark.main_map_percent is None


def test_starting_anew_counts_as_lost_and_makes_another_map():
    answers = answered('ttlssttttt', map_id='0001111111')
    result = continuity(answers)
    assert (result.lost_frames, result.maps) == (3, 2)
    assert result.main_map_percent == 50.0
    np.testing.assert_array_equal(answers.in_main_map, [0] * 5 + [1] * 5)


def test_a_map_without_a_measured_frame_is_none():
    assert continuity(answered('ttsstt', map_id='001122')).maps == 2


def test_a_map_number_that_comes_back_is_the_old_map():
    """The new map was joined to it."""
    answers = answered('tttttt', map_id='001100')
    result = continuity(answers)
    assert result.maps == 2
    assert result.main_map_percent == pytest.approx(100 * 4 / 6)
    np.testing.assert_array_equal(answers.in_main_map, [1, 1, 0, 0, 1, 1])


def test_after_that_the_next_new_map_is_yet_another_one():
    answers = answered('t' * 9, map_id='001100111')
    assert continuity(answers).maps == 3
    np.testing.assert_array_equal(answers.in_main_map, [1, 1, 0, 0, 1, 1, 0, 0, 0])


def test_frames_told_late_belong_to_the_map_they_waited_for():
    answers = answered('ttllsstttt', map_id='0000001111')
    told = Trajectory(stamps(10)[[0, 1, 4, 5, 6, 7, 8, 9]], straight(8, step_m=0.2))
    result = continuity(answers, told)
    assert (result.tracked_percent, result.completed_percent) == (60.0, 80.0)
    assert (result.main_map_percent, result.maps) == (60.0, 2)
    filled = answers.filled(told)
    np.testing.assert_array_equal(filled.in_main_map, [0] * 4 + [1] * 6)
    np.testing.assert_array_equal(filled.poses[4:6], told.poses[2:4])
    kept = [0, 1, 2, 3, 6, 7, 8, 9]
    np.testing.assert_array_equal(filled.poses[kept], answers.poses[kept])


def test_frames_told_late_after_the_last_measured_one_keep_their_map():
    answers = answered('ttss', map_id='0001')
    filled = answers.filled(Trajectory(stamps(4), straight(4)))
    assert filled.measured.all()
    np.testing.assert_array_equal(filled.map_id, [0, 0, 1, 1])


def test_unreadable_frames_and_poses_that_are_no_numbers_are_not_answered():
    poses = straight(4)
    poses[2] = np.nan
    result = continuity(answered('tttt', poses), unreadable=1)
    assert result.frames == 5
    assert result.answered_percent == 60.0


def test_an_odometry_that_never_starts_has_no_first_frame():
    result = continuity(answered('ssss'))
    assert result.first_tracked is None
    assert (result.answered_percent, result.tracked_percent, result.maps) == (0.0, 0.0, 0)


def test_unequal_lengths_and_no_frames_are_refused():
    with pytest.raises(EvaluationError, match='as many'):
        Answers(stamps(3), straight(2), (Status.LOST,) * 3, np.ones(3, bool), np.zeros(3, int))
    with pytest.raises(EvaluationError, match='0 stamps'):
        answered('', straight(0))


# --------------------------------------------------------------------------------------- jumps


@pytest.mark.parametrize('turned', [False, True])
def test_a_perfect_run_in_another_frame_never_jumps(turned, pose_of):
    poses = straight(8)
    if turned:
        poses = pose_of(3) @ poses
    result = jumps(answered('t' * 8, poses), truth(8))
    assert result.largest_m == pytest.approx(0, abs=1e-12)
    assert result.largest_deg == pytest.approx(0, abs=1e-6)
    assert result.recovery_m is None


def test_a_step_aside_is_measured_in_metres_and_degrees():
    poses = straight(8)
    poses[4:, :3, 3] += [0.0, 0.3, 0.4]
    poses[4:, :3, :3] = Rotation.from_euler('z', 5, degrees=True).as_matrix()
    result = jumps(answered('t' * 8, poses), truth(8))
    assert result.largest_m == pytest.approx(0.5)
    assert result.largest_deg == pytest.approx(5.0)
    assert result.recovery_m is None


def test_a_heading_that_is_wrong_but_constant_is_no_jump():
    wrong = Rotation.from_euler('z', 30, degrees=True).as_matrix()
    poses = straight(8)
    poses[:, :3, 3] = poses[:, :3, 3] @ wrong.T
    poses[:, :3, :3] = wrong
    assert jumps(answered('t' * 8, poses), truth(8)).largest_m == pytest.approx(0, abs=1e-12)


def test_a_run_without_metres_is_compared_in_metres():
    poses = straight(8, step_m=STEP_M / 4)
    poses[5:, 1, 3] += 0.05
    result = jumps(answered('t' * 8, poses), truth(8), scale=4.0)
    assert result.largest_m == pytest.approx(0.2)


def test_a_held_pose_lags_but_does_not_jump_also_when_a_map_begins_there():
    poses = straight(9)
    poses[3:6] = poses[2]  # lost
    poses[6:, 0, 3] = poses[2, 0, 3] + np.arange(3) * STEP_M  # goes on from where it was held
    result = jumps(answered('tttlllttt', poses), truth(9))
    assert result.largest_m == pytest.approx(0, abs=1e-12)
    assert result.recovery_m == pytest.approx(0, abs=1e-12)


def test_a_pose_told_late_bridges_the_step_of_the_next_one():
    """Hidden for three frames the pose stood still; the trajectory in the end has no step."""
    poses = straight(9)
    poses[3:6] = poses[2]
    answers = answered('tttsssttt', poses)
    assert jumps(answers, truth(9)).recovery_m == pytest.approx(3 * STEP_M)
    told = answers.filled(Trajectory(stamps(9), straight(9)))
    assert jumps(told, truth(9)).largest_m == pytest.approx(0, abs=1e-12)
    assert jumps(told, truth(9)).recovery_m is None


def test_stepping_to_the_true_pose_at_recovery_is_a_jump():
    poses = straight(9)
    poses[3:6] = poses[2]
    result = jumps(answered('tttlllttt', poses), truth(9))
    # From the held pose to the true one: four steps at once, one of which the camera made.
    assert result.recovery_m == pytest.approx(3 * STEP_M)
    assert result.largest_m == pytest.approx(3 * STEP_M)


def test_a_lost_pose_that_goes_to_the_origin_is_a_jump_though_not_one_at_recovery():
    poses = straight(8)
    poses[5:] = np.eye(4)
    result = jumps(answered('tttttlll', poses), truth(8))
    assert result.largest_m == pytest.approx(4 * STEP_M)
    assert result.recovery_m is None


def test_a_tracked_pose_that_stands_still_while_the_camera_moves_is_a_jump():
    poses = straight(6)
    poses[3:, 0, 3] -= STEP_M
    assert jumps(answered('tttttt', poses), truth(6)).largest_m == pytest.approx(STEP_M)


def test_recovery_is_over_after_two_seconds():
    states = 'tl' + 't' * 40
    for late, expected in ((10, 0.5), (35, 0.0)):
        poses = straight(len(states))
        poses[late:, 1, 3] += 0.5
        result = jumps(answered(states, poses), truth(len(states)))
        assert result.recovery_m == pytest.approx(expected, abs=1e-12)
        assert result.largest_m == pytest.approx(0.5)


def test_what_comes_before_the_first_measured_frame_is_no_jump():
    poses = straight(6)
    poses[:2, 1, 3] = 7.0
    assert jumps(answered('sstttt', poses), truth(6)).largest_m == pytest.approx(0, abs=1e-12)


def test_without_two_frames_there_is_no_step():
    assert jumps(answered('ssst'), truth(4)).largest_m is None
    assert jumps(answered('ssss'), truth(4)).largest_deg is None


def test_missing_frames_are_bridged():
    full = answered('t' * 10)
    keep = np.array([0, 1, 4, 5, 9])
    some = Answers(
        full.stamps_ns[keep],
        full.poses[keep],
        full.status[:5],
        full.visible[keep],
        full.map_id[keep],
    )
    assert jumps(some, truth(10)).largest_m == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------------------- standstill


def test_drift_at_standstill_is_the_largest_distance_from_the_first_pose(pose_of):
    poses = np.tile(pose_of(5), (4, 1, 1))
    poses[2, :3, 3] += [0.003, 0.0, 0.004]
    poses[3, :3, :3] = poses[3, :3, :3] @ Rotation.from_euler('x', 2, degrees=True).as_matrix()
    assert standstill_drift(poses) == pytest.approx((0.005, 2.0))
    with pytest.raises(EvaluationError, match='no pose'):
        standstill_drift(poses[:0])
