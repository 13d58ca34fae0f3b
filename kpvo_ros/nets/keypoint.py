"""The keypoint network: a score per pixel, dense descriptors, one vector for the whole image.

    image 1/1 -> stem 1/2 -> 1/4 -> 1/8 -> 1/16 -> 1/32         encoder, each stage halves
                  |          |      |       |       |-> image descriptor (with 1/16)
                  |          |      '---<---'---<---'           top-down sums to 1/8
                  |          |      |-> descriptors 1/8
                  '----<-----'---<--'-> scores: at 1/2, one pixel of 1/2 tells four of 1/1

Fully convolutional and made for a CPU: almost all arithmetic happens at 1/8 and below, and the
score branch is narrow, because localisation needs resolution and not width. Every pixel gets a
score (seed 000); the whole is trained by two methods, see kpvo_ros/methods.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.checkpoint import load_network
from kpvo_ros.nets.layers import (
    Conv2d,
    Exact,
    GeneralizedMean,
    Linear,
    NormedConv2d,
    Stage,
    fuse,
    upsampled,
)

KIND = 'keypoint'  # in weights files
MIN_SIDE_PX = 32
_MULTIPLE = 32  # of both sides inside the network
_LUMINANCE = (0.299, 0.587, 0.114)  # of R, G, B: what OpenCV's grey is made of
_MIN_CONTRAST = 0.01  # of a grey value 0..1: less is noise and must not be amplified to a picture
_RARE = -4.0  # first logit everywhere: one pixel in 64 is a keypoint, before anything is learned


class KeypointMaps(NamedTuple):
    """What the network sees in a batch of images, all float32.

    Attributes:
        logits: (B, H, W) score of every pixel of the input; larger is better, may be negative.
        descriptor: (B, D, H/8, W/8) unit length over D; cell (i, j) is centred on pixel
            (8 j + 3.5, 8 i + 3.5). Sizes that are no multiple of 8 are rounded up.
        image_descriptor: (B, G) unit length.
    """

    logits: Tensor
    descriptor: Tensor
    image_descriptor: Tensor


@dataclasses.dataclass(frozen=True)
class KeypointNetConfig:
    """Sizes of a `KeypointNet`.

    Attributes:
        widths: channels at 1/2 (where the scores are made), 1/4, 1/8, 1/16 and 1/32.
        depths: 3x3 convolutions there, after the one that halves.
        descriptor_size: D of the local descriptors.
        image_descriptor_size: G of the image descriptor.
    """

    widths: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128)
    depths: tuple[int, int, int, int, int] = (1, 1, 2, 2, 2)
    descriptor_size: int = 64
    image_descriptor_size: int = 256


class TrunkMaps(NamedTuple):
    """Maps of the trunk: `eighth` has seen all below, the others come straight from the stages."""

    half: Tensor  # (B, 16, H/2, W/2)
    quarter: Tensor  # (B, 32, H/4, W/4)
    eighth: Tensor  # (B, 64, H/8, W/8)
    sixteenth: Tensor  # (B, 96, H/16, W/16)
    last: Tensor  # (B, 128, H/32, W/32)


class KeypointNet(nn.Module):
    """Image -> `KeypointMaps`.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    stride = 8

    def __init__(
        self,
        config: KeypointNetConfig = KeypointNetConfig(),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        self.trunk = Trunk(config, generator)
        self.describe = DescriptorHead(config, generator)
        self.score = ScoreHead(config, generator)
        self.summarize = ImageHead(config, generator)
        # Twice as fast on a CPU; torch's stubs do not know this call.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> KeypointMaps:
        """Look at images.

        Args:
            image: (B, 1, H, W) grey or (B, 3, H, W) RGB, 0..1, both sides at least 32.

        Raises:
            NetworkError: the tensor is not such a batch.
        """
        height, width = image.shape[-2:]
        features = self.forward_features(image)
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        return KeypointMaps(
            self.score(features)[:, :height, :width],
            self.describe(features)[:, :, :rows, :columns],
            self.summarize(features),
        )

    def forward_features(self, image: Tensor) -> TrunkMaps:
        """The trunk alone, for other tasks; sizes are those of the padded image."""
        gray = _padded(normalized(image))
        return self.trunk(gray.to(self.trunk.stem.weight.dtype))

    def fused(self, dtype: torch.dtype = torch.float32) -> KeypointNet:
        """A copy for inference with the same result: folded weights, no gradients.

        In bfloat16 the last step of the scores stays exact: with 8 bits, neighbours would tie.
        """
        network = fuse(self).to(dtype)
        if dtype != torch.float32:
            network.score.last = Exact(network.score.last)
        return network


def load_keypoint_net(path: Path | str, sha256: str | None = None) -> KeypointNet:
    """The network of a weights file, on the CPU.

    Args:
        path: of the file, see `nets.checkpoint`.
        sha256: what it must hash to; None takes any.

    Raises:
        NetworkError: the file is not that of a keypoint network, whole and finite.
    """
    network = load_network(path, KIND, KeypointNetConfig(), KeypointNet, sha256)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Trunk(nn.Module):
    """Encoder, and the way back up to 1/8 by sums of neighbouring scales."""

    def __init__(self, config: KeypointNetConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        widths, depths = config.widths, config.depths
        # Six wide, so that an output is centred between the two pixels it replaces.
        self.stem = Conv2d(1, widths[0], 6, 2, generator=generator)
        self.fine = nn.ModuleList(
            NormedConv2d(widths[0], widths[0], generator=generator) for _ in range(depths[0])
        )
        self.stages = nn.ModuleList(
            Stage(before, after, depth, conv=NormedConv2d, generator=generator)
            for before, after, depth in zip(widths[:-1], widths[1:], depths[1:], strict=True)
        )
        self.lateral = nn.ModuleList(
            NormedConv2d(width, widths[2], 1, generator=generator) for width in widths[2:]
        )
        self.merge = NormedConv2d(widths[2], widths[2], generator=generator)

    def forward(self, gray: Tensor) -> TrunkMaps:
        """(B, 1, H, W) normalised, sides multiples of 32."""
        half = F.relu_(self.stem(gray))
        for conv in self.fine:
            half = F.relu_(conv(half))
        quarter = self.stages[0](half)
        eighth = self.stages[1](quarter)
        sixteenth = self.stages[2](eighth)
        last = self.stages[3](sixteenth)
        merged = upsampled(self.lateral[2](last)).add_(self.lateral[1](sixteenth))
        merged = upsampled(F.relu_(merged)).add_(self.lateral[0](eighth))
        merged = F.relu_(self.merge(F.relu_(merged)))
        return TrunkMaps(half, quarter, merged, sixteenth, last)


class DescriptorHead(nn.Module):
    """Local descriptors, one per cell of 8 x 8 pixels."""

    def __init__(self, config: KeypointNetConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        width = config.widths[2]
        self.conv = NormedConv2d(width, width, generator=generator)
        self.last = Conv2d(width, config.descriptor_size, 1, generator=generator)

    def forward(self, features: TrunkMaps) -> Tensor:
        """(B, D, H/8, W/8) float32, unit length over D."""
        descriptor = self.last(F.relu_(self.conv(features.eighth)))
        return F.normalize(descriptor.float(), dim=1)


class ScoreHead(nn.Module):
    """A logit per pixel, from half resolution: context comes from below, place from the stem."""

    def __init__(self, config: KeypointNetConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        width = config.widths[0]
        self.from_eighth = NormedConv2d(config.widths[2], width, 1, generator=generator)
        self.from_quarter = NormedConv2d(config.widths[1], width, 1, generator=generator)
        self.mix_quarter = NormedConv2d(width, width, generator=generator)
        self.mix_half = NormedConv2d(width, width, generator=generator)
        self.last: nn.Module = Conv2d(width, 4, generator=generator)
        assert isinstance(self.last.bias, Tensor)
        nn.init.constant_(self.last.bias, _RARE)

    def forward(self, features: TrunkMaps) -> Tensor:
        """(B, H, W) float32."""
        x = upsampled(self.from_eighth(features.eighth)).add_(self.from_quarter(features.quarter))
        x = F.relu_(self.mix_quarter(F.relu_(x)))
        x = upsampled(x).add_(features.half)
        x = F.relu_(self.mix_half(x))
        return _interleaved(self.last(x).float())


class ImageHead(nn.Module):
    """One vector for the whole image, for place recognition."""

    def __init__(self, config: KeypointNetConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.pools = nn.ModuleList(GeneralizedMean() for _ in range(2))
        self.last = Linear(
            sum(config.widths[3:]), config.image_descriptor_size, generator=generator
        )

    def forward(self, features: TrunkMaps) -> Tensor:
        """(B, G) float32, unit length."""
        maps = (features.sixteenth, features.last)
        pooled = torch.cat([pool(x) for pool, x in zip(self.pools, maps, strict=True)], dim=1)
        return F.normalize(self.last(pooled.to(self.last.weight.dtype)).float(), dim=1)


def to_gray(image: Tensor) -> Tensor:
    """(B, 1, H, W) luminance of (B, 1, H, W) or (B, 3, H, W) RGB.

    Raises:
        NetworkError: any other shape or type, or a side below 32 pixels.
    """
    if image.ndim != 4 or image.shape[1] not in (1, 3) or not image.is_floating_point():
        raise NetworkError(
            f'images are (B, 1 or 3, H, W) floating point in 0..1, got {tuple(image.shape)} '
            f'{image.dtype}'
        )
    if min(image.shape[-2:]) < MIN_SIDE_PX:
        raise NetworkError(
            f'an image of {image.shape[-1]}x{image.shape[-2]} is too small for the network; give '
            f'at least {MIN_SIDE_PX} pixels a side'
        )
    if image.shape[1] == 1:
        return image
    return torch.einsum('bchw,c->bhw', image, image.new_tensor(_LUMINANCE))[:, None]


def normalized(image: Tensor) -> Tensor:
    """(B, 1, H, W) luminance less its mean, over its spread: exposure and contrast are gone."""
    gray = to_gray(image).float()
    mean = gray.mean(dim=(2, 3), keepdim=True)
    # The square of what is left is as exact as torch.std, which takes ten times as long.
    gray = gray - mean
    spread = gray.square().mean(dim=(2, 3), keepdim=True).sqrt()
    return gray / (spread + _MIN_CONTRAST)


def _interleaved(parts: Tensor) -> Tensor:
    """(B, 4, H, W) -> (B, 2 H, 2 W): `F.pixel_shuffle`, but four times as fast."""
    rows = parts.permute(0, 2, 3, 1).unflatten(3, (2, 2)).transpose(2, 3)  # (B, H, 2, W, 2)
    return rows.flatten(3, 4).flatten(1, 2)


def _padded(image: Tensor) -> Tensor:
    """The image continued at the right and the bottom to whole cells of the coarsest map."""
    height, width = image.shape[-2:]
    below, right = -height % _MULTIPLE, -width % _MULTIPLE
    if below or right:
        image = F.pad(image, (0, right, 0, below), mode='replicate')
    return image.contiguous(memory_format=torch.channels_last)
