"""What falls and what it leaves: rain streaks, snow flakes, puddles. On images (M, 3, H, W)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.geometry.sampling import pixel_grid, sample
from kpvo_ros.synthetic.draws import enlarge, per_image, smooth_field, uniform

_STREAK_PX = 14  # length of a streak of rain in the field it is cut from
_MIRROR = 4  # puddles are painted this much coarser: water is never still in the rain


def add_streaks(images: Tensor, generator: torch.Generator) -> Tensor:
    """Falling drops, drawn out along one direction per image, brighter than what is behind."""
    count, (height, width) = len(images), images.shape[-2:]
    device = generator.device
    side = math.ceil(1.2 * math.hypot(height, width))  # any slant finds drops everywhere
    drops = torch.rand(count, 1, side // _STREAK_PX, side, generator=generator, device=device)
    density = uniform(count, 0.01, 0.05, generator)[:, None, None, None]
    drops = ((density - drops) / density).clamp_(0, 1)
    slant = uniform(count, -0.45, 0.45, generator)
    turn = torch.stack([slant.cos(), -slant.sin(), slant.sin(), slant.cos()], -1)
    middle = drops.new_tensor([(width - 1) / 2, (height - 1) / 2])
    grid = (pixel_grid(height, width, device) - middle).view(1, -1, 2)
    xy = grid @ turn.view(-1, 2, 2).mT + side / 2
    xy[..., 1] = (xy[..., 1] + 0.5) / _STREAK_PX - 0.5
    streaks = sample(drops, xy).view(count, 1, height, width).to(images)
    power = per_image(uniform(count, 0.15, 0.45, generator), images)
    return torch.lerp(images, images.new_tensor(0.85), streaks * power)


def add_flakes(images: Tensor, generator: torch.Generator) -> Tensor:
    """Falling snow: few large soft flakes near the camera, many small ones behind."""
    count, (height, width) = len(images), images.shape[-2:]
    density = uniform(count, 0.3, 1.0, generator)[:, None, None, None]
    cover = torch.zeros(count, 1, height, width, device=generator.device)
    for cell_px, share in ((1.6, 0.016), (3.0, 0.01), (6.0, 0.005)):
        size = (math.ceil(height / cell_px), math.ceil(width / cell_px))
        flakes = torch.rand(count, 1, *size, generator=generator, device=generator.device)
        flakes = (flakes < share * density).float()
        cover = torch.maximum(cover, enlarge(flakes, (height, width)))
    return torch.lerp(images, images.new_tensor(0.96), 0.8 * cover.to(images))


def wet_ground(images: Tensor, generator: torch.Generator, horizon_px: Tensor) -> Tensor:
    """Ground that is darker where wet and mirrors what stands above the horizon in puddles.

    Args:
        images: (M, 3, H, W).
        generator: source of the draws.
        horizon_px: (M,) row of the horizon.

    Returns:
        (M, 3, H, W).
    """
    count, (height, width) = len(images), images.shape[-2:]
    low, narrow = -(-height // _MIRROR), -(-width // _MIRROR)
    coarse = F.avg_pool2d(images, _MIRROR, ceil_mode=True)
    horizon = (horizon_px.to(images) + 0.5) / _MIRROR - 0.5
    xy = pixel_grid(low, narrow, images.device, images.dtype).expand(count, -1, -1, -1).clone()
    xy[..., 1] = 2 * horizon[:, None, None] - xy[..., 1]  # above the top the edge is repeated
    mirror = enlarge(sample(coarse, xy), (low * _MIRROR, narrow * _MIRROR))[..., :height, :width]
    row = torch.arange(height, device=images.device, dtype=images.dtype)
    below = (row - horizon_px.to(images)[:, None]) / height
    ground = (8 * below).clamp(0, 1)[:, None, :, None]
    puddles = smooth_field(count, (height, width), 7, generator).to(images)
    wetness = per_image(uniform(count, 0.25, 0.6, generator), images)
    shine = ground * torch.sigmoid(10 * (puddles - 0.45)) * wetness
    return torch.lerp(images * (1 - 0.3 * ground), mirror, shine)
