"""Cross-view alignment as a task of the training loop (seed 004 [0109]-[0121]).

Pre-training asks for nothing but pairs of pictures. Where motions are known the pose head is
trained beside it: as a probe, which tells what the rotation of codes knows of the camera's and
teaches the rest of the network nothing, or, as the fine-tuning of the seed, with all of it.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from kpvo_ros.config.schema import parameter
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.losses import alignment_loss, weighted_mean
from kpvo_ros.methods.crossview.depth_task import SIZES
from kpvo_ros.methods.crossview.frame_data import FrameDataConfig, MakePairs
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.methods.crossview.rendered_data import RenderedDataConfig
from kpvo_ros.methods.crossview.supervised import motion_errors
from kpvo_ros.nets.alignment import (
    KIND,
    Alignment,
    AlignmentNet,
    AlignmentNetConfig,
    alignment_sizes,
    plain_picture,
)
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.training.task import Loss

_BATCH = 16


def _for_transformers() -> TrainingConfig:
    """As for cross-view completion."""
    return TrainingConfig(learning_rate=5e-4, warmup_steps=300, weight_decay=0.05)


@dataclasses.dataclass(frozen=True)
class CodeConfig:
    """Sizes of a code and of what draws pictures from it."""

    vectors: int = parameter(
        128, 'Vectors of a code; the seed has 512, for large networks.', low=2, high=4096
    )
    width: int = parameter(128, 'Numbers of each, a multiple of 4 and of the heads.', low=4)
    blocks: int = parameter(4, 'Blocks in which the vectors talk to each other.', low=1, high=64)
    heads: int = parameter(4, 'Heads of their attentions.', low=1, high=64)
    equivariant: int = parameter(
        24, 'Numbers of each vector that are turned from view to view.', low=2, high=512
    )
    decoder_blocks: int = parameter(
        2, 'Blocks in which the patches of a picture ask a code.', low=1, high=64
    )


@dataclasses.dataclass(frozen=True)
class AlignmentLossConfig:
    """Weights of the terms."""

    picture_weight: float = parameter(
        1.0, 'Weight of eq. 4; 0 trains nothing but motions, with pose=taught.', low=0.0
    )
    code_weight: float = parameter(
        0.01,
        'Weight of the distance of codes beside that of colours; lower it when all codes become '
        'one, which the curve of `code` shows by going to 0 while `picture` stays.',
        low=0.0,
    )
    code_after: float = parameter(
        0.3,
        'Share of the run in which pictures alone teach; codes that know nothing yet are made '
        'alike most easily by being all the same.',
        low=0.0,
        high=0.9,
    )
    pose: str = parameter(
        'probe',
        'probe trains the pose head alone; taught lets known motions teach the whole network, '
        'which is fine-tuning for relative pose; off leaves the head as it is.',
        choices=('probe', 'taught', 'off'),
    )
    pose_weight: float = parameter(1.0, 'Weight of the motions, eq. 6.', low=0.0)
    translation_weight: float = parameter(
        0.1, 'Weight of a squared metre beside rotations; lower it for fast vehicles.', low=0.0
    )


@dataclasses.dataclass(frozen=True)
class AlignmentConfig:
    """Everything that can be set about pre-training by cross-view alignment."""

    pairs: int = parameter(16, 'Pairs of a step; more on a GPU.', low=1, high=4096)
    walks: int = parameter(
        600, 'Rendered walks to choose from, 2 MB and about a second each.', low=1, high=100000
    )
    held_out_walks: int = parameter(
        40, 'Walks through other worlds that are only measured with.', low=1, high=10000
    )
    held_out_pairs: int = parameter(120, 'Pairs that a validation looks at.', low=2, high=10000)
    walk_seed: int = parameter(
        0, 'Other numbers give other worlds; another bank is needed then.', low=0, high=2**31 - 1
    )
    model: str = parameter(
        'tiny',
        'Network whose encoder is trained; tiny for CPUs, small and base for GPUs. Weights given '
        'with --init must have it.',
        choices=tuple(SIZES),
    )
    training: TrainingConfig = dataclasses.field(default_factory=_for_transformers)
    data: RenderedDataConfig = dataclasses.field(default_factory=RenderedDataConfig)
    frames: FrameDataConfig = dataclasses.field(default_factory=FrameDataConfig)
    code: CodeConfig = dataclasses.field(default_factory=CodeConfig)
    loss: AlignmentLossConfig = dataclasses.field(default_factory=AlignmentLossConfig)


class AlignmentTask:
    """Trains an `AlignmentNet` on pairs of pictures, and its pose head where motions are known.

    Args:
        make_pairs: (count, generator) to that many pairs on `device`.
        held_out: pairs that no training shows.
        config: all parameters.
        network: to begin with; a new one when None.
        notes: what the weights file shall say about its origin.
        device: where to train.
    """

    name = 'alignment'

    def __init__(
        self,
        make_pairs: MakePairs,
        *,
        held_out: FramePairs,
        config: AlignmentConfig,
        network: AlignmentNet | None = None,
        notes: dict[str, str] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        network = network or new_alignment_net(config)
        self._sizes = network.config
        self.network: nn.Module = network.to(device)
        self._make_pairs, self._config, self._notes = make_pairs, config, notes or {}
        self._held_out = held_out.check().to(device)

    def batch(self, generator: torch.Generator) -> FramePairs:
        """See `Task.batch`."""
        return self._make_pairs(self._config.pairs, generator)

    def loss(self, batch: FramePairs, progress: float) -> Loss:
        """See `Task.loss`."""
        config, network = self._config.loss, self.network
        assert isinstance(network, AlignmentNet)
        found = network(batch.image0, batch.image1)
        turn = found.turn if config.pose == 'taught' else found.turn.detach()
        with torch.autocast(turn.device.type, enabled=False):
            picture, code = picture_costs(found, batch)
            code_weight = config.code_weight * code_share(progress, config.code_after)
            total = config.picture_weight * (picture + code_weight * code)
            told = {'picture': picture.detach(), 'code': code.detach()}
            if config.pose != 'off':
                cost, pose_told = pose_cost(network, turn, batch, config.translation_weight)
                total = total + config.pose_weight * cost
                told |= pose_told
        return Loss(total, told)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """See `Task.validate` and `score_alignment`."""
        assert isinstance(network, AlignmentNet)
        config = self._config.loss
        metrics = score_alignment(network, self._held_out, config.code_weight)
        if config.picture_weight or 'rotation_deg' not in metrics:
            return metrics
        return {'minus_rotation_deg': -metrics['rotation_deg'], **metrics}

    def export(self, network: nn.Module, path: Path) -> None:
        """See `Task.export`: weights of kind 'alignment'."""
        save_weights(path, network, kind=KIND, config=self._sizes, notes=self._notes)


def new_alignment_net(config: AlignmentConfig) -> AlignmentNet:
    """A network with initial weights.

    Raises:
        NetworkError: sizes no network has.
    """
    generator = torch.Generator().manual_seed(config.training.seed)
    return AlignmentNet(network_sizes(config), generator=generator)


def network_sizes(config: AlignmentConfig) -> AlignmentNetConfig:
    """Sizes of the network that a configuration asks for.

    Raises:
        NetworkError: no network has these.
    """
    code = config.code
    return alignment_sizes(
        SIZES[config.model],
        latents=code.vectors,
        latent_width=code.width,
        latent_depth=code.blocks,
        latent_heads=code.heads,
        equivariant=code.equivariant,
        decoder_depth=code.decoder_blocks,
    )


def picture_costs(found: Alignment, pairs: FramePairs) -> tuple[Tensor, Tensor]:
    """How far the rebuilt pictures and the turned codes are from the other view's (eq. 4).

    Returns:
        Both terms, scalars, before the weight of the second.
    """
    picture = plain_picture(torch.cat([pairs.image1, pairs.image0]))
    colour = alignment_loss(found.rebuilt, picture, found.moved, found.code, 0.0)
    same = found.rebuilt.detach()
    return colour, alignment_loss(same, same, found.moved, found.code, 1.0)


def code_share(progress: float, after: float) -> float:
    """0 until a share of the run, then rising to 1 half of the way from there to its end."""
    return min(1.0, max(0.0, (progress - after) / (0.5 * (1.0 - after))))


def pose_cost(
    network: AlignmentNet, turn: Tensor, pairs: FramePairs, translation_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Squared errors of the motion (eq. 6), mean over the pairs whose motion is known.

    Returns:
        The cost, 0 where none is known, and the mean errors `rotation_deg`, `translation_m`.
    """
    T_1_0 = _motion(network, turn, pairs)
    errors = motion_errors(T_1_0, pairs.T_1_0)
    # |R - R_true|^2 of the seed is twice the square of the chord.
    cost = 2.0 * errors.chord2 + translation_weight * errors.distance2
    told = {
        'rotation_deg': weighted_mean(_degrees(errors.chord2.detach()), errors.known),
        'translation_m': weighted_mean(errors.distance2.detach().sqrt(), errors.known),
    }
    return weighted_mean(cost, errors.known), told


