"""The contract of tf2_ros, asked of whichever implementation is installed."""

from __future__ import annotations

from collections.abc import Callable
import itertools
import math
import threading
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: run `make setup`')
pytest.importorskip('tf2_ros')

from geometry_msgs.msg import TransformStamped
import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.time import Time
from scipy.spatial.transform import Rotation
import tf2_ros

LATEST = Time()
SECOND_NS = 1_000_000_000


def at(seconds: float) -> Time:
    """A time."""
    return Time(nanoseconds=round(seconds * 1e9))


def pose(
    parent: str,
    child: str,
    seconds: float = 0.0,
    xyz: tuple[float, float, float] = (0.0, 0.0, 0.0),
    rotvec: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> TransformStamped:
    """The pose of a child frame in its parent at a time."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = at(seconds).to_msg()
    shift, turn = message.transform.translation, message.transform.rotation
    shift.x, shift.y, shift.z = (float(value) for value in xyz)
    turn.x, turn.y, turn.z, turn.w = Rotation.from_rotvec(rotvec).as_quat().tolist()
    return message


def matrix(message: TransformStamped) -> np.ndarray:
    """4x4 of a transform message."""
    shift, turn = message.transform.translation, message.transform.rotation
    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    result[:3, 3] = shift.x, shift.y, shift.z
    return result


@pytest.fixture
def buffer() -> tf2_ros.Buffer:
    """An empty buffer."""
    return tf2_ros.Buffer()


def random_chain(rng, names: list[str], seconds: float = 1.0) -> list[TransformStamped]:
    """Random poses, each frame in the one before."""
    return [
        pose(parent, child, seconds, rng.normal(size=3), rng.uniform(-1.5, 1.5, 3))
        for parent, child in itertools.pairwise(names)
    ]


def test_a_chain_is_the_product_of_its_links(buffer, rng):
    links = random_chain(rng, ['map', 'odom', 'base', 'camera'])
    for link in links:
        buffer.set_transform(link, 'test')

    found = buffer.lookup_transform('map', 'camera', LATEST)

    expected = matrix(links[0]) @ matrix(links[1]) @ matrix(links[2])
    np.testing.assert_allclose(matrix(found), expected, atol=1e-12)
    assert (found.header.frame_id, found.child_frame_id) == ('map', 'camera')
    assert Time.from_msg(found.header.stamp).nanoseconds == SECOND_NS


def test_the_other_direction_is_the_inverse(buffer, rng):
    for link in random_chain(rng, ['map', 'odom', 'base']):
        buffer.set_transform(link, 'test')

    forth = matrix(buffer.lookup_transform('map', 'base', LATEST))
    back = matrix(buffer.lookup_transform('base', 'map', LATEST))

    np.testing.assert_allclose(forth @ back, np.eye(4), atol=1e-12)


def test_branches_meet_at_their_common_ancestor(buffer, rng):
    left = random_chain(rng, ['base', 'mast', 'camera'])
    right = random_chain(rng, ['base', 'lidar'])
    for link in (*random_chain(rng, ['odom', 'base']), *left, *right):
        buffer.set_transform(link, 'test')

    found = matrix(buffer.lookup_transform('lidar', 'camera', LATEST))

    T_base_camera = matrix(left[0]) @ matrix(left[1])
    np.testing.assert_allclose(found, np.linalg.inv(matrix(right[0])) @ T_base_camera, atol=1e-12)


def test_between_samples_the_pose_is_interpolated(buffer):
    buffer.set_transform(pose('odom', 'base', 10.0, (0, 0, 0), (0, 0, 0)), 'test')
    buffer.set_transform(pose('odom', 'base', 12.0, (4, 2, 0), (0, 0, 1.0)), 'test')

    found = buffer.lookup_transform('odom', 'base', at(10.5))

    shift = found.transform.translation
    np.testing.assert_allclose([shift.x, shift.y, shift.z], [1.0, 0.5, 0.0], atol=1e-12)
    turn = Rotation.from_matrix(matrix(found)[:3, :3]).as_rotvec()
    np.testing.assert_allclose(turn, [0, 0, 0.25], atol=1e-9)
    assert Time.from_msg(found.header.stamp).nanoseconds == 10_500_000_000


def test_interpolation_takes_the_short_way_round(buffer):
    first = pose('odom', 'base', 1.0, rotvec=(0, 0, 0.9 * math.pi))
    second = pose('odom', 'base', 2.0, rotvec=(0, 0, -0.9 * math.pi))
    buffer.set_transform(first, 'test')
    buffer.set_transform(second, 'test')

    found = matrix(buffer.lookup_transform('odom', 'base', at(1.5)))

    np.testing.assert_allclose(found[:2, :2], -np.eye(2), atol=1e-9)  # half a turn


def test_samples_may_come_out_of_order(buffer):
    for seconds in (3.0, 1.0, 2.0):
        buffer.set_transform(pose('odom', 'base', seconds, (seconds, 0, 0)), 'test')

    assert buffer.lookup_transform('odom', 'base', at(1.5)).transform.translation.x == 1.5
    assert buffer.lookup_transform('odom', 'base', LATEST).transform.translation.x == 3.0


def test_the_latest_time_is_the_newest_that_all_links_share(buffer):
    for seconds in (1.0, 2.0, 3.0):
        buffer.set_transform(pose('map', 'odom', seconds), 'test')
    for seconds in (1.0, 2.0):
        buffer.set_transform(pose('odom', 'base', seconds, (seconds, 0, 0)), 'test')
    buffer.set_transform_static(pose('base', 'camera', 0.0, (0, 0, 1)), 'test')

    found = buffer.lookup_transform('map', 'camera', LATEST)

    assert Time.from_msg(found.header.stamp).nanoseconds == 2 * SECOND_NS
    assert found.transform.translation.x == 2.0


def test_static_transforms_hold_at_every_time(buffer):
    buffer.set_transform_static(pose('base', 'camera', 5.0, (0, 0, 1)), 'test')

    for when in (LATEST, at(0.001), at(1e9)):
        assert buffer.lookup_transform('base', 'camera', when).transform.translation.z == 1.0


@pytest.mark.parametrize('seconds', [9.9, 12.1])
def test_times_outside_the_samples_are_not_guessed(buffer, seconds):
    buffer.set_transform(pose('odom', 'base', 10.0), 'test')
    buffer.set_transform(pose('odom', 'base', 12.0), 'test')

    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform('odom', 'base', at(seconds))
    assert not buffer.can_transform('odom', 'base', at(seconds))


def test_samples_older_than_the_cache_are_forgotten():
    buffer = tf2_ros.Buffer(cache_time=Duration(seconds=2))
    for seconds in range(1, 11):
        buffer.set_transform(pose('odom', 'base', float(seconds), (seconds, 0, 0)), 'test')

    assert buffer.lookup_transform('odom', 'base', at(8.5)).transform.translation.x == 8.5
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform('odom', 'base', at(5.0))


def test_an_unknown_frame_is_named(buffer):
    buffer.set_transform(pose('odom', 'base', 1.0), 'test')

    with pytest.raises(tf2_ros.LookupException, match='camera'):
        buffer.lookup_transform('odom', 'camera', LATEST)


def test_two_separate_trees_are_not_connected(buffer):
    buffer.set_transform(pose('odom', 'base', 1.0), 'test')
    buffer.set_transform(pose('world', 'tripod', 1.0), 'test')

    for when in (LATEST, at(1.0)):
        with pytest.raises(tf2_ros.ConnectivityException):
            buffer.lookup_transform('odom', 'tripod', when)


@pytest.mark.parametrize('name', ['', '/odom'])
def test_a_malformed_frame_name_is_refused(buffer, name):
    buffer.set_transform(pose('odom', 'base', 1.0), 'test')

    with pytest.raises(tf2_ros.InvalidArgumentException):
        buffer.lookup_transform(name, 'base', LATEST)


def test_every_refusal_is_a_transform_exception():
    for name in ('Lookup', 'Connectivity', 'Extrapolation', 'InvalidArgument', 'Timeout'):
        assert issubclass(getattr(tf2_ros, f'{name}Exception'), tf2_ros.TransformException)


def broken(change: Callable[[TransformStamped], None]) -> TransformStamped:
    """A transform with one thing wrong."""
    message = pose('odom', 'base', 1.0)
    change(message)
    return message


@pytest.mark.parametrize(
    'message',
    [
        broken(lambda m: setattr(m.transform.translation, 'x', math.nan)),
        broken(lambda m: setattr(m.transform.rotation, 'w', 0.0)),
        broken(lambda m: setattr(m, 'child_frame_id', '')),
        broken(lambda m: setattr(m, 'child_frame_id', 'odom')),
        broken(lambda m: setattr(m.header, 'frame_id', '')),
    ],
    ids=['nan', 'quaternion without length', 'no child', 'own parent', 'no parent'],
)
def test_a_malformed_transform_is_left_out(buffer, message):
    buffer.set_transform(message, 'test')

    assert not buffer.can_transform('odom', 'base', LATEST)


def test_the_reason_is_told_on_request(buffer):
    possible, reason = buffer.can_transform('odom', 'base', LATEST, return_debug_tuple=True)

    assert not possible
    assert 'odom' in reason


def test_a_frame_can_change_its_parent(buffer):
    buffer.set_transform(pose('left', 'cup', 1.0, (1, 0, 0)), 'test')
    buffer.set_transform(pose('right', 'cup', 2.0, (2, 0, 0)), 'test')

    assert buffer.lookup_transform('right', 'cup', at(2.0)).transform.translation.x == 2.0
    assert buffer.lookup_transform('left', 'cup', at(1.0)).transform.translation.x == 1.0


def test_the_full_lookup_joins_two_times_in_the_fixed_frame(buffer):
    for seconds in (1.0, 2.0):
        buffer.set_transform(pose('odom', 'base', seconds, (10 * seconds, 0, 0)), 'test')

    found = buffer.lookup_transform_full('base', at(2.0), 'base', at(1.0), 'odom')

    assert found.transform.translation.x == pytest.approx(-10.0)


def test_clearing_forgets_what_moved(buffer):
    buffer.set_transform(pose('odom', 'base', 1.0), 'test')
    buffer.set_transform_static(pose('base', 'camera'), 'test')

    buffer.clear()

    assert not buffer.can_transform('odom', 'base', LATEST)
    assert buffer.can_transform('base', 'camera', LATEST)


def test_a_lookup_waits_for_a_transform_that_comes_late(buffer):
    late = threading.Timer(0.2, lambda: buffer.set_transform(pose('odom', 'base', 1.0), 'test'))
    late.start()

    found = buffer.lookup_transform('odom', 'base', at(1.0), timeout=Duration(seconds=5.0))

    late.join()
    assert found.child_frame_id == 'base'


def test_a_lookup_gives_up_after_its_timeout(buffer):
    started = time.monotonic()

    with pytest.raises(tf2_ros.LookupException):
        buffer.lookup_transform('odom', 'base', LATEST, timeout=Duration(seconds=0.2))

    assert 0.2 <= time.monotonic() - started < 2.0


def test_a_future_is_done_when_the_transform_has_come(buffer):
    future = buffer.wait_for_transform_async('odom', 'base', at(1.0))
    assert not future.done()

    buffer.set_transform(pose('odom', 'base', 1.0), 'test')

    assert future.done()


def spin_until(executor, condition: Callable[[], bool], limit_s: float = 20.0) -> bool:
    """Works on callbacks until the condition holds or the time is up."""
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        executor.spin_once(timeout_sec=0.05)
    return condition()


@pytest.fixture
def nodes(ros_context):
    """A sending node, a receiving node, and the executor of both."""
    executor = SingleThreadedExecutor(context=ros_context)
    pair = [rclpy.create_node(name, context=ros_context) for name in ('sender', 'receiver')]
    for node in pair:
        executor.add_node(node)
    yield (*pair, executor)
    executor.shutdown()
    for node in pair:
        node.destroy_node()


def test_broadcast_transforms_reach_a_listener(nodes, buffer):
    sender, receiver, executor = nodes
    listener = tf2_ros.TransformListener(buffer, receiver)
    broadcaster = tf2_ros.TransformBroadcaster(sender)
    assert spin_until(executor, lambda: sender.count_subscribers('/tf') > 0)

    def sent_until_received() -> bool:
        broadcaster.sendTransform([pose('odom', 'base', 3.0, (1, 2, 3)), pose('base', 'arm', 3.0)])
        broadcaster.sendTransform(pose('arm', 'hand', 3.0))
        return buffer.can_transform('odom', 'hand', at(3.0))

    assert spin_until(executor, sent_until_received)
    found = buffer.lookup_transform('odom', 'hand', at(3.0)).transform.translation
    assert (found.x, found.y, found.z) == (1.0, 2.0, 3.0)
    listener.unregister()


def test_a_late_listener_gets_all_static_transforms(nodes, buffer):
    sender, receiver, executor = nodes
    broadcaster = tf2_ros.StaticTransformBroadcaster(sender)
    broadcaster.sendTransform(pose('base', 'camera', xyz=(0, 0, 9)))
    broadcaster.sendTransform([pose('base', 'lidar', xyz=(0, 0, 2))])
    broadcaster.sendTransform(pose('base', 'camera', xyz=(0, 0, 1)))

    listener = tf2_ros.TransformListener(buffer, receiver)

    assert spin_until(executor, lambda: buffer.can_transform('camera', 'lidar', LATEST))
    found = buffer.lookup_transform('camera', 'lidar', LATEST)
    assert found.transform.translation.z == pytest.approx(1.0)
    listener.unregister()


def test_a_listener_can_spin_in_a_thread_of_its_own(ros_context, buffer):
    receiver = rclpy.create_node('receiver', context=ros_context)
    sender = rclpy.create_node('sender', context=ros_context)
    broadcaster = tf2_ros.StaticTransformBroadcaster(sender)
    broadcaster.sendTransform(pose('base', 'camera', xyz=(0, 0, 1)))

    listener = tf2_ros.TransformListener(buffer, receiver, spin_thread=True)

    assert buffer.can_transform('base', 'camera', LATEST, timeout=Duration(seconds=20.0))
    listener.unregister()
    receiver.destroy_node()
    sender.destroy_node()
