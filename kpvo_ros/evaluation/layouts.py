"""One line of a trajectory file as text <-> one pose, for each layout we know.

All hold `T_world_body`:

* TUM: `timestamp tx ty tz qx qy qz qw`, seconds, blanks between the columns.
* KITTI: the 12 numbers of the upper 3x4 of the matrix, row by row; no stamp.
* EuRoC: `timestamp, px, py, pz, qw, qx, qy, qz, ...`, integer nanoseconds, commas; further
  columns (velocity, biases) are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import enum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.seconds import MAX_STAMP_NS, format_seconds, parse_seconds
from kpvo_ros.geometry import se3


class TrajectoryFormat(enum.Enum):
    """The layouts of trajectory files."""

    TUM = 'tum'
    KITTI = 'kitti'
    EUROC = 'euroc'


class Row(NamedTuple):
    """A line that holds data: `place` is 'file:line', for messages."""

    place: str
    columns: list[str]
    has_comma: bool


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a layout speaks.

    Attributes:
        header: first line of a file we write.
        parse_stamp: nanoseconds of a row; None when the layout has no stamps.
        parse_pose: (3, 4) upper part of the pose of a row.
        line: text of one stamp (ns) and (4, 4) pose, with its line feed.
    """

    header: str
    parse_stamp: Callable[[Row], int] | None
    parse_pose: Callable[[Row], np.ndarray]
    line: Callable[[int, np.ndarray], str]


