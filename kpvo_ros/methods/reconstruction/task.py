"""Method B as a task of the training loop: frames in, keypoint weights out (seed 001)."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path

import torch
from torch import nn

from kpvo_ros.config.schema import parameter
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.methods.reconstruction.data import FrameBatch, ReconstructionDataConfig
from kpvo_ros.methods.reconstruction.held_out import HeldOutFrames, score_held_out
from kpvo_ros.methods.reconstruction.loss import ReconstructionLossConfig, reconstruction_loss
from kpvo_ros.methods.reconstruction.network import (
    MatchingConfig,
    ReconstructionNet,
    make_network,
)
from kpvo_ros.methods.reconstruction.plateau import Plateau, StopConfig
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.keypoint import KIND, KeypointNet
from kpvo_ros.training.task import Loss


def _gentle() -> TrainingConfig:
    """Of the shared defaults a third of the rate: the weights to begin with are good already."""
    return TrainingConfig(learning_rate=1e-3)


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Everything that can be set about a training run of method B."""

    pairs: int = parameter(4, 'Pairs of a step; more on a GPU.', low=1, high=4096)
    photos: int = parameter(
        2000, 'Most photos in memory, about 1 MB each; picked evenly from all data.', low=10
    )
    held_out: float = parameter(
        0.3,
        'Share of every recording, its end, that is not trained on; kpvo bench features measures '
        'there.',
        low=0.01,
        high=0.9,
    )
    bank_scenes: int = parameter(
        150, 'Rendered pairs of whole worlds to choose from.', low=1, high=100000
    )
    training: TrainingConfig = dataclasses.field(default_factory=_gentle)
    data: ReconstructionDataConfig = dataclasses.field(default_factory=ReconstructionDataConfig)
    matching: MatchingConfig = dataclasses.field(default_factory=MatchingConfig)
    loss: ReconstructionLossConfig = dataclasses.field(default_factory=ReconstructionLossConfig)
    stop: StopConfig = dataclasses.field(default_factory=StopConfig)


class ReconstructionTask:
    """Trains a `KeypointNet` so that its matches suffice to rebuild the other image.

    Args:
        make_pairs: (count, generator) to that many pairs on `device`.
        held_out: pairs that no training shows.
        config: all parameters.
        encoder: weights to begin with, those of method A; None begins with random ones.
        notes: what the weights file shall say about its origin.
        device: where the network is.
    """

    name = 'reconstruction'

    def __init__(
        self,
        make_pairs: Callable[[int, torch.Generator], FrameBatch],
        *,
        held_out: HeldOutFrames,
        config: ReconstructionConfig,
        encoder: KeypointNet | None = None,
        notes: dict[str, str] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        generator = torch.Generator().manual_seed(config.training.seed)
        start = encoder or KeypointNet(generator=generator)
        network = make_network(start, remembers=encoder is not None, generator=generator)
        self.network: nn.Module = network.to(device)
        self._make_pairs, self._config, self._held_out = make_pairs, config, held_out
        self._notes = notes or {}
        self._plateau = Plateau(config.stop)

    @property
    def converged(self) -> bool:
        """Whether the held-out loss has met the threshold or its plateau, in this sitting."""
        return self._plateau.reached

    def batch(self, generator: torch.Generator) -> FrameBatch:
        """See `Task.batch`."""
        return self._make_pairs(self._config.pairs, generator)

    def loss(self, batch: FrameBatch, progress: float) -> Loss:
        """See `Task.loss`."""
        assert isinstance(self.network, ReconstructionNet)
        config = self._config
        return reconstruction_loss(self.network, batch, config.matching, config.loss, progress)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """See `Task.validate` and `score_held_out`; `matching_score` decides."""
        assert isinstance(network, ReconstructionNet)
        near_frames = self._config.loss.near_frames
        metrics = score_held_out(network, self._held_out, self._config.matching, near_frames)
        self._plateau.see(metrics['rebuild'])
        return metrics

    def export(self, network: nn.Module, path: Path) -> None:
        """See `Task.export`: the encoder alone, weights of kind 'keypoint'."""
        assert isinstance(network, ReconstructionNet)
        encoder = network.encoder
        save_weights(path, encoder, kind=KIND, config=encoder.config, notes=self._notes)
