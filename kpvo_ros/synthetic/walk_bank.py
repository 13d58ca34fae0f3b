"""Rendered walks kept in files: pictures, depth and poses of many short videos.

Rendering takes about a second a walk, so a bank is made once and every training draws its pairs
from it. It is kept in parts of 25 walks. A part depends on the seed and its number alone, so
rendering can be interrupted, several processes may render different parts, and numbers that no
training asks for can be kept for validation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import logging
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.walks import Walk, render_walk
from kpvo_ros.synthetic.world_choice import SceneWorld, make_scene_world

HELD_OUT_PART = 9000  # parts from this number on are for validation
_KIND, _VERSION = 'walks', '1'
_PER_WORLD = 5  # walks after which another world is built
_LOG = logging.getLogger(__name__)
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True)
class WalkSize:
    """Sizes of the walks of a bank.

    Attributes:
        width_px, height_px: of the pictures.
        views: number L of views of a walk.
        per_part: walks of a file.

    Raises:
        SyntheticError: there is nothing to render, or no pair of views.
    """

    width_px: int = 256
    height_px: int = 192
    views: int = 8
    per_part: int = 25

    def __post_init__(self) -> None:
        if min(self.width_px, self.height_px) < 32 or self.views < 2 or self.per_part < 1:
            raise SyntheticError(f'{self}: use at least 32 px, 2 views, 1 walk a part')

    def part_path(self, folder: Path, part: int) -> Path:
        """The file of a part."""
        return folder / f'walks_{self.width_px}x{self.height_px}_{part:04d}.safetensors'


@dataclasses.dataclass(frozen=True, eq=False)
class WalkBank:
    """W walks of L views with their truth, on one device.

    Attributes:
        images: (W, L, 3, H, W) uint8 RGB.
        depth_m: (W, L, H, W) float16 metres along the optical axis, NaN for the sky.
        T_first_camera: (W, L, 4, 4) float32 poses of the optical frames in that of the walk's
            first view, metres.
        K: (W, 3, 3) float32 pinhole matrix of all views of a walk.
    """

    images: Tensor
    depth_m: Tensor
    T_first_camera: Tensor
    K: Tensor

    def __len__(self) -> int:
        """Number of walks."""
        return len(self.images)

    def to(self, device: torch.device | str) -> WalkBank:
        """The same bank on another device."""
        return WalkBank(**{name: value.to(device) for name, value in self._tensors().items()})

    def first(self, count: int) -> WalkBank:
        """The first walks alone."""
        return WalkBank(**{name: value[:count] for name, value in self._tensors().items()})

    def save(self, path: Path, words: dict[str, str]) -> None:
        """Keep the bank in a safetensors file, complete or not at all."""
        tensors = {name: value.contiguous().cpu() for name, value in self._tensors().items()}
        beside = path.with_name(f'.{path.name}.{os.getpid()}')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, str(beside), words)
            beside.replace(path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise SyntheticError(
                f'{path}: cannot be written ({error}); choose another folder'
            ) from error

    @classmethod
    def join(cls, banks: list[WalkBank]) -> WalkBank:
        """All walks of several banks, in their order."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: torch.cat([getattr(bank, name) for bank in banks]) for name in names})

    @classmethod
    def stack(cls, walks: list[Walk]) -> WalkBank:
        """A bank of walks."""
        return cls(
            torch.stack([walk.images for walk in walks]),
            torch.stack([walk.depth_m for walk in walks]).half(),
            torch.from_numpy(np.stack([walk.T_first_camera for walk in walks])).float(),
            torch.from_numpy(np.stack([walk.K for walk in walks])).float(),
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def load_or_render(
    folder: Path,
    walks: int,
    *,
    seed: int = 0,
    first_part: int = 0,
    size: WalkSize = WalkSize(),
    device: torch.device | str = 'cpu',
    progress: Callable[[int, int], None] | None = None,
) -> WalkBank:
    """The walks that a folder holds; those it lacks are rendered and kept there.

    Args:
        folder: of the parts.
        walks: how many, at least one.
        seed: of the worlds, lights and walks.
        first_part: number of the first part; see `HELD_OUT_PART`.
        size: of the walks.
        device: where to render; the bank itself is on the CPU.
        progress: called with the number of walks there are, and their total, as they are
            rendered.

    Raises:
        SyntheticError: a file is no part of such a bank, cannot be written, or belongs to
            another seed.
    """
    if walks < 1 or first_part < 0:
        raise SyntheticError(f'{walks} walks from part {first_part}: use at least 1 and 0')
    parts: list[WalkBank] = []
    for number in range(first_part, first_part - (-walks // size.per_part)):
        before = sum(len(part) for part in parts)
        path = size.part_path(folder, number)
        if not path.is_file():

            def tell(done: int, before: int = before) -> None:
                if progress is not None:
                    progress(min(before + done, walks), walks)

            part = render_part(seed, number, size, device=device, progress=tell)
            part.save(path, _words(seed, number))
        # Read in any case: it must not matter whether the part was new.
        parts.append(load_part(path, seed, number, size))
    return WalkBank.join(parts).first(walks)


def render_part(
    seed: int,
    part: int,
    size: WalkSize = WalkSize(),
    *,
    device: torch.device | str = 'cpu',
    progress: Callable[[int], None] | None = None,
) -> WalkBank:
    """The walks of one part, the same ones for the same seed and number.

    Args:
        seed: of the bank.
        part: its number.
        size: of the walks.
        device: where to render; the result is on the CPU.
        progress: called with the number of walks done.
    """
    rng = np.random.default_rng([seed, part])
    worlds = -(-size.per_part // _PER_WORLD)
    walks: list[Walk] = []
    while len(walks) < size.per_part:
        turn = part * worlds + len(walks) // _PER_WORLD
        scene = make_scene_world(rng, turn, device)
        for walk in _walks_of(scene, min(_PER_WORLD, size.per_part - len(walks)), size, rng):
            walks.append(walk._replace(images=walk.images.cpu(), depth_m=walk.depth_m.cpu()))
            if progress is not None:
                progress(len(walks))
    return WalkBank.stack(walks)


def _walks_of(scene: SceneWorld, count: int, size: WalkSize, rng: Rng) -> Iterator[Walk]:
    """Walks through one world, fewer where it is too narrow for them."""
    for _ in range(count):
        try:
            yield render_walk(scene, (size.width_px, size.height_px), size.views, rng)
        except SyntheticError as error:
            _LOG.info('another world instead: %s', error)
            return


def load_part(path: Path, seed: int, part: int, size: WalkSize = WalkSize()) -> WalkBank:
    """Read one part.

    Raises:
        SyntheticError: the file is not that part.
    """
    try:
        with safe_open(str(path), framework='pt') as file:
            words = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SyntheticError(f'{path} is no bank of walks ({error}): delete it') from error
    if words != _words(seed, part):
        raise SyntheticError(
            f'{path} holds {words}, not {_words(seed, part)}: delete it or choose another folder'
        )
    count, views, height, width = size.per_part, size.views, size.height_px, size.width_px
    wanted = {
        'images': ((count, views, 3, height, width), torch.uint8),
        'depth_m': ((count, views, height, width), torch.float16),
        'T_first_camera': ((count, views, 4, 4), torch.float32),
        'K': ((count, 3, 3), torch.float32),
    }
    found = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
    if found != wanted:
        raise SyntheticError(f'{path} has tensors {found}, not those of {size}: delete it')
    return WalkBank(**tensors)


def _words(seed: int, part: int) -> dict[str, str]:
    return {'kind': _KIND, 'version': _VERSION, 'seed': str(seed), 'part': str(part)}
