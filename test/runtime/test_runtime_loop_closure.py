"""Returns to known places take the drift out of the map, and nothing else does."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
from places_world import Places, box_of_points, level_camera
from points_world import CAMERA
import pytest
from runtime_world import CAMERA as ROOM_CAMERA
from runtime_world import T_BASE_CAMERA, World, path_through, shoot

from kpvo_ros.config.runtime import FrontendConfig, LoopClosureConfig, MemoryConfig
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.loop_closure import LoopCloser
from kpvo_ros.odometry.memory import KeyframeMemory, appearance
from kpvo_ros.odometry.recall import Recall, StoredKeyframe
from kpvo_ros.types import Frame

CONFIG = LoopClosureConfig(enabled=True)
RADIUS_M = 6.0
LAP = 36  # keyframes


@pytest.fixture(scope='module')
def ring() -> Places:
    """Points on and behind the wall around a circular way."""
    rng = np.random.default_rng(3)
    angle = rng.uniform(0, 2 * np.pi, 4000)
    radius = rng.uniform(9.0, 12.0, 4000)
    position = np.column_stack(
        [radius * np.cos(angle), radius * np.sin(angle), rng.uniform(-2, 2, 4000)]
    )
    return dataclasses.replace(box_of_points(rng, (0, 0, 0), (1, 1, 1), 4000), position=position)


def lap_poses(count: int) -> np.ndarray:
    """(count, 4, 4) cameras on the circle, looking ahead and a little outwards."""
    angle = np.arange(count) * 2 * np.pi / LAP
    return np.stack(
        [
            level_camera(RADIUS_M * np.cos(a), RADIUS_M * np.sin(a), a + np.deg2rad(50.0))
            for a in angle
        ]
    )


def drifting(true: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Poses whose every step is off by `bias` (a twist), and covariances that say so."""
    T, covariance = [true[0]], [np.eye(6) * 1e-8]
    for one, two in itertools.pairwise(true):
        step = se3.inverse(one) @ two @ se3.exp_se3(bias)
        T.append(T[-1] @ step)
        noise = np.diag(bias**2 + 1e-6)
        covariance.append(se3.compose_covariance(covariance[-1], noise, step))
    return np.stack(T), covariance


BIAS = np.array([0.01, 0.0, 0.015, 0.0, np.deg2rad(0.15), 0.0])  # 1.5 cm and 0.15 deg a step


@dataclasses.dataclass
class Drive:
    """A drive with drift, offered keyframe by keyframe."""

    closer: LoopCloser
    memory: KeyframeMemory
    true: np.ndarray
    T_odom: np.ndarray
    answers: list[np.ndarray | None]

    def error_m(self, number: int, T_map_odom: np.ndarray) -> float:
        T = T_map_odom @ self.T_odom[number]
        return float(np.linalg.norm(T[:3, 3] - self.true[number, :3, 3]))


def drive(
    ring: Places,
    count: int,
    config: LoopClosureConfig = CONFIG,
    capacity: int = 300,
    period_ns: int = 1_000_000_000,
) -> Drive:
    rng = np.random.default_rng(8)
    true = lap_poses(count)
    T_odom, covariance = drifting(true, BIAS)
    memory = KeyframeMemory(MemoryConfig(capacity=capacity))
    closer = LoopCloser(config, memory)
    answers = []
    for number, T in enumerate(true):
        keyframe, _ = ring.keyframe(number, T, rng, T_odom[number], period_ns)
        keyframe = dataclasses.replace(keyframe, covariance=covariance[number])
        answers.append(closer.offer(keyframe, ring.see(T, rng)[0], CAMERA))
    return Drive(closer, memory, true, T_odom, answers)


def test_drift_is_taken_out_after_the_first_lap(ring: Places) -> None:
    done = drive(ring, LAP + 8)
    closed = [number for number, answer in enumerate(done.answers) if answer is not None]
    assert closed
    assert LAP - 6 <= closed[0] <= LAP + 3
    back = done.answers[LAP]  # where it began, the one place without drift
    assert back is not None
    assert done.error_m(LAP, np.eye(4)) > 0.5
    assert done.error_m(LAP, back) < 0.03
    np.testing.assert_array_equal(done.closer.T_map_odom, done.answers[-1])


