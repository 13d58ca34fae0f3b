"""The classical teacher of the first minutes: corners and blobs that both views show.

Corners are maxima of the smaller eigenvalue of the structure tensor (Shi and Tomasi 1994), blobs
those of the determinant of the Hessian (Lindeberg 1998) at two scales. A network that starts
with noise cannot tell which of its points repeat; these do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.geometry.sampling import sample
from kpvo_ros.methods.homography.targets import NONE, ScoreTarget, Views, other, to_cells
from kpvo_ros.nets.detection import largest_around
from kpvo_ros.nets.keypoint import to_gray

_CORNER_PX = 0.8
_AROUND_PX = 1.2  # window of the structure tensor
_BLOB_PX = (1.6, 3.0)
_BLOB_SHARE = 0.25  # weight of blobs, whose middle is less certain than a corner
_RADIUS = 3  # a maximum is the largest within
_REPEAT_PX = 1  # radius in which the other view must have its maximum
_KEPT = 0.35  # share of the cells, those with the strongest maxima, that may have a keypoint
_FLOOR = 2e-3  # weakest response; an image is scaled to the contrast 1 before


@torch.no_grad()
def teach(views: Views, offset: tuple[int, int]) -> ScoreTarget:
    """What the cells of both views should say, judged before any style came over them.

    Args:
        views: images and truth.
        offset: (x, y) of the first cell.

    Returns:
        A keypoint where the strongest maximum of a cell repeats in the partner; none in other
        cells whose best pixel is seen there; no opinion of the rest.
    """
    response = salience(views.plain)
    cells = to_cells(response, offset)
    strongest, label = cells.max(dim=-1)
    bar = strongest.quantile(1.0 - _KEPT, dim=1, keepdim=True)
    strong = (strongest > _FLOOR) & (strongest >= bar)

    maxima = (response > _FLOOR).to(response.dtype)
    around = largest_around(maxima, _REPEAT_PX).unsqueeze(1)
    repeated = sample(other(around), views.xy_in_other, mode='nearest')[:, 0] > 0
    chosen = label.unsqueeze(-1)
    repeats = to_cells(repeated, offset).gather(2, chosen)[..., 0]
    seen = to_cells(views.visible, offset).gather(2, chosen)[..., 0]
    moves = to_cells(views.movable, offset).gather(2, chosen)[..., 0]
    keypoint = strong & repeats & seen & ~moves
    none = (~strong | seen | moves) & ~keypoint
    return ScoreTarget(label.clamp(max=NONE - 1), keypoint.float(), none.float())


def salience(image: Tensor) -> Tensor:
    """(B, H, W) response at local maxima of corners and blobs, 0 elsewhere; image (B, 3, H, W)."""
    part = 1 if image.device.type == 'cpu' else len(image)  # one stays in the cache of a CPU
    return torch.cat([_salience(images) for images in image.split(part)])


def _salience(image: Tensor) -> Tensor:
    gray = to_gray(image)
    gray = gray / (gray.std(dim=(2, 3), keepdim=True) + 0.05)
    best = _corners(_blur(gray, _CORNER_PX))
    for scale in _BLOB_PX:
        smooth = _blur(gray, scale)
        dx, dy = _slope(smooth, 3), _slope(smooth, 2)
        hessian = _slope(dx, 3) * _slope(dy, 2) - _slope(dx, 2) ** 2
        # The power of the scale makes blobs of all sizes comparable (Lindeberg 1998).
        best = torch.maximum(best, _BLOB_SHARE * scale**4 * hessian)
    best = best[:, 0]
    return torch.where(best == largest_around(best, _RADIUS), best, 0.0)


def _corners(smooth: Tensor) -> Tensor:
    """Smaller eigenvalue of the structure tensor, at a fine scale, where corners lie in place."""
    dx, dy = _slope(smooth, 3), _slope(smooth, 2)
    xx, yy, xy = _blur(torch.cat([dx * dx, dy * dy, dx * dy]), _AROUND_PX).chunk(3)
    return 0.5 * (xx + yy) - torch.sqrt(0.25 * (xx - yy) ** 2 + xy**2)


def _slope(image: Tensor, dim: int) -> Tensor:
    """Central difference along a dimension, one-sided at the border."""
    return torch.gradient(image, dim=dim)[0]


def _blur(image: Tensor, sigma_px: float) -> Tensor:
    """Gaussian smoothing; sums of shifted images are ten times faster here than convolutions."""
    radius = math.ceil(2.5 * sigma_px)
    kernel = [math.exp(-0.5 * (x / sigma_px) ** 2) for x in range(radius + 1)]
    whole = 2 * sum(kernel) - kernel[0]
    image = F.pad(image, (radius, radius, radius, radius), mode='reflect')
    for dim in (2, 3):
        size = image.shape[dim] - 2 * radius
        smooth = image.narrow(dim, radius, size) * (kernel[0] / whole)
        for x in range(1, radius + 1):
            both = image.narrow(dim, radius - x, size) + image.narrow(dim, radius + x, size)
            smooth.add_(both, alpha=kernel[x] / whole)
        image = smooth
    return image
