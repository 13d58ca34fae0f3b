"""What stands upright: brick, plaster, concrete, facades with windows, shop fronts, shelves.

Each function draws one texture: `pattern(rng, size) -> (S, S, 3) float32`, sRGB 0..1, row 0 at
the top.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from kpvo_ros.synthetic.patterns.noise import (
    Rng,
    blotches,
    cracks,
    grain,
    mix,
    resize,
    rgb,
    spectral,
)

Pattern = Callable[[Rng, int], np.ndarray]


def brick(rng: Rng, size: int) -> np.ndarray:
    """Running bond with mortar; every brick has its own colour, some are burnt dark."""
    rows, per_row = 24, 8
    height, width = size / rows, size / per_row
    row = (np.arange(size) / height).astype(int)
    place = (np.arange(size)[None, :] + (row % 2)[:, None] * width / 2) % size
    column = (place / width).astype(int) % per_row
    tones = np.where(rng.random((rows, per_row)) < 0.12, 0.5, 1.0) * rng.uniform(
        0.72, 1.15, (rows, per_row)
    )
    mortar = ((np.arange(size) % height) < 0.16 * height)[:, None] | (place % width < 0.06 * width)
    stone = tones[row[:, None], column] * (0.9 + 0.2 * spectral(rng, size, 0.6))
    image = rgb(stone, (0.66, 0.34, 0.25))
    image = mix(image, np.full_like(image, 0.68), mortar.astype(np.float32))
    return np.clip(image * (1 + 0.05 * grain(rng, size, 0.8))[..., None], 0, 1)


def plaster(rng: Rng, size: int) -> np.ndarray:
    """Rough render with stains that run down, hairline cracks and a few bare spots."""
    tone = 0.80 + 0.03 * grain(rng, size, 0.9) + 0.14 * (spectral(rng, size, 1.0) - 0.5)
    tone -= 0.16 * np.clip(spectral(rng, size, 1.3, (2.5, 0.25)) - 0.55, 0, 1)
    tone *= 1 - 0.5 * cracks(rng, size, 10, size / 300)
    bare = blotches(rng, size, 6, (0.012, 0.035)) * (spectral(rng, size, 0.8) > 0.45)
    image = rgb(tone, (1.0, 0.97, 0.90))
    return np.clip(mix(image, rgb(0.5 * tone, (1.0, 0.85, 0.75)), bare), 0, 1)


def concrete(rng: Rng, size: int) -> np.ndarray:
    """Cast panels with joints, anchor holes, pores and water marks."""
    tone = 0.62 + 0.025 * grain(rng, size, 0.8) + 0.20 * (spectral(rng, size, 1.2) - 0.5)
    tone -= 0.15 * (grain(rng, size, 1.1) > 2.5)
    panel = np.arange(size) % (size // 2)
    joint = panel < max(2, size // 128)
    tone = np.where(joint[:, None] | joint[None, :], 0.3, tone)
    hole = (np.abs(panel - size // 8) < size // 100) | (
        np.abs(panel - 3 * size // 8) < size // 100
    )
    tone = np.where(hole[:, None] & hole[None, :], 0.2, tone)
    return np.clip(rgb(tone, (1.0, 0.99, 0.96)), 0, 1)


def wallpaper(rng: Rng, size: int) -> np.ndarray:
    """Indoor wall: broad stripes with printed ornaments, paper grain and faint stains."""
    x = np.arange(size, dtype=np.float32)[None, :] / size * 6
    y = np.arange(size, dtype=np.float32)[:, None] / size * 6
    tone = np.where((x.astype(int) % 2) == 0, 0.80, 0.72) + 0 * y
    u, v = x % 1 - 0.5, (y + 0.5 * (x.astype(int) % 2)) % 1 - 0.5
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    petal = np.clip(8 * (0.30 + 0.09 * np.cos(5 * angle) - radius), 0, 1) * (radius > 0.09)
    tone = tone - 0.22 * petal + 0.10 * (spectral(rng, size, 1.0) - 0.5)
    return np.clip(rgb(tone + 0.015 * grain(rng, size, 0.8), (1.0, 0.96, 0.86)), 0, 1)


def facade_brick(rng: Rng, size: int) -> np.ndarray:
    """Brick house front, 4 x 4 tall windows to a tile (12 m wide and high)."""
    return _facade(rng, size, brick, frame=(0.92, 0.92, 0.90), width=0.42, height=0.62)


def facade_plaster(rng: Rng, size: int) -> np.ndarray:
    """Rendered house front with shutters."""
    return _facade(
        rng, size, plaster, frame=(0.55, 0.40, 0.28), width=0.36, height=0.56, shutters=True
    )


def facade_office(rng: Rng, size: int) -> np.ndarray:
    """Concrete office block with wide windows."""
    return _facade(rng, size, concrete, frame=(0.28, 0.30, 0.33), width=0.78, height=0.58)


def shop(rng: Rng, size: int) -> np.ndarray:
    """Ground floor with show windows, a door and lettered signs above them."""
    image = resize(plaster(rng, size), size) * np.array([0.72, 0.66, 0.6], np.float32)
    words = ['CAFE', 'BOOKS', 'BIKES', 'BAKERY', 'FLOWERS', 'TOOLS', 'RADIO', 'TEA', 'SHOES']
    for index in range(2):
        left, right = int((index + 0.06) * size / 2), int((index + 0.94) * size / 2)
        top, sill = int(0.26 * size), int(0.86 * size)
        sign = rng.uniform(0.1, 0.7, 3)
        cv2.rectangle(image, (left, int(0.05 * size)), (right, int(0.2 * size)), sign.tolist(), -1)
        word = str(rng.choice(words))
        scale = min(size / 200, (right - left) / (24 * len(word)))
        place = (left + size // 40, int(0.165 * size))
        ink = (0.95, 0.93, 0.85)
        cv2.putText(
            image,
            word,
            place,
            cv2.FONT_HERSHEY_DUPLEX,
            scale,
            ink,
            max(1, size // 170),
            cv2.LINE_AA,
        )
        door = left + int(rng.choice([0.02, 0.74]) * (right - left))
        _window(rng, image, (left, top, right, sill), (0.2, 0.2, 0.22))
        _window(
            rng, image, (door, top, door + int(0.24 * (right - left)), size - 2), (0.35, 0.2, 0.12)
        )
    return np.clip(image, 0, 1)


def bookshelf(rng: Rng, size: int) -> np.ndarray:
    """Five boards full of books of all widths, heights and colours."""
    image = np.full((size, size, 3), (0.22, 0.15, 0.10), np.float32)
    board = size // 5
    for row in range(5):
        x = 2
        while x < size - 4:
            width = int(rng.uniform(0.015, 0.05) * size) + 1
            top = row * board + int(board * rng.uniform(0.12, 0.38))
            bottom = (row + 1) * board - board // 12
            hue = rng.uniform(0.6, 1.4, 3)
            colour = (rng.uniform(0.15, 0.65) * hue).astype(np.float32)
            book = image[top:bottom, x : min(x + width, size - 2)]
            book[:] = colour
            book[:, :1] *= 0.6
            label = rng.uniform(0.1, 0.7)
            band = slice(int(label * len(book)), int((label + 0.12) * len(book)))
            book[band] = 1 - 0.7 * colour
            x += width + (1 if rng.random() < 0.93 else width)
    image += 0.02 * grain(rng, size, 0.8)[..., None]
    return np.clip(image, 0, 1)


def _facade(
    rng: Rng,
    size: int,
    wall: Pattern,
    frame: tuple[float, float, float],
    width: float,
    height: float,
    shutters: bool = False,
) -> np.ndarray:
    """A wall of two by two repeats with 4 x 4 windows, each furnished differently."""
    image = np.tile(resize(wall(rng, size), size // 2), (2, 2, 1))
    image *= (0.88 + 0.24 * spectral(rng, size, 1.2))[..., None]
    cell = size // 4
    half_w, half_h = int(width * cell / 2), int(height * cell / 2)
    for row in range(4):
        band = slice(row * cell, row * cell + max(2, size // 90))
        image[band] = image[band] * 0.4 + 0.45
        for column in range(4):
            x, y = column * cell + cell // 2, row * cell + int(0.52 * cell)
            box = (x - half_w, y - half_h, x + half_w, y + half_h)
            if shutters:
                _shutters(rng, image, box)
            _window(rng, image, box, frame)
            _water_mark(rng, image, box)
    return np.clip(image, 0, 1)


def _window(
    rng: Rng,
    image: np.ndarray,
    box: tuple[int, int, int, int],
    frame: tuple[float, float, float],
) -> None:
    """Draw frame, glass with a reflection, a curtain or blind, glazing bars and a sill."""
    left, top, right, bottom = box
    border = max(1, (right - left) // 14)
    image[max(top - border, 0) : bottom + border, max(left - border, 0) : right + border] = frame
    glass = image[top:bottom, left:right]
    rows = np.linspace(0, 1, bottom - top, dtype=np.float32)[:, None, None]
    glass[:] = (0.10 + 0.30 * rng.random() * (1 - rows)) * np.array([0.75, 0.9, 1.1], np.float32)
    _furnish(rng, glass)
    for part in range(1, int(rng.integers(2, 4))):
        x = left + part * (right - left) // 2
        image[top:bottom, x - border // 2 : x + border // 2 + 1] = frame
    y = top + int((bottom - top) * rng.choice([0.33, 0.5]))
    image[y - border // 2 : y + border // 2 + 1, left:right] = frame
    sill = image[bottom : bottom + 2 * border, max(left - 2 * border, 0) : right + 2 * border]
    sill[:] = 0.72
    sill[-1:] = 0.3


def _furnish(rng: Rng, glass: np.ndarray) -> None:
    """Something behind the pane: a blind, curtains, a plant, a lamp, or nothing."""
    height, width = glass.shape[:2]
    choice = rng.integers(0, 5)
    colour = rng.uniform(0.35, 0.9, 3).astype(np.float32)
    if choice == 0:
        reach = int(height * rng.uniform(0.2, 0.9))
        slats = 0.75 + 0.25 * ((np.arange(reach) // max(1, height // 24)) % 2)
        glass[:reach] = slats[:, None, None] * colour
    elif choice == 1:
        side = int(width * rng.uniform(0.15, 0.35))
        folds = 0.75 + 0.25 * np.sin(np.arange(side) * 1.3)
        glass[:, :side] = folds[None, :, None] * colour
        glass[:, width - side :] = folds[None, ::-1, None] * colour
    elif choice == 2:
        for _ in range(14):
            centre = (int(rng.uniform(0.25, 0.75) * width), int(rng.uniform(0.55, 1.0) * height))
            green = (0.1, float(rng.uniform(0.25, 0.5)), 0.12)
            cv2.circle(glass, centre, max(1, width // 9), green, -1)
    elif choice == 3:
        cv2.circle(glass, (width // 2, height // 4), max(2, width // 8), (0.95, 0.85, 0.6), -1)


def _shutters(rng: Rng, image: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Two slatted leaves beside the window."""
    left, top, right, bottom = box
    leaf = (right - left) // 3
    colour = np.array([0.2, 0.35, 0.3], np.float32) * rng.uniform(0.7, 1.5)
    slats = 0.7 + 0.3 * ((np.arange(bottom - top) // max(1, leaf // 6)) % 2)[:, None, None]
    for start in (left - leaf - leaf // 4, right + leaf // 4):
        image[top:bottom, max(start, 0) : start + leaf] = slats * colour


def _water_mark(rng: Rng, image: np.ndarray, box: tuple[int, int, int, int]) -> None:
    """Dirt that has run down from the sill."""
    left, _, right, bottom = box
    for _ in range(3):
        x, width = int(rng.uniform(left, right - 2)), int(rng.integers(1, 4))
        length = int(rng.uniform(0.1, 0.5) * (bottom - box[1]))
        start = bottom + 3 * max(1, (right - left) // 14)
        image[start : start + length, x : x + width] *= rng.uniform(0.7, 0.9)
