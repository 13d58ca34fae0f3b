"""Two views of a tilted plane in closed form.

The colours of the second view are ramps and their product, which bilinear sampling reads without
error, so at the right depth and motion the losses are zero up to rounding.
"""

from __future__ import annotations

import dataclasses

from scipy.spatial.transform import Rotation
import torch
from torch import Tensor

from kpvo_ros.geometry.sampling import pixel_grid
from kpvo_ros.methods.crossview.view_synthesis import (
    Neighbour,
    View,
    ViewSynthesisConfig,
    view_synthesis_loss,
)

HEIGHT, WIDTH = 24, 32
CONFIG = ViewSynthesisConfig(smoothness_weight=0.0)
PLAIN = dataclasses.replace(
    CONFIG, ignore_static=False, downweight_moving=False, align_brightness=False
)
NORMAL, DISTANCE_M = (0.2, -0.3, 0.933), 3.0


def matrix(size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> Tensor:
    """(1, 3, 3) of a camera with a field of view of about 60 degrees."""
    height, width = size_hw
    rows = [[0.9 * width, 0.0, 0.48 * width], [0.0, 0.95 * width, 0.5 * height], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)[None]


def motion(
    turn_deg: tuple[float, float, float] = (2.0, -3.0, 1.5),
    shift_m: tuple[float, float, float] = (0.25, -0.1, 0.15),
) -> Tensor:
    T = torch.eye(4, dtype=torch.float64)
    T[:3, :3] = torch.from_numpy(Rotation.from_euler('xyz', turn_deg, degrees=True).as_matrix())
    T[:3, 3] = torch.tensor(shift_m)
    return T[None]


def homogeneous(size_hw: tuple[int, int]) -> Tensor:
    grid = pixel_grid(*size_hw, dtype=torch.float64)
    return torch.cat([grid, torch.ones_like(grid[..., :1])], dim=-1)


def plane_depth(normal: Tensor, distance: float, size_hw: tuple[int, int]) -> Tensor:
    rays = homogeneous(size_hw) @ torch.linalg.inv(matrix(size_hw)[0]).T
    return (distance / (rays @ normal))[None, None]


def colours(xy: Tensor) -> Tensor:
    """(1, 3, H, W) of pixels (H, W, 2)."""
    x, y = (xy / xy.new_tensor([WIDTH, HEIGHT])).unbind(dim=-1)
    return torch.stack([0.1 + 0.8 * x, 0.9 - 0.8 * y, 0.1 + 0.7 * x * y])[None]


def plane(T_1_0: Tensor, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> tuple[View, Neighbour]:
    """Two views of a tilted plane; the colours of view 0 come by the plane's homography."""
    K, R, t = matrix(size_hw), T_1_0[0, :3, :3], T_1_0[0, :3, 3]
    normal = torch.tensor(NORMAL, dtype=torch.float64)
    H = K[0] @ (R + torch.outer(t, normal) / DISTANCE_M) @ torch.linalg.inv(K[0])
    mapped = homogeneous(size_hw) @ H.T
    image0 = colours(mapped[..., :2] / mapped[..., 2:])
    image1 = colours(pixel_grid(*size_hw, dtype=torch.float64))
    distance1 = DISTANCE_M + float(R @ normal @ t)
    view0 = View(image0, plane_depth(normal, DISTANCE_M, size_hw), K)
    view1 = View(image1, plane_depth(R @ normal, distance1, size_hw), K)
    return view0, Neighbour(view1, T_1_0, T_1_0[:, :3, 3].norm(dim=1))


def cost(view: View, *neighbours: Neighbour, config: ViewSynthesisConfig = CONFIG) -> float:
    return float(view_synthesis_loss(view, neighbours, config).total)
