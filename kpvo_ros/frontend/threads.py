"""How many threads the libraries behind the front end may take.

Both counts belong to the process, so only a program sets them, once and before its first image.
"""

from __future__ import annotations

import sys

import cv2


def use_threads(count: int) -> None:
    """Let OpenCV, and torch where an extractor has loaded it, work in `count` threads."""
    cv2.setNumThreads(count)
    torch = sys.modules.get('torch')  # a robot with classical keypoints need not have it
    if torch is not None:
        torch.set_num_threads(count)
