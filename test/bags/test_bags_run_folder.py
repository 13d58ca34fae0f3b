"""What a run writes down: every pose where it belongs in time, every state as it was told."""

from __future__ import annotations

import csv
from pathlib import Path

from bags_helpers import answer, pose_of
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.bags.run_folder import RunFolder
from kpvo_ros.bags.trajectory_parts import TrajectoryParts
from kpvo_ros.errors import BagError
from kpvo_ros.evaluation.files import read_trajectory
from kpvo_ros.types import BadFrame, Status

FIRST = 'trajectory_tum.txt'
SECOND = 'trajectory_tum_2.txt'


def stamps_of(folder: Path, name: str = FIRST) -> list[int]:
    """Read as any reader would: stamps that do not increase are refused."""
    return read_trajectory(folder / name).stamps_ns.tolist()


def statuses_of(folder: Path) -> list[tuple[int, str]]:
    with (folder / 'states.csv').open(encoding='utf-8', newline='') as file:
        return [(int(row['stamp_ns']), row['status']) for row in csv.DictReader(file)]


def test_poses_told_late_stand_before_the_first_one_told_in_time(tmp_path: Path) -> None:
    with RunFolder(tmp_path, ('solve',)) as folder:
        for index in range(3):
            folder.add(answer(index, Status.STARTING), 1.0)
        folder.add_late([answer(index) for index in range(3)])
        folder.add(answer(3), 1.0)
    told = read_trajectory(tmp_path / FIRST)
    assert told.stamps_ns.tolist() == [answer(index).stamp_ns for index in range(4)]
    np.testing.assert_allclose(told.poses, [pose_of(index) for index in range(4)], atol=1e-8)


def test_the_state_of_a_frame_stays_what_it_was_told_at_its_time(tmp_path: Path) -> None:
    with RunFolder(tmp_path, ('solve',)) as folder:
        folder.add(answer(0, Status.STARTING), 1.0)
        folder.add_bad(BadFrame(answer(1).stamp_ns, 'truncated'))
        folder.add_late([answer(0)])
        folder.add(answer(2), 1.0)
    expected = [(0, 'starting'), (1, 'bad'), (2, 'tracking')]
    assert statuses_of(tmp_path) == [(answer(index).stamp_ns, word) for index, word in expected]


def test_a_late_pose_goes_between_those_that_were_told_in_time(tmp_path: Path) -> None:
    """While a camera only turns its poses are told at once; those of other frames come later."""
    with RunFolder(tmp_path, ()) as folder:
        for index in range(8):
            turned = index in (1, 2, 5)
            folder.add(answer(index, Status.DEGRADED if turned else Status.STARTING), 1.0)
        folder.add_late([answer(index) for index in (0, 3, 4, 6, 7)])
        folder.add(answer(8), 1.0)
        assert folder.parts == 1
        assert stamps_of(tmp_path) == [answer(index).stamp_ns for index in range(9)]
    told = read_trajectory(tmp_path / FIRST)
    np.testing.assert_allclose(told.poses, [pose_of(index) for index in range(9)], atol=1e-8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['states.csv', FIRST]


def test_a_pose_that_was_told_in_time_is_not_replaced_by_a_late_one(tmp_path: Path) -> None:
    with RunFolder(tmp_path, ()) as folder:
        folder.add(answer(0), 1.0)
        folder.add(answer(1), 1.0)
        folder.add_late([answer(1, pose=pose_of(9)), answer(0, pose=pose_of(9))])
    told = read_trajectory(tmp_path / FIRST)
    np.testing.assert_allclose(told.poses, [pose_of(0), pose_of(1)], atol=1e-8)


def test_nothing_late_writes_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path, ()) as folder:
        folder.add(answer(0), 1.0)
        before = (tmp_path / FIRST).read_bytes()
        folder.add_late([])
    assert (tmp_path / FIRST).read_bytes() == before


def test_late_poses_after_a_jump_back_in_time_go_to_the_second_part(tmp_path: Path) -> None:
    with RunFolder(tmp_path, ()) as folder:
        for index in range(10):
            folder.add(answer(index), 1.0)
        for index in range(3):  # the bag begins anew and has no metres yet
            folder.add(answer(index, Status.STARTING), 1.0)
        assert folder.parts == 2
        folder.add_late([answer(index) for index in range(3)])
        folder.add(answer(3), 1.0)
    assert stamps_of(tmp_path) == [answer(index).stamp_ns for index in range(10)]
    assert stamps_of(tmp_path, SECOND) == [answer(index).stamp_ns for index in range(4)]


def test_a_jump_back_before_the_first_pose_needs_no_second_part(tmp_path: Path) -> None:
    with RunFolder(tmp_path, ()) as folder:
        for index in (5, 6, 7):
            folder.add(answer(index, Status.STARTING), 1.0)
        for index in range(3):
            folder.add(answer(index), 1.0)
        assert folder.parts == 1
    assert stamps_of(tmp_path) == [answer(index).stamp_ns for index in range(3)]


@settings(deadline=None, max_examples=40)
@given(data=st.data(), count=st.integers(1, 25))
def test_whatever_comes_late_the_file_ends_up_in_order(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, count: int
) -> None:
    folder = tmp_path_factory.mktemp('run')
    parts = TrajectoryParts(folder / FIRST)
    waiting: list[int] = []
    for index in range(count):
        if data.draw(st.booleans(), label='in time'):
            if waiting and data.draw(st.booleans(), label='map stands'):
                parts.fill([answer(late) for late in data.draw(st.permutations(waiting))])
                waiting.clear()
            parts.answer(answer(index))
        else:
            parts.answer(answer(index, Status.STARTING))
            waiting.append(index)
    parts.fill([answer(late) for late in waiting])
    assert stamps_of(folder) == [answer(index).stamp_ns for index in range(count)]
    assert parts.count == 1
    parts.close()


def test_a_disk_that_is_full_when_poses_come_late_loses_none_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, 'No space left on device')

    with RunFolder(tmp_path, ()) as folder:
        folder.add(answer(1), 1.0)
        with monkeypatch.context() as patch:
            patch.setattr(Path, 'write_text', full)
            with pytest.raises(BagError, match='No space left'):
                folder.add_late([answer(0)])
        assert stamps_of(tmp_path) == [answer(1).stamp_ns]
        folder.add_late([answer(0)])
        assert stamps_of(tmp_path) == [answer(0).stamp_ns, answer(1).stamp_ns]
