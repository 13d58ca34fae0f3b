"""Candidates for keypoints in a batch of two views, and what they should have scored.

Both views lie in one batch: first all images 0, then all images 1, so every function works on
2B images and `other` finds the partner's. Scores are taught per cell of 8 x 8 pixels: one of its
64 pixels is the keypoint, or none is, and "none" has the fixed logit 0 (DeTone, "SuperPoint",
2018, has a learned one). The grid of cells moves from batch to batch, so no pixel is special.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.geometry.sampling import inside
from kpvo_ros.nets.detection import largest_around, sample_descriptors
from kpvo_ros.synthetic.correspondence import Pairs

CELL_PX = 8
NONE = CELL_PX * CELL_PX  # class of a cell without keypoint
_RADIUS = 2  # of the window around a peak, as in nets.detection
_BORDER_PX = 4
_RISE = 0.05  # logit of a peak over the mean of its window
_RIVALS = 384  # peaks of an image that are matched; four times as dense as 1000 of VGA


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Both views of B pairs in one batch.

    Attributes:
        image: (2B, 3, H, W).
        xy_in_other: (2B, H, W, 2) pixels in the partner.
        visible: (2B, H, W) bool, seen there.
        movable: (2B, H, W) bool, on a thing that moved on its own.
        plain: (2B, 3, H, W) before the styles, the images themselves where nobody kept them.
    """

    image: Tensor
    xy_in_other: Tensor
    visible: Tensor
    movable: Tensor
    plain: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """The best pixel of each of N cells.

    Attributes:
        index: (2B, N) its place in the flattened image.
        xy: (2B, N, 2) float pixels.
        peak: (2B, N) bool, largest in its window and off the border.
        place: (2B, N, 2) float pixels, the centroid of the window, differentiable.
        confidence: (2B, N) probability 0..1 that the cell has a keypoint, without gradient.
        log_share: (2B, N, 65) log probability of the cell's pixels, and of none.
        offset: (x, y) of the first cell.
    """

    index: Tensor
    xy: Tensor
    peak: Tensor
    place: Tensor
    confidence: Tensor
    log_share: Tensor
    offset: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class ScoreTarget:
    """What N cells should have said.

    Attributes:
        label: (2B, N) class 0..64 of the cell.
        keypoint: (2B, N) weight of cells that have a keypoint.
        none: (2B, N) weight of cells that have none.
    """

    label: Tensor
    keypoint: Tensor
    none: Tensor


def both_views(pairs: Pairs) -> Views:
    """The pairs as one batch of 2B images."""
    image = torch.cat([pairs.image0, pairs.image1])
    return Views(
        image,
        torch.cat([pairs.to1.xy_in_other, pairs.to0.xy_in_other]),
        torch.cat([pairs.to1.visible, pairs.to0.visible]),
        torch.cat([pairs.movable0, pairs.movable1]),
        image if pairs.plain is None else torch.cat(pairs.plain),
    )


