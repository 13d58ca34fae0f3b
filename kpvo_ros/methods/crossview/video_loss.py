"""What a triplet of frames costs: every view rebuilt from its neighbours, and nothing forgotten.

The target is rebuilt from the frames before and after it, each of those from the target: both
directions of seed 004 [0196]-[0202]. Colours do not tell the scale, so metres would slowly walk
away; a network that once knew them is reminded by what it said before the training.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kpvo_ros.geometry.warp import inverse_torch
from kpvo_ros.methods.crossview.derotation import turned_back, with_rotation
from kpvo_ros.methods.crossview.video_data import TripletBatch
from kpvo_ros.methods.crossview.view_synthesis import (
    Neighbour,
    View,
    ViewSynthesisConfig,
    view_synthesis_loss,
)
from kpvo_ros.nets.depth_vo import DepthVo, DepthVoNet
from kpvo_ros.synthetic.draws import luma
from kpvo_ros.training.task import Loss


def look(network: DepthVoNet, batch: TripletBatch) -> DepthVo:
    """What the network says of the 2 B pairs of B triplets."""
    targets, others = batch.shown.tensor_split([batch.triplets])
    return network(targets.repeat(2, 1, 1, 1), others, batch.pairs.K0, batch.pairs.K1)


def synthesis_loss(
    said: DepthVo, batch: TripletBatch, config: ViewSynthesisConfig, *, colour: bool = True
) -> Loss:
    """Mean of rebuilding the targets from both neighbours, and the neighbours from the targets.

    The depth of a target that comes with one neighbour is tried on the other neighbour as well.

    Args:
        said: result of `look`.
        batch: the triplets.
        config: weights.
        colour: False compares brightness alone, in a third of the time.

    Returns:
        Total and parts of `view_synthesis_loss`. Float32: leave autocast before.
    """
    pairs, T_1_0 = batch.pairs, said.T_1_0
    image0, image1 = compared(batch, colour)
    depth1 = seen1 = said.depth1
    if batch.R_1_0 is not None:
        depth1, seen = turned_back(said.depth1, pairs.K1, batch.R_1_0)
        seen1 = torch.where(seen, depth1, torch.nan)
        T_1_0 = with_rotation(T_1_0, batch.R_1_0)
    target = View(image0, said.depth0, pairs.K0)
    own = Neighbour(View(image1, seen1, pairs.K1), T_1_0, pairs.length_m)
    forth = view_synthesis_loss(target, [own, _exchanged(own, batch.triplets)], config)
    # Continued where it was not seen: the smoothness would draw its edge towards infinity.
    view1 = View(image1, depth1, pairs.K1)
    way_back = Neighbour(target, inverse_torch(T_1_0), pairs.length_m)
    back = view_synthesis_loss(view1, [way_back], config)
    parts = {name: 0.5 * (part + back.parts[name]) for name, part in forth.parts.items()}
    return Loss(0.5 * (forth.total + back.total), parts)


def compared(batch: TripletBatch, colour: bool) -> tuple[Tensor, Tensor]:
    """Both recorded images of the pairs, (2 B, 3, H, W), or (2 B, 1, H, W) their brightness."""
    image0, image1 = batch.pairs.image0, batch.pairs.image1
    return (image0, image1) if colour else (luma(image0), luma(image1))


class Memory(NamedTuple):
    """How far a network has gone from what it said before.

    Attributes:
        drift: scalar, |mean over the views of log(median depth / median depth before)|.
        doubt: scalar, mean |log sigma - log sigma before|.
        log_scale: scalar without gradient, `drift` with its sign.
    """

    drift: Tensor
    doubt: Tensor
    log_scale: Tensor


def memory(said: DepthVo, before: DepthVo) -> Memory:
    """Compare what is said of the same pairs (P, ...) now and before.

    One view may become nearer and another one farther, as their colours tell; the scale of all
    together may not. Video tells nothing about the doubt, so it stays what it was.
    """
    drifts = []
    for now, then in ((said.depth0, before.depth0), (said.depth1, before.depth1)):
        log_now, log_then = now.flatten(1).log(), then.flatten(1).log()
        mean = log_now.mean(dim=1)
        # The slope of a median would pull at a single pixel; that of the mean pulls at all.
        median = (log_now.detach().median(dim=1).values - mean).detach() + mean
        drifts.append(median - log_then.median(dim=1).values)
    log_scale = torch.stack(drifts).mean()
    doubt = torch.stack(
        [
            (said.log_sigma0 - before.log_sigma0).abs().mean(),
            (said.log_sigma1 - before.log_sigma1).abs().mean(),
        ]
    ).mean()
    return Memory(log_scale.abs(), doubt, log_scale.detach())


def _exchanged(neighbour: Neighbour, count: int) -> Neighbour:
    """The frames after the targets beside the pairs with those before, and the reverse."""
    image, depth, K = (value.roll(count, 0) for value in neighbour.view)
    length_m = None if neighbour.length_m is None else neighbour.length_m.roll(count, 0)
    return Neighbour(View(image, depth, K), neighbour.T_1_0.roll(count, 0), length_m)
