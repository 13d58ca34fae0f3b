"""Differentiable matching: which keypoint of A each keypoint of B is, and how sure (seed 001).

The mutual softmax of Rocco, "Neighbourhood consensus networks", 2018, and Sun, "LoFTR", 2021:
a pair is as likely as both choose each other. The place is then taken from B and the descriptor
from A ([0016], [0034]).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kpvo_ros.errors import GeometryError

_NEVER = -1e4  # logit of a pair that cannot be; an infinite one would make NaN of an empty row


@dataclasses.dataclass(frozen=True, eq=False)
class Assignment:
    """For each of M keypoints of B its partner among N of A.

    Attributes:
        share: (B, M, N) probability that B's keypoint means A's; rows sum to 1, or to 0 where
            there is nothing to match.
        mutual: (B, M) probability 0..1 that both choose each other, summed over A.
        nearest: (B, M) int64, the most likely partner.
        valid: (B, M) bool: B's keypoint and at least one of A exist.
    """

    share: Tensor
    mutual: Tensor
    nearest: Tensor
    valid: Tensor


def match(
    descriptor_b: Tensor,
    descriptor_a: Tensor,
    valid_b: Tensor,
    valid_a: Tensor,
    temperature: float,
) -> Assignment:
    """Match by descriptors.

    Args:
        descriptor_b: (B, M, D) unit length.
        descriptor_a: (B, N, D) unit length.
        valid_b: (B, M) bool.
        valid_a: (B, N) bool.
        temperature: of the softmax; smaller is nearer to a hard choice.

    Raises:
        GeometryError: the shapes do not fit.
    """
    if descriptor_b.shape[:2] != valid_b.shape or descriptor_a.shape[:2] != valid_a.shape:
        raise GeometryError(
            f'descriptors {tuple(descriptor_b.shape)} and {tuple(descriptor_a.shape)} do not fit '
            f'masks {tuple(valid_b.shape)} and {tuple(valid_a.shape)}'
        )
    pair = valid_b.unsqueeze(2) & valid_a.unsqueeze(1)
    logit = descriptor_b @ descriptor_a.transpose(1, 2) / temperature
    logit = logit.masked_fill(~pair, _NEVER)
    share = logit.softmax(dim=2) * pair
    mutual = (share * logit.softmax(dim=1)).sum(dim=2)
    valid = valid_b & valid_a.any(dim=1, keepdim=True)
    return Assignment(share, mutual, logit.argmax(dim=2), valid)


def from_other(assignment: Assignment, descriptor_a: Tensor, *, hard: bool) -> Tensor:
    """(B, M, D) the descriptors of A (B, N, D) that belong to the keypoints of B.

    Args:
        assignment: of the same keypoints.
        descriptor_a: in the order in which they were matched.
        hard: the descriptor of the nearest alone, with the gradient of the mean over all
            (straight through, Bengio 2013); else that mean.
    """
    mean = assignment.share @ descriptor_a
    if not hard:
        return mean
    index = assignment.nearest.unsqueeze(-1).expand(-1, -1, descriptor_a.shape[-1])
    chosen = descriptor_a.gather(1, index) * assignment.valid.unsqueeze(-1)
    return mean + (chosen - mean).detach()


def splat(
    values: Tensor, weight: Tensor, xy: Tensor, size_hw: tuple[int, int], stride: int
) -> Tensor:
    """Put values onto a map, each shared linearly by the four cells around its place.

    The transposed operation of bilinear sampling; differentiable in values, weights and places.
    What lies outside the map is lost.

    Args:
        values: (B, N, C).
        weight: (B, N) not negative.
        xy: (B, N, 2) pixels.
        size_hw: (h, w) of the map in cells.
        stride: pixels from one cell to the next; cell 0 is centred on (stride - 1) / 2.

    Returns:
        (B, C + 1, h, w): the weighted sums of the values, then those of the weights.
    """
    batch, count, channels = values.shape
    height, width = size_hw
    cells = (xy - (stride - 1) / 2.0) / stride
    corner = cells.detach().floor()
    part = (cells - corner).unbind(dim=-1)  # (B, N) each, 0..1
    content = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1) * weight.unsqueeze(-1)
    rows = torch.arange(batch, device=values.device).unsqueeze(1) * (height * width)
    flat = values.new_zeros(batch * height * width, channels + 1)
    for right in (0, 1):
        for below in (0, 1):
            column, row = corner[..., 0].long() + right, corner[..., 1].long() + below
            near = part[0] if right else 1.0 - part[0]
            near = near * (part[1] if below else 1.0 - part[1])
            is_cell = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = rows + row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            share = (near * is_cell).unsqueeze(-1) * content
            flat = flat.index_add(0, index.flatten(), share.reshape(batch * count, -1))
    return flat.view(batch, height, width, channels + 1).permute(0, 3, 1, 2)
