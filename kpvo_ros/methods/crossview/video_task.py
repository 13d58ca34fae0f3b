"""Depth and odometry learn from the robot's own video: adapters alone, or every weight.

Begins with a trained network. Adapters (seed 004 [0188]-[0194]) leave it as it is, byte by byte,
and are a small file beside it; full tuning makes another network.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
import dataclasses
import itertools
from pathlib import Path
import statistics
import time

import torch
from torch import nn

from kpvo_ros.config.schema import parameter
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.methods.crossview.video_data import TripletBatch, VideoTriplets
from kpvo_ros.methods.crossview.video_held_out import score_video
from kpvo_ros.methods.crossview.video_loss import look, memory, synthesis_loss
from kpvo_ros.methods.crossview.video_selection import VideoDataConfig
from kpvo_ros.methods.crossview.view_synthesis import ViewSynthesisConfig
from kpvo_ros.nets.adapter import AdapterConfig, freeze_base, insert_adapters, save_adapters
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.depth_vo import KIND, DepthVo, DepthVoNet
from kpvo_ros.training.task import Loss

_ADAPTER_RATE, _FULL_RATE = 1e-3, 1e-4
_HELD_OUT = 32  # triplets that are looked at in a validation
_TIMED_STEPS = 200


def _gentle() -> TrainingConfig:
    """Of adapters, which begin with nothing; the whole network knows much that it could lose."""
    return TrainingConfig(learning_rate=_ADAPTER_RATE, warmup_steps=50)


@dataclasses.dataclass(frozen=True)
class VideoConfig:
    """Everything that can be set about training on video."""

    pairs: int = parameter(
        4, 'Frames of a step, each with two neighbours; more on a GPU.', low=1, high=4096
    )
    adapters: bool = parameter(
        True,
        'Train adapters beside the frozen network; false trains every weight, at a tenth of the '
        'rate unless training.learning_rate says otherwise.',
    )
    adapter_width: int = parameter(16, 'Hidden units of adapters; 16 or 32.', low=1, high=1024)
    use: float = parameter(
        1.0,
        'Share of every recording, its beginning, that may be used at all; lower it to measure '
        'on the rest.',
        low=0.01,
        high=1.0,
    )
    held_out: float = parameter(
        0.3, 'Share of that, its end, that is not trained on but validated with.',
        low=0.01, high=0.9,
    )  # fmt: skip
    known_lengths: str = parameter(
        'off',
        'Lengths of motions for the scale loss: wheels takes the wheel odometry of bags, poses '
        'the recorded ground truth.',
        choices=('off', 'wheels', 'poses'),
    )
    colour: bool = parameter(
        False, 'Compare colours and not brightness alone; the loss takes three times as long.'
    )
    remember_weight: float = parameter(
        0.1,
        'Weight of the scale of depth before the training; video alone would lose the metres.',
        low=0.0,
    )
    doubt_weight: float = parameter(
        0.1, 'Weight of sigma before the training, of which video tells nothing.', low=0.0
    )
    training: TrainingConfig = dataclasses.field(default_factory=_gentle)
    data: VideoDataConfig = dataclasses.field(default_factory=VideoDataConfig)
    loss: ViewSynthesisConfig = dataclasses.field(default_factory=ViewSynthesisConfig)

    def __post_init__(self) -> None:
        # A default that depends on another value; a file written from it says what was taken.
        if not self.adapters and self.training.learning_rate == _ADAPTER_RATE:
            gentler = dataclasses.replace(self.training, learning_rate=_FULL_RATE)
            object.__setattr__(self, 'training', gentler)


class VideoTask:
    """Trains a `DepthVoNet`, or adapters in it, so that frames can be rebuilt from neighbours.

    Args:
        start: the trained network to begin with; becomes `network`.
        start_sha256: of the weights file it came from, hexadecimal; adapters are bound to it.
        triplets: to train on.
        held_out: triplets that no training shows.
        config: all parameters.
        notes: what the weights file shall say about its origin.
        device: where the network is.

    Raises:
        NetworkError: the network has adapters already, or no place for them.
    """

    name = 'video'

    def __init__(
        self,
        start: DepthVoNet,
        *,
        start_sha256: str,
        triplets: VideoTriplets,
        held_out: VideoTriplets,
        config: VideoConfig,
        notes: Mapping[str, str] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        start.to(device)
        self._before = start.fused()  # a copy, which stays what it is
        self._config, self._triplets, self._start_sha256 = config, triplets, start_sha256
        self._held_out = held_out.fixed(_HELD_OUT)
        self._held_out_before: Sequence[DepthVo] | None = None
        start.requires_grad_(True)
        if config.adapters:
            generator = torch.Generator().manual_seed(config.training.seed)
            insert_adapters(start, AdapterConfig(config.adapter_width), generator=generator)
            freeze_base(start)
        self.network: nn.Module = start
        self._notes = dict(notes or {})
        self._notes['trained_share'] = f'{self.trained_share:.4f}'
        self._stepped_s: deque[float] = deque(maxlen=_TIMED_STEPS)

    @property
    def trained_share(self) -> float:
        """Share of the parameters that learn, 0..1."""
        counts = [(p.numel(), p.requires_grad) for p in self.network.parameters()]
        return sum(n for n, learns in counts if learns) / sum(n for n, _ in counts)

    def batch(self, generator: torch.Generator) -> TripletBatch:
        """See `Task.batch`."""
        self._stepped_s.append(time.monotonic())
        return self._triplets.make(self._config.pairs, generator)

    def loss(self, batch: TripletBatch, progress: float) -> Loss:
        """See `Task.loss`; the parts are those of `synthesis_loss`, `remember` and `doubt`."""
        assert isinstance(self.network, DepthVoNet)
        config = self._config
        said = look(self.network, batch)
        first = batch.first()
        with torch.no_grad():  # of one triplet: the scale drifts slowly, and as a whole
            before = look(self._before, first)
        with torch.autocast(batch.shown.device.type, enabled=False):
            said = DepthVo(*(part.float() for part in said))
            before = DepthVo(*(part.float() for part in before))
            rows = [0, batch.triplets]
            kept = memory(DepthVo(*(part[rows] for part in said)), before)
            loss = synthesis_loss(said, batch, config.loss, colour=config.colour)
            total = loss.total + config.remember_weight * kept.drift
            total = total + config.doubt_weight * kept.doubt
        told = {'remember': kept.drift.detach(), 'doubt': kept.doubt.detach()}
        return Loss(total, loss.parts | told)

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """See `Task.validate` and `score_video`; `synthesis` decides."""
        assert isinstance(network, DepthVoNet)
        if self._held_out_before is None:
            self._held_out_before = [look(self._before, batch) for batch in self._held_out]
        return score_video(
            network,
            self._held_out,
            self._held_out_before,
            self._config.loss,
            colour=self._config.colour,
        )

    def export(self, network: nn.Module, path: Path) -> None:
        """See `Task.export`: adapters bound to the start, or weights of kind 'depth_vo'."""
        assert isinstance(network, DepthVoNet)
        notes = self._notes | self._seconds()
        if self._config.adapters:
            save_adapters(path, network, base_sha256=self._start_sha256, notes=notes)
        else:
            notes['start_sha256'] = self._start_sha256
            save_weights(path, network, kind=KIND, config=network.config, notes=notes)

    def _seconds(self) -> dict[str, str]:
        """Median time of a step in this sitting, as a note; nothing before the second step."""
        steps = [after - before for before, after in itertools.pairwise(self._stepped_s)]
        return {'seconds_per_step': f'{statistics.median(steps):.3f}'} if steps else {}
