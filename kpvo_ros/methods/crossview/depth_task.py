"""Depth and odometry as a task of the training loop: rendered walks in, weights out (seed 004)."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path

import torch
from torch import nn

from kpvo_ros.config.schema import parameter
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.errors import NetworkError
from kpvo_ros.methods.crossview.held_out_depth import score_held_out
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.methods.crossview.rendered_data import RenderedDataConfig
from kpvo_ros.methods.crossview.supervised import SupervisedConfig, supervised_loss
from kpvo_ros.nets.alignment import AlignmentNetConfig, load_alignment_net
from kpvo_ros.nets.checkpoint import read_kind, save_weights
from kpvo_ros.nets.completion import KIND as COMPLETION
from kpvo_ros.nets.completion import load_completion_net
from kpvo_ros.nets.depth_vo import (
    BASE,
    SMALL,
    TINY,
    DepthVo,
    DepthVoConfig,
    DepthVoNet,
    load_depth_vo_net,
)
from kpvo_ros.nets.depth_vo import KIND as PLAIN
from kpvo_ros.nets.fusion import (
    FUSIONS,
    EarlyFusionNet,
    LateFusionNet,
    fused,
    kind_of,
    load_fusion_net,
    make_fusion,
    start_from_pretexts,
)
from kpvo_ros.nets.fusion import KIND as FUSED
from kpvo_ros.training.task import Loss

SIZES = {'tiny': TINY, 'small': SMALL, 'base': BASE}
AnyDepthVoNet = DepthVoNet | LateFusionNet


def _for_transformers() -> TrainingConfig:
    """Of the shared defaults a sixth of the rate, reached slowly, and a stronger pull to zero."""
    return TrainingConfig(learning_rate=5e-4, warmup_steps=300, weight_decay=0.05)


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """Everything that can be set about supervised training of depth and odometry."""

    pairs: int = parameter(16, 'Pairs of a step; more on a GPU.', low=1, high=4096)
    walks: int = parameter(
        600, 'Rendered walks to choose from, 2 MB and about a second each.', low=1, high=100000
    )
    held_out_walks: int = parameter(
        40, 'Walks through other worlds that are only measured with.', low=1, high=10000
    )
    held_out_pairs: int = parameter(
        120, 'Pairs of them that a validation looks at.', low=1, high=10000
    )
    walk_seed: int = parameter(
        0, 'Other numbers give other worlds; another bank is needed then.', low=0, high=2**31 - 1
    )
    model: str = parameter(
        'tiny',
        'Size of a new network; tiny for CPUs, small and base for GPUs. Weights given with --init '
        'keep their own size.',
        choices=tuple(SIZES),
    )
    fusion: str = parameter(
        'none',
        'Both pretext tasks in one network: early joins their encoders, late two networks; none '
        'is smallest, and what the odometry can use.',
        choices=FUSIONS,
    )
    alignment: str = parameter(
        '',
        'Weights of kpvo train alignment to begin with, of the same model; completion comes with '
        '--init, and without fusion one of the two is all there is room for.',
    )
    training: TrainingConfig = dataclasses.field(default_factory=_for_transformers)
    data: RenderedDataConfig = dataclasses.field(default_factory=RenderedDataConfig)
    loss: SupervisedConfig = dataclasses.field(default_factory=SupervisedConfig)


class DepthTask:
    """Trains a network for depth and odometry on pairs whose depth and motion are known.

    Args:
        make_pairs: (count, generator) to that many pairs on `device`.
        held_out: pairs that no training shows.
        config: all parameters.
        network: to begin with, see `start_network`; a new one when None.
        notes: what the weights file shall say about its origin.
        device: where to train.
    """

    name = 'depth'

    def __init__(
        self,
        make_pairs: Callable[[int, torch.Generator], FramePairs],
        *,
        held_out: FramePairs,
        config: DepthConfig,
        network: AnyDepthVoNet | None = None,
        notes: dict[str, str] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        network = network or start_network(config)
        self._sizes: DepthVoConfig = network.config
        self.network: nn.Module = network.to(device)
        self._make_pairs, self._config, self._notes = make_pairs, config, notes or {}
        self._held_out = held_out.check().to(device)

    def batch(self, generator: torch.Generator) -> FramePairs:
        """See `Task.batch`."""
        return self._make_pairs(self._config.pairs, generator)

    def loss(self, batch: FramePairs, progress: float) -> Loss:
        """See `Task.loss`.

        Depth of both images counts. Of the motion one direction is enough: the network gives the
        inverse for exchanged images by itself. The two networks of a late fusion learn by
        themselves (seed 004 [0160], [0161]); the fused answer, whose parts are told, teaches
        nothing but how far each is to be trusted.
        """
        network, views = self.network, (batch.image0, batch.image1, batch.K0, batch.K1)
        if not isinstance(network, LateFusionNet):
            return self._cost(network(*views), batch)
        first, second = network.both(*views)
        one, two = self._cost(first, batch), self._cost(second, batch)
        first, second = (DepthVo(*(part.detach() for part in said)) for said in (first, second))
        with torch.autocast(batch.image0.device.type, enabled=False):
            both = self._cost(fused(first, second, network.votes), batch)
        told = {'completion': one.total.detach(), 'alignment': two.total.detach()}
        return Loss(one.total + two.total + both.total, both.parts | told)

    def validate(self, network: nn.Module) -> dict[str, float]:
        """See `Task.validate` and `score_held_out`; `acc_125` decides."""
        return score_held_out(network, self._held_out)

    def export(self, network: nn.Module, path: Path) -> None:
        """See `Task.export`: weights of kind 'depth_vo', or with fusion 'depth_vo_fusion'."""
        save_weights(path, network, kind=kind_of(network), config=self._sizes, notes=self._notes)

    def _cost(self, said: DepthVo, batch: FramePairs) -> Loss:
        """What an answer about a batch costs."""
        with torch.autocast(batch.image0.device.type, enabled=False):
            return supervised_loss(
                torch.cat([said.depth0, said.depth1]).float(),
                torch.cat([said.log_sigma0, said.log_sigma1]).float(),
                said.T_1_0.float(),
                torch.cat([batch.depth0, batch.depth1]),
                batch.T_1_0,
                self._config.loss,
            )


def start_network(config: DepthConfig, init: Path | None = None) -> AnyDepthVoNet:
    """The network that training begins with.

    Args:
        config: size, fusion and seed of a new network, and weights of cross-view alignment.
        init: weights of a whole network, or of cross-view completion, which bring encoder and
            decoder; the heads are new then. Either keeps the sizes it has.

    Raises:
        NetworkError: the weights are neither, or do not fit each other or the fusion.
    """
    kind = None if init is None else read_kind(init)
    if init is not None and kind in (PLAIN, FUSED):
        return _whole(config, init, kind).train()
    if init is not None and kind != COMPLETION:
        raise NetworkError(
            f'weights {init} are of kind {str(kind)[:40]!r} and start no depth network; give '
            '--init those of kpvo train depth or completion, and alignment=FILE those of '
            'kpvo train alignment'
        )
    sizes = SIZES[config.model] if init is None else load_completion_net(init).config
    alignment = Path(config.alignment) if config.alignment else None
    code = None
    if alignment is not None:
        code = load_alignment_net(alignment).config
        _check_encoders(sizes, code, f'model={config.model}' if init is None else str(init))
    generator = torch.Generator().manual_seed(config.training.seed)
    network = make_fusion(config.fusion, sizes, code, generator=generator)
    start_from_pretexts(network, init, alignment)
    return network


def _whole(config: DepthConfig, init: Path, kind: str) -> AnyDepthVoNet:
    """A network that is trained on.

    Raises:
        NetworkError: it is not fused as it should be, or there are weights for parts of it.
    """
    if config.alignment:
        raise NetworkError(
            f'weights {init} are a whole network that needs no other start; leave alignment out'
        )
    network = load_depth_vo_net(init) if kind == PLAIN else load_fusion_net(init)
    fusion = 'late' if isinstance(network, LateFusionNet) else 'none'
    fusion = 'early' if isinstance(network, EarlyFusionNet) else fusion
    if fusion != config.fusion:
        raise NetworkError(
            f'weights {init} are a whole network with fusion={fusion}, not {config.fusion}; '
            f'give fusion={fusion}, or weights of kpvo train completion'
        )
    return network


def _check_encoders(sizes: DepthVoConfig, code: AlignmentNetConfig, whose: str) -> None:
    """Refuse pretext tasks of encoders of two sizes.

    Raises:
        NetworkError: they have.
    """
    for name, needed in dataclasses.asdict(sizes.encoder).items():
        found = getattr(code.encoder, name)
        if found != needed:
            raise NetworkError(
                f'the encoder of the alignment weights has {name} = {found}, that of {whose} '
                f'{needed}; train all with the same model'
            )
