"""Where the features of an image are: at the best scores, evenly spread, or on a grid.

A fixed number per image with a mask, so that a batch is one tensor. Place and weight of a
keypoint keep their gradient, the choice has none (as with any detector). Seed 001: sparse
keypoints, or "every n-th pixel" ([0059], [0060]); evenly spread ([0004], [0041]).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kpvo_ros.nets.detection import THRESHOLD

_RADIUS = 2  # of the window whose centroid is the place, as in nets.detection
_BORDER_PX = 4
_RISE = 0.05  # logit of a peak over the mean of its window: a plateau is no peak


@dataclasses.dataclass(frozen=True, eq=False)
class Keypoints:
    """N places in each of B images.

    Attributes:
        xy: (B, N, 2) pixels, finite everywhere.
        weight: (B, N) above 0, mean 1 over the valid ones of an image: what counts is which
            keypoint deserves more than another. 0 where not valid.
        valid: (B, N) bool; the others fill the row.
    """

    xy: Tensor
    weight: Tensor
    valid: Tensor


def sparse_keypoints(logits: Tensor, count: int, cell_px: int) -> Keypoints:
    """The best pixel of each square cell, of the best `count` cells.

    One keypoint a cell at most spreads them evenly. The weight is the probability that there is
    a keypoint within two pixels, when none has the logit 0 as in method A.

    Args:
        logits: (B, H, W) float32 scores.
        count: N, or as many cells as there are.
        cell_px: side of the cells.
    """
    height, width = logits.shape[-2:]
    rows, columns = height // cell_px, width // cell_px
    cells = logits.detach()[:, : rows * cell_px, : columns * cell_px]
    cells = cells.unflatten(1, (rows, cell_px)).unflatten(3, (columns, cell_px))
    cells = cells.transpose(2, 3).flatten(3).flatten(1, 2)  # (B, cells, cell_px ** 2)
    score, pixel = cells.max(dim=-1)
    score, cell = score.topk(min(count, score.shape[1]), dim=1)
    pixel = pixel.gather(1, cell)
    x = cell % columns * cell_px + pixel % cell_px
    y = torch.div(cell, columns, rounding_mode='floor') * cell_px + torch.div(
        pixel, cell_px, rounding_mode='floor'
    )
    around, step = _windows(logits, x, y)
    flat = around.detach().flatten(2)
    is_peak = (flat.amax(dim=-1) <= score) & (score > flat.mean(dim=-1) + _RISE)
    away = (x >= _BORDER_PX) & (x < width - _BORDER_PX)
    away &= (y >= _BORDER_PX) & (y < height - _BORDER_PX)
    valid = is_peak & away & (score > THRESHOLD)

    share = around.flatten(2).softmax(dim=-1).view_as(around)
    shift = torch.stack([share.sum(-2) @ step, share.sum(-1) @ step], dim=-1)
    xy = torch.stack([x, y], dim=-1).to(logits.dtype) + shift
    weight = around.flatten(2).logsumexp(dim=-1).sigmoid() * valid
    return Keypoints(xy, weight / _mean(weight.detach(), valid), valid)


def grid_keypoints(
    like: Tensor, size_hw: tuple[int, int], step_px: int, offset: tuple[int, int]
) -> Keypoints:
    """Every n-th pixel, all of one weight: the dense variant.

    Args:
        like: (B, ...) gives number of images, type and device.
        size_hw: of the images.
        step_px: n.
        offset: (x, y) of the first one.
    """
    y = torch.arange(offset[1], size_hw[0], step_px, device=like.device, dtype=like.dtype)
    x = torch.arange(offset[0], size_hw[1], step_px, device=like.device, dtype=like.dtype)
    xy = torch.stack(torch.meshgrid(x, y, indexing='xy'), dim=-1).flatten(0, 1)
    xy = xy.expand(len(like), -1, -1)
    weight = torch.ones_like(xy[..., 0])
    return Keypoints(xy, weight, weight > 0)


def _windows(logits: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(B, N, 5, 5) logits about pixels, those at the border pushed inside; offsets (5,)."""
    height, width = logits.shape[-2:]
    step = torch.arange(-_RADIUS, _RADIUS + 1, device=logits.device)
    rows = y.clamp(_RADIUS, height - 1 - _RADIUS)[..., None, None] + step[:, None]
    columns = x.clamp(_RADIUS, width - 1 - _RADIUS)[..., None, None] + step
    index = rows * width + columns
    around = logits.flatten(1).gather(1, index.flatten(1)).view(index.shape)
    return around, step.to(logits.dtype)


def _mean(weight: Tensor, valid: Tensor) -> Tensor:
    """(B, 1) mean over the valid ones, never zero."""
    mean = weight.sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True).clamp(min=1)
    return mean.clamp(min=1e-6)
