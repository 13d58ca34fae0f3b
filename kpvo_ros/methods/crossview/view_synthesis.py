"""Depth and motion learn from video alone: each view must be rebuilt from its neighbours.

The losses of seed 004 [0196]-[0202] (there eq. 1-5; Bian, "SC-Depth", 2019): colours of the
rebuilt view, depth of one view against the depth of the other, smooth depth. Added are the minimum
over neighbours and the mask of static pixels (Godard, "Monodepth2", 2019), an alignment of the
exposure, and the scale, where wheels or a second camera know how far the camera went.

Float32 throughout: leave autocast before, as half precision has no sub-pixel coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.config.schema import parameter
from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.sampling import sample
from kpvo_ros.geometry.warp import warp_by_depth
from kpvo_ros.losses import photometric_cost, smoothness_loss, weighted_mean
from kpvo_ros.training.task import Loss

_STANDING_M = 0.01  # shorter motions are told apart by their difference, not by their ratio
_QUANTILES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # beyond lie glare and shadow
_MOST_GAIN = 4.0  # two stops of exposure
_FLAT = 1e-4  # variance of the quantiles below which a picture tells no gain
_STRIDE = 2  # of the pixels that the exposure is measured from
_WHOLE = 0.999  # of the weight of bilinear sampling lies on known depths


@dataclasses.dataclass(frozen=True)
class ViewSynthesisConfig:
    """Weights and switches of the losses that need no truth."""

    photometric_weight: float = parameter(1.0, 'Weight of the colours of rebuilt views.', low=0.0)
    consistency_weight: float = parameter(
        0.5, 'Weight of the agreement of the depths of two views; holds the scale of a video.',
        low=0.0,
    )  # fmt: skip
    smoothness_weight: float = parameter(
        0.1, 'Weight of smooth depth; lower it when thin things vanish.', low=0.0
    )
    scale_weight: float = parameter(
        0.1, 'Weight of known lengths of motions; without effect where none is known.', low=0.0
    )
    downweight_moving: bool = parameter(
        True, 'Colours count less where the depths of two views disagree: moving or hidden.'
    )
    ignore_static: bool = parameter(
        True, 'Ignore pixels that look more alike without warp: standstill, or moving alongside.'
    )
    best_neighbour: bool = parameter(
        True, 'A pixel counts in the neighbour that shows it best; false for all of them.'
    )
    align_brightness: bool = parameter(
        True, 'Take out gain and offset between views; false for cameras of fixed exposure.'
    )


class View(NamedTuple):
    """One frame and what the network says of it.

    Attributes:
        image: (B, C, H, W) in 0..1.
        depth: (B, 1, H, W) metres; zero, negative or NaN is unknown.
        K: (B, 3, 3) pinhole matrix.
    """

    image: Tensor
    depth: Tensor
    K: Tensor


class Neighbour(NamedTuple):
    """Another view of the same scene, and the motion to it.

    Attributes:
        view: of the same size as the view it helps to rebuild.
        T_1_0: (B, 4, 4) maps points of the rebuilt view's camera into this one's.
        length_m: (B,) known length of the motion; NaN where unknown, None for nowhere.
    """

    view: View
    T_1_0: Tensor
    length_m: Tensor | None = None


class Rebuilt(NamedTuple):
    """View 0 as a neighbour shows it.

    Attributes:
        image: (B, C, H, W) colours of the neighbour arranged as view 0.
        valid: (B, 1, H, W) bool, the set V of the seed: the point lies in the neighbour's
            picture, and both depths are known.
        difference: (B, 1, H, W) D_diff 0..1, |computed - interpolated| / (computed + interpolated)
            of the depths in the neighbour; 0 where not valid.
    """

    image: Tensor
    valid: Tensor
    difference: Tensor


def view_synthesis_loss(
    view: View,
    neighbours: Sequence[Neighbour],
    config: ViewSynthesisConfig = ViewSynthesisConfig(),
) -> Loss:
    """The loss of rebuilding a view; swap the roles for the other direction.

    Args:
        view: to rebuild.
        neighbours: at least one, to rebuild it from.
        config: weights.

    Returns:
        Total, and the parts `photometric`, `consistency`, `smoothness`, `scale`, before their
        weights, with `seen`, the share of pixels that some neighbour shows, and `counted`, the
        share whose colours count. 0 with a gradient path where nothing is seen.

    Raises:
        GeometryError: there is no neighbour, or a shape does not fit.
    """
    if not neighbours:
        raise GeometryError('a view cannot be rebuilt from nothing: pass a neighbour')
    for neighbour in neighbours:
        _check(view, neighbour)
    rebuilt = [rebuild(view, neighbour) for neighbour in neighbours]
    photometric, counted = _photometric(view, neighbours, rebuilt, config)
    disparity, _ = _disparity(view.depth)
    parts = {
        'photometric': photometric,
        'consistency': consistency_loss(rebuilt),
        'smoothness': smoothness_loss(disparity, view.image),
        'scale': torch.stack([scale_loss(n.T_1_0, n.length_m) for n in neighbours]).mean(),
    }
    weights = {
        'photometric': config.photometric_weight,
        'consistency': config.consistency_weight,
        'smoothness': config.smoothness_weight,
        'scale': config.scale_weight,
    }
    total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
    told = {name: part.detach() for name, part in parts.items()}
    told['seen'] = torch.stack([one.valid for one in rebuilt]).any(dim=0).to(total.dtype).mean()
    told['counted'] = counted.to(total.dtype).mean()
    return Loss(total, told)


def rebuild(view: View, neighbour: Neighbour) -> Rebuilt:
    """View 0 in the colours of a neighbour, and where their depths disagree; differentiable."""
    other = neighbour.view
    warp = warp_by_depth(other.image, view.depth, view.K, other.K, neighbour.T_1_0)
    # Bilinear in the inverse depth, which is linear on planes; D_diff of inverse depths is the
    # same as that of depths.
    disparity, known = _disparity(other.depth)
    interpolated = sample(disparity, warp.xy)
    valid = warp.valid & (sample(known.to(disparity.dtype), warp.xy) > _WHOLE)
    product = torch.where(valid, warp.depth_in_1 * interpolated, 1.0)
    return Rebuilt(warp.image, valid, (product - 1.0).abs() / (product + 1.0))


def consistency_loss(rebuilt: Sequence[Rebuilt]) -> Tensor:
    """L_g of seed 004 [0198]: mean of D_diff over all pixels that are seen."""
    difference = torch.stack([one.difference for one in rebuilt])
    valid = torch.stack([one.valid for one in rebuilt])
    return weighted_mean(difference, valid.to(difference.dtype))


def scale_loss(T_1_0: Tensor, length_m: Tensor | None) -> Tensor:
    """How many times too long or too short motions are, as the absolute logarithm.

    Below a centimetre the difference counts instead of the ratio, so that standing still is a
    length like any other.

    Args:
        T_1_0: (B, 4, 4).
        length_m: (B,) known lengths; NaN, infinite or negative is unknown.

    Returns:
        Mean over the known ones, a scalar; 0 with a gradient path without any.
    """
    square = T_1_0[:, :3, 3].square().sum(dim=-1)
    if length_m is None:
        return 0.0 * square.sum()
    known = torch.isfinite(length_m) & (length_m >= 0)
    wanted = torch.where(known, length_m, 0.0).square()
    # The square first: the length itself has no slope at zero.
    ratio = 0.5 * (torch.log(square + _STANDING_M**2) - torch.log(wanted + _STANDING_M**2))
    return weighted_mean(ratio.abs(), known.to(ratio.dtype))


@torch.no_grad()
def brightness_between(image: Tensor, reference: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset (B, 1, 1, 1) with which an image is as bright as its reference.

    The line through the quantiles of both, fitted by least squares. Unlike a fit to pairs of
    pixels it does not fade the image where the views do not fall together yet, and the brightest
    and darkest fifth take no part.

    Args:
        image: (B, C, H, W), `gain * image + offset ~ reference`.
        reference: (B, C, H, W).
        valid: (B, 1, H, W) bool, pixels to compare.

    Returns:
        1 and 0 where no pixel is valid; gain 1 where a picture is flat; else gain 1/4..4.
    """
    every = (..., slice(None, None, _STRIDE), slice(None, None, _STRIDE))
    levels = image.new_tensor(_QUANTILES)
    quantiles = []
    for picture in (image, reference):
        gray = picture.mean(dim=1, keepdim=True).masked_fill(~valid, torch.nan)[every]
        quantiles.append(torch.nanquantile(gray.flatten(1), levels, dim=1))  # (levels, B)
    mean0, mean1 = (q.mean(dim=0) for q in quantiles)
    centred, target = quantiles[0] - mean0, quantiles[1] - mean1
    variance, common = centred.square().mean(dim=0), (centred * target).mean(dim=0)
    gain = (common / variance.clamp(min=_FLAT)).clamp(1 / _MOST_GAIN, _MOST_GAIN)
    gain = torch.where(variance > _FLAT, gain, 1.0)
    offset = (mean1 - gain * mean0).nan_to_num(0.0)
    return gain.reshape(-1, 1, 1, 1), offset.reshape(-1, 1, 1, 1)


