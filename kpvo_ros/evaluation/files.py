"""Trajectory files: TUM, KITTI and EuRoC text, read and written without losing a nanosecond.

`layouts.py` describes the columns. A KITTI file has no stamps: they come from a times file (one
number of seconds a line) or from a constant rate.
"""

from __future__ import annotations

from collections.abc import Sequence
import logging
import os
from pathlib import Path

import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.layouts import (
    LAYOUTS,
    Row,
    TrajectoryFormat,
    guess_format,
    parse_seconds_row,
    read_rows,
)
from kpvo_ros.types import Trajectory

PathLike = str | os.PathLike[str]

KITTI_RATE_HZ = 10.0

# The files of a run, whoever wrote it: kpvo replay or the recorder of a live node.
TRAJECTORY_FILE = 'trajectory_tum.txt'
STATES_FILE = 'states.csv'  # see `states.py`
SUMMARY_FILE = 'summary.json'


def read_trajectory(
    path: PathLike,
    format: TrajectoryFormat | None = None,
    *,
    times_path: PathLike | None = None,
    rate_hz: float | None = None,
) -> Trajectory:
    """Read a trajectory file.

    Args:
        path: the file.
        format: its layout; None guesses it from the first line that holds data.
        times_path: KITTI only, file with the stamp of each line in seconds. None looks for the
            `times.txt` of the KITTI odometry layout.
        rate_hz: KITTI only, poses a second when there is no times file; None means 10.

    Returns:
        The poses `T_world_body` in the order of the file.

    Raises:
        EvaluationError: the file cannot be read, is empty, or a line is wrong; the message names
            the file and the line.
    """
    path = Path(path)
    rows = list(read_rows(path))
    if not rows:
        raise EvaluationError(f'{path}: no poses in this file, only comments or blank lines')
    if format is None:
        format = guess_format(rows[0])
    layout = LAYOUTS[format]
    if layout.parse_stamp is None:
        stamps_ns = _stamps_from_elsewhere(path, len(rows), times_path, rate_hz)
    elif times_path is not None or rate_hz is not None:
        raise EvaluationError(f'{path}: this {format.value} file has its own stamps, drop times')
    else:
        stamps_ns = _increasing(rows, [layout.parse_stamp(row) for row in rows])
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = [layout.parse_pose(row) for row in rows]
    return Trajectory(stamps_ns, poses)


def write_trajectory(
    path: PathLike,
    trajectory: Trajectory,
    format: TrajectoryFormat = TrajectoryFormat.TUM,
) -> None:
    """Write a trajectory file; KITTI loses the stamps.

    Args:
        path: the file, overwritten.
        trajectory: the poses.
        format: its layout.

    Raises:
        EvaluationError: a pose is not finite or not a rigid motion, or the file cannot be written.
    """
    layout = LAYOUTS[format]
    lines = [
        layout.line(int(stamp_ns), T_world_body)
        for stamp_ns, T_world_body in zip(trajectory.stamps_ns, trajectory.poses, strict=True)
    ]
    try:
        Path(path).write_text(layout.header + ''.join(lines), encoding='utf-8')
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be written ({error.strerror})') from error


def tum_line(stamp_ns: int, T_world_body: np.ndarray) -> str:
    """One line of a TUM file, for those who write pose by pose.

    Args:
        stamp_ns: nanoseconds.
        T_world_body: (4, 4) pose.

    Returns:
        The line with its line feed, nine decimals everywhere.

    Raises:
        EvaluationError: the pose is not finite or not a rigid motion.
    """
    return LAYOUTS[TrajectoryFormat.TUM].line(stamp_ns, T_world_body)


# ------------------------------------------------------------------------------------ private

_log = logging.getLogger(__name__)


def _increasing(rows: Sequence[Row], stamps_ns: Sequence[int]) -> np.ndarray:
    stamps = np.array(stamps_ns, dtype=np.int64)
    back = np.flatnonzero(stamps[1:] <= stamps[:-1])
    if len(back):
        raise EvaluationError(
            f'{rows[back[0] + 1].place}: stamp not later than the one before it, '
            'sort the file and remove duplicates'
        )
    return stamps


def _stamps_from_elsewhere(
    path: Path, count: int, times_path: PathLike | None, rate_hz: float | None
) -> np.ndarray:
    """(count,) stamps of a file that has none itself."""
    if times_path is not None and rate_hz is not None:
        raise EvaluationError(f'{path}: both a times file and a rate were given, choose one')
    if times_path is None and rate_hz is None:
        times_path = _times_file_of(path)
    if times_path is not None:
        rows = list(read_rows(Path(times_path)))
        if len(rows) != count:
            raise EvaluationError(f'{times_path}: {len(rows)} stamps for the {count} poses {path}')
        return _increasing(rows, [parse_seconds_row(row) for row in rows])
    if rate_hz is None:
        rate_hz = KITTI_RATE_HZ
        _log.info('%s: no times.txt beside it, assuming %g poses a second', path, rate_hz)
    if not 1e-6 < rate_hz < 1e6:
        raise EvaluationError(f'the rate must be between 1e-6 and 1e6 Hz, got {rate_hz}')
    return np.rint(np.arange(count) * (1e9 / rate_hz)).astype(np.int64)


def _times_file_of(path: Path) -> Path | None:
    """`sequences/NN/times.txt` for `poses/NN.txt`, or a `times.txt` in the same folder."""
    candidates = (
        path.parent.parent / 'sequences' / path.stem / 'times.txt',
        path.parent / 'times.txt',
    )
    return next((candidate for candidate in candidates if candidate.is_file()), None)
