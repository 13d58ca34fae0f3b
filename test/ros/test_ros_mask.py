"""The mask topic, as a user of the nodes sees it."""

from __future__ import annotations

from pathlib import Path
import threading
import time
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from ros_stage import BEST_EFFORT, DEPTH_VO, Peer, Scene, Stage, ns, wait_until
from sensor_msgs.msg import Image, PointCloud2

from kpvo_ros.config.runtime import NodeConfig
from kpvo_ros.errors import BagError
from kpvo_ros.ros import convert
from kpvo_ros.ros.keypoint_node import KeypointNode
from kpvo_ros.ros.vo_node import VoNode

HALF = Scene.width // 2


def columns(cloud: PointCloud2) -> np.ndarray:
    points = np.frombuffer(cloud.data, np.uint8).reshape(cloud.width, cloud.point_step)
    return points[:, :4].copy().view(np.float32)[:, 0]


class Watcher:
    """Shows images to a keypoint node, each with the mask that is told, and reads the answers."""

    def __init__(self, stage: Stage, **parameters: Any) -> None:
        self.node = stage.start(KeypointNode, node__use_mask=True, **parameters)
        self.peer: Peer = stage.peer
        self.scene = stage.scene
        self.clouds = self.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)

    def send_mask(self, mask: Image) -> None:
        """Returns when the node has it."""
        buffer = self.node._masks._messages
        self.peer.send(mask, 'mask')
        wait_until(lambda: buffer.nearest(ns(mask), 0), 'the mask to arrive')

    def show(self, index: int) -> np.ndarray:
        count = len(self.clouds)
        self.peer.send(self.scene.image(index), 'image')
        wait_until(lambda: len(self.clouds) > count, f'keypoints of image {index}')
        assert ns(self.clouds[-1]) == self.scene.stamp_ns(index)
        return columns(self.clouds[-1])


def test_keypoints_keep_out_of_the_mask_of_their_image(stage: Stage, scene: Scene) -> None:
    watcher = Watcher(stage)
    assert watcher.show(0).min() < HALF
    watcher.send_mask(scene.mask(1))
    assert watcher.show(1).min() > HALF - 0.5
    watcher.send_mask(scene.mask(2, left=0))
    assert watcher.show(2).min() < HALF, 'an empty mask hides nothing'
    counts = watcher.node._masks.counts
    assert counts == {'own': 2, 'older': 0, 'none': 1, 'bad': 0}


def test_a_late_mask_is_waited_for_while_masks_come(stage: Stage, scene: Scene) -> None:
    watcher = Watcher(stage, node__mask_wait_s=5.0)
    started_s = time.monotonic()
    watcher.show(0)
    assert time.monotonic() - started_s < 4.0, 'nobody sends masks: no reason to wait'
    watcher.send_mask(scene.mask(1, left=0))
    watcher.show(1)
    late = threading.Timer(0.2, watcher.peer.send, (scene.mask(2), 'mask'))
    late.start()
    assert watcher.show(2).min() > HALF - 0.5
    late.join()


def test_a_mask_of_a_moment_ago_serves_when_the_own_one_is_late_and_not_for_ever(
    stage: Stage, scene: Scene
) -> None:
    watcher = Watcher(stage, node__mask_wait_s=0.0, node__mask_max_age_s=0.2)
    watcher.send_mask(scene.mask(0))
    assert watcher.show(0).min() > HALF - 0.5
    assert watcher.show(5).min() > HALF - 0.5  # 0.17 s later
    assert watcher.show(7).min() < HALF  # 0.23 s later
    assert watcher.node._masks.counts == {'own': 1, 'older': 1, 'none': 1, 'bad': 0}


def test_diagnostics_tell_what_became_of_the_masks(stage: Stage, scene: Scene) -> None:
    watcher = Watcher(stage, node__diagnostics_period_s=0.1, node__mask_max_age_s=0.0)
    diagnostics = stage.peer.collect(DiagnosticArray, '/diagnostics')

    def newest() -> DiagnosticStatus | None:
        found = [s for m in diagnostics for s in m.status if s.name == 'keypoint_node: mask']
        return found[-1] if found else None

    def told(key: str, value: str) -> DiagnosticStatus | None:
        status = newest()
        values = {pair.key: pair.value for pair in status.values} if status else {}
        return status if values.get(key) == value else None

    watcher.send_mask(scene.mask(0))
    watcher.show(0)
    status = wait_until(lambda: told('own', '1'), 'the own mask in the diagnostics')
    assert (status.level, status.message) == (DiagnosticStatus.OK, 'masks arrive')
    watcher.show(1)
    status = wait_until(lambda: told('none', '1'), 'the missing mask in the diagnostics')
    assert status.level == DiagnosticStatus.WARN
    assert 'no mask on /mask within 0 s of the image (1 publishers)' in status.message


