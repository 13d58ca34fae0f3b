"""A thread that works on the newest item and counts what it had to leave out.

A camera that is faster than the algorithm must cost frames, never latency: an item nobody took is
replaced by a newer one. Only when the work is usually done well before the next item comes, a few
may wait in a row: one step that took long costs a moment then, and no frame. What is usual is a
median, which a long step does not change. The thread that offers items only stores a reference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import logging
import statistics
import threading
import time
from typing import Generic, TypeVar

Item = TypeVar('Item')
_QUEUE = 4  # items that wait, at most
_REMEMBERED = 9  # durations, whose median is the usual one
_KNOWN = 3  # durations from which on it is
_SPARE = 0.9  # of the time between two items that work may take for an item to wait
_log = logging.getLogger(__name__)


class LatestWorker(Generic[Item]):
    """Runs `handle(item)` in its own thread for the newest offered item.

    Args:
        handle: the work; must not block for ever.
        on_error: called in the thread with an exception that `handle` let out; the thread goes on.
        name: name of the thread.
        clock: monotonic seconds.

    Attributes:
        dropped: items that were replaced before anybody took them.
    """

    def __init__(
        self,
        handle: Callable[[Item], None],
        on_error: Callable[[Exception], None],
        name: str = 'worker',
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._on_error = on_error
        self._name = name
        self._clock = clock
        self._wake = threading.Condition()
        self._queue: deque[Item] = deque()
        self._offered_s: float | None = None
        self._periods_s: deque[float] = deque(maxlen=_REMEMBERED)  # between two items
        self._works_s: deque[float] = deque(maxlen=_REMEMBERED)  # that one took
        self._running = False
        self._thread: threading.Thread | None = None
        self.dropped = 0

    def start(self) -> None:
        """Begin to work; harmless when already working."""
        if self._running:
            return
        self._running = True
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End after the item in work; those that wait are thrown away.

        Returns:
            False when the thread was still busy after `timeout_s`.
        """
        with self._wake:
            self._running = False
            self._queue.clear()
            self._wake.notify_all()
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def offer(self, item: Item) -> int:
        """Let `item` be worked on next, or after the one that waits.

        Returns:
            How many older items were dropped for it.
        """
        with self._wake:
            if not self._running:
                return 0
            now_s = self._clock()
            if self._offered_s is not None:
                self._periods_s.append(now_s - self._offered_s)
            self._offered_s = now_s
            dropped = max(0, len(self._queue) + 1 - self._room())
            for _ in range(dropped):
                self._queue.popleft()
            self.dropped += dropped
            self._queue.append(item)
            self._wake.notify()
        return dropped

    def clear(self) -> None:
        """Throw away the items that wait."""
        with self._wake:
            self._queue.clear()

    def _room(self) -> int:
        """How many items may wait."""
        if min(len(self._works_s), len(self._periods_s)) < _KNOWN:
            return 1
        spare_s = _SPARE * statistics.median(self._periods_s)
        return _QUEUE if statistics.median(self._works_s) < spare_s else 1

    def _run(self) -> None:
        mine = threading.current_thread()
        while True:
            with self._wake:
                while self._running and self._thread is mine and not self._queue:
                    self._wake.wait()
                if not self._running or self._thread is not mine:
                    return
                item = self._queue.popleft()
            began_s = self._clock()
            try:
                self._handle(item)
            except Exception as error:  # one bad item must not end the thread
                self._report(error)
            took_s = self._clock() - began_s
            with self._wake:
                self._works_s.append(took_s)

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:  # nor must a reporter that fails
            _log.exception('an error of the worker could not be reported')
