"""Differentiable warps between two views, batched, for training losses and labels.

Depth is metres along the optical axis. `T_1_0` maps points of camera 0 into camera 1, K are
pinhole matrices (rectify first), pixels follow `sampling`. A warp is an inverse warp: the colour
of pixel p of view 0 is fetched from view 1 where the point seen at p lands.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.sampling import inside, pixel_grid, sample

_NEAREST_M = 1e-4  # points closer to the image plane have no usable pixel


class Warp(NamedTuple):
    """View 0 rebuilt from view 1.

    Attributes:
        image: (B, C, H, W) colours of view 1 arranged as view 0.
        valid: (B, 1, H, W) bool: known depth, before camera 1, and inside its picture.
        xy: (B, H, W, 2) pixels in view 1 of each pixel of view 0.
        depth_in_1: (B, 1, H, W) metres, depth of the same points along the axis of camera 1.
    """

    image: Tensor
    valid: Tensor
    xy: Tensor
    depth_in_1: Tensor


def backproject(depth: Tensor, K: Tensor) -> Tensor:
    """Points (B, H, W, 3) in the camera frame of a depth image (B, 1, H, W) and K (B, 3, 3)."""
    _check_shape('depth', depth, (None, 1, None, None))
    _check_shape('K', K, (None, 3, 3))
    height, width = depth.shape[-2:]
    xy = pixel_grid(height, width, depth.device, depth.dtype)
    rays = (xy - K[:, None, None, :2, 2]) / torch.stack([K[:, 0, 0], K[:, 1, 1]], -1)[
        :, None, None
    ]
    z = depth.squeeze(1).unsqueeze(-1)
    return torch.cat([rays * z, z], dim=-1)


def transform(T_a_b: Tensor, points_b: Tensor) -> Tensor:
    """Points (B, ..., 3) of frame b in frame a, with T (B, 4, 4)."""
    _check_shape('T', T_a_b, (None, 4, 4))
    flat = points_b.reshape(points_b.shape[0], -1, 3)
    moved = flat @ T_a_b[:, :3, :3].transpose(-1, -2) + T_a_b[:, None, :3, 3]
    return moved.reshape(moved.shape[0], *points_b.shape[1:])


def project(points: Tensor, K: Tensor) -> Tensor:
    """Pixels (B, ..., 2) of points (B, ..., 3) in front of the camera; K is (B, 3, 3).

    Points behind get the pixel of a point just before the camera: mask by the sign of z.
    """
    shape = (-1, *(1,) * (points.ndim - 2), 2)
    focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], dim=-1).reshape(shape)
    center = K[:, :2, 2].reshape(shape)
    return points[..., :2] / points[..., 2:].clamp(min=_NEAREST_M) * focal + center


def warp_by_depth(
    image1: Tensor, depth0: Tensor, K0: Tensor, K1: Tensor, T_1_0: Tensor, padding: str = 'border'
) -> Warp:
    """Rebuilds view 0 from the colours of view 1, the depth of view 0 and the motion.

    Args:
        image1: (B, C, H1, W1) floating point.
        depth0: (B, 1, H, W) metres; zero, negative or NaN is unknown.
        K0: (B, 3, 3) pinhole matrix of view 0.
        K1: (B, 3, 3) pinhole matrix of view 1.
        T_1_0: (B, 4, 4) pose of camera 0 in camera 1.
        padding: see `sampling.sample`.

    Returns:
        A `Warp`; differentiable in image, depth, K and T.

    Raises:
        GeometryError: a shape does not fit.
    """
    _check_shape('image1', image1, (depth0.shape[0], None, None, None))
    known = torch.isfinite(depth0) & (depth0 > 0)
    points1 = transform(T_1_0, backproject(torch.where(known, depth0, 1.0), K0))
    xy = project(points1, K1)
    depth_in_1 = points1[..., 2].unsqueeze(1)
    valid = known & (depth_in_1 > _NEAREST_M) & inside(xy, *image1.shape[-2:]).unsqueeze(1)
    return Warp(sample(image1, xy, padding=padding), valid, xy, depth_in_1)


def warp_by_homography(
    image1: Tensor,
    H_1_0: Tensor,
    size: tuple[int, int] | None = None,
    padding: str = 'zeros',
) -> tuple[Tensor, Tensor]:
    """Rebuilds view 0 from view 1 under a homography.

    Args:
        image1: (B, C, H1, W1) floating point.
        H_1_0: (B, 3, 3), maps pixels of view 0 to pixels of view 1.
        size: (height, width) of view 0; that of view 1 by default.
        padding: see `sampling.sample`.

    Returns:
        image (B, C, H, W) and valid (B, 1, H, W) bool.
    """
    _check_shape('H', H_1_0, (image1.shape[0], 3, 3))
    height, width = size or (image1.shape[-2], image1.shape[-1])
    grid = pixel_grid(height, width, image1.device, image1.dtype)
    xy, ahead = apply_homography(H_1_0, grid.expand(image1.shape[0], -1, -1, -1))
    valid = (ahead & inside(xy, *image1.shape[-2:])).unsqueeze(1)
    return sample(image1, xy, padding=padding), valid


def apply_homography(H_1_0: Tensor, xy0: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (B, ..., 2) mapped by H (B, 3, 3), and (B, ...) bool: not beyond infinity."""
    ones = torch.ones_like(xy0[..., :1])
    flat = torch.cat([xy0, ones], dim=-1).reshape(xy0.shape[0], -1, 3)
    mapped = flat @ normalize_homography(H_1_0).transpose(-1, -2)
    mapped = mapped.reshape(*xy0.shape[:-1], 3)
    ahead = mapped[..., 2] > 1e-8
    scale = torch.where(ahead, mapped[..., 2], 1.0)
    return mapped[..., :2] / scale.unsqueeze(-1), ahead


