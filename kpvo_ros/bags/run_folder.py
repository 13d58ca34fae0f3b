"""The folder a run writes into: trajectory, states and summary, line by line.

Every line is flushed when it is written, so a crash or a power cut loses at most one frame. A
folder that already holds a run is moved aside, never overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import csv
import json
from pathlib import Path
from typing import Any, TextIO

from kpvo_ros.bags.trajectory_parts import TrajectoryParts
from kpvo_ros.errors import BagError
from kpvo_ros.evaluation.files import STATES_FILE, SUMMARY_FILE, TRAJECTORY_FILE
from kpvo_ros.evaluation.states import BAD
from kpvo_ros.types import BadFrame, OdometryEstimate


class RunFolder:
    """Writes the files of one run; a context manager.

    Args:
        path: the folder; made with its parents, an earlier run in it is moved to `<path>.1`, ...
        stages: names of the timed stages, the columns of states.csv.

    Raises:
        BagError: the folder cannot be made or written.
    """

    def __init__(self, path: Path, stages: Sequence[str]) -> None:
        self.path = path
        self.moved_to = _move_aside(path)
        self._stages = tuple(stages)
        with self._writing():
            path.mkdir(parents=True, exist_ok=True)
            self._trajectory = TrajectoryParts(path / TRAJECTORY_FILE)
            self._states: TextIO = (path / STATES_FILE).open('w', encoding='utf-8', newline='')
        self._rows = csv.writer(self._states)
        columns = ['stamp_ns', 'status', 'reason', 'inliers', 'keyframe', 'scale', 'scale_sigma']
        self._rows.writerow(columns + [f'{stage}_ms' for stage in stages] + ['total_ms'])

    @property
    def parts(self) -> int:
        """How many trajectory files there are; more than one where time jumped back."""
        return self._trajectory.count

    def add(self, estimate: OdometryEstimate, total_ms: float) -> None:
        """Record the answer to one frame."""
        times = [f'{estimate.stage_ms.get(stage, 0.0):.3f}' for stage in self._stages]
        row = [
            estimate.stamp_ns,
            estimate.status.value,
            estimate.reason,
            estimate.inliers,
            int(estimate.is_keyframe),
            f'{estimate.scale:.6f}',
            f'{estimate.scale_sigma:.6f}',
            *times,
            f'{total_ms:.3f}',
        ]
        with self._writing():
            self._trajectory.answer(estimate)
            self._write_row(row)

    def add_late(self, estimates: Sequence[OdometryEstimate]) -> None:
        """Record poses of earlier frames where they belong; their states stay what was told."""
        with self._writing():
            self._trajectory.fill(estimates)

    def add_bad(self, bad: BadFrame) -> None:
        """Record a frame that could not be used."""
        empty = [''] * (5 + len(self._stages))
        with self._writing():
            self._write_row([bad.stamp_ns, BAD, bad.reason, *empty])

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        text = json.dumps(summary, indent=2) + '\n'
        with self._writing():
            (self.path / SUMMARY_FILE).write_text(text, encoding='utf-8')

    def close(self) -> None:
        """Close the files."""
        with contextlib.suppress(OSError):  # a full disk was reported by the line that hit it
            self._trajectory.close()
        with contextlib.suppress(OSError):
            self._states.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _write_row(self, row: list[Any]) -> None:
        self._rows.writerow(row)
        self._states.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BagError(
                f'{self.path}: cannot be written ({error.strerror}); free the disk or choose '
                'another --out'
            ) from None


def _move_aside(path: Path) -> Path | None:
    """Rename a folder that holds a run; returns its new place, None when there was none."""
    if not (path / TRAJECTORY_FILE).exists():
        return None
    number = 1
    while (aside := path.with_name(f'{path.name}.{number}')).exists():
        number += 1
    try:
        path.rename(aside)
    except OSError as error:
        raise BagError(f'{path}: holds a run and cannot be moved aside ({error})') from None
    return aside