@pytest.mark.parametrize('kind', ['half the size', 'colour', 'torn'])
def test_a_mask_that_does_not_fit_is_counted_and_the_image_used_without(
    stage: Stage, scene: Scene, kind: str
) -> None:
    watcher = Watcher(stage)
    mask = scene.mask(0)
    if kind == 'half the size':
        mask = scene.message(np.ones((120, 160), np.uint8), 'mono8', scene.stamp_ns(0), 'camera')
    elif kind == 'colour':
        mask.encoding = 'rgb8'
    else:
        mask.data = mask.data[:100]
    watcher.send_mask(mask)
    assert watcher.show(0).min() < HALF
    assert watcher.node._masks.counts['bad'] == 1
    assert watcher.node.monitor.counts.errors == 0


def test_without_use_mask_nobody_listens(stage: Stage) -> None:
    node = stage.start(KeypointNode)
    assert 'mask' not in ' '.join(s.topic_name for s in node.subscriptions)
    assert all('mask' not in s.name for s in node.statuses())


def test_masks_are_subscribed_only_while_active(stage: Stage) -> None:
    node = stage.start(KeypointNode, node__use_mask=True)
    wait_until(lambda: stage.peer.node.count_subscribers('/mask') == 1, 'a subscription')
    node.trigger_deactivate()
    wait_until(lambda: stage.peer.node.count_subscribers('/mask') == 0, 'no subscription')
    node.trigger_activate()
    wait_until(lambda: stage.peer.node.count_subscribers('/mask') == 1, 'a subscription again')


def test_a_node_that_waits_for_a_mask_can_be_stopped_at_once(stage: Stage, scene: Scene) -> None:
    node = stage.start(KeypointNode, node__use_mask=True, node__mask_wait_s=5.0)
    stage.peer.send(scene.mask(0), 'mask')
    wait_until(lambda: node._masks._messages.nearest(scene.stamp_ns(0), 0), 'the mask')
    stage.peer.send(scene.image(1), 'image')
    wait_until(lambda: node.monitor.counts.received == 1, 'the image')
    started_s = time.monotonic()
    node.trigger_deactivate()
    assert time.monotonic() - started_s < 3.0


def test_the_odometry_gets_the_mask_with_its_frame(stage: Stage, scene: Scene) -> None:
    seen: list[np.ndarray | None] = []

    class Spy(VoNode):
        def _frame(self, *args: Any) -> Any:
            frame = super()._frame(*args)
            seen.append(frame.mask)
            return frame

    node = stage.start(Spy, **DEPTH_VO, node__use_mask=True)
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all([0], odom)
    stage.peer.send(scene.mask(1), 'mask')
    wait_until(lambda: node._masks._messages.nearest(scene.stamp_ns(1), 0), 'the mask')
    stage.peer.show_all([1], odom)
    assert seen[0] is None
    assert seen[1].dtype == bool and seen[1][:, :HALF].all() and not seen[1][:, HALF:].any()


def test_the_picture_of_the_body_keeps_keypoints_away_in_both_nodes(
    stage: Stage, scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / 'body.png'
    assert cv2.imwrite(str(path), np.repeat(np.uint8([[255, 0]]), HALF, axis=1).repeat(240, 0))
    options = {'frontend__body_mask_path': str(path), 'frontend__roi': [0.0, 0.0, 0.75, 1.0]}
    stage.start(KeypointNode, **options)
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    stage.peer.send(scene.image(0), 'image')
    found = columns(wait_until(lambda: clouds and clouds[-1], 'keypoints'))
    assert len(found) > 50
    assert found.min() > HALF - 0.5 and found.max() < 0.75 * Scene.width


@pytest.mark.parametrize('node_class', [KeypointNode, VoNode])
def test_a_body_picture_that_is_missing_fails_configure(stage: Stage, node_class: Any) -> None:
    node = stage.start(node_class, active=False, frontend__body_mask_path='nowhere.png')
    assert node.trigger_configure().name != 'SUCCESS'


def test_a_body_picture_of_another_shape_is_a_counted_bad_image(
    stage: Stage, scene: Scene, tmp_path: Path
) -> None:
    path = tmp_path / 'body.png'
    assert cv2.imwrite(str(path), np.zeros((100, 100), np.uint8))
    node = stage.start(KeypointNode, frontend__body_mask_path=str(path))
    stage.peer.send(scene.image(0), 'image')
    wait_until(lambda: node.monitor.counts.bad == 1, 'the image to be counted')
    assert '100x100, not of the shape of the image 320x240' in node.monitor.last_reason
    assert node.monitor.counts.errors == 0


# ---------------------------------------------------------------------------------- conversion


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_every_value_but_zero_means_ignore(encoding: str) -> None:
    pixels = np.uint8([[0, 1, 255], [128, 0, 2]])
    mask = convert.mask_from_message(Scene.message(pixels, encoding, 5, ''))
    np.testing.assert_array_equal(mask, pixels > 0)


@pytest.mark.parametrize('encoding', ['mono16', 'rgb8', '32FC1', ''])
def test_other_encodings_are_no_masks(encoding: str) -> None:
    with pytest.raises(BagError, match='use mono8 or 8UC1'):
        convert.mask_from_message(Scene.message(np.zeros((2, 12), np.uint8), encoding, 5, ''))


def test_masks_are_off_by_default() -> None:
    assert not NodeConfig().use_mask