def other(tensor: Tensor) -> Tensor:
    """The same tensor with each image's partner in its place."""
    return tensor.roll(len(tensor) // 2, 0)


def at(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, H, W) or (B, H, W, C) at flattened places (B, N): (B, N) or (B, N, C)."""
    flat = values.flatten(1, 2)
    if flat.ndim == 3:
        index = index.unsqueeze(-1).expand(-1, -1, flat.shape[-1])
    return flat.gather(1, index)


def to_cells(values: Tensor, offset: tuple[int, int]) -> Tensor:
    """(B, N, 64) pixels of the whole cells of (B, H, W), in reading order."""
    x, y = offset
    values = values[:, y:, x:]
    rows, columns = values.shape[1] // CELL_PX, values.shape[2] // CELL_PX
    values = values[:, : rows * CELL_PX, : columns * CELL_PX]
    cells = values.reshape(-1, rows, CELL_PX, columns, CELL_PX).transpose(2, 3)
    return cells.reshape(len(values), rows * columns, NONE)


def pixel_of(label: Tensor, size_hw: tuple[int, int], offset: tuple[int, int]) -> Tensor:
    """(B, N) flattened places of the pixels `label` (B, N) of the cells."""
    columns = (size_hw[1] - offset[0]) // CELL_PX
    cell = torch.arange(label.shape[1], device=label.device)
    x = offset[0] + cell % columns * CELL_PX + label % CELL_PX
    y = offset[1] + cell // columns * CELL_PX + label // CELL_PX
    return y * size_hw[1] + x


def find_candidates(logits: Tensor, offset: tuple[int, int]) -> Candidates:
    """The best pixel of every cell of (2B, H, W) logits."""
    height, width = logits.shape[-2:]
    cells = to_cells(logits, offset)
    log_share = F.pad(cells, (0, 1)).log_softmax(dim=-1)
    index = pixel_of(cells.detach().argmax(dim=-1), (height, width), offset)
    xy = torch.stack([index % width, index // width], dim=-1).to(logits.dtype)
    away = inside(xy, height, width, _BORDER_PX)

    step = torch.arange(-_RADIUS, _RADIUS + 1, device=logits.device)
    window = (step[:, None] * width + step).flatten()  # (K,) steps in memory
    # Windows over the border read something else; their candidates are no peaks anyway.
    near = (index.unsqueeze(-1) + window).clamp(0, height * width - 1)
    around = logits.flatten(1).gather(1, near.flatten(1)).view(near.shape)  # (2B, N, K)
    own = around[..., len(window) // 2]
    # A plateau is no peak: an image that shows nothing has no keypoint, however alike it looks.
    is_peak = (own >= around.amax(dim=-1)) & (own > around.mean(dim=-1) + _RISE)
    weight = around.softmax(dim=-1).unflatten(-1, (len(step), len(step)))
    shift = torch.stack([weight.sum(-2) @ step.to(xy), weight.sum(-1) @ step.to(xy)], dim=-1)
    return Candidates(
        index=index,
        xy=xy,
        peak=away & is_peak,
        place=xy + shift,
        confidence=1.0 - log_share.detach()[..., NONE].exp(),
        log_share=log_share,
        offset=offset,
    )


@torch.no_grad()
def judge(
    views: Views, candidates: Candidates, descriptor: Tensor, tolerance_px: float, hidden: float
) -> ScoreTarget:
    """Which candidates deserved their score: repeated in the other view, and matched there.

    A cell has a keypoint when its peak and a peak of the other view, not farther than
    `tolerance_px` from where the first one lies there, are each other's nearest descriptor. A
    peak that is only repeated has done nothing wrong: its descriptor may still learn. Of
    the others nothing is known where the partner shows something else (beyond its edge), and
    little where it is hidden. What moves on its own is no keypoint, however well it matches
    (seed 000 [0013]).

    Args:
        views: truth.
        candidates: of both views.
        descriptor: (2B, D, H/8, W/8).
        tolerance_px: largest distance of a repeated peak.
        hidden: weight 0..1 of "none" for peaks that something hides in the partner.
    """
    nearest, mutual = _mutual_nearest(sample_descriptors(descriptor, candidates.xy), candidates)
    there = at(views.xy_in_other, candidates.index)
    chosen = nearest.unsqueeze(-1).expand(-1, -1, 2)
    partner = other(candidates.xy).gather(1, chosen)
    way_back = other(there).gather(1, chosen)
    visible = at(views.visible, candidates.index)
    near = (partner - there).norm(dim=-1) <= tolerance_px
    near &= (way_back - candidates.xy).norm(dim=-1) <= tolerance_px
    movable = at(views.movable, candidates.index)
    right = candidates.peak & visible & ~movable
    good = right & mutual & near
    again = right & _is_repeated(views, candidates, tolerance_px)

    height, width = views.visible.shape[-2:]
    is_inside = inside(there, height, width)
    none = torch.where(visible | movable, 1.0, torch.where(is_inside, hidden, 0.0))
    none = torch.where(candidates.peak, none, 1.0).masked_fill(good | again, 0.0)
    middle = torch.where(good.unsqueeze(-1), 0.5 * (candidates.xy + way_back), candidates.xy)
    return ScoreTarget(_label(middle, candidates, width), good.to(none.dtype), none)


def merge(own: ScoreTarget, taught: ScoreTarget) -> ScoreTarget:
    """What the network found out by itself, and what a teacher says of the other cells.

    Nobody's keypoint is called none by the other.
    """
    label = torch.where(own.keypoint > 0, own.label, taught.label)
    keypoint = torch.maximum(own.keypoint, taught.keypoint)
    return ScoreTarget(label, keypoint, taught.none.masked_fill(keypoint > 0, 0.0))


def _is_repeated(views: Views, candidates: Candidates, tolerance_px: float) -> Tensor:
    """(2B, N) whether some peak of the partner lies where the candidate is seen there."""
    height, width = views.visible.shape[-2:]
    peaks = torch.zeros_like(views.visible, dtype=torch.float32).flatten(1)
    peaks.scatter_(1, candidates.index, candidates.peak.float())
    around = largest_around(peaks.view(-1, height, width), int(tolerance_px))
    x, y = at(views.xy_in_other, candidates.index).round().long().unbind(dim=-1)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return other(around).flatten(1).gather(1, index) > 0


def _mutual_nearest(descriptor: Tensor, candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Each candidate's nearest peak in the partner (2B, N), and whether that is mutual.

    The surest peaks alone compete, as they do when an image keeps its best.
    """
    half, size = len(descriptor) // 2, descriptor.shape[-1]
    sure = candidates.confidence.masked_fill(~candidates.peak, -1.0)
    count = int(candidates.peak.sum(dim=1).max().clamp(1, _RIVALS))
    worth, chosen = sure.topk(count, dim=1)  # (2B, K) of the N
    chosen_descriptor = descriptor.gather(1, chosen.unsqueeze(-1).expand(-1, -1, size))
    similarity = chosen_descriptor[:half] @ chosen_descriptor[half:].transpose(1, 2)
    similarity.masked_fill_((worth[:half] < 0).unsqueeze(2), -2.0)
    similarity.masked_fill_((worth[half:] < 0).unsqueeze(1), -2.0)
    forth = similarity.argmax(dim=2)
    back = similarity.transpose(1, 2).contiguous().argmax(dim=2)
    nearest = torch.cat([forth, back])  # (2B, K) of the partner's K
    is_mutual = other(nearest).gather(1, nearest) == torch.arange(count, device=nearest.device)
    is_mutual &= worth >= 0
    all_nearest = torch.zeros_like(candidates.index)
    all_nearest.scatter_(1, chosen, other(chosen).gather(1, nearest))
    all_mutual = torch.zeros_like(candidates.peak).scatter_(1, chosen, is_mutual)
    return all_nearest, all_mutual


def _label(xy: Tensor, candidates: Candidates, width: int) -> Tensor:
    """Class of the pixel at xy in the candidate's cell; where xy left the cell, its own pixel."""
    x0, y0 = candidates.offset

    def cell(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x - x0) // CELL_PX, (y - y0) // CELL_PX

    x, y = xy.round().long().unbind(dim=-1)
    own_x, own_y = candidates.index % width, candidates.index // width
    same = (cell(x, y)[0] == cell(own_x, own_y)[0]) & (cell(x, y)[1] == cell(own_x, own_y)[1])
    x, y = torch.where(same, x, own_x), torch.where(same, y, own_y)
    return (y - y0) % CELL_PX * CELL_PX + (x - x0) % CELL_PX
