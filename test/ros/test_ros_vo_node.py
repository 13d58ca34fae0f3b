"""What a user of vo_node sees on its topics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rclpy.qos import ReliabilityPolicy
from ros_stage import BEST_EFFORT, DEPTH_VO, FRAME_NS, RELIABLE, Scene, Stage, ns, wait_until
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from tf2_ros import StaticTransformBroadcaster

from kpvo_ros.evaluation.files import read_trajectory
from kpvo_ros.geometry import se3
from kpvo_ros.ros import convert
from kpvo_ros.ros.vo_node import VoNode


def position(odometry: Odometry) -> np.ndarray:
    p = odometry.pose.pose.position
    return np.array([p.x, p.y, p.z])


def value_of(status: DiagnosticStatus, key: str) -> str:
    return {pair.key: pair.value for pair in status.values}[key]


def state_of(status: DiagnosticStatus) -> str:
    return value_of(status, 'state')


def test_odometry_has_the_stamp_of_the_image_the_frames_of_rep105_and_the_motion_of_the_scene(
    stage: Stage, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(20), odom)
    assert [ns(m) for m in odom] == [scene.stamp_ns(i) for i in range(20)]
    assert {(m.header.frame_id, m.child_frame_id) for m in odom} == {('odom', 'base_link')}
    # The camera looks along base x and passes the wall to its right: base -y.
    expected = [0.0, -19 * scene.step_m, 0.0]
    np.testing.assert_allclose(position(odom[-1]) - position(odom[0]), expected, atol=0.02)


def test_twist_is_filled_and_covariances_are_positive_definite(
    stage: Stage, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(15), odom)
    speed_m_s = scene.step_m / (FRAME_NS * 1e-9)
    assert odom[-1].twist.twist.linear.y == pytest.approx(-speed_m_s, rel=0.25)
    for message in odom[2:]:
        for block in (message.pose.covariance, message.twist.covariance):
            matrix = np.array(block).reshape(6, 6)
            np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
            assert np.linalg.eigvalsh(matrix).min() > 0
    assert not np.allclose(odom[3].pose.covariance, odom[-1].pose.covariance)


def test_odometry_is_reliable_so_that_nav2_hears_it(stage: Stage, vo: Any) -> None:
    [info] = stage.peer.node.get_publishers_info_by_topic('/odom')
    assert info.qos_profile.reliability is ReliabilityPolicy.RELIABLE


def test_tf_equals_the_odometry_and_can_be_switched_while_running(stage: Stage, vo: Any) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    transforms: list[TFMessage] = []
    stage.peer.node.create_subscription(TFMessage, '/tf', transforms.append, RELIABLE)
    stage.peer.show_all([0], odom)
    wait_until(lambda: stage.peer.node.count_publishers('/tf'), 'the TF publisher')
    stage.peer.show_all(range(1, 4), odom)
    last = wait_until(lambda: transforms and transforms[-1].transforms[0], 'a transform')
    wait_until(lambda: ns(transforms[-1].transforms[0]) == ns(odom[-1]), 'the newest transform')
    last = transforms[-1].transforms[0]
    assert (last.header.frame_id, last.child_frame_id) == ('odom', 'base_link')
    t = last.transform.translation
    np.testing.assert_array_equal([t.x, t.y, t.z], position(odom[-1]))

    assert set_parameter(vo, 'node.publish_tf', False).successful
    count = len(transforms)
    stage.peer.show_all(range(4, 8), odom)
    assert set_parameter(vo, 'node.publish_tf', True).successful
    stage.peer.show_all([8], odom)
    wait_until(lambda: len(transforms) > count, 'TF after it was switched on again')
    assert ns(transforms[count].transforms[0]) == ns(odom[8])


def test_without_publish_tf_there_is_no_tf_publisher_at_all(stage: Stage) -> None:
    stage.start(VoNode, **DEPTH_VO, node__publish_tf=False)
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(3), odom)
    assert stage.peer.node.count_publishers('/tf') == 0


@pytest.mark.parametrize('qos', [RELIABLE, BEST_EFFORT], ids=['reliable', 'best effort'])
def test_reliable_and_best_effort_cameras_are_both_heard(stage: Stage, vo: Any, qos: Any) -> None:
    stage.peer.publisher(Image, 'image', qos)
    stage.peer.publisher(CameraInfo, 'camera_info', qos)
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(3), odom)
    assert len(odom) == 3


def test_keypoints_lie_in_the_image_and_are_no_metric_cloud(
    stage: Stage, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    stage.peer.show_all(range(4), odom)
    cloud = wait_until(lambda: clouds and clouds[-1], 'keypoints')
    assert [field.name for field in cloud.fields] == ['u', 'v', 'score', 'descriptor']
    assert cloud.header.frame_id == 'camera'
    assert cloud.width > 50
    points = np.frombuffer(cloud.data, np.uint8).reshape(cloud.width, cloud.point_step)
    uv = points[:, :8].copy().view(np.float32)
    assert (uv >= 0).all() and (uv < [scene.width, scene.height]).all()


def test_depth_goes_out_in_metres_with_stamp_frame_and_size_of_its_camera_info(
    stage: Stage, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    depths = stage.peer.collect(Image, 'depth/image', BEST_EFFORT)
    infos = stage.peer.collect(CameraInfo, 'depth/camera_info', BEST_EFFORT)
    stage.peer.show_all([0], odom)
    wait_until(lambda: depths and infos, 'depth with camera_info')
    depth, info = depths[0], infos[0]
    assert depth.encoding == '32FC1'
    assert (ns(depth), depth.header.frame_id) == (ns(info), info.header.frame_id)
    assert (depth.width, depth.height) == (info.width, info.height)
    values = np.frombuffer(depth.data, np.float32)
    np.testing.assert_array_equal(values, np.float32(scene.depth_m))


def test_debug_image_exists_only_when_asked_for(stage: Stage, scene: Scene) -> None:
    node = stage.start(VoNode, **DEPTH_VO, node__publish_debug_image=True)
    pictures = stage.peer.collect(Image, 'debug_image', BEST_EFFORT)
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(2), odom)
    picture = wait_until(lambda: pictures and pictures[-1], 'a debug image')
    assert (picture.encoding, picture.width, picture.height) == ('rgb8', scene.width, scene.height)
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert set_parameter(node, 'node.publish_debug_image', False).successful
    node.trigger_configure()
    wait_until(lambda: not stage.peer.node.count_publishers('debug_image'), 'no debug image topic')


def test_two_d_mode_stays_on_the_floor(stage: Stage) -> None:
    node = stage.start(VoNode, **DEPTH_VO, node__two_d_mode=True)
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(6), odom)
    for message in odom:
        q = message.pose.pose.orientation
        assert (message.pose.pose.position.z, q.x, q.y) == (0.0, 0.0, 0.0)
        assert message.twist.twist.linear.z == 0.0
    assert position(odom[-1])[1] < -0.05
    assert set_parameter(node, 'node.two_d_mode', False).successful


def test_extrinsics_come_from_tf_when_it_has_them(stage: Stage, scene: Scene) -> None:
    stage.start(VoNode, **{**DEPTH_VO, 'frames__tf_timeout_s': 20.0})
    # The camera looks along base y: what is to its right is base +x.
    T_base_camera = (
        se3.from_rt(se3.rpy_to_matrix(0, 0, np.pi / 2), [0.3, 0, 0.5]) @ se3.T_BASE_OPTICAL
    )
    broadcaster = StaticTransformBroadcaster(stage.peer.node)
    broadcaster.sendTransform(convert.transform_message(0, T_base_camera, 'base_link', 'camera'))
    odom = stage.peer.collect(Odometry, 'odom')
    index = 0
    while not odom:  # frames before the transform arrived are left out
        stage.peer.show(index)
        index += 1
        try_wait(lambda: odom, 0.2)
    first = index - 1
    stage.peer.show_all(range(index, first + 11), odom)
    moved = position(odom[-1]) - position(odom[0])
    steps = round((ns(odom[-1]) - ns(odom[0])) / FRAME_NS)
    np.testing.assert_allclose(moved, [steps * scene.step_m, 0, 0], atol=0.02)


def test_camera_pose_and_status_speak_of_every_measured_frame(
    stage: Stage, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    poses = stage.peer.collect(PoseStamped, 'vo_node/camera_pose')
    statuses = stage.peer.collect(DiagnosticArray, 'vo_node/status')
    stage.peer.show_all(range(5), odom)
    wait_until(lambda: len(poses) == 5 and len(statuses) == 5, 'a pose and a status per frame')
    assert [ns(m) for m in poses] == [ns(m) for m in statuses] == [ns(m) for m in odom]
    assert {state_of(m.status[0]) for m in statuses} == {'tracking'}
    assert {value_of(m.status[0], 'map') for m in statuses} == {'0'}
    R = se3.matrix_from_quat_xyzw(quaternion(poses[0]))
    np.testing.assert_allclose(R, se3.T_BASE_OPTICAL[:3, :3], atol=1e-6)


def test_lost_holds_the_pose_with_large_covariance_and_diagnostics_say_error(
    stage: Stage, scene: Scene
) -> None:
    stage.start(VoNode, **DEPTH_VO, node__diagnostics_period_s=0.1)
    odom = stage.peer.collect(Odometry, 'odom')
    diagnostics = stage.peer.collect(DiagnosticArray, '/diagnostics')
    stage.peer.show_all(range(8), odom)
    good = odom[-1]
    for index in range(8, 40):
        black = Scene.message(
            np.zeros((240, 320), np.uint8), 'mono8', scene.stamp_ns(index), 'camera'
        )
        stage.peer.show(index, image=black)
        wait_until(lambda index=index: len(odom) > index, 'an answer to a black image')
    lost = odom[-1]
    assert ns(lost) == scene.stamp_ns(39)
    assert np.linalg.norm(position(lost) - position(good)) < 0.5
    assert position(lost)[1] < -0.1, 'no jump to the origin'
    trace = [sum(np.array(m.pose.covariance).reshape(6, 6).diagonal()) for m in (good, lost)]
    assert trace[1] > 10 * trace[0]
    wait_until(
        lambda: any(s.level == DiagnosticStatus.ERROR for m in diagnostics for s in m.status),
        'an ERROR in /diagnostics',
    )


def test_reset_goes_to_the_origin_and_initialpose_to_the_given_pose(stage: Stage, vo: Any) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(8), odom)
    assert position(odom[-1])[1] < -0.1
    assert stage.peer.call('vo_node/reset').success
    stage.peer.show_all([8], odom)
    np.testing.assert_allclose(position(odom[-1]), 0.0, atol=1e-9)

    pose = PoseWithCovarianceStamped()
    pose.header.frame_id = 'odom'
    pose.pose.pose.position.x, pose.pose.pose.orientation.w = 5.0, 1.0
    stage.peer.send(pose, 'initialpose')
    index = 9
    while position(odom[-1])[0] < 4.9:
        assert index < 60, 'initialpose had no effect'
        stage.peer.show_all([index], odom)
        index += 1
    np.testing.assert_allclose(position(odom[-1]), [5.0, 0.0, 0.0], atol=0.05)


@pytest.mark.parametrize(('frame_id', 'w'), [('map', 1.0), ('odom', 0.0), ('odom', float('nan'))])
def test_initialpose_in_a_foreign_frame_or_without_rotation_is_refused(
    stage: Stage, vo: Any, frame_id: str, w: float
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(3), odom)
    pose = PoseWithCovarianceStamped()
    pose.header.frame_id = frame_id
    pose.pose.pose.position.x, pose.pose.pose.orientation.w = 5.0, w
    stage.peer.send(pose, 'initialpose')
    stage.peer.call('vo_node/resume')  # answered after the pose was looked at
    stage.peer.show_all(range(3, 5), odom)
    assert abs(position(odom[-1])[0]) < 0.1


def test_pause_is_silence_and_resume_goes_on_from_the_pose(stage: Stage, vo: Any) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(5), odom)
    assert stage.peer.call('vo_node/pause').success
    received = vo.monitor.counts.received
    stage.peer.show(5)
    wait_until(lambda: vo.monitor.counts.received > received, 'the image to arrive')
    assert stage.peer.call('vo_node/resume').success
    stage.peer.show_all([6], odom)
    assert ns(odom[-1]) == Scene.stamp_ns(6)
    assert Scene.stamp_ns(5) not in [ns(m) for m in odom]
    assert position(odom[-1])[1] < position(odom[4])[1]


def test_save_trajectory_writes_a_file_that_reads_back_and_never_overwrites(
    stage: Stage, tmp_path: Path
) -> None:
    path = tmp_path / 'walk.txt'
    stage.start(VoNode, **DEPTH_VO, node__trajectory_path=str(path))
    refused = stage.peer.call('vo_node/save_trajectory')
    assert not refused.success and 'nothing to save' in refused.message
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(6), odom)
    for _ in range(2):
        answer = stage.peer.call('vo_node/save_trajectory')
        assert answer.success and str(tmp_path) in answer.message
    assert sorted(p.name for p in tmp_path.iterdir()) == ['walk-1.txt', 'walk.txt']
    trajectory = read_trajectory(path)
    assert trajectory.stamps_ns.tolist() == [ns(m) for m in odom]


def set_parameter(node: Any, name: str, value: Any) -> Any:
    from rclpy.parameter import Parameter

    return node.set_parameters([Parameter(name, value=value)])[0]


def quaternion(message: PoseStamped) -> list[float]:
    q = message.pose.orientation
    return [q.x, q.y, q.z, q.w]


def try_wait(condition: Any, timeout_s: float) -> None:
    try:
        wait_until(condition, '', timeout_s)
    except AssertionError:
        return
