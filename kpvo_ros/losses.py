"""Losses that several methods share; each is smallest at the right answer.

Images are (B, C, H, W) in 0..1, descriptors have unit length. A mask that leaves nothing gives 0
with a gradient path, so that a batch without any correspondence is a normal batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import GeometryError

_SSIM_C1 = 0.01**2  # Wang 2004, for images of 0..1
_SSIM_C2 = 0.03**2
_SSIM_SHARE = 0.85  # of the photometric loss, Godard 2017; seed 004 [0200]
_HUBER = 0.1  # distance of colours from which on a pixel pulls no harder, seed 004 [0117]
_TIP = 1e-6  # rounds the tip of a distance


def dual_softmax_loss(
    descriptor0: Tensor,
    descriptor1: Tensor,
    weight: Tensor,
    temperature: float,
    excluded: Tensor | None = None,
) -> Tensor:
    """Negative log likelihood that point i of image 0 and point i of image 1 choose each other.

    The mutual softmax of Sun, "LoFTR", 2021: all other points are the wrong answers, in both
    directions.

    Args:
        descriptor0: (B, N, D) unit length.
        descriptor1: (B, M, D) unit length, M at least N; those from N on have no partner and are
            wrong answers only.
        weight: (B, N), 0 for points without a partner.
        temperature: of the softmax; smaller asks for more distance to the second best.
        excluded: (B, N, M) bool, pairs that are no wrong answers, as they are as good as right.

    Returns:
        Weighted mean over the points, a scalar.

    Raises:
        GeometryError: the shapes do not fit.
    """
    count = descriptor0.shape[1]
    if (
        descriptor0.ndim != 3
        or weight.shape != descriptor0.shape[:2]
        or (descriptor1.shape[1] < count)
    ):
        raise GeometryError(
            f'descriptors (B, N, D), (B, M, D) and weight (B, N) expected, got '
            f'{tuple(descriptor0.shape)}, {tuple(descriptor1.shape)}, {tuple(weight.shape)}'
        )
    similarity = descriptor0 @ descriptor1.transpose(1, 2) / temperature  # (B, N, M)
    wrong = (
        torch.zeros_like(similarity, dtype=torch.bool) if excluded is None else excluded.clone()
    )
    # A point without a partner is nobody's right answer and must not be called a wrong one.
    wrong[:, :, :count] |= (weight <= 0).unsqueeze(1)
    wrong |= (weight <= 0).unsqueeze(2)
    wrong.diagonal(dim1=1, dim2=2).fill_(False)
    similarity = similarity.masked_fill(wrong, -torch.inf)
    right = similarity.diagonal(dim1=1, dim2=2)  # (B, N)
    forth = similarity.logsumexp(dim=2) - right
    back = similarity[:, :, :count].logsumexp(dim=1) - right
    return weighted_mean(0.5 * (forth + back), weight)


def info_nce_loss(vector0: Tensor, vector1: Tensor, temperature: float) -> Tensor:
    """Row i of both belong together, all other rows are strangers (van den Oord 2018), both ways.

    Args:
        vector0: (B, G) unit length.
        vector1: (B, G) unit length.
        temperature: of the softmax.

    Returns:
        A scalar; 0 for a batch of one, which has no strangers.
    """
    if vector0.ndim != 2 or vector0.shape != vector1.shape:
        raise GeometryError(
            f'two (B, G) expected, got {tuple(vector0.shape)} and {tuple(vector1.shape)}'
        )
    similarity = vector0 @ vector1.T / temperature
    own = torch.arange(len(vector0), device=vector0.device)
    return 0.5 * (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own))


def ssim(image0: Tensor, image1: Tensor) -> Tensor:
    """(B, C, H, W) structural similarity -1..1 in windows of 3 x 3 (Wang 2004), 1 where equal."""

    def mean(image: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode='reflect'), 3, 1)

    mean0, mean1 = mean(image0), mean(image1)
    variance0 = mean(image0 * image0) - mean0 * mean0
    variance1 = mean(image1 * image1) - mean1 * mean1
    covariance = mean(image0 * image1) - mean0 * mean1
    above = (2 * mean0 * mean1 + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    below = (mean0**2 + mean1**2 + _SSIM_C1) * (variance0 + variance1 + _SSIM_C2)
    return above / below


def photometric_loss(image0: Tensor, image1: Tensor, valid: Tensor | None = None) -> Tensor:
    """How different two aligned images look: SSIM and L1 as in Godard 2017.

    Args:
        image0: (B, C, H, W) in 0..1.
        image1: the same shape.
        valid: (B, 1, H, W) bool; None for everywhere.

    Returns:
        Mean over the valid pixels, a scalar; 0 when equal.
    """
    cost = photometric_cost(image0, image1)
    return cost.mean() if valid is None else weighted_mean(cost, valid.to(cost.dtype))


def photometric_cost(image0: Tensor, image1: Tensor) -> Tensor:
    """(B, 1, H, W) the `photometric_loss` of every pixel, 0 where windows of 3 x 3 agree."""
    structure = (1.0 - ssim(image0, image1)).mul(0.5).clamp(0.0, 1.0)
    colour = (image0 - image1).abs()
    return (_SSIM_SHARE * structure + (1 - _SSIM_SHARE) * colour).mean(dim=1, keepdim=True)


def alignment_loss(
    rebuilt: Tensor, image: Tensor, moved: Tensor, latent: Tensor, latent_weight: float
) -> Tensor:
    """A view rebuilt from the turned latent vectors of the other one (seed 004 [0117]).

    Args:
        rebuilt: (B, C, H, W) decoded from `moved`.
        image: (B, C, H, W) the view it should be.
        moved: (B, N, D) vectors of the other view after the rotation.
        latent: (B, N, D) vectors of this view.
        latent_weight: of the distance of the vectors against that of the colours.

    Returns:
        Mean over the pixels of the Huber loss of the distance of the colours, plus the weighted
        root mean square distance of the vectors; a scalar, 0 when both agree. Means instead of
        the sums of the seed, so that the weight means the same at every size.

    Raises:
        GeometryError: the shapes do not fit.
    """
    if rebuilt.shape != image.shape or moved.shape != latent.shape:
        raise GeometryError(
            f'two equal images and two equal latents expected, got {tuple(rebuilt.shape)}, '
            f'{tuple(image.shape)}, {tuple(moved.shape)}, {tuple(latent.shape)}'
        )
    square = (rebuilt - image).square().sum(dim=1)
    # The slope of a root is infinite at 0, where the square branch is chosen.
    far = square > _HUBER**2
    distance = torch.where(far, square, 1.0).sqrt()
    colour = torch.where(far, _HUBER * (distance - 0.5 * _HUBER), 0.5 * square).mean()
    apart = (moved - latent).square().mean(dim=(1, 2)).add(_TIP**2).sqrt() - _TIP
    return colour + latent_weight * apart.mean()


def smoothness_loss(disparity: Tensor, image: Tensor) -> Tensor:
    """Slopes of the disparity where the image has none (Godard 2017); free of its scale.

    Args:
        disparity: (B, 1, H, W) positive.
        image: (B, C, H, W) whose edges excuse edges of the disparity.
    """
    relative = disparity / (disparity.mean(dim=(2, 3), keepdim=True) + 1e-7)
    cost = relative.new_zeros(())
    for dim in (2, 3):
        slope = relative.diff(dim=dim).abs()
        edge = image.diff(dim=dim).abs().mean(dim=1, keepdim=True)
        cost = cost + (slope * torch.exp(-edge)).mean()
    return cost


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Sum of weighted values over the sum of weights; 0 with a gradient path without weights."""
    # Where, not only times: an infinite cost without weight would still come out as NaN.
    values = torch.where(weight > 0, values, values.detach().new_zeros(()))
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)
