"""Encoder and decoder of method B, and the road from one image to the other (seed 001, fig. 3)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kpvo_ros.config.schema import parameter
from kpvo_ros.methods.reconstruction.keypoints import (
    Keypoints,
    grid_keypoints,
    sparse_keypoints,
)
from kpvo_ros.methods.reconstruction.matching import Assignment, from_other, match, splat
from kpvo_ros.nets.decoder import FEATURE_STRIDE, Decoder, DecoderConfig
from kpvo_ros.nets.detection import sample_descriptors
from kpvo_ros.nets.keypoint import KeypointMaps, KeypointNet, normalized

_LEAST_SURE = 0.02  # mean probability of a match below which the matches count less
_TARGET_SPREAD = 0.2  # of a picture's grey 0..1 about 0.5: two in a hundred pixels are cut off


@dataclasses.dataclass(frozen=True)
class MatchingConfig:
    """Which keypoints are matched, and how."""

    variant: str = parameter(
        'sparse',
        'sparse matches keypoints; dense every n-th pixel, and leaves the scores as they are.',
        choices=('sparse', 'dense'),
    )
    keypoints: int = parameter(
        384, 'Most keypoints of an image, sparse; more show more of it.', low=8, high=8192
    )
    cell_px: int = parameter(
        8, 'Side of the cells with one keypoint each at most; larger spreads them wider.',
        low=4, high=64,
    )  # fmt: skip
    step_px: int = parameter(8, 'Pixels from one point to the next, dense.', low=2, high=64)
    temperature: float = parameter(
        0.05, 'Of the matching softmax; lower is nearer to a hard choice.', low=0.005, high=1.0
    )
    hard: bool = parameter(
        False,
        'Carry the descriptor of the best match alone; the mean over all of them is smoother, but '
        'lets some of the rebuilt image through.',
    )


class Rebuilt(NamedTuple):
    """Images B drawn from the descriptors of images A.

    Attributes:
        picture: (B, 1, H, W) float32, to be compared with `grey` of the images.
        features: (B, D + 1, H/4, W/4) what the decoder drew it from, beside the style.
        keypoints: of the images B.
        assignment: of those to the keypoints of A.
    """

    picture: Tensor
    features: Tensor
    keypoints: Keypoints
    assignment: Assignment


class ReconstructionNet(nn.Module):
    """What method B trains: an encoder that is shipped, and a decoder that is only its judge.

    Args:
        encoder: with the weights to start from.
        decoder: new.
        remembers: the encoder's weights come from an earlier training and must not be forgotten.

    Attributes:
        start: the encoder as it was; frozen, a part of every checkpoint so that a resumed run
            still knows it.
    """

    remembers: Tensor

    def __init__(self, encoder: KeypointNet, decoder: Decoder, *, remembers: bool) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.start = KeypointNet(encoder.config)
        self.start.load_state_dict(encoder.state_dict())
        self.start.requires_grad_(False)
        self.register_buffer('remembers', torch.tensor(remembers))
        self.train()

    def train(self, mode: bool = True) -> ReconstructionNet:
        """Training mode, but for what must not drift with the few images of a batch.

        The statistics of the normalisation stay those of the start weights, which have seen many
        more images; without start weights they are learned.
        """
        super().train(mode)
        self.start.eval()
        if bool(self.remembers):
            self.encoder.eval()
        return self

    def forward(self, image: Tensor) -> KeypointMaps:
        """The encoder's maps of images (B, 1 or 3, H, W), float32."""
        return KeypointMaps(*(part.float() for part in self.encoder(image)))


def make_network(
    encoder: KeypointNet, *, remembers: bool, generator: torch.Generator | None = None
) -> ReconstructionNet:
    """A network whose decoder fits the encoder; the generator draws the decoder's weights."""
    sizes = DecoderConfig(
        descriptor_size=encoder.config.descriptor_size,
        image_descriptor_size=encoder.config.image_descriptor_size,
    )
    return ReconstructionNet(encoder, Decoder(sizes, generator=generator), remembers=remembers)


def grey(image: Tensor) -> Tensor:
    """(B, 1, H, W) what there is to rebuild of images: brightness as the encoder sees it, 0..1.

    Exposure, contrast and colour never enter the encoder, so nothing could bring them back.
    """
    return (0.5 + _TARGET_SPREAD * normalized(image)).clamp(0.0, 1.0)


def rebuild(
    decoder: nn.Module,
    maps_b: KeypointMaps,
    maps_a: KeypointMaps,
    config: MatchingConfig,
    offset: tuple[int, int] = (4, 4),
) -> Rebuilt:
    """Steps S3 to S5 of claim 16: match, place of B, descriptor of A, draw B in its own style.

    Args:
        decoder: `nets.decoder.Decoder`.
        maps_b: of the images to be rebuilt, float32, sides multiples of four.
        maps_a: of the others.
        config: which keypoints, and how they are matched.
        offset: (x, y) of the first point of the dense variant.
    """
    size_hw = (maps_b.logits.shape[-2], maps_b.logits.shape[-1])
    points_b, points_a = (choose(maps.logits, config, offset) for maps in (maps_b, maps_a))
    # Places learn from where the content is drawn, not from what the coarse descriptors say.
    code_b, code_a = (
        sample_descriptors(maps.descriptor, points.xy.detach())
        for maps, points in ((maps_b, points_b), (maps_a, points_a))
    )
    with torch.autocast(code_b.device.type, enabled=False):
        pairs = match(code_b, code_a, points_b.valid, points_a.valid, config.temperature)
        carried = from_other(pairs, code_a, hard=config.hard)
        weight = _relative(points_b.weight * pairs.mutual, pairs.valid)
        cells = (size_hw[0] // FEATURE_STRIDE, size_hw[1] // FEATURE_STRIDE)
        features = splat(carried, weight, points_b.xy, cells, FEATURE_STRIDE)
    picture = decoder(features, maps_b.image_descriptor)
    return Rebuilt(picture, features, points_b, pairs)


def choose(logits: Tensor, config: MatchingConfig, offset: tuple[int, int]) -> Keypoints:
    """The keypoints of the variant."""
    if config.variant == 'dense':
        size_hw = (logits.shape[-2], logits.shape[-1])
        return grid_keypoints(logits, size_hw, config.step_px, offset)
    return sparse_keypoints(logits, config.keypoints, config.cell_px)


def _relative(weight: Tensor, valid: Tensor) -> Tensor:
    """Weights (B, N) over their mean among the valid ones, unless hardly anything matches.

    Else a young encoder, whose matches are all unsure, would tell the decoder nothing at all.
    """
    mean = weight.detach().sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True).clamp(min=1)
    return weight / mean.clamp(min=_LEAST_SURE)
