"""The cost function of method B: what the rebuilt image lacks (seed 001 [0050], [0051]).

Beside it stand three terms that the seed leaves open: the start weights and pairs of known truth
keep what method A has taught, and the image descriptor tells places apart ([0058]).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.config.schema import parameter
from kpvo_ros.losses import dual_softmax_loss, photometric_loss, weighted_mean
from kpvo_ros.methods.reconstruction.data import FrameBatch
from kpvo_ros.methods.reconstruction.network import (
    MatchingConfig,
    ReconstructionNet,
    grey,
    rebuild,
)
from kpvo_ros.nets.detection import sample_descriptors
from kpvo_ros.nets.keypoint import KeypointMaps
from kpvo_ros.synthetic.correspondence import Correspondence
from kpvo_ros.training.task import Loss

_CELL_PX = 8  # of the scores that are compared with those of the start
_LEVELS = 3  # full, half and quarter size: a picture that is a little off is a little wrong


@dataclasses.dataclass(frozen=True)
class ReconstructionLossConfig:
    """Weights of the terms of method B."""

    rebuild_weight: float = parameter(
        1.0, 'Weight of the rebuilt image; 0 for a comparison without method B.', low=0.0
    )
    truth_weight: float = parameter(
        0.25, 'Weight of the descriptors of pairs with known truth.', low=0.0
    )
    keep_weight: float = parameter(
        0.5, 'Pull towards the descriptors and scores of the start weights.', low=0.0
    )
    place_weight: float = parameter(
        0.1, 'Weight of telling places apart by the image descriptor.', low=0.0
    )
    decoder_first: float = parameter(
        0.1,
        'Share of the run in which the decoder alone learns, so that it does no harm while it '
        'knows nothing; without start weights there is nothing to harm.',
        low=0.0,
        high=1.0,
    )
    both_ways: bool = parameter(
        True, 'Rebuild both images of a pair; false takes a third less time and learns less.'
    )
    points: int = parameter(256, 'Points of a pair with known truth.', low=8, high=8192)
    truth_temperature: float = parameter(
        0.05, 'Of the softmax there, as in method A.', low=0.005, high=1.0
    )
    safe_px: float = parameter(
        4.0, 'Points nearer than this are not told apart by their descriptors.', low=0.0
    )
    place_temperature: float = parameter(
        0.1, 'Of the image descriptor softmax.', low=0.005, high=1.0
    )
    near_frames: int = parameter(
        60, 'Frames nearer than this may show one place, and count as no strangers.', low=1
    )


def reconstruction_loss(
    network: ReconstructionNet,
    batch: FrameBatch,
    matching: MatchingConfig,
    config: ReconstructionLossConfig,
    progress: float,
) -> Loss:
    """The loss of a batch.

    Args:
        network: encoder and decoder.
        batch: pairs.
        matching: which keypoints are matched, and how.
        config: weights.
        progress: 0..1 of the run.

    Returns:
        Total, and the parts `rebuild`, `truth`, `keep`, `place` before their weights, with
        `matched`: the mean probability of a keypoint's match.
    """
    images = torch.cat([batch.image0, batch.image1])
    generator = torch.Generator(images.device).manual_seed(batch.seed)
    remembers = bool(network.remembers)
    learns = not remembers or progress >= config.decoder_first
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        maps = network(images)
    step = matching.step_px
    x, y = torch.randint(step, (2,), generator=generator, device=images.device).tolist()
    half = len(batch.image0)
    first, second = _part(maps, slice(half)), _part(maps, slice(half, None))
    if config.both_ways:
        rebuilt = rebuild(network.decoder, maps, _swapped(maps), matching, (x, y))
        target = grey(images)
    else:
        rebuilt = rebuild(network.decoder, second, first, matching, (x, y))
        target = grey(batch.image1)
    with torch.autocast(images.device.type, enabled=False):
        parts = {'rebuild': rebuild_loss(rebuilt.picture, target)}
        if learns:
            parts['truth'] = truth_loss(maps.descriptor, batch.truth, config, generator)
            if remembers and config.keep_weight > 0:
                parts['keep'] = keep_loss(maps, _start_maps(network, images))
            parts['place'] = place_loss(
                first.image_descriptor, second.image_descriptor, batch.place, config
            )
    weights = dataclasses.asdict(config)
    total = torch.stack([weights[f'{name}_weight'] * part for name, part in parts.items()]).sum()
    told = {name: part.detach() for name, part in parts.items()}
    pairs = rebuilt.assignment
    told['matched'] = weighted_mean(pairs.mutual.detach(), pairs.valid.float())
    return Loss(total, told)


def rebuild_loss(picture: Tensor, target: Tensor) -> Tensor:
    """Photometric difference of (B, 1, H, W) pictures, mean over three sizes; 0 where equal."""
    costs = []
    for level in range(_LEVELS):
        if level:
            picture, target = F.avg_pool2d(picture, 2), F.avg_pool2d(target, 2)
        costs.append(photometric_loss(picture, target))
    return torch.stack(costs).mean()


def truth_loss(
    descriptor: Tensor,
    truth: Correspondence | None,
    config: ReconstructionLossConfig,
    generator: torch.Generator,
) -> Tensor:
    """Random points of the pairs with known truth choose each other; 0 when there is none.

    Args:
        descriptor: (2B, D, H/8, W/8), the pairs with truth first in either half.
        truth: of the first K pairs, image 0 to image 1.
        config: number of points and temperature.
        generator: draws the points.
    """
    if truth is None:
        return 0.0 * descriptor.sum()
    count, height, width = truth.visible.shape
    half = len(descriptor) // 2
    shape, place = (count, config.points), generator.device
    index = torch.randint(height * width, shape, generator=generator, device=place)
    xy0 = torch.stack([index % width, index // width], dim=-1).to(descriptor.dtype)
    chosen = index.unsqueeze(-1).expand(-1, -1, 2)
    xy1 = truth.xy_in_other.flatten(1, 2).gather(1, chosen)
    weight = truth.visible.flatten(1).gather(1, index).to(descriptor.dtype)
    near = torch.cdist(xy1, xy1) < config.safe_px
    return dual_softmax_loss(
        sample_descriptors(descriptor[:count], xy0),
        sample_descriptors(descriptor[half : half + count], xy1),
        weight,
        config.truth_temperature,
        near,
    )


def keep_loss(maps: KeypointMaps, start: KeypointMaps) -> Tensor:
    """How far descriptors and scores have gone from those of the start; 0 for the same maps.

    Descriptors by their cosine, scores by the Kullback-Leibler divergence of the choice that a
    cell makes among its pixels and none, whose logit is 0 (Hinton, "Distilling", 2015).
    """
    turned = 1.0 - (maps.descriptor * start.descriptor).sum(dim=1).mean()
    divergence = F.kl_div(
        _choices(maps.logits), _choices(start.logits), reduction='none', log_target=True
    )
    return turned + divergence.sum(dim=1).mean()


def place_loss(
    vector0: Tensor, vector1: Tensor, place: Tensor, config: ReconstructionLossConfig
) -> Tensor:
    """Both views of a pair are one place, pairs from far away are others, both ways.

    The loss of van den Oord, "CPC", 2018; what may show the same place is no wrong answer.

    Args:
        vector0: (B, G) unit length.
        vector1: (B, G) unit length.
        place: (B,) frame numbers.
        config: temperature, and what counts as near.
    """
    similarity = vector0 @ vector1.T / config.place_temperature
    near = (place.unsqueeze(1) - place).abs() < config.near_frames
    near.fill_diagonal_(False)
    similarity = similarity.masked_fill(near, -torch.inf)
    own = torch.arange(len(place), device=place.device)
    return 0.5 * (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own))


@torch.no_grad()
def _start_maps(network: ReconstructionNet, images: Tensor) -> KeypointMaps:
    return KeypointMaps(*(part.float() for part in network.start(images)))


def _choices(logits: Tensor) -> Tensor:
    """(B, 65, h, w) log probabilities of a cell's 64 pixels and of none of them."""
    cells = F.pixel_unshuffle(logits.unsqueeze(1), _CELL_PX)
    return torch.cat([cells, torch.zeros_like(cells[:, :1])], dim=1).log_softmax(dim=1)


def _part(maps: KeypointMaps, rows: slice) -> KeypointMaps:
    return KeypointMaps(*(part[rows] for part in maps))


def _swapped(maps: KeypointMaps) -> KeypointMaps:
    """The same maps with each image's partner in its place."""
    return KeypointMaps(*(part.roll(len(part) // 2, 0) for part in maps))
