"""Networks and pictures so small that their tests take a moment."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch
from torch import Tensor

from kpvo_ros.nets.alignment import AlignmentNetConfig, alignment_sizes
from kpvo_ros.nets.depth_vo import DepthVoConfig
from kpvo_ros.nets.vit import ON

HEIGHT, WIDTH = 16, 24  # 2 x 3 patches
LITTLE = DepthVoConfig(
    32, 2, 2, 24, 4, 2, mlp_ratio=2, patch_px=8, dpt_width=8, head_width=8, pose_width=16
)
Sizes = TypeVar('Sizes', AlignmentNetConfig, DepthVoConfig)


def code_of(config: DepthVoConfig) -> AlignmentNetConfig:
    """A small code behind the encoder of a depth network."""
    return alignment_sizes(
        config, latents=12, latent_width=24, latent_depth=2, latent_heads=2, equivariant=6,
        decoder_depth=1, feature_width=4,
    )  # fmt: skip


def rich(config: Sizes) -> Sizes:
    """The same with every part that is optional."""
    return dataclasses.replace(config, class_token=ON, layer_scale=ON, learned_grid=(2, 3))


def pictures(generator: torch.Generator, count: int = 2) -> tuple[Tensor, Tensor]:
    """Two batches (B, 3, H, W) of noise in 0..1."""
    image0, image1 = torch.rand(2, count, 3, HEIGHT, WIDTH, generator=generator)
    return image0, image1


def camera(focal_px: float, count: int = 2, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """(B, 3, 3) of a camera that looks straight ahead."""
    rows = [[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1.0]]
    return torch.tensor(rows).expand(count, 3, 3)
