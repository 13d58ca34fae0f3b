"""A small bank of rendered walks, made once for all tests of a process."""

from __future__ import annotations

import functools

import torch

from kpvo_ros.synthetic.walk_bank import WalkBank, WalkSize, render_part

SIZE = WalkSize(width_px=96, height_px=64, views=4, per_part=5)


@functools.cache
def small_bank() -> WalkBank:
    """Five walks along a street; do not write into it."""
    torch.set_num_threads(1)
    return render_part(1, 1, SIZE)
