"""Putting things into pairs: every pixel shows either the photo or one thing.

The colours of a thing cover the photo with soft outlines, its shadow darkens the ground; the
pixel belongs to whichever has the larger share of it (seed 000, [0017]). On a thing,
correspondences follow its own shape: pixel to point by the depth of one view, point to pixel by
the camera of the other, and from view to image by the two placements. What the other view does
not see, because the thing hides its own face or something stands before it, is not visible.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.geometry.sampling import inside, pixel_grid, sample
from kpvo_ros.geometry.warp import inverse_torch
from kpvo_ros.synthetic.correspondence import Correspondence, Pairs, hidden
from kpvo_ros.synthetic.object_bank import ObjectBank
from kpvo_ros.synthetic.placement import Placements

PHOTO = 0  # owner of the pixels that no thing covers; thing k owns with the number k + 1
_SMOOTHED_BELOW = 0.75  # enlargement under which a view is averaged before it is sampled
_USUAL_TONE = 0.42  # mean of a photo beside which things keep their colours
_CREASE = 0.06  # relative step of depth between neighbouring pixels that is not one surface
_MISS_PX = 0.4  # largest way between a pixel and where it ends after there and back
_AHEAD = 1e-6
_FAR_PX = 1e4


def compose(
    image0: Tensor,
    image1: Tensor,
    ways: tuple[Correspondence, Correspondence],
    bank: ObjectBank,
    placements: Placements,
) -> Pairs:
    """Pairs with things in them.

    Args:
        image0: (B, 3, H, W) float32 RGB 0..1, photos.
        image1: (B, 3, H, W) their variations.
        ways: correspondences of the photo pixels, 0 to 1 and 1 to 0.
        bank: views of the things.
        placements: which of them stand where.
    """
    swapped = placements.swapped()
    # Things are lit like the photo, otherwise their brightness alone would tell them apart.
    gain = (image0.mean(dim=(1, 2, 3)) / _USUAL_TONE).sqrt().clamp(0.4, 1.2)
    image0, owner0 = paste(image0, bank, placements, gain)
    image1, owner1 = paste(image1, bank, swapped, gain)
    to1 = _follow(ways[0], owner0, bank, placements)
    to0 = _follow(ways[1], owner1, bank, swapped)
    to1, to0 = hidden(to1, owner0, owner1), hidden(to0, owner1, owner0)
    moved = torch.cat([placements.moved.new_zeros(1), placements.moved])
    return Pairs(image0, image1, to1, to0, moved[owner0], moved[owner1])


def paste(
    image: Tensor, bank: ObjectBank, placements: Placements, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) with the views `view0` pasted, and the (B, H, W) int64 owners.

    Args:
        image: the photos.
        bank: views.
        placements: which of them stand where.
        gain: (B,) factor of the things' brightness.
    """
    image = image.clone()
    owner = torch.zeros_like(image[:, 0], dtype=torch.int64)
    boxes = _boxes(bank, placements, (image.shape[-2], image.shape[-1])).tolist()
    pairs, present = placements.pair.tolist(), placements.in0.tolist()
    enlargements = placements.A0[:, :, 0].norm(dim=-1).tolist()
    levels = [_level(enlargement) for enlargement in enlargements]
    inverses = _to_view(placements.A0, image.new_tensor(levels))
    for k, (left, top, right, bottom) in enumerate(boxes):
        if not present[k] or left >= right or top >= bottom:
            continue
        view = placements.view0[k]
        layers = torch.cat([bank.rgba[view], bank.shadow[view][None]])[None].float() / 255
        if levels[k] > 1:
            layers = F.avg_pool2d(layers, levels[k])
        grid = pixel_grid(bottom - top, right - left, image.device) + image.new_tensor([left, top])
        xy = grid @ inverses[k, :, :2].T + inverses[k, :, 2]
        colour, alpha, shadow = sample(layers, xy[None], padding='zeros')[0].split([3, 1, 1])
        window = image[pairs[k], :, top:bottom, left:right]
        window.mul_((1 - alpha) * (1 - shadow)).add_(colour * gain[pairs[k]])
        owner[pairs[k], top:bottom, left:right].masked_fill_(alpha[0] > 0.5, k + 1)
    return image, owner


def _boxes(bank: ObjectBank, placements: Placements, size_hw: tuple[int, int]) -> Tensor:
    """(K, 4) int64 left, top, right, bottom (exclusive) that the views cover in the image."""
    box = bank.box_px[placements.view0].float()
    left, top, right, bottom = (box + box.new_tensor([-1.0, -1.0, 0.0, 0.0])).unbind(-1)
    corners = torch.stack([left, top, right, top, left, bottom, right, bottom], -1)
    corners = corners.unflatten(-1, (4, 2))
    A = placements.A0
    placed = corners @ A[:, :, :2].mT + A[:, None, :, 2]
    limit = box.new_tensor([size_hw[1], size_hw[0]])
    low = placed.amin(dim=1).floor().clamp(min=0).minimum(limit)
    high = (placed.amax(dim=1).ceil() + 1).clamp(min=0).minimum(limit)
    return torch.cat([low, high], dim=-1).long()


def _level(enlargement: float) -> int:
    """Side of the square of view pixels that becomes about one pixel of the image."""
    level = 1
    while enlargement * level < _SMOOTHED_BELOW and level < 8:
        level *= 2
    return level


