"""How good a way of finding points again is: errors, losses, and time."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import time

import numpy as np

from kpvo_ros.cli.bench_columns import Column

SCORE_COLUMNS = (
    Column('median px', 'median_px'),
    Column('90 % px', 'p90_px'),
    Column('kept %', 'kept_percent', '.1f'),
    Column('< 1 px %', 'within_1px_percent', '.1f'),
    Column('< 2 px %', 'within_2px_percent', '.1f'),
    Column('found %', 'found_percent', '.1f'),
    Column('CPU ms/1000', 'cpu_ms_per_1000', '.2f'),
)


@dataclasses.dataclass
class Score:
    """Sums over pictures.

    Attributes:
        errors_px: of the points that were kept and truly visible, one array per picture.
        visible: points truly visible.
        points: points searched.
        seconds: of processor time spent; unlike the clock it does not feel other programs.
    """

    errors_px: list[np.ndarray] = dataclasses.field(default_factory=list)
    visible: int = 0
    points: int = 0
    seconds: float = 0.0

    def add(
        self, xy: np.ndarray, kept: np.ndarray, truth: np.ndarray, visible: np.ndarray
    ) -> None:
        """Count one picture.

        Args:
            xy: (N, 2) answers.
            kept: (N,) bool which of them were vouched for.
            truth: (N, 2) where the points really are.
            visible: (N,) bool where the truth is known.
        """
        counted = kept & visible
        self.errors_px.append(np.linalg.norm(xy[counted] - truth[counted], axis=1))
        self.visible += int(visible.sum())

    def spend(self, seconds: float, points: int) -> None:
        """Count time."""
        self.seconds += seconds
        self.points += points

    def timed(
        self, points: int, way: Callable[..., tuple[np.ndarray, np.ndarray]], *args: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `way(*args)` answers; its time is counted for so many points."""
        start = time.process_time()
        answer = way(*args)
        self.spend(time.process_time() - start, points)
        return answer

    def numbers(self) -> dict[str, float | None]:
        """Ready for tables and JSON.

        `kept` is a share of the visible points, `< 1 px` one of the kept, and `found` is the
        share of the visible points that were kept and lie within 1 px: the product of both.
        """
        errors = np.concatenate(self.errors_px) if self.errors_px else np.zeros(0)
        if not len(errors):
            return {'visible': float(self.visible), 'kept_percent': 0.0, 'found_percent': 0.0}
        return {
            'visible': float(self.visible),
            'median_px': float(np.median(errors)),
            'p90_px': float(np.percentile(errors, 90)),
            'kept_percent': 100.0 * len(errors) / self.visible,
            'within_1px_percent': 100.0 * float((errors < 1.0).mean()),
            'within_2px_percent': 100.0 * float((errors < 2.0).mean()),
            'found_percent': 100.0 * float((errors < 1.0).sum()) / self.visible,
            'cpu_ms_per_1000': 1e6 * self.seconds / self.points if self.points else None,
        }
