"""How textures that were made compare with real ones, in numbers that need no other network."""

from __future__ import annotations

import torch
from torch import Tensor

from kpvo_ros.methods.textures.statistics import luma

_FLOOR = 1e-6  # of a share of power, against the logarithm of nothing


def spectrum_distance(made: Tensor, real: Tensor) -> float:
    """Mean difference of the logarithms of mean power, over rings of the spectrum, in octaves.

    0 when made (B, 3, S, S) and real (C, 3, S, S) pictures change as much from place to place at
    every scale; noise and blur both raise it.
    """
    difference = _ring_power(made).log2() - _ring_power(real).log2()
    return float(difference.abs().mean())


def seam_ratio(pictures: Tensor) -> float:
    """Step over the edges of tiled pictures (B, 3, S, S), relative to steps inside: 1, no seam."""
    gray = luma(pictures)
    inside = torch.stack([gray.diff(dim=1).abs().mean(), gray.diff(dim=2).abs().mean()]).mean()
    edges = [gray[:, 0] - gray[:, -1], gray[:, :, 0] - gray[:, :, -1]]
    over = torch.stack([edge.abs().mean() for edge in edges]).mean()
    return float(over / inside.clamp(min=_FLOOR))


def _ring_power(pictures: Tensor) -> Tensor:
    """(S / 2 - 1,) mean power per coefficient of rings of frequency 1, 2, ... repeats a side."""
    size = pictures.shape[-1]
    gray = luma(pictures).float()
    power = torch.fft.fft2(gray - gray.mean(dim=(1, 2), keepdim=True)).abs().square().mean(dim=0)
    frequency = torch.fft.fftfreq(size, 1.0 / size, device=gray.device)
    ring = torch.hypot(frequency[:, None], frequency[None]).round().long().flatten()
    rings = size // 2
    kept = (ring > 0) & (ring < rings)
    total = torch.zeros(rings, device=gray.device).index_add_(0, ring[kept], power.flatten()[kept])
    count = torch.zeros(rings, device=gray.device).index_add_(
        0, ring[kept], torch.ones_like(total).new_ones(int(kept.sum()))
    )
    return (total[1:] / count[1:] / size**2).clamp(min=_FLOOR)
