"""The trajectory of a run, pose by pose: TUM files whose stamps strictly increase.

A pose that is found later goes where it belongs, between the poses of its neighbours. Where time
itself jumps back (a looped bag) another part begins: trajectory_tum_2.txt and so on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from kpvo_ros.evaluation.files import tum_line
from kpvo_ros.evaluation.seconds import parse_seconds
from kpvo_ros.types import OdometryEstimate

_HEADER = '# timestamp tx ty tz qx qy qz qw  (camera optical frame in the odom frame)\n'


class TrajectoryParts:
    """Writes poses of the camera; every call leaves them on the disk.

    Args:
        path: of the first part.

    Attributes:
        count: how many parts there are.

    Raises:
        OSError: a file cannot be written; so do the methods.
    """

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._first = path
        self._last_pose_ns: int | None = None  # in the present part
        self._last_answer_ns: int | None = None
        self._begin_part()

    def answer(self, estimate: OdometryEstimate) -> None:
        """Take the answer to a frame at its time; without a pose, nothing is written."""
        last_ns, self._last_answer_ns = self._last_answer_ns, estimate.stamp_ns
        jumped_back = last_ns is not None and estimate.stamp_ns <= last_ns
        if jumped_back and self._last_pose_ns is not None:
            self._file.close()
            self._begin_part()
        if estimate.has_pose:
            self._append([estimate])

    def fill(self, late: Iterable[OdometryEstimate]) -> None:
        """Take poses of frames that were answered without one, in any order."""
        in_order = sorted(late, key=lambda estimate: estimate.stamp_ns)
        if not in_order:
            return
        if self._last_pose_ns is None or in_order[0].stamp_ns > self._last_pose_ns:
            self._append(in_order)
        else:
            self._insert(in_order)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # ------------------------------------------------------------------------------- private

    def _begin_part(self) -> None:
        self.count += 1
        name = f'{self._first.stem}_{self.count}' if self.count > 1 else self._first.stem
        self._path = self._first.with_name(name + self._first.suffix)
        self._last_pose_ns = None
        self._file: TextIO = self._path.open('w', encoding='utf-8')
        self._file.write(_HEADER)

    def _append(self, estimates: list[OdometryEstimate]) -> None:
        self._file.writelines(map(_line, estimates))
        self._file.flush()
        self._last_pose_ns = estimates[-1].stamp_ns

    def _insert(self, estimates: list[OdometryEstimate]) -> None:
        """Replace the file in one go, so that a power cut leaves the old one or the new one."""
        text = self._path.read_text(encoding='utf-8')
        lines = {_stamp_ns(line): line for line in text.splitlines(True) if line[0] != '#'}
        lines = {estimate.stamp_ns: _line(estimate) for estimate in estimates} | lines
        new = self._path.with_name(self._path.name + '.new')
        new.write_text(_HEADER + ''.join(lines[key] for key in sorted(lines)), encoding='utf-8')
        self._file.close()
        new.replace(self._path)
        self._file = self._path.open('a', encoding='utf-8')
        self._last_pose_ns = max(lines)


def _line(estimate: OdometryEstimate) -> str:
    return tum_line(estimate.stamp_ns, estimate.T_odom_camera)


def _stamp_ns(line: str) -> int:
    return parse_seconds(line.partition(' ')[0])
