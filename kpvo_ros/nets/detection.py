"""From dense maps to keypoints: peaks of the scores, spread evenly, and descriptors there.

Free functions on tensors of any device, usable without the network.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry.sampling import sample

THRESHOLD = -6.0  # logit: what the network finds less likely than one in 400 is no keypoint
_REFINE_PX = 2  # radius of the window whose centroid is a keypoint's position
_SPARE = 2  # times the wanted keypoints are looked at before crowded cells lose theirs
_MIN_VARIANCE = (0.6 / 255.0) ** 2  # of grey 0..1: less can be the last bit of 8
_TEXTURE_PX = 8  # side of the windows in which an image must vary


def detect(
    logits: Tensor,
    count: int,
    *,
    radius: int = 2,
    threshold: float = THRESHOLD,
    border: int = 4,
    cell_px: int | None = None,
    allowed: Tensor | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Keypoints of a batch of score maps.

    A keypoint is the largest logit within `radius` (of equal ones the first in reading order). Its
    position is the centroid of the 5 x 5 pixels about it, weighted by the softmax of the logits.

    Args:
        logits: (B, H, W) floating point.
        count: at most so many of an image.
        radius: pixels around a keypoint, a square, without another one.
        threshold: logit that a keypoint exceeds.
        border: pixels along the edges of the image where there is none.
        cell_px: side of square cells that are served in turn, the best keypoint of each first
            (as in `frontend.spread`); None keeps the best of the whole image.
        allowed: (B, H, W) bool, where a keypoint may lie; None for everywhere.

    Returns:
        for every image xy (N, 2) pixels and their logits (N,), both float32, in order of
        preference; N may be zero.

    Raises:
        NetworkError: shapes that do not fit, or a count or radius below one.
    """
    _check(logits, count, radius, allowed)
    logits = logits.detach().float()
    peak = _peaks(logits, radius, threshold, max(border, radius, _REFINE_PX))
    if allowed is not None:
        peak &= allowed
    return [_keypoints(*pair, count, radius, cell_px) for pair in zip(logits, peak, strict=True)]


def sample_descriptors(descriptor: Tensor, xy: Tensor, stride: int = 8) -> Tensor:
    """Descriptors at pixels, linear between the centres of the cells.

    Args:
        descriptor: (B, D, h, w), cell (i, j) centred on pixel (stride j + (stride - 1) / 2, ...).
        xy: (B, N, 2) pixels of the image.
        stride: pixels from one cell to the next.

    Returns:
        (B, N, D) unit length.
    """
    cells = (xy - (stride - 1) / 2.0) / stride
    return F.normalize(sample(descriptor, cells).transpose(1, 2), dim=-1)


