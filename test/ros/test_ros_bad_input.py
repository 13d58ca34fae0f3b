"""Bad input is a counted frame and one clear line, never a traceback and never a null pose."""

from __future__ import annotations

from collections.abc import Iterator
import time
from typing import Any

from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rcl_interfaces.msg import Log
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_stage import DEPTH_VO, Scene, Stage, ns, wait_until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kpvo_ros.ros.keypoint_node import KeypointNode
from kpvo_ros.ros.vo_node import VoNode


@pytest.fixture
def lines(stage: Stage) -> Lines:
    """Every warning and error a node logs from now on, as /rosout carries them."""
    qos = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    return Lines(stage.peer.collect(Log, '/rosout', qos))


class Lines:
    """The text of log messages, looked at anew each time."""

    def __init__(self, messages: list[Log]) -> None:
        self._messages = messages
        self._since_s = time.time() - 0.05  # /rosout is latched: the last test may still speak

    def __iter__(self) -> Iterator[str]:
        level = int.from_bytes(Log.WARN, 'little') if isinstance(Log.WARN, bytes) else Log.WARN
        return iter(
            [
                m.msg
                for m in list(self._messages)
                if m.level >= level and m.stamp.sec + m.stamp.nanosec * 1e-9 >= self._since_s
            ]
        )

    def wait_for(self, text: str) -> str:
        """The first line with that text."""
        wait_until(lambda: any(text in line for line in self), f'a line with {text!r}')
        return next(line for line in self if text in line)


def has_pose(message: Odometry) -> bool:
    q = message.pose.pose.orientation
    length = np.linalg.norm([q.x, q.y, q.z, q.w])
    covariance = np.array(message.pose.covariance)
    return abs(length - 1) < 1e-6 and np.isfinite(covariance).all() and covariance[0] > 0


def broken(scene: Scene, kind: str, index: int) -> Image:
    message = scene.image(index)
    if kind == 'unknown encoding':
        message.encoding = 'jpeg2000'
    elif kind == 'truncated':
        message.data = bytes(message.data)[:1000]
    elif kind == 'zero size':
        message.width = message.height = message.step = 0
        message.data = b''
    elif kind == 'absurd size':
        message.width = message.height = 2**31
    elif kind == 'other size':
        message = Scene.message(np.zeros((100, 100), np.uint8), 'mono8', ns(message), 'camera')
    return message


@pytest.mark.parametrize(
    'kind', ['unknown encoding', 'truncated', 'zero size', 'absurd size', 'other size']
)
def test_a_malformed_image_is_counted_named_and_survived(
    stage: Stage, vo: Any, scene: Scene, lines: Lines, kind: str
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(4), odom)
    stage.peer.show(4, image=broken(scene, kind, 4))
    wait_until(lambda: vo.monitor.counts.bad == 1, 'the bad image to be counted')
    stage.peer.show_all(range(5, 8), odom)
    assert all(has_pose(m) for m in odom)
    assert np.all(np.diff([ns(m) for m in odom]) > 0)
    lines.wait_for('image not used')
    [line] = [line for line in lines if line.startswith('image not used')]
    assert '\n' not in line
    assert vo.monitor.counts.errors == 0


