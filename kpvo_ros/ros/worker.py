"""A thread that always works on the newest item and counts what it had to leave out.

A camera that is faster than the algorithm must cost frames, never latency: the mailbox has one
slot, and an item nobody took is replaced. The thread that offers items only stores a reference.
"""

from __future__ import annotations

from collections.abc import Callable
import logging
import threading
from typing import Generic, TypeVar

Item = TypeVar('Item')
_log = logging.getLogger(__name__)


class LatestWorker(Generic[Item]):
    """Runs `handle(item)` in its own thread for the newest offered item.

    Args:
        handle: the work; must not block for ever.
        on_error: called in the thread with an exception that `handle` let out; the thread goes on.
        name: name of the thread.

    Attributes:
        dropped: items that were replaced before anybody took them.
    """

    def __init__(
        self,
        handle: Callable[[Item], None],
        on_error: Callable[[Exception], None],
        name: str = 'worker',
    ) -> None:
        self._handle = handle
        self._on_error = on_error
        self._name = name
        self._wake = threading.Condition()
        self._slot: Item | None = None
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
        """End after the item in work; the item in the slot is thrown away.

        Returns:
            False when the thread was still busy after `timeout_s`.
        """
        with self._wake:
            self._running = False
            self._slot = None
            self._wake.notify_all()
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def offer(self, item: Item) -> bool:
        """Put `item` into the slot.

        Returns:
            False when an older item was dropped for it.
        """
        with self._wake:
            if not self._running:
                return True
            replaced = self._slot is not None
            self.dropped += replaced
            self._slot = item
            self._wake.notify()
        return not replaced

    def clear(self) -> None:
        """Throw away the item that waits."""
        with self._wake:
            self._slot = None

    def _run(self) -> None:
        mine = threading.current_thread()
        while True:
            with self._wake:
                while self._running and self._thread is mine and self._slot is None:
                    self._wake.wait()
                if not self._running or self._thread is not mine:
                    return
                item, self._slot = self._slot, None
            assert item is not None
            try:
                self._handle(item)
            except Exception as error:  # one bad item must not end the thread
                self._report(error)

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:  # nor must a reporter that fails
            _log.exception('an error of the worker could not be reported')
