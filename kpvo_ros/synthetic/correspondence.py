"""Where the content of one image lies in another, and whether it is seen there.

The truth of training pairs. Three sources give it: a homography (photos), depth and motion
(rendered views), and layers of either that hide each other. A pixel counts as visible only
when the other image shows the same content at the pixel it is sent to.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.sampling import inside, pixel_grid, sample
from kpvo_ros.geometry.warp import (
    backproject,
    inverse_torch,
    normalize_homography,
    project,
    transform,
)

_FAR_PX = 1e4  # coordinates of content that lies nowhere near the image end here
_NEAREST_M = 1e-3
_AHEAD = 1e-6  # smallest third coordinate of a point that H does not send beyond infinity
_NOBODY = -2  # owner of the places between pixels of different owners


@dataclasses.dataclass(frozen=True, eq=False)
class Correspondence:
    """Of each pixel of this image, its place in the other.

    Attributes:
        xy_in_other: (B, H, W, 2) float32 pixels of the other image, finite everywhere.
        visible: (B, H, W) bool: it is seen there, inside and not hidden.
    """

    xy_in_other: Tensor
    visible: Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Pairs:
    """B pairs of images with their truth; all tensors on one device.

    Attributes:
        image0, image1: (B, 3, H, W) float32 RGB, 0..1.
        to1, to0: correspondences of the pixels of image0, of image1.
        movable0, movable1: (B, H, W) bool: the pixel lies on a thing that moved on its own
            between the views (its correspondence is nevertheless that of the thing).
        plain: both images before their styles, None where nobody kept them.
    """

    image0: Tensor
    image1: Tensor
    to1: Correspondence
    to0: Correspondence
    movable0: Tensor
    movable1: Tensor
    plain: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.image0)

    def swapped(self) -> Pairs:
        """The same pairs with the images exchanged."""
        plain = None if self.plain is None else self.plain[::-1]
        return Pairs(
            self.image1, self.image0, self.to0, self.to1, self.movable1, self.movable0, plain
        )


def join(parts: Sequence[Pairs]) -> Pairs:
    """All pairs of several batches of images of one size."""
    ways = [
        Correspondence(
            torch.cat([getattr(part, name).xy_in_other for part in parts]),
            torch.cat([getattr(part, name).visible for part in parts]),
        )
        for name in ('to1', 'to0')
    ]
    image0, image1, movable0, movable1 = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ('image0', 'image1', 'movable0', 'movable1')
    )
    return Pairs(image0, image1, ways[0], ways[1], movable0, movable1)


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """Something that covers part of both images.

    Attributes:
        mask0, mask1: (B, H, W) bool, the pixels it would cover if nothing lay before it.
        to1, to0: correspondences of its own content.
    """

    mask0: Tensor
    mask1: Tensor
    to1: Correspondence
    to0: Correspondence


def from_homography(
    H_0to1: Tensor, size_hw: tuple[int, int]
) -> tuple[Correspondence, Correspondence]:
    """Both directions of a plane seen twice.

    Args:
        H_0to1: (B, 3, 3) maps pixels of image0 to pixels of image1.
        size_hw: height and width of both images.

    Raises:
        GeometryError: a homography is not finite or sends pixel (0, 0) to infinity.
    """
    return _by_homography(H_0to1, size_hw), _by_homography(inverse_3x3(H_0to1), size_hw)


def from_depth(
    depth0: Tensor, depth1: Tensor, T_1_0: Tensor, K: Tensor, *, tolerance: float = 0.01
) -> tuple[Correspondence, Correspondence]:
    """Both directions of a rigid scene seen from two poses of one camera.

    A point is visible in the other view when the depth measured there agrees with its own. The
    comparison is of inverse depths, which are linear in the pixel on every plane.

    Args:
        depth0: (B, H, W) metres along the optical axis; zero, negative or NaN where unknown.
        depth1: (B, H, W) of the other view.
        T_1_0: (B, 4, 4) pose of camera 0 in camera 1.
        K: (B, 3, 3) pinhole matrix of both views.
        tolerance: allowed difference of depths, relative.

    Raises:
        SyntheticError: the depths differ in shape.
        GeometryError: a pose or matrix has another shape.
    """
    if depth0.shape != depth1.shape or depth0.ndim != 3:
        raise SyntheticError(
            f'depths of shape {tuple(depth0.shape)} and {tuple(depth1.shape)} must be two alike '
            '(B, H, W) images: render both views with one camera'
        )
    T_0_1 = inverse_torch(T_1_0)
    return (
        _by_depth(depth0, depth1, T_1_0, K, tolerance),
        _by_depth(depth1, depth0, T_0_1, K, tolerance),
    )


def merge(layers: Sequence[Layer]) -> tuple[Correspondence, Correspondence]:
    """The correspondences of layers that hide each other, given from the back to the front.

    Each pixel belongs to the frontmost layer that covers it; it is visible in the other image
    where its own layer is the frontmost there as well (seed 000, [0017]). Pixels that no layer
    covers are visible nowhere.

    Raises:
        SyntheticError: there is no layer.
    """
    if not layers:
        raise SyntheticError('merging needs at least one layer: begin with the background')
    owner0, owner1 = (_owners([getattr(x, f'mask{k}') for x in layers]) for k in (0, 1))
    to1 = _pick([layer.to1 for layer in layers], owner0)
    to0 = _pick([layer.to0 for layer in layers], owner1)
    return hidden(to1, owner0, owner1), hidden(to0, owner1, owner0)


def hidden(way: Correspondence, owner_here: Tensor, owner_there: Tensor) -> Correspondence:
    """`way` less the pixels whose place in the other image belongs to something else.

    All four pixels around the place have to be the pixel's own: beside a border colours and
    coordinates are mixed.

    Args:
        way: correspondences of this image.
        owner_here: (B, H, W) integer, what each pixel of this image shows.
        owner_there: (B, H, W) integer, the same for the other image.
    """
    height, width = owner_there.shape[1:]
    across = owner_there[..., 1:] != owner_there[..., :-1]
    mixed = torch.zeros_like(owner_there, dtype=torch.bool)
    mixed[..., :-1] = across
    mixed[:, :-1, :-1] |= across[:, 1:]
    mixed[:, :-1] |= owner_there[:, 1:] != owner_there[:, :-1]
    pure = owner_there.masked_fill(mixed, _NOBODY)
    xy = way.xy_in_other.floor()
    column = xy[..., 0].clamp_(0, width - 1)
    index = xy[..., 1].clamp_(0, height - 1).mul_(width).add_(column).long()
    found = pure.flatten(1).gather(1, index.flatten(1))
    return Correspondence(way.xy_in_other, way.visible & (found.view_as(owner_here) == owner_here))


def consistent(
    way: Correspondence, back: Correspondence, tolerance_px: float = 0.5
) -> Correspondence:
    """`way` less the pixels that do not come home by the way back.

    Removes the pixels beside a border between two contents, where the truth of both directions
    is interpolated across the border and the colours are mixed.
    """
    height, width = way.visible.shape[1:]
    home = pixel_grid(height, width, way.xy_in_other.device)
    returned = sample(back.xy_in_other.permute(0, 3, 1, 2), way.xy_in_other)
    off = (returned[:, 0] - home[..., 0]).abs_().maximum((returned[:, 1] - home[..., 1]).abs_())
    return Correspondence(way.xy_in_other, way.visible & (off < tolerance_px))


def inverse_3x3(M: Tensor) -> Tensor:
    """Inverse of (B, 3, 3) in float64, so that a chain there and back does not drift."""
    return torch.linalg.inv(M.double()).to(M.dtype)


def _by_homography(H: Tensor, size_hw: tuple[int, int]) -> Correspondence:
    # A row's and a column's share of each coordinate, added: a third of the time of a product
    # for every pixel, and this runs for every pair.
    H = normalize_homography(H)
    height, width = size_hw
    x = torch.arange(width, device=H.device, dtype=H.dtype)
    y = torch.arange(height, device=H.device, dtype=H.dtype)
    along = H[:, :, :1] * x
    down = H[:, :, 1:2] * y + H[:, :, 2:]
    u, v, w = (along[:, k, None, :] + down[:, k, :, None] for k in range(3))
    ahead = w > _AHEAD
    w = w.clamp_(min=_AHEAD)
    xy = torch.stack([u.div_(w), v.div_(w)], dim=-1).clamp_(-_FAR_PX, _FAR_PX)
    return Correspondence(xy, ahead & inside(xy, *size_hw))


def _by_depth(
    depth_here: Tensor, depth_there: Tensor, T_there_here: Tensor, K: Tensor, tolerance: float
) -> Correspondence:
    height, width = depth_here.shape[1:]
    known = depth_here.isfinite() & (depth_here > 0)
    points = backproject(torch.where(known, depth_here, 1.0)[:, None], K)
    points = transform(T_there_here, points)
    xy, z = project(points, K), points[..., 2]
    ahead = z > _NEAREST_M
    inverse = torch.where((depth_there > 0) & depth_there.isfinite(), 1 / depth_there, 0.0)
    seen = sample(inverse[:, None], xy)[:, 0]
    agrees = (seen * z - 1).abs() < tolerance
    visible = known & ahead & agrees & inside(xy, height, width)
    return Correspondence(xy.nan_to_num().clamp(-_FAR_PX, _FAR_PX), visible)


def _owners(masks: list[Tensor]) -> Tensor:
    """(B, H, W) int64 number of the frontmost mask, -1 where there is none."""
    owner = torch.full_like(masks[0], -1, dtype=torch.int64)
    for number, mask in enumerate(masks):
        owner.masked_fill_(mask, number)
    return owner


def _pick(ways: list[Correspondence], owner: Tensor) -> Correspondence:
    xy, visible = ways[0].xy_in_other, ways[0].visible & (owner == 0)
    for number, way in enumerate(ways[1:], start=1):
        own = owner == number
        xy = torch.where(own[..., None], way.xy_in_other, xy)
        visible = visible | (way.visible & own)
    return Correspondence(xy, visible)
