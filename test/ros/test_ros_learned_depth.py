"""What a user of vo_node sees of learned depth: image, camera_info and cloud, and no pose less."""

from __future__ import annotations

from collections.abc import Iterator
import threading
from typing import Any

from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_stage import BEST_EFFORT, DEPTH_VO, Scene, Stage, ns, wait_until
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from kpvo_ros.frontend.depth_map import LearnedDepth
from kpvo_ros.ros import vo_node
from kpvo_ros.ros.vo_node import VoNode
from kpvo_ros.types import Frame

LEARNED_VO = {**DEPTH_VO, 'depth__source': 'learned', 'depth__rate_hz': 10.0}
WIDTH, HEIGHT = 64, 48
IMAGE, INFO, POINTS = (f'vo_node/depth/{name}' for name in ('image', 'camera_info', 'points'))


class Wall:
    """A network that knows the wall of the scene, and does not know its left edge."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.begun = 0

    def look(self, frame: Frame, before: Frame | None = None) -> LearnedDepth:
        self.begun += 1
        assert self.go.wait(60)
        depth_m = np.full((HEIGHT, WIDTH), Scene.depth_m, np.float32)
        sigma = np.full((HEIGHT, WIDTH), 0.1, np.float32)
        sigma[:, 0] = 5.0
        camera = frame.camera.resized(WIDTH, HEIGHT)
        return LearnedDepth(frame.stamp_ns, frame.frame_id, camera, depth_m, sigma, np.eye(4))


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wall]:
    wall = Wall()
    monkeypatch.setattr(vo_node, 'load_depth_source', lambda config: wall)
    yield wall
    wall.go.set()


def depth_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith('depth_')]


def points_of(cloud: PointCloud2) -> np.ndarray:
    """(H, W, 3)"""
    return np.frombuffer(cloud.data, np.float32).reshape(cloud.height, cloud.width, 3)


def test_depth_goes_out_with_stamp_and_frame_of_its_image_and_its_own_camera_info(
    stage: Stage, wall: Wall, scene: Scene
) -> None:
    stage.start(VoNode, **LEARNED_VO)
    odom = stage.peer.collect(Odometry, 'odom')
    depths = stage.peer.collect(Image, IMAGE, BEST_EFFORT)
    infos = stage.peer.collect(CameraInfo, INFO, BEST_EFFORT)
    stage.peer.show_all(range(12), odom)
    wait_until(lambda: len(depths) >= 3 and len(infos) >= 3, 'depth with camera_info')
    stamps = [ns(message) for message in depths]
    assert stamps == sorted(set(stamps)) and set(stamps) <= {scene.stamp_ns(i) for i in range(12)}
    assert [ns(message) for message in infos][:3] == stamps[:3]
    for depth, info in zip(depths, infos, strict=False):
        assert depth.header == info.header and depth.header.frame_id == 'camera'
        assert depth.encoding == '32FC1'
        assert (depth.width, depth.height) == (info.width, info.height) == (WIDTH, HEIGHT)
        assert not any(info.d)
        # A fifth of the image's size; its centre stays where it is.
        np.testing.assert_allclose(info.k, [40, 0, 31.5, 0, 40, 23.5, 0, 0, 1], atol=1e-9)
        values = np.frombuffer(depth.data, np.float32).reshape(HEIGHT, WIDTH)
        assert np.isnan(values[:, 0]).all(), 'what the network doubts is unknown'
        np.testing.assert_array_equal(values[:, 1:], np.float32(scene.depth_m))


def test_the_cloud_is_organised_metric_and_ends_at_its_range(
    stage: Stage, wall: Wall, scene: Scene
) -> None:
    node = stage.start(VoNode, **LEARNED_VO, node__cloud_range_m=2.2)
    odom = stage.peer.collect(Odometry, 'odom')
    clouds = stage.peer.collect(PointCloud2, POINTS, BEST_EFFORT)
    stage.peer.show_all(range(6), odom)
    cloud = wait_until(lambda: clouds and clouds[0], 'a cloud')
    assert [field.name for field in cloud.fields] == ['x', 'y', 'z']
    assert (cloud.width, cloud.height, cloud.point_step) == (WIDTH, HEIGHT, 12)
    assert cloud.row_step == 12 * WIDTH and not cloud.is_dense
    assert cloud.header.frame_id == 'camera' and ns(cloud) == scene.stamp_ns(0)
    points = points_of(cloud)
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    x, y = (column - 31.5) / 40 * scene.depth_m, (row - 23.5) / 40 * scene.depth_m
    near = (np.hypot(np.hypot(x, y), scene.depth_m) <= 2.2) & (column > 0)
    assert 100 < near.sum() < near.size - 100
    np.testing.assert_array_equal(np.isfinite(points[..., 2]), near)
    np.testing.assert_allclose(points[near], np.stack([x, y, 0 * x + 2.0], -1)[near], atol=1e-5)

    assert node.set_parameters([Parameter('node.cloud_range_m', value=9.0)])[0].successful
    clouds.clear()
    stage.peer.show_all(range(6, 14), odom)
    wait_until(lambda: clouds, 'another cloud')
    assert np.isfinite(points_of(clouds[-1])[:, 1:]).all()


def test_no_frame_is_dropped_and_no_pose_waits_while_the_network_is_at_work(
    stage: Stage, wall: Wall, scene: Scene
) -> None:
    node = stage.start(VoNode, **LEARNED_VO)
    odom = stage.peer.collect(Odometry, 'odom')
    depths = stage.peer.collect(Image, IMAGE, BEST_EFFORT)
    wall.go.clear()
    stage.peer.show_all(range(30), odom)
    assert wall.begun == 1 and not depths
    assert [ns(message) for message in odom] == [scene.stamp_ns(i) for i in range(30)]
    assert node.monitor.counts.dropped == node.monitor.counts.errors == 0
    walked = odom[-1].pose.pose.position.y - odom[0].pose.pose.position.y
    assert walked == pytest.approx(-29 * scene.step_m, abs=0.03)
    wall.go.set()
    wait_until(lambda: depths, 'the depth, late')
    assert ns(depths[0]) == scene.stamp_ns(0), 'it has the stamp of its image'


def test_between_keyframes_the_network_rests_while_nobody_listens(
    stage: Stage, wall: Wall
) -> None:
    stage.start(VoNode, **LEARNED_VO)
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(8), odom)
    silent = wall.begun
    stage.peer.collect(PointCloud2, POINTS, BEST_EFFORT)
    stage.peer.show_all(range(8, 20), odom)
    wait_until(lambda: wall.begun >= silent + 3, 'looks between keyframes')
    assert silent <= 2


def test_without_learned_depth_there_are_no_such_topics(stage: Stage, vo: Any) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(2), odom)
    assert not any(stage.peer.node.count_publishers(name) for name in (IMAGE, INFO, POINTS))
    assert depth_threads() == []


def test_deactivate_silences_and_cleanup_ends_the_thread_of_the_network(
    stage: Stage, wall: Wall
) -> None:
    node = stage.start(VoNode, **LEARNED_VO)
    odom = stage.peer.collect(Odometry, 'odom')
    depths = stage.peer.collect(Image, IMAGE, BEST_EFFORT)
    wall.go.clear()
    stage.peer.show_all(range(3), odom)
    wait_until(lambda: wall.begun, 'the network at work')
    node.trigger_deactivate()
    wall.go.set()
    node.trigger_cleanup()
    assert depth_threads() == [] and depths == []


def test_weights_that_are_missing_end_the_configuration(stage: Stage) -> None:
    node = stage.start(
        VoNode,
        active=False,
        **LEARNED_VO,
        depth__weights_path='nowhere.safetensors',
    )
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
