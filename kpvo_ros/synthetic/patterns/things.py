"""What objects are made of: wood, metal, cardboard, fabric, bark, leaves, roofs, cars, clouds.

Each function draws one texture: `pattern(rng, size) -> (S, S, 3) float32`, sRGB 0..1, row 0 at
the top.
"""

from __future__ import annotations

import cv2
import numpy as np

from kpvo_ros.synthetic.patterns.noise import (
    Rng,
    blotches,
    cells,
    cracks,
    grain,
    mix,
    rgb,
    spectral,
)


def wood(rng: Rng, size: int) -> np.ndarray:
    """Planks along the columns with growth rings, knots and nails."""
    planks = 6
    height = size // planks
    row = np.arange(size) // height % planks
    ring = spectral(rng, size, 1.3, (0.15, 1.5)) * 14 + rng.uniform(0, 9, planks)[row][:, None]
    tone = rng.uniform(0.7, 1.1, planks)[row][:, None] * (0.62 + 0.16 * np.sin(2 * np.pi * ring))
    tone = tone * (1 - 0.55 * blotches(rng, size, 10, (0.008, 0.02)))
    tone = np.where((np.arange(size) % height < 2)[:, None], 0.12, tone)
    nail = (np.abs(np.arange(size) % (size // 2) - size // 24) < size // 170)[None, :]
    tone = np.where(
        nail & (np.abs(np.arange(size) % height - height // 4) < 2)[:, None], 0.1, tone
    )
    return np.clip(rgb(tone, (1.0, 0.75, 0.5)), 0, 1)


def metal(rng: Rng, size: int) -> np.ndarray:
    """Painted sheet metal: panels, rivets, scratches and rust from the joints."""
    tone = (
        0.66 + 0.02 * grain(rng, size, 0.8) + 0.08 * (spectral(rng, size, 0.8, (0.1, 2.0)) - 0.5)
    )
    place = np.arange(size) % (size // 2)
    seam = place < max(1, size // 170)
    tone = np.where(seam[:, None] | seam[None, :], 0.25, tone)
    rivet = np.abs(np.arange(size) % (size // 16) - size // 32) < size // 170
    edge = np.abs(place - size // 40) < size // 170
    tone = np.where((rivet[:, None] & edge[None, :]) | (edge[:, None] & rivet[None, :]), 0.3, tone)
    rust = blotches(rng, size, 9, (0.01, 0.05)) * (spectral(rng, size, 0.7) > 0.45)
    image = rgb(tone * (1 - 0.4 * cracks(rng, size, 30, 1.2)), (1.0, 1.0, 1.0))
    return np.clip(mix(image, rgb(0.5 * spectral(rng, size, 0.6), (1.0, 0.5, 0.25)), rust), 0, 1)


def cardboard(rng: Rng, size: int) -> np.ndarray:
    """A shipping box: tape, a printed label, arrows and letters."""
    tone = (
        0.72 + 0.02 * grain(rng, size, 0.9) + 0.10 * (spectral(rng, size, 1.0, (1.0, 0.2)) - 0.5)
    )
    image = rgb(tone, (1.0, 0.80, 0.56))
    image[:, int(0.46 * size) : int(0.54 * size)] *= np.array([0.9, 0.85, 0.75], np.float32)
    x, y = (rng.uniform(0.06, 0.5, 2) * size).astype(int)
    width, height = int(0.40 * size), int(0.26 * size)
    image[y : y + height, x : x + width] = 0.93
    for line in range(5):
        end = x + int(rng.uniform(0.3, 0.95) * width)
        start = y + int((0.12 + 0.17 * line) * height)
        image[start : start + max(1, height // 14), x + width // 16 : end] = 0.15
    bars = np.repeat(rng.random(width // 3) < 0.5, 3)[: width // 2]
    image[y + height // 2 : y + height - 3, x + width // 2 : x + width // 2 + len(bars)][
        :, bars
    ] = 0.1
    text = ''.join(rng.choice(list('ABCDEFGHKLMNPRSTUVXYZ23456789'), 5))
    place = (int(0.08 * size), int(0.92 * size))
    cv2.putText(
        image,
        text,
        place,
        cv2.FONT_HERSHEY_SIMPLEX,
        size / 180,
        (0.12, 0.1, 0.1),
        max(1, size // 128),
        cv2.LINE_AA,
    )
    return np.clip(image, 0, 1)


def fabric(rng: Rng, size: int) -> np.ndarray:
    """A tartan cover: stripes both ways under a weave."""
    tone = rng.uniform(0.2, 0.8, (4, 1))
    palette = (tone * rng.uniform(0.7, 1.3, (4, 3))).astype(np.float32)
    stripes = palette[rng.integers(0, 4, (2, 16))] * rng.uniform(0.8, 1.2, (2, 16, 1))
    index = np.arange(size) * 16 // size
    image = 0.5 * (stripes[0][index][:, None] + stripes[1][index][None, :])
    thread = 1 + 0.10 * ((np.arange(size)[:, None] + np.arange(size)[None, :]) % 4 < 2)
    return np.clip(image * (thread * (1 + 0.06 * grain(rng, size, 0.8)))[..., None], 0, 1)


def bark(rng: Rng, size: int) -> np.ndarray:
    """Furrowed bark, the furrows run up the trunk."""
    ridge = np.abs(spectral(rng, size, 1.0, (0.3, 2.0)) - 0.5) * 2
    tone = 0.18 + 0.5 * np.sqrt(ridge) * (0.7 + 0.6 * spectral(rng, size, 0.6))
    return np.clip(rgb(tone, (1.0, 0.84, 0.66)), 0, 1)


def leaves(rng: Rng, size: int) -> np.ndarray:
    """Foliage: three layers of leaves, the lower ones darker, with gaps of deep shade."""
    image = np.full((size, size, 3), (0.05, 0.09, 0.04), np.float32)
    for layer, light in enumerate((0.45, 0.75, 1.0)):
        leaf = cells(rng, size, 500 - 60 * layer)
        keep = (rng.random(leaf.count) < 0.62)[leaf.index] & (leaf.edge > size / 300)
        hue = rng.uniform(0, 1, leaf.count).astype(np.float32)[leaf.index][..., None]
        green = (
            np.array([0.26, 0.50, 0.16], np.float32) * (1 - hue)
            + np.array([0.55, 0.66, 0.24], np.float32) * hue
        )
        shade = leaf.tones(rng, 0.3)[..., None] * light
        image = np.where(keep[..., None], green * shade, image)
    return np.clip(image, 0, 1)


def roof(rng: Rng, size: int) -> np.ndarray:
    """Rows of clay tiles with moss."""
    rows, per_row = 16, 16
    height, width = size / rows, size / per_row
    row = (np.arange(size) / height).astype(int)
    place = (np.arange(size)[None, :] + (row % 2)[:, None] * width / 2) % size
    tones = rng.uniform(0.7, 1.15, (rows, per_row))[row[:, None], (place / width).astype(int)]
    curve = 0.65 + 0.35 * np.sin(np.pi * (place % width) / width)
    drop = np.clip((np.arange(size) % height) / height * 4, 0.35, 1)[:, None]
    image = rgb(tones * curve * drop, (0.72, 0.36, 0.26))
    moss = np.clip(4 * (spectral(rng, size, 1.1) - 0.62), 0, 1)
    return np.clip(mix(image, rgb(0.5 * tones, (0.4, 0.55, 0.25)), moss), 0, 1)


def door(rng: Rng, size: int) -> np.ndarray:
    """A panelled door in its frame with a handle and a letter slot."""
    image = np.ascontiguousarray(wood(rng, size).transpose(1, 0, 2)) * np.float32(0.8)
    image[:, : size // 16] = image[:, -size // 16 :] = image[: size // 20] = 0.85
    for row in range(2):
        for column in range(2):
            x0, y0 = int((0.16 + 0.38 * column) * size), int((0.12 + 0.42 * row) * size)
            x1, y1 = x0 + int(0.3 * size), y0 + int(0.34 * size)
            cv2.rectangle(image, (x0, y0), (x1, y1), (0.15, 0.1, 0.07), max(1, size // 64))
            image[y0 + size // 50 : y1 - size // 50, x0 + size // 50 : x1 - size // 50] *= 1.2
    cv2.circle(image, (int(0.9 * size), size // 2), max(2, size // 28), (0.85, 0.75, 0.4), -1)
    cv2.rectangle(
        image,
        (int(0.38 * size), int(0.48 * size)),
        (int(0.62 * size), int(0.52 * size)),
        (0.75, 0.7, 0.5),
        -1,
    )
    return np.clip(image, 0, 1)


def car_body(rng: Rng, size: int) -> np.ndarray:
    """The lower half of a car's side: doors, handles, a bumper, reflections of the street."""
    tone = 0.70 + 0.18 * (spectral(rng, size, 1.4, (0.3, 2.0)) - 0.5)
    image = rgb(tone * np.linspace(1.12, 0.72, size)[:, None], (1.0, 1.0, 1.0))
    thin = max(1, size // 170)
    for x in (0.30, 0.52, 0.74):
        image[:, int(x * size) : int(x * size) + thin] = 0.1
    for x in (0.34, 0.56):
        image[int(0.25 * size) : int(0.31 * size), int(x * size) : int((x + 0.06) * size)] = 0.12
    image[int(0.80 * size) :] = 0.16
    image[int(0.45 * size) : int(0.45 * size) + 2 * thin] = 0.3
    image[int(0.25 * size) : int(0.42 * size), int(0.93 * size) :] = (0.85, 0.15, 0.1)
    image[int(0.25 * size) : int(0.42 * size), : int(0.06 * size)] = (0.95, 0.93, 0.8)
    plate = image[int(0.55 * size) : int(0.68 * size), int(0.42 * size) : int(0.60 * size)]
    plate[:] = 0.92
    plate[:, (rng.random(plate.shape[1]) < 0.4)] = 0.2
    return np.clip(image, 0, 1)


def car_glass(rng: Rng, size: int) -> np.ndarray:
    """Windows of a car with pillars, head rests and the reflected sky."""
    rows = np.linspace(1, 0, size, dtype=np.float32)[:, None] + np.zeros((size, size), np.float32)
    image = rgb(0.12 + 0.35 * rows * spectral(rng, size, 1.6), (0.8, 0.95, 1.1))
    for x in (0.38, 0.66):
        cv2.circle(image, (int(x * size), int(0.7 * size)), size // 10, (0.06, 0.06, 0.07), -1)
    for x in (0.0, 0.24, 0.5, 0.76, 0.95):
        image[:, int(x * size) : int((x + 0.045) * size)] = 0.62
    image[: size // 14] = 0.66
    return np.clip(image, 0, 1)


def tyre(rng: Rng, size: int) -> np.ndarray:
    """Rubber all around; the flat ends show a rim with spokes."""
    rows, columns = np.mgrid[0:size, 0:size] / size - 0.5
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    spokes = (np.cos(5 * angle) > 0.1) & (radius < 0.3) & (radius > 0.08)
    tone = np.where(spokes | (np.abs(radius - 0.31) < 0.025), 0.75, 0.12)
    return np.clip(rgb(tone + 0.02 * grain(rng, size, 0.8), (1.0, 1.0, 1.0)), 0, 1)


def grime(rng: Rng, size: int) -> np.ndarray:
    """Dirt that is laid over every surface at a coarse scale, so that no two places look alike.

    Mid grey leaves the surface as it is.
    """
    tone = 0.51 + 0.16 * (spectral(rng, size, 0.9) - 0.5) + 0.14 * (spectral(rng, size, 1.6) - 0.5)
    tone -= 0.12 * blotches(rng, size, 40, (0.006, 0.02)) * (spectral(rng, size, 0.6) > 0.4)
    tone -= 0.14 * cracks(rng, size, 40, size / 256)
    patch = cells(rng, size, 26)
    tone *= 1 + 0.10 * (patch.tones(rng, 1.0) - 1) * (spectral(rng, size, 1.5) > 0.5)
    return np.clip(rgb(tone, (1.0, 1.0, 1.0)), 0, 1)


def clouds(rng: Rng, size: int) -> np.ndarray:
    """Cloud cover of the sky, white where there is cloud."""
    field = spectral(rng, size, 1.5)
    return np.clip(rgb(np.clip((field - 0.45) * 2.2, 0, 1), (1.0, 1.0, 1.0)), 0, 1)
