"""The diffusion model as a task of the training loop: textures in, weights of a generator out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from kpvo_ros.config.schema import parameter
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.methods.textures.data import TextureDataConfig
from kpvo_ros.methods.textures.quality import seam_ratio, spectrum_distance
from kpvo_ros.methods.textures.sample import sample_textures
from kpvo_ros.methods.textures.statistics import measure
from kpvo_ros.nets.checkpoint import fill, save_weights
from kpvo_ros.nets.diffusion import KIND, SPREAD, DiffusionConfig, DiffusionNet, difficulty
from kpvo_ros.nets.precision import profits_from_bfloat16
from kpvo_ros.training.task import Loss

_JUDGED = 32  # textures that a validation makes
_MOMENTS = 4  # times at which each held-out picture is looked at


@dataclasses.dataclass(frozen=True)
class TexturesConfig:
    """Everything that can be set about a training run of the texture generator."""

    batch: int = parameter(16, 'Pictures of a step; more on a GPU.', low=2, high=4096)
    photos: int = parameter(
        800, 'Most photos in memory, about 0.3 MB each; picked evenly from all data.', low=10
    )
    held_out: float = parameter(
        0.1, 'Share of every recording, its end, that is not trained on.', low=0.01, high=0.9
    )
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    data: TextureDataConfig = dataclasses.field(default_factory=TextureDataConfig)


@dataclasses.dataclass(frozen=True, eq=False)
class Noised:
    """Pictures on their way to noise.

    Attributes:
        noisy: (B, 3, S, S) state, pictures in -1..1.
        velocity: (B, 3, S, S) what the network has to say.
        time: (B,) 0..1.
        condition: (B, 7).
    """

    noisy: Tensor
    velocity: Tensor
    time: Tensor
    condition: Tensor


class TexturesTask:
    """Trains a `DiffusionNet` by flow matching.

    Args:
        make: (count, generator) to that many textures (B, 3, S, S) 0..1 on the network's device.
        batch: pictures of a step.
        held_out: (B, 3, S, S) 0..1 that training never shows.
        network: sizes.
        seed: of the initial weights; what is held out is noised alike for every seed.
        init: weights to begin with instead of random ones.
        notes: what the weights file shall say about its origin.
        device: where the network is.
    """

    name = 'textures'

    def __init__(
        self,
        make: Callable[[int, torch.Generator], Tensor],
        *,
        batch: int,
        held_out: Tensor,
        network: DiffusionConfig | None = None,
        seed: int = 0,
        init: Mapping[str, Tensor] | None = None,
        notes: dict[str, str] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        sizes = network or DiffusionConfig()
        net = DiffusionNet(sizes, generator=torch.Generator().manual_seed(seed))
        if init is not None:
            fill(net, init)
        net.to(device)  # after `fill`, which takes the tensors as they are
        place = net.examples.device
        net.examples = measure(make(sizes.examples, torch.Generator(place).manual_seed(2)))
        self.network: nn.Module = net
        self._make, self._count, self._sizes = make, batch, sizes
        self._notes = notes or {}
        self._held_out = held_out
        fixed = torch.Generator(place).manual_seed(1)
        self._examined = [noised(held_out, fixed) for _ in range(_MOMENTS)]

    def batch(self, generator: torch.Generator) -> Noised:
        """See `Task.batch`."""
        return noised(self._make(self._count, generator), generator)

    def loss(self, batch: Noised, progress: float) -> Loss:
        """See `Task.loss`: squared error of the velocity; see `_error`."""
        del progress  # the same from first to last
        total = _error(self.network, batch)
        return Loss(total, {'velocity': total.detach()})

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """See `Task.validate`; `fit` decides.

        `fit` is the share of what no linear guess can explain of held-out pictures that is
        explained, `spectrum` the distance of made to held-out pictures (see `quality`), `seam`
        1.0 when they tile.
        """
        assert isinstance(network, DiffusionNet)
        device = self._held_out.device
        with torch.autocast(device.type, torch.bfloat16, enabled=profits_from_bfloat16(device)):
            errors = [_error(network, batch) for batch in self._examined]
        fixed = torch.Generator(device).manual_seed(3)
        made = sample_textures(network, _JUDGED, self._held_out.shape[-1], fixed)
        return {
            'fit': float(1.0 - torch.stack(errors).mean()),
            'spectrum': spectrum_distance(made, self._held_out),
            'seam': seam_ratio(made),
        }

    def export(self, network: nn.Module, path: Path) -> None:
        """See `Task.export`: weights of kind 'diffusion'."""
        save_weights(path, network, kind=KIND, config=self._sizes, notes=self._notes)


def noised(pictures: Tensor, generator: torch.Generator) -> Noised:
    """Put pictures (B, 3, S, S) 0..1 at random times of their way to noise.

    Times in the middle, where most is to be learned, are more frequent (logit-normal; Esser 2024).
    """
    place, device = generator.device, pictures.device
    noise = torch.randn(pictures.shape, generator=generator, device=place).to(device)
    time = torch.randn(len(pictures), generator=generator, device=place).sigmoid().to(device)
    clean = 2.0 * pictures - 1.0
    share = time[:, None, None, None]
    state = (1.0 - share) * clean + share * noise
    return Noised(state, noise - clean, time, measure(pictures))


def _error(network: nn.Module, batch: Noised) -> Tensor:
    """Mean squared error of the velocity in units of the best linear guess: 1 knows nothing."""
    found = network(batch.noisy, batch.time, batch.condition)
    unit = (difficulty(batch.time) / SPREAD)[:, None, None, None]
    return ((found.float() - batch.velocity) * unit).square().mean()
