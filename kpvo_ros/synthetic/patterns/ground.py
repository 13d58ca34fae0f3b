"""What lies on the ground: asphalt, road with markings, paving, cobbles, grass, floors.

Each function draws one tileable texture: `pattern(rng, size) -> (S, S, 3) float32`, sRGB 0..1.
"""

from __future__ import annotations

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


def asphalt(rng: Rng, size: int) -> np.ndarray:
    """Grey aggregate with bright stones, dark repaired patches, cracks and oil stains."""
    tone = 0.40 + 0.035 * grain(rng, size, 0.7) + 0.10 * (spectral(rng, size, 1.0) - 0.5)
    tone += 0.22 * (grain(rng, size, 0.9) > 2.2)
    tone *= 1 - 0.28 * _patches(rng, size, 5)
    tone *= 1 - 0.55 * cracks(rng, size, 14, size / 200)
    tone *= 1 - 0.35 * blotches(rng, size, 7, (0.01, 0.04))
    return np.clip(rgb(tone, (1.0, 0.99, 0.97)), 0, 1)


def road(rng: Rng, size: int) -> np.ndarray:
    """Asphalt of one road width; the road runs along the columns (u).

    The middle line is dashed, the lines at the sides are solid, all of them worn.
    """
    image = asphalt(rng, size)
    across = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    along = (np.arange(size, dtype=np.float32)[None, :] + 0.5) / size
    dash = (np.abs(across - 0.5) < 0.009) & (along > 0.2) & (along < 0.62)
    sides = (np.abs(across - 0.045) < 0.008) | (np.abs(across - 0.955) < 0.008)
    paint = (dash | (sides & (along >= 0))).astype(np.float32)
    wheel = np.exp(-(((np.abs(across - 0.5) - 0.14) / 0.03) ** 2))
    wheel += np.exp(-(((np.abs(across - 0.5) - 0.36) / 0.03) ** 2))
    image *= 1 - 0.13 * wheel[..., None]
    worn = np.clip(3.2 * spectral(rng, size, 0.8) - 0.55, 0, 1)
    image = mix(image, np.full_like(image, 0.86), 0.9 * paint * worn)
    return _manhole(rng, image)


def crossing(rng: Rng, size: int) -> np.ndarray:
    """A zebra crossing: five bars along the columns on asphalt."""
    image = asphalt(rng, size)
    phase = (np.arange(size, dtype=np.float32)[:, None] / size * 6) % 1
    worn = np.clip(3.2 * spectral(rng, size, 0.8) - 0.5, 0, 1)
    bars = (np.abs(phase - 0.5) < 0.27) & (np.arange(size)[None, :] >= 0)
    return mix(image, np.full_like(image, 0.87), 0.92 * bars * worn)


