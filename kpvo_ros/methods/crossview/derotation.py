"""Pairs without their rotation: camera 1 is turned as camera 0 is, and what is said turned back.

A rotation moves every pixel and says nothing of depth; networks that learn motion from video
alone confuse it with a translation (Bian 2021, "Auto-Rectify"). Turning a camera about its centre
is a homography, H = K R K^-1, so a measured rotation can be taken out of the picture; the full
motion is what the network says of the rest, followed by that rotation.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.geometry.sampling import inside, pixel_grid, sample
from kpvo_ros.geometry.warp import apply_homography, warp_by_homography


def derotated(image1: Tensor, K: Tensor, R_1_0: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) as camera 1 would take them if it were turned as camera 0 is.

    Args:
        image1: (B, 3, H, W).
        K: (B, 3, 3) of both cameras.
        R_1_0: (B, 3, 3) measured rotation from camera 0 to camera 1.

    Returns:
        The same shape; what camera 1 did not see repeats the edge of what it saw.
    """
    H = K @ R_1_0 @ torch.linalg.inv_ex(K)[0]  # of the turned picture into the recorded one
    return warp_by_homography(image1, H, padding='border')[0]


def turned_back(depth: Tensor, K: Tensor, R_1_0: Tensor) -> tuple[Tensor, Tensor]:
    """Depth of the recorded view from that of the derotated one; differentiable.

    Args:
        depth: (B, 1, H, W) metres along the axis of the derotated camera, positive.
        K: (B, 3, 3).
        R_1_0: (B, 3, 3) as for `derotated`.

    Returns:
        (B, 1, H, W) metres along the axis of camera 1, beyond the derotated picture continued
        from its edge, and (B, 1, H, W) bool: not continued.
    """
    K_inv = torch.linalg.inv_ex(K)[0]
    height, width = depth.shape[-2:]
    grid = pixel_grid(height, width, depth.device, depth.dtype).expand(len(depth), -1, -1, -1)
    xy, ahead = apply_homography(K @ R_1_0.transpose(1, 2) @ K_inv, grid)
    # Bilinear in the inverse, which is linear on planes.
    turned = 1.0 / sample(1.0 / depth, xy)
    rays = F.pad(xy, (0, 1), value=1.0).flatten(1, 2) @ K_inv.transpose(1, 2)  # (B, H W, 3)
    along = (rays @ R_1_0[:, 2, :, None]).reshape(len(depth), 1, height, width)
    seen = (ahead & inside(xy, height, width)).unsqueeze(1)
    return turned * along, seen & (along > 0)


def with_rotation(T_residual: Tensor, R_1_0: Tensor) -> Tensor:
    """The full motion (B, 4, 4) of what the network says of a derotated pair."""
    turn = F.pad(R_1_0, (0, 1, 0, 1))
    turn[:, 3, 3] = 1.0
    return turn @ T_residual
