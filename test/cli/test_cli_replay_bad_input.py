"""kpvo replay on everything a recording can be spoilt by: one line or a counted drop."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from cli_stage import (
    CAMERA,
    N_FRAMES,
    PERIOD_NS,
    START_NS,
    STEP_M,
    Shot,
    write_bag,
    write_camera_info,
    write_raw_image,
)
import cv2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.cli.main import main
from kpvo_ros.geometry.camera import Camera


def replay(capsys, bag: Path, out: Path, *words: str) -> tuple[int, str]:
    """Exit code and what the user reads on stderr."""
    code = main(['replay', str(bag), '--out', str(out), 'scale.source=depth', *words])
    return code, capsys.readouterr().err


def trajectory(out: Path, name: str = 'trajectory_tum.txt') -> np.ndarray:
    """(N, 8) rows of the file, checked for what every trajectory must be."""
    rows = np.loadtxt(out / name, ndmin=2)
    if len(rows):
        assert np.isfinite(rows).all()
        assert (np.diff(rows[:, 0]) > 0).all()
        np.testing.assert_allclose(np.linalg.norm(rows[:, 4:], axis=1), 1.0, atol=1e-6)
    return rows


def states(out: Path) -> list[dict[str, str]]:
    with (out / 'states.csv').open(newline='') as file:
        return list(csv.DictReader(file))


def summary(out: Path) -> dict:
    return json.loads((out / 'summary.json').read_text())


def assert_one_line(code: int, err: str, *words: str) -> None:
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 1
    assert len(lines) == 1, err
    assert 'Traceback' not in err
    for word in words:
        assert word in lines[0]


# ------------------------------------------------------------------------------- the good case


def test_a_good_bag_gives_the_true_path_and_a_report(tmp_path, capsys):
    code, err = replay(capsys, write_bag(tmp_path / 'bag'), tmp_path / 'out')
    assert code == 0
    assert 'aligned by the first pose' in err  # a straight line leaves the roll of a fit open
    rows = trajectory(tmp_path / 'out')
    assert len(rows) == N_FRAMES
    way = np.linalg.norm(rows[-1, 1:4] - rows[0, 1:4])
    assert way == pytest.approx((N_FRAMES - 1) * STEP_M, rel=0.03)
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    assert metrics['ate_m']['rmse'] < 0.02
    report = (tmp_path / 'out/report.md').read_text()
    for picture in ('trajectory.png', 'errors.png', 'frame.png'):
        assert picture in report
        assert (tmp_path / 'out' / picture).stat().st_size > 1000


def test_the_same_bag_gives_the_same_trajectory(tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag')
    for out in ('one', 'two'):
        replay(capsys, bag, tmp_path / out)
    first, second = (
        (tmp_path / out / 'trajectory_tum.txt').read_bytes() for out in ('one', 'two')
    )
    assert first == second


def test_a_second_run_moves_the_first_aside(tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag')
    replay(capsys, bag, tmp_path / 'out')
    before = (tmp_path / 'out/states.csv').read_bytes()
    replay(capsys, bag, tmp_path / 'out')
    assert (tmp_path / 'out.1/states.csv').read_bytes() == before


def test_a_camera_that_stands_still_is_scored_by_its_first_pose(tmp_path, capsys):
    first = Shot.at(0)

    def still(shot):
        return dataclasses.replace(shot, image=first.image)

    bag = write_bag(tmp_path / 'bag', 10, still, truth=False)
    poses = ''.join(f'{(START_NS + i * PERIOD_NS) / 1e9:.9f} 0 0 0 0 0 0 1\n' for i in range(10))
    (tmp_path / 'truth.txt').write_text(poses)
    code, _ = replay(capsys, bag, tmp_path / 'out')
    assert code == 0
    words = ['evaluate', str(tmp_path / 'out'), '--ground-truth', str(tmp_path / 'truth.txt')]
    assert main(words) == 1
    assert 'does not move' in capsys.readouterr().err
    assert main([*words, '--align', 'origin']) == 0
    metrics = json.loads((tmp_path / 'out/metrics.json').read_text())
    assert metrics['ate_m']['max'] < 0.005


# ------------------------------------------------------------------- nothing that can be opened


def test_a_path_that_does_not_exist_is_one_line(tmp_path, capsys):
    assert_one_line(*replay(capsys, tmp_path / 'gone', tmp_path / 'out'), 'gone', 'check the path')


@pytest.mark.parametrize(
    'name', ['noise.mcap', 'noise.db3', 'noise.bag', 'noise.mp4', 'noise.txt']
)
def test_a_file_that_is_no_recording_is_one_line(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(np.random.default_rng(1).bytes(3000))
    words = [] if name != 'noise.mp4' else ['--intrinsics', str(_intrinsics(tmp_path))]
    assert_one_line(*replay(capsys, tmp_path / name, tmp_path / 'out', *words), name)


def test_an_empty_folder_is_one_line(tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    assert_one_line(*replay(capsys, tmp_path / 'empty', tmp_path / 'out'), 'empty')


def test_an_empty_bag_is_one_line(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag'):
        pass
    assert_one_line(*replay(capsys, tmp_path / 'bag', tmp_path / 'out'), 'no messages')


def test_a_bag_without_images_is_one_line(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write_camera_info('/camera/camera_info', START_NS, CAMERA, 'camera')
    assert_one_line(*replay(capsys, tmp_path / 'bag', tmp_path / 'out'), 'no image topic')


def test_a_bag_without_camera_info_is_one_line(tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag', 3, lambda shot: dataclasses.replace(shot, camera=None))
    assert_one_line(*replay(capsys, bag, tmp_path / 'out'), 'camera_info', '--intrinsics')


@pytest.mark.parametrize(('focal', 'word'), [(float('nan'), 'NaN'), (0.0, 'uncalibrated')])
def test_intrinsics_of_no_camera_are_one_line(tmp_path, capsys, focal, word):
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(3):
            shot = Shot.at(index)
            write_camera_info(bag, shot.stamp_ns, focal)
            bag.write_image('/camera/image_raw', shot.stamp_ns, shot.image, 'camera')
    assert_one_line(*replay(capsys, tmp_path / 'bag', tmp_path / 'out'), word, '--intrinsics')


def test_a_topic_that_is_not_in_the_bag_is_one_line_that_lists_the_others(tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag', 2)
    code, err = replay(capsys, bag, tmp_path / 'out', '--image-topic', '/other')
    assert_one_line(code, err, '/other', '/camera/image_raw')


# ------------------------------------------------------------------------- frames that are bad


def test_every_image_of_a_wrong_encoding_ends_without_pose_and_says_why(tmp_path, capsys):
    bag = write_bag(tmp_path / 'bag', 5, lambda shot: dataclasses.replace(shot, encoding='rgb565'))
    code, err = replay(capsys, bag, tmp_path / 'out')
    assert_one_line(code, err, 'no pose in 5 frames', 'rgb565', 'kpvo doctor')
    assert summary(tmp_path / 'out')['bad_frames'] == 5


def test_truncated_and_empty_images_are_counted_and_the_rest_is_tracked(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(N_FRAMES):
            shot = Shot.at(index)
            bag.write_camera_info('/camera/camera_info', shot.stamp_ns, CAMERA, 'camera')
            if index in (7, 12):
                write_raw_image(bag, shot, keep_bytes=1000 if index == 7 else 0)
            else:
                bag.write_image('/camera/image_raw', shot.stamp_ns, shot.image, 'camera')
            bag.write_depth('/camera/depth', shot.stamp_ns, shot.depth_m, 'camera')
    code, _ = replay(capsys, tmp_path / 'bag', tmp_path / 'out')
    assert code == 0
    told = summary(tmp_path / 'out')
    assert (told['frames'], told['bad_frames']) == (N_FRAMES, 2)
    assert told['poses'] == N_FRAMES - 2
    bad = [row for row in states(tmp_path / 'out') if row['status'] == 'bad']
    assert all('bytes' in row['reason'] or 'data' in row['reason'] for row in bad)


def test_intrinsics_that_break_on_the_way_make_bad_frames_until_they_are_mended(tmp_path, capsys):
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(N_FRAMES):
            shot = Shot.at(index)
            broken = 8 <= index < 11
            write_camera_info(bag, shot.stamp_ns, float('nan') if broken else CAMERA.fx)
            bag.write_image('/camera/image_raw', shot.stamp_ns, shot.image, 'camera')
            bag.write_depth('/camera/depth', shot.stamp_ns, shot.depth_m, 'camera')
    code, _ = replay(capsys, tmp_path / 'bag', tmp_path / 'out')
    assert code == 0
    assert summary(tmp_path / 'out')['bad_frames'] == 3
    assert len(trajectory(tmp_path / 'out')) == N_FRAMES - 3


def test_a_repeated_stamp_is_counted_and_never_written_twice(tmp_path, capsys):
    def repeat(shot):
        if shot.index in (5, 6):
            return dataclasses.replace(shot, stamp_ns=START_NS + 4 * PERIOD_NS)
        return shot

    code, _ = replay(capsys, write_bag(tmp_path / 'bag', change=repeat), tmp_path / 'out')
    assert code == 0
    assert summary(tmp_path / 'out')['bad_frames'] == 2
    assert len(trajectory(tmp_path / 'out')) == N_FRAMES - 2


def test_time_that_jumps_back_begins_a_new_file_and_keeps_the_old_poses(tmp_path, capsys):
    jump_ns = 100 * 10**9

    def loop(shot):
        late = shot.index >= N_FRAMES // 2
        return dataclasses.replace(shot, stamp_ns=shot.stamp_ns - jump_ns * late)

    code, _ = replay(capsys, write_bag(tmp_path / 'bag', change=loop), tmp_path / 'out')
    assert code == 0
    first = trajectory(tmp_path / 'out')
    second = trajectory(tmp_path / 'out', 'trajectory_tum_2.txt')
    assert len(first) == N_FRAMES // 2
    assert len(second) >= N_FRAMES // 2 - 2
    assert second[0, 0] < first[0, 0]
    assert any('jumped back' in note for note in summary(tmp_path / 'out')['notes'])


def test_a_change_of_resolution_is_survived(tmp_path, capsys):
    double = Camera(320, 240, 240.0, 240.0, 159.5, 119.5)

    def enlarge(shot):
        if shot.index < N_FRAMES // 2:
            return shot
        image = cv2.resize(shot.image, (320, 240), interpolation=cv2.INTER_CUBIC)
        depth_m = np.repeat(np.repeat(shot.depth_m, 2, axis=0), 2, axis=1)
        return dataclasses.replace(shot, image=image, depth_m=depth_m, camera=double)

    code, _ = replay(capsys, write_bag(tmp_path / 'bag', change=enlarge), tmp_path / 'out')
    assert code == 0
    rows = trajectory(tmp_path / 'out')
    assert len(rows) >= N_FRAMES - 2
    steps = np.linalg.norm(np.diff(rows[:, 1:4], axis=0), axis=1)
    assert steps.max() < 4 * STEP_M  # no jump to the origin


def test_a_third_of_the_frames_missing_is_tracked_all_the_same(tmp_path, capsys, rng):
    lost = set(rng.choice(np.arange(1, 40), 12, replace=False).tolist())
    bag = write_bag(tmp_path / 'bag', 40, lambda shot: None if shot.index in lost else shot)
    code, _ = replay(capsys, bag, tmp_path / 'out')
    assert code == 0
    rows = trajectory(tmp_path / 'out')
    assert len(rows) == 28
    way = np.linalg.norm(rows[-1, 1:4] - rows[0, 1:4])
    last = max(set(range(40)) - lost)
    assert way == pytest.approx(last * STEP_M, rel=0.05)


def test_a_black_minute_loses_the_track_and_the_light_brings_it_back(tmp_path, capsys):
    dark = range(10, 70)

    def darken(shot):
        stamp_ns = START_NS + shot.index * PERIOD_NS
        if shot.index in dark:  # one image a second
            stamp_ns = START_NS + 10 * PERIOD_NS + (shot.index - 10) * 10**9
            black = np.zeros_like(shot.image)
            return dataclasses.replace(shot, stamp_ns=stamp_ns, image=black)
        if shot.index >= 70:
            index = shot.index - 60  # the camera waited in the dark
            stamp_ns = START_NS + 10 * PERIOD_NS + 60 * 10**9 + index * PERIOD_NS
            return dataclasses.replace(Shot.at(index), stamp_ns=stamp_ns)
        return shot

    bag = write_bag(tmp_path / 'bag', 90, darken, truth=False)
    code, _ = replay(capsys, bag, tmp_path / 'out')
    assert code == 0
    rows = states(tmp_path / 'out')
    assert len(rows) == 90
    assert {row['status'] for row in rows[15:70]} == {'lost'}
    assert 'contrast' in rows[40]['reason']
    assert {row['status'] for row in rows[75:]} <= {'tracking', 'degraded'}
    poses = trajectory(tmp_path / 'out')
    steps = np.linalg.norm(np.diff(poses[:, 1:4], axis=0), axis=1)
    assert steps.max() < 10 * STEP_M


# -------------------------------------------------------------- where results cannot be written


def test_an_out_folder_below_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    bag = write_bag(tmp_path / 'bag', 2)
    assert_one_line(*replay(capsys, bag, tmp_path / 'file' / 'out'), '--out')
    assert_one_line(*replay(capsys, bag, tmp_path / 'file'), '--out')


def test_a_disk_that_runs_full_is_one_line_and_keeps_what_was_written(
    tmp_path, capsys, monkeypatch
):
    from kpvo_ros.bags.run_folder import RunFolder

    write_row = RunFolder._write_row

    def fail_late(folder, row):
        if row[0] >= START_NS + 8 * PERIOD_NS:
            raise OSError(28, 'No space left on device')
        write_row(folder, row)

    monkeypatch.setattr(RunFolder, '_write_row', fail_late)
    code, err = replay(capsys, write_bag(tmp_path / 'bag'), tmp_path / 'out')
    assert_one_line(code, err, 'No space left')
    assert len(states(tmp_path / 'out')) == 8
    assert len(trajectory(tmp_path / 'out')) >= 8
    assert summary(tmp_path / 'out')['interrupted'] is True


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_everything_written(tmp_path, number):
    bag, out = write_bag(tmp_path / 'bag', 350), tmp_path / 'out'
    command = [sys.executable, '-m', 'kpvo_ros.cli.main', 'replay', str(bag), '--out', str(out)]
    child = subprocess.Popen(
        [*command, 'scale.source=depth'],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
    )
    try:
        _wait_for_rows(out / 'states.csv', 10, child)
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130, err
    assert 'Traceback' not in err
    told = summary(out)
    assert told['interrupted'] is True
    assert 10 <= told['frames'] < 350
    assert len(states(out)) == told['frames']
    assert len(trajectory(out)) == told['poses']
    assert (out / 'report.md').is_file()


# ----------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('scale: {sorce: depth}\n', ('scale.sorce', 'did you mean')),
        ('scale: {source: [\n', ('not valid YAML',)),
        ('- 1\n- 2\n', ('name: value',)),
        ('frontend: {max_keypoints: 5}\n', ('frontend.max_keypoints', 'below the minimum 50')),
        ('frontend: {max_keypoints: many}\n', ('frontend.max_keypoints', 'a whole number')),
        ('/**: {ros__parameters: [1]}\n', ('ros__parameters',)),
    ],
)
def test_a_wrong_parameter_file_is_one_line_that_names_it(tmp_path, capsys, text, words):
    (tmp_path / 'vo.yaml').write_text(text)
    bag = write_bag(tmp_path / 'bag', 2)
    code, err = replay(capsys, bag, tmp_path / 'out', '--params', str(tmp_path / 'vo.yaml'))
    assert_one_line(code, err, 'vo.yaml', *words)


@pytest.mark.parametrize(
    ('word', 'told'),
    [
        ('scale.source=lidar', 'not one of'),
        ('scale.camera_height_m=nan', 'not finite'),
        ('nonsense=1', 'unknown parameter'),
        ('scale.source=camera_height', 'camera_height_m'),
    ],
)
def test_a_wrong_parameter_word_is_one_line(tmp_path, capsys, word, told):
    bag = write_bag(tmp_path / 'bag', 2)
    assert_one_line(*replay(capsys, bag, tmp_path / 'out', word), told)


# ----------------------------------------------------------------------------- any combination

_TROUBLE = st.sampled_from(
    ['good', 'good', 'good', 'black', 'missing', 'repeat', 'encoding', 'no depth', 'nan depth']
)


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(_TROUBLE, min_size=1, max_size=16))
def test_no_mixture_of_trouble_makes_a_traceback_or_a_null_pose(
    tmp_path_factory, capsys, troubles
):
    folder = tmp_path_factory.mktemp('mixture')
    bag = write_bag(folder / 'bag', len(troubles), lambda s: _spoil(s, troubles[s.index]), False)
    out = folder / 'out'
    code, err = replay(capsys, bag, out)
    assert 'Traceback' not in err
    offered = sum(trouble != 'missing' for trouble in troubles)
    if offered == 0:
        assert code == 1
        return
    told = summary(out)
    assert told['frames'] == offered == len(states(out))
    assert len(trajectory(out)) == told['poses'] if told['poses'] else code == 1


def _spoil(shot: Shot, trouble: str) -> Shot | None:
    if trouble == 'missing':
        return None
    changes = {
        'black': {'image': np.zeros_like(shot.image)},
        'repeat': {'stamp_ns': max(START_NS, shot.stamp_ns - PERIOD_NS)},
        'encoding': {'encoding': 'klingon'},
        'no depth': {'depth_m': None},
        'nan depth': {'depth_m': np.full_like(shot.depth_m, np.nan)},
    }
    return dataclasses.replace(shot, **changes.get(trouble, {}))


def _wait_for_rows(path: Path, rows: int, child: subprocess.Popen) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and child.poll() is None:
        if path.is_file() and len(path.read_text().splitlines()) > rows:
            return
        time.sleep(0.02)
    raise AssertionError(f'no {rows} rows in {path}: {child.communicate()}')


def _intrinsics(folder: Path) -> Path:
    path = folder / 'camera.yaml'
    path.write_text('width: 160\nheight: 120\nfx: 120.0\nfy: 120.0\ncx: 79.5\ncy: 59.5\n')
    return path
