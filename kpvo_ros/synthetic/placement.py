"""Where things stand in a photo and in its variation.

A photo is read as the view of a level camera over a ground plane: given the row of the horizon
and the height of the camera, the row of a foot point gives the distance, and with it the size
and the elevation from which the thing is seen (seed 000, [0024]). In the variation the thing
stands where the homography takes its foot point, as large and as tilted as the photo is there,
but seen from another side ([0020]); or somewhere else, when it moved by itself ([0013]).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.object_bank import ObjectBank

Draw = Callable[..., Tensor]  # sizes in, uniform numbers 0..1 of these sizes out
_CANDIDATES = 8  # draws for each place; the first that fits is taken
_HORIZON = (0.3, 0.55)  # share of the height, where nobody knows better
_CAMERA_HEIGHT_M = (0.5, 2.5)
_FOCAL = 1.1  # of the photos, in widths
_HEIGHT_SHARE = (0.1, 0.75)  # of the picture's height that a thing may take
_MAX_ENLARGEMENT = 1.6  # of a view in the bank; more would be blurred
_AHEAD = 1e-6  # smallest third coordinate of a point this side of H's horizon
_MIN_TURN_RAD = 0.12
_MAX_RISE_RAD = 0.4  # difference of elevation between the two views


@dataclasses.dataclass(frozen=True)
class PlacementLimits:
    """What may happen to things.

    Attributes:
        count: most things in one pair.
        share: share of the places that are taken.
        turn_deg: largest difference of azimuth between the two views.
        absent: share of the things that only one of the images shows.
        moving: share of the movable things that stand elsewhere in image1.
        restyled: the views may differ in texture, tint and time of day.
    """

    count: int = 4
    share: float = 0.7
    turn_deg: float = 60.0
    absent: float = 0.1
    moving: float = 0.0
    restyled: bool = False

    def __post_init__(self) -> None:
        if self.count < 0 or not 0 < self.turn_deg <= 180:
            raise SyntheticError(
                f'count={self.count} must not be negative and turn_deg={self.turn_deg} must be '
                'within 0..180'
            )
        for name in ('share', 'absent', 'moving'):
            if not 0 <= getattr(self, name) <= 1:
                raise SyntheticError(f'{name}={getattr(self, name)} must be a share, 0..1')


@dataclasses.dataclass(frozen=True, eq=False)
class Placements:
    """K things in B pairs, in each pair from the back to the front.

    Attributes:
        pair: (K,) int64.
        view0, view1: (K,) int64 views of the bank shown in image0, image1.
        A0, A1: (K, 2, 3) float32 similarity, pixels of the view to pixels of the image.
        in0, in1: (K,) bool: it is there at all.
        moved: (K,) bool: it moved by itself in between.
    """

    pair: Tensor
    view0: Tensor
    view1: Tensor
    A0: Tensor
    A1: Tensor
    in0: Tensor
    in1: Tensor
    moved: Tensor

    def __len__(self) -> int:
        """Number of things."""
        return len(self.pair)

    def swapped(self) -> Placements:
        """The same with image0 and image1 exchanged."""
        return dataclasses.replace(
            self,
            view0=self.view1,
            view1=self.view0,
            A0=self.A1,
            A1=self.A0,
            in0=self.in1,
            in1=self.in0,
        )


def place_objects(
    H_0to1: Tensor,
    size_hw: tuple[int, int],
    bank: ObjectBank,
    generator: torch.Generator,
    limits: PlacementLimits = PlacementLimits(),
    *,
    horizon_px: Tensor | None = None,
) -> Placements:
    """Choose things, views and places for pairs of a photo and its variation.

    Args:
        H_0to1: (B, 3, 3) of the variation, last entry positive.
        size_hw: height and width of the images.
        bank: what there is to choose from.
        generator: of the draws.
        limits: what may happen.
        horizon_px: (B,) row of the horizon in the photos, drawn at random when None.
    """
    device, (height, width) = H_0to1.device, size_hw

    def draw(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, device=generator.device).to(device)

    low, high = _HORIZON
    level = draw(len(H_0to1)) * (high - low) + low
    horizon = level * height if horizon_px is None else horizon_px.to(device, torch.float32)
    pair, things, below, scale = _choose_things(bank, len(H_0to1), limits, height, draw)
    foot = torch.stack([draw(len(pair)) * 1.1 * width - 0.05 * width, horizon[pair]], dim=-1)
    foot[:, 1] += below
    view0, view1 = _choose_views(bank, things, below / (_FOCAL * width), limits, draw)
    absent, moved = draw(len(pair)), draw(len(pair)) < limits.moving
    moved &= bank.movable[things]
    foot1, scale1 = _elsewhere(foot, scale, horizon[pair], moved, draw, size_hw)
    A0 = _similarity(foot, scale / bank.px_per_m[view0], _up(foot), bank.foot_px[view0])
    place, up, growth, ahead = _carried(H_0to1[pair], foot1)
    enlargement = growth * scale1 / bank.px_per_m[view1]
    A1 = _similarity(place, enlargement, up, bank.foot_px[view1])
    return Placements(
        pair,
        view0,
        view1,
        A0,
        A1,
        (absent >= limits.absent / 2) & (scale / bank.px_per_m[view0] < _MAX_ENLARGEMENT),
        (absent < 1 - limits.absent / 2) & ahead & (enlargement < _MAX_ENLARGEMENT),
        moved,
    )


def _choose_things(
    bank: ObjectBank, count: int, limits: PlacementLimits, height: int, draw: Draw
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Things of a handy size on the ground of `count` photos, in each from the back to the front.

    Returns:
        (K,) each: pair, object of the bank, rows of the foot point below the horizon, and pixels
        a metre at that distance.
    """
    shape = (count, limits.count, _CANDIDATES)
    low, high = _CAMERA_HEIGHT_M
    camera_m = low * (high / low) ** draw(count)
    things = (draw(*shape) * bank.objects).long().clamp(max=bank.objects - 1)
    below = height * (0.06 + 0.64 * draw(*shape))
    scale = below / camera_m[:, None, None]
    share = scale * bank.height_m[things] / height
    fits = (share > _HEIGHT_SHARE[0]) & (share < _HEIGHT_SHARE[1])
    choice = fits.int().argmax(dim=-1, keepdim=True)
    things, below, scale = (x.gather(-1, choice)[..., 0] for x in (things, below, scale))
    taken = fits.any(dim=-1) & (draw(*shape[:2]) < limits.share)
    order = below.argsort(dim=-1)
    things, below, scale, taken = (x.gather(1, order) for x in (things, below, scale, taken))
    return taken.nonzero()[:, 0], things[taken], below[taken], scale[taken]


