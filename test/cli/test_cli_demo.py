"""kpvo demo: it really plays through the nodes, and says what went wrong when it does."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from kpvo_ros.cli import demo, recorded_run, ros_environment, ros_processes
from kpvo_ros.cli.main import main
from kpvo_ros.cli.ros_processes import RosProcesses
from kpvo_ros.errors import EvaluationError, RosError
from kpvo_ros.evaluation.states import read_states

STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print('ready', flush=True)
time.sleep(600)
"""


def wait_for(condition, seconds: float = 30.0) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def descendants(pid: int) -> list[int]:
    """Processes below a process, from /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path('/proc').iterdir():
        with contextlib.suppress(OSError, ValueError):
            after_name = (entry / 'stat').read_text().rpartition(')')[2].split()
            parents.setdefault(int(after_name[1]), []).append(int(entry.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder whose modules the started processes can run."""
    folder = tmp_path / 'modules'
    folder.mkdir()
    (folder / 'stubborn.py').write_text(STUBBORN)
    (folder / 'failing.py').write_text("import sys; print('no camera'); sys.exit(3)\n")
    monkeypatch.setattr(
        ros_processes, '_PATIENCE_S', ((signal.SIGINT, 0.2), (signal.SIGTERM, 10.0))
    )
    return {**os.environ, 'PYTHONPATH': str(folder)}


# ------------------------------------------------------------------------------ whole way round


@pytest.mark.slow
def test_a_short_demo_plays_through_the_nodes_and_scores_them(
    tmp_path, monkeypatch, capsys, ros_domain_id
):
    pytest.importorskip('torch', reason='the demo renders its sample')
    monkeypatch.setattr(demo, 'PRESET', 'room')
    monkeypatch.setattr(demo, 'FRAMES', 80)
    monkeypatch.setattr(demo, 'MIN_TRACKED_PERCENT', 50.0)  # a busy test machine drops frames
    domain = os.environ['ROS_DOMAIN_ID']
    assert main(['demo', '--out', str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for word in ('frames played', 'tracked', 'ATE rmse', 'scale error', 'latency median / p95'):
        assert word in told
    result = tmp_path / 'result'
    assert str(result / 'report.md') in told
    report = (result / 'report.md').read_text()
    for picture in ('trajectory.png', 'errors.png', 'frame.png'):
        assert picture in report
        assert (result / picture).is_file()
    metrics = json.loads((result / 'metrics.json').read_text())
    assert metrics['frames'] == 80
    assert metrics['ate_m']['rmse'] < 0.2
    assert len(read_states(result / 'states.csv')) >= 40
    assert os.environ['ROS_DOMAIN_ID'] == domain


@pytest.mark.slow
def test_a_demo_that_is_ended_leaves_no_process_behind(tmp_path, ros_domain_id):
    pytest.importorskip('torch', reason='the demo renders its sample')
    command = [sys.executable, '-m', 'kpvo_ros.cli.main', 'demo', '--out', str(tmp_path)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(descendants(child.pid)) >= 2, 60.0)  # workers that render
        before = descendants(child.pid)
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130
    assert 'Traceback' not in err
    wait_for(lambda: not any(is_alive(pid) for pid in before))


# ----------------------------------------------------------------------------------- judgement


def test_without_ros_the_demo_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ros_environment.importlib.util, 'find_spec', lambda name: None)
    assert main(['demo', '--out', str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert 'make setup' in err and '/opt/ros/jazzy/setup.bash' in err


@pytest.mark.parametrize(
    ('tracked', 'ate_m', 'failure'),
    [
        (99.0, 1.0, ''),
        (89.0, 1.0, 'only 89.0 %'),
        (None, 1.0, 'only 0.0 %'),
        (99.0, 3.1, 'ATE 3.10 m is above 3.00 m'),
        (99.0, float('nan'), 'ATE nan'),
    ],
)
def test_the_demo_fails_when_the_odometry_did(tracked, ate_m, failure):
    class Stats:
        rmse = ate_m

    class Numbers:
        tracked_percent = tracked
        path_length_m = 100.0
        ate_m = Stats

    assert demo._failure(Numbers).startswith(failure)
    assert bool(demo._failure(Numbers)) == bool(failure)


def test_an_earlier_result_is_removed_or_kept_as_asked(tmp_path):
    folder = tmp_path / 'result'
    folder.mkdir()
    (folder / 'old').write_text('')
    assert not (demo._fresh(folder, keep=False) / 'old').exists()
    (folder / 'old').write_text('')
    assert list(demo._fresh(folder, keep=True).iterdir()) == []
    assert (tmp_path / 'result.1' / 'old').exists()
    (tmp_path / 'file').write_text('')
    with pytest.raises(RosError, match='--out'):
        demo._fresh(tmp_path / 'file' / 'result', keep=False)


# ----------------------------------------------------------------------------------- processes


def test_no_process_outlives_its_owner_even_when_it_ignores_ctrl_c(tmp_path, modules):
    with pytest.raises(ZeroDivisionError), RosProcesses(tmp_path / 'logs', modules) as nodes:
        node = nodes.start('node', 'stubborn', [])
        wait_for(lambda: 'ready' in node.log.read_text())
        raise ZeroDivisionError
    assert not is_alive(node.process.pid)


def test_a_process_that_ends_early_is_told_with_its_last_words(tmp_path, modules):
    with RosProcesses(tmp_path / 'logs', modules) as nodes:
        node = nodes.start('node', 'failing', [])
        node.process.wait(30)
        with pytest.raises(RosError, match=r'node ended with code 3 \(no camera\).*node\.log'):
            nodes.require_alive(node)


def test_logs_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(RosError, match='--out'):
        RosProcesses(tmp_path / 'file' / 'logs', {})


def test_two_private_environments_never_share_a_domain():
    with (
        ros_environment.private_ros_environment() as first,
        ros_environment.private_ros_environment() as second,
    ):
        assert first['ROS_DOMAIN_ID'] != second['ROS_DOMAIN_ID']
        assert first['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
        assert Path(first[ros_environment.PROFILE_VARIABLES[0]]).is_file()


# ----------------------------------------------------------------------------------- recordings


def test_images_the_player_had_count_in_the_summary_of_a_recording(tmp_path):
    (tmp_path / 'summary.json').write_text(json.dumps({'frames': 2, 'restamp_offset_ns': 5}))
    summary = recorded_run.complete_summary(tmp_path, 7)
    assert summary == json.loads((tmp_path / 'summary.json').read_text())
    assert summary == {'frames': 7, 'answered': 2, 'restamp_offset_ns': 5}


@pytest.mark.parametrize('content', [None, '', '[]', '{}', '{"frames"'])
def test_an_incomplete_recording_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / 'summary.json').write_text(content)
    with pytest.raises(EvaluationError, match='not the summary of a recording') as caught:
        recorded_run.complete_summary(tmp_path, 7)
    assert '\n' not in str(caught.value)


def test_keypoints_of_a_recording_without_bag_are_none(tmp_path):
    assert recorded_run.keypoints_at(tmp_path, 0, 0).shape == (0, 2)