@torch.inference_mode()
def score_alignment(
    network: AlignmentNet, pairs: FramePairs, code_weight: float
) -> dict[str, float]:
    """Metrics of a network on fixed pairs.

    Returns:
        `minus_loss`: of eq. 4, decides; `picture`, `code`: its two terms; `explained`: share by
        which the first is lower than that of an empty picture; and where motions are known the
        medians `rotation_deg` of the error, `still_deg`, what it would be without any motion,
        and `translation_share`, error of the translation over its length.
    """
    network.eval()
    costs, motions = [], []
    for start in range(0, len(pairs.image0), _BATCH):
        part = FramePairs(*(value[start : start + _BATCH] for value in pairs))
        found = network(part.image0, part.image1)
        empty = found._replace(rebuilt=torch.zeros_like(found.rebuilt))
        terms = [*picture_costs(found, part), picture_costs(empty, part)[0]]
        costs.append(torch.stack(terms) * len(part.image0))
        motions.append(_motion(network, found.turn, part))
    picture, code, nothing = (torch.stack(costs).sum(dim=0) / len(pairs.image0)).tolist()
    metrics = {
        'minus_loss': -(picture + code_weight * code),
        'picture': picture,
        'code': code,
        'explained': 1.0 - picture / nothing,
    }
    return metrics | _motion_metrics(torch.cat(motions), pairs.T_1_0)