def _choose_views(
    bank: ObjectBank, things: Tensor, slope: Tensor, limits: PlacementLimits, draw: Draw
) -> tuple[Tensor, Tensor]:
    """(K,) view for image0 near the wanted elevation, and one from another side for image1."""
    views = things[:, None] * bank.views + torch.arange(bank.views, device=things.device)
    azimuth, elevation = bank.azimuth_rad[views], bank.elevation_rad[views]
    other_look = bank.restyled[views]
    forbidden = other_look & (not limits.restyled)
    cost = (elevation - slope.atan()[:, None]).abs() + 0.3 * draw(*views.shape)
    first = cost.masked_fill(forbidden, math.inf).argmin(dim=1, keepdim=True)
    turn = azimuth - azimuth.gather(1, first)
    turn = torch.atan2(turn.sin(), turn.cos()).abs()
    rise = (elevation - elevation.gather(1, first)).abs()
    good = (turn > _MIN_TURN_RAD) & (turn < math.radians(limits.turn_deg))
    good &= rise < _MAX_RISE_RAD
    cost = torch.where(good, draw(*views.shape), 1 + turn + rise)
    forbidden = forbidden.scatter(1, first, True)
    second = cost.masked_fill(forbidden, math.inf).argmin(dim=1, keepdim=True)
    return views.gather(1, first)[:, 0], views.gather(1, second)[:, 0]


def _elsewhere(
    foot: Tensor,
    scale: Tensor,
    horizon: Tensor,
    moved: Tensor,
    draw: Draw,
    size_hw: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Foot points and scales after things went to another place on the same ground."""
    width = size_hw[1]
    below = foot[:, 1] - horizon
    nearer = 0.7 + 0.7 * draw(len(foot))
    aside = draw(len(foot)) - 0.5
    aside = (aside.sign() * 0.08 + aside * 0.6) * width
    there = torch.stack([foot[:, 0] + aside, horizon + below * nearer], dim=-1)
    foot = torch.where(moved[:, None], there, foot)
    return foot, torch.where(moved, scale * nearer, scale)


def _up(foot: Tensor) -> Tensor:
    return torch.tensor([0.0, -1.0], device=foot.device).expand(len(foot), 2)


def _carried(H: Tensor, foot: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where H takes foot points: place (K, 2), upright direction, enlargement, ahead of it."""
    step = 2.0
    around = foot[:, None] + step * foot.new_tensor([[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    around = torch.cat([around, torch.ones_like(around[..., :1])], dim=-1)
    mapped = around @ H.mT
    ahead = mapped[..., 2] > _AHEAD
    mapped = mapped[..., :2] / mapped[..., 2:].clamp(min=_AHEAD)
    right, up = (mapped[:, k] - mapped[:, 0] for k in (1, 2))
    area = (right[:, 1] * up[:, 0] - right[:, 0] * up[:, 1]).abs() / step**2
    length = up.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    return mapped[:, 0], up / length, area.sqrt(), ahead.all(dim=1)


def _similarity(place: Tensor, scale: Tensor, up: Tensor, foot: Tensor) -> Tensor:
    """(K, 2, 3) that takes the foot point to its place and the view's up to `up`."""
    x, y = up.unbind(-1)
    R = torch.stack([-y, -x, x, -y], dim=-1).unflatten(-1, (2, 2))
    M = R * scale[:, None, None]
    return torch.cat([M, (place - (M @ foot[..., None])[..., 0])[..., None]], dim=-1)
