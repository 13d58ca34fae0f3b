"""The parts of the prediction: logs of wheels and gyro, and the reckoning on top of them."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_world import T_BASE_CAMERA
from scipy.spatial.transform import Rotation

from kpvo_ros.config.runtime import PredictionConfig
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.gyro_log import GyroLog
from kpvo_ros.odometry.pose_log import PoseLog
from kpvo_ros.odometry.prediction import Prediction, Reckoning
from kpvo_ros.types import WheelOdometry

MS = 1_000_000
BOTH = PredictionConfig(wheel=True, gyro=True)


def turned(yaw: float, x: float = 0.0) -> np.ndarray:
    return se3.from_rt(se3.rpy_to_matrix(0.0, 0.0, yaw), [x, 0.0, 0.0])


def turn_of(log: GyroLog, from_ms: int, to_ms: int) -> np.ndarray:
    R = log.turn(from_ms * MS, to_ms * MS)
    assert R is not None
    return R


def test_a_turn_is_the_sum_of_its_rates() -> None:
    log = GyroLog(0.01)
    rate = np.array([0.3, -0.2, 1.1])
    for row in range(101):
        log.add(row * 10 * MS, rate)
    wanted = Rotation.from_rotvec(0.333 * rate).as_matrix()
    np.testing.assert_allclose(turn_of(log, 101, 434), wanted, atol=1e-9)
    np.testing.assert_array_equal(turn_of(log, 5, 5), np.eye(3))
    ahead = Rotation.from_rotvec(0.15 * rate).as_matrix()
    np.testing.assert_allclose(turn_of(log, 900, 1050), ahead, atol=1e-9)


def test_what_the_gyro_has_not_measured_is_not_made_up() -> None:
    log = GyroLog(0.01)
    assert log.turn(0, 1) is None
    for stamp_ms in (*range(100, 200, 10), *range(500, 600, 10)):
        log.add(stamp_ms * MS, np.ones(3))
    log.add(550 * MS, np.full(3, 99.0))  # late
    log.add(600 * MS, np.full(3, np.nan))
    assert log.turn(50 * MS, 150 * MS) is None  # before the first
    assert log.turn(150 * MS, 550 * MS) is None  # over a gap
    assert log.turn(550 * MS, 750 * MS) is None  # too far ahead
    wanted = Rotation.from_rotvec(np.full(3, 0.05)).as_matrix()
    np.testing.assert_allclose(turn_of(log, 510, 560), wanted, atol=1e-9)


def test_a_short_rest_tells_less_of_the_bias_than_a_long_one() -> None:
    sigmas, biases = [], []
    for seconds in (0.1, 1.0, 10.0):
        log = GyroLog(0.01)
        for row in range(round(seconds * 100) + 1):
            log.add(row * 10 * MS, np.full(3, 0.008))
        for row in range(10):
            step = round(seconds * 1e9) // 10
            log.learn(row * step, (row + 1) * step)
        sigmas.append(log.bias_sigma_rad_s)
        biases.append(log.bias_rad_s[0])
    assert sigmas[0] > sigmas[1] > sigmas[2] > 0
    assert biases[0] < biases[1] < biases[2] <= 0.008
    assert biases[2] == pytest.approx(0.008, rel=0.01)


def test_a_way_between_wheel_poses_is_interpolated_and_a_little_of_it_foreseen() -> None:
    log = PoseLog()
    for row in range(11):
        log.add(row * 20 * MS, turned(0.0, 0.02 * row))
    for from_ms, to_ms in ((30, 130), (110, 110), (190, 250)):
        step = log.step(from_ms * MS, to_ms * MS)
        assert step is not None
        np.testing.assert_allclose(step[:3, 3], [(to_ms - from_ms) * 1e-3, 0, 0], atol=1e-12)
    assert log.step(190 * MS, 310 * MS) is None
    assert log.step(-5 * MS, 100 * MS) is None
    assert PoseLog().step(0, 1) is None


def test_late_wheel_poses_are_left_out_and_a_new_run_begins_a_new_log() -> None:
    log = PoseLog()
    for stamp_ms in (5000, 5020, 5040):
        log.add(stamp_ms * MS, turned(0.0, 1e-3 * stamp_ms))
    log.add(5030 * MS, turned(0.0, 99.0))
    step = log.step(5010 * MS, 5040 * MS)
    assert step is not None and step[0, 3] == pytest.approx(0.03)
    log.add(100 * MS, np.eye(4))
    assert log.step(5010 * MS, 5040 * MS) is None
    assert log.newest_ns == 100 * MS


def test_what_was_guessed_for_a_late_message_is_forgotten_when_it_comes() -> None:
    prediction = Prediction(BOTH, T_BASE_CAMERA)
    for row in range(6):
        prediction.offer_wheel(WheelOdometry(row * 20 * MS, turned(0.0, 0.02 * row)))
    reckoning = Reckoning(0, T_BASE_CAMERA, 1e-6 * np.eye(6))
    assert reckoning.advance(prediction, 150 * MS)  # goes on at 1 m/s
    base = reckoning.T_odom_camera @ se3.inverse(T_BASE_CAMERA)
    assert base[0, 3] == pytest.approx(0.15, abs=1e-9)
    for row in range(6, 12):  # but the robot has stopped
        prediction.offer_wheel(WheelOdometry(row * 20 * MS, turned(0.0, 0.1)))
    assert reckoning.advance(prediction, 200 * MS)
    base = reckoning.T_odom_camera @ se3.inverse(T_BASE_CAMERA)
    assert base[0, 3] == pytest.approx(0.1, abs=1e-9)


def test_the_doubt_of_a_straight_way_is_that_of_scale_and_heading() -> None:
    """Closed form: 2 % of ten metres ahead; 1 degree a metre adds up to 10 degrees."""
    prediction = Prediction(PredictionConfig(wheel=True), np.eye(4))
    for row in range(101):
        prediction.offer_wheel(WheelOdometry(row * 20 * MS, turned(0.0, 0.1 * row)))
    reckoning = Reckoning(0, np.eye(4), np.zeros((6, 6)))
    for row in range(1, 101):
        assert reckoning.advance(prediction, row * 20 * MS)
    sigma = np.sqrt(np.diag(reckoning.doubt))
    assert sigma[0] == pytest.approx(0.2, rel=0.05)
    assert sigma[5] == pytest.approx(np.deg2rad(10.0), rel=0.05)
    # The heading grows with the way, so half of it at the end shows aside on average.
    aside = np.hypot(0.2, 0.5 * np.deg2rad(10.0) * 10.0)
    assert sigma[1] == pytest.approx(aside, rel=0.05)
