"""kpvo bench features, part pose: the motion between two real views from matches alone.

The essential matrix with known intrinsics (poselib); the error of a pair is the larger of the
errors of rotation and of the direction of translation. A figure is the mean over the sets, so
that a long set weighs no more than a short one.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_features_data import POSE_SETS, PoseSet, Views, present, read_views
from kpvo_ros.cli.bench_features_predictions import RATIO, Predictions, Predictor
from kpvo_ros.errors import CommandError
from kpvo_ros.evaluation.keypoint_pairs import ViewPair, choose_pairs
from kpvo_ros.evaluation.keypoints import (
    area_under_recall,
    bootstrap_sigma,
    mean_of_groups,
    pose_error_deg,
    recall_scores,
)
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.solve import estimate_essential

THRESHOLDS_DEG = (5.0, 10.0, 20.0)
_FIGURE_DEG = 10.0
_INLIER_PX = 1.5
_QUICK_PAIRS = 6
_COLUMNS = (
    Column('AUC@5', 'auc5', '.1f'),
    Column('AUC@10', 'auc10', '.1f'),
    Column('AUC@20', 'auc20', '.1f'),
    Column('s.e. @10', 'auc10_sigma', '.1f'),
    Column(f'@10, ratio {RATIO}', 'auc10_ratio', '.1f'),
    Column('matches', 'matches', '.0f'),
)
_Errors = dict[str, np.ndarray]  # of each set


def measure_pose(
    options: BenchOptions, predictors: Sequence[Predictor]
) -> tuple[list[Table], dict[str, Any]]:
    """Errors on every set that is there.

    Raises:
        CommandError: none is there.
    """
    folders = present(options.data_dir, (wanted.name for wanted in POSE_SETS))
    if not folders:
        raise CommandError('pose: no recorded sequences; name their folder with --data')
    numbers: dict[str, Any] = {
        'missing': [wanted.name for wanted in POSE_SETS if wanted.name not in folders],
        'sets': {},
    }
    scores = {predictor.name: _Score() for predictor in predictors}
    for wanted in POSE_SETS:
        if wanted.name in folders:
            views = read_views(folders[wanted.name], wanted.last_share)
            pairs = choose_pairs(views.poses, _limits(wanted, options.quick).limits)
            numbers['sets'][wanted.name] = {
                'images': len(views.images),
                'pairs': [dataclasses.asdict(pair) for pair in pairs],
            }
            for predictor in predictors:
                made = predictor.predict(
                    f'pose_{wanted.name}', views.images, [(p.index0, p.index1) for p in pairs]
                )
                scores[predictor.name].add(wanted.name, views, pairs, made)
    numbers['ways'] = {name: score.numbers(options.seed) for name, score in scores.items()}
    _compare(numbers['ways'], scores, options.seed)
    return _tables(numbers), numbers


class _Score:
    """Errors of one way, set by set."""

    def __init__(self) -> None:
        self.plain: _Errors = {}
        self.tested: _Errors = {}  # with the ratio test
        self._matches: dict[str, np.ndarray] = {}

    def add(self, name: str, views: Views, pairs: list[ViewPair], made: Predictions) -> None:
        self.plain[name] = _errors_deg(views, pairs, made, 1.0)
        self.tested[name] = _errors_deg(views, pairs, made, RATIO)
        self._matches[name] = np.array([len(found) for found in made.matches], float)

    def numbers(self, seed: int) -> dict[str, Any]:
        found: dict[str, Any] = {'errors_deg': {}, 'auc10_of_set': {}}
        for name, errors in self.plain.items():
            found['errors_deg'][name] = [round(e, 3) if np.isfinite(e) else None for e in errors]
            found['auc10_of_set'][name] = 100.0 * area_under_recall(errors, _FIGURE_DEG)
        for limit in THRESHOLDS_DEG:
            found[f'auc{limit:g}'] = mean_of_groups(_points(self.plain, limit))
            found[f'auc{limit:g}_ratio'] = mean_of_groups(_points(self.tested, limit))
        rng = np.random.default_rng(seed)
        found['auc10_sigma'] = bootstrap_sigma(_points(self.plain, _FIGURE_DEG), rng)
        found['matches'] = mean_of_groups(list(self._matches.values()))
        return found


def _compare(ways: dict[str, Any], scores: dict[str, _Score], seed: int) -> None:
    """How far above RootSIFT each way is, on the same pairs."""
    if 'rootsift' not in scores:
        return
    reference = _points(scores['rootsift'].plain, _FIGURE_DEG)
    for name, score in scores.items():
        own = _points(score.plain, _FIGURE_DEG)
        ahead = [a - b for a, b in zip(own, reference, strict=True)]
        ways[name]['auc10_above_rootsift'] = mean_of_groups(ahead)
        rng = np.random.default_rng(seed)
        ways[name]['auc10_above_rootsift_sigma'] = bootstrap_sigma(ahead, rng)


def _points(errors: _Errors, limit: float) -> list[np.ndarray]:
    """What each pair of each set adds, in points of a hundred."""
    return [100.0 * recall_scores(of_set, limit) for of_set in errors.values()]


def _errors_deg(
    views: Views, pairs: list[ViewPair], made: Predictions, ratio: float
) -> np.ndarray:
    errors = []
    for index, pair in enumerate(pairs):
        xy0, xy1 = made.matched(index, ratio)
        camera = views.camera
        found = estimate_essential(
            camera.undistort(xy0), camera.undistort(xy1), camera, camera, threshold_px=_INLIER_PX
        )
        T_1_0 = se3.inverse(views.poses[pair.index1]) @ views.poses[pair.index0]
        errors.append(pose_error_deg(None if found is None else found.T_1_0, T_1_0))
    return np.array(errors)


def _limits(wanted: PoseSet, quick: bool) -> PoseSet:
    if not quick:
        return wanted
    return dataclasses.replace(
        wanted, limits=dataclasses.replace(wanted.limits, count=_QUICK_PAIRS)
    )


def _tables(numbers: dict[str, Any]) -> list[Table]:
    missing = numbers['missing']
    title = f'relative pose, mean of {len(numbers["sets"])} sets'
    title += f' (missing: {", ".join(missing)})' if missing else ''
    columns = [Column(name, name, '.1f') for name in numbers['sets']]
    by_set = {name: way['auc10_of_set'] for name, way in numbers['ways'].items()}
    return [
        number_table(title, 'way', _COLUMNS, numbers['ways']),
        number_table('relative pose, AUC@10 of each set', 'way', columns, by_set),
    ]
