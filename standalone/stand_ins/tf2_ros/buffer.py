"""The transform buffer: set transforms in, look transforms up."""

from __future__ import annotations

from collections.abc import Callable
import logging
import math
import threading
import time as wall
from typing import TYPE_CHECKING

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.task import Future
from rclpy.time import Time

from tf2_ros import _rigid
from tf2_ros._frames import FrameTree, Sample
from tf2_ros._rigid import Rigid
from tf2_ros.exceptions import InvalidArgumentException, TransformException

if TYPE_CHECKING:
    from rclpy.node import Node

_log = logging.getLogger(__name__)
_DEFAULT_CACHE_S = 10
_POLL_S = 0.005
_NO_WAIT = Duration()
_QUATERNION_TOLERANCE = 1e-2


class Buffer:
    """Transforms between frames over the last seconds; safe to use from several threads."""

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None):
        """`cache_time`: how long samples are kept, 10 s when absent. `node` gives its clock."""
        cache = cache_time or Duration(seconds=_DEFAULT_CACHE_S)
        self._tree = FrameTree(cache.nanoseconds)
        self._lock = threading.RLock()
        self._waiting: list[Callable[[], bool]] = []
        self._node = node

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Adds one sample of a moving frame; a malformed one is logged and left out."""
        self._add(transform, authority, static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Adds a transform that holds at every time."""
        self._add(transform, authority, static=True)

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration = _NO_WAIT
    ) -> TransformStamped:
        """The transform that maps coordinates of `source_frame` into `target_frame`.

        Raises:
            LookupException, ConnectivityException, ExtrapolationException: see their docs.
        """
        self.can_transform(target_frame, source_frame, time, timeout)
        with self._lock:
            pose, stamp_ns = self._tree.lookup(target_frame, source_frame, _nanoseconds(time))
        return _message(target_frame, source_frame, pose, stamp_ns)

    def lookup_transform_full(
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration = _NO_WAIT,
    ) -> TransformStamped:
        """Source at one time seen from target at another, joined where `fixed_frame` stood."""
        self.can_transform_full(
            target_frame, target_time, source_frame, source_time, fixed_frame, timeout
        )
        with self._lock:
            T_fixed_source, _ = self._tree.lookup(
                fixed_frame, source_frame, _nanoseconds(source_time)
            )
            T_target_fixed, stamp_ns = self._tree.lookup(
                target_frame, fixed_frame, _nanoseconds(target_time)
            )
        pose = _rigid.compose(T_target_fixed, T_fixed_source)
        return _message(target_frame, source_frame, pose, stamp_ns)

    async def lookup_transform_async(
        self, target_frame: str, source_frame: str, time: Time
    ) -> TransformStamped:
        """Like `lookup_transform`, after the transform has come."""
        await self.wait_for_transform_async(target_frame, source_frame, time)
        return self.lookup_transform(target_frame, source_frame, time)

    def can_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration = _NO_WAIT,
        return_debug_tuple: bool = False,
    ) -> bool | tuple[bool, str]:
        """Whether the transform is there, or comes within the timeout."""
        reason = self._wait(
            lambda: self._tree.lookup(target_frame, source_frame, _nanoseconds(time)), timeout
        )
        return (not reason, reason) if return_debug_tuple else not reason

    def can_transform_full(
        self,
        target_frame: str,
        target_time: Time,
        source_frame: str,
        source_time: Time,
        fixed_frame: str,
        timeout: Duration = _NO_WAIT,
        return_debug_tuple: bool = False,
    ) -> bool | tuple[bool, str]:
        """Whether `lookup_transform_full` would succeed."""

        def look() -> None:
            self._tree.lookup(fixed_frame, source_frame, _nanoseconds(source_time))
            self._tree.lookup(target_frame, fixed_frame, _nanoseconds(target_time))

        reason = self._wait(look, timeout)
        return (not reason, reason) if return_debug_tuple else not reason

    def wait_for_transform_async(self, target_frame: str, source_frame: str, time: Time) -> Future:
        """A future that is done (True) as soon as the transform can be looked up."""
        future = Future()

        def done() -> bool:
            if not self.can_transform(target_frame, source_frame, time):
                return False
            future.set_result(True)
            return True

        with self._lock:
            if not done():
                self._waiting.append(done)
        return future

    def get_latest_common_time(self, target_frame: str, source_frame: str) -> Time:
        """The newest time at which the chain between both frames is known."""
        with self._lock:
            self._tree.check_frame(target_frame, 'target_frame')
            self._tree.check_frame(source_frame, 'source_frame')
            return Time(nanoseconds=self._tree.latest_common_ns(target_frame, source_frame))

    def all_frames_as_yaml(self) -> str:
        """Every frame with its parent and newest time, as YAML."""
        with self._lock:
            links = self._tree.links()
        return ''.join(
            f"{child}:\n  parent: '{link.parent}'\n"
            f'  most_recent_transform: {link.stamp_ns / 1e9:.6f}\n'
            for child, link in sorted(links.items())
        )

    def all_frames_as_string(self) -> str:
        """Every frame with its parent, as sentences."""
        with self._lock:
            links = self._tree.links()
        return ''.join(
            f'Frame {child} exists with parent {link.parent}.\n'
            for child, link in sorted(links.items())
        )

    def clear(self) -> None:
        """Forgets all moving frames, for instance when time jumped back."""
        with self._lock:
            self._tree.clear()

    def _add(self, transform: TransformStamped, authority: str, *, static: bool) -> None:
        try:
            child, sample = _read(transform)
        except ValueError as error:
            _log.warning('transform from %s left out: %s', authority, error)
            return
        with self._lock:
            if not self._tree.add(child, sample, static=static):
                _log.debug('old or repeated transform of %s from %s', child, authority)
            self._waiting = [done for done in self._waiting if not done()]

    def _wait(self, look: Callable[[], object], timeout: Duration) -> str:
        """Tries until it succeeds (empty answer) or time is up (what was wrong)."""
        deadline = wall.monotonic() + timeout.nanoseconds / 1e9
        while True:
            try:
                with self._lock:
                    look()
            except TransformException as error:
                reason = str(error)
            else:
                return ''
            if wall.monotonic() >= deadline:
                return reason
            wall.sleep(_POLL_S)


