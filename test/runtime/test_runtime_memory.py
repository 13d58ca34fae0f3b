"""Stored keyframes: recognised where they are, never elsewhere, and never too many of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from places_world import (
    AHEAD,
    LOOKS,
    SIGMA_PX,
    Places,
    level_camera,
    random_descriptors,
    room_ahead,
    together,
)
from points_world import CAMERA
import pytest

from kpvo_ros.config.runtime import MemoryConfig
from kpvo_ros.errors import OdometryError
from kpvo_ros.geometry import se3
from kpvo_ros.odometry import memory as memory_module
from kpvo_ros.odometry.memory import KeyframeMemory
from kpvo_ros.odometry.recall import Recall, StoredKeyframe
from kpvo_ros.types import Features

CONFIG = MemoryConfig(capacity=20)


def off(T: np.ndarray, T_true: np.ndarray) -> tuple[float, float]:
    """(metres, degrees) between two poses."""
    E = se3.inverse(T_true) @ T
    return float(np.linalg.norm(E[:3, 3])), float(np.rad2deg(se3.rotation_angle_rad(E)))


def remembering(
    world: Places, poses: list[np.ndarray], rng: np.random.Generator, config: Any = CONFIG
) -> KeyframeMemory:
    memory = KeyframeMemory(config)
    for number, T in enumerate(poses):
        memory.add(world.keyframe(number, T, rng)[0])
    return memory


@pytest.fixture
def rooms(rng: np.random.Generator) -> Places:
    """Five rooms, twenty metres apart."""
    return together(*(room_ahead(rng, 20.0 * k) for k in range(5)))


@pytest.fixture
def doors() -> list[np.ndarray]:
    """A camera before each room."""
    return [level_camera(20.0 * k, 0.0, AHEAD) for k in range(5)]


# ------------------------------------------------------------------------------------ recalling


def test_the_pose_before_a_known_room_is_found(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    memory = remembering(rooms, doors, rng)
    for room in range(5):
        T_true = level_camera(20.0 * room + 0.6, 0.5, AHEAD + 0.15)
        features, _ = rooms.see(T_true, rng)
        found = memory.recall(features, LOOKS, CAMERA)
        assert found is not None
        assert found.keyframe_id == room
        metres, degrees = off(found.T_odom_camera, T_true)
        assert metres < 0.03
        assert degrees < 0.3


def test_the_pairs_of_a_recall_show_the_same_points(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    memory = remembering(rooms, doors[:1], rng)
    _, point_rows = rooms.keyframe(0, doors[0], rng)
    T_true = level_camera(0.5, 0.3, AHEAD)
    features, feature_rows = rooms.see(T_true, rng)
    found = memory.recall(features, LOOKS, CAMERA)
    assert found is not None
    assert found.inliers >= 100
    same = feature_rows[found.index_feature] == point_rows[found.index_point]
    assert same.mean() > 0.98
    assert len(np.unique(found.index_feature)) == len(np.unique(found.index_point)) == len(same)
    position = rooms.position[point_rows[found.index_point]]
    depth = se3.transform(se3.inverse(T_true), position)[:, 2]
    np.testing.assert_allclose(found.depth, depth, rtol=0.06)


def test_the_covariance_of_a_recall_covers_its_errors(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    nees = []
    for _ in range(30):
        memory = remembering(rooms, doors[:1], rng)
        T_true = doors[0] @ se3.exp_se3(rng.normal(0, [0.3, 0.1, 0.3, 0.03, 0.1, 0.03]))
        found = memory.recall(rooms.see(T_true, rng)[0], LOOKS, CAMERA)
        assert found is not None
        xi = se3.log_se3(se3.inverse(se3.inverse(doors[0]) @ T_true) @ found.T_keyframe_camera)
        nees.append(xi @ np.linalg.solve(found.relative_covariance, xi))
    assert SIGMA_PX < 1.0  # the detector assumed is worse than the one here, so errors are smaller
    assert 0.3 < np.mean(nees) < 6.0


def test_a_recall_is_as_uncertain_as_its_keyframe_at_least(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    stored, _ = rooms.keyframe(0, doors[0], rng)
    memory = KeyframeMemory(CONFIG)
    memory.add(dataclasses.replace(stored, covariance=np.diag([0.04] * 3 + [1e-4] * 3)))
    found = memory.recall(rooms.see(doors[0], rng)[0], LOOKS, CAMERA)
    assert found is not None
    assert np.trace(found.covariance[:3, :3]) > 3 * 0.04
    assert np.trace(found.relative_covariance[:3, :3]) < 0.01


def test_an_unknown_place_is_not_recognised(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    memory = remembering(rooms, doors[:4], rng)
    for _ in range(5):
        assert memory.recall(rooms.see(doors[4], rng)[0], LOOKS, CAMERA) is None


def test_two_rooms_that_share_a_poster_are_told_apart(rng: np.random.Generator) -> None:
    poster = Places(
        rng.uniform((-1.2, 5.0, -0.8), (0.2, 5.2, 0.6), (60, 3)), random_descriptors(rng, 60)
    )
    twin = Places(poster.position + (20.0, 0.0, 0.0), poster.descriptor)
    world = together(room_ahead(rng, 0.0), poster, room_ahead(rng, 20.0), twin)
    here, there = level_camera(0.0, 0.0, AHEAD), level_camera(20.0, 0.0, AHEAD)
    only_here = remembering(world, [here], rng)
    assert only_here.recall(world.see(there, rng)[0], LOOKS, CAMERA) is None
    both = remembering(world, [here, there], rng)
    found = both.recall(world.see(there, rng)[0], LOOKS, CAMERA)
    assert found is not None
    assert found.keyframe_id == 1


def test_of_two_equal_rooms_the_expected_one_is_recalled(rng: np.random.Generator) -> None:
    room = room_ahead(rng, 0.0)
    twin = Places(room.position + (20.0, 0.0, 0.0), room.descriptor)
    world = together(room, twin)
    poses = [level_camera(x, 0.0, AHEAD) for x in (0.0, 20.0)]
    memory = remembering(world, poses, rng)
    features, _ = world.see(poses[0], rng)
    for number, T_guess in enumerate(poses):
        found = memory.recall(
            features, LOOKS, CAMERA, T_guess=T_guess, sigma_m=0.5, budget=1, fresh=True
        )
        assert found is not None
        assert found.keyframe_id == number


def test_a_place_far_from_a_confident_guess_needs_twice_the_support(
    rng: np.random.Generator, doors: list[np.ndarray]
) -> None:
    world = together(room_ahead(rng, 0.0, 60), room_ahead(rng, 20.0, 60))
    memory = remembering(world, doors[:2], rng)
    features, _ = world.see(doors[0], rng, missed=0.1)
    found = memory.recall(features, LOOKS, CAMERA)
    assert found is not None
    assert CONFIG.min_inliers <= found.inliers < 2 * CONFIG.min_inliers
    guess = {'T_guess': level_camera(60.0, 0.0, AHEAD)}
    assert memory.recall(features, LOOKS, CAMERA, sigma_m=0.1, **guess) is None
    assert memory.recall(features, LOOKS, CAMERA, sigma_m=50.0, **guess) is not None


def test_points_of_unknown_or_hopeless_depth_prove_nothing(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    stored, _ = rooms.keyframe(0, doors[0], rng)
    blind = dataclasses.replace(
        stored, rho=np.zeros_like(stored.rho), variance=np.full(len(stored.rho), np.inf)
    )
    vague = dataclasses.replace(stored, id=1, variance=(3.0 * stored.rho) ** 2)
    memory = KeyframeMemory(CONFIG)
    memory.add(blind)
    memory.add(vague)
    T_aside = level_camera(2.0, 1.0, AHEAD)
    assert memory.recall(rooms.see(T_aside, rng)[0], LOOKS, CAMERA) is None


def test_float_descriptors_are_recalled_as_well(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    def as_float(descriptor: np.ndarray) -> np.ndarray:
        bits = np.unpackbits(descriptor, axis=1).astype(np.float32)
        return np.sqrt(bits / bits.sum(1, keepdims=True))

    memory = KeyframeMemory(CONFIG)
    for number, T in enumerate(doors):
        stored, _ = rooms.keyframe(number, T, rng)
        memory.add(dataclasses.replace(stored, descriptor=as_float(stored.descriptor)))
    features, _ = rooms.see(doors[3], rng)
    features = dataclasses.replace(features, descriptor=as_float(features.descriptor))
    found = memory.recall(features, LOOKS, CAMERA, budget=1)
    assert found is not None
    assert found.keyframe_id == 3


def test_an_empty_memory_and_an_empty_image_recall_nothing(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    features, _ = rooms.see(doors[0], rng)
    nothing = Features(features.xy[:0], features.score[:0], features.descriptor[:0])
    assert KeyframeMemory(CONFIG).recall(features, LOOKS, CAMERA) is None
    assert remembering(rooms, doors, rng).recall(nothing, LOOKS, CAMERA) is None


def test_excluded_and_too_new_keyframes_are_not_recalled(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    memory = remembering(rooms, doors, rng)
    features, _ = rooms.see(doors[2], rng)
    assert memory.recall(features, LOOKS, CAMERA, exclude_ids=[2]) is None
    assert memory.recall(features, LOOKS, CAMERA, not_newer_than_ns=1_999_999_999) is None
    assert memory.recall(features, LOOKS, CAMERA, not_newer_than_ns=2_000_000_000) is not None


# ------------------------------------------------------------------------- the order of attempts


class Attempts:
    """Stands in for the verification: counts, recognises nothing."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def __call__(self, keyframe: StoredKeyframe, *_: Any) -> Recall | None:
        self.ids.append(keyframe.id)
        return None


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Attempts:
    stand_in = Attempts()
    monkeypatch.setattr(memory_module, 'verify', stand_in)
    return stand_in


