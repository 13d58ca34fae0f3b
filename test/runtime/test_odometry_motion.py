"""Prediction, waiting and covariance of the camera between measurements."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from points_world import pose
import pytest

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.motion import COAST_S, MotionState

START = pose(1.0, 2.0, 3.0, (0.1, 0.2, 0.3))
STEP = pose(0.05, 0.0, 0.1, (0.0, 0.02, 0.0))
PERIOD_NS = 50_000_000
SMALL = 1e-6 * np.eye(6)


@pytest.fixture
def moving() -> MotionState:
    """Two measured poses, one `STEP` and 50 ms apart."""
    motion = MotionState(START)
    motion.begin(0)
    motion.measure(PERIOD_NS, START @ STEP, SMALL, SMALL)
    return motion


def test_before_the_first_pose_the_start_is_expected() -> None:
    motion = MotionState(START)
    np.testing.assert_array_equal(motion.predict(123), START)
    assert motion.stamp_ns is None and motion.measured_ns is None
    assert np.linalg.eigvalsh(motion.covariance).min() > 0


def test_the_velocity_goes_on(moving: MotionState) -> None:
    np.testing.assert_allclose(moving.predict(2 * PERIOD_NS), START @ STEP @ STEP, atol=1e-12)
    np.testing.assert_allclose(moving.velocity, se3.log_se3(STEP) / 0.05, atol=1e-12)
    half = moving.predict(PERIOD_NS + PERIOD_NS // 2)
    np.testing.assert_allclose(half @ se3.exp_se3(se3.log_se3(STEP) / 2), START @ STEP @ STEP)


def test_the_velocity_is_believed_only_for_a_moment(moving: MotionState) -> None:
    late_ns = PERIOD_NS + int(COAST_S * 1e9)
    np.testing.assert_array_equal(moving.predict(late_ns), START @ STEP)
    assert not np.allclose(moving.predict(late_ns - 1), START @ STEP)


def test_predicting_changes_nothing(moving: MotionState) -> None:
    moving.predict(3 * PERIOD_NS)
    assert moving.stamp_ns == PERIOD_NS
    np.testing.assert_array_equal(moving.T_odom_camera, START @ STEP)


def test_coasting_moves_on_then_holds_and_forgets_the_speed(moving: MotionState) -> None:
    places = []
    for row in range(2, 40):
        moving.coast(row * PERIOD_NS)
        places.append(moving.T_odom_camera)
    np.testing.assert_allclose(places[0], START @ STEP @ STEP, atol=1e-12)
    np.testing.assert_array_equal(places[10], places[-1])
    np.testing.assert_array_equal(moving.velocity, 0.0)
    coasted = np.linalg.norm(places[-1][:3, 3] - (START @ STEP)[:3, 3])
    assert coasted <= np.linalg.norm(STEP[:3, 3]) / 0.05 * COAST_S + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 2_000_000_000), min_size=1, max_size=12))
def test_the_covariance_only_grows_while_coasting(gaps_ns: list[int]) -> None:
    motion = MotionState(START)
    motion.begin(0)
    motion.measure(PERIOD_NS, START @ STEP, SMALL, SMALL)
    stamp_ns, before = PERIOD_NS, motion.covariance.copy()
    velocity_before = motion.velocity_covariance.copy()
    for gap_ns in gaps_ns:
        stamp_ns += gap_ns
        motion.coast(stamp_ns)
        assert np.linalg.eigvalsh(motion.covariance - before).min() >= -1e-12
        assert np.trace(motion.covariance) > np.trace(before)
        assert (np.diag(motion.velocity_covariance) > np.diag(velocity_before)).all()
        before, velocity_before = motion.covariance.copy(), motion.velocity_covariance.copy()


def test_waiting_in_one_step_or_in_many_grows_alike() -> None:
    """What is not known about a held pose depends on the time, not on the frame rate."""
    sigmas = []
    for parts in (1, 10, 100):
        motion = MotionState(np.eye(4))
        motion.begin(0)
        for part in range(1, parts + 1):
            motion.coast(part * 2_000_000_000 // parts)
        sigmas.append(np.sqrt(np.diag(motion.covariance)))
    np.testing.assert_allclose(sigmas[1], sigmas[0], rtol=1e-6)
    np.testing.assert_allclose(sigmas[2], sigmas[0], rtol=1e-6)


def test_a_measurement_ends_the_growth(moving: MotionState) -> None:
    before = moving.covariance.copy()
    for row in range(2, 30):
        moving.coast(row * PERIOD_NS)
    assert np.trace(moving.covariance) > 10 * np.trace(before)
    moving.measure(30 * PERIOD_NS, START @ STEP, SMALL, SMALL)
    assert np.trace(moving.covariance) < 2 * np.trace(before)
    assert moving.measured_ns == 30 * PERIOD_NS


def test_the_first_speed_after_a_gap_is_that_over_the_whole_gap(moving: MotionState) -> None:
    for row in range(2, 20):
        moving.coast(row * PERIOD_NS)
    moving.measure(21 * PERIOD_NS, START @ STEP @ STEP, SMALL, SMALL)
    np.testing.assert_allclose(moving.velocity, se3.log_se3(STEP) / (20 * 0.05), atol=1e-12)


def test_the_covariance_is_what_is_handed_in_and_a_breath(moving: MotionState) -> None:
    """What is known since the start and what is known within the map are two things."""
    since_start = np.diag([4e-2, 1e-2, 9e-2, 1e-3, 2e-3, 3e-3])
    moving.measure(2 * PERIOD_NS, START @ STEP @ STEP, since_start, SMALL)
    excess = moving.covariance - since_start
    assert np.linalg.eigvalsh(excess).min() > 0
    assert np.sqrt(np.diag(excess)).max() < 2e-3
    # The speed is known from two poses in one map, however uncertain the map is.
    assert np.sqrt(np.diag(moving.velocity_covariance)).max() < 0.1


def test_a_new_map_inherits_what_grew_in_the_dark(moving: MotionState) -> None:
    for row in range(2, 40):
        moving.coast(row * PERIOD_NS)
    grown, held = moving.covariance.copy(), moving.T_odom_camera.copy()
    moving.begin(40 * PERIOD_NS)
    np.testing.assert_array_equal(moving.covariance, grown)
    np.testing.assert_array_equal(moving.T_odom_camera, held)
    np.testing.assert_array_equal(moving.velocity, 0.0)
    assert moving.measured_ns == moving.stamp_ns == 40 * PERIOD_NS


def test_standing_is_a_measured_pose_without_speed(moving: MotionState) -> None:
    before = moving.T_odom_camera.copy(), moving.covariance.copy()
    for row in range(2, 60):
        moving.stand(row * PERIOD_NS)
    np.testing.assert_array_equal(moving.T_odom_camera, before[0])
    np.testing.assert_array_equal(moving.covariance, before[1])
    np.testing.assert_array_equal(moving.velocity, 0.0)
    np.testing.assert_array_equal(moving.predict(60 * PERIOD_NS), before[0])
    assert np.linalg.eigvalsh(moving.velocity_covariance).min() > 0


def test_the_first_speed_after_standing_is_that_over_a_moment(moving: MotionState) -> None:
    """Who creeps is seen only when enough has added up; that was not the way of one frame."""
    for row in range(2, 60):
        moving.stand(row * PERIOD_NS)
    moving.measure(60 * PERIOD_NS, START @ STEP @ STEP, SMALL, SMALL)
    np.testing.assert_allclose(moving.velocity, se3.log_se3(STEP) / (0.05 + COAST_S), atol=1e-9)
    moving.measure(61 * PERIOD_NS, START @ STEP @ STEP @ STEP, SMALL, SMALL)
    np.testing.assert_allclose(moving.velocity, se3.log_se3(STEP) / 0.05, atol=1e-9)


def test_the_covariance_of_the_speed_is_that_of_a_difference_of_poses() -> None:
    motion = MotionState(np.eye(4))
    motion.begin(0)
    measured = np.diag([4e-4, 4e-4, 4e-4, 1e-4, 1e-4, 1e-4])
    motion.measure(100_000_000, np.eye(4), SMALL, measured)
    expected = 2 * np.diag(measured) / 0.1**2
    assert (np.diag(motion.velocity_covariance) >= expected).all()
    np.testing.assert_allclose(np.diag(motion.velocity_covariance), expected, rtol=0.01)


def test_implied_speeds_are_distance_and_angle_over_time(moving: MotionState) -> None:
    away = START @ STEP @ pose(3.0, 0.0, 4.0, (0.0, 0.5, 0.0))
    speed, turn = moving.implied_speed(PERIOD_NS + 500_000_000, away)
    assert speed == pytest.approx(10.0) and turn == pytest.approx(1.0)
    assert moving.implied_speed(PERIOD_NS, away) == (0.0, 0.0)
    assert MotionState(START).implied_speed(5, away) == (0.0, 0.0)


def test_waiting_does_not_count_as_having_been_measured(moving: MotionState) -> None:
    moving.coast(11 * PERIOD_NS)
    away = START @ STEP @ pose(1.0, 0.0, 0.0)
    speed, _ = moving.implied_speed(21 * PERIOD_NS, away)
    assert speed == pytest.approx(1.0)  # one metre in the second since the last measured pose


def test_stretching_changes_metres_and_not_radians(moving: MotionState) -> None:
    before = moving.velocity.copy()
    moving.rescale(2.5)
    np.testing.assert_allclose(moving.velocity[:3], 2.5 * before[:3])
    np.testing.assert_array_equal(moving.velocity[3:], before[3:])


def test_another_odom_frame_moves_the_pose_and_keeps_the_body_speed(moving: MotionState) -> None:
    T = pose(5.0, 0.0, 0.0, (0.0, 0.0, 1.0))
    before = moving.velocity.copy(), moving.covariance.copy()
    moving.move(T)
    np.testing.assert_allclose(moving.T_odom_camera, T @ START @ STEP, atol=1e-12)
    np.testing.assert_array_equal(moving.velocity, before[0])
    moving.measure(2 * PERIOD_NS, T @ START @ STEP @ STEP, SMALL, SMALL)
    np.testing.assert_allclose(moving.velocity, before[0], atol=1e-9)
