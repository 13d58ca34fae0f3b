"""Random homographies: a photo looked at by a camera that moved, and what that camera sees.

The variation of a training image after seed 000 ([0015] homographic mapping, [0016] scaling,
rotation, enlargement, reduction, translation and distortion, [0073] cropping). The photo is taken
as a plane; a virtual camera orbits its centre, so tilt, roll and distance come out as one
perspective that a real camera could have. `H_0to1` maps pixels of view 0 to pixels of view 1.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.warp import apply_homography
from kpvo_ros.geometry.warp import warp_by_homography as rebuild_by_homography
from kpvo_ros.synthetic.imaging import gaussian

_CANDIDATES = 6  # draws per pair before the last one is pulled towards the identity
_EASINGS = 12  # steps of that pull; after the last one the pair does not move at all
_EASING = 0.75
_HORIZON_MARGIN = 0.12  # nearest over farthest depth of the plane seen anywhere in either view


@dataclasses.dataclass(frozen=True)
class HomographyLimits:
    """How far the second camera may go.

    Attributes:
        tilt_deg: largest angle between its axis and the normal of the photo, in any direction.
        roll_deg: largest turn about its axis for most pairs; small turns are the most likely.
        any_roll_share: share 0..1 of the pairs with any turn up to 180 degrees.
        scale: largest enlargement; 1 / scale is the largest reduction, both equally likely.
        translation: largest shift, as a share of the picture's width and height.
        focal: (low, high) focal length as a share of the longer side; short is more distorted.
        overlap: smallest share of the smaller of both views that the other one shows.
    """

    tilt_deg: float = 50.0
    roll_deg: float = 45.0
    any_roll_share: float = 0.08
    scale: float = 2.0
    translation: float = 0.35
    focal: tuple[float, float] = (1.0, 2.5)
    overlap: float = 0.35

    def __post_init__(self) -> None:
        if not (0 <= self.tilt_deg <= 75 and 0 <= self.roll_deg <= 180):
            raise SyntheticError(
                f'tilt_deg={self.tilt_deg} must be within 0..75 and roll_deg={self.roll_deg} '
                'within 0..180: a plane seen from its edge shows nothing'
            )
        if not (0 <= self.any_roll_share <= 1 and 0 <= self.overlap < 1):
            raise SyntheticError(
                f'any_roll_share={self.any_roll_share} and overlap={self.overlap} are shares: '
                'use 0..1, for the overlap less than 1'
            )
        if not (self.scale >= 1 and self.translation >= 0):
            raise SyntheticError(
                f'scale={self.scale} must be at least 1, translation={self.translation} at least 0'
            )
        if not 0.5 <= self.focal[0] <= self.focal[1]:
            raise SyntheticError(f'focal={self.focal} must be (low, high) with low at least 0.5')


def random_homographies(
    count: int,
    size_hw: tuple[int, int],
    generator: torch.Generator,
    limits: HomographyLimits | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw homographies that keep enough of the picture in view and never touch the horizon.

    Args:
        count: B, how many.
        size_hw: (height, width) of both views in pixels.
        generator: source of the draws; the same state gives the same homographies.
        limits: how far the second camera may go, the defaults when None.
        device: of the result, that of the generator when None.

    Returns:
        (B, 3, 3) float32 `H_0to1`, last entry 1; the depth of the plane is positive at every
        pixel of both views.

    Raises:
        SyntheticError: the size is not positive.
    """
    height, width = size_hw
    if height < 1 or width < 1 or count < 0:
        raise SyntheticError(f'no homographies for count={count}, size {width}x{height} pixels')
    if count == 0:
        return torch.zeros(0, 3, 3, device=device or generator.device)
    limits = limits or HomographyLimits()
    motion = _draw_motions(count * _CANDIDATES, limits, generator)  # (B * K, 6)
    H = _homographies(motion, size_hw)
    fits = _fits(H, size_hw, limits).reshape(count, _CANDIDATES)
    choice = torch.where(fits.any(1), fits.int().argmax(1), _CANDIDATES - 1)
    row = torch.arange(count, device=choice.device) * _CANDIDATES + choice
    H, motion, fits = H[row], motion[row], fits.any(1)
    easing = 1.0
    for step in range(1, _EASINGS + 1):
        if bool(fits.all()):
            break
        easing = easing * _EASING if step < _EASINGS else 0.0
        left = (~fits).nonzero().squeeze(1)
        H[left] = _homographies(_ease(motion[left], easing), size_hw)
        fits[left] = _fits(H[left], size_hw, limits)
    return (H / H[:, 2:, 2:]).to(device=device or generator.device, dtype=torch.float32)


