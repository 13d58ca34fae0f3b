"""kpvo bench frontend, part flow: ways of optical flow from one picture to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import cv2
import numpy as np

from kpvo_ros.cli.tracking_score import Score
from kpvo_ros.cli.tracking_truth import Clip, keypoints, starts
from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.frontend.flow import FlowTracker

_GUESS_SIGMA_PX = 3.0
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)
Way = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def flow(clips: Sequence[Clip], gap: int, seed: int) -> dict[str, Score]:
    """Flow to the picture `gap` frames later.

    Args:
        clips: pictures with truth.
        gap: frames between the two.
        seed: of the guesses.
    """
    ways: dict[str, Way] = {
        'textbook, 21 px': TextbookFlow(21).track,
        'textbook, 11 px': TextbookFlow(11).track,
        'FlowTracker': _tracker().track,
        'wide patch of 15 px': _tracker(flow_window_px=15).track,
        'wide patch of 24 px': _tracker(flow_window_px=24).track,
        'small patch of 8 px': _tracker(flow_refine_px=8).track,
        'small patch of 16 px': _tracker(flow_refine_px=16).track,
        'way back unchecked': _tracker(flow_max_error_px=10.0).track,
        'two levels': _tracker(flow_levels=2).track,
    }
    scores = {way: Score() for way in [*ways, 'two levels, guess good to 3 px']}
    guided, rng = _tracker(flow_levels=2), np.random.default_rng(seed)
    for clip, first in starts(clips, gap):
        gray0, gray1, xy0 = clip.grays[first], clip.grays[first + gap], keypoints(clip, first)
        truth, visible = clip.follow(first, first + gap, xy0)
        for name, way in ways.items():
            xy1, kept = scores[name].timed(len(xy0), way, gray0, gray1, xy0)
            scores[name].add(xy1, kept, truth, visible)
        guess = truth + rng.normal(0.0, _GUESS_SIGMA_PX, truth.shape)
        score = scores['two levels, guess good to 3 px']
        xy1, kept = score.timed(len(xy0), guided.track, gray0, gray1, xy0, guess)
        score.add(xy1, kept, truth, visible)
    return scores


def _tracker(**changes: float) -> FlowTracker:
    return FlowTracker(dataclasses.replace(TrackingConfig(), **changes))  # type: ignore[arg-type]


class TextbookFlow:
    """Full pyramids there and back with one size of patch, as most programs do it."""

    def __init__(self, window_px: int) -> None:
        self._window = (window_px, window_px)

    def track(
        self, gray0: np.ndarray, gray1: np.ndarray, xy0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `FlowTracker.track`."""
        xy1, found = self._pass(gray0, gray1, xy0)
        back, returned = self._pass(gray1, gray0, xy1)
        near = np.linalg.norm(back - xy0, axis=1) < TrackingConfig().flow_max_error_px
        return xy1, found & returned & near

    def _pass(
        self, gray0: np.ndarray, gray1: np.ndarray, xy0: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        xy1, found, _ = cv2.calcOpticalFlowPyrLK(
            gray0, gray1, xy0, xy0.copy(), winSize=self._window, maxLevel=4, criteria=_STOP
        )
        return xy1, found[:, 0] > 0
