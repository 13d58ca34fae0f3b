"""Scores a run as far as its motion and its scale allow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.alignment import Alignment
from kpvo_ros.evaluation.report import evaluate_run, report_run

if TYPE_CHECKING:
    from kpvo_ros.evaluation.metrics import Metrics
    from kpvo_ros.types import Trajectory


class Score(NamedTuple):
    """The numbers of a run, None when it could not be scored, and what to remark."""

    metrics: Metrics | None
    note: str

    def rows(self) -> list[tuple[str, str]]:
        """Rows for a table, without those the replay itself has; none without numbers."""
        rows = [] if self.metrics is None else self.metrics.rows()
        return [row for row in rows if row[0] not in ('frames', 'tracked')]


def score_run(run_dir: Path, truth: Trajectory | None, is_metric: bool) -> Score:
    """Evaluate a run where that is possible and write its report in any case.

    A run without metric scale is fitted with scale; one that does not move, or is too short for
    a fit, is laid on the truth by its first pose.

    Args:
        run_dir: folder of a run with at least one pose.
        truth: poses of the optical frame, None without ground truth.
        is_metric: whether the run claims metres.

    Raises:
        EvaluationError: files of the run cannot be read or written.
    """
    if truth is None:
        report_run(run_dir)
        return Score(None, '')
    reason = ''
    for alignment in (Alignment.SE3 if is_metric else Alignment.SIM3, Alignment.ORIGIN):
        try:
            metrics = evaluate_run(run_dir, truth, alignment)
        except EvaluationError as error:
            reason = str(error)
            continue
        return Score(metrics, f'aligned by the first pose, because {reason}' if reason else '')
    report_run(run_dir)
    return Score(None, f'not evaluated, because {reason}')
