"""THE pixel convention in torch: where a coordinate lies in a tensor, and nothing else.

Pixel (0, 0) is the centre of the top left pixel (OpenCV's sense); a picture W wide covers
-0.5 .. W - 0.5. `grid_sample` counts from -1 at the outer edge of the first pixel to 1 at the
outer edge of the last (`align_corners=False`), hence `(2 x + 1) / W - 1`. This half-pixel shift
lives here only. Sampling at `pixel_grid` returns the image itself: bit by bit when both sizes are
powers of two, else up to the rounding of the -1..1 coordinate, `W` times the type's epsilon in
pixels (4e-5 px for float32 and 640 columns).
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import GeometryError

_ROUNDING_PX = 1e-3  # float32 keeps pixels of a 4000 wide picture to a quarter of this


def pixel_grid(
    height: int,
    width: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(H, W, 2) x, y of every pixel's centre."""
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype),
        torch.arange(width, device=device, dtype=dtype),
        indexing='ij',
    )
    return torch.stack([x, y], dim=-1)


def normalize_pixels(xy: Tensor, height: int, width: int) -> Tensor:
    """Pixels (..., 2) in the coordinates of `grid_sample(..., align_corners=False)`."""
    return (2.0 * xy + 1.0) / xy.new_tensor([width, height]) - 1.0


def denormalize_pixels(grid: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `normalize_pixels`."""
    return ((grid + 1.0) * grid.new_tensor([width, height]) - 1.0) / 2.0


def inside(xy: Tensor, height: int, width: int, border_px: float = 0.0) -> Tensor:
    """(...) bool: pixels (..., 2) between the outer pixel centres, so nothing is extrapolated.

    `border_px` widens (negative) or narrows the picture; NaN is outside.
    """
    x, y = xy.unbind(dim=-1)
    low = border_px - _ROUNDING_PX
    right, bottom = width - 1 - low, height - 1 - low
    return (x >= low) & (x <= right) & (y >= low) & (y <= bottom)


def sample(image: Tensor, xy: Tensor, mode: str = 'bilinear', padding: str = 'border') -> Tensor:
    """Values of images at pixels.

    Args:
        image: (B, C, H, W) floating point.
        xy: (B, ..., 2) pixels, same type; NaN reads the value at the border.
        mode: 'bilinear', 'nearest' or 'bicubic'.
        padding: 'border', 'zeros' or 'reflection' outside the picture.

    Returns:
        (B, C, ...) values.

    Raises:
        GeometryError: the shapes do not fit.
    """
    if image.ndim != 4 or xy.ndim < 2 or xy.shape[-1] != 2 or xy.shape[0] != image.shape[0]:
        raise GeometryError(
            f'sample needs image (B, C, H, W) and xy (B, ..., 2), got {tuple(image.shape)} and '
            f'{tuple(xy.shape)}'
        )
    batch, channels, height, width = image.shape
    grid = normalize_pixels(xy, height, width).reshape(batch, 1, -1, 2)
    values = F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=False)
    return values.reshape(batch, channels, *xy.shape[1:-1])


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Images (B, C, H, W) scaled to another size, smoothed first when they shrink.

    Pixel x of the old picture becomes `(x + 0.5) * width / W - 0.5`, as in `Camera.resized`.
    """
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(
        image, size=(height, width), mode='bilinear', align_corners=False, antialias=True
    )


def resize_nearest(image: Tensor, height: int, width: int) -> Tensor:
    """Like `resize` for values that must not be mixed: labels, depth with holes."""
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image, size=(height, width), mode='nearest-exact')
