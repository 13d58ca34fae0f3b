"""Pairs of views out of a bank of rendered walks, with everything that is known of them.

Two views of a walk at most some views apart that see the same; both cut alike, so that they are
of one camera as the two frames of a video are; mirrored half of the time, poses too; and each with
light and camera noise of its own.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.config.schema import parameter
from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.sampling import sample
from kpvo_ros.geometry.warp import inverse_torch
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.synthetic.draws import luma
from kpvo_ros.synthetic.photometric import StyleLimits, restyle
from kpvo_ros.synthetic.walk_bank import WalkBank
from kpvo_ros.synthetic.walks import covisible_share

_SMALL_PX = 32  # about the width at which co-visibility is counted
_SMOOTH = 1.1  # depths of neighbours that differ by more belong to different things
_GREY_SHARE = 0.15  # pairs of a grey camera
_LIGHT = StyleLimits(
    colour=0.8, exposure_stops=0.5, contrast=0.25, cast=0.1, saturation=0.4, gamma=0.3,
    gamma_factor=1.4, highlight=0.02, vignetting=0.15, blur=0.15, blur_px=1.0, motion=0.05,
    motion_px=4.0, noise=0.5, noise_sigma=0.03, blocks=0.1, blocks_step=0.06,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RenderedDataConfig:
    """How pairs are cut from a bank of walks."""

    height_px: int = parameter(
        96, 'Height of the pictures, a multiple of 16; larger ones need more time a step.', low=32
    )
    width_px: int = parameter(128, 'Width of the pictures, a multiple of 16.', low=32)
    max_gap: int = parameter(
        2, 'Most views between the two of a pair; raise it for fast robots.', low=1, high=100
    )
    least_shared: float = parameter(
        0.5, 'Least share of either view that the other sees as well.', low=0.0, high=0.99
    )
    zoom: float = parameter(
        1.3, 'Largest enlargement: other focal lengths and off-centre cameras.', low=1.0, high=4.0
    )
    light: bool = parameter(
        True, 'Light, colours, blur and noise of each view by itself; false for a plain camera.'
    )
    far_m: float = parameter(
        80.0, 'Depths beyond count as unknown; the network is not asked for them.', low=1.0
    )

    def __post_init__(self) -> None:
        if self.height_px % 16 or self.width_px % 16:
            raise SyntheticError(
                f'pictures of {self.width_px} x {self.height_px}: give multiples of 16'
            )


class Window(NamedTuple):
    """What is cut from both views of P pairs, all (P,).

    Attributes:
        left, top: outer edge of the first pixel, pixels of the bank counted from its outer edge.
        step: side of a new pixel, pixels of the bank.
        mirrored: bool, left and right exchanged.
    """

    left: Tensor
    top: Tensor
    step: Tensor
    mirrored: Tensor


class RenderedPairs:
    """Makes batches of pairs on the device of its bank.

    Args:
        bank: the walks.
        config: how pairs are cut.

    Raises:
        SyntheticError: no two views of the bank see the same.
    """

    def __init__(self, bank: WalkBank, config: RenderedDataConfig = RenderedDataConfig()) -> None:
        self.config = config
        self.bank = bank
        height, width = bank.images.shape[-2:]
        self._widest = min(height / config.height_px, width / config.width_px)
        # So far by area that bilinear sampling skips no pixel.
        divisors = (n for n in range(1, max(1, int(self._widest / 2)) + 1))
        self._factor = max(n for n in divisors if not (height % n or width % n))
        self._images = _shrunk(bank.images, self._factor)
        self.shared = shared_table(bank, config.max_gap)
        allowed = self.shared > config.least_shared
        allowed &= allowed.transpose(1, 2).clone()
        self._pairs = allowed.nonzero()  # (N, 3) walk, view 0, view 1; by walk
        count = torch.bincount(self._pairs[:, 0], minlength=len(bank))
        self._walks = count.nonzero()[:, 0]  # that have pairs
        self._count = count[self._walks]
        self._first = (count.cumsum(0) - count)[self._walks]
        if not len(self._walks):
            raise SyntheticError(
                f'no two views of {len(bank)} walks share {config.least_shared:.0%}: lower '
                'data.least_shared'
            )

    def make(self, count: int, generator: torch.Generator) -> FramePairs:
        """A batch of `count` pairs; the same generator state gives the same batch."""
        device = self.bank.images.device
        draw = torch.rand(count, 6, generator=generator, device=generator.device).to(device)
        walk = _below(draw[:, 0], torch.tensor(len(self._walks), device=device))
        rows = self._pairs[self._first[walk] + _below(draw[:, 1], self._count[walk])]
        zoom = self.config.zoom ** draw[:, 2]
        height, width = self.bank.images.shape[-2:]
        step = self._widest / zoom
        window = Window(
            (width - self.config.width_px * step) * draw[:, 3],
            (height - self.config.height_px * step) * draw[:, 4],
            step,
            draw[:, 5] < 0.5,
        )
        pairs = self._cut(rows, window)
        return self._lit(pairs, generator) if self.config.light else pairs

    def fixed(self, count: int, seed: int = 0) -> FramePairs:
        """Pairs to be measured with, the same ones every time: whole pictures in plain light."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self._pairs), generator=generator)[:count].sort().values
        rows = self._pairs[order.to(self._pairs.device)]
        height, width = self.bank.images.shape[-2:]
        step = torch.full((len(rows),), self._widest, device=rows.device)
        left = (width - self.config.width_px * step) / 2
        top = (height - self.config.height_px * step) / 2
        return self._cut(rows, Window(left, top, step, step < 0))

    def _cut(self, rows: Tensor, window: Window) -> FramePairs:
        """Windows of the pairs (P, 3), the same one of both views of a pair."""
        size_hw = (self.config.height_px, self.config.width_px)
        walk, views = rows[:, 0].repeat(2), rows[:, 1:].T.flatten()
        both = Window(*(value.repeat(2) for value in window))
        y, x = places(both, size_hw)
        images = self._images[walk, views].float()
        xy = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
        image0, image1 = sample(images, (xy + 0.5) / self._factor - 0.5).div_(255).chunk(2)
        depth = pick_depth(self.bank.depth_m, walk, views, y, x)
        depth0, depth1 = torch.where(depth <= self.config.far_m, depth, torch.nan).chunk(2)
        K = cut_K(self.bank.K[rows[:, 0]], window, size_hw[1])
        T = self.bank.T_first_camera
        T_1_0 = inverse_torch(T[rows[:, 0], rows[:, 2]]) @ T[rows[:, 0], rows[:, 1]]
        sign = torch.where(window.mirrored, -1.0, 1.0)
        mirror = F.pad(sign[:, None], (0, 3), value=1.0)  # of x alone
        T_1_0 = mirror[:, :, None] * T_1_0 * mirror[:, None, :]
        length_m = T_1_0[:, :3, 3].norm(dim=1)
        return FramePairs(image0, image1, K, K.clone(), depth0, depth1, T_1_0, length_m)

    def _lit(self, pairs: FramePairs, generator: torch.Generator) -> FramePairs:
        """Every view in a light of its own; both grey where the camera is."""
        images = restyle(torch.cat([pairs.image0, pairs.image1]), generator, _LIGHT)
        draw = torch.rand(len(pairs.K0), generator=generator, device=generator.device)
        grey = (draw < _GREY_SHARE).to(images.device).repeat(2).nonzero()[:, 0]
        images[grey] = luma(images[grey]).expand(-1, 3, -1, -1)
        image0, image1 = images.chunk(2)
        return pairs._replace(image0=image0, image1=image1)


