"""Managed-node behaviour as a lifecycle manager sees it, and parameters."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
import pytest
from rcl_interfaces.srv import DescribeParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_stage import BEST_EFFORT, DEPTH_VO, Stage, ns, wait_until
from sensor_msgs.msg import PointCloud2

from kpvo_ros.config.runtime import KeypointConfig, VoConfig
from kpvo_ros.config.schema import specs_of
from kpvo_ros.ros.keypoint_node import KeypointNode
from kpvo_ros.ros.vo_node import VoNode

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


def change(stage: Stage, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return stage.peer.call('vo_node/change_state', ChangeState, request).success


def state(stage: Stage) -> str:
    return stage.peer.call('vo_node/get_state', GetState).current_state.label


def test_a_lifecycle_manager_brings_the_node_up_and_down(stage: Stage) -> None:
    stage.start(VoNode, active=False, **DEPTH_VO)
    assert state(stage) == 'unconfigured'
    assert not stage.peer.node.count_publishers('odom')
    for transition, label in (
        (Transition.TRANSITION_CONFIGURE, 'inactive'),
        (Transition.TRANSITION_ACTIVATE, 'active'),
        (Transition.TRANSITION_DEACTIVATE, 'inactive'),
        (Transition.TRANSITION_ACTIVATE, 'active'),
        (Transition.TRANSITION_DEACTIVATE, 'inactive'),
        (Transition.TRANSITION_CLEANUP, 'unconfigured'),
        (Transition.TRANSITION_CONFIGURE, 'inactive'),
        (Transition.TRANSITION_INACTIVE_SHUTDOWN, 'finalized'),
    ):
        assert change(stage, transition)
        assert state(stage) == label
    wait_until(lambda: not stage.peer.node.count_publishers('odom'), 'the publishers to go')


def test_images_are_subscribed_only_while_active_and_nothing_is_said_when_not(
    stage: Stage,
) -> None:
    node = stage.start(VoNode, active=False, **DEPTH_VO, node__diagnostics_period_s=0.1)
    assert node.trigger_configure() == SUCCESS
    odom = stage.peer.collect(Odometry, 'odom')
    diagnostics = stage.peer.collect(DiagnosticArray, '/diagnostics')
    assert stage.peer.node.count_subscribers('image') == 0
    assert node.trigger_activate() == SUCCESS
    stage.peer.show_all(range(3), odom)
    wait_until(lambda: diagnostics, 'diagnostics while active')

    assert node.trigger_deactivate() == SUCCESS
    wait_until(lambda: not stage.peer.node.count_subscribers('image'), 'the end of listening')
    before = len(odom), len(diagnostics)
    image = stage.scene.image(3)
    stage.peer.node.create_publisher(type(image), 'image', 1).publish(image)
    node._publish_diagnostics()  # even if a timer were still on its way
    stage.peer.call('vo_node/pause')
    assert (len(odom), len(diagnostics)) == before

    assert node.trigger_activate() == SUCCESS
    stage.peer.show_all(range(4, 6), odom)
    assert ns(odom[-1]) == stage.scene.stamp_ns(5)


def test_the_pose_is_kept_over_deactivate_and_forgotten_by_cleanup(stage: Stage) -> None:
    node = stage.start(VoNode, **DEPTH_VO)
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(6), odom)
    node.trigger_deactivate()
    node.trigger_activate()
    stage.peer.show_all([6], odom)
    assert odom[-1].pose.pose.position.y < odom[4].pose.pose.position.y < 0
    for trigger in ('deactivate', 'cleanup', 'configure', 'activate'):
        assert getattr(node, f'trigger_{trigger}')() == SUCCESS
    fresh = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all([7], fresh)
    assert fresh[-1].pose.pose.position.y == 0.0


@pytest.mark.parametrize('service', ['reset', 'pause', 'resume', 'save_trajectory'])
def test_services_of_an_unconfigured_node_refuse_with_a_reason(stage: Stage, service: str) -> None:
    stage.start(VoNode, active=False)
    answer = stage.peer.call(f'vo_node/{service}')
    assert not answer.success
    assert answer.message


def test_services_of_an_inactive_node(stage: Stage) -> None:
    node = stage.start(VoNode, active=False)
    node.trigger_configure()
    assert stage.peer.call('vo_node/reset').success
    answer = stage.peer.call('vo_node/pause')
    assert not answer.success and 'inactive' in answer.message


@pytest.mark.parametrize(
    ('name', 'value', 'line'),
    [
        ('scale.sorce', 'depth', "did you mean 'scale.source'"),
        ('scale.source', 'dpeth', "did you mean 'depth'"),
        ('tracking.min_inliers', 2, 'below the minimum 6'),
        ('node.publish_tf', 'yes', 'true or false'),
        ('frames.extrinsics_xyz_m', [1.0, 2.0], '3 numbers'),
    ],
)
def test_a_wrong_parameter_in_the_file_fails_configure_with_one_line(
    stage: Stage, name: str, value: Any, line: str
) -> None:
    node = stage.start(VoNode, active=False, **{name: value})
    assert node.trigger_configure() == FAILURE
    [problem] = node.parameters.problems
    assert name in problem and line in problem and '\n' not in problem


def test_a_whole_number_is_taken_for_a_float(stage: Stage) -> None:
    node = stage.start(VoNode, active=False, **{'scale.max_depth_m': 5})
    assert node.parameters.record.scale.max_depth_m == 5.0
    assert node.get_parameter('scale.max_depth_m').type_ == Parameter.Type.DOUBLE


@pytest.mark.parametrize(
    ('node_class', 'record'), [(VoNode, VoConfig), (KeypointNode, KeypointConfig)]
)
def test_every_parameter_is_declared_with_its_default_sentence_and_range(
    stage: Stage, node_class: Any, record: Any
) -> None:
    node = stage.start(node_class, active=False)
    specs = specs_of(record)
    request = DescribeParameters.Request(names=[spec.name for spec in specs])
    answer = stage.peer.call(f'{node.get_name()}/describe_parameters', DescribeParameters, request)
    for spec, descriptor in zip(specs, answer.descriptors, strict=True):
        value = node.get_parameter(spec.name).value
        assert (tuple(value) if spec.length else value) == spec.default
        assert descriptor.description == spec.doc
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        if spec.type in (int, float) and spec.low is not None and spec.high is not None:
            assert [(r.from_value, r.to_value) for r in ranges] == [(spec.low, spec.high)]
        for choice in spec.choices:
            assert choice in descriptor.additional_constraints


def test_rclpy_refuses_out_of_range_and_the_node_what_rclpy_cannot_judge(stage: Stage) -> None:
    node = stage.start(VoNode, active=False)
    before = node.parameters.record
    for name, value, reason in (
        ('tracking.min_inliers', 3, 'out of range'),
        ('scale.max_depth_m', -1.0, 'out of range'),
        ('frontend.extractor', 'surf', 'not one of'),
        ('frames.extrinsics_xyz_m', [0.0, 0.0, 1e6], 'above the maximum'),
        ('node.autostart', False, 'read-only'),
        ('seed', 'seven', 'Wrong parameter type'),
    ):
        [answer] = node.set_parameters([Parameter(name, value=value)])
        assert not answer.successful
        assert reason in answer.reason
    assert node.parameters.record == before


def test_a_configured_node_takes_live_parameters_and_refuses_the_others(stage: Stage) -> None:
    node = stage.start(VoNode, **DEPTH_VO)
    live, locked = node.set_parameters(
        [Parameter('node.two_d_mode', value=True), Parameter('frontend.extractor', value='sift')]
    )
    assert live.successful and node.parameters.record.node.two_d_mode
    assert not locked.successful and 'takes effect at configure' in locked.reason
    node.trigger_deactivate()
    node.trigger_cleanup()
    [free] = node.set_parameters([Parameter('frontend.extractor', value='sift')])
    assert free.successful and node.parameters.record.frontend.extractor == 'sift'


def test_qos_can_be_overridden_by_parameter(stage: Stage) -> None:
    name = 'qos_overrides./image.subscription.reliability'
    stage.start(KeypointNode, **{name: 'reliable'})
    infos = wait_until(
        lambda: stage.peer.node.get_subscriptions_info_by_topic('/image'), 'the subscription'
    )
    assert infos[0].qos_profile.reliability.name == 'RELIABLE'


def test_a_senseless_qos_override_fails_activate_and_leaves_the_node_usable(
    stage: Stage,
) -> None:
    name = 'qos_overrides./image.subscription.reliability'
    node = stage.start(KeypointNode, active=False, **{name: 'very'})
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == FAILURE
    assert node.trigger_cleanup() == SUCCESS


def test_keypoint_node_publishes_the_keypoints_of_each_image(stage: Stage) -> None:
    stage.start(KeypointNode, frontend__max_keypoints=200)
    clouds = stage.peer.collect(PointCloud2, 'keypoints', BEST_EFFORT)
    for index in range(3):
        stage.peer.send(stage.scene.image(index), 'image')
        wait_until(lambda n=index: len(clouds) > n, 'keypoints')
    assert [ns(c) for c in clouds] == [stage.scene.stamp_ns(i) for i in range(3)]
    assert all(50 < c.width <= 200 for c in clouds)


def test_diagnostics_tell_rate_age_counts_and_version(stage: Stage) -> None:
    stage.start(VoNode, **DEPTH_VO, node__diagnostics_period_s=0.1)
    odom = stage.peer.collect(Odometry, 'odom')
    diagnostics = stage.peer.collect(DiagnosticArray, '/diagnostics')
    stage.peer.show_all(range(5), odom)
    last = wait_until(
        lambda: next((m for m in diagnostics if len(m.status) == 2), None), 'both parts'
    )
    stream, odometry = ({p.key: p.value for p in s.values} for s in last.status)
    assert {'frequency_hz', 'stamp_age_s', 'dropped', 'bad', 'processed'} <= set(stream)
    assert {'state', 'inliers', 'scale', 'scale_sigma', 'step_ms', 'version'} <= set(odometry)
    assert odometry['state'] == 'tracking'
