"""The plot of a run: loss parts and held-out metrics over training time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kpvo_ros.evaluation import plot_style as style

_SHOWN = 8  # curves in one picture that can still be told apart


def plot_curve(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the rows of metrics.jsonl.

    Args:
        rows: lines of `Run.rows`; nothing is drawn when there are none.
        path: PNG to write.

    Raises:
        EvaluationError: the file cannot be written.
    """
    train = [row for row in rows if row.get('kind') == 'train']
    validation = [row for row in rows if row.get('kind') == 'validation']
    shown = [(name, part) for name, part in (('loss', train), ('held out', validation)) if part]
    if not shown:
        return
    with style.figure(path, 8.0, 3.2 * len(shown)) as figure:
        for number, (name, part) in enumerate(shown):
            axes = figure.add_subplot(len(shown), 1, number + 1)
            for key in list(part[-1]['values'])[:_SHOWN]:
                points = [(r['minutes'], r['values'][key]) for r in part if key in r['values']]
                marker = 'o' if len(points) < 30 else None
                axes.plot(*zip(*points, strict=True), label=key, marker=marker, ms=3)
            axes.set_xlabel('training time [min]')
            axes.set_ylabel(name)
            style.legend_above(axes)