def map_points(H_0to1: Tensor, xy: Tensor) -> Tensor:
    """Pixels (B, ..., 2) of view 0 in view 1; finite also beyond the horizon."""
    return apply_homography(H_0to1, xy)[0]


def warp_by_homography(
    image: Tensor,
    H_0to1: Tensor,
    size_hw: tuple[int, int] | None = None,
    padding: str = 'reflection',
) -> tuple[Tensor, Tensor]:
    """View 1 of a photo.

    Where the photo shrinks it is smoothed first, so that view 1 has no jagged edges that a
    camera would not show.

    Args:
        image: (B, C, H, W) floating point, view 0.
        H_0to1: (B, 3, 3) pixels of the photo to pixels of view 1.
        size_hw: (height, width) of view 1, that of the photo when None.
        padding: what fills view 1 where the photo ends, see `sampling.sample`.

    Returns:
        image (B, C, h, w) and valid (B, h, w) bool: the pixel shows the photo, not the filling.
    """
    smooth = _smoothed_for(image, H_0to1)
    H_1to0 = torch.linalg.inv(H_0to1.double()).to(image.dtype)
    warped, valid = rebuild_by_homography(smooth, H_1to0, size_hw, padding)
    return warped, valid.squeeze(1)


def two_views(
    source: Tensor, H_0to1: Tensor, size_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """View 0 cut from the middle of a larger picture, view 1 seen by the moved camera.

    What lies around view 0 in the source comes into view 1 where the camera turned to it, so less
    of view 1 has to be filled. Correspondences follow `H_0to1` in any case.

    Args:
        source: (B, C, Hs, Ws) at least as large as the views.
        H_0to1: (B, 3, 3) pixels of view 0 to pixels of view 1.
        size_hw: (height, width) of both views.

    Returns:
        image0 and image1 (B, C, H, W), and valid1 (B, H, W) bool: the pixel of image1 shows the
        source.

    Raises:
        SyntheticError: the source is smaller than the views.
    """
    (height, width), (full_height, full_width) = size_hw, source.shape[-2:]
    top, left = (full_height - height) // 2, (full_width - width) // 2
    if top < 0 or left < 0:
        raise SyntheticError(
            f'cannot cut {width}x{height} from {full_width}x{full_height} pixels: '
            'use larger photos or smaller crops'
        )
    image0 = source[..., top : top + height, left : left + width]
    to_view0 = torch.eye(3, dtype=H_0to1.dtype, device=H_0to1.device)
    to_view0[:2, 2] = H_0to1.new_tensor([-left, -top])
    image1, valid1 = warp_by_homography(source, H_0to1 @ to_view0, size_hw)
    return image0, image1, valid1


def overlap_share(H_0to1: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B,) area seen in both views over the smaller of both areas, measured in view 1.

    View 0 becomes a quadrilateral in view 1; it is clipped exactly. Corners outside are moved
    onto the clipping line: what runs forth and back on a line encloses no area.
    """
    height, width = size_hw
    quad = _corners(H_0to1, size_hw)  # (B, 4, 2)
    frame = float(width * height)
    whole = _area(quad)
    for axis, high in ((0, width), (1, height)):
        quad = _clip(quad, axis, -0.5, 1.0)
        quad = _clip(quad, axis, high - 0.5, -1.0)
    return _area(quad) / whole.clamp(min=1e-9, max=frame)


def _draw_motions(count: int, limits: HomographyLimits, generator: torch.Generator) -> Tensor:
    """(N, 7) float64: tilt_rad, its direction_rad, roll_rad, log scale, shift x, y, 1 / focal.

    The small motions that video consists of are as welcome as the large ones: squares and
    products of uniform draws lay most of the mass near zero and keep a tail to the limit.
    """
    u = torch.rand(count, 8, generator=generator, device=generator.device, dtype=torch.float64)
    sign = 2 * u - 1
    roll = math.radians(limits.roll_deg) * sign[:, 2] * sign[:, 2].abs()
    roll = torch.where(u[:, 7] < limits.any_roll_share, math.pi * sign[:, 2], roll)
    low, high = limits.focal
    return torch.stack(
        [
            math.radians(limits.tilt_deg) * u[:, 0],
            math.pi * sign[:, 1],
            roll,
            math.log(limits.scale) * sign[:, 3],
            limits.translation * sign[:, 4],
            limits.translation * sign[:, 5],
            1 / high + (1 / low - 1 / high) * u[:, 6],
        ],
        dim=1,
    )


def _ease(motion: Tensor, easing: float) -> Tensor:
    """The same motion, less of it: everything but the tilt's direction and the focal length."""
    return motion * motion.new_tensor([easing, 1.0, easing, easing, easing, easing, 1.0])


def _homographies(motion: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N, 3, 3) float64 of motions (N, 7), for a plane one focal length away."""
    height, width = size_hw
    tilt, direction, roll, log_scale, shift_x, shift_y, inverse_focal = motion.unbind(1)
    R = _turn_z(direction + roll) @ _turn_y(tilt) @ _turn_z(-direction)
    H = torch.zeros_like(R)
    H[:, :2, :2] = R[:, :2, :2] * log_scale.exp()[:, None, None]
    H[:, 2, :2] = R[:, 2, :2] * (inverse_focal / max(height, width))[:, None]
    H[:, 2, 2] = 1.0
    middle = torch.eye(3, dtype=H.dtype, device=H.device).repeat(len(H), 1, 1)
    middle[:, 0, 2], middle[:, 1, 2] = -(width - 1) / 2, -(height - 1) / 2
    back = middle.clone()
    back[:, 0, 2] = (width - 1) / 2 + shift_x * width
    back[:, 1, 2] = (height - 1) / 2 + shift_y * height
    return back @ H @ middle


def _fits(H_0to1: Tensor, size_hw: tuple[int, int], limits: HomographyLimits) -> Tensor:
    """(N,) bool: enough overlap, and no pixel of either view near the horizon."""
    # H maps (x0, 1) to w (x1, 1), so its inverse finds 1 / w at the corners of view 1.
    depth1 = 1 / _depths(torch.linalg.inv(H_0to1), size_hw)
    depth = torch.cat([_depths(H_0to1, size_hw), depth1], dim=1)
    clear = (depth.amin(1) > 0) & (depth.amin(1) > _HORIZON_MARGIN * depth.amax(1))
    safe = torch.where(clear[:, None, None], H_0to1, torch.eye(3).to(H_0to1))
    return clear & (overlap_share(safe, size_hw) >= limits.overlap)


def _outline(size_hw: tuple[int, int], like: Tensor) -> Tensor:
    """(4, 2) the outer corners of a picture in pixels, clockwise on the screen."""
    right, bottom = size_hw[1] - 0.5, size_hw[0] - 0.5
    return like.new_tensor([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])


def _depths(H: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(N, 4) third coordinate of the mapped corners; in between it is linear."""
    return H[:, 2, :2] @ _outline(size_hw, H).T + H[:, 2, 2:]


def _corners(H: Tensor, size_hw: tuple[int, int]) -> Tensor:
    return map_points(H, _outline(size_hw, H).expand(len(H), -1, -1))


def _clip(polygon: Tensor, axis: int, bound: float, sign: float) -> Tensor:
    """Polygons (N, V, 2) cut at a line, (N, 2 V, 2); sign 1 keeps what is above the bound."""
    following = polygon.roll(-1, dims=1)
    here, there = polygon[..., axis] - bound, following[..., axis] - bound
    step = torch.where(here * there < 0, here / (here - there), 0.0).unsqueeze(-1)
    crossing = polygon + step * (following - polygon)
    both = torch.stack([polygon, crossing], dim=2).flatten(1, 2)
    cut = both[..., axis].clamp(min=bound) if sign > 0 else both[..., axis].clamp(max=bound)
    other = both[..., 1 - axis]
    return torch.stack([cut, other] if axis == 0 else [other, cut], dim=-1)


def _area(polygon: Tensor) -> Tensor:
    """(N,) area of polygons (N, V, 2)."""
    x, y = polygon.unbind(-1)
    return 0.5 * (x * y.roll(-1, dims=1) - y * x.roll(-1, dims=1)).sum(1).abs()


def _turn_z(angle_rad: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle_rad), torch.ones_like(angle_rad)
    cos, sin = angle_rad.cos(), angle_rad.sin()
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).unflatten(
        -1, (3, 3)
    )


def _turn_y(angle_rad: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle_rad), torch.ones_like(angle_rad)
    cos, sin = angle_rad.cos(), angle_rad.sin()
    return torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], -1).unflatten(
        -1, (3, 3)
    )


def _smoothed_for(image: Tensor, H_0to1: Tensor) -> Tensor:
    """The images that view 1 shows much smaller, blurred as their pixels will be merged."""
    middle = image.new_tensor([(image.shape[-1] - 1) / 2, (image.shape[-2] - 1) / 2, 1.0])
    depth = (H_0to1[:, 2].to(image.dtype) @ middle).clamp(min=1e-3)
    shrink = torch.linalg.det(H_0to1.double()).to(image.dtype).abs() / depth**3  # area 1 / area 0
    sigma = 0.4 * (1 / shrink.clamp(min=0.02, max=1.0) - 1).sqrt()
    rows = (sigma > 0.35).nonzero().squeeze(1)
    if len(rows) == 0:
        return image
    out = image.clone()
    out[rows] = gaussian(image[rows], sigma[rows])
    return out
