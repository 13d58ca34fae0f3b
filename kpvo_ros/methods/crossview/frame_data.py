"""Pairs of frames of recordings, of which nothing is known, and pairs of several sources.

The pretext tasks need no truth (seed 004 [0061], [0110]): two frames of one video a little apart
show one place from two sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import torch
from torch import Tensor

from kpvo_ros.config.schema import parameter
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.synthetic.photo_set import PhotoSet

MakePairs = Callable[[int, torch.Generator], FramePairs]


@dataclasses.dataclass(frozen=True)
class FrameDataConfig:
    """What is drawn from recordings, where there are any."""

    share: float = parameter(
        0.5, 'Share of the pairs that are frames of --data; 1 renders no walks.', low=0.0, high=1.0
    )
    max_gap: int = parameter(
        4,
        'Largest distance of two frames of a pair, in pictures as loaded; raise it for slow '
        'cameras, as long as the pairs still overlap by half.',
        low=1,
        high=10000,
    )
    photos: int = parameter(
        4000, 'Most frames in memory, about 0.1 MB each; picked evenly from all data.', low=10
    )
    held_out: float = parameter(
        0.3, 'Share of every recording, its end, that is only measured with.', low=0.01, high=0.9
    )


class RecordedPairs:
    """Makes batches of pairs of frames.

    Args:
        photos: recordings; at least one whose images follow each other in time.
        max_gap: largest distance of two frames of a pair.
        size_hw: of the pictures in pixels, height first.
        device: of the batches.
    """

    def __init__(
        self,
        photos: PhotoSet,
        max_gap: int,
        size_hw: tuple[int, int],
        device: torch.device | str = 'cpu',
    ) -> None:
        self._photos, self._max_gap = photos, max_gap
        self._size_hw, self._device = size_hw, device

    def make(self, count: int, generator: torch.Generator) -> FramePairs:
        """A batch of `count` pairs; the same generator state gives the same batch.

        Raises:
            SyntheticError: there is no recording in time.
        """
        pairs = self._photos.pairs(count, self._max_gap, generator)
        return unknown_pairs(
            *self._photos.pair_crops(pairs, self._size_hw, generator, self._device)
        )


def unknown_pairs(image0: Tensor, image1: Tensor) -> FramePairs:
    """Pairs (B, 3, H, W) of which nothing else is known."""
    count, _, height, width = image0.shape

    def unknown(*shape: int) -> Tensor:
        return torch.full((count, *shape), torch.nan, device=image0.device)

    depth = (1, height, width)
    return FramePairs(
        image0, image1, unknown(3, 3), unknown(3, 3), unknown(*depth), unknown(*depth),
        unknown(4, 4), unknown(),
    )  # fmt: skip


def joined(parts: Sequence[FramePairs]) -> FramePairs:
    """All pairs of at least one part, in their order; the pictures have one size."""
    return FramePairs(*(torch.cat(values) for values in zip(*parts, strict=True)))


def mixed(first: MakePairs, second: MakePairs, share: float) -> MakePairs:
    """A maker that takes each pair from the second one with a probability of `share`."""

    def make(count: int, generator: torch.Generator) -> FramePairs:
        draw = torch.rand(count, generator=generator, device=generator.device)
        seconds = int((draw < share).sum())
        counts = (count - seconds, seconds)
        makers = zip((first, second), counts, strict=True)
        return joined([maker(number, generator) for maker, number in makers if number])

    return make
