"""Finds the message that belongs to an image by its stamp, waiting a little when it is late."""

from __future__ import annotations

from collections import deque
import threading
import time
from typing import Any

from kpvo_ros.bags.images import stamp_ns_of


class StampBuffer:
    """The last messages of one topic, looked up by stamp; safe to use from two threads.

    Args:
        size: messages kept; older ones are forgotten.
    """

    def __init__(self, size: int = 10) -> None:
        self._messages: deque[tuple[int, Any]] = deque(maxlen=size)
        self._changed = threading.Condition()
        self._closed = False

    def add(self, message: Any) -> None:
        """Store a message that has a header."""
        with self._changed:
            self._messages.append((stamp_ns_of(message.header), message))
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget all messages (time jumped)."""
        with self._changed:
            self._messages.clear()

    def close(self, closed: bool = True) -> None:
        """End every wait at once, until opened again."""
        with self._changed:
            self._closed = closed
            self._changed.notify_all()

    def nearest(self, stamp_ns: int, tolerance_ns: int) -> Any | None:
        """The message nearest to `stamp_ns`, at most `tolerance_ns` away, as things are now."""
        return self.take(stamp_ns, tolerance_ns, 0.0)

    def take(self, stamp_ns: int, tolerance_ns: int, wait_s: float) -> Any | None:
        """The message nearest to `stamp_ns`, at most `tolerance_ns` away.

        Waits up to `wait_s` for it, but no longer than until a later message came: messages
        arrive in order, so the one in question was lost.
        """
        deadline_s = time.monotonic() + wait_s
        with self._changed:
            while True:
                found = self._nearest(stamp_ns, tolerance_ns)
                later = any(stamp > stamp_ns + tolerance_ns for stamp, _ in self._messages)
                left_s = deadline_s - time.monotonic()
                if found is not None or later or left_s <= 0 or self._closed:
                    return found
                self._changed.wait(left_s)

    def _nearest(self, stamp_ns: int, tolerance_ns: int) -> Any | None:
        if not self._messages:
            return None
        stamp, message = min(self._messages, key=lambda entry: abs(entry[0] - stamp_ns))
        return message if abs(stamp - stamp_ns) <= tolerance_ns else None
