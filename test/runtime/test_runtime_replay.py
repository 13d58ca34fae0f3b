"""The replay of a recording: what it writes, and that nothing written is ever lost."""

from __future__ import annotations

from collections.abc import Iterator
import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from runtime_world import PERIOD_NS, T_BASE_CAMERA, Film, config, position_errors_m

from kpvo_ros.bags.replay import replay
from kpvo_ros.bags.run_folder import RunFolder
from kpvo_ros.bags.source import Record, SourceInfo, SourceKind
from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.errors import BagError, OdometryError
from kpvo_ros.evaluation.files import read_trajectory
from kpvo_ros.geometry import se3
from kpvo_ros.types import BadFrame, Frame, OdometryEstimate, Trajectory, WheelOdometry

TRAJECTORY = 'trajectory_tum.txt'
DEFAULT_CONFIG = config()


class Recording:
    """Records from a list, as a source gives them."""

    def __init__(self, records: list[Record], T_base_camera: np.ndarray | None = T_BASE_CAMERA):
        self._records = records
        self._T_base_camera = T_base_camera
        self.info = SourceInfo('list', SourceKind.FRAMES, len(records), None, True, False, ('a',))

    def records(self) -> Iterator[Record]:
        yield from self._records

    def ground_truth(self) -> Trajectory | None:
        return None

    def extrinsics(self) -> np.ndarray | None:
        return self._T_base_camera

    def close(self) -> None:
        pass

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / 'states.csv').open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def pose_lines(folder: Path, name: str = TRAJECTORY) -> list[str]:
    text = (folder / name).read_text(encoding='utf-8')
    return [line for line in text.splitlines() if line and not line.startswith('#')]


def summary_of(folder: Path) -> dict:
    return json.loads((folder / 'summary.json').read_text(encoding='utf-8'))


def records_of(walk: Film, count: int) -> list[Record]:
    return list(walk.frames[:count])


# ------------------------------------------------------------------------- what is written


def test_the_trajectory_holds_a_line_per_measured_pose_of_the_camera(
    walk: Film, tmp_path: Path
) -> None:
    seen: list[tuple[Frame, OdometryEstimate]] = []
    replay(
        Recording(records_of(walk, 30)),
        DEFAULT_CONFIG,
        tmp_path / 'run',
        observers=(lambda frame, estimate: seen.append((frame, estimate)),),
    )
    assert len(seen) == 30
    trajectory = read_trajectory(tmp_path / 'run' / TRAJECTORY)
    assert trajectory.stamps_ns.tolist() == [f.stamp_ns for f in walk.frames[:30]]
    expected = np.stack([estimate.T_odom_camera for _, estimate in seen])
    np.testing.assert_allclose(trajectory.poses, expected, atol=1e-6)
    truth = walk.T_odom_base[:30] @ T_BASE_CAMERA
    np.testing.assert_allclose(trajectory.poses[:, :3, 3], truth[:, :3, 3], atol=0.03)
    assert position_errors_m([e for _, e in seen], walk.T_odom_base[:30]).max() < 0.03


def test_frames_without_a_pose_are_in_the_states_but_not_in_the_trajectory(
    walk: Film, tmp_path: Path
) -> None:
    records = records_of(walk, 12)
    for row in (3, 4):
        frame = walk.frames[row]
        records[row] = dataclasses.replace(frame, image=np.zeros_like(frame.image))
    records[7] = BadFrame(walk.frames[7].stamp_ns, 'truncated, "quoted"')
    summary = replay(Recording(records), DEFAULT_CONFIG, tmp_path / 'run')
    rows = rows_of(tmp_path / 'run')
    assert [int(row['stamp_ns']) for row in rows] == [f.stamp_ns for f in walk.frames[:12]]
    expected = ['tracking'] * 3 + ['lost'] * 2 + ['tracking'] * 2 + ['bad'] + ['tracking'] * 4
    assert [row['status'] for row in rows] == expected
    assert rows[7]['reason'] == 'truncated, "quoted"'
    assert 'dark' in rows[3]['reason']
    assert len(pose_lines(tmp_path / 'run')) == 9
    assert (summary.frames, summary.bad_frames, summary.poses) == (12, 1, 9)
    assert summary.tracked_percent == pytest.approx(75.0)
    assert summary.status == {'starting': 0, 'tracking': 9, 'degraded': 0, 'lost': 2}