def _motion_metrics(T_1_0: Tensor, true_T_1_0: Tensor) -> dict[str, float]:
    """Medians of errors of motions (P, 4, 4), of those whose truth is known; none without."""
    errors = motion_errors(T_1_0, true_T_1_0)
    known = errors.known > 0
    if not bool(known.any()):
        return {}
    still = motion_errors(torch.eye(4, device=T_1_0.device).expand_as(T_1_0), true_T_1_0)
    share = errors.distance2.sqrt() / still.distance2.sqrt().clamp(min=1e-3)
    return {
        'rotation_deg': float(_degrees(errors.chord2[known]).median()),
        'still_deg': float(_degrees(still.chord2[known]).median()),
        'translation_share': float(share[known].median()),
    }


def _motion(network: AlignmentNet, turn: Tensor, pairs: FramePairs) -> Tensor:
    """(B, 4, 4) that the pose head makes of rotations of codes."""
    height, width = pairs.image0.shape[-2:]
    return network.pose(turn, pairs.K0, pairs.K1, (height, width))


def _degrees(chord2: Tensor) -> Tensor:
    """Angles of squared chords (2 sin(angle / 2))^2."""
    return (2.0 * torch.asin((0.5 * chord2.sqrt()).clamp(max=1.0))) * (180.0 / math.pi)
