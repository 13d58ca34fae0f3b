"""kpvo bench frontend, part light: optical flow under auto exposure, and ways to bear it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from kpvo_ros.cli.tracking_score import Score
from kpvo_ros.cli.tracking_truth import Clip, keypoints, starts
from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.frontend.brightness import match_brightness
from kpvo_ros.frontend.flow import FlowTracker

_EXPOSURES = {  # gain, offset in grey levels, gamma of the second picture
    'light as before': (1.0, 0.0, 1.0),
    'light x 0.9': (0.9, 0.0, 1.0),
    'light x 0.35': (0.35, 0.0, 1.0),
    'light x 2.5': (2.5, 0.0, 1.0),
    'light x 0.6 + 40': (0.6, 40.0, 1.0),
    'light ^ 0.6': (1.0, 0.0, 0.6),
}
_BLOCK_PX = 31  # side of what is local
Mending = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def light(clips: Sequence[Clip], gap: int) -> dict[str, dict[str, Score]]:
    """Flow to a picture `gap` frames later that was exposed differently; per exposure and way."""
    scores = {title: {way: Score() for way in _MENDINGS} for title in _EXPOSURES}
    plain = FlowTracker(TrackingConfig(), matches_brightness=False)
    for clip, first in starts(clips, gap):
        xy0 = keypoints(clip, first)
        truth, visible = clip.follow(first, first + gap, xy0)
        for title, exposure in _EXPOSURES.items():
            exposed = _exposed(clip.grays[first + gap], *exposure)
            for way, mend in _MENDINGS.items():
                score = scores[title][way]
                gray0, gray1 = score.timed(0, mend, clip.grays[first], exposed)
                xy1, kept = score.timed(len(xy0), plain.track, gray0, gray1, xy0)
                score.add(xy1, kept, truth, visible)
    return scores


def _exposed(gray: np.ndarray, gain: float, offset: float, gamma: float) -> np.ndarray:
    levels = np.minimum(np.arange(256) / 255.0 * gain, 1.0) ** gamma * 255.0 + offset
    return cv2.LUT(gray, np.clip(np.rint(levels), 0, 255).astype(np.uint8))


def _as_they_are(gray0: np.ndarray, gray1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return gray0, gray1


def _histogram(gray0: np.ndarray, gray1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return match_brightness(gray0, gray1), gray1


def _mean_and_spread(gray0: np.ndarray, gray1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gain = gray1.std() / max(float(gray0.std()), 1.0)
    return cv2.convertScaleAbs(gray0, None, gain, gray1.mean() - gain * gray0.mean()), gray1


def _local_contrast(gray0: np.ndarray, gray1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    clahe = cv2.createCLAHE(3.0, (8, 8))
    return clahe.apply(gray0), clahe.apply(gray1)


def _locally_even(gray0: np.ndarray, gray1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _even(gray0), _even(gray1)


def _even(gray: np.ndarray) -> np.ndarray:
    """Every block with the same mean and spread."""
    value = gray.astype(np.float32)
    mean = cv2.boxFilter(value, -1, (_BLOCK_PX, _BLOCK_PX))
    variance = cv2.boxFilter(value * value, -1, (_BLOCK_PX, _BLOCK_PX)) - mean**2
    level = 40.0 * (value - mean) / np.sqrt(np.maximum(variance, 0.0) + 4.0) + 128.0
    return np.clip(level, 0, 255).astype(np.uint8)


_MENDINGS: dict[str, Mending] = {
    'as they are': _as_they_are,
    'mean and spread': _mean_and_spread,
    'histogram (FlowTracker)': _histogram,
    'local contrast (CLAHE)': _local_contrast,
    'local mean and spread': _locally_even,
}
