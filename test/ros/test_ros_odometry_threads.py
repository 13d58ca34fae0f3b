"""The odometry in the node has threads of its own: they neither disturb nor outlive it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
import threading
from typing import Any

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from ros_stage import DEPTH_VO, Scene, Stage, ns, wait_until

from kpvo_ros.bags.replay import replay
from kpvo_ros.bags.source import Record, SourceInfo, SourceKind
from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.config.schema import with_words
from kpvo_ros.evaluation.files import read_trajectory
from kpvo_ros.evaluation.states import read_states
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.mapping import Mapping
from kpvo_ros.ros import convert
from kpvo_ros.ros.vo_node import VoNode
from kpvo_ros.types import Frame


def working() -> set[str]:
    """Kinds of the odometry's threads that are alive."""
    kinds = {thread.name.partition('_')[0] for thread in threading.enumerate()}
    return kinds & {'mapping', 'places'}


def poses_of(odom: list[Odometry]) -> np.ndarray:
    """(N, 4, 4)"""
    return np.stack([convert.matrix_from_pose(message.pose.pose) for message in odom])


class SlowMap:
    """Holds the mapping thread within its work on a frame until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_at_work = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.done = 0
        take = Mapping._take

        def slow_take(mapping: Mapping, *args: Any) -> Any:
            self.is_at_work.set()
            assert self.go.wait(20)
            watch = take(mapping, *args)
            self.done += 1
            return watch

        monkeypatch.setattr(Mapping, '_take', slow_take)


@pytest.fixture
def slow_map(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowMap]:
    slow_map = SlowMap(monkeypatch)
    yield slow_map
    slow_map.go.set()


def begin_work_that_lasts(stage: Stage, odom: list[Odometry], slow_map: SlowMap) -> None:
    """Four frames; the map still works on the last one, though it was answered."""
    stage.peer.show_all(range(3), odom)
    # The work on the last of them may not even have begun.
    wait_until(lambda: slow_map.done == 3, 'the work on the frames before')
    slow_map.is_at_work.clear()
    slow_map.go.clear()
    stage.peer.show(3)
    assert slow_map.is_at_work.wait(20)
    wait_until(lambda: len(odom) == 4, 'the answer, which does not wait for the map')


def test_the_pose_goes_out_while_the_map_is_still_at_work(
    stage: Stage, slow_map: SlowMap, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    begin_work_that_lasts(stage, odom, slow_map)
    assert ns(odom[-1]) == scene.stamp_ns(3) and not slow_map.go.is_set()


def test_reset_works_while_the_map_is_at_work(
    stage: Stage, slow_map: SlowMap, vo: Any, scene: Scene
) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    begin_work_that_lasts(stage, odom, slow_map)
    before = {t for t in threading.enumerate() if t.name.startswith('mapping')}
    threading.Timer(0.3, slow_map.go.set).start()
    assert stage.peer.call('vo_node/reset').success
    assert slow_map.go.is_set(), 'the work is ended, not cut off'
    stage.peer.show_all(range(4, 12), odom)
    np.testing.assert_allclose(poses_of(odom[4:5])[0], np.eye(4), atol=1e-9)
    walked_m = -7 * scene.step_m  # seven frames along base -y
    np.testing.assert_allclose(poses_of(odom)[-1, :3, 3], [0, walked_m, 0], atol=0.02)
    assert vo.monitor.counts.errors == 0
    after = {t for t in threading.enumerate() if t.name.startswith('mapping')}
    assert len(after - before) == 1 and before - after, 'the forgotten map has ended its thread'


def test_cleanup_ends_the_threads_of_the_odometry(stage: Stage, vo: Any) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(3), odom)
    assert working() == {'mapping', 'places'}
    vo.trigger_deactivate()
    vo.trigger_cleanup()
    assert working() == set()


def test_cleanup_waits_for_the_work_on_the_map(stage: Stage, slow_map: SlowMap, vo: Any) -> None:
    odom = stage.peer.collect(Odometry, 'odom')
    begin_work_that_lasts(stage, odom, slow_map)
    threading.Timer(0.3, slow_map.go.set).start()
    vo.trigger_deactivate()
    vo.trigger_cleanup()
    assert slow_map.go.is_set() and working() == set()


def test_a_node_that_is_destroyed_while_active_leaves_no_thread(stage: Stage) -> None:
    stage.start(VoNode, **DEPTH_VO)
    odom = stage.peer.collect(Odometry, 'odom')
    stage.peer.show_all(range(3), odom)
    assert working()
    stage.close()
    assert working() == set()


class Recording:
    """The scene as a recording."""

    def __init__(self, scene: Scene, count: int) -> None:
        self._scene = scene
        self._count = count
        camera = Camera(scene.width, scene.height, scene.f, scene.f, 159.5, 119.5)
        self.info = SourceInfo('scene', SourceKind.FRAMES, count, camera, False, False)

    def records(self) -> Iterator[Record]:
        for index in range(self._count):
            image = self._scene.pixels(index)
            yield Frame(self._scene.stamp_ns(index), image, self.info.camera)

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


def test_live_and_replayed_poses_differ_by_a_constant_shift_and_replay_has_the_first_ones_too(
    stage: Stage, scene: Scene, tmp_path: Path
) -> None:
    """Without depth the first poses are known late. A replay writes them where they belong; a
    robot's odom frame is shifted so that its pose does not jump."""
    count = 30
    words = ('scale.source=none', 'seed=3')
    summary = replay(Recording(scene, count), with_words(VoConfig(), words), tmp_path / 'run')
    replayed = read_trajectory(tmp_path / 'run' / 'trajectory_tum.txt')
    stage.start(VoNode, scale__source='none', seed=3, frames__tf_timeout_s=0.0)
    odom = stage.peer.collect(Odometry, 'odom')
    camera_poses = stage.peer.collect(PoseStamped, 'vo_node/camera_pose')
    stage.peer.show_all(range(count), odom, with_depth=False)
    assert replayed.stamps_ns.tolist() == [scene.stamp_ns(index) for index in range(count)]
    told = read_states(tmp_path / 'run' / 'states.csv').status
    first = count - told[::-1].index('starting')  # the map stands from this frame on
    assert summary.told_late == told.count('starting') > 0 and first < count - 10
    wait_until(lambda: len(camera_poses) == count - summary.told_late, 'all measured poses')
    measured = [scene.stamp_ns(row) for row in range(count) if told[row] != 'starting']
    assert [ns(message) for message in camera_poses] == measured

    live = np.stack([convert.matrix_from_pose(m.pose) for m in camera_poses[first - count :]])
    shift = live @ se3.inverse(replayed.poses[first:])
    np.testing.assert_allclose(shift, np.tile(shift[0], (len(live), 1, 1)), atol=1e-3)
    step = float(np.linalg.norm(np.diff(live[:, :3, 3], axis=0), axis=1).mean())
    assert np.linalg.norm(shift[0, :3, 3]) > 2 * step, 'the way that was told late'
    published = poses_of(odom)[:, :3, 3]
    steps = np.linalg.norm(np.diff(published, axis=0), axis=1)
    assert steps.max() < 2 * step, 'live, the pose never jumps'
