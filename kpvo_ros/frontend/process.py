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
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of mallopt(3) in malloc.h
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


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed, for networks on a CPU.

    They allocate and free the same large tensors over and over. Such pieces are otherwise given
    back at once, and every page is zeroed when they are asked for again: a tenth of an
    extraction's time, a fifth of a training step's.

    Returns:
        Whether it understood; glibc on Linux does.
    """
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
