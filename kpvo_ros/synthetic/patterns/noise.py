"""Periodic noise fields, the raw material of every texture.

All fields tile without a seam, so that a texture can be repeated over a wall. Fields are
(S, S) float32; S is the side of the texture in texels. Randomness comes from the generator
that is passed in.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

Rng = np.random.Generator


def spectral(
    rng: Rng, size: int, exponent: float = 1.0, stretch: tuple[float, float] = (1.0, 1.0)
) -> np.ndarray:
    """Fractal noise with amplitude 1 / frequency**exponent, mapped to 0..1 with median 0.5.

    Args:
        rng: source of the random phases.
        size: side of the field.
        exponent: 0.5 is grainy, 1 rough, 2 cloudy.
        stretch: factors (x, y) by which features are elongated (wood grain, streaks).

    Returns:
        (S, S) float32 in 0..1.
    """
    frequency = np.fft.fftfreq(size) * size
    fx = np.fft.rfftfreq(size) * size * stretch[0]
    radius = np.hypot(frequency[:, None] * stretch[1], fx[None, :])
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / radius**exponent
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(size, size))
    field /= field.std() + 1e-12
    return (0.5 + 0.5 * np.tanh(field / 1.5)).astype(np.float32)


def grain(rng: Rng, size: int, sigma: float) -> np.ndarray:
    """White noise blurred to a grain of about `sigma` texels, mean 0, standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal((size, size)), sigma, mode='wrap')
    return (field / (field.std() + 1e-12)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Cells:
    """A periodic Voronoi diagram.

    Attributes:
        index: (S, S) int, which cell a texel belongs to.
        edge: (S, S) float32, distance to the border of the cell, texels.
        count: number of cells.
    """

    index: np.ndarray
    edge: np.ndarray
    count: int

    def tones(self, rng: Rng, spread: float) -> np.ndarray:
        """(S, S) float32 factors around 1, one for each cell."""
        return rng.uniform(1 - spread, 1 + spread, self.count).astype(np.float32)[self.index]


def cells(rng: Rng, size: int, count: int) -> Cells:
    """Voronoi cells of `count` random sites: cobbles, cracks, leaves."""
    sites = rng.uniform(0, size, (count, 2))
    rows, columns = np.mgrid[0:size, 0:size]
    texels = np.stack([rows, columns], axis=-1).reshape(-1, 2)
    distance, index = cKDTree(sites, boxsize=size).query(texels, k=2)
    edge = 0.5 * (distance[:, 1] - distance[:, 0])
    return Cells(
        index[:, 0].reshape(size, size), edge.reshape(size, size).astype(np.float32), count
    )


def cracks(rng: Rng, size: int, count: int, width: float) -> np.ndarray:
    """A broken net of cracks: (S, S) float32, 1 on a crack, 0 elsewhere."""
    net = cells(rng, size, count).edge + 1.5 * grain(rng, size, size / 128)
    present = spectral(rng, size, 1.5) > 0.55
    return np.clip(1.0 - np.abs(net) / width, 0, 1).astype(np.float32) * present


def blotches(rng: Rng, size: int, count: int, radius: tuple[float, float]) -> np.ndarray:
    """Soft round stains: (S, S) float32 in 0..1; radii are fractions of the side."""
    field = np.zeros((size, size), np.float32)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    for _ in range(count):
        row, column = rng.uniform(0, size, 2)
        reach = rng.uniform(*radius) * size
        dy = (rows - row + size / 2) % size - size / 2
        dx = (columns - column + size / 2) % size - size / 2
        field = np.maximum(field, np.clip(1.3 - np.hypot(dx, dy) / reach, 0, 1))
    return field


def rgb(gray: np.ndarray, colour: tuple[float, float, float]) -> np.ndarray:
    """Spread a (S, S) tone over a colour: (S, S, 3) float32."""
    return gray[..., None].astype(np.float32) * np.asarray(colour, np.float32)


def mix(background: np.ndarray, foreground: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Blend two images by a (S, S) weight in 0..1."""
    weight = weight[..., None].astype(np.float32)
    return background * (1 - weight) + foreground * weight


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Area-resize an image to a square of the given side."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
