"""Random numbers and random fields for a batch, always from a passed generator.

The generator may live on another device than the images (a CPU generator gives a GPU the same
batch as a CPU); then the draws are copied over.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

LUMA = (0.299, 0.587, 0.114)  # weights of red, green, blue in brightness, ITU-R BT.601


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """(count,) float32 between low and high."""
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


def chosen(count: int, share: float, generator: torch.Generator) -> Tensor:
    """(M,) int64, the rows of a batch that an effect falls upon; M is share * count on average."""
    draw = torch.rand(count, generator=generator, device=generator.device)
    return (draw < share).nonzero().squeeze(1)


def smooth_field(
    count: int, size_hw: tuple[int, int], cells: int, generator: torch.Generator
) -> Tensor:
    """(count, 1, H, W) float32 in 0..1 that varies over about `cells` hills across the image."""
    coarse = torch.rand(count, 1, cells, cells, generator=generator, device=generator.device)
    return enlarge(coarse, size_hw)


def enlarge(field: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """A coarse field (M, C, h, w) at a larger size, linear in between."""
    return F.interpolate(field, size=size_hw, mode='bilinear', align_corners=False)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Values (M,) as (M, 1, 1, 1) with the type and device of images (M, C, H, W)."""
    return values.to(images)[:, None, None, None]


def luma(images: Tensor) -> Tensor:
    """(M, 1, H, W) brightness of RGB images (M, 3, H, W)."""
    red, green, blue = LUMA
    return (red * images[:, :1]).add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)
