"""Player, vo_node and recorder as separate processes over real DDS, started as launch would."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import rclpy
from ros_stage import FRAME_NS, Scene, wait_until

from kpvo_ros.bags.reader import Bag
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.evaluation.files import read_trajectory
from kpvo_ros.evaluation.states import read_states
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.ros.node_base import ImageNode
from kpvo_ros.ros.runner import run

FRAMES = 60
VO = [
    'vo_node', '--ros-args', '-r', 'image:=/camera/image_raw', '-r',
    'camera_info:=/camera/camera_info', '-r', 'depth:=/camera/depth', '-p', 'scale.source:=depth',
]  # fmt: skip


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of the scene with camera_info, depth and extrinsics."""
    path, scene = tmp_path_factory.mktemp('bag') / 'scene', Scene()
    camera = Camera(scene.width, scene.height, scene.f, scene.f, 159.5, 119.5)
    depth_m = np.full((scene.height, scene.width), scene.depth_m, np.float32)
    with BagWriter(path) as writer:
        start_ns = scene.stamp_ns(0)
        writer.write_static_transforms(
            start_ns, [('base_link', 'camera', np.array(se3.T_BASE_OPTICAL))]
        )
        for index in range(FRAMES):
            stamp_ns = scene.stamp_ns(index)
            writer.write_camera_info('/camera/camera_info', stamp_ns, camera, 'camera')
            writer.write_depth('/camera/depth', stamp_ns, depth_m, 'camera')
            writer.write_image('/camera/image_raw', stamp_ns, scene.pixels(index), 'camera')
    return path


