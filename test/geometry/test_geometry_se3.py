"""Rigid motions against scipy, matrix exponentials, finite differences and sampling."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from scipy.linalg import expm
from scipy.spatial.transform import Rotation, Slerp

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry import se3

EXACT = 1e-12
PROPERTIES = settings(deadline=None, max_examples=50)
ANGLES = [0.0, 1e-12, 1e-8, 1e-3, 0.0999, 0.1001, 1.0, 3.0, np.pi - 1e-6, np.pi - 1e-10]
vectors = hnp.arrays(np.float64, 3, elements=st.floats(-10, 10))
twists = hnp.arrays(np.float64, 6, elements=st.floats(-1.7, 1.7))  # rotation stays below pi


def twist_of_angle(rng, angle):
    axis = rng.normal(size=3)
    return np.r_[rng.normal(size=3), angle * axis / np.linalg.norm(axis)]


def twist_matrix(xi):
    M = np.zeros((4, 4))
    M[:3, :3], M[:3, 3] = np.cross(np.eye(3), xi[3:]), xi[:3]
    return M


@PROPERTIES
@given(vectors, vectors)
def test_hat_is_the_cross_product_and_vee_undoes_it(a, b):
    np.testing.assert_allclose(se3.hat(a) @ b, np.cross(a, b), atol=1e-12)
    np.testing.assert_array_equal(se3.vee(se3.hat(a)), a)


@PROPERTIES
@given(vectors)
def test_exp_of_so3_is_that_of_scipy_for_any_angle(w):
    np.testing.assert_allclose(se3.exp_so3(w), Rotation.from_rotvec(w).as_matrix(), atol=EXACT)


@pytest.mark.parametrize('angle', ANGLES)
def test_exp_is_the_matrix_exponential_and_log_its_inverse(angle):
    xi = twist_of_angle(np.random.default_rng(0), angle)
    T = se3.exp_se3(xi)
    np.testing.assert_allclose(T, expm(twist_matrix(xi)), atol=EXACT)
    np.testing.assert_allclose(se3.log_se3(T), xi, atol=1e-9 if angle > 3.1 else EXACT)


@pytest.mark.parametrize('axis', np.vstack([np.eye(3), [[0.6, 0.0, -0.8], [0.36, 0.48, 0.8]]]))
def test_log_of_a_half_turn_has_angle_pi_about_its_axis(axis):
    R = 2.0 * np.outer(axis, axis) - np.eye(3)
    w = se3.log_so3(R)
    np.testing.assert_allclose(np.linalg.norm(w), np.pi, atol=EXACT)
    np.testing.assert_allclose(np.abs(w @ axis), np.pi, atol=EXACT)
    np.testing.assert_allclose(se3.exp_so3(w), R, atol=EXACT)


@pytest.mark.parametrize('angle', ANGLES)
def test_rotation_angle_keeps_its_digits_at_both_ends(angle):
    R = Rotation.from_rotvec(angle * np.array([0.6, 0.0, 0.8])).as_matrix()
    np.testing.assert_allclose(se3.rotation_angle_rad(R), angle, rtol=1e-9, atol=1e-15)


def test_batches_give_the_same_as_one_by_one():
    rng = np.random.default_rng(1)
    xi = rng.normal(size=(2, 5, 6))
    T = se3.exp_se3(xi)
    assert T.shape == (2, 5, 4, 4)
    one_by_one = np.array([[se3.exp_se3(x) for x in row] for row in xi])
    np.testing.assert_allclose(T, one_by_one, atol=1e-15)
    np.testing.assert_allclose(se3.exp_se3(se3.log_se3(T)), T, atol=EXACT)
    np.testing.assert_allclose(se3.inverse(T), np.linalg.inv(T), atol=EXACT)
    np.testing.assert_allclose(se3.adjoint(T)[1, 2], se3.adjoint(T[1, 2]), atol=0)
    assert se3.exp_se3(np.zeros((0, 6))).shape == (0, 4, 4)
    assert se3.log_se3(np.zeros((0, 4, 4))).shape == (0, 6)


@PROPERTIES
@given(twists)
def test_inverse_is_the_inverse_matrix(xi):
    T = se3.exp_se3(xi)
    np.testing.assert_allclose(se3.inverse(T), np.linalg.inv(T), atol=EXACT)


@PROPERTIES
@given(twists, twists)
def test_adjoint_carries_a_twist_past_a_pose(xi_pose, xi):
    T = se3.exp_se3(xi_pose)
    carried = se3.exp_se3(se3.adjoint(T) @ xi) @ T
    np.testing.assert_allclose(T @ se3.exp_se3(xi), carried, atol=1e-10)


@pytest.mark.parametrize('angle', [0.0, 1e-6, 0.0999, 0.1001, 1.0, 3.0])
def test_left_jacobians_are_the_derivatives_of_exp(angle):
    xi, h = twist_of_angle(np.random.default_rng(2), angle), 1e-6
    undo = se3.inverse(se3.exp_se3(xi))
    numeric = np.stack(
        [
            (se3.log_se3(se3.exp_se3(xi + d) @ undo) - se3.log_se3(se3.exp_se3(xi - d) @ undo))
            / (2 * h)
            for d in h * np.eye(6)
        ],
        axis=1,
    )
    J = se3.left_jacobian_se3(xi)
    np.testing.assert_allclose(J, numeric, atol=1e-8)
    np.testing.assert_allclose(se3.left_jacobian_so3(xi[3:]), numeric[3:, 3:], atol=1e-8)
    np.testing.assert_allclose(se3.left_jacobian_inverse_se3(xi) @ J, np.eye(6), atol=1e-10)


@PROPERTIES
@given(hnp.arrays(np.float64, 4, elements=st.floats(-1e3, 1e3)))
def test_quaternions_agree_with_scipy_and_come_back(quat):
    if np.linalg.norm(quat) < 1e-6:
        quat = np.array([0.0, 0.0, 0.0, 1.0])
    R = se3.matrix_from_quat_xyzw(quat)
    np.testing.assert_allclose(R, Rotation.from_quat(quat).as_matrix(), atol=EXACT)
    back = se3.quat_xyzw_from_matrix(R)
    assert back[3] >= 0
    np.testing.assert_allclose(np.abs(back @ quat) / np.linalg.norm(quat), 1.0, atol=EXACT)


@pytest.mark.parametrize('scale', [1e-200, 1e-6, 1.0, 1e200])
def test_a_quaternion_of_any_length_is_normalised(scale):
    quat = np.array([0.1, -0.2, 0.3, 0.9])
    expected = Rotation.from_quat(quat).as_matrix()
    np.testing.assert_allclose(se3.matrix_from_quat_xyzw(scale * quat), expected, atol=EXACT)


@pytest.mark.parametrize(
    'quat', [[0, 0, 0, 0], [np.nan, 0, 0, 1], [0, np.inf, 0, 1], [0, 0, 1], [[0, 0, 0, 0]]]
)
def test_a_quaternion_that_is_no_rotation_is_refused(quat):
    with pytest.raises(GeometryError, match='quaternion'):
        se3.matrix_from_quat_xyzw(quat)


@PROPERTIES
@given(st.floats(-3.1, 3.1), st.floats(-1.57, 1.57), st.floats(-3.1, 3.1))
def test_roll_pitch_yaw_turn_about_fixed_axes(roll, pitch, yaw):
    R = se3.rpy_to_matrix(roll, pitch, yaw)
    expected = Rotation.from_euler('xyz', [roll, pitch, yaw]).as_matrix()  # lower case: fixed
    np.testing.assert_allclose(R, expected, atol=EXACT)
    np.testing.assert_allclose(se3.rpy_to_matrix(*se3.matrix_to_rpy(R)), R, atol=1e-9)


@pytest.mark.parametrize('pitch', [np.pi / 2, -np.pi / 2])
def test_roll_pitch_yaw_survive_gimbal_lock(pitch):
    R = se3.rpy_to_matrix(0.4, pitch, 0.3)
    roll, _, _ = se3.matrix_to_rpy(R)
    assert roll == 0.0
    np.testing.assert_allclose(se3.rpy_to_matrix(*se3.matrix_to_rpy(R)), R, atol=1e-9)


def test_yaw_is_the_heading_of_the_x_axis():
    T = se3.from_rt(se3.rpy_to_matrix(0.1, -0.2, 2.5), [1, 2, 3])
    assert se3.yaw_of(T) == pytest.approx(2.5, abs=1e-12)


def test_optical_frame_looks_along_base_x_with_x_right_and_y_down():
    forward, right, down = [1, 0, 0], [0, -1, 0], [0, 0, -1]  # base axes, REP-103
    np.testing.assert_array_equal(se3.T_BASE_OPTICAL[:3, 2], forward)
    np.testing.assert_array_equal(se3.T_BASE_OPTICAL[:3, 0], right)
    np.testing.assert_array_equal(se3.T_BASE_OPTICAL[:3, 1], down)
    assert se3.is_rotation(se3.T_BASE_OPTICAL[:3, :3])
    with pytest.raises(ValueError, match='read-only'):
        se3.T_BASE_OPTICAL[0, 0] = 1.0


def test_interpolation_meets_both_ends_and_moves_at_constant_twist():
    rng = np.random.default_rng(3)
    T0, T1 = se3.exp_se3(rng.normal(size=(2, 6)))
    np.testing.assert_allclose(se3.interpolate(T0, T1, 0.0), T0, atol=EXACT)
    np.testing.assert_allclose(se3.interpolate(T0, T1, 1.0), T1, atol=EXACT)
    quarters = se3.interpolate(T0, T1, np.arange(5) / 4)
    steps = se3.log_se3(se3.inverse(quarters[:-1]) @ quarters[1:])
    np.testing.assert_allclose(steps, np.tile(steps[0], (4, 1)), atol=1e-11)


def test_interpolated_rotation_is_scipys_slerp():
    rotations = Rotation.from_quat(np.random.default_rng(4).normal(size=(2, 4)))
    T0, T1 = se3.from_rt(rotations.as_matrix(), np.zeros(3))
    expected = Slerp([0, 1], rotations)(0.3).as_matrix()
    np.testing.assert_allclose(se3.interpolate(T0, T1, 0.3)[:3, :3], expected, atol=EXACT)


def test_transform_maps_points_of_the_child_into_the_parent():
    T_a_b = se3.from_rt(se3.rpy_to_matrix(0, 0, np.pi / 2), [10, 0, 0])
    np.testing.assert_allclose(se3.transform(T_a_b, [[1, 0, 0]]), [[10, 1, 0]], atol=EXACT)
    assert se3.transform(T_a_b, np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    'R',
    [
        np.diag([1.0, 1, -1]),
        1.001 * np.eye(3),
        np.full((3, 3), np.nan),
        np.eye(4),
        np.zeros((3, 3)),
    ],
)
def test_mirrors_scalings_and_nan_are_no_rotations(R):
    assert not se3.is_rotation(R)
    assert se3.is_rotation(se3.exp_so3([1.0, 2.0, 3.0]))


def test_nearest_rotation_is_scipys_and_refuses_rubbish():
    M = se3.exp_so3([0.3, -1.0, 0.5]) + 0.05 * np.random.default_rng(5).normal(size=(4, 3, 3))
    for noisy, R in zip(M, se3.nearest_rotation(M), strict=True):
        np.testing.assert_allclose(R, Rotation.from_matrix(noisy).as_matrix(), atol=1e-6)
        assert se3.is_rotation(R, tolerance=EXACT)
    for bad in (np.full((3, 3), np.nan), np.zeros((3, 3)), np.diag([1.0, 0, 0])):
        with pytest.raises(GeometryError):
            se3.nearest_rotation(bad)


def test_a_pose_of_wrong_shapes_is_refused_with_the_shapes():
    with pytest.raises(GeometryError, match=r'\(3, 4\)'):
        se3.from_rt(np.zeros((3, 4)), np.zeros(3))
    with pytest.raises(GeometryError, match=r'\(2,\)'):
        se3.from_rt(np.eye(3), np.zeros(2))


# Covariances: the expected value is the scatter of many disturbed poses.

SAMPLES = 40_000
SPREAD_OK = 0.03  # of the largest entry; four standard errors of a sampled covariance


def random_covariance(rng, size):
    A = rng.normal(size=(6, 6))
    return size**2 * (A @ A.T + np.eye(6))


def draw(rng, covariance):
    return se3.exp_se3(rng.multivariate_normal(np.zeros(6), covariance, size=SAMPLES))


def assert_scatter(errors, covariance):
    sampled = errors.T @ errors / len(errors)
    np.testing.assert_allclose(sampled, covariance, atol=SPREAD_OK * np.abs(covariance).max())


@pytest.fixture
def two_poses():
    rng = np.random.default_rng(6)
    T_a_b, T_b_c = se3.exp_se3([[2, -1, 0.5, 0.4, -0.8, 1.5], [1, 3, -2, -0.5, 0.2, 0.9]])
    return rng, T_a_b, T_b_c, random_covariance(rng, 1e-3), random_covariance(rng, 2e-3)


def ros_error(T_mean, T):
    """Translation in the parent, and rotation about the parent's axes, as ROS defines them."""
    rotation = se3.log_so3(T[:, :3, :3] @ T_mean[:3, :3].T)
    return np.hstack([T[:, :3, 3] - T_mean[:3, 3], rotation])


