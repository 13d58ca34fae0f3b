"""kpvo bench odometry, part cases: replays of recorded and rendered sequences, scored.

Recorded sequences that are absent are reported as skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from kpvo_ros.bags.replay import ReplaySummary, replay
from kpvo_ros.bags.source import Source
from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_case_list import Case
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_floors import judge
from kpvo_ros.cli.bench_sources import DroppingSource
from kpvo_ros.cli.bench_watch import Watch
from kpvo_ros.cli.bench_worlds import Worlds, configuration
from kpvo_ros.cli.common import progress_bar
from kpvo_ros.cli.scoring import score_run
from kpvo_ros.errors import EvaluationError, KpvoError
from kpvo_ros.evaluation.alignment import Alignment
from kpvo_ros.evaluation.continuity import Answers, continuity, jumps, standstill_drift
from kpvo_ros.evaluation.files import TRAJECTORY_FILE, read_trajectory
from kpvo_ros.evaluation.metrics import EvaluationOptions, evaluate
from kpvo_ros.odometry.pipeline import STAGES
from kpvo_ros.types import Trajectory

_QUICK_S = 5.0
_COMPLETENESS = (
    Column('frames', 'frames', 'd'),
    Column('answered %', 'answered_percent', '.1f'),
    Column('tracked %', 'tracked_percent', '.1f'),
    Column('completed %', 'completed_percent', '.1f'),
    Column('first', 'first_tracked', 'd'),
    Column('lost s', 'longest_lost_s', '.2f'),
    Column('maps', 'maps', 'd'),
    Column('main map %', 'main_map_percent', '.1f'),
    Column('jump m', 'largest_jump_m'),
    Column('at recovery m', 'recovery_jump_m'),
)
_ACCURACY = (
    Column('path m', 'path_m', '.1f'),
    Column('ATE se3 m', 'ate_se3_m'),
    Column('sim3 m', 'ate_sim3_m'),
    Column('main map', 'main_map_ate_sim3_m'),
    Column('origin m', 'ate_origin_m'),
    Column('drift %', 'drift_percent', '.2f'),
    Column('scale %', 'scale_error_percent', '+.2f'),
    Column('rot deg', 'rotation_deg', '.2f'),
    Column('ms median', 'step_ms_median', '.1f'),
    Column('ms p95', 'step_ms_p95', '.1f'),
    Column('floors', 'verdict'),
)
_STAGES = tuple(Column(stage, stage, '.1f') for stage in (*STAGES, 'total'))


def measure_cases(
    cases: Iterable[Case], options: BenchOptions, worlds: Worlds
) -> tuple[list[Table], dict[str, Any]]:
    """Run every case there is data for; a case that fails does not end the others.

    Returns:
        Tables, and the numbers of each case by its name.
    """
    variant = f', with {" ".join(options.words)}' if options.words else ''
    numbers: dict[str, dict[str, Any]] = {}
    for case in (_with(options.words, case) for case in cases):
        try:
            numbers[case.name] = _run(case, options, worlds)
        except KpvoError as error:
            floors = judge(case.floors, {}).numbers
            numbers[case.name] = {'floors': floors, 'verdict': f'failed: {error}'}
    stages = {name: _medians(case.get('summary')) for name, case in numbers.items()}
    tables = [
        number_table(f'how completely{variant}', 'sequence', _COMPLETENESS, numbers),
        number_table(f'how exactly{variant}', 'sequence', _ACCURACY, numbers),
        number_table(f'median milliseconds per stage{variant}', 'sequence', _STAGES, stages),
    ]
    return tables, numbers


# ------------------------------------------------------------------------------------ private


def _with(words: tuple[str, ...], case: Case) -> Case:
    """A case whose parameters give way to `words`."""
    named = {word.partition('=')[0] for word in words}
    own = tuple(word for word in case.words if word.partition('=')[0] not in named)
    return dataclasses.replace(case, words=(*own, *words))


def _run(case: Case, options: BenchOptions, worlds: Worlds) -> dict[str, Any]:
    """All numbers of a case."""
    folder = options.data_dir / case.recorded if options.data_dir else None
    if case.recorded and (folder is None or not folder.is_dir()):
        return {'verdict': 'skipped: no data'}
    run_dir = options.work_dir / 'runs' / case.slug
    watch = Watch()
    with _open(case, folder, options, worlds) as source:
        config = configuration(case.words, source, options.seed)
        with progress_bar(case.name) as progress:
            summary = replay(source, config, run_dir, observers=(watch,), progress=progress)
        truth = source.ground_truth()
    numbers = _numbers(case, run_dir, summary, watch.answers, truth)
    verdict = judge(case.floors, numbers)
    return {**numbers, 'floors': verdict.numbers, 'verdict': verdict.text}


def _open(case: Case, folder: Path | None, options: BenchOptions, worlds: Worlds) -> Source:
    if case.recorded and folder is not None:
        return open_source(folder, duration_s=_QUICK_S if options.quick else None)
    source = worlds.source(case.preset, world=case.world, frames=case.frames)
    if case.dropped:
        return DroppingSource(source, case.dropped, np.random.default_rng(options.seed))
    return source


def _numbers(
    case: Case,
    run_dir: Path,
    summary: ReplaySummary,
    answers: Answers,
    truth: Trajectory | None,
) -> dict[str, Any]:
    trajectory = read_trajectory(run_dir / TRAJECTORY_FILE) if summary.poses else None
    total = summary.stage_ms['total']
    numbers: dict[str, Any] = {
        'words': list(case.words),
        **dataclasses.asdict(continuity(answers, trajectory, summary.bad_frames)),
        'step_ms_median': total['median'],
        'step_ms_p95': total['p95'],
        'summary': dataclasses.asdict(summary),
    }
    if case.stands_still and answers.measured.any():
        drift_m, drift_deg = standstill_drift(answers.poses[answers.measured])
        numbers.update(static_drift_m=drift_m, static_drift_deg=drift_deg)
    if trajectory is not None and truth is not None:
        numbers.update(_accuracy(case, run_dir, trajectory, answers, truth))
    return numbers


def _accuracy(
    case: Case, run_dir: Path, trajectory: Trajectory, answers: Answers, truth: Trajectory
) -> dict[str, Any]:
    """Numbers against the truth; writes the report of the run as well."""
    score = score_run(run_dir, truth, case.is_metric)
    metrics = score.metrics
    final = answers.filled(trajectory)
    jump = jumps(final, truth, metrics.aligned_scale if metrics else 1.0)
    main = final.in_main_map
    main_map = Trajectory(final.stamps_ns[main], final.poses[main])
    return {
        'ate_se3_m': _ate_m(trajectory, truth, Alignment.SE3),
        'ate_sim3_m': _ate_m(trajectory, truth, Alignment.SIM3),
        'ate_origin_m': _ate_m(trajectory, truth, Alignment.ORIGIN),
        'main_map_ate_sim3_m': _ate_m(main_map, truth, Alignment.SIM3),
        'largest_jump_m': jump.largest_m,
        'largest_jump_deg': jump.largest_deg,
        'recovery_jump_m': jump.recovery_m,
        'path_m': metrics and metrics.path_length_m,
        'drift_percent': metrics and metrics.drift_percent,
        'scale_error_percent': metrics and metrics.scale_error_percent,
        'rotation_deg': metrics and metrics.rotation_deg.rmse,
        'metrics': metrics and metrics.to_dict(),
        'note': score.note,
    }


def _ate_m(estimate: Trajectory, truth: Trajectory, alignment: Alignment) -> float | None:
    """None where the motion leaves the fit open."""
    try:
        return evaluate(estimate, truth, EvaluationOptions(alignment)).ate_m.rmse
    except EvaluationError:
        return None


def _medians(summary: dict[str, Any] | None) -> dict[str, float]:
    stage_ms = summary['stage_ms'] if summary else {}
    return {stage: times['median'] for stage, times in stage_ms.items()}
