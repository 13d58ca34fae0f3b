"""Textures: a set of pictures with their mip levels, packed in one table for fast sampling.

Convention: `u` runs to the right and `v` down over a picture, one unit is one repeat; texel (0, 0)
has its centre at u = v = 0.5 / S. A row of the table holds the 2 x 2 texels that bilinear
sampling needs, so one sample is one look-up. Level k is the picture averaged over 2^k texels, in
linear light; stored values are encoded with gamma 2, which is close to sRGB and cheap to undo.
The anisotropic filter follows the idea of P. Heckbert, "Survey of Texture Mapping" (1986): samples
along the longer side of a pixel's footprint, each of the width of the shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import functools
from pathlib import Path

import cv2
import numpy as np
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.patterns import ground, signs, things, walls
from kpvo_ros.synthetic.vectors import length

MAX_TAPS = 4  # samples along a stretched footprint
_POSTERS = 6
_PATTERNS = (
    *(ground.asphalt, ground.road, ground.crossing, ground.paving, ground.cobbles, ground.grass),
    *(ground.parquet, ground.tiles, ground.carpet),
    *(walls.brick, walls.plaster, walls.concrete, walls.wallpaper, walls.facade_brick),
    *(walls.facade_plaster, walls.facade_office, walls.shop, walls.bookshelf),
    *(things.wood, things.metal, things.cardboard, things.fabric, things.bark, things.leaves),
    *(things.roof, things.door, things.car_body, things.car_glass, things.tyre, things.grime),
    things.clouds,
)
_THINGS = (
    *(ground.road, ground.crossing, walls.shop, walls.facade_office, things.door, things.clouds),
    *(things.car_glass, things.car_body, things.tyre),
)  # not the same all over


@dataclasses.dataclass(frozen=True, eq=False)
class TextureAtlas:
    """Pictures of one size with all their mip levels.

    Attributes:
        names: name of each picture; its place is the texture's number.
        size: side S of level 0 in texels, a power of two.
        table: (T * texels, 12) uint8, the 2 x 2 neighbourhood of every texel of every level.
        level_start: (L,) int64, where a level begins within one texture's rows.
    """

    names: tuple[str, ...]
    size: int
    table: torch.Tensor
    level_start: torch.Tensor

    @classmethod
    def pack(cls, pictures: Mapping[str, np.ndarray]) -> TextureAtlas:
        """Build the table from square pictures.

        Args:
            pictures: name -> (S, S, 3) uint8 RGB, or float 0..1; S a power of two, all alike.

        Raises:
            SyntheticError: there is no picture, or one has the wrong shape.
        """
        if not pictures:
            raise SyntheticError('a texture atlas needs at least one picture')
        size = len(next(iter(pictures.values())))
        if size < 2 or size & (size - 1):
            raise SyntheticError(f'texture side {size} is not a power of two: use 128, 256, 512')
        sides = np.array([(size >> k) ** 2 for k in range(size.bit_length())])
        start = np.concatenate([[0], np.cumsum(sides)[:-1]])
        table = np.empty((len(pictures), sides.sum(), 12), np.uint8)
        for rows, (name, picture) in zip(table, pictures.items(), strict=True):
            rows[:] = _rows(name, picture, size)
        table = table.reshape(-1, 12)
        return cls(tuple(pictures), size, torch.from_numpy(table), torch.from_numpy(start))

    def __getitem__(self, name: str) -> int:
        """Number of the texture with this name.

        Raises:
            SyntheticError: there is none.
        """
        if name not in self.names:
            raise SyntheticError(f'no texture {name!r}: the atlas has {", ".join(self.names)}')
        return self.names.index(name)

    @property
    def levels(self) -> int:
        """Number of mip levels."""
        return len(self.level_start)

    def replaced(self, pictures: Mapping[str, np.ndarray]) -> TextureAtlas:
        """The same atlas with other pictures under some names, e.g. {'brick': (S, S, 3)}.

        Raises:
            SyntheticError: there is no such name, or a picture has the wrong shape.
        """
        table = self.table.clone()
        rows = table.view(len(self.names), -1, 12)
        for name, picture in pictures.items():
            rows[self[name]] = torch.from_numpy(_rows(name, picture, self.size)).to(table)
        return dataclasses.replace(self, table=table)

    def to(self, device: torch.device | str) -> TextureAtlas:
        """The same atlas on another device."""
        return dataclasses.replace(
            self, table=self.table.to(device), level_start=self.level_start.to(device)
        )

    def sample(
        self, texture: torch.Tensor, u: torch.Tensor, v: torch.Tensor, level: torch.Tensor
    ) -> torch.Tensor:
        """Trilinear samples.

        Args:
            texture: (P,) int64 numbers of textures.
            u: (P,) float32.
            v: (P,) float32.
            level: (P,) float32 mip level, clamped to what exists.

        Returns:
            (P, 3) float32 in 0..1, gamma 2.
        """
        level = level.clamp(0, self.levels - 1)
        lower = level.floor()
        weight = (level - lower)[:, None]
        coarse = lower.long()
        fine_colour = self._bilinear(texture, u, v, coarse)
        coarse = (coarse + 1).clamp(max=self.levels - 1)
        return torch.lerp(fine_colour, self._bilinear(texture, u, v, coarse), weight)

    def sample_footprint(
        self,
        texture: torch.Tensor,
        uv: torch.Tensor,
        step_x: torch.Tensor,
        step_y: torch.Tensor,
    ) -> torch.Tensor:
        """Average of a texture over the footprint of a pixel.

        Args:
            texture: (P,) int64 numbers of textures.
            uv: (2, P) float32 centre of the footprint.
            step_x: (2, P) float32 change of uv to the next pixel on the right.
            step_y: (2, P) float32 change of uv to the next pixel below.

        Returns:
            (P, 3) float32 in 0..1, gamma 2.
        """
        length_x, length_y = length(step_x), length(step_y)
        wide = length_x > length_y
        major, minor = torch.where(wide, length_x, length_y), torch.where(wide, length_y, length_x)
        taps = (major / (minor + 1e-12)).round_().clamp_(1, MAX_TAPS)
        level = (major * self.size / taps + 1e-9).log2()
        along = torch.where(wide, step_x, step_y)
        start = uv + along * (0.5 / taps - 0.5)
        colour = self.sample(texture, start[0], start[1], level)
        stretched = (taps > 1).nonzero()[:, 0]
        for tap in range(1, MAX_TAPS):
            stretched = stretched[taps[stretched] > tap]
            shift = along[:, stretched] * (tap / taps[stretched])
            place = start[:, stretched] + shift
            extra = self.sample(texture[stretched], place[0], place[1], level[stretched])
            colour.index_add_(0, stretched, extra)
        return colour / taps[:, None]

    def _bilinear(
        self, texture: torch.Tensor, u: torch.Tensor, v: torch.Tensor, level: torch.Tensor
    ) -> torch.Tensor:
        side = torch.bitwise_right_shift(torch.full_like(level, self.size), level)
        x, y = (u - u.floor()) * side - 0.5, (v - v.floor()) * side - 0.5
        left, top = x.floor(), y.floor()
        fx, fy = (x - left)[:, None], (y - top)[:, None]
        mask = side - 1
        row = (top.long() & mask) * side + (left.long() & mask) + self.level_start[level]
        row += texture * (len(self.table) // len(self.names))
        texels = self.table.index_select(0, row).float()
        upper = torch.lerp(texels[:, 0:3], texels[:, 3:6], fx)
        lower = torch.lerp(texels[:, 6:9], texels[:, 9:12], fx)
        return torch.lerp(upper, lower, fy).mul_(1 / 255)


@functools.lru_cache(maxsize=4)
def standard_atlas(seed: int = 0, size: int = 512) -> TextureAtlas:
    """All procedural textures of the package, drawn from one seed."""
    painters: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        **{pattern.__name__: pattern for pattern in _PATTERNS},
        **{f'poster_{k}': signs.poster for k in range(_POSTERS)},
        **{
            f'landmark_{name}': functools.partial(signs.landmark, name=name)
            for name in signs.LANDMARK_CLASSES
        },
    }
    return TextureAtlas.pack(_painted(painters, seed, size))


def material_pictures(seed: int, size: int) -> dict[str, np.ndarray]:
    """The materials among the pictures of `standard_atlas`: no letters, signs or whole things."""
    materials = {pattern.__name__: pattern for pattern in _PATTERNS if pattern not in _THINGS}
    return _painted(materials, seed, size)


def _painted(
    painters: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]], seed: int, size: int
) -> dict[str, np.ndarray]:
    """Name -> (size, size, 3) uint8 RGB; every picture has its own stream of draws."""
    children = np.random.SeedSequence(seed).spawn(len(painters))
    pictures = {}
    for (name, paint), child in zip(painters.items(), children, strict=True):
        picture = paint(np.random.default_rng(child), size)
        pictures[name] = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    return pictures


def load_pictures(paths: Iterable[str | Path], size: int = 512) -> dict[str, np.ndarray]:
    """Read image files as textures, named after their stems.

    Args:
        paths: image files in any format OpenCV reads.
        size: side to which the pictures are resized.

    Returns:
        name -> (size, size, 3) uint8 RGB, ready for `TextureAtlas.pack`.

    Raises:
        SyntheticError: a file is not an image.
    """
    pictures = {}
    for path in map(Path, paths):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise SyntheticError(f'{path} is not a readable image: give PNG or JPEG files')
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        pictures[path.stem] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return pictures


def _rows(name: str, picture: np.ndarray, size: int) -> np.ndarray:
    """(texels, 12) uint8 rows of one texture: level after level, row-major."""
    if picture.shape != (size, size, 3):
        raise SyntheticError(
            f'texture {name!r} has shape {picture.shape}, expected ({size}, {size}, 3): resize it'
        )
    if picture.dtype == np.uint8:
        picture = picture.astype(np.float32) / 255
    light = np.clip(picture, 0, 1).astype(np.float32) ** 2
    rows = []
    while True:
        code = np.round(255 * np.sqrt(light)).astype(np.uint8)
        right = np.roll(code, -1, axis=1)
        quad = [code, right, np.roll(code, -1, axis=0), np.roll(right, -1, axis=0)]
        rows.append(np.concatenate(quad, axis=-1).reshape(-1, 12))
        if len(light) == 1:
            return np.concatenate(rows)
        half = len(light) // 2
        light = light.reshape(half, 2, half, 2, 3).mean(axis=(1, 3))
