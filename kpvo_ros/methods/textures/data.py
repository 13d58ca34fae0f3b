"""Training pictures: even parts of photos, and procedural patterns in other colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np
import torch
from torch import Tensor

from kpvo_ros.config.schema import parameter
from kpvo_ros.methods.textures.statistics import evenness
from kpvo_ros.nets.diffusion import STRIDE
from kpvo_ros.synthetic.draws import uniform
from kpvo_ros.training import TrainingError

Crops = Callable[[int, tuple[int, int], torch.Generator], Tensor]
_GAIN = 0.12  # standard deviation of the logarithm of a colour channel's gain


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
    even_share: float = parameter(
        0.08,
        'Share of the parts of all photos that is used, the most even ones; less is more like '
        'textures, and less varied.',
        low=0.01,
        high=1.0,
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
        size = (self._config.size_px, self._config.size_px)
        parts = []
        if from_photos:
            parts.append(self._photos(from_photos, size, generator))
        if from_photos < count:
            parts.append(self._patterns(count - from_photos, size, generator))
        return recoloured(torch.cat(parts), generator)


def even_parts(images: Sequence[np.ndarray], side_px: int, share: float) -> list[np.ndarray]:
    """Square parts of photos that look alike everywhere, as textures do.

    Args:
        images: (H, W, 3) uint8 RGB each.
        side_px: of the parts; they lie beside each other in a photo.
        share: of all parts that are kept, the most even ones; at least one is.

    Returns:
        (side_px, side_px, 3) uint8 each; none when no photo is that large.
    """
    parts = [
        image[top : top + side_px, left : left + side_px]
        for image in images
        for top in range(0, image.shape[0] - side_px + 1, side_px)
        for left in range(0, image.shape[1] - side_px + 1, side_px)
    ]
    if not parts:
        return []
    score = torch.cat([evenness(_pictures(part)) for part in parts])
    kept = score.argsort(descending=True)[: max(1, round(share * len(parts)))]
    return [parts[i] for i in kept.tolist()]


def recoloured(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures (B, 3, S, S) under coloured light, half of them turned by a quarter."""
    count, device = len(pictures), pictures.device
    turned = uniform(count, 0.0, 1.0, generator).to(device) < 0.5
    pictures = torch.where(turned[:, None, None, None], pictures.transpose(2, 3), pictures)
    draw = torch.randn(count, 3, 1, 1, generator=generator, device=generator.device)
    return (pictures * (_GAIN * draw).exp().to(device)).clamp(0.0, 1.0)


def _pictures(part: np.ndarray) -> Tensor:
    """(1, 3, S, S) 0..1."""
    return torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)[None].float() / 255.0
