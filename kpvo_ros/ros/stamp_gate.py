"""Stamps must grow: tf2 and every filter behind it rely on it."""

from __future__ import annotations

import enum
import threading

JUMP_NS = 1_000_000_000  # further back than this is a looped bag, not a late message


class Admission(enum.Enum):
    """What the stamp of a new message means."""

    NEW = 'new'
    REPEATED = 'repeated'  # equal or a little older: use nothing of it
    JUMPED_BACK = 'jumped back'  # time began again


class StampGate:
    """Compares each stamp with the last one that was admitted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ns: int | None = None

    @property
    def last_ns(self) -> int | None:
        """The newest admitted stamp; None before the first."""
        return self._last_ns

    def admit(self, stamp_ns: int) -> Admission:
        """Judge a stamp, and remember it unless it is a repetition."""
        with self._lock:
            last_ns = self._last_ns
            if last_ns is not None and last_ns - JUMP_NS <= stamp_ns <= last_ns:
                return Admission.REPEATED
            self._last_ns = stamp_ns
            jumped = last_ns is not None and stamp_ns < last_ns
            return Admission.JUMPED_BACK if jumped else Admission.NEW

    def forget(self) -> None:
        """Admit any stamp next."""
        with self._lock:
            self._last_ns = None
