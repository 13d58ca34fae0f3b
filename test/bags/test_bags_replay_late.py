"""A replay of an odometry that says some poses only later, by a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import csv
from pathlib import Path
import threading
from typing import Any

from bags_helpers import CAMERA, answer, image_of, pose_of
import numpy as np
import pytest

from kpvo_ros.bags import replay as replay_module
from kpvo_ros.bags.replay import replay
from kpvo_ros.bags.source import Record, SourceInfo, SourceKind
from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.errors import BagError
from kpvo_ros.evaluation.files import read_trajectory
from kpvo_ros.types import BadFrame, Frame, OdometryEstimate, Status

# Frame by frame: the status told in time, and which frames become known at it.
SCRIPT: dict[int, tuple[Status, tuple[int, ...]]] = {
    0: (Status.STARTING, ()),
    1: (Status.DEGRADED, ()),  # seen to turn on the spot
    2: (Status.STARTING, ()),
    3: (Status.STARTING, ()),
    4: (Status.TRACKING, (0, 2, 3)),
    5: (Status.TRACKING, ()),
    6: (Status.LOST, ()),
    7: (Status.TRACKING, ()),
}


class Recording:
    """Frames of a list, as a source gives them."""

    def __init__(self, records: list[Record]) -> None:
        self._records = records
        self.info = SourceInfo('list', SourceKind.FRAMES, len(records), None, False, False)
        self.error: BaseException | None = None

    def records(self) -> Iterator[Record]:
        yield from self._records
        if self.error is not None:
            raise self.error

    def ground_truth(self) -> None:
        return None

    def extrinsics(self) -> None:
        return None

    def close(self) -> None:
        pass

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class Scripted:
    """An odometry that follows the script and has a thread of its own until it is closed."""

    made: list[Scripted] = []

    def __init__(self, *_: Any, tells_late: bool) -> None:
        assert tells_late, 'a replay can write poses where they belong'
        self._index = -1
        self._late: list[OdometryEstimate] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._end.wait)
        self._thread.start()
        self.made.append(self)

    def step(self, frame: Frame) -> OdometryEstimate:
        self._index += 1
        status, known = SCRIPT[self._index]
        self._late += [answer(index) for index in known]
        return answer(self._index, status)

    def skip(self, bad: BadFrame) -> OdometryEstimate:
        self._index += 1
        return answer(self._index, Status.LOST)

    def take_late(self) -> list[OdometryEstimate]:
        late, self._late = self._late, []
        return late

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    @property
    def is_working(self) -> bool:
        return self._thread.is_alive()


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Scripted]]:
    Scripted.made.clear()
    monkeypatch.setattr(replay_module, 'Odometry', Scripted)
    yield lambda: Scripted.made[-1]
    for odometry in Scripted.made:
        odometry.close()


@pytest.fixture
def recording() -> Recording:
    return Recording([Frame(answer(i).stamp_ns, image_of(i), CAMERA) for i in range(len(SCRIPT))])


def test_poses_told_late_are_counted_and_written_in_order(
    recording: Recording, tmp_path: Path
) -> None:
    summary = replay(recording, VoConfig(), tmp_path / 'run')
    posed = [0, 1, 2, 3, 4, 5, 7]
    told = read_trajectory(tmp_path / 'run' / 'trajectory_tum.txt')
    assert told.stamps_ns.tolist() == [answer(index).stamp_ns for index in posed]
    assert (summary.frames, summary.poses, summary.told_late) == (8, 7, 3)
    assert summary.tracked_percent == pytest.approx(100.0 * 7 / 8)
    assert summary.notes == (), 'a late pose is no jump back in time'


def test_the_status_counts_are_those_told_in_time(recording: Recording, tmp_path: Path) -> None:
    summary = replay(recording, VoConfig(), tmp_path / 'run')
    assert summary.status == {'starting': 3, 'tracking': 3, 'degraded': 1, 'lost': 1}
    with (tmp_path / 'run' / 'states.csv').open(encoding='utf-8', newline='') as file:
        states = [row['status'] for row in csv.DictReader(file)]
    assert states == [SCRIPT[index][0].value for index in range(len(SCRIPT))]


def test_the_path_is_as_long_as_the_way_through_all_poses(
    recording: Recording, tmp_path: Path
) -> None:
    summary = replay(recording, VoConfig(), tmp_path / 'run')
    way = np.array([pose_of(index)[:3, 3] for index in (0, 1, 2, 3, 4, 5, 7)])
    length = np.linalg.norm(np.diff(way, axis=0), axis=1).sum()
    assert summary.path_length_m == pytest.approx(length)


@pytest.mark.parametrize(
    ('late', 'expected'), [(3, '87.5 % (3 told late)'), (0, '87.5 %')], ids=['late', 'in time']
)
def test_the_table_tells_how_many_poses_came_late(
    recording: Recording,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: int,
    expected: str,
) -> None:
    if not late:
        for index, (status, _) in dict(SCRIPT).items():
            starting = status is Status.STARTING
            monkeypatch.setitem(SCRIPT, index, (Status.TRACKING if starting else status, ()))
    summary = replay(recording, VoConfig(), tmp_path / 'run')
    assert summary.told_late == late
    assert dict(summary.rows())['tracked'] == expected


def test_the_threads_of_the_odometry_end_with_the_recording(
    recording: Recording, tmp_path: Path, scripted: Callable[[], Scripted]
) -> None:
    working: list[bool] = []
    replay(
        recording,
        VoConfig(),
        tmp_path / 'run',
        observers=(lambda *_: working.append(scripted().is_working),),
    )
    assert all(working) and not scripted().is_working


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, BagError, SystemExit])
@pytest.mark.parametrize('where', ['source', 'observer', 'progress'])
def test_they_end_with_an_error_as_well(
    recording: Recording,
    tmp_path: Path,
    scripted: Callable[[], Scripted],
    error: type[BaseException],
    where: str,
) -> None:
    def fail(*_: Any) -> None:
        raise error('broken')

    if where == 'source':
        recording.error = error('broken')
    with pytest.raises(error, match='broken'):
        replay(
            recording,
            VoConfig(),
            tmp_path / 'run',
            observers=(fail,) if where == 'observer' else (),
            progress=fail if where == 'progress' else None,
        )
    assert not scripted().is_working


def test_they_end_when_the_disk_is_full(
    recording: Recording,
    tmp_path: Path,
    scripted: Callable[[], Scripted],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('kpvo_ros.bags.run_folder.RunFolder._write_row', full)
    with pytest.raises(BagError, match='No space left'):
        replay(recording, VoConfig(), tmp_path / 'run')
    assert not scripted().is_working


def test_a_run_that_cannot_be_written_leaves_no_thread(
    recording: Recording, tmp_path: Path
) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='--out'):
        replay(recording, VoConfig(), tmp_path / 'file' / 'run')
    assert not any(odometry.is_working for odometry in Scripted.made)