def paving(rng: Rng, size: int) -> np.ndarray:
    """Square concrete slabs, each with its own tone, dark joints, stains, chewing gum."""
    count = 8
    pitch = size // count
    index = np.arange(size) // pitch
    slab = rng.uniform(0.78, 1.1, (count, count)).astype(np.float32)[index[:, None], index]
    place = np.arange(size) % pitch
    joint = np.minimum(place, pitch - 1 - place) < max(1, pitch // 28)
    tone = 0.60 * slab + 0.03 * grain(rng, size, 0.8) + 0.12 * (spectral(rng, size) - 0.5)
    tone = np.where(joint[:, None] | joint[None, :], 0.30, tone)
    tone *= 1 - 0.45 * blotches(rng, size, 26, (0.004, 0.012))
    tone *= 1 - 0.5 * cracks(rng, size, 9, size / 256)
    return np.clip(rgb(tone, (1.0, 0.97, 0.92)), 0, 1)


def cobbles(rng: Rng, size: int) -> np.ndarray:
    """Rounded natural stones in sand."""
    stones = cells(rng, size, 220)
    dome = np.clip(stones.edge / (size / 38), 0, 1) ** 0.5
    tone = (0.22 + 0.40 * dome) * stones.tones(rng, 0.28) + 0.03 * grain(rng, size, 0.8)
    return np.clip(rgb(tone, (1.0, 0.96, 0.9)), 0, 1)


def grass(rng: Rng, size: int) -> np.ndarray:
    """Lawn with clumps, dry spots and small flowers."""
    blades = spectral(rng, size, 0.55, (1.0, 0.4))
    clump = spectral(rng, size, 1.4)
    image = mix(
        rgb(0.25 + 0.6 * blades, (0.42, 0.58, 0.28)),
        rgb(0.3 + 0.6 * blades, (0.72, 0.68, 0.42)),
        np.clip(2.2 * (clump - 0.5), 0, 1),
    )
    flowers = (grain(rng, size, 1.2) > 3.1).astype(np.float32)
    return np.clip(mix(image, np.full_like(image, 0.9), flowers), 0, 1)


def parquet(rng: Rng, size: int) -> np.ndarray:
    """Wooden floor: staggered boards along the columns with grain and knots."""
    rows, per_row = 8, 3
    height, width = size // rows, size / per_row
    row = np.arange(size) // height
    shift = rng.uniform(0, width, rows)[row]
    place = (np.arange(size)[None, :] + shift[:, None]) % size
    board = (place // width).astype(int) % per_row
    tones = rng.uniform(0.62, 1.12, (rows, per_row)).astype(np.float32)[row[:, None], board]
    fibre = spectral(rng, size, 0.9, (0.12, 1.6))
    tone = tones * (0.55 + 0.4 * fibre)
    gap = (np.arange(size) % height < max(1, height // 32))[:, None] | (place % width < 2)
    tone = np.where(gap, 0.16, tone) * (1 - 0.5 * blotches(rng, size, 9, (0.006, 0.014)))
    return np.clip(rgb(tone, (1.0, 0.74, 0.48)), 0, 1)


def tiles(rng: Rng, size: int) -> np.ndarray:
    """Kitchen floor: two-coloured chequered tiles with marbling and joints."""
    count = 8
    index = np.arange(size) * count // size
    dark = (index[:, None] + index[None, :]) % 2
    tone = (
        np.where(dark, 0.30, 0.80) * rng.uniform(0.85, 1.1, (count, count))[index[:, None], index]
    )
    vein = np.abs(spectral(rng, size, 1.2) - 0.5)
    tone += 0.25 * np.clip(1 - vein * 14, 0, 1) * np.where(dark, 1, -1)
    place = np.arange(size) % (size // count)
    joint = place < max(1, size // 256)
    tone = np.where(joint[:, None] | joint[None, :], 0.5, tone)
    return np.clip(rgb(tone + 0.02 * grain(rng, size, 0.8), (1.0, 0.97, 0.93)), 0, 1)


def carpet(rng: Rng, size: int) -> np.ndarray:
    """Woven carpet: rows of lozenges in four colours under a coarse weave."""
    palette = np.array(
        [[0.55, 0.16, 0.14], [0.82, 0.70, 0.48], [0.16, 0.22, 0.38], [0.3, 0.4, 0.3]]
    )
    x = np.arange(size)[None, :] / size * 8
    y = np.arange(size)[:, None] / size * 8
    ring = np.abs((x % 1) - 0.5) + np.abs((y % 1) - 0.5)
    choice = rng.integers(0, 4, (8, 8, 4))[
        y.astype(int), x.astype(int), (ring * 4).astype(int) % 4
    ]
    image = palette[choice].astype(np.float32)
    return np.clip(image * (1 + 0.16 * grain(rng, size, 0.8))[..., None], 0, 1)


def _patches(rng: Rng, size: int, count: int) -> np.ndarray:
    """Rectangles where a road has been mended: (S, S) float32 in 0..1."""
    field = np.zeros((size, size), np.float32)
    for _ in range(count):
        height, width = (rng.uniform(0.06, 0.3, 2) * size).astype(int)
        rows = (rng.integers(0, size) + np.arange(height)) % size
        columns = (rng.integers(0, size) + np.arange(width)) % size
        field[np.ix_(rows, columns)] = rng.uniform(0.4, 1.0)
    return field


def _manhole(rng: Rng, image: np.ndarray) -> np.ndarray:
    """An iron lid with a relief, somewhere in one lane."""
    size = len(image)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    dy, dx = rows - size * rng.uniform(0.24, 0.33), columns - size * rng.uniform(0.25, 0.75)
    radius = np.hypot(dx, dy) / (size * 0.048)
    relief = 0.2 + 0.12 * (((dx * 64 / size).astype(int) + (dy * 64 / size).astype(int)) % 2)
    relief = np.where(np.abs(radius - 0.9) < 0.08, 0.12, relief)
    return mix(image, rgb(relief, (1, 0.98, 0.95)), (radius < 1).astype(np.float32))