def _nanoseconds(time: Time) -> int:
    if not isinstance(time, Time):
        raise InvalidArgumentException(f'time must be rclpy.time.Time, not {type(time).__name__}')
    return time.nanoseconds


def _read(transform: TransformStamped) -> tuple[str, Sample]:
    """The child frame and its sample; ValueError says what is malformed."""
    parent = transform.header.frame_id.removeprefix('/')
    child = transform.child_frame_id.removeprefix('/')
    if not parent or not child:
        raise ValueError(f'a frame name is empty (parent "{parent}", child "{child}")')
    if parent == child:
        raise ValueError(f'frame "{child}" cannot be its own parent')
    t, q = transform.transform.translation, transform.transform.rotation
    numbers = (t.x, t.y, t.z, q.x, q.y, q.z, q.w)
    if not all(math.isfinite(number) for number in numbers):
        raise ValueError(f'"{child}" holds numbers that are not finite')
    length = math.sqrt(q.x**2 + q.y**2 + q.z**2 + q.w**2)
    if abs(length - 1.0) > _QUATERNION_TOLERANCE:
        raise ValueError(f'the quaternion of "{child}" has length {length:.3f}, not 1')
    pose = Rigid((t.x, t.y, t.z), _rigid.normalized((q.x, q.y, q.z, q.w)))
    return child, Sample(Time.from_msg(transform.header.stamp).nanoseconds, parent, pose)


def _message(target: str, source: str, pose: Rigid, stamp_ns: int) -> TransformStamped:
    message = TransformStamped()
    message.header.frame_id = target
    message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
    message.child_frame_id = source
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = pose.translation
    q.x, q.y, q.z, q.w = pose.quat_xyzw
    return message
