"""map -> odom beside odom -> base_link: the tree of REP-105, one parent each, one stamp."""

from __future__ import annotations

from collections import defaultdict
import dataclasses
from typing import Any

from nav_msgs.msg import Odometry
import numpy as np
import pytest
from ros_stage import DEPTH_VO, RELIABLE, Scene, Stage, ns, wait_until
from tf2_msgs.msg import TFMessage

from kpvo_ros.geometry import se3
from kpvo_ros.ros import convert
from kpvo_ros.ros.vo_node import VoNode

T_MAP_ODOM = se3.from_rt(se3.rpy_to_matrix(0.0, 0.0, 0.3), [1.0, -2.0, 0.5])


class ClosesLoops(VoNode):
    """From the third image on the odometry knows where odom is in the map."""

    def _ready_odometry(self, *args: Any) -> Any:
        odometry = super()._ready_odometry(*args)
        if odometry is not None and not hasattr(odometry, 'plain_step'):
            odometry.plain_step = odometry.step
            odometry.step = lambda frame: self._corrected(odometry.plain_step(frame))
        return odometry

    @staticmethod
    def _corrected(estimate: Any) -> Any:
        knows = estimate.stamp_ns >= Scene.stamp_ns(2)
        return dataclasses.replace(estimate, T_map_odom=T_MAP_ODOM if knows else None)


def listen(stage: Stage) -> tuple[list[Odometry], list[TFMessage]]:
    odom = stage.peer.collect(Odometry, 'odom')
    messages: list[TFMessage] = []
    stage.peer.node.create_subscription(TFMessage, '/tf', messages.append, RELIABLE)
    stage.peer.show_all([0], odom)
    wait_until(lambda: stage.peer.node.count_publishers('/tf'), 'the TF publisher')
    return odom, messages


def edges(messages: list[TFMessage]) -> set[tuple[str, str]]:
    return {(t.header.frame_id, t.child_frame_id) for m in messages for t in m.transforms}


def wait_for_newest(messages: list[TFMessage], odom: list[Odometry]) -> None:
    wait_until(
        lambda: messages and ns(messages[-1].transforms[0]) == ns(odom[-1]), 'the newest transform'
    )


def test_map_to_odom_comes_with_odom_to_base_once_it_is_known(stage: Stage, scene: Scene) -> None:
    stage.start(ClosesLoops, **DEPTH_VO)
    odom, messages = listen(stage)
    stage.peer.show_all(range(1, 6), odom)
    wait_for_newest(messages, odom)
    for message in messages:
        knows = ns(message.transforms[0]) >= scene.stamp_ns(2)
        pairs = [(t.header.frame_id, t.child_frame_id) for t in message.transforms]
        assert pairs == [('odom', 'base_link')] + [('map', 'odom')] * knows
        assert len({ns(t) for t in message.transforms}) == 1, 'one stamp, that of the image'
    found = convert.matrix_from_transform(messages[-1].transforms[1].transform)
    np.testing.assert_allclose(found, T_MAP_ODOM, atol=1e-12)


def test_every_frame_has_exactly_one_parent_and_the_tree_begins_at_the_map(stage: Stage) -> None:
    stage.start(ClosesLoops, **DEPTH_VO, frames__map_frame='world', frames__base_frame='robot')
    odom, messages = listen(stage)
    stage.peer.show_all(range(1, 5), odom)
    wait_for_newest(messages, odom)
    parents: dict[str, set[str]] = defaultdict(set)
    for parent, child in edges(messages):
        parents[child].add(parent)
    assert parents == {'odom': {'world'}, 'robot': {'odom'}}


@pytest.mark.parametrize(
    ('switch', 'expected'),
    [('node__publish_map_tf', {('odom', 'base_link')}), ('node__publish_tf', set())],
)
def test_map_to_odom_can_be_left_to_others(
    stage: Stage, switch: str, expected: set[tuple[str, str]]
) -> None:
    stage.start(ClosesLoops, **DEPTH_VO, **{switch: False})
    odom = stage.peer.collect(Odometry, 'odom')
    messages: list[TFMessage] = []
    stage.peer.node.create_subscription(TFMessage, '/tf', messages.append, RELIABLE)
    stage.peer.show_all(range(5), odom)
    if expected:
        wait_for_newest(messages, odom)
    assert edges(messages) == expected
    assert bool(stage.peer.node.count_publishers('/tf')) == bool(expected)


def test_two_d_mode_keeps_the_base_on_the_floor_of_the_map(stage: Stage) -> None:
    stage.start(ClosesLoops, **DEPTH_VO, node__two_d_mode=True)
    odom, messages = listen(stage)
    stage.peer.show_all(range(1, 5), odom)
    wait_for_newest(messages, odom)
    T_odom_base, T_map_odom = (
        convert.matrix_from_transform(t.transform) for t in messages[-1].transforms
    )
    T_map_base = T_map_odom @ T_odom_base
    assert T_map_base[2, 3] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(T_map_base[2, :3], [0.0, 0.0, 1.0], atol=1e-9)
    expected = T_MAP_ODOM @ T_odom_base  # this correction turns about the vertical only
    np.testing.assert_allclose(T_map_base[:2], expected[:2], atol=1e-9)


def test_plain_odometry_says_nothing_about_the_map(stage: Stage, vo: Any) -> None:
    odom, messages = listen(stage)
    stage.peer.show_all(range(1, 4), odom)
    wait_for_newest(messages, odom)
    assert edges(messages) == {('odom', 'base_link')}
