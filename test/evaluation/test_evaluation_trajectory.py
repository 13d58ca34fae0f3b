"""Trajectory metrics against closed forms: each error that was put in comes out as its number."""

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.trajectory import (
    ErrorStats,
    ate,
    completion,
    drift_percent,
    kitti_errors,
    path_lengths_m,
    path_scale_error,
    position_errors_m,
    rotation_errors_deg,
    rpe,
    scale_error,
)


def straight(count: int, step_m: float = 1.0) -> np.ndarray:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = step_m * np.arange(count)
    return poses


def arc(count: int, step_m: float, turn_rad: float) -> np.ndarray:
    """Each step goes ahead, then turns about z; in closed form by complex numbers."""
    headings = turn_rad * np.arange(count)
    places = np.concatenate([[0], np.cumsum(step_m * np.exp(1j * headings))[:-1]])
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler('z', headings[:, None]).as_matrix()
    poses[:, 0, 3], poses[:, 1, 3] = places.real, places.imag
    return poses


def test_stats_are_those_of_the_definition():
    stats = ErrorStats.of(np.array([3.0, 4.0, 5.0, 0.0]))
    assert stats == ErrorStats(np.sqrt(12.5), 3.0, 3.5, np.sqrt(3.5), 0.0, 5.0, 4)


def test_stats_of_nothing_are_refused():
    with pytest.raises(EvaluationError, match='no errors'):
        ErrorStats.of(np.array([]))


