"""Alignment: a known motion is undone, freedom is respected, degenerate motion is refused."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.alignment import Alignment, align, mean_turn

FITTED = (Alignment.SE3, Alignment.SIM3, Alignment.YAW)


def moved(poses, T, scale=1.0):
    """The poses as an odometry would report them that starts elsewhere in its own units."""
    result = np.linalg.inv(T) @ poses
    result[:, :3, 3] *= scale
    return result


@pytest.mark.parametrize('seed', range(5))
def test_a_rigid_motion_is_undone(walk_of, pose_of, seed):
    truth, T = walk_of(seed).poses, pose_of(seed)
    for mode in (Alignment.SE3, Alignment.ORIGIN):
        similarity = align(truth, moved(truth, T), mode)
        assert similarity.scale == 1.0
        np.testing.assert_allclose(similarity.T_ref_est, T, atol=1e-9)
        np.testing.assert_allclose(similarity.apply(moved(truth, T)), truth, atol=1e-9)


@pytest.mark.parametrize('scale', [0.05, 1.0, 30.0])
def test_scale_is_recovered_only_when_asked_for(walk_of, pose_of, scale):
    truth, T = walk_of(3).poses, pose_of(4)
    estimate = moved(truth, T, 1.0 / scale)
    similarity = align(truth, estimate, Alignment.SIM3)
    assert similarity.scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(similarity.apply(estimate), truth, atol=1e-8)
    assert align(truth, estimate, Alignment.SE3).scale == 1.0


def test_yaw_recovers_heading_and_translation_about_any_vertical(walk_of):
    truth = walk_of(1).poses
    for up in ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.6, 0.0, 0.8)):
        T = np.eye(4)
        T[:3, :3] = Rotation.from_rotvec(2.5 * np.array(up)).as_matrix()
        T[:3, 3] = [3.0, -2.0, 1.0]
        similarity = align(truth, moved(truth, T), Alignment.YAW, up)
        np.testing.assert_allclose(similarity.T_ref_est, T, atol=1e-9)


def test_yaw_leaves_a_tilt_in_place(walk_of, pose_of):
    truth = walk_of(1).poses
    R = align(truth, moved(truth, pose_of(6)), Alignment.YAW).T_ref_est[:3, :3]
    np.testing.assert_allclose(R @ [0, 0, 1], [0, 0, 1], atol=1e-12)


def test_yaw_is_the_best_heading_of_a_fine_search(walk_of, noisy_of):
    walk = walk_of(2)
    truth, estimate = walk.poses[:, :3, 3], noisy_of(walk, metres=0.5).poses
    found = align(walk.poses, estimate, Alignment.YAW).T_ref_est
    angle = np.arctan2(found[1, 0], found[0, 0])

    def cost(turn):
        turned = estimate[:, :3, 3] @ Rotation.from_rotvec([0, 0, turn]).as_matrix().T
        residual = truth - turned
        return ((residual - residual.mean(axis=0)) ** 2).sum()

    nearby = [cost(angle + step) for step in (-1e-3, 0.0, 1e-3)]
    assert nearby[1] < min(nearby[0], nearby[2])


def test_the_mean_turn_of_turned_orientations_is_that_turn(walk_of, noisy_of, pose_of):
    walk = walk_of(2, count=400)
    T = pose_of(8)
    found = mean_turn(T @ noisy_of(walk, rad=0.02).poses, walk.poses)
    assert np.rad2deg(Rotation.from_matrix(found[:3, :3].T @ T[:3, :3]).magnitude()) < 0.3
    np.testing.assert_array_equal(found[:3, 3], 0.0)


def test_orientations_that_cancel_have_no_mean_turn():
    turns = np.tile(np.eye(4), (2, 1, 1))
    turns[1, :3, :3] = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_array_equal(mean_turn(turns, np.tile(np.eye(4), (2, 1, 1))), np.eye(4))


def test_none_changes_nothing(walk_of, pose_of):
    truth = walk_of(1).poses
    estimate = moved(truth, pose_of(1))
    np.testing.assert_array_equal(align(truth, estimate, Alignment.NONE).apply(estimate), estimate)


def test_the_inputs_stay_as_they_were(walk_of, pose_of):
    truth = walk_of(1).poses
    estimate = moved(truth, pose_of(1))
    before = truth.copy(), estimate.copy()
    for mode in Alignment:
        align(truth, estimate, mode).apply(estimate)
    np.testing.assert_array_equal(truth, before[0])
    np.testing.assert_array_equal(estimate, before[1])


@pytest.mark.parametrize('mode', FITTED)
def test_standing_still_leaves_the_fit_open(walk_of, mode):
    still = np.tile(np.eye(4), (20, 1, 1))
    moving = walk_of(1, count=20).poses
    for truth, estimate in ((still, still), (still, moving), (moving, still)):
        with pytest.raises(EvaluationError, match='align by origin or none') as caught:
            align(truth, estimate, mode)
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('mode', [Alignment.SE3, Alignment.SIM3])
def test_a_straight_line_leaves_the_roll_open(mode):
    line = np.tile(np.eye(4), (20, 1, 1))
    line[:, :3, 3] = np.outer(np.arange(20), [1.0, 2.0, 0.5])
    with pytest.raises(EvaluationError, match='straight line'):
        align(line, line, mode)
    np.testing.assert_allclose(align(line, line, Alignment.ORIGIN).T_ref_est, np.eye(4))


def test_a_vertical_line_has_no_heading():
    line = np.tile(np.eye(4), (20, 1, 1))
    line[:, 2, 3] = np.arange(20)
    with pytest.raises(EvaluationError, match='heading'):
        align(line, line, Alignment.YAW)


def test_two_poses_are_too_few_and_unequal_numbers_are_refused(walk):
    with pytest.raises(EvaluationError, match='2 common poses, a fit needs 3'):
        align(walk.poses[:2], walk.poses[:2], Alignment.SE3)
    with pytest.raises(EvaluationError, match='as many poses'):
        align(walk.poses, walk.poses[:-1], Alignment.NONE)
    with pytest.raises(EvaluationError, match='as many poses'):
        align(walk.poses[:0], walk.poses[:0], Alignment.NONE)
