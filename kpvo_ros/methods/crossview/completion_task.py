"""Cross-view completion as a task of the training loop: pairs in, a start for depth out.

Most patches of one image are hidden, and the network draws them from the rest and from the other
view (seed 004 [0084]-[0102]). Weights go to `kpvo train depth --init`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kpvo_ros.config.schema import parameter
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.methods.crossview.depth_task import SIZES
from kpvo_ros.methods.crossview.frame_data import FrameDataConfig, MakePairs
from kpvo_ros.methods.crossview.masking import PatchMasks, completion_loss, random_masks
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.methods.crossview.rendered_data import RenderedDataConfig
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.completion import KIND, CompletionNet
from kpvo_ros.training.task import Loss

_HELD_OUT_SEED = 5  # of the masks of the held-out pairs
_BATCH = 16
_TINY = 1e-9  # below it an error is none


def _for_transformers() -> TrainingConfig:
    """As the seed trains ([0101]: AdamW, cosine after a warm-up), scaled to small batches."""
    return TrainingConfig(learning_rate=5e-4, warmup_steps=300, weight_decay=0.05)


@dataclasses.dataclass(frozen=True)
class CompletionConfig:
    """Everything that can be set about pre-training by cross-view completion."""

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
        'Size of the network that shall start from this one; tiny for CPUs, small and base for '
        'GPUs. Weights given with --init must have it.',
        choices=tuple(SIZES),
    )
    decoder_depth: int = parameter(
        0, 'Blocks of the decoder, at least 4; 0 for those of the model.', low=0, high=64
    )
    mask_ratio: float = parameter(
        0.9,
        'Share of the patches that are hidden; lower it where two frames share little.',
        low=0.05,
        high=0.99,
    )
    normalized: bool = parameter(
        True, 'Draw every patch with mean 0 and spread 1; false to compare with plain colours.'
    )
    cameras: bool = parameter(
        True, 'Tell the network the rays of cameras that are known; false leaves all out.'
    )
    training: TrainingConfig = dataclasses.field(default_factory=_for_transformers)
    data: RenderedDataConfig = dataclasses.field(default_factory=RenderedDataConfig)
    frames: FrameDataConfig = dataclasses.field(default_factory=FrameDataConfig)


class CompletionBatch(NamedTuple):
    """Pairs, and which patches of image 0 are hidden."""

    pairs: FramePairs
    masks: PatchMasks


class CompletionTask:
    """Trains a `CompletionNet` on pairs of which nothing need be known but the pictures.

    Args:
        make_pairs: (count, generator) to that many pairs on `device`.
        held_out: pairs that no training shows.
        config: all parameters.
        network: to begin with; a new one when None.
        notes: what the weights file shall say about its origin.
        device: where to train.
    """

    name = 'completion'

    def __init__(
        self,
        make_pairs: MakePairs,
        *,
        held_out: FramePairs,
        config: CompletionConfig,
        network: CompletionNet | None = None,
        notes: dict[str, str] | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        network = network or new_completion_net(config)
        self._sizes = network.config
        self.network: nn.Module = network.to(device)
        self._make_pairs, self._config, self._notes = make_pairs, config, notes or {}
        held_out = held_out.check().to(device)
        generator = torch.Generator(held_out.image0.device).manual_seed(_HELD_OUT_SEED)
        self._held_out = CompletionBatch(held_out, self._masks(held_out, generator))

    def batch(self, generator: torch.Generator) -> CompletionBatch:
        """See `Task.batch`."""
        pairs = self._make_pairs(self._config.pairs, generator)
        return CompletionBatch(pairs, self._masks(pairs, generator))

    def loss(self, batch: CompletionBatch, progress: float) -> Loss:
        """See `Task.loss`."""
        total = self._error(self.network, batch)
        return Loss(total, {'error': total.detach()})

    @torch.inference_mode()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """See `Task.validate`.

        Returns:
            `minus_error`: of the hidden patches of fixed pairs, decides; `error`: the same;
            `other_view`: share by which the error is lower than with the view of a stranger, so
            0 where the network completes from one image alone.
        """
        network.eval()
        pairs, masks = self._held_out
        strangers = pairs._replace(image1=pairs.image1.roll(1, 0), K1=pairs.K1.roll(1, 0))
        errors = [self._mean_error(network, CompletionBatch(p, masks)) for p in (pairs, strangers)]
        return {
            'minus_error': -errors[0],
            'error': errors[0],
            'other_view': 1.0 - errors[0] / max(errors[1], _TINY),
        }

    def export(self, network: nn.Module, path: Path) -> None:
        """See `Task.export`: weights of kind 'completion'."""
        save_weights(path, network, kind=KIND, config=self._sizes, notes=self._notes)

    def _masks(self, pairs: FramePairs, generator: torch.Generator) -> PatchMasks:
        size_px = self._sizes.patch_px
        height, width = pairs.image0.shape[-2:]
        patches = (height // size_px) * (width // size_px)
        return random_masks(len(pairs.image0), patches, self._config.mask_ratio, generator)

    def _error(self, network: nn.Module, batch: CompletionBatch) -> Tensor:
        pairs, masks = batch
        K0, K1 = (pairs.K0, pairs.K1) if self._config.cameras else (None, None)
        drawn = network(pairs.image0, pairs.image1, masks.kept, K0, K1)
        with torch.autocast(drawn.device.type, enabled=False):
            return completion_loss(
                drawn, pairs.image0, masks, self._sizes.patch_px, self._config.normalized
            )

    def _mean_error(self, network: nn.Module, batch: CompletionBatch) -> float:
        """Of many pairs, some at a time."""
        total, count = 0.0, len(batch.pairs.image0)
        for start in range(0, count, _BATCH):
            rows = slice(start, start + _BATCH)
            pairs = FramePairs(*(value[rows] for value in batch.pairs))
            masks = PatchMasks(
                batch.masks.kept[rows], batch.masks.masked[rows], batch.masks.inverse[rows]
            )
            part = CompletionBatch(pairs, masks)
            total += float(self._error(network, part)) * len(pairs.image0)
        return total / count


def new_completion_net(config: CompletionConfig) -> CompletionNet:
    """A network with initial weights.

    Raises:
        NetworkError: a decoder depth no network has.
    """
    sizes = SIZES[config.model]
    if config.decoder_depth:
        sizes = dataclasses.replace(sizes, decoder_depth=config.decoder_depth)
    generator = torch.Generator().manual_seed(config.training.seed)
    return CompletionNet(sizes, generator=generator)
