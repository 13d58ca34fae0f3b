"""How many threads the libraries behind the front end may take.

Both counts belong to the process, so only a program sets them, once and before its first image.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import cv2

_POLITE = 10  # of 19, the nicest


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
