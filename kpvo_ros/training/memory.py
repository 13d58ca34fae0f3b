"""Freed memory is kept for the next step instead of given back to the system.

A step on a CPU allocates and frees the same large tensors over and over. The C library returns
such pieces at once and gets every page zeroed when it asks for them again: a fifth of a step.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of mallopt(3) in malloc.h
_PIECE_BYTES = 1 << 30  # largest piece that is kept
_KEPT_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed; whether it understood (glibc on Linux does)."""
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, e.g. musl
        return False
    return all(
        mallopt(name, size)
        for name, size in (
            (_MMAP_THRESHOLD, _PIECE_BYTES),
            (_TRIM_THRESHOLD, _KEPT_BYTES),
            (_TOP_PAD, 1 << 27),
        )
    )
