"""What lens, sensor and codec do to a picture. Each works on images (M, 3, H, W).

Kernels differ from image to image, so a batch is convolved with its images as groups.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.synthetic.draws import per_image, uniform

_BLOCK = 8  # JPEG's
_NOISE_SHIFT = 24  # pixels
_TO_YCC = ((0.299, 0.587, 0.114), (-0.1687, -0.3313, 0.5), (0.5, -0.4187, -0.0813))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.34414, -0.71414), (1.0, 1.772, 0.0))


def blur_gaussian(images: Tensor, generator: torch.Generator, sigma_px: float) -> Tensor:
    """Out of focus: a Gaussian of a standard deviation up to `sigma_px` pixels, at least 0.3."""
    return gaussian(images, uniform(len(images), 0.3, max(sigma_px, 0.3), generator))


def blur_motion(images: Tensor, generator: torch.Generator, length_px: float) -> Tensor:
    """The camera turned while the shutter was open: a straight path up to `length_px` pixels."""
    count = len(images)
    length = uniform(count, min(2.0, length_px), length_px, generator)
    angle = uniform(count, 0.0, math.pi, generator)
    radius = math.ceil(length_px / 2)
    reach = torch.arange(-radius, radius + 1, device=generator.device, dtype=torch.float32)
    y, x = torch.meshgrid(reach, reach, indexing='ij')
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    # One pixel wide, ends rounded off by one pixel: the area of the path in each pixel, nearly.
    weight = (length[:, None, None] / 2 + 0.5 - along.abs()).clamp(0, 1)
    weight = weight * (1 - across.abs()).clamp(0, 1)
    weight = (weight / weight.sum(dim=(1, 2), keepdim=True)).to(images)
    return _convolve(images, weight)


def add_noise(images: Tensor, generator: torch.Generator, sigma: float) -> Tensor:
    """Sensor noise: read noise everywhere, photon noise with the root of the light.

    Args:
        images: (M, 3, H, W) in 0..1.
        generator: source of the draws.
        sigma: largest standard deviation at full brightness, of 1.

    Returns:
        (M, 3, H, W), not clamped.
    """
    count, channels, height, width = images.shape
    level = per_image(uniform(count, 0.1, 1.0, generator) * sigma, images)
    # Normal draws are the dearest part of a batch: one field, cut elsewhere for every image.
    size = (channels, height + _NOISE_SHIFT, width + _NOISE_SHIFT)
    field = torch.randn(size, generator=generator, device=generator.device).to(images)
    shift = torch.randint(
        _NOISE_SHIFT + 1, (count, 2), generator=generator, device=generator.device
    ).tolist()
    out = images.clamp(0, 1).add_(0.08).sqrt_().mul_(level)
    for image, (top, left) in zip(out, shift, strict=True):
        image.mul_(field[:, top : top + height, left : left + width])
    return out.add_(images)


def add_blocks(images: Tensor, generator: torch.Generator, step: float) -> Tensor:
    """Lossy compression as JPEG does it: 8x8 cosine transform, rounded, coarser where finer.

    Args:
        images: (M, 3, H, W) in 0..1.
        generator: source of the draws.
        step: coarsest quantisation of the low frequencies of brightness, of 1.

    Returns:
        (M, 3, H, W), not clamped.
    """
    count, _, height, width = images.shape
    down, right = -height % _BLOCK, -width % _BLOCK
    padded = F.pad(images, (0, right, 0, down), mode='replicate') if down or right else images
    to_ycc, to_rgb = images.new_tensor(_TO_YCC), images.new_tensor(_TO_RGB)
    size = padded.shape[-2:]
    ycc = (to_ycc @ padded.flatten(2)).view(
        count, 3, size[0] // _BLOCK, _BLOCK, size[1] // _BLOCK, _BLOCK
    )
    C = _cosines(images)
    frequency = torch.arange(_BLOCK, device=images.device, dtype=images.dtype)
    coarse = 1 + 0.5 * (frequency[:, None] + frequency[None])  # as JPEG's tables grow
    quantum = (uniform(count, 0.15, 1.0, generator) * step).to(images)[:, None] * (
        images.new_tensor([1.0, 1.7, 1.7])
    )
    q = (quantum[:, :, None, None] * coarse)[:, :, None, :, None, :].clamp(min=1e-6)
    spectrum = torch.einsum('ky,bcrysx,lx->bcrksl', C, ycc, C)
    restored = torch.einsum('ky,bcrksl,lx->bcrysx', C, (spectrum / q).round_().mul_(q), C)
    rgb = (to_rgb @ restored.reshape(count, 3, -1)).view(count, 3, *size)
    return rgb[..., :height, :width]


def gaussian(images: Tensor, sigma_px: Tensor) -> Tensor:
    """Images (M, C, H, W) smoothed by Gaussians of (M,) standard deviations in pixels."""
    sigma = sigma_px.to(images)[:, None]
    radius = max(1, math.ceil(2.5 * float(sigma_px.max())))
    offset = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    weight = torch.exp(-0.5 * (offset / sigma) ** 2)  # (M, K)
    weight = weight / weight.sum(1, keepdim=True)
    return _weighted(_weighted(images, weight, -1), weight, -2)


def _weighted(images: Tensor, weight: Tensor, axis: int) -> Tensor:
    """Images (M, C, H, W) smoothed along one axis with weights (M, K), edges repeated.

    Shifted sums: for small odd kernels as quick as a grouped convolution, which is slow whenever
    it meets a new number of images.
    """
    radius, size = weight.shape[1] // 2, images.shape[axis]
    border = (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius)
    padded = F.pad(images, border, mode='replicate')
    taps = weight.T[..., None, None, None]  # (K, M, 1, 1, 1)
    out = padded.narrow(axis, radius, size) * taps[radius]
    for step in range(1, radius + 1):
        pair = padded.narrow(axis, radius - step, size) + padded.narrow(axis, radius + step, size)
        out.addcmul_(pair, taps[radius + step])
    return out


def _convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Images (M, C, H, W) with kernels (M, Kh, Kw) of odd size, edges repeated."""
    count, channels = images.shape[:2]
    down, right = kernels.shape[1] // 2, kernels.shape[2] // 2
    padded = F.pad(images, (right, right, down, down), mode='replicate').flatten(0, 1)[None]
    weight = kernels.repeat_interleave(channels, dim=0).unsqueeze(1)
    return F.conv2d(padded, weight, groups=count * channels)[0].unflatten(0, (count, channels))


def _cosines(like: Tensor) -> Tensor:
    """(8, 8) orthonormal cosine transform: row k is the k-th frequency."""
    k = torch.arange(_BLOCK, device=like.device, dtype=like.dtype)
    C = torch.cos(math.pi / _BLOCK * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / _BLOCK)
    C[0] = math.sqrt(1 / _BLOCK)
    return C
