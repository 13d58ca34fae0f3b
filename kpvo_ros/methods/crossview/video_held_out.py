"""How well frames that no training showed are rebuilt, in one number that cannot be cheated.

The training loss leaves out static pixels and those that no neighbour shows; a network that calls
every motion nothing, or looks away, would pay nothing. Here all pixels count, and what is not
seen costs as much as taking the neighbour as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math

import torch

from kpvo_ros.losses import photometric_cost
from kpvo_ros.methods.crossview.video_data import TripletBatch
from kpvo_ros.methods.crossview.video_loss import compared, look, memory, synthesis_loss
from kpvo_ros.methods.crossview.view_synthesis import ViewSynthesisConfig
from kpvo_ros.nets.depth_vo import DepthVo, DepthVoNet

_TOLD = ('photometric', 'consistency', 'smoothness', 'seen')


@torch.no_grad()
def score_video(
    network: DepthVoNet,
    batches: Sequence[TripletBatch],
    before: Sequence[DepthVo],
    config: ViewSynthesisConfig,
    *,
    colour: bool = True,
) -> dict[str, float]:
    """Score a network on held-out triplets.

    Args:
        network: in evaluation mode.
        batches: held-out triplets, at least one.
        before: what the network said of them before the training.
        config: weights of the losses; the switches that leave pixels out are not followed.
        colour: see `synthesis_loss`.

    Returns:
        `synthesis`: minus the loss of rebuilding, higher is better;
        `photometric`, `consistency`, `smoothness`: its parts before their weights, and `seen`, the
            share of pixels that a neighbour shows;
        `scale`: median depths over those before the training.
    """
    plain = dataclasses.replace(config, ignore_static=False, downweight_moving=False)
    cost, log_scale, weight = 0.0, 0.0, 0
    told = dict.fromkeys(_TOLD, 0.0)
    for batch, then in zip(batches, before, strict=True):
        said = look(network, batch)
        loss = synthesis_loss(said, batch, plain, colour=colour)
        parts = {name: float(part) for name, part in loss.parts.items()}
        unmoved = float(photometric_cost(*compared(batch, colour)).mean())
        parts['photometric'] += (1.0 - parts['seen']) * (unmoved - parts['photometric'])
        cost += batch.triplets * (
            config.photometric_weight * parts['photometric']
            + config.consistency_weight * parts['consistency']
            + config.smoothness_weight * parts['smoothness']
        )
        log_scale += batch.triplets * float(memory(said, then).log_scale)
        told = {name: told[name] + batch.triplets * parts[name] for name in _TOLD}
        weight += batch.triplets
    return {
        'synthesis': -cost / weight,
        **{name: value / weight for name, value in told.items()},
        'scale': math.exp(log_scale / weight),
    }
