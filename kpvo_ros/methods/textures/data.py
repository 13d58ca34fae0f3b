"""Training pictures: even parts of photos, and procedural patterns in other colours."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import torch
from torch import Tensor

from kpvo_ros.config.schema import parameter
from kpvo_ros.methods.textures.statistics import evenness
from kpvo_ros.nets.diffusion import STRIDE
from kpvo_ros.synthetic.draws import uniform
from kpvo_ros.training import TrainingError

Crops = Callable[[int, tuple[int, int], torch.Generator], Tensor]
_GAIN = 0.25  # standard deviation of the logarithm of a colour channel's gain


@dataclasses.dataclass(frozen=True)
class TextureDataConfig:
    """What the pictures of a step are."""

    size_px: int = parameter(
        64,
        'Side of a training picture; larger textures can be made too.',
        low=16,
        high=512,
    )
    photo_share: float = parameter(
        0.5,
        'Share of pictures cut from photos; the others are procedural patterns.',
        low=0.0,
        high=1.0,
    )
    candidates: int = parameter(
        4, 'Parts of photos of which the most even one is taken.', low=1, high=64
    )

    def __post_init__(self) -> None:
        if self.size_px % STRIDE:
            raise TrainingError(
                f'data.size_px={self.size_px} is not a multiple of {STRIDE}; give e.g. 64'
            )


class TextureMaker:
    """Makes batches of textures.

    Args:
        photos: (count, size, generator) to that many parts of photos, (B, 3, H, W) 0..1.
        patterns: the same for procedural patterns.
        config: mixture and size.
    """

    def __init__(self, photos: Crops, patterns: Crops, config: TextureDataConfig) -> None:
        self._photos, self._patterns, self._config = photos, patterns, config

    def make(self, count: int, generator: torch.Generator) -> Tensor:
        """(B, 3, S, S) float32 0..1, parts of photos first."""
        from_photos = round(count * self._config.photo_share)
        parts = []
        if from_photos:
            parts.append(even_parts(self._photos, from_photos, self._config, generator))
        if from_photos < count:
            size = (self._config.size_px, self._config.size_px)
            parts.append(self._patterns(count - from_photos, size, generator))
        return recoloured(torch.cat(parts), generator)


def even_parts(
    photos: Crops, count: int, config: TextureDataConfig, generator: torch.Generator
) -> Tensor:
    """(B, 3, S, S) parts of photos, each the most even one of some."""
    size, tries = (config.size_px, config.size_px), config.candidates
    crops = photos(count * tries, size, generator).unflatten(0, (count, tries))
    best = evenness(crops.flatten(0, 1)).view(count, tries).argmax(dim=1)
    return crops[torch.arange(count, device=crops.device), best]


def recoloured(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, S, S) under coloured light, half of them turned by a quarter."""
    count, device = len(pictures), pictures.device
    turned = uniform(count, 0.0, 1.0, generator).to(device) < 0.5
    pictures = torch.where(turned[:, None, None, None], pictures.transpose(2, 3), pictures)
    draw = torch.randn(count, 3, 1, 1, generator=generator, device=generator.device)
    return (pictures * (_GAIN * draw).exp().to(device)).clamp(0.0, 1.0)
