"""Method A as a task of the training loop: pairs in, keypoint weights out (seed 000)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from kpvo_ros.config.schema import parameter
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.methods.homography.data import HomographyDataConfig
from kpvo_ros.methods.homography.held_out import make_held_out, score_held_out
from kpvo_ros.methods.homography.loss import HomographyLossConfig, homography_loss
from kpvo_ros.methods.homography.targets import Views, both_views
from kpvo_ros.nets.checkpoint import fill, save_weights
from kpvo_ros.nets.keypoint import KeypointMaps, KeypointNet, KeypointNetConfig
from kpvo_ros.synthetic.correspondence import Pairs
from kpvo_ros.training.task import Loss

_SEEDS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class HomographyConfig:
    """Everything that can be set about a training run of method A."""

    pairs: int = parameter(8, 'Pairs of a step; more on a GPU.', low=1, high=4096)
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
    bank_objects: int = parameter(48, 'Rendered things to choose from.', low=1, high=10000)
    bank_scenes: int = parameter(
        150, 'Rendered pairs of whole worlds to choose from.', low=1, high=100000
    )
    textures: str = parameter(
        '',
        'Folder of pictures, e.g. of kpvo textures, that part of the rendered things is covered '
        'with; empty for procedural materials alone.',
    )
    content: str = parameter(
        '',
        'Folder NAME/view_*.png of things seen from several sides, RGBA, made by anything else, '
        'e.g. a diffusion model; they stand among the rendered ones. Empty for none.',
    )
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    data: HomographyDataConfig = dataclasses.field(default_factory=HomographyDataConfig)
    loss: HomographyLossConfig = dataclasses.field(default_factory=HomographyLossConfig)


@dataclasses.dataclass(frozen=True, eq=False)
class HomographyBatch:
    """Both views of some pairs, and the seed of what the loss draws from them."""

    views: Views
    seed: int


class HomographyTask:
    """Trains a `KeypointNet` on pairs whose correspondences are known.

    Args:
        make_pairs: (count, generator) to that many pairs on the device of the network.
        pairs: of one batch.
        held_out: (B, 3, H, W) photos that no training pair shows.
        loss: weights.
        network: sizes.
        seed: of the initial weights; the held-out pairs are the same for every seed.
        init: weights to begin with instead of random ones.
        notes: what the weights file shall say about its origin.
        device: where the network is.
    """

    name = 'homography'

    def __init__(
        self,
        make_pairs: Callable[[int, torch.Generator], Pairs],
        *,
        pairs: int,
        held_out: Tensor,
        loss: HomographyLossConfig,
        network: KeypointNetConfig | None = None,
        seed: int = 0,
        init: Mapping[str, Tensor] | None = None,
        notes: dict[str, str] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        network = network or KeypointNetConfig()
        generator = torch.Generator().manual_seed(seed)
        self.network: nn.Module = KeypointNet(network, generator=generator)
        if init is not None:
            fill(self.network, init)
        self.network.to(device)  # after `fill`, which takes the tensors as they are
        self._make_pairs, self._pairs = make_pairs, pairs
        self._sizes, self._loss, self._notes = network, loss, notes or {}
        fixed = torch.Generator(held_out.device).manual_seed(1)
        self._held_out = make_held_out(held_out, fixed)

    def batch(self, generator: torch.Generator) -> HomographyBatch:
        """See `Task.batch`."""
        pairs = self._make_pairs(self._pairs, generator)
        seed = torch.randint(_SEEDS, (1,), generator=generator, device=generator.device)
        return HomographyBatch(both_views(pairs), int(seed))

    def loss(self, batch: HomographyBatch, progress: float) -> Loss:
        """See `Task.loss`."""
        device = batch.views.image.device
        maps = self.network(batch.views.image)
        with torch.autocast(device.type, enabled=False):
            maps = KeypointMaps(*(part.float() for part in maps))
            generator = torch.Generator(device).manual_seed(batch.seed)
            return homography_loss(batch.views, maps, self._loss, progress, generator)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """See `Task.validate` and `score_held_out`; `corner_auc` decides."""
        return score_held_out(network, self._held_out)

    def export(self, network: nn.Module, path: Path) -> None:
        """See `Task.export`: weights of kind 'keypoint'."""
        save_weights(path, network, kind='keypoint', config=self._sizes, notes=self._notes)