@settings(deadline=None, max_examples=20)
@given(count=st.integers(1, 20), budget=st.integers(1, 5))
def test_calls_in_a_row_go_through_the_whole_memory(count: int, budget: int) -> None:
    rng = np.random.default_rng(count)
    world = room_ahead(rng, 0.0, 60)
    memory = remembering(world, [level_camera(0.1 * k, 0.0, AHEAD) for k in range(count)], rng)
    features, _ = world.see(level_camera(0.0, 0.0, AHEAD), rng)
    stand_in = Attempts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_module, 'verify', stand_in)
        for _ in range(count):
            before = len(stand_in.ids)
            assert memory.recall(features, LOOKS, CAMERA, budget=budget) is None
            tried = stand_in.ids[before:]
            assert len(tried) == len(set(tried)) <= budget
    assert set(stand_in.ids) == set(range(count))


def test_the_most_similar_is_tried_first_and_fresh_calls_repeat_it(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray], attempts: Attempts
) -> None:
    memory = remembering(rooms, doors, rng)
    features, _ = rooms.see(doors[3], rng)
    for _ in range(3):
        memory.recall(features, LOOKS, CAMERA, budget=1, fresh=True)
    assert attempts.ids == [3, 3, 3]


def test_a_new_search_begins_with_the_best_again(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray], attempts: Attempts
) -> None:
    memory = remembering(rooms, doors, rng)
    features, _ = rooms.see(doors[3], rng)
    memory.recall(features, LOOKS, CAMERA, budget=1)
    memory.recall(features, LOOKS, CAMERA, budget=1)
    memory.restart_search()
    memory.recall(features, LOOKS, CAMERA, budget=1)
    assert attempts.ids[0] == attempts.ids[2] == 3
    assert attempts.ids[1] != 3