def read_rows(path: Path) -> Iterator[Row]:
    """Lines that hold data: blank ones and those starting with '#' are skipped.

    Args:
        path: a text file.

    Yields:
        The rows in the order of the file.

    Raises:
        EvaluationError: missing, unreadable, not text, or far too large.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise EvaluationError(f'{path}: larger than 1 GiB, this is no trajectory file')
        with path.open(encoding='utf-8-sig') as file:
            for number, line in enumerate(file, start=1):
                text = line.strip()
                if text and not text.startswith('#'):
                    columns = text.split(',') if ',' in text else text.split()
                    yield Row(f'{path}:{number}', [c.strip() for c in columns], ',' in text)
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be read ({error.strerror})') from error
    except ValueError as error:  # not UTF-8, or a path with a NUL in it
        raise EvaluationError(f'{path!s}: not a text file, expected a trajectory') from error


def guess_format(row: Row) -> TrajectoryFormat:
    """The layout a row is written in.

    Raises:
        EvaluationError: it fits none.
    """
    count = len(row.columns)
    if row.has_comma and count >= 8:
        return TrajectoryFormat.EUROC
    if not row.has_comma and count == 8:
        return TrajectoryFormat.TUM
    if not row.has_comma and count == 12:
        return TrajectoryFormat.KITTI
    raise EvaluationError(
        f'{row.place}: {count} columns fit no known trajectory file: TUM has 8 and KITTI 12 '
        'with blanks between them, EuRoC 8 or more with commas'
    )


def parse_seconds_row(row: Row) -> int:
    """Nanoseconds of a row whose first column is in seconds."""
    try:
        return parse_seconds(row.columns[0])
    except EvaluationError as error:
        raise EvaluationError(f'{row.place}: {error}') from None


# ------------------------------------------------------------------------------------ private

_MAX_FILE_BYTES = 1 << 30
_MAX_COORDINATE_M = 1e9  # farther than the Moon: surely another column
_MAX_ROTATION_ERROR = 1e-3  # KITTI writes seven digits
_MAX_QUATERNION_ERROR = 0.05  # two decimals, as the coarsest writers leave


def _parse_nanoseconds_row(row: Row) -> int:
    text = row.columns[0]
    digits = text.removeprefix('-')
    if digits.isascii() and digits.isdigit() and len(digits) <= 19 and int(digits) <= MAX_STAMP_NS:
        return int(text)
    raise EvaluationError(
        f'{row.place}: {text[:40]!r} is not a stamp in integer nanoseconds (EuRoC); '
        'a file in seconds has blanks between its columns (TUM)'
    )


def _parse_tum(row: Row) -> np.ndarray:
    _, *position_and_quat = _numbers(row, count=8, more=False)
    return _pose(row, position_and_quat[:3], position_and_quat[3:])


def _parse_euroc(row: Row) -> np.ndarray:
    _, px, py, pz, qw, qx, qy, qz = _numbers(row, count=8, more=True)
    return _pose(row, [px, py, pz], [qx, qy, qz, qw])


def _parse_kitti(row: Row) -> np.ndarray:
    matrix = np.array(_numbers(row, count=12, more=False)).reshape(3, 4)
    _check_position(row, matrix[:, 3])
    if not _is_nearly_rotation(matrix[:, :3]):
        raise EvaluationError(f'{row.place}: columns 1-3, 5-7, 9-11 are not a rotation matrix')
    matrix[:, :3] = se3.nearest_rotation(matrix[:, :3])
    return matrix


def _numbers(row: Row, count: int, more: bool) -> list[float]:
    """The first `count` columns as finite numbers; `more` columns may follow."""
    found = len(row.columns)
    if found < count or (found > count and not more):
        raise EvaluationError(f'{row.place}: expected {count} columns, found {found}')
    return [_number(row, text) for text in row.columns[:count]]


def _number(row: Row, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise EvaluationError(
            f"{row.place}: {text[:40]!r} is not a finite number (comments start with '#')"
        )
    return number


def _pose(row: Row, position_m: Sequence[float], quat_xyzw: Sequence[float]) -> np.ndarray:
    _check_position(row, position_m)
    norm = float(np.linalg.norm(quat_xyzw))
    if not abs(norm - 1.0) < _MAX_QUATERNION_ERROR:
        raise EvaluationError(
            f'{row.place}: quaternion of norm {norm:.3g} instead of 1, are the columns in order?'
        )
    return np.column_stack([se3.matrix_from_quat_xyzw(quat_xyzw), position_m])


def _check_position(row: Row, position_m: Sequence[float] | np.ndarray) -> None:
    if np.abs(position_m).max() > _MAX_COORDINATE_M:
        raise EvaluationError(f'{row.place}: a coordinate beyond {_MAX_COORDINATE_M:g} metres')


def _is_nearly_rotation(R: np.ndarray) -> bool:
    # Large entries are refused before is_rotation multiplies them: products must not overflow.
    return bool(np.abs(R).max() < 2.0) and se3.is_rotation(R, _MAX_ROTATION_ERROR)


def _checked(T_world_body: np.ndarray) -> np.ndarray:
    if not np.isfinite(T_world_body).all() or not _is_nearly_rotation(T_world_body[:3, :3]):
        raise EvaluationError('a pose to be written is not a finite rigid motion')
    return T_world_body


def _quat_xyzw(T_world_body: np.ndarray) -> np.ndarray:
    return se3.quat_xyzw_from_matrix(_checked(T_world_body)[:3, :3])


def _tum_line(stamp_ns: int, T_world_body: np.ndarray) -> str:
    numbers = (*T_world_body[:3, 3], *_quat_xyzw(T_world_body))
    return f'{format_seconds(stamp_ns)} ' + ' '.join(f'{x:.9f}' for x in numbers) + '\n'


def _euroc_line(stamp_ns: int, T_world_body: np.ndarray) -> str:
    x, y, z, w = _quat_xyzw(T_world_body)
    numbers = (*T_world_body[:3, 3], w, x, y, z)
    return f'{stamp_ns},' + ','.join(f'{number:.9f}' for number in numbers) + '\n'


def _kitti_line(stamp_ns: int, T_world_body: np.ndarray) -> str:
    del stamp_ns  # the layout has no place for it
    return ' '.join(f'{x:.12g}' for x in _checked(T_world_body)[:3].ravel()) + '\n'


LAYOUTS: dict[TrajectoryFormat, Layout] = {
    TrajectoryFormat.TUM: Layout(
        '# timestamp tx ty tz qx qy qz qw\n', parse_seconds_row, _parse_tum, _tum_line
    ),
    TrajectoryFormat.KITTI: Layout('', None, _parse_kitti, _kitti_line),
    TrajectoryFormat.EUROC: Layout(
        '#timestamp [ns],p_x [m],p_y [m],p_z [m],q_w [],q_x [],q_y [],q_z []\n',
        _parse_nanoseconds_row,
        _parse_euroc,
        _euroc_line,
    ),
}