def test_without_a_return_the_map_stays_the_odom_frame(ring: Places) -> None:
    done = drive(ring, LAP // 2)
    assert done.answers == [None] * (LAP // 2)
    assert done.closer.loops == 0
    np.testing.assert_allclose(done.closer.T_map_odom, np.eye(4), atol=1e-12)


def test_the_first_recall_alone_closes_nothing(ring: Places) -> None:
    done = drive(ring, LAP + 8)
    recalls = _recalls_of(ring, LAP + 8)
    first = next(number for number, recall in enumerate(recalls) if recall is not None)
    closed = next(number for number, answer in enumerate(done.answers) if answer is not None)
    assert closed > first


def _recalls_of(ring: Places, count: int) -> list[Recall | None]:
    """What the memory answered, keyframe by keyframe."""
    answers: list[Recall | None] = []
    original = KeyframeMemory.recall

    def spy(self: KeyframeMemory, *args: Any, **words: Any) -> Recall | None:
        answers.append(original(self, *args, **words))
        return answers[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyframeMemory, 'recall', spy)
        drive(ring, count)
    return answers


def test_a_loop_that_asks_for_too_much_drift_is_refused(ring: Places) -> None:
    strict = dataclasses.replace(CONFIG, max_drift=0.001)
    rng = np.random.default_rng(8)
    true = lap_poses(LAP + 4)
    T_odom, _ = drifting(true, BIAS)
    closer = LoopCloser(strict, KeyframeMemory(MemoryConfig()))
    for number, T in enumerate(true):
        keyframe, _ = ring.keyframe(number, T, rng, T_odom[number])  # claims to be exact
        assert closer.offer(keyframe, ring.see(T, rng)[0], CAMERA) is None


def test_a_place_left_a_moment_ago_is_no_return(ring: Places) -> None:
    done = drive(ring, LAP + 8, period_ns=100_000_000)  # a lap in 3.6 s
    assert done.answers == [None] * (LAP + 8)


class Scripted(KeyframeMemory):
    """A memory whose recalls the test dictates, by id of the keyframe that asks."""

    script: dict[int, Recall]
    asked = -1

    def recall(self, *_: Any, **__: Any) -> Recall | None:
        self.asked += 1
        return self.script.get(self.asked)


def recall_of(keyframe_id: int, T_keyframe_camera: np.ndarray) -> Recall:
    nothing = np.zeros(0, np.int64)
    small = np.diag([1e-4] * 3 + [1e-6] * 3)
    return Recall(
        keyframe_id, T_keyframe_camera, small, T_keyframe_camera, small, nothing, nothing,
        np.full(1, 5.0), 0.5,
    )  # fmt: skip


def scripted_drive(ring: Places, script: dict[int, Recall], count: int = 30) -> Drive:
    memory = Scripted(MemoryConfig())
    memory.script = script
    rng = np.random.default_rng(1)
    true = lap_poses(count)
    T_odom, covariance = drifting(true, BIAS)
    closer = LoopCloser(CONFIG, memory)
    answers = []
    for number, T in enumerate(true):
        keyframe, _ = ring.keyframe(number, T, rng, T_odom[number])
        keyframe = dataclasses.replace(keyframe, covariance=covariance[number])
        answers.append(closer.offer(keyframe, ring.see(T, rng, clutter=30)[0], CAMERA))
    return Drive(closer, memory, true, T_odom, answers)


def true_recall(old: int, new: int, off: np.ndarray | None = None) -> Recall:
    true = lap_poses(new + 1)
    T = se3.inverse(true[old]) @ true[new]
    return recall_of(old, T if off is None else T @ se3.exp_se3(off))


def test_recalls_that_agree_are_believed(ring: Places) -> None:
    done = scripted_drive(ring, {25: true_recall(3, 25), 27: true_recall(4, 27)})
    assert [n for n, answer in enumerate(done.answers) if answer is not None] == [27]
    assert done.closer.loops == 2
    assert done.error_m(27, done.closer.T_map_odom) < 0.3 * done.error_m(27, np.eye(4))


def test_recalls_that_contradict_each_other_are_not_believed(ring: Places) -> None:
    off = np.array([0.3, 0.0, 0.0, 0.0, 0.0, 0.0])
    script = {25: true_recall(3, 25), 26: true_recall(4, 26, off), 27: true_recall(3, 27, -off)}
    done = scripted_drive(ring, script)
    assert done.answers == [None] * 30


def test_a_recall_long_unconfirmed_is_forgotten(ring: Places) -> None:
    done = scripted_drive(ring, {20: true_recall(3, 20), 26: true_recall(4, 26)})
    assert done.answers == [None] * 30


def test_a_recall_of_a_keyframe_unknown_to_the_graph_is_ignored(ring: Places) -> None:
    script = {n: dataclasses.replace(true_recall(3, n), keyframe_id=999) for n in (25, 26)}
    done = scripted_drive(ring, script)
    assert done.answers == [None] * 30


def test_keyframes_remembered_by_somebody_else_do_no_harm(ring: Places) -> None:
    rng = np.random.default_rng(4)
    memory = KeyframeMemory(MemoryConfig(capacity=6))
    closer = LoopCloser(CONFIG, memory)
    true = lap_poses(20)
    for number, T in enumerate(true):
        keyframe, _ = ring.keyframe(number, T, rng)
        if number < 4:
            memory.add(keyframe)
        else:
            assert closer.offer(keyframe, ring.see(T, rng)[0], CAMERA) is None
    assert len(memory) == 6
    assert closer.loops == 0


def test_many_laps_need_no_more_room_than_one(ring: Places) -> None:
    done = drive(ring, 3 * LAP, capacity=30)
    assert len(done.memory) == 30
    assert len(done.closer._graph) == 30
    assert done.closer.loops <= 30
    before = done.error_m(-1, np.eye(4))
    assert before > 1.5
    assert done.error_m(-1, done.closer.T_map_odom) < 0.2 * before


def test_forgetting_begins_a_new_map(ring: Places) -> None:
    done = drive(ring, LAP + 4)
    assert done.closer.loops > 0
    done.closer.forget()
    assert len(done.memory) == 0
    np.testing.assert_array_equal(done.closer.T_map_odom, np.eye(4))
    rng = np.random.default_rng(0)
    keyframe, _ = ring.keyframe(0, done.true[0], rng)
    assert done.closer.offer(keyframe, ring.see(done.true[0], rng)[0], CAMERA) is None


# ------------------------------------------------------------------------------------ from images


def stored_from(frame: Frame, number: int, T_odom: np.ndarray, covariance: np.ndarray) -> Any:
    """A keyframe of an image with depth, and its features."""
    features = load_extractor(FrontendConfig(max_keypoints=500, threads=1)).extract(frame.image)
    assert frame.depth_m is not None
    column, row = np.rint(features.xy).astype(int).T
    rho = 1.0 / frame.depth_m[row, column].astype(float)
    keyframe = StoredKeyframe(
        number, frame.stamp_ns, T_odom, covariance,
        ROOM_CAMERA.unproject(features.xy)[:, :2], rho, (0.02 * rho) ** 2,
        features.descriptor, appearance(frame.gray),
    )  # fmt: skip
    return keyframe, features


def test_a_walk_around_a_filmed_room_is_closed(room: World) -> None:
    knots = [(2.0, 2.0), (3.6, 2.0), (3.6, 3.6), (2.0, 3.6), (2.0, 2.0), (2.4, 1.9)]
    yaws = [0.0, 0.5 * np.pi, np.pi, 1.5 * np.pi, 2.0 * np.pi, 2.05 * np.pi]
    film = shoot(room, path_through(knots, yaws, 50))
    true = film.T_odom_base @ T_BASE_CAMERA
    T_odom, covariance = drifting(true, 2.0 * BIAS)
    closer = LoopCloser(dataclasses.replace(CONFIG, min_gap_s=1.5), KeyframeMemory(MemoryConfig()))
    answer = None
    for number, frame in enumerate(film.frames):
        one = stored_from(frame, number, T_odom[number], covariance[number])
        answer = closer.offer(*one, ROOM_CAMERA)
    assert answer is not None
    before = np.linalg.norm(T_odom[-1, :3, 3] - true[-1, :3, 3])
    after = np.linalg.norm((answer @ T_odom[-1])[:3, 3] - true[-1, :3, 3])
    assert before > 0.15
    assert after < 0.2 * before