def normalize_homography(H: Tensor) -> Tensor:
    """H (..., 3, 3) scaled so that its last entry is 1, as OpenCV gives it.

    Raises:
        GeometryError: the last entry is zero (the origin goes to infinity) or not finite.
    """
    last = H[..., 2:, 2:]
    if not (torch.isfinite(H).all() and (last.abs() > 1e-12).all()):
        raise GeometryError(
            'homography is not finite or sends pixel (0, 0) to infinity: reject it'
        )
    return H / last


def exp_se3_torch(xi: Tensor) -> Tensor:
    """Poses (..., 4, 4) of twists (..., 6), translation first; smooth at zero.

    The same map as `se3.exp_se3`.
    """
    rho, phi = xi[..., :3], xi[..., 3:]
    W = _hat(phi)
    W2 = W @ W
    a, b, c = _coefficients((phi * phi).sum(dim=-1)[..., None, None])
    eye = torch.eye(3, dtype=xi.dtype, device=xi.device)
    R = eye + a * W + b * W2
    t = (eye + b * W + c * W2) @ rho.unsqueeze(-1)
    bottom = xi.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*xi.shape[:-1], 1, 4)
    return torch.cat([torch.cat([R, t], dim=-1), bottom], dim=-2)


def inverse_torch(T: Tensor) -> Tensor:
    """Inverse of rigid poses (..., 4, 4)."""
    Rt = T[..., :3, :3].transpose(-1, -2)
    top = torch.cat([Rt, -Rt @ T[..., :3, 3:]], dim=-1)
    return torch.cat([top, T[..., 3:, :]], dim=-2)


def _coefficients(angle2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin(a)/a, (1 - cos(a))/a^2, (a - sin(a))/a^3 of a^2, by series where a is small.

    Both branches are kept finite, so neither puts NaN into the gradient of the other.
    """
    small = angle2 < 0.04
    s = torch.where(small, angle2, 0.0)
    safe = torch.where(small, 1.0, angle2)
    angle = safe.sqrt()
    sin, cos = angle.sin(), angle.cos()
    a = torch.where(small, 1 - s / 6 + s**2 / 120 - s**3 / 5040 + s**4 / 362880, sin / angle)
    b = torch.where(
        small, 0.5 - s / 24 + s**2 / 720 - s**3 / 40320 + s**4 / 3628800, (1 - cos) / safe
    )
    c = torch.where(small, 1 / 6 - s / 120 + s**2 / 5040 - s**3 / 362880, (1 - a) / safe)
    return a, b, c


def _hat(w: Tensor) -> Tensor:
    x, y, z = w.unbind(dim=-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def _check_shape(name: str, tensor: Tensor, shape: tuple[int | None, ...]) -> None:
    fits = tensor.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = tuple('*' if size is None else size for size in shape)
        raise GeometryError(f'{name} needs shape {wanted}, got {tuple(tensor.shape)}')
