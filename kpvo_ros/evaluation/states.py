"""The record a replay keeps of every frame: `states.csv`.

Columns: `stamp_ns, status, reason, inliers, keyframe, scale, scale_sigma, <stage>_ms ...,
total_ms`. A cell that does not apply is empty. `status` is a `types.Status` value, or `bad` for a
frame that could not be used at all.
"""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.types import Status

BAD = 'bad'
POSED = (Status.TRACKING.value, Status.DEGRADED.value)  # a pose measured from this very frame


@dataclasses.dataclass(frozen=True)
class States:
    """One entry per frame of the stream, in the order they came.

    Attributes:
        stamps_ns: (N,) int64.
        status: N values of `types.Status`, or 'bad'.
        reason: N texts, '' when there is nothing to explain.
        inliers: (N,) float64, NaN when empty.
        keyframe: (N,) bool.
        scale: (N,) float64, NaN when empty.
        scale_sigma: (N,) float64, NaN when empty.
        stage_ms: (N,) float64 milliseconds of each stage, without the total.
        total_ms: (N,) float64 milliseconds of the whole step.
    """

    stamps_ns: np.ndarray
    status: tuple[str, ...]
    reason: tuple[str, ...]
    inliers: np.ndarray
    keyframe: np.ndarray
    scale: np.ndarray
    scale_sigma: np.ndarray
    stage_ms: dict[str, np.ndarray]
    total_ms: np.ndarray

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def frames_with_pose(self) -> int:
        """How many frames have a measured pose."""
        return sum(status in POSED for status in self.status)


def read_states(path: Path) -> States:
    """Read a `states.csv`.

    Raises:
        EvaluationError: unreadable, a column is missing, or a cell is wrong; the message names
            the file and the line.
    """
    header, rows = _read_csv(path)
    missing = [name for name in _REQUIRED if name not in header]
    if missing:
        raise EvaluationError(f'{path}:1: no column {missing[0]!r}, is this the states of a run?')
    column = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else {}
    cells = {name: column.get(name, ()) for name in header}
    stages = [n for n in header if n.endswith('_ms') and n != 'total_ms']
    return States(
        stamps_ns=np.array(
            [_stamp(path, i, c) for i, c in enumerate(cells['stamp_ns'])], np.int64
        ),
        status=tuple(_status(path, i, c) for i, c in enumerate(cells['status'])),
        reason=tuple(cells['reason']),
        inliers=_floats(path, 'inliers', cells['inliers']),
        keyframe=np.array([c.strip().lower() in ('1', 'true') for c in cells['keyframe']], bool),
        scale=_floats(path, 'scale', cells['scale']),
        scale_sigma=_floats(path, 'scale_sigma', cells['scale_sigma']),
        stage_ms={n.removesuffix('_ms'): _floats(path, n, cells[n]) for n in stages},
        total_ms=_floats(path, 'total_ms', cells['total_ms']),
    )


# ------------------------------------------------------------------------------------ private

_REQUIRED = (
    'stamp_ns', 'status', 'reason', 'inliers', 'keyframe', 'scale', 'scale_sigma', 'total_ms',
)  # fmt: skip
_KNOWN = frozenset(status.value for status in Status) | {BAD}
_FIRST_LINE = 2  # below the header; reasons are one line each, so rows are lines


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding='utf-8', newline='') as file:
            table = [row for row in csv.reader(file, strict=True) if row]
    except OSError as error:
        raise EvaluationError(f'{path}: cannot be read ({error.strerror})') from error
    except (csv.Error, ValueError) as error:
        raise EvaluationError(f'{path}: not a CSV text file ({error})') from error
    if not table:
        raise EvaluationError(f'{path}: empty, the run wrote no states')
    header, *rows = table
    for line, row in enumerate(rows, start=_FIRST_LINE):
        if len(row) != len(header):
            raise EvaluationError(f'{path}:{line}: {len(row)} cells for {len(header)} columns')
    return [name.strip() for name in header], rows


def _stamp(path: Path, index: int, cell: str) -> int:
    try:
        stamp_ns = int(cell)
        if abs(stamp_ns) < 2**63:
            return stamp_ns
    except ValueError:
        pass
    raise EvaluationError(f'{path}:{index + _FIRST_LINE}: stamp_ns {cell[:40]!r} is no integer')


def _status(path: Path, index: int, cell: str) -> str:
    if cell in _KNOWN:
        return cell
    place = f'{path}:{index + _FIRST_LINE}'
    raise EvaluationError(f'{place}: status {cell[:40]!r} is none of {", ".join(sorted(_KNOWN))}')


def _floats(path: Path, name: str, cells: tuple[str, ...]) -> np.ndarray:
    """(N,) numbers, NaN for empty cells."""
    values = np.full(len(cells), np.nan)
    for index, cell in enumerate(cells):
        if cell.strip():
            try:
                values[index] = float(cell)
            except ValueError:
                place = f'{path}:{index + _FIRST_LINE}'
                raise EvaluationError(f'{place}: {name} {cell[:40]!r} is no number') from None
    return values