def test_path_length_of_a_square_is_its_perimeter():
    corners = np.tile(np.eye(4), (5, 1, 1))
    corners[:, :2, 3] = [[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]
    assert path_lengths_m(corners).tolist() == [0, 2, 4, 6, 8]
    assert path_lengths_m(corners[:1]).tolist() == [0]


def test_a_constant_offset_is_the_ate(walk):
    shifted = walk.poses.copy()
    shifted[:, :3, 3] += [3.0, 0.0, 4.0]
    stats = ate(walk.poses, shifted)
    assert (stats.rmse, stats.max, stats.std) == pytest.approx((5.0, 5.0, 0.0), abs=1e-9)


def test_a_constant_turn_is_the_rotation_error(walk):
    turned = walk.poses.copy()
    turned[:, :3, :3] = turned[:, :3, :3] @ Rotation.from_rotvec([0.0, 0.3, 0.0]).as_matrix()
    np.testing.assert_allclose(rotation_errors_deg(walk.poses, turned), np.rad2deg(0.3))
    np.testing.assert_allclose(position_errors_m(walk.poses, turned), 0.0, atol=1e-12)


def test_rpe_does_not_see_where_the_frame_stands(walk, pose_of):
    error = rpe(walk.poses, pose_of(3) @ walk.poses, delta_frames=3)
    assert error.translation_m.max < 1e-9
    assert error.rotation_deg.max < 1e-5
    assert error.translation_m.count == len(walk) - 3


def test_rpe_of_a_stretched_line_is_the_stretch_times_the_distance():
    truth, estimate = straight(101), straight(101, 1.02)
    assert rpe(truth, estimate).translation_m.rmse == pytest.approx(0.02)
    assert rpe(truth, estimate, delta_frames=10).translation_m.rmse == pytest.approx(0.2)
    assert rpe(truth, estimate, delta_m=25.0).translation_m.mean == pytest.approx(0.5)
    assert rpe(truth, estimate, delta_m=25.0).translation_m.count == 76


def test_rpe_over_metres_follows_the_path_not_the_chord():
    truth = arc(200, 0.5, 0.1)  # goes round and round: no chord is longer than 10 m
    error = rpe(truth, arc(200, 0.5, 0.101), delta_m=40.0)
    assert error.rotation_deg.mean == pytest.approx(np.rad2deg(80 * 0.001))


def test_kitti_errors_of_a_stretched_line_are_the_stretch():
    errors = kitti_errors(straight(1001), straight(1001, 1.02))
    assert errors.translation_percent == pytest.approx(2.0)
    assert errors.rotation_deg_per_m == pytest.approx(0.0, abs=1e-9)
    assert errors.lengths_m == (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
    assert errors.segments == sum((1000 - length) // 10 + 1 for length in range(100, 801, 100))


def test_kitti_rotation_error_is_the_drift_of_the_heading_per_metre():
    errors = kitti_errors(arc(500, 1.0, 0.01), arc(500, 1.0, 0.0105))
    assert errors.rotation_deg_per_m == pytest.approx(np.rad2deg(0.0005))
    assert errors.lengths_m == (100.0, 200.0, 300.0, 400.0)


def test_kitti_errors_match_a_loop_over_all_segments(walk_of, noisy_of):
    walk = walk_of(4, count=300, step_m=1.3)
    truth, estimate = walk.poses, noisy_of(walk).poses
    travelled = [0.0]
    for a, b in itertools.pairwise(truth):
        travelled.append(travelled[-1] + float(np.linalg.norm(b[:3, 3] - a[:3, 3])))
    shares, turns = [], []
    for first in range(0, len(truth), 10):
        for length in (100, 200, 300):
            ends = [
                k for k in range(first, len(truth)) if travelled[k] >= travelled[first] + length
            ]
            if ends:
                true_motion = np.linalg.inv(truth[first]) @ truth[ends[0]]
                motion = np.linalg.inv(estimate[first]) @ estimate[ends[0]]
                error = np.linalg.inv(motion) @ true_motion
                distance = travelled[ends[0]] - travelled[first]
                shares.append(100 * np.linalg.norm(error[:3, 3]) / distance)
                turns.append(Rotation.from_matrix(error[:3, :3]).magnitude() / distance)
    errors = kitti_errors(truth, estimate)
    assert errors.translation_percent == pytest.approx(np.mean(shares), rel=1e-9)
    assert errors.rotation_deg_per_m == pytest.approx(np.rad2deg(np.mean(turns)), rel=1e-9)
    assert errors.segments == len(shares)


def test_a_short_path_is_cut_into_tenths_of_its_length():
    errors = kitti_errors(straight(51, 1.2), straight(51, 1.2 * 0.97))
    np.testing.assert_allclose(errors.lengths_m, np.arange(1, 9) * 6.0)
    assert errors.translation_percent == pytest.approx(3.0)
    assert errors.segments == sum(51 - 5 * k for k in range(1, 9))


@pytest.mark.parametrize('factor', [0.5, 0.98, 1.0, 1.25])
def test_both_scale_errors_name_the_stretch_with_its_sign(walk_of, pose_of, factor):
    truth = walk_of(5).poses
    estimate = pose_of(5) @ truth
    estimate[:, :3, 3] *= factor
    assert scale_error(truth, estimate) == pytest.approx(factor - 1.0, abs=1e-9)
    assert path_scale_error(truth, estimate) == pytest.approx(factor - 1.0, abs=1e-9)


def test_drift_is_the_open_end_of_a_loop_over_its_length():
    truth = arc(101, 2.0, 2 * np.pi / 100)  # closes after 200 m
    estimate = truth.copy()
    estimate[:, 2, 3] = np.linspace(0.0, 3.0, 101)
    assert drift_percent(truth, estimate) == pytest.approx(1.5)
    T = np.eye(4)
    T[:3, 3] = [10.0, 0.0, -4.0]
    assert drift_percent(truth, T @ estimate) == pytest.approx(1.5)


def test_completion_is_a_fraction_of_all_frames():
    assert completion(98, 100) == 0.98
    assert completion(0, 5) == 0.0
    for poses, frames in ((1, 0), (0, 0), (6, 5), (-1, 5)):
        with pytest.raises(EvaluationError, match='cannot be'):
            completion(poses, frames)


def test_the_inputs_stay_as_they_were(walk, noisy_of):
    estimate = noisy_of(walk).poses
    before = walk.poses.copy(), estimate.copy()
    for measure in (ate, rpe, kitti_errors, scale_error, path_scale_error, drift_percent):
        measure(walk.poses, estimate)
    np.testing.assert_array_equal(walk.poses, before[0])
    np.testing.assert_array_equal(estimate, before[1])


def test_no_motion_has_no_scale_no_drift_and_no_segments():
    still = straight(10, 0.0)
    for measure in (kitti_errors, scale_error, path_scale_error, drift_percent):
        with pytest.raises(EvaluationError) as caught:
            measure(still, still)
        assert '\n' not in str(caught.value)
    assert ate(still, still).max == 0.0


@pytest.mark.parametrize('delta', [{'delta_frames': 0}, {'delta_m': -1.0}, {'delta_m': np.nan}])
def test_a_distance_that_is_not_positive_is_refused(walk, delta):
    with pytest.raises(EvaluationError, match='must be positive'):
        rpe(walk.poses, walk.poses, **delta)


def test_a_distance_beyond_the_path_and_two_distances_are_refused(walk):
    with pytest.raises(EvaluationError, match='60 frames apart'):
        rpe(walk.poses, walk.poses, delta_frames=60)
    with pytest.raises(EvaluationError, match='1e\\+06 m apart'):
        rpe(walk.poses, walk.poses, delta_m=1e6)
    with pytest.raises(EvaluationError, match='not both'):
        rpe(walk.poses, walk.poses, delta_m=1.0, delta_frames=1)


def test_unequal_empty_and_broken_poses_are_refused(walk):
    broken = walk.poses.copy()
    broken[3, 0, 3] = np.nan
    for truth, estimate in (
        (walk.poses, walk.poses[1:]),
        (walk.poses[:0], walk.poses[:0]),
        (walk.poses[:, :3], walk.poses[:, :3]),
        (walk.poses, broken),
    ):
        for measure in (ate, rpe, kitti_errors, path_scale_error, drift_percent):
            with pytest.raises(EvaluationError):
                measure(truth, estimate)
