"""What the world is told: every motion at once, corrections slowly, and what is still missing."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from points_world import pose
import pytest

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.motion import MotionState
from kpvo_ros.odometry.published import Published

SPEED, TURN = 0.5, 0.4
PERIOD_NS = 50_000_000
SMALL = 1e-6 * np.eye(6)
START = pose(1.0, 2.0, 0.5, (0.1, 0.2, 0.3))
STEP = pose(0.03, 0.0, 0.05, (0.0, 0.02, 0.01))


def length_and_turn(T: np.ndarray) -> tuple[float, float]:
    return float(np.linalg.norm(T[:3, 3])), float(se3.rotation_angle_rad(T[:3, :3]))


def beginning() -> tuple[MotionState, Published]:
    motion = MotionState(START)
    motion.begin(0)
    told = Published(START, SPEED, TURN)
    told.jump(motion)
    return motion, told


def go_on(motion: MotionState, told: Published, T_step: np.ndarray, row: int) -> np.ndarray:
    """One frame; returns how the told pose moved."""
    before, T_told = motion.T_odom_camera, told.T_odom_camera
    motion.measure(row * PERIOD_NS, before @ T_step, SMALL, SMALL)
    told.follow(motion, before)
    return se3.inverse(T_told) @ told.T_odom_camera


def test_without_corrections_the_told_pose_is_that_of_the_map() -> None:
    motion, told = beginning()
    for row in range(1, 50):
        go_on(motion, told, STEP, row)
        np.testing.assert_allclose(told.T_odom_camera, motion.T_odom_camera, atol=1e-9)
        np.testing.assert_allclose(told.covariance, motion.covariance, atol=1e-15)
        np.testing.assert_array_equal(told.velocity, motion.velocity)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-3.0, 3.0), min_size=6, max_size=6),
    st.floats(0.0, 3.0),
    st.integers(0, 2**32 - 1),
)
def test_the_told_pose_never_moves_faster_than_the_camera_and_the_correction(
    jump: list[float], dt_s: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    motion, told = beginning()
    go_on(motion, told, STEP, 1)
    motion.adjust(motion.T_odom_camera @ se3.exp_se3(np.array(jump)))  # the map steps
    before, T_told = motion.T_odom_camera, told.T_odom_camera
    T_step = se3.exp_se3(rng.normal(0, 0.1, 6))
    motion.measure(PERIOD_NS + int(dt_s * 1e9), before @ T_step, SMALL, SMALL)
    told.follow(motion, before)
    extra = se3.inverse(T_told @ T_step) @ told.T_odom_camera
    moved, turned = length_and_turn(extra)
    assert moved <= SPEED * dt_s + 1e-6
    assert turned <= TURN * dt_s + 1e-6


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1.5, 1.5), min_size=6, max_size=6))
def test_the_told_pose_arrives_and_its_covariance_contains_what_is_missing(
    jump: list[float],
) -> None:
    motion, told = beginning()
    go_on(motion, told, STEP, 1)
    motion.adjust(motion.T_odom_camera @ se3.exp_se3(np.array(jump)))
    moved, turned = np.linalg.norm(jump[:3]), np.linalg.norm(jump[3:])
    # What is missing shrinks along a screw, but a false heading costs metres while driving.
    frames = int(np.ceil((moved / SPEED + turned / TURN * (1 + 2.0 / SPEED)) / 0.05)) + 2
    for row in range(2, 2 + frames):
        go_on(motion, told, STEP, row)
        missing = se3.log_se3(se3.inverse(told.T_odom_camera) @ motion.T_odom_camera)
        excess = told.covariance - motion.covariance
        np.testing.assert_allclose(excess, np.outer(missing, missing), atol=1e-8)
        assert missing @ np.linalg.solve(told.covariance, missing) <= 1.0 + 1e-6
    np.testing.assert_allclose(told.T_odom_camera, motion.T_odom_camera, atol=1e-8)
    np.testing.assert_allclose(told.covariance, motion.covariance, atol=1e-8)


def test_a_correction_ends_exactly_and_does_not_overshoot() -> None:
    motion, told = beginning()
    go_on(motion, told, np.eye(4), 1)
    motion.adjust(motion.T_odom_camera @ pose(0.1, 0.0, 0.0))
    left = []
    for row in range(2, 8):
        go_on(motion, told, np.eye(4), row)
        left.append(length_and_turn(se3.inverse(told.T_odom_camera) @ motion.T_odom_camera)[0])
    np.testing.assert_allclose(left, [0.075, 0.05, 0.025, 0.0, 0.0, 0.0], atol=1e-9)


def test_a_camera_that_nothing_is_known_of_stays_with_growing_doubt() -> None:
    motion, told = beginning()
    T_told, traces = told.T_odom_camera, []
    for row in range(1, 40):
        # The map, whose unit nobody knows, is quite sure of itself.
        motion.measure(row * PERIOD_NS, motion.T_odom_camera @ STEP, SMALL, SMALL)
        told.hold(motion)
        traces.append(np.trace(told.covariance))
        np.testing.assert_array_equal(told.T_odom_camera, T_told)
        np.testing.assert_array_equal(told.velocity, 0.0)
    assert (np.diff(traces) > 0).all()
    assert np.sqrt(told.covariance[0, 0]) == pytest.approx(0.2 * 38 * 0.05, rel=0.1)  # a crawl
    assert np.linalg.eigvalsh(told.velocity_covariance).min() > 0.1


def test_a_jump_is_one() -> None:
    motion, told = beginning()
    motion.measure(PERIOD_NS, pose(9.0, 9.0, 9.0), SMALL, SMALL)
    told.jump(motion)
    np.testing.assert_array_equal(told.T_odom_camera, pose(9.0, 9.0, 9.0))
    np.testing.assert_array_equal(told.covariance, motion.covariance)
