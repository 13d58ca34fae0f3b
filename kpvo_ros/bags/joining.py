"""Joins images with the depth map of the same instant while a bag streams by.

Depth may be recorded before or after its image. An image waits until no better depth map can
come, for at most half a second of recorded time, so memory stays small and order is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
import dataclasses
from typing import Generic, TypeVar

T = TypeVar('T')
D = TypeVar('D')

_PATIENCE_NS = 500_000_000
_MEMORY_NS = 1_000_000_000
_MAX_WAITING = 60


@dataclasses.dataclass(frozen=True)
class _Item(Generic[T]):
    stamp_ns: int
    recorded_ns: int
    payload: T
    wants_depth: bool


class DepthJoiner(Generic[T, D]):
    """A queue that keeps order and lets images wait for depth.

    Args:
        tolerance_ns: largest difference of the stamps of a pair.
    """

    def __init__(self, tolerance_ns: int) -> None:
        self._tolerance_ns = tolerance_ns
        self._queue: deque[_Item[T]] = deque()
        self._depths: deque[_Item[D]] = deque()

    def add(self, stamp_ns: int, recorded_ns: int, payload: T, *, wants_depth: bool) -> None:
        """Append something to the queue."""
        self._queue.append(_Item(stamp_ns, recorded_ns, payload, wants_depth))

    def add_depth(self, stamp_ns: int, recorded_ns: int, payload: D) -> None:
        """Offer a depth map to images before and after it."""
        self._depths.append(_Item(stamp_ns, recorded_ns, payload, False))

    def ready(self, now_ns: int) -> Iterator[tuple[T, D | None]]:
        """Pop what needs not wait any longer.

        Args:
            now_ns: recording time of the newest message.
        """
        while self._depths and self._depths[0].recorded_ns < now_ns - _MEMORY_NS:
            self._depths.popleft()
        while self._queue and self._is_ready(self._queue[0], now_ns):
            yield self._pop()

    def flush(self) -> Iterator[tuple[T, D | None]]:
        """Pop the rest."""
        while self._queue:
            yield self._pop()

    def _is_ready(self, item: _Item[T], now_ns: int) -> bool:
        waiting = sum(one.wants_depth for one in self._queue)
        if not item.wants_depth or waiting > _MAX_WAITING:
            return True
        if now_ns - item.recorded_ns > _PATIENCE_NS:
            return True
        # Depth comes in order: one at or after the image means that no closer one will follow.
        return any(0 <= d.stamp_ns - item.stamp_ns < _MEMORY_NS for d in self._depths)

    def _pop(self) -> tuple[T, D | None]:
        item = self._queue.popleft()
        if not item.wants_depth or not self._depths:
            return item.payload, None
        best = min(self._depths, key=lambda d: abs(d.stamp_ns - item.stamp_ns))
        close = abs(best.stamp_ns - item.stamp_ns) <= self._tolerance_ns
        return item.payload, best.payload if close else None
