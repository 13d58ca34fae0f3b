"""Pieces of other photos before a photo, moving by a homography of their own.

The cheapest content with parallax: a polygon or disc of one photo in front of another. It is
nearer than the photo, so it shifts differently and hides another part of it in each view; real
texture meets real texture at its outline (seed 000, [0017]-[0018]).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpvo_ros.geometry.sampling import pixel_grid
from kpvo_ros.synthetic.correspondence import Correspondence, Layer, from_homography, merge
from kpvo_ros.synthetic.homography import HomographyLimits, random_homographies, two_views

_OWN_MOTION = HomographyLimits(
    tilt_deg=25.0, roll_deg=8.0, any_roll_share=0.0, scale=1.3, translation=0.15, overlap=0.4
)
_SIDES = 5
_RADIUS = (0.14, 0.38)  # of the shorter side
Ways = tuple[Correspondence, Correspondence]


def add_sheets(
    images: tuple[Tensor, Tensor],
    ways: Ways,
    sources: Tensor,
    H_0to1: Tensor,
    generator: torch.Generator,
    share: float,
) -> tuple[tuple[Tensor, Tensor], Ways]:
    """Put a sheet before a share of the pairs.

    Args:
        images: image0 and image1, (B, 3, H, W) each.
        ways: their correspondences.
        sources: (B, 3, Hs, Ws) photos; the sheet of a pair is cut from the next pair's.
        H_0to1: (B, 3, 3) of the photos behind.
        generator: of the draws.
        share: of the pairs that get one, 0..1.

    Returns:
        The images and correspondences with sheets.
    """
    draw = torch.rand(len(H_0to1), generator=generator, device=generator.device)
    rows = (draw < share).nonzero()[:, 0].to(H_0to1.device)
    if not len(rows) or len(H_0to1) < 2:
        return images, ways
    size_hw = (images[0].shape[-2], images[0].shape[-1])
    own = random_homographies(len(rows), size_hw, generator, _OWN_MOTION, H_0to1.device)
    H = H_0to1[rows] @ own
    sheet0, sheet1, _ = two_views(sources[(rows + 1) % len(sources)], H, size_hw)
    to1, to0 = from_homography(H, size_hw)
    shape = _Outline(len(rows), size_hw, generator, H.device)
    alpha0 = shape.coverage(pixel_grid(*size_hw, device=H.device)[None])
    alpha1 = shape.coverage(to0.xy_in_other)
    pasted = []
    for image, sheet, alpha in ((images[0], sheet0, alpha0), (images[1], sheet1, alpha1)):
        image = image.clone()
        image[rows] = torch.lerp(image[rows], sheet, alpha[:, None])
        pasted.append(image)
    behind = [Correspondence(way.xy_in_other[rows], way.visible[rows]) for way in ways]
    everywhere = torch.ones_like(behind[0].visible)
    layers = [
        Layer(everywhere, everywhere, behind[0], behind[1]),
        Layer(alpha0 > 0.5, alpha1 > 0.5, to1, to0),
    ]
    merged = merge(layers)
    new0, new1 = (_replaced(way, rows, part) for way, part in zip(ways, merged, strict=True))
    return (pasted[0], pasted[1]), (new0, new1)


class _Outline:
    """N random convex shapes in image 0: polygons with blunt corners, and some discs."""

    def __init__(
        self,
        count: int,
        size_hw: tuple[int, int],
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        draw = torch.rand(count, 4 + 2 * _SIDES, generator=generator, device=generator.device)
        draw = draw.to(device)
        height, width = size_hw
        self.centre = draw[:, :2] * draw.new_tensor([width, height])
        low, high = _RADIUS
        self.radius = (low + (high - low) * draw[:, 2]) * min(size_hw)
        jitter = draw[:, 4 : 4 + _SIDES]
        turn = torch.arange(_SIDES, device=device) + 0.7 * jitter
        angle = 2 * math.pi * turn / _SIDES
        self.normal = torch.stack([angle.cos(), angle.sin()], dim=-1)  # (N, sides, 2)
        reach = (0.6 + 0.6 * draw[:, 4 + _SIDES :]) * self.radius[:, None]
        is_disc = draw[:, 3:4] < 0.3
        self.reach = torch.where(is_disc, torch.inf, reach)

    def coverage(self, xy: Tensor) -> Tensor:
        """(N, H, W) share of each pixel (N or 1, H, W, 2) inside, soft over about a pixel."""
        x, y = (xy - self.centre[:, None, None]).unbind(-1)
        distance = self.radius[:, None, None] - torch.hypot(x, y)
        for side in range(_SIDES):
            n_x, n_y = self.normal[:, side, :, None, None].unbind(1)
            along = torch.addcmul(x * n_x, y, n_y)
            distance = torch.minimum(distance, self.reach[:, side, None, None] - along)
        return (distance + 0.5).clamp(0, 1)


def _replaced(way: Correspondence, rows: Tensor, part: Correspondence) -> Correspondence:
    xy, visible = way.xy_in_other.clone(), way.visible.clone()
    xy[rows], visible[rows] = part.xy_in_other, part.visible
    return Correspondence(xy, visible)
