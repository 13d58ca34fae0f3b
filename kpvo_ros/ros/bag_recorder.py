"""bag_recorder: keeps what vo_node says, as a rosbag2 and as files to evaluate.

Ends on Ctrl-C, SIGTERM, or when the odometry has been silent for --idle-timeout seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import contextlib
from pathlib import Path
import sys
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Int64
from tf2_msgs.msg import TFMessage

from kpvo_ros.errors import KpvoError, RosError
from kpvo_ros.ros.bag_player import LATCHED_QOS
from kpvo_ros.ros.cdr import message_class
from kpvo_ros.ros.recording import Recording

_RELIABLE = QoSProfile(depth=100)
_ANY = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
_STATIC = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_SPIN_S = 0.1
_MATCH_S = 0.05
_LOOK_S = 0.5


def parser() -> argparse.ArgumentParser:
    """The command line, ROS arguments aside."""
    words = argparse.ArgumentParser(
        prog='bag_recorder', description='Record odometry, TF, keypoints and diagnostics.'
    )
    words.add_argument('--out', required=True, type=Path, metavar='DIR', help='folder of results')
    words.add_argument('--node', default='vo_node', help='name of the odometry node')
    words.add_argument(
        '--topics', nargs='+', default=[], metavar='TOPIC', help='record these as well'
    )
    words.add_argument(
        '--idle-timeout',
        type=float,
        default=0.0,
        metavar='S',
        help='end when no odometry came for this long after the first; 0 never',
    )
    words.add_argument('--storage', choices=('mcap', 'sqlite3'), default='mcap')
    words.add_argument('--quiet', action='store_true', help='print no summary')
    return words


class BagRecorder:
    """Subscribes with one node and hands every message to a `Recording`.

    Args:
        node: subscribes; remaps of the node apply.
        recording: where messages go.
        odometry_node: name of the node whose private topics are recorded.
        extra_topics: further topics; their type is looked up as soon as they exist.
    """

    def __init__(
        self, node: Node, recording: Recording, odometry_node: str, extra_topics: Sequence[str]
    ) -> None:
        self._node = node
        self._recording = recording
        self._heard: set[str] = set()
        self._odometry = self._listen(Odometry, 'odom', _RELIABLE, recording.add_odometry)
        for message_type, topic, qos, use in (
            (PoseStamped, f'{odometry_node}/camera_pose', _RELIABLE, recording.add_camera_pose),
            (DiagnosticArray, f'{odometry_node}/status', _RELIABLE, recording.add_status),
            (TFMessage, '/tf', _RELIABLE, None),
            (TFMessage, '/tf_static', _STATIC, None),
            (PointCloud2, 'keypoints', _ANY, None),
            (DiagnosticArray, '/diagnostics', _RELIABLE, None),
        ):
            self._listen(message_type, topic, qos, use)
        self._listen_to_player = node.create_timer(_MATCH_S, self._listen_for_offset)
        wanted = {node.resolve_topic_name(topic) for topic in extra_topics}
        self._pending = wanted - self._heard
        if self._pending:
            node.create_timer(_LOOK_S, self._find_pending_topics)

    def _listen_for_offset(self) -> None:
        """Show the player a listener once the odometry can be heard, and not before.

        Two processes may find each other seconds after the player has found both: the player
        begins when somebody wants to know its offset (bag_player, --wait-for).
        """
        if not self._odometry.get_publisher_count():
            return
        self._node.destroy_timer(self._listen_to_player)
        self._node.create_subscription(
            Int64, 'bag_player/restamp_offset_ns', self._take_offset, LATCHED_QOS
        )

    def _take_offset(self, message: Int64) -> None:
        self._recording.set_restamp_offset(message.data)

    def _find_pending_topics(self) -> None:
        for topic, types in self._node.get_topic_names_and_types():
            if topic not in self._pending:
                continue
            self._pending.discard(topic)
            try:
                self._listen(message_class(types[0]), topic, _ANY, None)
            except RosError as error:
                print(f'{topic} is not recorded: {error}', file=sys.stderr)

    def _listen(
        self, message_type: Any, topic: str, qos: QoSProfile, use: Callable[[Any], None] | None
    ) -> Subscription:
        name = self._node.resolve_topic_name(topic)
        self._heard.add(name)
        type_name = f'{message_type.__module__.split(".")[0]}/msg/{message_type.__name__}'

        def store(data: bytes) -> None:
            if use is not None:  # first, so that the time of arrival is not that of the disk
                use(deserialize_message(data, message_type))
            self._recording.add_raw(name, type_name, data)

        return self._node.create_subscription(message_type, topic, store, qos, raw=True)


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the executable."""
    words = list(sys.argv[1:] if args is None else args)
    options = parser().parse_args(remove_ros_args(['bag_recorder', *words])[1:])
    try:
        rclpy.init(args=words)
        with Recording(options.out, options.storage) as recording:
            with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
                _record(recording, options)
            if not options.quiet:
                _print_summary(recording.summary(), options.out)
    except KeyboardInterrupt:
        return 0
    except (KpvoError, RuntimeError) as error:
        print(f'bag_recorder: {str(error).splitlines()[0]}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


def _record(recording: Recording, options: argparse.Namespace) -> None:
    node = Node('bag_recorder')
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    BagRecorder(node, recording, options.node, options.topics)
    print(f'recording to {options.out}', flush=True)
    try:
        while rclpy.ok() and not _is_idle(recording, options.idle_timeout):
            executor.spin_once(timeout_sec=_SPIN_S)
    finally:
        executor.shutdown()
        node.destroy_node()


def _is_idle(recording: Recording, timeout_s: float) -> bool:
    last_s = recording.last_odometry_s
    return bool(timeout_s) and last_s is not None and time.monotonic() - last_s > timeout_s


def _print_summary(summary: dict[str, Any], folder: Path) -> None:
    latency = summary['latency_ms']
    line = f'{folder}: {summary["frames"]} frames, {summary["tracked"]} tracked'
    if latency['count']:
        line += f', latency median {latency["median"]:.1f} ms, p95 {latency["p95"]:.1f} ms'
    print(line, flush=True)


if __name__ == '__main__':
    sys.exit(main())