class Programs:
    """Starts programs of the package; ends by id those that still run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def start(self, name: str, *words: str) -> subprocess.Popen[str]:
        log = (self._folder / f'{name}_{len(self._started)}.log').open('w+')
        process = subprocess.Popen(
            [sys.executable, '-u', '-m', f'kpvo_ros.ros.{name}', *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._folder,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
        process.log = Path(log.name)  # type: ignore[attr-defined]
        log.close()
        self._started.append(process)
        return process

    def run(self, name: str, *words: str) -> tuple[int, str]:
        process = self.start(name, *words)
        return process.wait(60), output(process)

    def close(self) -> None:
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)


def output(process: Any) -> str:
    return process.log.read_text()


@pytest.fixture
def programs(tmp_path: Path, ros_domain_id: int) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    yield programs
    programs.close()


def test_a_bag_goes_through_player_odometry_and_recorder(
    programs: Programs, bag: Path, tmp_path: Path
) -> None:
    out = tmp_path / 'out'
    vo = programs.start(*VO)
    recorder = programs.start('bag_recorder', '--out', str(out), '--idle-timeout', '2')
    code, text = programs.run('bag_player', str(bag), '--restamp', '--wait-for', 'odom')
    assert code == 0, text
    assert f'played {3 * FRAMES + 1} messages of 4 topics' in text
    assert recorder.wait(30) == 0, output(recorder)
    vo.send_signal(signal.SIGTERM)
    assert vo.wait(20) == 0
    assert 'Traceback' not in output(vo) + output(recorder) + text
    assert 'from TF base_link <- camera' in output(vo)

    summary = json.loads((out / 'summary.json').read_text())
    assert summary['frames'] >= 0.5 * FRAMES
    assert summary['tracked'] >= 0.9 * summary['frames']
    assert 0 < summary['latency_ms']['median'] < 1000
    states = read_states(out / 'states.csv')
    assert len(states) == summary['frames']
    assert states.frames_with_pose == summary['tracked']
    with Bag(out / 'bag') as recorded:
        assert {'/odom', '/tf', '/tf_static', '/keypoints', '/diagnostics'} <= set(recorded.topics)
    trajectory = read_trajectory(out / 'trajectory_tum.txt')
    stamps = set(trajectory.stamps_ns.tolist())
    assert stamps <= {Scene.stamp_ns(index) for index in range(FRAMES)}, 'shifted back exactly'
    # The optical frame of a camera that looks along x: what is right of it is base -y.
    frames = np.rint((trajectory.stamps_ns - Scene.stamp_ns(0)) / FRAME_NS)
    expected_y = -(frames - frames[0]) * Scene.step_px * Scene.depth_m / Scene.f
    found_y = trajectory.poses[:, 1, 3] - trajectory.poses[0, 1, 3]
    np.testing.assert_allclose(found_y, expected_y, atol=0.05)


def test_keypoints_of_a_bag_are_recorded_with_the_shipped_parameter_file(
    programs: Programs, bag: Path, tmp_path: Path, repository: Path
) -> None:
    out = tmp_path / 'out'
    node = programs.start(
        'keypoint_node', '--ros-args', '-r', 'image:=/camera/image_raw',
        '--params-file', str(repository / 'config' / 'keypoints.yaml'),
    )  # fmt: skip
    recorder = programs.start('bag_recorder', '--out', str(out), '--topics', '/keypoints')
    wait_until(lambda: 'recording to' in output(recorder), 'the recorder')
    code, text = programs.run('bag_player', str(bag), '--wait-for', 'keypoints')
    assert code == 0, text
    for process in (recorder, node):
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, output(process)
    assert 'Traceback' not in output(node) + output(recorder)
    with Bag(out / 'bag') as recorded:
        assert recorded.topics['/keypoints'].count > FRAMES / 2


@pytest.mark.parametrize('end', [signal.SIGINT, signal.SIGTERM])
def test_a_recorder_that_is_ended_leaves_a_readable_recording(
    programs: Programs, bag: Path, tmp_path: Path, end: signal.Signals
) -> None:
    out = tmp_path / 'out'
    recorder = programs.start(
        'bag_recorder', '--out', str(out), '--topics', '/camera/camera_info', '/tf_static'
    )
    wait_until(lambda: 'recording to' in output(recorder), 'the recorder')
    programs.run(
        'bag_player', str(bag), '--rate', '4', '--topics', '/camera/camera_info', '/tf_static',
        '--wait-for', '/camera/camera_info',
    )  # fmt: skip
    recorder.send_signal(end)
    assert recorder.wait(20) == 0, output(recorder)
    assert 'Traceback' not in output(recorder)
    with Bag(out / 'bag') as recorded:
        assert recorded.topics['/camera/camera_info'].count > FRAMES / 2
        assert recorded.topics['/tf_static'].count >= 1
    code, text = programs.run('bag_recorder', '--out', str(out))
    assert code == 1 and 'give another --out' in text and len(text.splitlines()) == 1


def test_nodes_end_quietly_on_ctrl_c(programs: Programs) -> None:
    for name in ('vo_node', 'keypoint_node'):
        process = programs.start(name)
        wait_until(lambda p=process: 'active: images from' in output(p), 'the node')
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert 'Traceback' not in output(process)


def test_ctrl_c_while_a_node_starts_is_no_error(ros_domain_id: int) -> None:
    def interrupted() -> ImageNode:
        rclpy.shutdown()  # what rclpy's signal handler does
        raise RuntimeError('the context is not valid')

    def broken() -> ImageNode:
        raise RuntimeError('no such thing')

    assert run(interrupted, [], '') == 0
    assert run(broken, [], '') == 1


@pytest.mark.parametrize(
    ('words', 'code', 'line'),
    [
        (['vo_node', '--ros-args', '-p', 'scale.sorce:=depth'], 1, "did you mean 'scale.source'"),
        (['vo_node', '--ros-args', '--params-file', 'none.yaml'], 1, 'none.yaml'),
        (['vo_node', '--camera', '3'], 2, 'takes only ROS arguments'),
        (['keypoint_node', '--help'], 0, 'takes only ROS arguments'),
        (['bag_player', 'no_such_bag'], 1, 'does not exist'),
        (['bag_player', '--help'], 0, '--restamp'),
        (['bag_recorder', '--help'], 0, '--idle-timeout'),
    ],
)
def test_a_wrong_command_line_is_one_clear_line_and_an_exit_code(
    programs: Programs, words: list[str], code: int, line: str
) -> None:
    found, text = programs.run(*words)
    assert found == code, text
    assert line in text
    assert 'Traceback' not in text


def test_without_autostart_the_node_waits_for_its_manager(programs: Programs) -> None:
    process = programs.start('vo_node', '--ros-args', '-p', 'node.autostart:=false')
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.0)
    assert 'active' not in output(process)


@pytest.mark.parametrize(
    ('words', 'line'),
    [
        (['--restamp', '--rate', '2'], '--restamp needs'),
        (['--rate', '0'], 'above zero'),
        (['--topics', '/nothing'], 'the bag has no /nothing'),
    ],
)
def test_the_player_refuses_what_cannot_work(
    programs: Programs, bag: Path, words: list[str], line: str
) -> None:
    code, text = programs.run('bag_player', str(bag), *words)
    assert code == 1
    assert line in text and len(text.strip().splitlines()) == 1


def test_a_player_nobody_listens_to_says_so_and_plays(programs: Programs, bag: Path) -> None:
    code, text = programs.run(
        'bag_player', str(bag), '--wait', '0.2', '--rate', '20', '--loops', '2', '--clock'
    )
    assert code == 0
    assert 'nobody is ready on /camera/image_raw' in text
    assert '2 time(s)' in text
