"""What a texture is like, in seven numbers that can be measured in any picture.

They are what the network is told: colour, contrast, grain, and direction. So no picture needs a
label, and a texture can be asked for in numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.synthetic.draws import LUMA

SIZE = 7
_PALEST = 0.01  # contrast below which a picture counts as plain
_PLAIN = 0.03  # deviation of brightness that tells a texture from an empty wall
_BLOCKS = 4  # along a side, to see whether a picture is alike everywhere


def measure(pictures: Tensor) -> Tensor:
    """Measure pictures.

    Args:
        pictures: (B, 3, H, W) RGB 0..1.

    Returns:
        (B, 7) float32, each about within -2..2: red, green, blue, contrast, grain (the share of
        change from pixel to pixel), and the direction of the change as strength * cos, sin of
        twice its angle.
    """
    colour = 4.0 * pictures.mean(dim=(2, 3)) - 2.0
    gray = luma(pictures)
    contrast = gray.std(dim=(1, 2)).clamp(min=_PALEST)
    across, down = _slopes(gray)
    xx, yy, xy = ((a * b).mean(dim=(1, 2)) for a, b in _products(across, down))
    energy = (xx + yy).clamp(min=_PALEST**2)
    grain = (energy.sqrt() / contrast).clamp(min=_PALEST)
    parts = [
        contrast.log() + 2.0,
        2.0 * grain.log() + 1.0,
        2.0 * (xx - yy) / energy,
        4.0 * xy / energy,
    ]
    return torch.cat([colour, torch.stack(parts, dim=1)], dim=1).float()


def evenness(pictures: Tensor) -> Tensor:
    """How alike pictures (B, 3, H, W) are everywhere: (B,) about 1 for textures, 0 for plain ones.

    The change within the calmest quarter of the blocks, relative to that in the whole picture; a
    thing before a background, or two of them, leave calm blocks.
    """
    gray = luma(pictures)[:, None]
    size = [side // _BLOCKS for side in gray.shape[2:]]
    mean, square = F.avg_pool2d(gray, size), F.avg_pool2d(gray.square(), size)
    deviation = (square - mean.square()).clamp(min=0.0).sqrt().flatten(1)
    calm = deviation.sort(dim=1).values[:, : deviation.shape[1] // 4].mean(dim=1)
    return calm / (gray.flatten(1).std(dim=1) + _PLAIN)


def luma(pictures: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, H, W) brightness."""
    weights = torch.tensor(LUMA, device=pictures.device, dtype=pictures.dtype)
    return (pictures * weights[:, None, None]).sum(dim=1)


def _slopes(gray: Tensor) -> tuple[Tensor, Tensor]:
    """Change to the right and downwards, both at the corners where four pixels meet."""
    across, down = gray.diff(dim=2), gray.diff(dim=1)
    return 0.5 * (across[:, 1:] + across[:, :-1]), 0.5 * (down[..., 1:] + down[..., :-1])


def _products(across: Tensor, down: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(across, across), (down, down), (across, down)]
