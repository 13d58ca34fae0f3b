"""kpvo bench frontend, part match: points of a keyframe found again near where they should be.

The prediction is the truth with an error of some pixels, as a good motion model gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import time

import cv2
import numpy as np

from kpvo_ros.cli.tracking_score import Score
from kpvo_ros.cli.tracking_truth import Clip, starts
from kpvo_ros.config.runtime import FrontendConfig, TrackingConfig
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.frontend.flow import FlowTracker
from kpvo_ros.frontend.matcher import match_near
from kpvo_ros.frontend.patches import FirstSights, PatchRefiner, patch_warp
from kpvo_ros.odometry.surface import tilt_of
from kpvo_ros.types import Features

_PREDICTION_SIGMA_PX = 3.0
_RADIUS_PX = 10.0
_CORNER_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 20, 0.02)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A keyframe and a later picture.

    Attributes:
        gray0: the keyframe.
        gray1: the later picture.
        xy0: (N, 2) float32 keypoints.
        predicted: (N, 2) float32 where they should be.
        warp: (N, 2, 2) how their patches should be bent.
    """

    gray0: np.ndarray
    gray1: np.ndarray
    xy0: np.ndarray
    predicted: np.ndarray
    warp: np.ndarray


Answer = tuple[np.ndarray, np.ndarray]


def near_prediction(clips: Sequence[Clip], gap: int, seed: int) -> dict[str, Score]:
    """Find keypoints again `gap` frames later.

    The keypoints of each method are its own; extraction from the later picture is part of its
    time.

    Args:
        clips: pictures with truth.
        gap: frames between keyframe and picture.
        seed: of the errors of the prediction.
    """
    scores: dict[str, Score] = {}
    rng = np.random.default_rng(seed)
    for name in ('orb', 'sift'):
        extractor = load_extractor(dataclasses.replace(FrontendConfig(), extractor=name))
        for clip, first in starts(clips, gap):
            features = extractor.extract(clip.grays[first])
            truth, visible = clip.follow(first, first + gap, features.xy)
            pair = _pair(clip, first, gap, features, truth, rng)
            start = time.process_time()
            found = _match(features, extractor.extract(pair.gray1), pair)
            seconds = time.process_time() - start
            answers = {name: (found, seconds), **_mended(name, pair, found, seconds)}
            if name == 'orb':
                answers.update(_without_descriptors(pair))
            for way, (answer, spent) in answers.items():
                score = scores.setdefault(way, Score())
                score.add(*answer, truth, visible)
                score.spend(spent, len(features))
    return scores


def _pair(
    clip: Clip,
    first: int,
    gap: int,
    features: Features,
    truth: np.ndarray,
    rng: np.random.Generator,
) -> Pair:
    error = rng.normal(0.0, _PREDICTION_SIGMA_PX, truth.shape)
    ray = clip.camera.unproject(features.xy.astype(float))[:, :2]
    rho = 1.0 / clip.depth(first, features.xy)
    tilt = tilt_of(ray, rho, 0.01 * rho)
    warp = patch_warp(clip.camera, ray, rho, tilt, clip.motion(first, first + gap))
    predicted = (truth + error).astype(np.float32)
    return Pair(clip.grays[first], clip.grays[first + gap], features.xy, predicted, warp)


def _match(features0: Features, features1: Features, pair: Pair) -> Answer:
    xy, kept = pair.predicted.copy(), np.zeros(len(pair.xy0), bool)
    known = np.flatnonzero(np.isfinite(pair.predicted).all(1))
    matches = match_near(
        features0.descriptor[known],
        pair.predicted[known],
        features1.descriptor,
        features1.xy,
        _RADIUS_PX,
        TrackingConfig().match_ratio,
    )
    xy[known[matches.index0]] = features1.xy[matches.index1]
    kept[known[matches.index0]] = True
    return xy, kept


def _mended(
    name: str, pair: Pair, found: Answer, seconds: float
) -> dict[str, tuple[Answer, float]]:
    """Matches with better pixels."""
    xy, kept = found
    start = time.process_time()
    corner = xy.copy()
    if kept.any():
        corner[kept] = cv2.cornerSubPix(
            pair.gray1, xy[kept][:, None].copy(), (3, 3), (-1, -1), _CORNER_STOP
        )[:, 0]
    middle = time.process_time()
    aligned = _aligned(pair, xy, kept, max_move_px=3.0)
    end = time.process_time()
    return {
        f'{name}, then cornerSubPix': ((corner, kept), seconds + middle - start),
        f'{name}, then first sight': (aligned, seconds + end - middle),
    }


def _without_descriptors(pair: Pair) -> dict[str, tuple[Answer, float]]:
    """Optical flow from the keyframe itself, and the bent first sight alone."""
    tracker = FlowTracker(dataclasses.replace(TrackingConfig(), flow_levels=2))
    known = np.isfinite(pair.predicted).all(1)
    times = [time.process_time()]
    flow = tracker.track(pair.gray0, pair.gray1, pair.xy0, pair.predicted)
    times.append(time.process_time())
    sight = _aligned(pair, pair.predicted, known, max_move_px=_RADIUS_PX)
    times.append(time.process_time())
    refiner = PatchRefiner(TrackingConfig())
    again = refiner.find_again(_first_sights(pair), pair.gray1, pair.predicted, _RADIUS_PX)
    times.append(time.process_time())
    spent = np.diff(times)
    return {
        'flow from the keyframe': (flow, spent[0]),
        'first sight alone': (sight, spent[1]),
        'first sight, compared (find_again)': (again, spent[2]),
    }


def _aligned(pair: Pair, xy: np.ndarray, kept: np.ndarray, max_move_px: float) -> Answer:
    refiner = PatchRefiner(dataclasses.replace(TrackingConfig(), patch_max_move_px=max_move_px))
    chosen = np.flatnonzero(kept)
    refined, good = refiner.refine(_first_sights(pair)[chosen], pair.gray1, xy[chosen])
    xy, kept = xy.copy(), kept.copy()
    xy[chosen], kept[chosen] = refined, good
    return xy, kept


def _first_sights(pair: Pair) -> FirstSights:
    return FirstSights([pair.gray0], np.zeros(len(pair.xy0), np.int64), pair.xy0, pair.warp)