# ----------------------------------------------------------------------------------- the storage


def test_a_full_memory_still_covers_the_whole_path(rng: np.random.Generator) -> None:
    world = room_ahead(rng, 0.0, 50)
    stored, _ = world.keyframe(0, level_camera(0.0, 0.0, AHEAD), rng)
    memory = KeyframeMemory(MemoryConfig(capacity=20))
    place = np.linspace(0.0, 100.0, 101)
    kept: dict[int, float] = {}
    for number, x in enumerate(place):
        T = level_camera(x, 0.0, AHEAD)
        dropped = memory.add(dataclasses.replace(stored, id=number, T_odom_camera=T))
        kept[number] = x
        if dropped is not None:
            del kept[dropped]
        assert memory.ids == sorted(kept)
        assert len(memory) == min(number + 1, 20)
    gaps = np.abs(place[:, None] - np.array(list(kept.values()))).min(axis=1)
    assert gaps.max() < 8.0  # twenty evenly spread ones leave 2.5


def test_of_two_keyframes_of_one_place_the_older_goes(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    config = MemoryConfig(capacity=5)
    memory = remembering(rooms, doors, rng, config)
    again, _ = rooms.keyframe(5, doors[2], rng)
    assert memory.add(again) == 2
    assert memory.ids == [0, 1, 3, 4, 5]


def test_ids_must_increase(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    memory = remembering(rooms, doors, rng)
    with pytest.raises(OdometryError, match='keyframe 4 is stored or old'):
        memory.add(rooms.keyframe(4, doors[0], rng)[0])


def test_a_forgotten_memory_is_empty_and_usable(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    memory = remembering(rooms, doors, rng)
    memory.forget()
    features, _ = rooms.see(doors[1], rng)
    assert len(memory) == 0
    assert memory.recall(features, LOOKS, CAMERA) is None
    memory.add(rooms.keyframe(1, doors[1], rng)[0])
    assert memory.recall(features, LOOKS, CAMERA) is not None


def test_a_moved_memory_recalls_poses_of_the_new_frame(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    memory = remembering(rooms, doors, rng)
    features, _ = rooms.see(doors[1], rng)
    before = memory.recall(features, LOOKS, CAMERA)
    T_new_old = se3.exp_se3(np.array([1.0, -2.0, 0.5, 0.1, 0.2, -0.3]))
    memory.move(T_new_old)
    after = memory.recall(features, LOOKS, CAMERA)
    assert before is not None
    assert after is not None
    np.testing.assert_allclose(after.T_odom_camera, T_new_old @ before.T_odom_camera, atol=1e-12)
    np.testing.assert_allclose(after.covariance, before.covariance, atol=1e-12)


def test_the_same_calls_give_the_same_answer(
    rng: np.random.Generator, rooms: Places, doors: list[np.ndarray]
) -> None:
    memory = remembering(rooms, doors, rng)
    features, _ = rooms.see(level_camera(40.4, 0.2, AHEAD), rng)
    first, second = (memory.recall(features, LOOKS, CAMERA) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.T_odom_camera, second.T_odom_camera)
    np.testing.assert_array_equal(first.index_feature, second.index_feature)
