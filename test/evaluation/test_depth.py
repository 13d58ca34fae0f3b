"""Scores of depth and of the motion of pairs: cases whose answer can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.depth import DepthErrors, depth_errors, pair_pose_errors

NAN = np.nan


def motion(rotvec_deg=(0.0, 0.0, 0.0), translation=(0.0, 0.0, 0.0)) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(rotvec_deg, degrees=True).as_matrix()
    T[:3, 3] = translation
    return T


# --------------------------------------------------------------------------------------- depth


def test_a_perfect_depth_has_no_errors_and_scale_one(rng):
    truth = rng.uniform(0.2, 70.0, (3, 1, 6, 8))
    errors = depth_errors(truth, truth)
    assert errors == DepthErrors(0.0, 0.0, 1.0, 1.0, 1.0, 1.0, truth.size)


def test_every_number_of_four_pixels_can_be_worked_out_by_hand():
    # ratios 1.2, 1.5, 1.9, 2.5: one below 1.25, two below 1.5625, three below 1.953
    errors = depth_errors([2.4, 3.0, 1.9, 4.0], [2.0, 2.0, 1.0, 10.0])
    assert errors.abs_rel == pytest.approx((0.2 + 0.5 + 0.9 + 0.6) / 4)
    assert errors.rmse_m == pytest.approx(np.sqrt((0.16 + 1.0 + 0.81 + 36.0) / 4))
    assert (errors.acc_125, errors.acc_125_2, errors.acc_125_3) == (0.25, 0.5, 0.75)
    assert errors.scale == pytest.approx(2.0 / 2.7)
    assert errors.pixels == 4


def test_unknown_truth_has_no_part_in_anything():
    known, truth = [1.1, 2.2, 3.3], [1.0, 2.0, 3.0]
    padded = depth_errors(
        [*known, 50.0, NAN, -1.0, 9.0, 9.0, 9.0], [*truth, NAN, 0.0, -3.0, np.inf, 0.05, 81.0]
    )
    assert padded == depth_errors(known, truth)
    assert padded.pixels == 3


def test_the_median_scale_undoes_an_unknown_scale(rng):
    truth = rng.uniform(1.0, 10.0, (40, 30))
    raw = depth_errors(truth / 7.0, truth)
    scaled = depth_errors(truth / 7.0, truth, median_scaled=True)
    assert raw.acc_125_3 == 0.0 and raw.abs_rel == pytest.approx(6.0 / 7.0)
    assert scaled.acc_125 == 1.0 and scaled.abs_rel == pytest.approx(0.0, abs=1e-12)
    assert raw.scale == scaled.scale == pytest.approx(7.0)


def test_predictions_are_drawn_into_the_range_before_they_are_compared():
    far = depth_errors([1e6, 1e-6], [60.0, 0.2])
    assert far.rmse_m == pytest.approx(np.sqrt((20.0**2 + 0.1**2) / 2))
    near = depth_errors([6.0, 1.0], [5.0, 1.0], max_depth_m=5.0)
    assert near.rmse_m == 0.0 and near.pixels == 2


@pytest.mark.parametrize('nothing', [NAN, np.inf, -np.inf, 0.0, -2.0])
def test_a_pixel_without_answer_is_wrong_but_spoils_no_mean(nothing):
    errors = depth_errors([nothing, 2.2, 1.1, 1.1], [4.0, 2.0, 1.0, 1.0])
    assert errors.acc_125 == errors.acc_125_3 == 0.75 and errors.pixels == 4
    assert errors.abs_rel == pytest.approx(0.1)
    assert errors.scale == pytest.approx(1.0 / 1.1)


def test_an_image_without_any_answer_is_all_wrong():
    errors = depth_errors([NAN, 0.0], [1.0, 2.0])
    assert (errors.acc_125, errors.acc_125_2, errors.acc_125_3, errors.pixels) == (0, 0, 0, 2)
    assert np.isnan([errors.abs_rel, errors.rmse_m, errors.scale]).all()


@pytest.mark.parametrize('shape', [(0,), (2, 3)])
def test_without_truth_there_are_no_numbers(shape):
    errors = depth_errors(np.ones(shape), np.full(shape, NAN), median_scaled=True)
    assert np.isnan(errors[:6]).all() and errors.pixels == 0


def test_half_precision_is_compared_without_loss_of_range():
    truth = np.full((300, 300), 79.0, np.float16)  # the sum of squares is beyond float16
    assert depth_errors(truth - np.float16(1.0), truth).rmse_m == pytest.approx(1.0)


def test_shapes_that_differ_and_a_range_that_is_none_are_refused():
    with pytest.raises(EvaluationError, match='resize'):
        depth_errors(np.ones((4, 4)), np.ones((1, 4, 4)))
    with pytest.raises(EvaluationError, match='range'):
        depth_errors([1.0], [1.0], min_depth_m=2.0, max_depth_m=1.0)


# -------------------------------------------------------------------------------------- motion


def test_each_error_of_a_motion_is_the_one_that_was_put_in():
    truth = motion((0.0, 20.0, 0.0), (0.0, 0.0, 0.5))
    estimates = np.stack(
        [
            truth,
            motion((0.0, 23.0, 0.0), (0.0, 0.0, 0.5)),  # 3 degrees too far
            motion((0.0, 20.0, 0.0), (0.0, 0.0, 0.6)),  # a fifth too long
            motion((0.0, 20.0, 0.0), (0.5, 0.0, 0.0)),  # at a right angle
            motion((0.0, 20.0, 0.0), (0.0, 0.0, -0.5)),  # backwards
        ]
    )
    errors = pair_pose_errors(estimates, np.stack([truth] * 5))
    np.testing.assert_allclose(errors.rotation_deg, [0, 3, 0, 0, 0], atol=1e-9)
    np.testing.assert_allclose(errors.translation_share, [0, 0, 0.2, 2**0.5, 2], atol=1e-12)
    np.testing.assert_allclose(errors.direction_deg, [0, 0, 0, 90, 180], atol=1e-9)


def test_a_camera_that_stood_still_has_a_rotation_error_only():
    truth = np.stack([motion((1.0, 0.0, 0.0), (0.0, 0.0009, 0.0)), motion(), motion()])
    estimate = np.stack([motion((3.0, 0.0, 0.0), (0.0, 1.0, 0.0)), motion(), motion()])
    errors = pair_pose_errors(estimate, truth)
    np.testing.assert_allclose(errors.rotation_deg, [2.0, 0.0, 0.0], atol=1e-9)
    assert np.isnan(errors.translation_share).all() and np.isnan(errors.direction_deg).all()


def test_an_estimate_that_does_not_move_misses_the_whole_step_and_has_no_direction():
    errors = pair_pose_errors(motion()[None], motion(translation=(0.3, 0.4, 0.0))[None])
    assert errors.translation_share[0] == pytest.approx(1.0)
    assert np.isnan(errors.direction_deg[0])


def test_a_failed_estimate_is_nan_and_leaves_the_others_alone():
    truth = np.stack([motion(translation=(1.0, 0.0, 0.0))] * 2)
    estimate = truth.copy()
    estimate[0, 1, 1] = NAN
    errors = pair_pose_errors(estimate, truth)
    assert np.isnan([error[0] for error in errors]).all()
    np.testing.assert_allclose([error[1] for error in errors], 0.0, atol=1e-9)


def test_no_pairs_have_no_errors():
    errors = pair_pose_errors(np.zeros((0, 4, 4)), np.zeros((0, 4, 4)))
    assert all(error.shape == (0,) for error in errors)


def test_motions_of_another_shape_or_without_truth_are_refused():
    with pytest.raises(EvaluationError, match='one estimate'):
        pair_pose_errors(np.eye(4), np.eye(4))
    with pytest.raises(EvaluationError, match='leave the pair out'):
        pair_pose_errors(np.eye(4)[None], np.full((1, 4, 4), NAN))
