"""Pictures of things from a folder, as content for training pairs: the door for other generators.

FOLDER/NAME/view_*.png are RGBA pictures of one thing from several sides, standing upright, in
whatever way they came to be: photographed, rendered elsewhere, or made by a diffusion model
(seed 000, [0025]-[0028]). Nobody knows which pixel of one view shows the same point as which
pixel of another, so there are no correspondences inside such a thing: it covers the photo in both
views, shows the same thing from two sides, and its pixels are not visible in the other image.
Training learns from it what appears, disappears and occludes.
"""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.object_bank import BankSize, ObjectBank

_HEIGHT_M = 1.2  # of things whose size nobody knows
_ELEVATION_RAD = 0.2
_MARGIN_PX = 4
_SOLID = 128


def load_content(folder: Path, size: BankSize | None = None) -> ObjectBank:
    """Read the things of a folder as a bank, to be joined to a rendered one.

    Args:
        folder: with one subfolder for each thing.
        size: number and side of the views of the bank to which it will be joined; fewer pictures
            are used again, more are left out. The usual size when None.

    Raises:
        SyntheticError: there are no things, or a picture has no transparency or shows nothing.
    """
    size = size or BankSize()
    things = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = [sorted(thing.glob('view_*.png')) for thing in things]
    files = [views for views in files if views]
    if not files:
        raise SyntheticError(f'{folder} has no NAME/view_*.png: give RGBA pictures of things')
    rows = [
        _row(views[index % len(views)], index, size)
        for views in files
        for index in range(size.views)
    ]
    return ObjectBank(
        **{name: torch.stack([row[name] for row in rows]) for name in rows[0]},
        movable=torch.zeros(len(files), dtype=torch.bool),
        height_m=torch.full((len(files),), _HEIGHT_M),
        views=size.views,
    )


def _row(path: Path, index: int, size: BankSize) -> dict[str, Tensor]:
    """One picture as a view of a bank, standing in the middle of it, its shape unknown."""
    picture = _fitted(_read(path), size.size_px)
    rows, columns = (picture[..., 3] >= _SOLID).nonzero()
    left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    colour = np.round(picture[..., :3] * (picture[..., 3:] / 255)).astype(np.uint8)
    rgba = np.concatenate([colour, picture[..., 3:]], axis=-1)
    azimuth = 2 * math.pi * (index / size.views)
    numbers = {
        'focal_px': float(size.size_px),
        'azimuth_rad': azimuth,
        'elevation_rad': _ELEVATION_RAD,
        'foot_px': [float(left + right) / 2, float(bottom)],
        'px_per_m': float(bottom - top + 1) / _HEIGHT_M,
    }
    side = size.size_px
    return {
        'rgba': torch.from_numpy(np.ascontiguousarray(rgba.transpose(2, 0, 1))),
        'shadow': torch.zeros(side, side, dtype=torch.uint8),
        'inverse_depth': torch.zeros(side, side),
        'T_object_camera': torch.eye(4),
        'box_px': torch.tensor([0, 0, side, side]),
        'restyled': torch.tensor(False),
        **{name: torch.tensor(value, dtype=torch.float32) for name, value in numbers.items()},
    }


def _read(path: Path) -> np.ndarray:
    """(H, W, 4) uint8 RGBA, cut to what is not transparent."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4 or image.dtype != np.uint8:
        raise SyntheticError(f'{path} is not an 8-bit picture with transparency: save it as RGBA')
    rows, columns = (image[..., 3] >= _SOLID).nonzero()
    if not len(rows):
        raise SyntheticError(f'{path} is transparent everywhere: delete it')
    image = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def _fitted(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture in the middle of a transparent square."""
    room = side - 2 * _MARGIN_PX
    factor = room / max(picture.shape[:2])
    width, height = (max(1, round(length * factor)) for length in picture.shape[1::-1])
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, (width, height), interpolation=method)
    out = np.zeros((side, side, 4), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = small
    return out