def _photometric(
    view: View,
    neighbours: Sequence[Neighbour],
    rebuilt: Sequence[Rebuilt],
    config: ViewSynthesisConfig,
) -> tuple[Tensor, Tensor]:
    """L_p^m of seed 004 [0200], a scalar, and (B, 1, H, W) bool: the pixels that count."""
    costs, still, valid = [], [], []
    for neighbour, one in zip(neighbours, rebuilt, strict=True):
        image, plain = one.image, neighbour.view.image
        if config.align_brightness:
            image = _aligned(image, view.image, one.valid)
            # By itself: a wrong warp tells a wrong exposure, and standstill would not be noticed.
            plain = _aligned(plain, view.image, torch.ones_like(one.valid))
        costs.append(photometric_cost(view.image, image))
        still.append(photometric_cost(view.image, plain).detach())
        # SSIM looks one pixel around: a window that is partly unseen says nothing.
        valid.append(-F.max_pool2d(-one.valid.to(image.dtype), 3, 1, 1) > 0)
    cost, counts = torch.stack(costs), torch.stack(valid)
    never = cost.new_tensor(torch.inf)
    seen_cost = torch.where(counts, cost.detach(), never)
    if config.ignore_static:
        counts &= seen_cost.amin(dim=0) < torch.stack(still).amin(dim=0)
    if config.best_neighbour:
        best = F.one_hot(seen_cost.argmin(dim=0), len(rebuilt)).movedim(-1, 0)
        counts &= best.bool()
    if config.downweight_moving:
        # Without gradient: else depths would learn to disagree where colours do.
        difference = torch.stack([one.difference for one in rebuilt]).detach()
        cost = cost * (1.0 - difference)
    return weighted_mean(cost, counts.to(cost.dtype)), counts.any(dim=0)


def _aligned(image: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
    gain, offset = brightness_between(image, reference, valid)
    return gain * image + offset


def _disparity(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse depth, 0 where unknown, and whether it is known; both (B, 1, H, W)."""
    known = torch.isfinite(depth) & (depth > 0)
    return torch.where(known, 1.0 / torch.where(known, depth, 1.0), 0.0), known


def _check(view: View, neighbour: Neighbour) -> None:
    batch, _, height, width = view.image.shape
    for name, one in (('the view', view), ('a neighbour', neighbour.view)):
        if one.image.shape != view.image.shape or one.depth.shape != (batch, 1, height, width):
            raise GeometryError(
                f'{name} has image {tuple(one.image.shape)} and depth {tuple(one.depth.shape)}: '
                f'resize them to {tuple(view.image.shape)} and {(batch, 1, height, width)}'
            )