def test_the_summary_tells_what_happened(walk: Film, tmp_path: Path) -> None:
    summary = replay(Recording(records_of(walk, 30)), DEFAULT_CONFIG, tmp_path / 'run')
    written = summary_of(tmp_path / 'run')
    assert written == json.loads(json.dumps(dataclasses.asdict(summary)))
    camera = (walk.T_odom_base[:30] @ T_BASE_CAMERA)[:, :3, 3]
    length = np.linalg.norm(np.diff(camera, axis=0), axis=1).sum()
    assert written['path_length_m'] == pytest.approx(length, rel=0.05)
    assert written['duration_s'] == pytest.approx(29 * PERIOD_NS * 1e-9)
    assert written['fps'] == pytest.approx(30 / written['wall_s'])
    assert written['keyframes'] >= 1 and not written['interrupted']
    assert written['notes'] == ['a'] and written['source'] == 'list'
    assert written['config']['scale']['source'] == 'depth'
    assert written['peak_memory_mb'] > 10
    total = written['stage_ms']['total']
    assert 0 < total['median'] <= total['p95']
    assert 'decode' in written['stage_ms'] and 'solve' in written['stage_ms']
    assert {name for name, _ in summary.rows()} >= {'frames', 'tracked', 'frames per second'}


def test_two_replays_give_the_same_bytes(walk: Film, tmp_path: Path) -> None:
    for name in ('one', 'two'):
        replay(Recording(records_of(walk, 40)), DEFAULT_CONFIG, tmp_path / name)
    one, two = (tmp_path / name / TRAJECTORY for name in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes()


def test_progress_is_told_after_every_record(walk: Film, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    replay(
        Recording(records_of(walk, 5)),
        DEFAULT_CONFIG,
        tmp_path / 'run',
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(row, 5) for row in range(1, 6)]


def test_wheel_odometry_is_heard_and_is_not_a_frame(walk: Film, tmp_path: Path) -> None:
    records: list[Record] = []
    for frame, T_odom_base in zip(walk.frames[:40], walk.T_odom_base[:40], strict=True):
        records += [WheelOdometry(frame.stamp_ns, T_odom_base), frame]
    summary = replay(Recording(records), config('scale.source=wheel'), tmp_path / 'run')
    assert summary.frames == 40
    assert summary.poses >= 5


def test_without_recorded_extrinsics_those_of_the_parameters_are_used(
    walk: Film, tmp_path: Path
) -> None:
    words = 'frames.extrinsics_xyz_m=[1.0,2.0,3.0]'
    replay(Recording(records_of(walk, 3), None), config(words), tmp_path / 'run')
    first = read_trajectory(tmp_path / 'run' / TRAJECTORY).poses[0]
    np.testing.assert_allclose(
        first, se3.from_rt(se3.T_BASE_OPTICAL[:3, :3], [1, 2, 3]), atol=1e-9
    )


# ---------------------------------------------------------------------------- bad recordings


def test_repeated_stamps_are_counted_as_bad_and_leave_the_file_increasing(
    walk: Film, tmp_path: Path
) -> None:
    frames = walk.frames
    records: list[Record] = [*frames[:10], frames[9], frames[7], *frames[10:15]]
    summary = replay(Recording(records), DEFAULT_CONFIG, tmp_path / 'run')
    assert (summary.frames, summary.bad_frames, summary.poses) == (17, 2, 15)
    assert len(read_trajectory(tmp_path / 'run' / TRAJECTORY)) == 15
    assert sum('stamp' in row['reason'] for row in rows_of(tmp_path / 'run')) == 2


def test_a_looped_recording_goes_on_in_a_second_file(walk: Film, tmp_path: Path) -> None:
    records = records_of(walk, 30) + records_of(walk, 20)
    summary = replay(Recording(records), DEFAULT_CONFIG, tmp_path / 'run')
    assert len(pose_lines(tmp_path / 'run')) == 30
    assert len(pose_lines(tmp_path / 'run', 'trajectory_tum_2.txt')) == 20
    assert any('jumped back' in note for note in summary.notes)
    assert summary.frames == summary.poses == 50


def test_a_recording_without_an_image_is_refused_and_leaves_a_summary(tmp_path: Path) -> None:
    with pytest.raises(BagError, match='not one image'):
        replay(Recording([]), DEFAULT_CONFIG, tmp_path / 'run')
    assert summary_of(tmp_path / 'run')['frames'] == 0


def test_a_recording_of_bad_frames_only_is_counted_not_raised(tmp_path: Path) -> None:
    bad: list[Record] = [BadFrame(row + 1, 'broken') for row in range(3)]
    summary = replay(Recording(bad), DEFAULT_CONFIG, tmp_path / 'run')
    assert (summary.frames, summary.bad_frames, summary.poses) == (3, 3, 0)
    assert [row['reason'] for row in rows_of(tmp_path / 'run')] == ['broken'] * 3


def test_a_configuration_that_cannot_work_leaves_an_earlier_run_alone(
    walk: Film, tmp_path: Path
) -> None:
    replay(Recording(records_of(walk, 3)), DEFAULT_CONFIG, tmp_path / 'run')
    before = (tmp_path / 'run' / TRAJECTORY).read_bytes()
    with pytest.raises(OdometryError, match='camera_height'):
        replay(
            Recording(records_of(walk, 3)), config('scale.source=camera_height'), tmp_path / 'run'
        )
    assert (tmp_path / 'run' / TRAJECTORY).read_bytes() == before


# ------------------------------------------------------------------------- nothing gets lost


def test_an_earlier_run_is_moved_aside(walk: Film, tmp_path: Path) -> None:
    for count in (3, 4, 5):
        replay(Recording(records_of(walk, count)), DEFAULT_CONFIG, tmp_path / 'run')
    assert [len(pose_lines(tmp_path / name)) for name in ('run', 'run.1', 'run.2')] == [5, 3, 4]


def test_a_folder_without_a_run_is_used_as_it_is(walk: Film, tmp_path: Path) -> None:
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'notes.txt').write_text('mine', encoding='utf-8')
    replay(Recording(records_of(walk, 3)), DEFAULT_CONFIG, tmp_path / 'run')
    assert (tmp_path / 'run' / 'notes.txt').read_text(encoding='utf-8') == 'mine'
    assert not (tmp_path / 'run.1').exists()


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_replay_keeps_what_it_had(
    walk: Film, tmp_path: Path, error: type[BaseException]
) -> None:
    def trip(frame: Frame, estimate: OdometryEstimate) -> None:
        if frame.stamp_ns == walk.frames[6].stamp_ns:
            # Already on disk, not only in a buffer.
            assert len(pose_lines(tmp_path / 'run')) == 7
            raise error

    with pytest.raises(error):
        replay(
            Recording(records_of(walk, 20)), DEFAULT_CONFIG, tmp_path / 'run', observers=(trip,)
        )
    assert len(pose_lines(tmp_path / 'run')) == len(rows_of(tmp_path / 'run')) == 7
    assert summary_of(tmp_path / 'run')['interrupted'] is True
    assert summary_of(tmp_path / 'run')['poses'] == 7


def test_a_replay_that_is_told_to_stop_ends_well(walk: Film, tmp_path: Path) -> None:
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 8

    summary = replay(
        Recording(records_of(walk, 20)), DEFAULT_CONFIG, tmp_path / 'run', should_stop=stop
    )
    assert summary.interrupted and summary.poses == 8
    assert len(pose_lines(tmp_path / 'run')) == 8


def test_a_folder_that_cannot_be_made_is_one_clear_error(walk: Film, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('', encoding='utf-8')
    with pytest.raises(BagError, match='--out'):
        replay(Recording(records_of(walk, 3)), DEFAULT_CONFIG, tmp_path / 'file' / 'run')


def test_a_run_folder_can_be_closed_twice(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / 'run', ('solve',))
    folder.close()
    folder.close()
    assert rows_of(tmp_path / 'run') == []


def test_the_default_configuration_runs(walk: Film, tmp_path: Path) -> None:
    summary = replay(Recording(records_of(walk, 25)), VoConfig(), tmp_path / 'run')
    assert summary.frames == 25
    assert summary.status['starting'] >= 1