def test_without_camera_info_the_node_says_which_topic_it_waits_for_then_works(
    stage: Stage, vo: Any, scene: Scene, lines: Lines
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    for index in range(3):
        stage.peer.send(scene.image(index), 'image')
        wait_until(lambda n=index: vo.monitor.counts.waiting == n + 1, 'the image to be counted')
    lines.wait_for('camera_info')
    warnings = [line for line in lines if 'camera_info' in line]
    assert len(warnings) == 1, 'one line, not one a frame'
    assert '/camera_info' in warnings[0] and '0 publishers' in warnings[0]
    assert not odom
    stage.peer.show_all(range(3, 6), odom)


@pytest.mark.parametrize('focal', [0.0, float('nan')], ids=['zero', 'NaN'])
def test_impossible_intrinsics_are_refused_until_good_ones_come(
    stage: Stage, vo: Any, scene: Scene, lines: Lines, focal: float
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    bad = scene.info(k=[focal, 0.0, 159.5, 0.0, focal, 119.5, 0.0, 0.0, 1.0])
    stage.peer.send(bad, 'camera_info')
    stage.peer.send(scene.image(0), 'image')
    wait_until(lambda: vo.monitor.counts.bad == 1, 'the image to be counted')
    assert lines.wait_for('calibrate')
    assert not odom
    stage.peer.show_all(range(1, 4), odom)
    assert all(has_pose(m) for m in odom)


def test_repeated_and_late_stamps_are_left_out_so_that_the_output_strictly_grows(
    stage: Stage, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(6), odom)
    for late in (5, 3):
        repeated = vo.monitor.counts.repeated
        stage.peer.show(late)
        wait_until(lambda n=repeated: vo.monitor.counts.repeated > n, 'it to be counted')
    stage.peer.show_all(range(6, 8), odom)
    assert [ns(m) for m in odom] == [scene.stamp_ns(i) for i in range(8)]


def test_a_looped_bag_starts_again_with_a_line_in_the_log(
    stage: Stage, vo: Any, scene: Scene, lines: Lines
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    later_ns = 60_000_000_000
    for index in range(5):
        stage.peer.show_all([index], odom, stamp_ns=scene.stamp_ns(index) + later_ns)
    stage.peer.show_all(range(5), odom)
    assert len(odom) == 10
    assert ns(odom[5]) == scene.stamp_ns(0)
    assert all(has_pose(m) for m in odom)
    assert lines.wait_for('jumped back')
    assert vo.monitor.counts.errors == 0


def test_a_change_of_resolution_mid_stream_is_followed(
    stage: Stage, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(5), odom)
    info = scene.info(5, width=160, height=120)
    info.k = [100.0, 0.0, 79.5, 0.0, 100.0, 59.5, 0.0, 0.0, 1.0]
    for index in range(5, 9):
        stamp_ns, count = scene.stamp_ns(index), len(odom)
        half = np.ascontiguousarray(scene.pixels(index)[::2, ::2])
        depth = np.full(half.shape, scene.depth_m, np.float32)
        stage.peer.send(Scene.message(depth, '32FC1', stamp_ns, 'camera'), 'depth')
        stage.peer.send(info, 'camera_info')
        wait_until(lambda: vo._image_input.camera().width == 160, 'the new intrinsics')
        stage.peer.send(Scene.message(half, 'mono8', stamp_ns, 'camera'), 'image')
        wait_until(lambda n=count: len(odom) > n, 'an answer')
    assert all(has_pose(m) for m in odom)
    assert vo.monitor.counts.errors == vo.monitor.counts.bad == 0


def test_thirty_percent_of_lost_frames_do_not_disturb_the_path(
    stage: Stage, vo: Any, scene: Scene, rng: np.random.Generator
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    indices = [0, *(i for i in range(1, 40) if rng.random() > 0.3), 40]
    stage.peer.show_all(indices, odom)
    y = [m.pose.pose.position.y for m in odom]
    assert y[-1] - y[0] == pytest.approx(-40 * scene.step_m, abs=0.04)


def test_depth_that_comes_late_is_waited_for(stage: Stage, vo: Any, scene: Scene) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.publisher(Image, 'depth')
    stage.peer.send(scene.info(), 'camera_info')
    stage.peer.send(scene.image(0), 'image')
    wait_until(lambda: vo.monitor.counts.received == 1, 'the image')
    stage.peer.send(scene.depth(0), 'depth')
    wait_until(lambda: odom, 'an answer')
    assert vo._last_estimate.status.value == 'tracking'


def test_missing_depth_is_named_and_does_not_stop_the_node(
    stage: Stage, scene: Scene, lines: Lines
) -> None:
    stage.start(VoNode, **{**DEPTH_VO, 'node__depth_wait_s': 0.0})
    odom = stage.peer.collect(Odometry, 'odom')
    for index in range(3):
        stage.peer.send(scene.info(index), 'camera_info')
        stage.peer.send(scene.image(index), 'image')
        wait_until(lambda n=index: len(odom) > n, 'an answer')
    lines.wait_for('no depth on /depth')
    assert sum('no depth on /depth' in line for line in lines) == 1, 'not one a frame'
    assert all(has_pose(m) for m in odom)


def test_silence_is_explained_with_the_topics_that_do_exist(stage: Stage, lines: Lines) -> None:
    stage.peer.node.create_publisher(Image, '/front/image_raw', 1)
    stage.start(KeypointNode, node__no_data_warning_s=0.5)
    line = lines.wait_for('no image for')
    assert 'nobody publishes /image' in line and '/front/image_raw' in line


def test_a_topic_of_the_wrong_type_is_explained(
    stage: Stage, lines: Lines, ros_domain_id: int
) -> None:
    # A participant of its own: within one, a topic cannot have two types.
    other = rclpy.Context()
    rclpy.init(context=other, domain_id=ros_domain_id)
    camera = Node('camera', context=other)
    camera.create_publisher(CompressedImage, 'image', 1)
    node = stage.start(KeypointNode, node__no_data_warning_s=0.5)
    wait_until(lambda: node.count_publishers('/image'), 'discovery')
    assert 'CompressedImage' in lines.wait_for('node.image_transport')
    camera.destroy_node()
    other.try_shutdown()


def test_an_error_inside_the_algorithm_is_logged_and_counted_and_the_node_lives_on(
    stage: Stage, lines: Lines
) -> None:
    node = stage.start(FailsOnce)
    for index in range(2):
        stage.peer.send(stage.scene.image(index), 'image')
        wait_until(lambda n=index: len(node.seen) > n, 'the image')
    wait_until(lambda: node.monitor.counts.errors == 1, 'the error to be counted')
    line = lines.wait_for('ZeroDivisionError')
    assert 'Traceback' not in line


def test_images_faster_than_the_algorithm_are_dropped_and_counted_and_the_newest_wins(
    stage: Stage,
) -> None:
    node = stage.start(Slow)
    stage.peer.send(stage.scene.image(0), 'image')
    wait_until(lambda: len(node.seen) == 1, 'the first image to be in work')
    for index in range(1, 10):
        stage.peer.send(stage.scene.image(index), 'image')
        wait_until(lambda n=index: node.monitor.counts.received == n + 1, 'the image')
    node.gate.set()
    wait_until(lambda: len(node.seen) == 2, 'the newest image')
    assert node.seen == [Scene.stamp_ns(0), Scene.stamp_ns(9)]
    assert node.monitor.counts.dropped == 8


def test_compressed_images_are_understood(stage: Stage, scene: Scene) -> None:
    import cv2

    node = stage.start(KeypointNode, node__image_transport='compressed')
    message = CompressedImage(format='jpeg', header=scene.image(0).header)
    message.data = cv2.imencode('.jpg', scene.pixels(0))[1].tobytes()
    stage.peer.send(message, 'image/compressed')
    wait_until(lambda: node.monitor.counts.processed == 1, 'the image')


def test_the_same_camera_info_is_judged_once_and_a_new_one_again(stage: Stage) -> None:
    node = stage.start(VoNode, **DEPTH_VO)
    stage.peer.send(stage.scene.info(0), 'camera_info')
    first = node._image_input.camera(wait_s=5.0)
    stage.peer.publisher(CameraInfo, 'camera_info').publish(stage.scene.info(1))
    wait_until(lambda: ns(node._image_input._info) == Scene.stamp_ns(1), 'the second one')
    assert node._image_input.camera() is first


class FailsOnce(KeypointNode):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[int] = []

    def process(self, message: Any, stamp_ns: int, camera: Any) -> None:
        self.seen.append(stamp_ns)
        if len(self.seen) == 1:
            raise ZeroDivisionError('division by zero')
        super().process(message, stamp_ns, camera)


class Slow(KeypointNode):
    def __init__(self, **options: Any) -> None:
        import threading

        super().__init__(**options)
        self.seen: list[int] = []
        self.gate = threading.Event()

    def process(self, message: Any, stamp_ns: int, camera: Any) -> None:
        self.seen.append(stamp_ns)
        assert self.gate.wait(20.0)