def test_covariance_of_an_inverse_is_the_transported_one(two_poses):
    rng, T, _, covariance, _ = two_poses
    inverses = se3.inverse(T @ draw(rng, covariance))
    errors = se3.log_se3(T @ inverses)
    assert_scatter(errors, se3.transport_covariance(covariance, T))


def test_composed_covariance_is_the_scatter_of_composed_poses(two_poses):
    rng, T_a_b, T_b_c, cov_a_b, cov_b_c = two_poses
    composed = T_a_b @ draw(rng, cov_a_b) @ T_b_c @ draw(rng, cov_b_c)
    errors = se3.log_se3(se3.inverse(T_a_b @ T_b_c) @ composed)
    assert_scatter(errors, se3.compose_covariance(cov_a_b, cov_b_c, T_b_c))


def test_ros_covariance_is_the_scatter_in_the_parents_axes(two_poses):
    rng, T, _, covariance, _ = two_poses
    errors = ros_error(T, T @ draw(rng, covariance))
    assert_scatter(errors, se3.local_to_ros_covariance(covariance, T))


def test_composed_ros_covariance_is_the_scatter_of_composed_poses(two_poses):
    rng, T_a_b, T_b_c, cov_a_b, cov_b_c = two_poses
    composed = T_a_b @ draw(rng, cov_a_b) @ T_b_c @ draw(rng, cov_b_c)
    predicted = se3.compose_ros_covariance(
        se3.local_to_ros_covariance(cov_a_b, T_a_b),
        se3.local_to_ros_covariance(cov_b_c, T_b_c),
        T_a_b,
        T_b_c,
    )
    assert_scatter(ros_error(T_a_b @ T_b_c, composed), predicted)


def test_ros_and_local_covariance_undo_each_other_and_stay_symmetric(two_poses):
    _, T, _, covariance, _ = two_poses
    ros = se3.local_to_ros_covariance(covariance, T)
    np.testing.assert_array_equal(ros, ros.T)
    np.testing.assert_allclose(se3.ros_to_local_covariance(ros, T), covariance, atol=1e-18)
