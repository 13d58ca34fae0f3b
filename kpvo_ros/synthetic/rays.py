"""The rays of a camera, laid out in square tiles.

A tile is the unit of culling: a primitive is only tested against tiles it can touch. All per-pixel
work happens in tile order, (B, T, P) with P = 256 pixels; `to_image` brings it back to rows.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch

from kpvo_ros.geometry.camera import Camera

TILE = 16  # side of a tile, pixels


@dataclasses.dataclass(frozen=True, eq=False)
class RayGrid:
    """Rays (x, y, 1) through the pixel centres of one camera.

    Attributes:
        width, height: size of the image.
        columns, rows: number of tiles in each direction.
        xy: (2, T, P) float32 ray at each pixel.
        jacobian: (2, 2, T, P) float32, d xy[i] / d pixel[j].
        valid: (T, P) bool, whether the lens sees anything there (no padding, no NaN).
        bounds: (T, 4) float32 x_min, x_max, y_min, y_max of the rays of a tile.
    """

    width: int
    height: int
    columns: int
    rows: int
    xy: torch.Tensor
    jacobian: torch.Tensor
    valid: torch.Tensor
    bounds: torch.Tensor

    @property
    def tiles(self) -> int:
        """Number of tiles T."""
        return self.columns * self.rows

    def to_image(self, values: torch.Tensor) -> torch.Tensor:
        """Tile order (B, T, P, ...) to rows (B, H, W, ...)."""
        batch, rest = values.shape[0], values.shape[3:]
        values = values.reshape(batch, self.rows, self.columns, TILE, TILE, *rest)
        values = values.transpose(2, 3).reshape(
            batch, self.rows * TILE, self.columns * TILE, *rest
        )
        return values[:, : self.height, : self.width].contiguous()

    def tile_index(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Flat index into T * P of pixels."""
        tile = row // TILE * self.columns + column // TILE
        return tile * (TILE * TILE) + row % TILE * TILE + column % TILE


@functools.lru_cache(maxsize=16)
def ray_grid(camera: Camera, device: torch.device) -> RayGrid:
    """Rays of a camera on a device; computed once for each camera."""
    columns, rows = -(-camera.width // TILE), -(-camera.height // TILE)
    # One more pixel on every side gives central differences at the border.
    x = np.arange(-1, columns * TILE + 1, dtype=np.float64)
    y = np.arange(-1, rows * TILE + 1, dtype=np.float64)
    pixels = np.stack(np.meshgrid(x, y), axis=-1)
    rays = camera.unproject(pixels)[..., :2]
    step_x = (rays[1:-1, 2:] - rays[1:-1, :-2]) / 2
    step_y = (rays[2:, 1:-1] - rays[:-2, 1:-1]) / 2
    jacobian = np.stack([step_x, step_y], axis=-1)  # (H, W, 2, 2): [ray component, pixel axis]
    rays, pixels = rays[1:-1, 1:-1], pixels[1:-1, 1:-1]
    valid = np.isfinite(rays).all(-1) & (pixels[..., 0] < camera.width)
    valid &= pixels[..., 1] < camera.height
    steady = np.broadcast_to(np.diag([1 / camera.fx, 1 / camera.fy]), jacobian.shape)
    jacobian = np.where(np.isfinite(jacobian).all((-1, -2), keepdims=True), jacobian, steady)
    low = _tiled(np.where(valid[..., None], rays, np.inf)).min(axis=1)
    high = _tiled(np.where(valid[..., None], rays, -np.inf)).max(axis=1)
    bounds = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=-1)

    def tensor(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(device, dtype)

    tiled_rays = _tiled(np.where(valid[..., None], rays, 0.0))
    return RayGrid(
        camera.width,
        camera.height,
        columns,
        rows,
        tensor(np.moveaxis(tiled_rays, -1, 0), torch.float32),
        tensor(np.moveaxis(_tiled(jacobian), (-2, -1), (0, 1)), torch.float32),
        tensor(_tiled(valid), torch.bool),
        tensor(bounds, torch.float32),
    )


def _tiled(image: np.ndarray) -> np.ndarray:
    """(rows * TILE, columns * TILE, ...) -> (T, P, ...)."""
    rows, columns = image.shape[0] // TILE, image.shape[1] // TILE
    image = image.reshape(rows, TILE, columns, TILE, *image.shape[2:]).swapaxes(1, 2)
    return image.reshape(rows * columns, TILE * TILE, *image.shape[4:])
