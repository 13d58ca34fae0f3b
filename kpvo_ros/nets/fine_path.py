"""What tokens of whole patches lose: fine detail, and how far it has moved.

    picture -> 1/2 -> 1/4 -> 1/8 --------------------> for the DPT head, at its own sizes
                       |      |
                 correlation with the other picture -> 1/8 -> 1/16 -> added to the tokens

Between two frames of a video things move by a few pixels, much less than a patch of 16. A
transformer has to find that inside the embedding of a patch, which takes it very long; the
correlation of small neighbourhoods (Dosovitskiy 2015, "FlowNet"; over all pairs and looked up as
in Teed 2020, "RAFT") shows it at once. Convolutions at the finer sizes make the first layers of a
transformer easy to train as well (Xiao 2021, "Early convolutions help transformers see better").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.nets.cross_decoder import exchanged
from kpvo_ros.nets.layers import Conv2d, Stage
from kpvo_ros.nets.vit import standardized

WIDTHS = (16, 32, 64)  # channels at 1/2, 1/4 and 1/8
PATCH_PX = 16  # of the tokens it is made for
_MATCHED = 32  # numbers that are compared
_RADIUS = 4  # cells that a place is looked for around where it was: 16 px at 1/4, 32 px at 1/8
_JOINED = 96  # channels at 1/16
_QUIET = 0.1  # of the tokens at birth beside what they are added to


class Fine(NamedTuple):
    """What the path makes of 2 B pictures, first all pictures 0, then all pictures 1.

    Attributes:
        half: (2 B, 16, H/2, W/2).
        quarter: (2 B, 32, H/4, W/4).
        eighth: (2 B, 64, H/8, W/8), which knows of the motion.
        tokens: (2 B, N, C), to be added to those of patches.
    """

    half: Tensor
    quarter: Tensor
    eighth: Tensor
    tokens: Tensor


class FinePath(nn.Module):
    """Pairs of pictures -> `Fine`.

    Args:
        width: numbers C per token.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, width: int, generator: torch.Generator | None) -> None:
        super().__init__()
        half, quarter, eighth = WIDTHS
        seen = (2 * _RADIUS + 1) ** 2
        self.stem = Conv2d(3, half, 6, 2, generator=generator)
        self.first = Conv2d(half, half, generator=generator)
        self.quarter = Stage(half, quarter, 1, conv=Conv2d, generator=generator)
        self.eighth = Stage(quarter, eighth, 1, conv=Conv2d, generator=generator)
        self.compare = nn.ModuleList(
            Conv2d(inputs, _MATCHED, 1, generator=generator) for inputs in (quarter, eighth)
        )
        self.shrink = Conv2d(seen, eighth, 2, 2, generator=generator)
        self.join = Conv2d(eighth + seen + eighth, eighth, generator=generator)
        self.sixteenth = Stage(eighth, _JOINED, 1, conv=Conv2d, generator=generator)
        self.out = Conv2d(_JOINED, width, 1, generator=generator)
        if not self.out.weight.is_meta:
            with torch.no_grad():
                self.out.weight.mul_(_QUIET)

    def forward(self, image: Tensor) -> Fine:
        """(2 B, 1 or 3, H, W) in 0..1, sides multiples of 16, first all images 0."""
        picture = standardized(image).to(self.stem.weight.dtype)
        half = F.relu(self.first(F.relu(self.stem(picture))))
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        seen = [
            correlation(compare(maps), _RADIUS)
            for compare, maps in zip(self.compare, (quarter, eighth), strict=True)
        ]
        both = torch.cat([eighth, F.relu(self.shrink(seen[0])), seen[1]], dim=1)
        joined = F.relu(self.join(both.contiguous(memory_format=torch.channels_last)))
        tokens = self.out(self.sixteenth(joined)).flatten(2).transpose(1, 2)
        return Fine(half, quarter, joined, tokens)


def correlation(maps: Tensor, radius: int) -> Tensor:
    """How alike each place is to the places around it in the other picture.

    Args:
        maps: (2 B, C, h, w), first all pictures 0, then all pictures 1.
        radius: cells r around the same place.

    Returns:
        (2 B, (2 r + 1)^2, h, w) cosines, row by row of the neighbourhood; 0 outside the picture.
    """
    height, width = maps.shape[-2:]
    unit = F.normalize(maps.float(), dim=1).to(maps.dtype).flatten(2)  # (2 B, C, h w)
    alike = unit.transpose(1, 2) @ exchanged(unit)  # (2 B, h w, h w): here, there
    index, inside = _around(height, width, radius, maps.device)
    near = alike.gather(2, index.expand(len(maps), -1, -1)) * inside.to(alike.dtype)
    return near.transpose(1, 2).unflatten(2, (height, width))


def _around(height: int, width: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(h w, (2 r + 1)^2) int64 cells around every cell, and whether they exist."""
    step = torch.arange(-radius, radius + 1, device=device)
    row = torch.arange(height, device=device)[:, None, None, None] + step[:, None]
    column = torch.arange(width, device=device)[None, :, None, None] + step
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    cell = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)  # (h, w, n, n)
    return cell.flatten(2).flatten(0, 1), inside.flatten(2).flatten(0, 1)
