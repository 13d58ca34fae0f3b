"""Posters and landmark panels: letters and shapes in strong colours.

A landmark panel shows the sign of its class, which is the same whatever the seed; a poster is
different every time.
"""

from __future__ import annotations

import cv2
import numpy as np

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.patterns.noise import Rng, grain, mix, spectral

LANDMARK_CLASSES = ('disc', 'triangle', 'square', 'cross', 'star', 'arrow', 'ring', 'diamond')
_INKS = (
    (0.80, 0.10, 0.10),
    (0.10, 0.25, 0.70),
    (0.05, 0.45, 0.20),
    (0.90, 0.60, 0.05),
    (0.45, 0.10, 0.50),
    (0.10, 0.10, 0.12),
    (0.05, 0.50, 0.60),
    (0.65, 0.25, 0.05),
)
_OUTLINES = {
    'triangle': [(0, -1), (0.9, 0.75), (-0.9, 0.75)],
    'square': [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    'cross': [
        *[(-0.3, -0.9), (0.3, -0.9), (0.3, -0.3), (0.9, -0.3), (0.9, 0.3), (0.3, 0.3)],
        *[(0.3, 0.9), (-0.3, 0.9), (-0.3, 0.3), (-0.9, 0.3), (-0.9, -0.3), (-0.3, -0.3)],
    ],
    'star': [
        (np.sin(k * np.pi / 5) * (1, 0.42)[k % 2], -np.cos(k * np.pi / 5) * (1, 0.42)[k % 2])
        for k in range(10)
    ],
    'arrow': [(-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3)],
    'diamond': [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
}


def landmark(rng: Rng, size: int, name: str) -> np.ndarray:
    """The sign of one landmark class: its shape on a white field in a striped frame.

    Args:
        rng: wear of the paint.
        size: side of the texture.
        name: one of `LANDMARK_CLASSES`.

    Raises:
        SyntheticError: when the class does not exist.
    """
    if name not in LANDMARK_CLASSES:
        raise SyntheticError(f'no landmark class {name!r}: use one of {LANDMARK_CLASSES}')
    index = LANDMARK_CLASSES.index(name)
    ink = _INKS[index]
    image = np.full((size, size, 3), 0.94, np.float32)
    _frame(image, ink, period=size // (8 + 2 * index))
    centre = (size / 2, 0.44 * size)
    _shape(image, name, centre, 0.26 * size, ink)
    label = f'{name[:3].upper()}{index}'
    place = (int(0.2 * size), int(0.86 * size))
    cv2.putText(
        image,
        label,
        place,
        cv2.FONT_HERSHEY_DUPLEX,
        size / 170,
        (0.05, 0.05, 0.05),
        max(1, size // 128),
        cv2.LINE_AA,
    )
    return _worn(rng, image)


def poster(rng: Rng, size: int) -> np.ndarray:
    """A printed bill: coloured ground, shapes, a headline and lines of small print."""
    ground = np.asarray(_INKS[rng.integers(len(_INKS))], np.float32)
    image = np.full((size, size, 3), 0.92 - 0.7 * (rng.random() < 0.4), np.float32)
    image[: int(rng.uniform(0.2, 0.7) * size)] = ground * 0.8 + 0.2 * rng.random()
    for _ in range(int(rng.integers(4, 9))):
        name = str(rng.choice(LANDMARK_CLASSES))
        centre = tuple(rng.uniform(0.15, 0.85, 2) * size)
        radius = rng.uniform(0.05, 0.2) * size
        _shape(image, name, centre, radius, tuple(rng.uniform(0.05, 0.95, 3)))
    word = ''.join(rng.choice(list('AEIKLMNORSTUVXZ'), int(rng.integers(3, 6))))
    ink = (0.05, 0.05, 0.08) if rng.random() < 0.5 else (0.97, 0.96, 0.9)
    place = (int(0.06 * size), int(rng.uniform(0.25, 0.6) * size))
    cv2.putText(
        image,
        word,
        place,
        cv2.FONT_HERSHEY_TRIPLEX,
        size / 140,
        ink,
        max(1, size // 100),
        cv2.LINE_AA,
    )
    for line in range(6):
        text = ''.join(rng.choice(list('abcdefghijklmnop rstuv '), 22))
        place = (int(0.06 * size), int((0.72 + 0.045 * line) * size))
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size / 900, ink, 1, cv2.LINE_AA)
    return _worn(rng, image)


def _frame(image: np.ndarray, ink: tuple[float, float, float], period: int) -> None:
    size = len(image)
    width = size // 14
    stripe = (np.arange(size) // max(1, period)) % 2 == 0
    for view in (image[:width], image[-width:]):
        view[:, stripe] = ink
    for view in (image[:, :width], image[:, -width:]):
        view[stripe] = ink


def _shape(
    image: np.ndarray,
    name: str,
    centre: tuple[float, float],
    radius: float,
    ink: tuple[float, float, float],
) -> None:
    middle = (round(centre[0]), round(centre[1]))
    ink = (float(ink[0]), float(ink[1]), float(ink[2]))
    if name == 'disc':
        cv2.circle(image, middle, round(radius), ink, -1, cv2.LINE_AA)
    elif name == 'ring':
        cv2.circle(
            image, middle, round(0.8 * radius), ink, max(1, round(0.35 * radius)), cv2.LINE_AA
        )
    else:
        outline = np.asarray(_OUTLINES[name]) * radius + centre
        cv2.fillPoly(image, [np.round(outline).astype(np.int32)], ink, cv2.LINE_AA)


def _worn(rng: Rng, image: np.ndarray) -> np.ndarray:
    size = len(image)
    scratched = np.clip(5 * (spectral(rng, size, 0.9) - 0.78), 0, 0.6)
    image = mix(image, np.full_like(image, 0.6), scratched)
    return np.clip(image * (1 + 0.02 * grain(rng, size, 0.9))[..., None], 0, 1)
