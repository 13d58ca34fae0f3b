"""The poses a node measured, kept in memory until somebody asks for them as a file."""

from __future__ import annotations

import array
import os
from pathlib import Path
import tempfile
import threading

import numpy as np

from kpvo_ros.errors import RosError
from kpvo_ros.evaluation.files import write_trajectory
from kpvo_ros.types import Trajectory


class TrajectoryLog:
    """Poses in segments; a segment ends where time jumps back or the pose is reset.

    About 100 bytes a pose: a day at 30 Hz takes 260 MB.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._segments: list[_Segment] = [_Segment()]

    def __len__(self) -> int:
        return sum(len(segment.stamps_ns) for segment in self._segments)

    def append(self, stamp_ns: int, T: np.ndarray) -> None:
        """Add one pose; a stamp that is not later than the last begins a new segment."""
        with self._lock:
            segment = self._segments[-1]
            if segment.stamps_ns and stamp_ns <= segment.stamps_ns[-1]:
                segment = _Segment()
                self._segments.append(segment)
            segment.stamps_ns.append(stamp_ns)
            segment.rows.extend(T[:3].ravel().tolist())

    def begin_segment(self) -> None:
        """What follows does not continue the path so far."""
        with self._lock:
            if self._segments[-1].stamps_ns:
                self._segments.append(_Segment())

    def save(self, path: Path) -> list[Path]:
        """Write one TUM file per segment.

        A file appears whole or not at all, and an existing one is never replaced: the new one
        gets a number (`name-1.txt`).

        Raises:
            RosError: nothing was measured yet, or the folder cannot be written.
        """
        with self._lock:
            trajectories = [s.trajectory() for s in self._segments if s.stamps_ns]
        if not trajectories:
            raise RosError('no pose was measured yet; nothing to save')
        try:
            return [_write_new(path.expanduser(), trajectory) for trajectory in trajectories]
        except OSError as error:
            raise RosError(
                f'{path}: cannot be written ({error.strerror}); set node.trajectory_path'
            ) from None


class _Segment:
    def __init__(self) -> None:
        self.stamps_ns = array.array('q')
        self.rows = array.array('d')  # 12 numbers of each 3x4 pose

    def trajectory(self) -> Trajectory:
        poses = np.tile(np.eye(4), (len(self.stamps_ns), 1, 1))
        poses[:, :3] = np.array(self.rows).reshape(-1, 3, 4)
        return Trajectory(np.array(self.stamps_ns, np.int64), poses)


def _write_new(path: Path, trajectory: Trajectory) -> Path:
    handle, name = tempfile.mkstemp(suffix='.part', prefix=f'.{path.name}.', dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        write_trajectory(part, trajectory)
        part.chmod(0o644)  # mkstemp makes files private
        return _link_free_name(part, path)
    finally:
        part.unlink()


def _link_free_name(part: Path, path: Path) -> Path:
    """Give the finished file its name; a link, unlike a rename, never replaces a file."""
    number = 0
    while True:
        target = path.with_stem(f'{path.stem}-{number}') if number else path
        try:
            target.hardlink_to(part)
        except FileExistsError:
            number += 1
        else:
            return target
