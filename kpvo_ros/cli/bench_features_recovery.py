"""kpvo bench features, part recovery: where is a camera that knows nothing but one image?

A memory is filled as the odometry fills it (`odometry.memory`), but with true poses and depths, so
that keypoints alone decide. Every query is one call without a guess of the pose. It is recovered
when the answer is within 0.25 m and 5 % of the median depth, and within 5 degrees; any other
answer is a wrong one. Images of places that are not in the memory may only be answered wrongly.

Keypoints are extracted as in the odometry, spread evenly; its SIFT has the descriptors of
RootSIFT, so that way is not measured twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import time
from typing import Any

import numpy as np

from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_features_data import present
from kpvo_ros.cli.bench_features_predictions import Predictor
from kpvo_ros.cli.bench_features_recovery_views import BINS_M, Queries, Trial, recorded_trial
from kpvo_ros.cli.bench_features_recovery_worlds import rendered_trials
from kpvo_ros.cli.bench_features_ways import BUDGET, LEARNED, PEERS, Way
from kpvo_ros.cli.tracking_truth import Clip
from kpvo_ros.config.frontend import FrontendConfig
from kpvo_ros.config.places import MemoryConfig
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.frontend.models import SUFFIX
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.memory import KeyframeMemory, Recall, StoredKeyframe, appearance
from kpvo_ros.types import Features

_RECORDED = 'hololens_000'
_NEAR_M, _NEAR_OF_DEPTH, _NEAR_DEG = 0.25, 0.05, 5.0
_PER_BIN, _QUICK_PER_BIN = 10, 2
_RHO_SIGMA = 0.02  # relative, of the inverse depths of the memory
_SIGMA = 1e-3  # of its poses, metres and radians
_TWICE = 'rootsift'
_COSTS = (
    Column('of all %', 'recovered_percent', '.1f'),
    Column('wrong %', 'wrong_recall_percent', '.1f'),
    Column('of strange', 'strange_answered', 'd'),
    Column('extract ms', 'extract_ms', '.1f'),
    Column('search ms', 'search_ms', '.1f'),
)
_Error = tuple[float, float] | None  # metres and degrees; no answer


def measure_recovery(
    options: BenchOptions, predictors: Sequence[Predictor]
) -> tuple[list[Table], dict[str, Any]]:
    """How often each way recovers the pose, by set and by distance.

    Raises:
        CommandError: rendered views cannot be written.
    """
    scores = {
        predictor.name: _Score(extractor)
        for predictor in predictors
        if (extractor := _as_in_the_odometry(predictor)) is not None
    }
    sets: dict[str, Any] = {}
    strange = 0
    for trial in _trials(options):
        for name, queries in trial.queries.items():
            distances_m = [round(float(d), 3) for d in queries.distance_m]
            sets[name] = {'queries': len(queries), 'distance_m': distances_m}
        strange += len(trial.strange)
        for score in scores.values():
            score.add(trial, options.seed)
    ways = {name: score.numbers() for name, score in scores.items()}
    numbers = {'sets': sets, 'strange': strange, 'ways': ways}
    return _tables(numbers), numbers


def remember(mapped: Clip, extractor: Way, seed: int) -> KeyframeMemory:
    """A memory of all views of a map."""
    memory = KeyframeMemory(MemoryConfig(), seed)
    for index, gray in enumerate(mapped.grays):
        features = extractor.extract(gray)
        with np.errstate(divide='ignore'):
            rho = np.nan_to_num(1.0 / mapped.depth(index, features.xy), posinf=0.0)
        memory.add(
            StoredKeyframe(
                id=index,
                stamp_ns=index,
                T_odom_camera=mapped.poses[index],
                covariance=_SIGMA**2 * np.eye(6),
                ray=mapped.camera.unproject(features.xy)[:, :2],
                rho=rho,
                variance=np.where(rho > 0, (_RHO_SIGMA * rho) ** 2, np.inf),
                descriptor=features.descriptor,
                appearance=_look_of(features, gray),
            )
        )
    return memory


def is_near(error: tuple[float, float], depth_m: float) -> bool:
    """Whether an answer that errs by (metres, degrees) is the right one."""
    return error[0] <= _NEAR_M + _NEAR_OF_DEPTH * depth_m and error[1] <= _NEAR_DEG


# ------------------------------------------------------------------------------------ private


class _Score:
    """Answers of one way, trial by trial."""

    def __init__(self, extractor: Way) -> None:
        self._extractor = extractor
        self._errors: dict[str, list[_Error]] = {}
        self._right: dict[str, np.ndarray] = {}
        self._distance_m: list[np.ndarray] = []
        self._strange = self._strange_answered = 0
        self._seconds: list[tuple[float, float]] = []  # of the processor: extraction, search

    def add(self, trial: Trial, seed: int) -> None:
        """Ask for every image of a trial."""
        memory = remember(trial.mapped, self._extractor, seed)
        for name, queries in trial.queries.items():
            found = [self._ask(memory, trial.mapped, gray) for gray in queries.grays]
            errors = [_error(one, T) for one, T in zip(found, queries.poses, strict=True)]
            self._errors[name], self._right[name] = errors, _right(errors, queries)
            self._distance_m.append(queries.distance_m)
        answers = [self._ask(memory, trial.mapped, gray) for gray in trial.strange]
        self._strange += len(answers)
        self._strange_answered += sum(one is not None for one in answers)

    def numbers(self) -> dict[str, Any]:
        """All figures of the way."""
        right = np.concatenate(list(self._right.values()))
        answered = [e is not None for errors in self._errors.values() for e in errors]
        wrong = sum(answered) - int(right.sum()) + self._strange_answered
        extract_ms, search_ms = (1e3 * np.median(self._seconds, axis=0)).tolist()
        of_set = {name: 100.0 * float(hits.mean()) for name, hits in self._right.items()}
        return {
            'errors': {
                name: [None if e is None else [round(v, 4) for v in e] for e in errors]
                for name, errors in self._errors.items()
            },
            **{f'recovered_percent_{name}': percent for name, percent in of_set.items()},
            **_by_distance(right, np.concatenate(self._distance_m)),
            'recovered_percent': float(np.mean(list(of_set.values()))),
            'wrong_recall_percent': 100.0 * wrong / (len(right) + self._strange),
            'strange_answered': self._strange_answered,
            'extract_ms': extract_ms,
            'search_ms': search_ms,
        }

    def _ask(self, memory: KeyframeMemory, mapped: Clip, gray: np.ndarray) -> Recall | None:
        start = time.process_time()
        features = self._extractor.extract(gray)
        extracted = time.process_time()
        look = _look_of(features, gray)
        found = memory.recall(features, look, mapped.camera, fresh=True)
        self._seconds.append((extracted - start, time.process_time() - extracted))
        return found


def _trials(options: BenchOptions) -> Iterator[Trial]:
    per_bin = _QUICK_PER_BIN if options.quick else _PER_BIN
    yield from rendered_trials(options.work_dir / 'features', options.seed, per_bin)
    for folder in present(options.data_dir, (_RECORDED,)).values():
        yield recorded_trial(folder)


def _as_in_the_odometry(predictor: Predictor) -> Way | None:
    """The extractor of that name; None when it is there under another one."""
    if predictor.name == _TWICE:
        return None
    if predictor.name not in (*PEERS, LEARNED) and not predictor.name.endswith(SUFFIX):
        return predictor.way  # nobody but its maker knows how to make it
    config = dataclasses.replace(FrontendConfig(), extractor=predictor.name, max_keypoints=BUDGET)
    return load_extractor(config)


def _look_of(features: Features, gray: np.ndarray) -> np.ndarray:
    learned = features.image_descriptor
    return appearance(gray) if learned is None else learned


def _error(found: Recall | None, T_world_camera: np.ndarray) -> _Error:
    if found is None:
        return None
    T_error = se3.inverse(T_world_camera) @ found.T_odom_camera
    angle_deg = np.degrees(se3.rotation_angle_rad(T_error[:3, :3]))
    return float(np.linalg.norm(T_error[:3, 3])), float(angle_deg)


def _right(errors: list[_Error], queries: Queries) -> np.ndarray:
    """(Q,) bool."""
    pairs = zip(errors, queries.depth_m, strict=True)
    return np.array([e is not None and is_near(e, float(depth)) for e, depth in pairs])


def _by_distance(right: np.ndarray, distance_m: np.ndarray) -> dict[str, float | None]:
    """Percent recovered in each bin, None in an empty one."""
    bins = np.searchsorted(BINS_M, distance_m)
    return {
        f'recovered_percent_to_{end}m': 100.0 * float(right[bins == k].mean())
        if (bins == k).any()
        else None
        for k, end in enumerate(BINS_M)
    }


def _tables(numbers: dict[str, Any]) -> list[Table]:
    sets, ways = numbers['sets'], numbers['ways']
    columns = [Column(f'{name} %', f'recovered_percent_{name}', '.1f') for name in sets]
    counts = ', '.join(f'{name}: {of_set["queries"]}' for name, of_set in sets.items())
    title = f'recovered from one image ({counts} queries; {numbers["strange"]} strange)'
    distances_m = np.concatenate([of_set['distance_m'] for of_set in sets.values()])
    count = np.bincount(np.searchsorted(BINS_M, distances_m), minlength=len(BINS_M))
    by_distance = [
        Column(f'to {end:g} m, {count[k]}', f'recovered_percent_to_{end}m', '.1f')
        for k, end in enumerate(BINS_M)
    ]
    return [
        number_table(title, 'way', (*columns, *_COSTS), ways),
        number_table('recovered %, by distance from the mapped view', 'way', by_distance, ways),
    ]
