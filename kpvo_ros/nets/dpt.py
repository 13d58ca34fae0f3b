"""A dense prediction transformer head: tokens of four layers -> a picture of numbers.

    first layer   -> 1/4  ------------------.
    second layer  -> 1/8  ----------.       |
    third layer   -> 1/16 --.       |       |
    last layer    -> 1/32 --'-> x2 -'-> x2 -'-> 1/4 -> 1/2 -> 1/1

Ranftl 2021, "Vision transformers for dense prediction", as in seed 004 [0187], [0203], with
patches of 16 pixels. Early layers know where, late ones know what; hence they are put back
together at the sizes above and summed from the coarsest to the finest, as in RefineNet (Lin 2017).
Made for a CPU: a token is spread over its patch by one linear layer instead of a projection and a
transposed convolution, and the last step to full size is a rearrangement of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.attention import linear
from kpvo_ros.nets.layers import Conv2d, upsampled

_PER_TOKEN = (4, 2, 1, 1)  # cells per side into which a token of each layer is spread
_QUIET = 0.3  # of a residual at birth beside what it is added to
_FAINT = 0.03  # of the first answer: nearly the same everywhere, whatever the picture
_FINEST = 8  # the smallest patch: its side is halved three times on the way down from 1/1


class DptHead(nn.Module):
    """Tokens of four layers -> maps of the size of the picture.

    Args:
        inputs: numbers per token.
        width: channels of the maps that are summed.
        head_width: channels on the way to full size.
        outputs: channels of the answer.
        patch_px: side of the patch that is behind a token, a multiple of 8.
        beside: channels of maps at 1/8, 1/4 and 1/2 that are added where they fit, for patches of
            16; none by default.
        generator: source of the initial weights; None stands for seed 0.

    Raises:
        NetworkError: a patch that cannot be put together.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        head_width: int,
        outputs: int,
        *,
        patch_px: int = 16,
        beside: Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if patch_px < _FINEST or patch_px % _FINEST:
            raise NetworkError(
                f'patches of {patch_px} pixels cannot be joined; give a multiple of {_FINEST}'
            )
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.last_factor = patch_px // _FINEST
        self.spread = nn.ModuleList(Spread(inputs, width, n, generator) for n in _PER_TOKEN)
        self.halve = Conv2d(width, width, 2, 2, generator=generator)
        self.fuse = nn.ModuleList(
            Fusion(width, lateral=level > 0, generator=generator)
            for level in range(len(_PER_TOKEN))
        )
        self.beside = nn.ModuleList(
            Conv2d(channels, out, 1, generator=generator)
            for channels, out in zip(beside, (width, width, head_width), strict=False)
        )
        self.narrow = Conv2d(width, head_width, generator=generator)
        self.refine = Conv2d(head_width, head_width, generator=generator)
        self.last: nn.Module = Conv2d(
            head_width, outputs * self.last_factor**2, generator=generator
        )
        _scaled(self.last, _FAINT)
        _smooth(self.last, self.last_factor**2)

    def forward(
        self, layers: Sequence[Tensor], grid: tuple[int, int], beside: Sequence[Tensor] = ()
    ) -> Tensor:
        """Make a picture.

        Args:
            layers: four (B, N, C), the first layer first.
            grid: rows and columns of the N tokens.
            beside: maps at 1/8, 1/4 and 1/2 of the picture, where the head was made for them.

        Returns:
            (B, outputs, rows * patch_px, columns * patch_px) float32; pixel (0, 0) is the top left
            pixel of the first patch.

        Raises:
            NetworkError: not four layers, or not as many tokens as the grid has cells.
        """
        rows, columns = grid
        if len(layers) != len(self.spread) or any(x.shape[1] != rows * columns for x in layers):
            raise NetworkError(
                f'a DPT head takes {len(self.spread)} layers of {rows} x {columns} tokens, got '
                f'{[tuple(x.shape) for x in layers]}'
            )
        maps = [spread(x, grid) for spread, x in zip(self.spread, layers, strict=True)]
        finest = None
        if beside:
            eighth, quarter, finest = (
                conv(x) for conv, x in zip(self.beside, beside, strict=True)
            )
            maps[1], maps[0] = maps[1] + eighth, maps[0] + quarter
        # Odd sizes are continued, so that windows of two tile them and no centre moves.
        below, right = rows % 2, columns % 2
        if below or right:
            maps[-1] = F.pad(maps[-1], (0, right, 0, below), mode='replicate')
        maps[-1] = self.halve(maps[-1])
        x = self.fuse[0](maps[-1], None)
        for fuse, lateral in zip(self.fuse[1:], reversed(maps[:-1]), strict=True):
            x = upsampled(x)[..., : lateral.shape[-2], : lateral.shape[-1]]
            x = fuse(x, lateral)
        x = upsampled(F.relu(self.narrow(x)))
        x = F.relu(self.refine(x if finest is None else x + finest))
        return F.pixel_shuffle(self.last(x).float(), self.last_factor)


class Spread(nn.Module):
    """Tokens -> a map with n x n cells for each.

    Args:
        inputs: numbers per token.
        width: channels of the map.
        per_token: n.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(
        self, inputs: int, width: int, per_token: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.per_token = per_token
        self.norm = nn.LayerNorm(inputs)
        self.linear = linear(inputs, width * per_token**2, generator)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, rows * columns, C) -> (B, width, n rows, n columns)."""
        x = self.linear(self.norm(tokens)).unflatten(1, grid).permute(0, 3, 1, 2)
        return F.pixel_shuffle(x, self.per_token).contiguous(memory_format=torch.channels_last)


class Fusion(nn.Module):
    """What came from below plus what is here, refined: the RefineNet block of DPT.

    Args:
        width: channels.
        lateral: whether something is here; the coarsest map has nothing below it.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, width: int, *, lateral: bool, generator: torch.Generator | None) -> None:
        super().__init__()
        self.lateral = Residual(width, generator) if lateral else None
        self.merged = Residual(width, generator)
        # Before the map is made larger and not after it, as in DPT: the same, for a quarter.
        self.mix = Conv2d(width, width, 1, generator=generator)
        _scaled(self.mix, 1 / math.sqrt(2.0))  # no ReLU follows

    def forward(self, x: Tensor, here: Tensor | None) -> Tensor:
        """(B, W, h, w), and the same shape or None -> (B, W, h, w)."""
        if self.lateral is not None and here is not None:
            x = x + self.lateral(here)
        return self.mix(self.merged(x))


class Residual(nn.Module):
    """x plus two convolutions of it."""

    def __init__(self, width: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.conv0 = Conv2d(width, width, generator=generator)
        self.conv1 = Conv2d(width, width, generator=generator)
        _scaled(self.conv1, _QUIET)

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, h, w) -> (B, W, h, w)."""
        return x + self.conv1(F.relu(self.conv0(F.relu(x))))


def _scaled(layer: nn.Module, factor: float) -> None:
    """Makes the initial weights of a layer smaller."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if not weight.is_meta:
        with torch.no_grad():
            weight.mul_(factor)


def _smooth(layer: nn.Module, cells: int) -> None:
    """Equal initial weights for all pixels of a cell: no grid to unlearn (Aitken 2017, ICNR)."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    if not weight.is_meta:
        with torch.no_grad():
            weight.copy_(weight[::cells].repeat_interleave(cells, dim=0))
