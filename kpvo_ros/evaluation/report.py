"""The report of a run: metrics.json, report.md and PNG plots beside its trajectory.

A run is a folder with `trajectory_tum.txt`, and, where a replay wrote them, `states.csv`
(`states.py`) and `summary.json` (`frames`: how many images the stream had).
"""

from __future__ import annotations

from collections import Counter
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.alignment import Alignment
from kpvo_ros.evaluation.files import (
    STATES_FILE,
    SUMMARY_FILE,
    TRAJECTORY_FILE,
    read_trajectory,
)
from kpvo_ros.evaluation.metrics import (
    Comparison,
    EvaluationOptions,
    Metrics,
    compare,
    measure,
)
from kpvo_ros.evaluation.plots import (
    plot_coordinates,
    plot_errors,
    plot_path,
    plot_trajectory,
)
from kpvo_ros.evaluation.plots_run import plot_latency
from kpvo_ros.evaluation.states import States, read_states
from kpvo_ros.evaluation.table import markdown_table
from kpvo_ros.types import Trajectory

METRICS_FILE = 'metrics.json'
REPORT_FILE = 'report.md'


def evaluate_run(
    run_dir: str | os.PathLike[str],
    ground_truth: str | os.PathLike[str] | Trajectory,
    alignment: Alignment = Alignment.SE3,
    options: EvaluationOptions | None = None,
) -> Metrics:
    """Score a run and write its report into its own folder.

    Args:
        run_dir: folder of the run.
        ground_truth: a trajectory file, or the poses themselves.
        alignment: freedom of the fit; ignored when `options` are given.
        options: everything else one may choose.

    Returns:
        The metrics, which are also in metrics.json.

    Raises:
        EvaluationError: files are missing or wrong, or the trajectories cannot be compared.
    """
    run_dir = Path(run_dir)
    options = options or EvaluationOptions(alignment)
    estimate, states, frames = _read_run(run_dir)
    if not isinstance(ground_truth, Trajectory):
        ground_truth = read_trajectory(ground_truth)
    comparison = compare(estimate, ground_truth, options)
    metrics = measure(comparison, options, len(estimate), frames)
    write_report(run_dir, metrics, comparison, states)
    return metrics


def write_report(
    out_dir: Path, metrics: Metrics, comparison: Comparison, states: States | None = None
) -> Path:
    """Write numbers and plots.

    Args:
        out_dir: folder, made when absent.
        metrics: of the comparison.
        comparison: aligned poses, for the plots.
        states: of every frame, for latency and status.

    Returns:
        The path of report.md.

    Raises:
        EvaluationError: a file cannot be written.
    """
    _write(out_dir / METRICS_FILE, json.dumps(_finite(metrics.to_dict()), indent=2) + '\n')
    plot_trajectory(comparison, metrics, out_dir / 'trajectory.png')
    plot_errors(comparison, metrics, out_dir / 'errors.png', states)
    plot_coordinates(comparison, out_dir / 'coordinates.png')
    sections = [
        '# Evaluation',
        markdown_table(metrics.rows(), ('metric', 'value')),
        _how_it_was_measured(metrics),
        '![estimate over ground truth](trajectory.png)',
        '![error over time](errors.png)',
        '![position over time](coordinates.png)',
    ]
    return _finish(out_dir, sections, states, metrics.poses)


def report_run(run_dir: str | os.PathLike[str]) -> Path:
    """Write the report of a run that has no ground truth: the path, states and latency.

    Returns:
        The path of report.md.

    Raises:
        EvaluationError: files of the run are missing or wrong, or cannot be written.
    """
    run_dir = Path(run_dir)
    estimate, states, frames = _read_run(run_dir)
    plot_path(estimate, run_dir / 'trajectory.png')
    of_all = '' if frames is None else f' of {frames} frames'
    sections = [
        '# Run',
        f'{len(estimate)} poses{of_all}; no ground truth was given.',
        '![estimated path](trajectory.png)',
    ]
    return _finish(run_dir, sections, states, len(estimate))


# ------------------------------------------------------------------------------------ private


def _read_run(run_dir: Path) -> tuple[Trajectory, States | None, int | None]:
    """Trajectory, states when there are any, number of frames when it is known."""
    if not (run_dir / TRAJECTORY_FILE).is_file():
        raise EvaluationError(f'{run_dir}: no {TRAJECTORY_FILE} in this folder, is it a run?')
    states_path = run_dir / STATES_FILE
    states = read_states(states_path) if states_path.is_file() else None
    frames = _frames_of(run_dir / SUMMARY_FILE)
    if frames is None and states is not None:
        frames = len(states)
    return read_trajectory(run_dir / TRAJECTORY_FILE), states, frames


def _frames_of(path: Path) -> int | None:
    if not path.is_file():
        return None
    try:
        summary = json.loads(path.read_text(encoding='utf-8'))
        frames = summary.get('frames')
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise EvaluationError(f'{path}: not the summary of a run ({error})') from error
    return frames if isinstance(frames, int) and not isinstance(frames, bool) else None


def _how_it_was_measured(metrics: Metrics) -> str:
    lines = [
        f'{metrics.pairs} of {metrics.poses} poses compared over {metrics.duration_s:.1f} s; '
        f'alignment `{metrics.alignment.value}`, scale {metrics.aligned_scale:.4f} applied.'
    ]
    if metrics.segments is not None:
        lengths = ', '.join(f'{length:.4g}' for length in metrics.segments.lengths_m)
        lines.append(f't_err, r_err: {metrics.segments.segments} segments of {lengths} m.')
    return ' '.join(lines)


def _finish(out_dir: Path, sections: list[str], states: States | None, poses: int) -> Path:
    """Add what the states tell, and write report.md."""
    if states is not None and len(states):
        sections += ['## Frames', _status_table(states)]
        if (late := poses - states.frames_with_pose) > 0:
            sections.append(f'Statuses are those told in time; {late} more poses were told late.')
        if np.isfinite(states.total_ms).any():
            plot_latency(states, out_dir / 'latency.png')
            sections += ['## Latency', _latency_table(states), '![latency](latency.png)']
    return _write(out_dir / REPORT_FILE, '\n\n'.join(sections) + '\n')


def _status_table(states: States) -> str:
    counts = Counter(states.status)
    told = list(zip(states.status, states.reason, strict=True))
    rows = []
    for status, count in counts.most_common():
        reasons = Counter(reason for each, reason in told if each == status)
        reasons.pop('', None)
        why = '; '.join(f'{reason} ({n})' for reason, n in reasons.most_common(3))
        rows.append((status, str(count), f'{100.0 * count / len(states):.1f} %', why))
    return markdown_table(rows, ('status', 'frames', 'share', 'most frequent reasons'))


def _latency_table(states: States) -> str:
    rows = []
    for name, ms in {**states.stage_ms, 'total': states.total_ms}.items():
        known = ms[np.isfinite(ms)]
        if len(known):
            quantiles = np.percentile(known, (50, 95, 100))
            rows.append((name, *(f'{value:.2f}' for value in quantiles)))
    return markdown_table(rows, ('stage', 'median ms', 'p95 ms', 'max ms'))


def _finite(value: Any) -> Any:
    """JSON knows no NaN: such numbers become null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be written ({error.strerror})') from error
    return path
