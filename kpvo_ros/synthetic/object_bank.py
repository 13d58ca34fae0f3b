"""A store of rendered things on transparent ground, each seen from many sides.

Rendering is too slow to happen for every training pair, and not needed: N objects with V views
each are rendered once and then only picked and placed. A view is a picture of premultiplied
colour with its alpha, the shadow it throws on the ground, the inverse depth at each pixel (linear
in the pixel on every plane, so it may be interpolated), and the pose of its camera. Gravity points
down the columns of every view, and the object stands on the ground (seed 000, [0024]).

Views 0..B-1 of an object share one look; the rest differ in texture, tint or time of day
([0021], [0022]).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import T_BASE_OPTICAL, from_rt, rpy_to_matrix
from kpvo_ros.synthetic.builder import Skin, WorldBuilder
from kpvo_ros.synthetic.coverings import covered
from kpvo_ros.synthetic.lighting import Lamp, Lighting
from kpvo_ros.synthetic.objects import KINDS, ObjectKind
from kpvo_ros.synthetic.render import Render, encode, render
from kpvo_ros.synthetic.texture import TextureAtlas, standard_atlas
from kpvo_ros.synthetic.world import World

_SUPERSAMPLING = 2
_FILL = 0.9  # share of the view that the object may fill
_ZOOMS = (1.0, 1.2, 1.44, 1.73)  # a flat or thin thing is not as large as its bounding sphere
_CREASE = 0.04  # relative step of depth inside a pixel above which the nearer surface counts
_FADE_PX = 10  # shadows fade out towards the border of a view, where they would be cut
_TEXTURE_SIDE = 256
_DISTANCES = (2.2, 3.0, 4.5)  # in radii of the object; few, as each has its own ray grid
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class BankSize:
    """How much is rendered.

    Attributes:
        objects: number N of things.
        views: number V of views of each.
        restyled: how many of the V views have another texture, tint or light.
        size_px: side S of a view.
    """

    objects: int = 48
    views: int = 16
    restyled: int = 6
    size_px: int = 160

    def __post_init__(self) -> None:
        if self.objects < 1 or self.size_px < 32 or not 0 <= self.restyled <= self.views - 2:
            raise SyntheticError(
                f'{self} cannot be rendered: at least 1 object, 32 pixels, and 2 views that are '
                'not restyled'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectBank:
    """M = N * V views of N objects, those of one object in a row; on one device.

    Attributes:
        rgba: (M, 4, S, S) uint8, premultiplied sRGB colour and alpha.
        shadow: (M, S, S) uint8 share of light the object takes from the ground.
        inverse_depth: (M, S, S) float32 1 / m, one pixel beyond the outline; 0 elsewhere, and in
            all of a view whose shape is not known.
        focal_px: (M,) float32; the principal point is the centre of the view.
        T_object_camera: (M, 4, 4) float32.
        azimuth_rad: (M,) float32 direction from which the camera looks.
        elevation_rad: (M,) float32 of the camera above the object's centre.
        foot_px: (M, 2) float32 where the object's origin on the ground is seen.
        px_per_m: (M,) float32 scale at the object.
        box_px: (M, 4) int64 left, top, right, bottom (exclusive) of what is not transparent.
        restyled: (M,) bool: another look than the object's first.
        movable: (N,) bool: such a thing may move on its own.
        height_m: (N,) float32.
        views: number V.
    """

    rgba: Tensor
    shadow: Tensor
    inverse_depth: Tensor
    focal_px: Tensor
    T_object_camera: Tensor
    azimuth_rad: Tensor
    elevation_rad: Tensor
    foot_px: Tensor
    px_per_m: Tensor
    box_px: Tensor
    restyled: Tensor
    movable: Tensor
    height_m: Tensor
    views: int

    @property
    def objects(self) -> int:
        """Number N of things."""
        return len(self.movable)

    @property
    def size_px(self) -> int:
        """Side S of a view."""
        return self.rgba.shape[-1]

    @property
    def device(self) -> torch.device:
        """Where the views lie."""
        return self.rgba.device

    def to(self, device: torch.device | str) -> ObjectBank:
        """The same bank on another device."""
        moved = {name: tensor.to(device) for name, tensor in self._tensors().items()}
        return ObjectBank(**moved, views=self.views)

    def save(self, path: Path) -> None:
        """Keep the bank in a safetensors file, to be read again by `load`."""
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self._tensors().items()}
        save_file(tensors, str(path), {'kind': 'object_bank', 'views': str(self.views)})

    @classmethod
    def load(cls, path: Path) -> ObjectBank:
        """Read what `save` wrote.

        Raises:
            SyntheticError: the file is not an object bank.
        """
        try:
            with safe_open(str(path), framework='pt') as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls(**tensors, views=int(metadata['views']))
        except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
            raise SyntheticError(f'{path} is not an object bank ({error}): delete it') from error

    def joined(self, other: ObjectBank) -> ObjectBank:
        """The objects of both banks.

        Raises:
            SyntheticError: their views differ in number or size.
        """
        if (self.views, self.size_px) != (other.views, other.size_px):
            raise SyntheticError(
                f'banks of {self.views} views of {self.size_px} px and {other.views} views of '
                f'{other.size_px} px do not join: make both alike'
            )
        mine, theirs = self._tensors(), other._tensors()
        both = {name: torch.cat([mine[name], theirs[name].to(self.device)]) for name in mine}
        return ObjectBank(**both, views=self.views)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def render_bank(
    rng: Rng,
    size: BankSize = BankSize(),
    *,
    kinds: tuple[ObjectKind, ...] = KINDS,
    textures: Tensor | None = None,
    device: torch.device | str = 'cpu',
    progress: Callable[[int, int], None] | None = None,
) -> ObjectBank:
    """Render a bank of random objects, the kinds in turn.

    Args:
        rng: objects, textures, light and viewpoints.
        size: how much of it.
        kinds: what to choose from.
        textures: (T, 3, S, S) RGB 0..1 that replace some of the procedural materials.
        device: where to render and to keep it.
        progress: called with the number of objects done and their total.
    """
    seeds = [int(seed) for seed in rng.integers(1 << 31, size=2)]
    atlases = tuple(standard_atlas(seed, _TEXTURE_SIDE).to(device) for seed in seeds)
    rows: list[dict[str, Tensor]] = []
    heights = []
    for index in range(size.objects):
        looks = atlases
        if textures is not None:
            looks = tuple(covered(atlas, textures, rng) for atlas in atlases)
        subject = _Subject(kinds[index % len(kinds)], int(rng.integers(1 << 31)), looks)
        start = float(rng.uniform(0, 2 * np.pi))
        for view in range(size.views):
            restyled = view >= size.views - size.restyled
            # The golden ratio spreads the restyled views over the circle like the others.
            azimuth = start + 2 * np.pi * (view * 0.618034) + float(rng.uniform(-0.1, 0.1))
            rows.append(_shoot(subject, rng, azimuth % (2 * np.pi), restyled, size.size_px))
        heights.append(subject.height)
        if progress is not None:
            progress(index + 1, size.objects)
    tensors = {name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]}
    movable = [kinds[index % len(kinds)].movable for index in range(size.objects)]
    return ObjectBank(
        **tensors,
        movable=torch.tensor(movable, device=device),
        height_m=torch.tensor(heights, dtype=torch.float32, device=device),
        views=size.views,
    )


class _Subject:
    """One object in all its looks, with a sheet of ground under it that shows its shadow."""

    def __init__(self, kind: ObjectKind, seed: int, atlases: tuple[TextureAtlas, ...]) -> None:
        self.worlds = [_build(kind, seed, atlas) for atlas in atlases]
        world = self.worlds[0]
        corners = _corners(world)
        corners[:, 2] = corners[:, 2].clip(min=0.0)
        low, high = corners.min(axis=0), corners.max(axis=0)
        self.corners = corners
        self.centre = (low + high) / 2
        self.radius = float(np.linalg.norm(corners - self.centre, axis=1).max())
        self.height = float(high[2])
        self.ground = int(world.object_id[-1])
        self.exposure: float | None = None
        self.azimuth = float(np.random.default_rng(seed).uniform(0, 2 * np.pi))

    def look(self, rng: Rng, restyled: bool) -> World:
        """The object in its own textures by day, or changed in one or two aspects."""
        if not restyled:
            return self.worlds[0].with_lighting(Lighting.day(self.azimuth, 0.9))
        world = self.worlds[int(rng.random() < 0.35)]
        if rng.random() < 0.5:  # another season: paint fades, leaves turn, things are wet
            change = torch.from_numpy(rng.uniform(0.55, 1.25, (1, 3))).to(world.tint)
            world = dataclasses.replace(world, tint=(world.tint * change).clamp(max=1.2))
        return world.with_lighting(self._light(rng))

    def _light(self, rng: Rng) -> Lighting:
        draw = rng.random()
        if draw < 0.6:
            return Lighting.day(float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.2, 1.3)))
        if draw < 0.8:
            return Lighting.overcast()
        side = float(rng.uniform(0, 2 * np.pi))
        reach = 2.5 * self.radius
        x, y = self.centre[0] + reach * np.cos(side), self.centre[1] + reach * np.sin(side)
        z = self.height + float(rng.uniform(0.5, 2.0)) * self.radius
        lamp = Lamp((float(x), float(y), float(z)), (10.0, 8.5, 6.0))
        return dataclasses.replace(
            Lighting.indoor((lamp,)), sky=(0.1, 0.1, 0.13), bounce=(0.07, 0.06, 0.06)
        )


def _build(kind: ObjectKind, seed: int, atlas: TextureAtlas) -> World:
    """The same seed gives the same shape, whatever the textures look like."""
    rng = np.random.default_rng(seed)
    b = WorldBuilder(atlas, rng)
    kind.build(b, rng)
    # One repeat as large as a town: the whole sheet shows one texel of paint and of dirt, so that
    # what differs on it is shadow.
    b.box((0, 0, -0.5), (400, 400, 1), Skin('concrete', 1e7), casts_shadow=False)
    world = b.build(Lighting.day())
    repeat = world.metres_per_repeat.clone()
    repeat[-1] = 0.0
    return dataclasses.replace(world, metres_per_repeat=repeat).to(atlas.table.device)


def _corners(world: World) -> np.ndarray:
    """(8 P, 3) corners of all primitives but the ground."""
    signs = np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3)
    T, half = world.T_world_prim[:-1].cpu().numpy(), world.half_size[:-1].cpu().numpy()
    local = signs[None] * half[:, None]
    return (local @ T[:, :3, :3].transpose(0, 2, 1) + T[:, None, :3, 3]).reshape(-1, 3)


def _shoot(
    subject: _Subject, rng: Rng, azimuth: float, restyled: bool, size: int
) -> dict[str, Tensor]:
    """Render one view at twice the size and average it down, which gives smooth outlines."""
    elevation = float(rng.uniform(0.04, 0.75))
    ratio = float(rng.choice(_DISTANCES))
    distance = subject.radius * ratio
    flat = np.array([np.cos(azimuth), np.sin(azimuth)]) * np.cos(elevation)
    position = subject.centre + distance * np.array([*flat, np.sin(elevation)])
    position[2] = max(position[2], 0.1)
    down = math.atan2(position[2] - subject.centre[2], distance * math.cos(elevation))
    T = from_rt(rpy_to_matrix(0.0, down, azimuth + np.pi), position) @ T_BASE_OPTICAL
    focal = _FILL * size / 2 * math.sqrt(ratio**2 - 1) * _zoom(subject, T, ratio)
    n = _SUPERSAMPLING
    middle = (n * size - 1) / 2
    camera = Camera(n * size, n * size, n * focal, n * focal, middle, middle)
    world = subject.look(rng, restyled)
    shot = render(world, T, camera, antialias=False)
    foot = Camera(size, size, focal, focal, (size - 1) / 2, (size - 1) / 2).project(
        np.linalg.inv(T)[:3, 3]
    )
    own = (shot.object_id >= 0) & (shot.object_id != subject.ground)
    exposure = _exposure(shot.radiance, own)
    if not restyled:  # one look has one exposure, so that a point keeps its colour
        exposure = subject.exposure = subject.exposure or exposure
    layers = _layers(shot, own, subject.ground, exposure)
    return {
        **layers,
        'focal_px': torch.tensor(focal, dtype=torch.float32),
        'T_object_camera': torch.from_numpy(T).float(),
        'azimuth_rad': torch.tensor(azimuth, dtype=torch.float32),
        'elevation_rad': torch.tensor(down, dtype=torch.float32),
        'foot_px': torch.from_numpy(foot).float(),
        'px_per_m': torch.tensor(focal / distance, dtype=torch.float32),
        'restyled': torch.tensor(restyled),
    }


def _zoom(subject: _Subject, T: np.ndarray, ratio: float) -> float:
    """The largest zoom that still shows all of the object."""
    local = (subject.corners - T[:3, 3]) @ T[:3, :3]
    reach = float(np.abs(local[:, :2] / local[:, 2:]).max()) * math.sqrt(ratio**2 - 1)
    return max([zoom for zoom in _ZOOMS if zoom * reach <= 1.0], default=_ZOOMS[0])


def _layers(shot: Render, own: Tensor, ground: int, exposure: float) -> dict[str, Tensor]:
    """Colour, shadow and inverse depth of one supersampled rendering (1, nS, nS)."""
    sheet = shot.object_id == ground
    colour = encode(shot.radiance * exposure).float().permute(0, 3, 1, 2) * own[:, None]
    alpha = _pool(255.0 * own[:, None].float())
    rgba = torch.cat([_pool(colour), alpha], dim=1)
    inverse = torch.where(own, 1 / shot.depth_m, 0.0)[:, None]
    shadow = _pool(_shadow(shot.radiance.mean(dim=-1), sheet)[:, None])
    shadow *= _fade(shadow.shape[-1], shadow.device)
    taken = (alpha[0, 0] > 0) | (shadow[0, 0] > 4)
    return {
        'rgba': rgba[0].round().to(torch.uint8),
        'shadow': shadow[0, 0].round().to(torch.uint8),
        'inverse_depth': _inverse_depth(inverse)[0, 0],
        'box_px': _box(taken),
    }


def _pool(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, _SUPERSAMPLING)


def _exposure(radiance: Tensor, own: Tensor) -> float:
    """Gain that brings the object to a middle brightness, as a camera would."""
    mean = float(radiance[own].mean()) if bool(own.any()) else 0.25
    return min(6.0, (0.25 / max(mean, 1e-3)) ** 0.8)


def _shadow(luminance: Tensor, sheet: Tensor) -> Tensor:
    """0..255 share of light missing on the ground.

    Under the sun all open ground is equally bright; where a lamp makes a gradient instead, there
    is no level to compare with and the object throws no shadow.
    """
    if not bool(sheet.any()):
        return torch.zeros_like(luminance)
    values = luminance[sheet]
    open_ground = values.quantile(0.9)
    if float((values - open_ground).abs().median()) > 0.02 * float(open_ground):
        return torch.zeros_like(luminance)
    missing = 1 - luminance / open_ground.clamp(min=1e-4)
    return torch.where(sheet & (missing > 0.03), 255 * missing, 0.0)


def _inverse_depth(fine: Tensor) -> Tensor:
    """Inverse depth (1, 1, S, S) at the pixels, and one pixel beyond the outline."""
    known = (fine > 0).float()
    covered = _pool(known)
    mean = _pool(fine) / covered.clamp(min=1e-6)
    near = F.max_pool2d(fine, _SUPERSAMPLING)
    step = (near - mean) / near.clamp(min=1e-6)
    value = torch.where(step > _CREASE, near, mean) * (covered > 0)
    around = F.avg_pool2d(value, 3, 1, 1)
    share = F.avg_pool2d((value > 0).float(), 3, 1, 1)
    rim = (value == 0) & (share > 0)
    return torch.where(rim, around / share.clamp(min=1e-6), value)


def _fade(size: int, device: torch.device) -> Tensor:
    place = torch.arange(size, dtype=torch.float32, device=device)
    ramp = (torch.minimum(place, size - 1 - place) / _FADE_PX).clamp(0, 1)
    return ramp[:, None] * ramp[None]


def _box(taken: Tensor) -> Tensor:
    """(4,) int64 bounding box of a mask, the whole picture when it is empty."""
    size = taken.shape[-1]
    rows, columns = taken.any(dim=1).nonzero()[:, 0], taken.any(dim=0).nonzero()[:, 0]
    if not len(rows):
        return torch.tensor([0, 0, size, size])
    ends = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return torch.tensor([int(end) for end in ends])
