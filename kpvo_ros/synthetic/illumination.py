"""Light that falls unevenly: shadows, glare, darker corners. Each works on images (M, 3, H, W)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpvo_ros.synthetic.draws import enlarge, per_image, smooth_field, uniform

_EDGES = 3  # half planes whose intersection makes a building's shadow


def add_shadows(images: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """Cast shadows: straight edged as of buildings, or dappled as of trees, half each.

    Args:
        images: (M, 3, H, W) in 0..1.
        generator: source of the draws.
        strength: largest loss of light, 0..1; a shadow loses at least half of that.

    Returns:
        (M, 3, H, W).
    """
    count, (height, width) = len(images), images.shape[-2:]
    half = (-(-height // 2), -(-width // 2))  # shadows have soft edges: half as fine is enough
    loss = per_image(uniform(count, 0.5, 1.0, generator) * strength, images)
    straight = _straight_shadows(count, half, generator)
    dappled = _dappled_shadows(count, half, generator)
    is_tree = uniform(count, 0.0, 1.0, generator)[:, None, None, None] < 0.5
    shade = enlarge(torch.where(is_tree, dappled, straight), (height, width)).to(images)
    # The sky still lights a shadow, and the sky is blue.
    tint = images.new_tensor([1.0, 0.97, 0.9])[:, None, None]
    return images * (1 - shade * loss * tint)


def add_highlights(images: Tensor, generator: torch.Generator) -> Tensor:
    """A soft bright spot, as of the sun or a lamp just outside the view, and less contrast."""
    count = len(images)
    x, y = _centred_grid(images)
    middle_x = per_image(uniform(count, -1.1, 1.1, generator), images)
    middle_y = per_image(uniform(count, -1.1, 1.1, generator), images)
    radius = per_image(uniform(count, 0.25, 0.8, generator), images)
    power = per_image(uniform(count, 0.2, 0.7, generator), images)
    glow = torch.exp(-((x - middle_x) ** 2 + (y - middle_y) ** 2) / radius**2) * power
    return torch.lerp(images, images.new_tensor([1.0, 0.97, 0.88])[:, None, None], glow)


def add_vignetting(images: Tensor, generator: torch.Generator) -> Tensor:
    """Corners that lose up to 60 % of their light, with the square of the distance."""
    x, y = _centred_grid(images)
    loss = per_image(uniform(len(images), 0.15, 0.6, generator), images)
    return images * (1 - 0.5 * loss * (x**2 + y**2))


def _straight_shadows(count: int, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(M, 1, H, W) share of light lost inside a random convex region with soft edges."""
    height, width = size_hw
    y = torch.linspace(-1, 1, height, device=generator.device)[:, None]
    x = torch.linspace(-1, 1, width, device=generator.device)[None]
    start = uniform(count, 0.0, 2 * math.pi, generator)
    sharp = uniform(count, 8.0, 90.0, generator)[:, None, None]
    inside = torch.ones((), device=generator.device)
    for edge in range(_EDGES):
        turn = uniform(count, -0.6, 0.6, generator)
        angle = (start + edge * 2 * math.pi / _EDGES + turn)[:, None, None]
        offset = uniform(count, 0.05, 1.0, generator)[:, None, None]
        inside = inside * torch.sigmoid(sharp * (offset - x * angle.cos() - y * angle.sin()))
    return inside.unsqueeze(1)


def _dappled_shadows(count: int, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(M, 1, H, W): leaves are small, crowns are large, so two scales of noise, cut soft."""
    crowns = smooth_field(count, size_hw, 4, generator)
    leaves = smooth_field(count, size_hw, 24, generator)
    return torch.sigmoid(18 * (0.6 * crowns + 0.4 * leaves - 0.5))


def _centred_grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """X (1, W) and y (H, 1), -1 .. 1 across the image."""
    y = torch.linspace(-1, 1, images.shape[-2], device=images.device)[:, None]
    x = torch.linspace(-1, 1, images.shape[-1], device=images.device)[None]
    return x, y
