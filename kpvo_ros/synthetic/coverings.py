"""Textures from outside, e.g. of a diffusion model, in place of procedural materials.

Seed 000 [0025] lets a generator make the texture of rendered things. Here it enters: for every
thing, half of the materials that its surfaces choose from become pictures from outside.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.objects import SURFACES
from kpvo_ros.synthetic.texture import TextureAtlas, load_pictures

_SUFFIXES = ('.png', '.jpg', '.jpeg')
_SHARE = 0.5  # of the materials


def covered(atlas: TextureAtlas, textures: Tensor, rng: np.random.Generator) -> TextureAtlas:
    """The atlas with half of its materials replaced by textures drawn at random.

    Args:
        atlas: with the materials of `objects.SURFACES`.
        textures: (T, 3, S, S) RGB 0..1, made to tile.
        rng: which materials, which textures.

    Raises:
        SyntheticError: the textures are not such a batch.
    """
    if textures.ndim != 4 or textures.shape[1] != 3 or 0 in textures.shape:
        raise SyntheticError(f'textures {tuple(textures.shape)} must be (T, 3, S, S)')
    count = round(_SHARE * len(SURFACES))
    names = rng.choice(SURFACES, count, replace=False)
    picked = rng.integers(len(textures), size=count)
    pictures = {
        str(name): _resized(textures[int(row)], atlas.size)
        for name, row in zip(names, picked, strict=True)
    }
    return atlas.replaced(pictures)


def load_textures(folder: Path) -> Tensor:
    """Read the pictures of a folder, e.g. what `kpvo textures` wrote, as (T, 3, S, S) 0..1.

    Args:
        folder: with PNG or JPEG files; S is the shorter side of the first one, to which all are
            resized.

    Raises:
        SyntheticError: there is no picture, or one cannot be read.
    """
    paths = sorted(path for path in folder.glob('*') if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise SyntheticError(f'{folder} has no pictures: give a folder of PNG or JPEG files')
    size = _shorter_side(paths[0])
    pictures = np.stack([*load_pictures(paths, size).values()])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255.0


def _shorter_side(path: Path) -> int:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return 0 if image is None else min(image.shape[:2])


def _resized(texture: Tensor, size: int) -> np.ndarray:
    """(size, size, 3) that still tiles: resized among its own repeats."""
    picture = np.tile(texture.permute(1, 2, 0).cpu().numpy(), (3, 3, 1))
    method = cv2.INTER_AREA if len(picture) > 3 * size else cv2.INTER_CUBIC
    picture = cv2.resize(picture, (3 * size, 3 * size), interpolation=method)
    return picture[size : 2 * size, size : 2 * size].clip(0.0, 1.0)
