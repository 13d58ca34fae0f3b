"""The decoder of method B: a picture from descriptors that lie where keypoints are (seed 001).

    descriptors on a map 1/4 -> 1/4 -> 1/8 -> 1/16 -> 1/32    gathers, fills the holes
                                 |      |       |       |
             picture 1/1 <- 1/2 <- 1/4 <- 1/8 <- 1/16 <-'     sums on the way up, styled

A U-Net (Ronneberger 2015) with few channels where there are many pixels. The image descriptor of
the picture says in which style it is to be drawn ([0058]): it scales and shifts the channels on
the way up (Perez, "FiLM", 2018). The picture is in grey, as the keypoint network sees no colour.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.layers import Conv2d, Linear, Stage, StandardConv2d, upsampled

FEATURE_STRIDE = 4  # pixels of the picture from one cell of the features to the next
_FAINT = 0.1  # the first pictures are nearly grey, which no noise has to be unlearned from
_MULTIPLE = 8  # of both sides of the features inside the network


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a `Decoder`.

    Attributes:
        widths: channels at 1/2, 1/4, 1/8, 1/16 and 1/32.
        descriptor_size: D of the local descriptors.
        image_descriptor_size: G of the image descriptor.
    """

    widths: tuple[int, int, int, int, int] = (16, 48, 64, 64, 64)
    descriptor_size: int = 64
    image_descriptor_size: int = 256


class Decoder(nn.Module):
    """Draws a picture from scattered descriptors and a style.

    Args:
        config: sizes.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(
        self,
        config: DecoderConfig = DecoderConfig(),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        half, *widths = config.widths
        style = config.image_descriptor_size
        self.stem = StandardConv2d(config.descriptor_size + 1, widths[0], generator=generator)
        self.down = nn.ModuleList(
            Stage(before, after, 1, generator=generator)
            for before, after in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            Rise(before, after, style, generator)
            for before, after in itertools.pairwise(reversed(widths))
        )
        self.to_half = StandardConv2d(widths[0], half, 1, generator=generator)
        self.draw = StandardConv2d(half, half, generator=generator)
        self.last = Conv2d(half, 4, generator=generator)
        if not self.last.weight.is_meta:
            with torch.no_grad():
                self.last.weight.mul_(_FAINT)

    def forward(self, features: Tensor, style: Tensor) -> Tensor:
        """Draw pictures.

        Args:
            features: (B, D + 1, h, w), sums of weighted descriptors and of the weights; cell
                (i, j) is centred on pixel (4 j + 1.5, 4 i + 1.5).
            style: (B, G) image descriptors.

        Returns:
            (B, 1, 4 h, 4 w) float32 grey, meant to be 0..1 but not cut off there.

        Raises:
            NetworkError: the features or the styles have another number of channels.
        """
        inputs = (self.config.descriptor_size + 1, self.config.image_descriptor_size)
        if features.ndim != 4 or (features.shape[1], style.shape[-1]) != inputs:
            raise NetworkError(
                f'the decoder takes features (B, {inputs[0]}, h, w) and styles (B, {inputs[1]}), '
                f'got {tuple(features.shape)} and {tuple(style.shape)}'
            )
        rows, columns = features.shape[-2:]
        # A descriptor of unit length has small entries; the first layer expects some about one.
        features = features * math.sqrt(self.config.descriptor_size)
        features = F.pad(features, (0, -columns % _MULTIPLE, 0, -rows % _MULTIPLE))
        x = F.relu_(self.stem(features.contiguous(memory_format=torch.channels_last)))
        kept = []
        for stage in self.down:
            kept.append(x)
            x = stage(x)
        for rise in self.up:
            x = rise(x, kept.pop(), style)
        x = _bent(self.draw(upsampled(_bent(self.to_half(x)))))
        # Not squeezed into 0..1: where that saturates, nothing is learned any more.
        picture = 0.5 + F.pixel_shuffle(self.last(x).float(), 2)
        return picture[..., : FEATURE_STRIDE * rows, : FEATURE_STRIDE * columns]


class Rise(nn.Module):
    """One step up: twice the size, plus what was there on the way down, in a style.

    Args:
        inputs: channels from below.
        outputs: channels of the level.
        style: length of the style vector.
        generator: source of the initial weights.
    """

    def __init__(
        self, inputs: int, outputs: int, style: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.lateral = StandardConv2d(inputs, outputs, 1, generator=generator)
        self.conv = StandardConv2d(outputs, outputs, generator=generator)
        self.style = Linear(style, 2 * outputs, generator=generator)

    def forward(self, below: Tensor, here: Tensor, style: Tensor) -> Tensor:
        """(B, I, h, w), (B, O, 2 h, 2 w), (B, G) -> (B, O, 2 h, 2 w)."""
        x = self.conv(_bent(upsampled(self.lateral(below)).add_(here)))
        scale, shift = self.style(style.to(x.dtype))[:, :, None, None].chunk(2, dim=1)
        return _bent(x * (1.0 + scale) + shift)


def _bent(x: Tensor) -> Tensor:
    """Leaky, as few channels draw the picture: dead ones would leave it grey for good."""
    return F.leaky_relu_(x, 0.1)