def mutual_nearest(descriptor0: Tensor, descriptor1: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit vectors (N, D) and (M, D) that choose each other, (K,) of either."""
    if not len(descriptor0) or not len(descriptor1):
        nothing = torch.zeros(0, dtype=torch.int64, device=descriptor0.device)
        return nothing, nothing
    similarity = descriptor0 @ descriptor1.T
    nearest, back = similarity.argmax(1), similarity.argmax(0)
    chosen = back[nearest] == torch.arange(len(nearest), device=nearest.device)
    index0 = chosen.nonzero()[:, 0]
    return index0, nearest[index0]


def textured(gray: Tensor) -> Tensor:
    """(B, H, W) bool: where (B, 1, H, W) images of 0..1 show anything at all.

    Elsewhere a score is an opinion about nothing: on a white wall or a black image. Judged by the
    variance of windows that overlap by half; a place counts when any window about it varies.
    """
    height, width = gray.shape[-2:]
    step = _TEXTURE_PX // 2
    below, right = -height % step + step, -width % step + step
    gray = F.pad(gray, (step, right, step, below), mode='replicate')
    gray = gray - gray.mean(dim=(2, 3), keepdim=True)  # else a small difference of large sums
    # Of tiles first, of windows of 2 x 2 tiles then: every pixel is looked at once.
    mean = F.avg_pool2d(F.avg_pool2d(gray, step), 2, 1)
    square = F.avg_pool2d(F.avg_pool2d(gray.square(), step), 2, 1)
    varies = (square - mean.square() > _MIN_VARIANCE).float()
    # Window k covers the tiles k - 1 and k of the image, `step` pixels wide each.
    tiles = F.max_pool2d(varies, 2, 1)[:, 0] > 0
    pixels = tiles.repeat_interleave(step, dim=1).repeat_interleave(step, dim=2)
    return pixels[:, :height, :width]


def largest_around(values: Tensor, radius: int) -> Tensor:
    """Maximum of (B, H, W) over squares of 2 radius + 1; six times as fast as torch's pooling.

    Shifted copies are compared; every round doubles the window, the last one may overlap.
    """
    for dim in (1, 2):
        pad = (radius, radius) if dim == 2 else (0, 0, radius, radius)
        values = F.pad(values, pad, value=-torch.inf)
        window = 1
        while window < 2 * radius + 1:
            step = min(window, 2 * radius + 1 - window)
            size = values.shape[dim] - step
            values = torch.maximum(values.narrow(dim, 0, size), values.narrow(dim, step, size))
            window += step
    return values


def _check(logits: Tensor, count: int, radius: int, allowed: Tensor | None) -> None:
    if logits.ndim != 3:
        raise NetworkError(f'logits are (B, H, W), got {tuple(logits.shape)}')
    if count < 1 or radius < 1:
        raise NetworkError(f'count {count} and radius {radius} must be at least 1')
    if allowed is not None and allowed.shape != logits.shape:
        raise NetworkError(
            f'allowed {tuple(allowed.shape)} is not of the shape of logits {tuple(logits.shape)}'
        )


def _peaks(logits: Tensor, radius: int, threshold: float, border: int) -> Tensor:
    """(B, H, W) bool: largest in their window, above the threshold, off the border."""
    largest = largest_around(logits, radius)
    peak = (logits == largest) & (logits > threshold)
    peak[:, :border] = False
    peak[:, -border:] = False
    peak[:, :, :border] = False
    peak[:, :, -border:] = False
    return peak


def _keypoints(
    logits: Tensor, peak: Tensor, count: int, radius: int, cell_px: int | None
) -> tuple[Tensor, Tensor]:
    """Position and logit of the chosen peaks of one (H, W) image."""
    width = logits.shape[1]
    index = peak.flatten().nonzero()[:, 0]  # (N,)
    score = logits.flatten()[index]
    best = score.argsort(descending=True, stable=True)[: _SPARE * count]
    index, score = index[best], score[best]

    # Of equal neighbours, as on a plateau, the first one is the keypoint.
    around = _windows(logits, index, radius).flatten(1)
    first = (around[:, : around.shape[1] // 2] < score[:, None]).all(dim=1)
    index, score = index[first], score[first]
    if cell_px is not None:
        chosen = _in_turn(index, width, cell_px)
        index, score = index[chosen], score[chosen]
    index, score = index[:count], score[:count]

    weight = _windows(logits, index, _REFINE_PX).flatten(1).softmax(dim=1)
    weight = weight.reshape(-1, 2 * _REFINE_PX + 1, 2 * _REFINE_PX + 1)
    offset = torch.arange(-_REFINE_PX, _REFINE_PX + 1, device=logits.device, dtype=logits.dtype)
    dx, dy = weight.sum(dim=1) @ offset, weight.sum(dim=2) @ offset
    return torch.stack([index % width + dx, index // width + dy], dim=1), score


def _windows(image: Tensor, index: Tensor, radius: int) -> Tensor:
    """(N, S, S) squares of an (H, W) image about pixels (N,), none of them near the border."""
    offset = torch.arange(-radius, radius + 1, device=image.device)
    steps = offset[:, None] * image.shape[1] + offset
    return image.flatten()[index[:, None, None] + steps]


def _in_turn(index: Tensor, width: int, cell_px: int) -> Tensor:
    """(N,) order in which square cells give one keypoint each, then their second, and so on.

    `index` is in order of preference already.
    """
    column, row = index % width // cell_px, index // width // cell_px
    cell = row * (-(-width // cell_px)) + column
    by_cell = cell.argsort(stable=True)
    place = torch.arange(len(cell), device=cell.device)
    starts = torch.ones_like(cell, dtype=torch.bool)
    starts[1:] = cell[by_cell].diff() != 0
    first_of_cell = torch.where(starts, place, 0).cummax(0).values if len(cell) else place
    rank = torch.empty_like(cell)
    rank[by_cell] = place - first_of_cell
    return rank.argsort(stable=True)
