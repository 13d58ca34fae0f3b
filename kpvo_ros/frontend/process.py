"""What belongs to a process and not to one extractor: threads, their order, freed memory.

Only a program sets it, once and before its first image; a library leaves it as it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading

import cv2

_POLITE = 10  # of 19, the nicest
# Names of mallopt(3) in malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_PIECE_BYTES = 1 << 30  # largest piece of freed memory that is kept
_KEPT_BYTES = 2**31 - 1


def use_threads(count: int) -> None:
    """Let OpenCV, and torch where an extractor has loaded it, work in `count` threads."""
    cv2.setNumThreads(count)
    torch = sys.modules.get('torch')  # a robot with classical keypoints need not have it
    if torch is not None:
        torch.set_num_threads(count)


def give_way() -> None:
    """Let the threads that somebody waits for go first; for threads whose work can wait.

    Linux keeps a priority for every thread; other systems are left as they are.
    """
    if sys.platform == 'linux':
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _POLITE)


def keep_freed_memory(warm_bytes: int = 0) -> bool:
    """Have the C library keep what is freed, for networks on a CPU and for large images.

    They allocate and free the same large pieces over and over. Such pieces are otherwise given
    back at once, and every page is zeroed when they are asked for again: a tenth of an
    extraction's time, a fifth of a training step's.

    Args:
        warm_bytes: memory that all threads then share, and of which so much is touched now. On a
            live robot the first time that a step needs memory is otherwise its slowest by far.

    Returns:
        Whether it understood; glibc on Linux does.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, e.g. musl
        return False
    settings = {
        _MMAP_THRESHOLD: _PIECE_BYTES,
        _TRIM_THRESHOLD: _KEPT_BYTES,
        _TOP_PAD: 1 << 27,
    }
    if warm_bytes:
        settings[_ARENA_MAX] = 1  # what is warm in one thread's arena is cold in another's
    understood = all(mallopt(name, size) for name, size in settings.items())
    bytes([1]) * warm_bytes  # written and freed at once
    return understood