def _to_view(A: Tensor, level: Tensor | None = None) -> Tensor:
    """(K, 2, 3) pixels of the image to those of the view, averaged over `level` pixels (K,)."""
    M = torch.linalg.inv(A[:, :, :2])
    t = -(M @ A[:, :, 2:])
    if level is not None:
        M = M / level[:, None, None]
        t = (t + 0.5) / level[:, None, None] - 0.5
    return torch.cat([M, t], dim=-1)


def _follow(
    way: Correspondence, owner: Tensor, bank: ObjectBank, placements: Placements
) -> Correspondence:
    """`way` with the pixels of things following the things."""
    xy, visible = way.xy_in_other.clone(), way.visible & (owner == PHOTO)
    boxes = _boxes(bank, placements, (owner.shape[1], owner.shape[2])).tolist()
    pairs, passages = placements.pair.tolist(), _Passages(bank, placements)
    for k in (placements.in0 & placements.in1).nonzero()[:, 0].tolist():
        left, top, right, bottom = boxes[k]
        window = (pairs[k], slice(top, bottom), slice(left, right))
        row, column = (owner[window] == k + 1).nonzero(as_tuple=True)
        if not len(row):
            continue
        pixel = torch.stack([column + left, row + top], dim=-1).float()
        place, seen = passages.across(k, pixel)
        xy[window][row, column] = place
        visible[window][row, column] = seen & inside(place, owner.shape[1], owner.shape[2])
    return Correspondence(xy, visible)


class _Passages:
    """From image 0 to image 1 by way of the things: image, view, body, other view, other image.

    With inverse depth, pixels of one view go to another as x1 ~ M x0 + m / depth.
    """

    def __init__(self, bank: ObjectBank, placements: Placements) -> None:
        view0, view1 = placements.view0, placements.view1
        self.bank, self.view0, self.view1 = bank, view0, view1
        T0, T1 = bank.T_object_camera[view0], bank.T_object_camera[view1]
        K0, K1 = (_matrices(bank.focal_px[view], bank.size_px) for view in (view0, view1))
        self.there = _sweep(K0, K1, inverse_torch(T1) @ T0)
        self.back = _sweep(K1, K0, inverse_torch(T0) @ T1)
        self.A1, self.to_view0 = placements.A1, _to_view(placements.A0)
        self.enlargement = placements.A0[:, 0].norm(dim=-1)

    def across(self, k: int, pixel: Tensor) -> tuple[Tensor, Tensor]:
        """Places (P, 2) in image 1 of pixels (P, 2) on thing k, and whether it is seen there.

        What the other view shows at the place is taken back to this view: it has to come out
        where it began, otherwise something nearer stands before it.
        """
        depths = self.bank.inverse_depth
        at0 = _affine(self.to_view0[k], pixel)
        inverse0, smooth0 = _inverse_depth(depths[self.view0[k]], at0)
        at1, ahead = _carry(self.there[k], at0, inverse0)
        inverse1, smooth1 = _inverse_depth(depths[self.view1[k]], at1)
        home, _ = _carry(self.back[k], at1, inverse1)
        miss_px = (home - at0).norm(dim=-1) * self.enlargement[k]
        seen = smooth0 & smooth1 & ahead & (miss_px < _MISS_PX)
        return _affine(self.A1[k], at1).clamp(-_FAR_PX, _FAR_PX), seen


def _sweep(K0: Tensor, K1: Tensor, T_1_0: Tensor) -> Tensor:
    """(K, 3, 4) M and m side by side."""
    M = K1 @ T_1_0[:, :3, :3] @ torch.linalg.inv(K0)
    return torch.cat([M, K1 @ T_1_0[:, :3, 3:]], dim=-1)


def _carry(sweep: Tensor, xy: Tensor, inverse_depth: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (P, 2) in the other view, and (P,) bool: before its camera."""
    mapped = torch.cat([xy, inverse_depth[:, None]], dim=-1) @ sweep[:, [0, 1, 3]].T + sweep[:, 2]
    ahead = mapped[:, 2] > _AHEAD
    return mapped[:, :2] / mapped[:, 2:].clamp(min=_AHEAD), ahead


def _matrices(focal: Tensor, size: int) -> Tensor:
    """(K, 3, 3) pinhole matrices of views."""
    K = torch.eye(3, device=focal.device).repeat(len(focal), 1, 1)
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, :2, 2] = (size - 1) / 2
    return K


def _affine(A: Tensor, xy: Tensor) -> Tensor:
    return xy @ A[:, :2].T + A[:, 2]


def _inverse_depth(view: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) inverse depth of a view (S, S) at pixels (P, 2), and whether it is one surface."""
    size = view.shape[-1]
    base = xy.floor().clamp(0, size - 2)
    x, y = (xy - base).clamp(0, 1).unbind(-1)
    column, row = base.long().unbind(-1)
    start = row * size + column
    flat = view.flatten()
    a, b, c, d = (flat[start + step] for step in (0, 1, size, size + 1))
    upper, lower = torch.lerp(a, b, x), torch.lerp(c, d, x)
    high = a.maximum(b).maximum(c.maximum(d))
    low = a.minimum(b).minimum(c.minimum(d))
    smooth = (low > 0) & (high - low < _CREASE * high)
    return torch.lerp(upper, lower, y), smooth
