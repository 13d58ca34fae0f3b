"""What a user of vo_node sees of wheels and gyro while the camera sees nothing."""

from __future__ import annotations

import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from ros_stage import BEST_EFFORT, DEPTH_VO, FRAME_NS, Scene, Stage, ns, wait_until
from sensor_msgs.msg import Imu
from tf2_ros import StaticTransformBroadcaster

from kpvo_ros.geometry import se3
from kpvo_ros.ros import convert
from kpvo_ros.ros.vo_node import VoNode

TURN_RAD_S = 0.5
LIGHT, DARK = range(8), range(8, 30)


def position(odometry: Odometry) -> np.ndarray:
    p = odometry.pose.pose.position
    return np.array([p.x, p.y, p.z])


def yaw(odometry: Odometry) -> float:
    q = odometry.pose.pose.orientation
    return se3.yaw_of(se3.matrix_from_quat_xyzw((q.x, q.y, q.z, q.w)))


def variance(odometry: Odometry) -> float:
    return float(np.trace(np.array(odometry.pose.covariance).reshape(6, 6)[:3, :3]))


def wheel_message(scene: Scene, index: float) -> Odometry:
    """The wheels know the way: along base -y; their frame began elsewhere."""
    T_wheel_start = se3.from_rt(se3.rpy_to_matrix(0.0, 0.0, 1.0), [7.0, -3.0, 0.0])
    T = T_wheel_start @ se3.from_rt(np.eye(3), [0.0, -index * scene.step_m, 0.0])
    message = Odometry(header=convert.header_of(scene.stamp_ns(index), 'wheel_odom'))
    message.pose.pose = convert.pose_message(0, T, 'wheel_odom').pose
    return message


def imu_message(stamp_ns: int, frame_id: str, axis: str, rate: float = TURN_RAD_S) -> Imu:
    message = Imu(header=convert.header_of(stamp_ns, frame_id))
    setattr(message.angular_velocity, axis, rate)
    return message


def show(stage: Stage, odom: list[Any], index: int, *, dark: bool) -> None:
    scene, count = stage.scene, len(odom)
    black = Scene.message(np.zeros((240, 320), np.uint8), 'mono8', scene.stamp_ns(index), 'camera')
    stage.peer.show(index, image=black if dark else None)
    wait_until(lambda: len(odom) > count, f'an answer to frame {index}')


def test_in_the_dark_the_odometry_goes_on_by_the_wheels(stage: Stage, scene: Scene) -> None:
    node = stage.start(VoNode, **DEPTH_VO, prediction__wheel=True)
    odom = stage.peer.collect(Odometry, 'odom')
    statuses = stage.peer.collect(DiagnosticArray, 'vo_node/status')
    for index in (*LIGHT, *DARK):
        stage.peer.send(wheel_message(scene, index), 'wheel_odom', BEST_EFFORT)
        wait_until(
            lambda index=index: node._wheels and ns(node._wheels[-1]) == scene.stamp_ns(index),
            'the wheel message to arrive',
        )
        show(stage, odom, index, dark=index in DARK)
    moved = position(odom[-1]) - position(odom[LIGHT[-1]])
    np.testing.assert_allclose(moved, [0.0, -len(DARK) * scene.step_m, 0.0], atol=0.02)
    assert [ns(message) for message in odom] == [scene.stamp_ns(i) for i in (*LIGHT, *DARK)]
    speed = scene.step_m / (FRAME_NS * 1e-9)
    assert odom[-1].twist.twist.linear.y == pytest.approx(-speed, rel=0.05)
    assert variance(odom[LIGHT[-1]]) < variance(odom[-1]) < 0.05**2
    wait_until(lambda: len(statuses) == len(odom), 'a status per frame')
    values = {pair.key: pair.value for pair in statuses[-1].status[0].values}
    assert values['state'] == 'degraded'
    assert 'position from the wheels' in statuses[-1].status[0].message


def test_the_gyro_is_heard_in_the_axes_that_tf_tells(stage: Stage, scene: Scene) -> None:
    node = stage.start(VoNode, **{**DEPTH_VO, 'frames__tf_timeout_s': 20.0}, prediction__gyro=True)
    broadcaster = StaticTransformBroadcaster(stage.peer.node)
    # The IMU lies on its side: its x is the robot's z.
    T_base_imu = se3.from_rt([[0, 1, 0], [0, 0, 1], [1, 0, 0]], [0.0, 0.0, 0.1])
    T_base_camera = se3.T_BASE_OPTICAL
    broadcaster.sendTransform(
        [
            convert.transform_message(0, T_base_imu, 'base_link', 'imu_link'),
            convert.transform_message(0, T_base_camera, 'base_link', 'camera'),
        ]
    )
    odom = stage.peer.collect(Odometry, 'odom')
    first = 0
    while not odom:  # frames before the transforms arrived are left out
        stage.peer.show(first)
        first += 1
        assert first < 200, 'the transforms never arrived'
        wait_until(lambda first=first: node.monitor.counts.received >= first, 'the image')
        time.sleep(0.1)
    for index in (*range(first, first + 5), *range(first + 5, first + 25)):
        for quarter in (0.25, 0.5, 0.75, 1.0):
            stamp_ns = scene.stamp_ns(index - 1 + quarter)
            rate = TURN_RAD_S if index >= first + 5 else 0.0
            stage.peer.send(imu_message(stamp_ns, 'imu_link', 'x', rate), 'imu', BEST_EFFORT)
        wait_until(
            lambda stamp_ns=stamp_ns: node._imu.newest_ns == stamp_ns, 'the rates to arrive'
        )
        show(stage, odom, index, dark=index >= first + 5)
    turned = yaw(odom[-1]) - yaw(odom[-21])
    assert turned == pytest.approx(TURN_RAD_S * 20 * FRAME_NS * 1e-9, abs=0.02)


def test_nobody_listens_to_wheels_and_imu_unless_asked(stage: Stage, vo: Any) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    show(stage, odom, 0, dark=False)
    assert stage.peer.node.count_subscribers('wheel_odom') == 0
    assert stage.peer.node.count_subscribers('imu') == 0


def test_deactivated_nobody_listens_any_more(stage: Stage) -> None:
    node = stage.start(VoNode, **DEPTH_VO, prediction__wheel=True, prediction__gyro=True)
    for topic in ('wheel_odom', 'imu'):
        wait_until(
            lambda topic=topic: stage.peer.node.count_subscribers(topic) == 1, f'{topic} heard'
        )
    node.trigger_deactivate()
    for topic in ('wheel_odom', 'imu'):
        wait_until(
            lambda topic=topic: stage.peer.node.count_subscribers(topic) == 0, f'{topic} left'
        )


def test_a_gyro_without_numbers_is_no_record() -> None:
    message = imu_message(5, 'imu_link', 'y')
    gyro = convert.gyro_from_message(message, se3.rpy_to_matrix(np.pi / 2, 0.0, 0.0))
    assert gyro is not None and gyro.stamp_ns == 5
    np.testing.assert_allclose(gyro.angular_velocity, [0.0, 0.0, TURN_RAD_S], atol=1e-12)
    message.angular_velocity.x = float('nan')
    assert convert.gyro_from_message(message, np.eye(3)) is None