def places(window: Window, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where rows (P, H) and columns (P, W) of new pixels lie in the old picture, its pixels."""
    height, width = size_hw
    device = window.left.device
    rows = torch.arange(height, device=device) + 0.5
    columns = torch.arange(width, device=device) + 0.5
    columns = torch.where(window.mirrored[:, None], width - columns, columns)
    step = window.step[:, None]
    return window.top[:, None] + step * rows - 0.5, window.left[:, None] + step * columns - 0.5


def cut_K(K: Tensor, window: Window, width_px: int) -> Tensor:
    """Pinhole matrices (P, 3, 3) of the windows, `width_px` wide, of pictures with K."""
    new = K.clone()
    new[:, 0, 0], new[:, 1, 1] = K[:, 0, 0] / window.step, K[:, 1, 1] / window.step
    x = (K[:, 0, 2] + 0.5 - window.left) / window.step - 0.5
    new[:, 0, 2] = torch.where(window.mirrored, width_px - 1 - x, x)
    new[:, 1, 2] = (K[:, 1, 2] + 0.5 - window.top) / window.step - 0.5
    return new


def pick_depth(depth_m: Tensor, walk: Tensor, view: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Depth at places between the pixels of a bank.

    On one surface the inverse of depth is interpolated, which is exact on planes; across an edge
    and beside the sky the nearest pixel is taken.

    Args:
        depth_m: (W, L, H, W) of the bank.
        walk: (N,) and
        view: (N,) of the pictures.
        y: (N, h) rows, between the outer edges of the picture.
        x: (N, w) columns.

    Returns:
        (N, 1, h, w) float32 metres, NaN for the sky.
    """
    height, width = depth_m.shape[-2:]
    top, left = (
        at.floor().long().clamp(0, max(size - 2, 0)) for at, size in ((y, height), (x, width))
    )
    down, right = (y - top).clamp(0, 1)[:, :, None], (x - left).clamp(0, 1)[:, None, :]
    # One flat index is several times faster than four of them.
    picture = ((walk * depth_m.shape[1] + view) * height)[:, None] + top
    at = picture[:, :, None] * width + left[:, None, :]
    flat, shape = depth_m.flatten(), at.shape
    a, b, c, d = (
        flat.index_select(0, (at + shift).flatten()).float().reshape(shape)
        for shift in (0, 1, width, width + 1)
    )
    mixed = torch.lerp(
        torch.lerp(1 / a, 1 / b, right), torch.lerp(1 / c, 1 / d, right), down.expand_as(a)
    )
    nearest = torch.where(
        down < 0.5, torch.where(right < 0.5, a, b), torch.where(right < 0.5, c, d)
    )
    low = torch.minimum(torch.minimum(a, b), torch.minimum(c, d))  # NaN where one is NaN
    high = torch.maximum(torch.maximum(a, b), torch.maximum(c, d))
    return torch.where(high < _SMOOTH * low, 1 / mixed, nearest)[:, None]


def shared_table(bank: WalkBank, max_gap: int) -> Tensor:
    """(W, L, L) share of view i that view j of the same walk sees; 0 for views farther apart.

    Counted at a low resolution, once for a bank.
    """
    step = max(1, bank.depth_m.shape[-1] // _SMALL_PX)
    off = step // 2
    depth = bank.depth_m[..., off::step, off::step].float()
    K = bank.K.clone()
    K[:, :2, 2] -= off
    K[:, :2] /= step
    T, views = bank.T_first_camera, depth.shape[1]
    table = torch.zeros(len(bank), views, views, device=depth.device)
    for i in range(views):
        for j in range(max(0, i - max_gap), min(views, i + max_gap + 1)):
            if i != j:
                T_j_i = inverse_torch(T[:, j]) @ T[:, i]
                table[:, i, j] = covisible_share(depth[:, i, None], depth[:, j, None], K, T_j_i)
    return table


def _shrunk(images: Tensor, factor: int) -> Tensor:
    """Pictures (W, L, 3, H, W) uint8 by area, walk by walk; the factor divides both sides."""
    if factor == 1:
        return images
    return torch.stack(
        [F.avg_pool2d(walk.float(), factor).round().to(torch.uint8) for walk in images]
    )


def _below(draw: Tensor, count: Tensor) -> Tensor:
    """Whole numbers 0..count - 1 of draws in 0..1."""
    return (draw * count).long().minimum(count - 1)
