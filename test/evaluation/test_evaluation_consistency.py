"""NEES: honest covariances pass, boasting and shy ones do not."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.consistency import Part, check_consistency, parent_axes_errors


def drawn(walk_of, count=400, seed=0):
    """Estimates, and truth drawn from their covariances in the ROS convention, with scipy."""
    rng = np.random.default_rng(seed)
    estimate = walk_of(seed, count=count).poses
    factor = rng.normal(scale=0.02, size=(count, 6, 6))
    covariances = factor @ factor.transpose(0, 2, 1) + 1e-6 * np.eye(6)
    errors = np.array([rng.multivariate_normal(np.zeros(6), cov) for cov in covariances])
    truth = estimate.copy()
    truth[:, :3, 3] += errors[:, :3]  # parent axes
    truth[:, :3, :3] = Rotation.from_rotvec(errors[:, 3:]).as_matrix() @ estimate[:, :3, :3]
    return truth, estimate, covariances


def test_errors_drawn_from_the_covariance_are_consistent(walk_of):
    result = check_consistency(*drawn(walk_of), probability=0.999)
    assert result.is_consistent
    assert result.mean == pytest.approx(6.0, abs=0.6)
    _, p_value = stats.kstest(result.nees, 'chi2', args=(6,))
    assert p_value > 0.01


def test_the_share_inside_is_the_probability(walk_of):
    assert check_consistency(*drawn(walk_of), probability=0.9).inside == pytest.approx(
        0.9, abs=0.05
    )


def test_boasting_and_shyness_are_told_apart(walk_of):
    truth, estimate, covariances = drawn(walk_of)
    boasting = check_consistency(truth, estimate, covariances / 4)
    shy = check_consistency(truth, estimate, covariances * 4)
    assert boasting.mean > boasting.mean_bounds[1]
    assert shy.mean < shy.mean_bounds[0]
    assert not boasting.is_consistent
    assert not shy.is_consistent


def test_a_single_error_along_one_axis_has_its_closed_form():
    estimate = np.eye(4)[None]
    truth = estimate.copy()
    truth[0, :3, 3] = [0.3, 0.0, 0.0]
    result = check_consistency(truth, estimate, 0.01 * np.eye(6)[None])
    np.testing.assert_allclose(result.nees, [9.0])


@pytest.mark.parametrize('part', [Part.POSITION, Part.ROTATION])
def test_position_and_rotation_alone_have_three_degrees_of_freedom(walk_of, part):
    result = check_consistency(*drawn(walk_of), probability=0.999, part=part)
    assert result.dof == 3
    assert result.is_consistent
    _, p_value = stats.kstest(result.nees, 'chi2', args=(3,))
    assert p_value > 0.01


def test_twenty_runs_have_the_bounds_of_the_chi_square_law():
    poses = np.tile(np.eye(4), (20, 1, 1))
    covariances = np.tile(np.eye(6), (20, 1, 1))
    result = check_consistency(poses, poses, covariances, part=Part.POSITION)
    assert result.mean_bounds == pytest.approx((40.482 / 20, 83.298 / 20), abs=1e-3)  # tables


def test_a_wrong_rotation_is_no_fault_of_the_position(walk_of):
    truth, estimate, covariances = drawn(walk_of)
    turn = Rotation.from_rotvec([0.0, 0.0, 0.5]).as_matrix()
    truth[:, :3, :3] = turn @ truth[:, :3, :3]
    position = check_consistency(truth, estimate, covariances, 0.999, Part.POSITION)
    rotation = check_consistency(truth, estimate, covariances, 0.999, Part.ROTATION)
    assert position.is_consistent
    assert rotation.mean > 10 * rotation.mean_bounds[1]


def test_errors_stand_in_parent_axes(walk_of):
    estimate = walk_of(4, count=3).poses
    truth = estimate.copy()
    truth[:, :3, 3] += [0.1, -0.2, 0.3]
    truth[:, :3, :3] = Rotation.from_rotvec([0.01, 0.02, -0.03]).as_matrix() @ truth[:, :3, :3]
    expected = np.tile([0.1, -0.2, 0.3, 0.01, 0.02, -0.03], (3, 1))
    np.testing.assert_allclose(parent_axes_errors(truth, estimate), expected, atol=1e-12)


def test_bad_covariances_and_shapes_are_refused(walk_of):
    truth, estimate, covariances = drawn(walk_of, count=5)
    for broken in (np.zeros((5, 6, 6)), -covariances):
        with pytest.raises(EvaluationError, match='not positive definite'):
            check_consistency(truth, estimate, broken)
    with pytest.raises(EvaluationError, match='NaN'):
        check_consistency(truth, estimate, np.full((5, 6, 6), np.nan))
    with pytest.raises(EvaluationError, match='shapes'):
        check_consistency(truth, estimate[1:], covariances)
    with pytest.raises(EvaluationError, match='shapes'):
        check_consistency(truth[:0], estimate[:0], covariances[:0])
