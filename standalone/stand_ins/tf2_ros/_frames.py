"""The tree of frames over time: what the buffer knows, without any ROS in it.

Every frame keeps a short history of (time, parent, pose in parent). A lookup climbs from both
frames to the ancestor they share. Time is integer nanoseconds; zero asks for the newest time at
which the whole chain is known, as everywhere in tf2.
"""

from __future__ import annotations

import bisect
from typing import NamedTuple

from tf2_ros import _rigid
from tf2_ros._rigid import Rigid
from tf2_ros.exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
)


class Sample(NamedTuple):
    """The pose of a frame in its parent at one time."""

    stamp_ns: int
    parent: str
    pose: Rigid


class FrameTree:
    """Frames, their parents and their histories."""

    def __init__(self, cache_ns: int):
        self._cache_ns = cache_ns
        self._moving: dict[str, list[Sample]] = {}
        self._static: dict[str, Sample] = {}
        self._known: set[str] = set()

    def add(self, child: str, sample: Sample, *, static: bool) -> bool:
        """Adds a sample; False when it is older than the cache or repeats a known time."""
        if static:
            self._moving.pop(child, None)
            self._static[child] = sample
            self._known.update((child, sample.parent))
            return True
        history = self._moving.setdefault(child, [])
        place = bisect.bisect_left(history, sample.stamp_ns, key=_stamp_of)
        repeated = place < len(history) and history[place].stamp_ns == sample.stamp_ns
        too_old = history and sample.stamp_ns < history[-1].stamp_ns - self._cache_ns
        if repeated or too_old:
            return False
        self._static.pop(child, None)
        history.insert(place, sample)
        self._forget_old(history)
        self._known.update((child, sample.parent))
        return True

    def clear(self) -> None:
        """Forgets the moving frames; static ones stay, as they are sent only once."""
        self._moving.clear()

    def lookup(self, target: str, source: str, time_ns: int) -> tuple[Rigid, int]:
        """T_target_source and the time it holds for."""
        if target == source:
            return _rigid.IDENTITY, time_ns or self._newest_ns(target)
        self.check_frame(target, 'target_frame')
        self.check_frame(source, 'source_frame')
        if time_ns == 0:
            time_ns = self.latest_common_ns(target, source)
        above_source, source_failure = self._climb(source, time_ns)
        above_target, target_failure = self._climb(target, time_ns)
        for ancestor, T_ancestor_target in above_target.items():
            if ancestor in above_source:
                T_target_ancestor = _rigid.invert(T_ancestor_target)
                return _rigid.compose(T_target_ancestor, above_source[ancestor]), time_ns
        raise source_failure or target_failure or _unconnected(target, source)

    def latest_common_ns(self, target: str, source: str) -> int:
        """The newest time for which the whole chain is known; 0 when all of it is static."""
        chains = [self._newest_chain(frame) for frame in (target, source)]
        shared = next((frame for frame in chains[0] if frame in chains[1]), None)
        if shared is None:
            raise _unconnected(target, source)
        below_shared = [
            newest_ns
            for chain in chains
            for newest_ns in list(chain.values())[: list(chain).index(shared)]
            if newest_ns is not None
        ]
        return min(below_shared, default=0)

    def check_frame(self, frame: str, role: str) -> None:
        """Raises when the frame's name is malformed or was never heard."""
        if not frame:
            raise InvalidArgumentException(f'{role} is empty')
        if frame.startswith('/'):
            raise InvalidArgumentException(f'{role} "{frame}" must not start with a slash')
        if frame not in self._known:
            raise LookupException(f'{role} "{frame}" does not exist')

    def links(self) -> dict[str, Sample]:
        """The newest sample of every frame that has a parent."""
        moving = {child: history[-1] for child, history in self._moving.items() if history}
        return {**moving, **self._static}

    def _forget_old(self, history: list[Sample]) -> None:
        oldest_ns = history[-1].stamp_ns - self._cache_ns
        del history[: bisect.bisect_left(history, oldest_ns, key=_stamp_of)]

    def _newest_ns(self, frame: str) -> int:
        history = self._moving.get(frame)
        return history[-1].stamp_ns if history else 0

    def _newest_chain(self, frame: str) -> dict[str, int | None]:
        """Frames from `frame` up to its root, each with its newest time (None: no time needed)."""
        chain: dict[str, int | None] = {}
        links = self.links()
        while frame not in chain:
            chain[frame] = self._newest_ns(frame) or None
            if frame not in links:
                break
            frame = links[frame].parent
        return chain

    def _climb(
        self, frame: str, time_ns: int
    ) -> tuple[dict[str, Rigid], ExtrapolationException | None]:
        """The pose of `frame` in itself and every ancestor, and what stopped the climb early."""
        pose = _rigid.IDENTITY
        poses = {frame: pose}
        while True:
            try:
                sample = self._at(frame, time_ns)
            except ExtrapolationException as failure:
                return poses, failure
            if sample is None or sample.parent in poses:
                return poses, None
            pose = _rigid.compose(sample.pose, pose)
            frame = sample.parent
            poses[frame] = pose

    def _at(self, frame: str, time_ns: int) -> Sample | None:
        """The sample of a frame at a time, interpolated; None for a root."""
        static = self._static.get(frame)
        if static is not None:
            return static
        history = self._moving.get(frame)
        if not history:
            return None
        place = bisect.bisect_left(history, time_ns, key=_stamp_of)
        if place < len(history) and history[place].stamp_ns == time_ns:
            return history[place]
        if place in (0, len(history)):
            raise _extrapolation(frame, history, time_ns)
        before, after = history[place - 1], history[place]
        if before.parent != after.parent:
            return before
        ratio = (time_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
        return Sample(time_ns, before.parent, _rigid.interpolate(before.pose, after.pose, ratio))


def _stamp_of(sample: Sample) -> int:
    return sample.stamp_ns


def _unconnected(target: str, source: str) -> ConnectivityException:
    return ConnectivityException(
        f'"{target}" and "{source}" are not part of the same tree of frames'
    )


def _extrapolation(frame: str, history: list[Sample], time_ns: int) -> ExtrapolationException:
    oldest_s, newest_s = history[0].stamp_ns / 1e9, history[-1].stamp_ns / 1e9
    return ExtrapolationException(
        f'time {time_ns / 1e9:.9f} s lies outside what is known of "{frame}": '
        f'{oldest_s:.9f} s to {newest_s:.9f} s'
    )
