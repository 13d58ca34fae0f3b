"""bag_player: publishes a recorded bag at its own rate, as the camera would have.

Waits until somebody listens, so that no frame is lost to discovery. With `--restamp` the stamps
become wall time (one constant offset, published latched on ~/restamp_offset_ns), so that the
latency of everything downstream is simply "now minus stamp".
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import sys
import time
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Int64
from tqdm import tqdm

from kpvo_ros.bags.reader import Bag, RawMessage
from kpvo_ros.bags.topics import topics_by_kind
from kpvo_ros.errors import BagError, KpvoError, RosError
from kpvo_ros.ros.cdr import message_class, with_shifted_stamps
from kpvo_ros.ros.convert import header_of

_SLICE_S = 0.05  # the longest sleep, so that Ctrl-C and /clock are served
_ACK_TIMEOUT_S = 2.0
_LEAD_S = 0.5  # from announcing an offset to the first message that has it
LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STATIC_QOS = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def parser() -> argparse.ArgumentParser:
    """The command line, ROS arguments aside."""
    words = argparse.ArgumentParser(
        prog='bag_player', description='Play a rosbag2 into ROS 2 (remap with --ros-args -r).'
    )
    words.add_argument('bag', help='rosbag2 folder, .mcap or .db3 file')
    words.add_argument('--topics', nargs='+', metavar='TOPIC', help='play only these')
    words.add_argument('--rate', type=float, default=1.0, help='speed, 1.0 is as recorded')
    words.add_argument('--start', type=float, default=0.0, metavar='S', help='skip the beginning')
    words.add_argument(
        '--duration', type=float, metavar='S', help='end after this much of the bag'
    )
    words.add_argument('--loops', type=int, default=1, metavar='N', help='0 plays for ever')
    words.add_argument(
        '--wait', type=float, default=30.0, metavar='S', help='longest wait for listeners'
    )
    words.add_argument(
        '--wait-for',
        nargs='+',
        default=[],
        metavar='TOPIC',
        help='also wait until these topics have a publisher and a subscriber, e.g. odom',
    )
    words.add_argument(
        '--clock', type=float, nargs='?', const=100.0, metavar='HZ', help='publish /clock'
    )
    words.add_argument('--restamp', action='store_true', help='write wall time into the stamps')
    words.add_argument('--quiet', action='store_true', help='no progress bar')
    return words


class BagPlayer:
    """Plays one bag through one node.

    Args:
        node: publishes; remaps of the node apply.
        bag: an open ROS 2 bag.
        options: parsed command line.

    Raises:
        RosError: the options contradict each other, or nothing can be played.
    """

    def __init__(self, node: Node, bag: Bag, options: argparse.Namespace) -> None:
        _check(bag, options)
        self._node = node
        self._bag = bag
        self._options = options
        self._types: dict[str, Any] = {}
        self._publishers: dict[str, Publisher] = {}
        self._offset_ns = 0
        self._late_s = 0.0
        self._make_publishers()
        self._clock = node.create_publisher(Clock, '/clock', 10) if options.clock else None
        self._offset = (
            node.create_publisher(Int64, '~/restamp_offset_ns', LATCHED_QOS)
            if options.restamp
            else None
        )

    def play(self) -> int:
        """Wait for listeners, play, wait until all is delivered. Returns messages published."""
        self._wait_for_listeners()
        count, loop = 0, 0
        started_s = time.monotonic()
        while self._node.context.ok() and loop != (self._options.loops or -1):
            count += self._play_once()
            loop += 1
        took_s = time.monotonic() - started_s
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=_ACK_TIMEOUT_S))
        print(
            f'played {count} messages of {len(self._publishers)} topics in {took_s:.1f} s '
            f'({loop} time(s), at most {self._late_s * 1e3:.0f} ms late)'
        )
        return count

    # ---------------------------------------------------------------------------- private

    def _make_publishers(self) -> None:
        for topic, info in self._bag.topics.items():
            if self._options.topics and topic not in self._options.topics:
                continue
            try:
                message_type = message_class(info.msgtype)
            except RosError as error:
                print(f'{topic} is left out: {error}', file=sys.stderr)
                continue
            qos = STATIC_QOS if topic.endswith('tf_static') else QoSProfile(depth=10)
            self._types[topic] = message_type
            self._publishers[topic] = self._node.create_publisher(message_type, topic, qos)
        if not self._publishers:
            raise RosError(f'nothing to play; the bag has {", ".join(self._bag.topics)}')

    def _wait_for_listeners(self) -> None:
        kinds = topics_by_kind(self._bag.topics)
        images = [name for name in kinds['image'] if name in self._publishers]
        main_topic = images[0] if images else next(iter(self._publishers))
        publisher = self._publishers[main_topic]
        names = [self._node.resolve_topic_name(name) for name in self._options.wait_for]
        if names and self._offset is not None:  # whoever records needs it before the first stamp
            names.append(self._offset.topic_name)
        deadline_s = time.monotonic() + self._options.wait
        while self._node.context.ok():
            missing = [] if publisher.get_subscription_count() else [publisher.topic_name]
            missing += [
                name
                for name in names
                if not (self._node.count_publishers(name) and self._node.count_subscribers(name))
            ]
            if not missing:
                return
            if time.monotonic() > deadline_s:
                print(
                    f'nobody is ready on {", ".join(missing)} after {self._options.wait:g} s; '
                    'playing all the same (remap with --ros-args -r)',
                    file=sys.stderr,
                )
                return
            time.sleep(_SLICE_S)

    def _play_once(self) -> int:
        first_ns = self._bag.start_ns + int(self._options.start * 1e9)
        started_s = self._start_time_s(first_ns)
        count = 0
        for raw in self._with_progress(self._selected(first_ns)):
            due_s = started_s + (raw.recorded_ns - first_ns) / 1e9 / self._options.rate
            if not self._sleep_until(due_s, raw.recorded_ns):
                break
            data = raw.data
            if self._offset is not None:
                data = with_shifted_stamps(data, self._types[raw.topic], self._offset_ns)
            self._publishers[raw.topic].publish(bytes(data))
            count += 1
            self._late_s = max(self._late_s, time.monotonic() - due_s)
        return count

    def _selected(self, first_ns: int) -> Iterator[RawMessage]:
        """Messages of the wanted span; static transforms always, the earlier ones at its start."""
        duration = self._options.duration
        last_ns = None if duration is None else first_ns + int(duration * 1e9)
        for raw in self._bag.raw_messages(list(self._publishers)):
            if last_ns is not None and raw.recorded_ns > last_ns:
                return
            if raw.recorded_ns >= first_ns:
                yield raw
            elif raw.topic.endswith('tf_static'):
                yield raw._replace(recorded_ns=first_ns)

    def _with_progress(self, messages: Iterator[RawMessage]) -> Iterator[RawMessage]:
        total = sum(self._bag.topics[topic].count for topic in self._publishers)
        hidden = self._options.quiet or not sys.stderr.isatty()
        return iter(tqdm(messages, total=total, unit='msg', desc='playing', disable=hidden))

    def _start_time_s(self, first_ns: int) -> float:
        """When the first message is due; a new offset is known everywhere before."""
        if self._offset is None:
            return time.monotonic()
        started_s = time.monotonic() + _LEAD_S
        self._offset_ns = time.time_ns() + int(_LEAD_S * 1e9) - first_ns
        self._offset.publish(Int64(data=self._offset_ns))
        self._offset.wait_for_all_acked(Duration(seconds=_LEAD_S))
        print(f'restamp offset {self._offset_ns} ns')
        return started_s

    def _sleep_until(self, due_s: float, bag_ns: int) -> bool:
        """Sleep, keeping /clock running; False when the program is to end."""
        slice_s = min(_SLICE_S, 1.0 / self._options.clock) if self._clock else _SLICE_S
        while self._node.context.ok():
            left_s = due_s - time.monotonic()
            if self._clock is not None:
                now_ns = bag_ns - int(max(left_s, 0.0) * self._options.rate * 1e9)
                self._clock.publish(Clock(clock=header_of(now_ns, '').stamp))
            if left_s <= 0:
                return True
            time.sleep(min(left_s, slice_s))
        return False


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the executable."""
    words = list(sys.argv[1:] if args is None else args)
    options = parser().parse_args(remove_ros_args(['bag_player', *words])[1:])
    try:
        with Bag(options.bag) as bag:
            rclpy.init(args=words)
            node = Node('bag_player')
            BagPlayer(node, bag, options).play()
            node.destroy_node()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except (KpvoError, RuntimeError) as error:
        print(f'bag_player: {str(error).splitlines()[0]}', file=sys.stderr)
        return 1
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            rclpy.try_shutdown()
    return 0


def _check(bag: Bag, options: argparse.Namespace) -> None:
    if bag.is_ros1:
        raise BagError(f'{bag.path} is a ROS 1 bag; turn it into a rosbag2 with kpvo convert')
    if not options.rate > 0:
        raise RosError(f'--rate {options.rate:g} must be above zero')
    if options.clock is not None and not options.clock > 0:
        raise RosError(f'--clock {options.clock:g} must be above zero')
    if options.restamp and (options.rate != 1.0 or options.loops != 1 or options.clock):
        raise RosError('--restamp needs one loop at rate 1 without --clock: stamps are wall time')
    unknown = [topic for topic in options.topics or [] if topic not in bag.topics]
    if unknown:
        raise RosError(f'the bag has no {", ".join(unknown)}; it has {", ".join(bag.topics)}')


if __name__ == '__main__':
    sys.exit(main())
