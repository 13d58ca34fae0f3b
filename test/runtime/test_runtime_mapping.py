"""The thread behind the answers: it changes none of them and holds none of them up."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
import threading
import time

import numpy as np
import pytest
from runtime_world import (
    T_BASE_CAMERA,
    Film,
    World,
    config,
    poses_of,
    position_errors_m,
    run,
    shoot,
    sideways_walk,
    statuses,
)

from kpvo_ros.frontend.extractor import Extractor
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import BadFrame, Features

SLOW_S = 0.4


class SlowExtractor:
    """Takes its time once told to, and tells in which thread it worked."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self.delay_s = 0.0
        self.threads: list[str] = []

    def extract(self, gray: np.ndarray, ignore: np.ndarray | None = None) -> Features:
        self.threads.append(threading.current_thread().name)
        time.sleep(self.delay_s)
        return self._extractor.extract(gray, ignore)


def test_the_same_frames_give_the_same_numbers_however_long_the_map_takes(walk: Film) -> None:
    frames = walk.frames[:50]
    plain = run(frames)
    odometry = Odometry(config(), T_BASE_CAMERA)
    slow = SlowExtractor(odometry._mapping._extractor)
    odometry._mapping._extractor = slow
    rng = np.random.default_rng(1)
    for one, frame in zip(plain, frames, strict=True):
        slow.delay_s = 0.02 * rng.random()
        again = odometry.step(frame)
        time.sleep(0.01 * rng.random())
        np.testing.assert_array_equal(again.T_odom_base, one.T_odom_base)
        np.testing.assert_array_equal(again.covariance, one.covariance)
        np.testing.assert_array_equal(again.features.xy, one.features.xy)
        assert again.is_keyframe == one.is_keyframe
    odometry.close()


def test_a_keyframe_is_answered_before_its_keypoints_are_found(walk: Film) -> None:
    odometry = Odometry(config(), T_BASE_CAMERA)
    odometry.step(walk.frames[0])
    slow = SlowExtractor(odometry._mapping._extractor)
    odometry._mapping._extractor, slow.delay_s = slow, SLOW_S
    for frame in walk.frames[1:40]:
        start = time.perf_counter()
        estimate = odometry.step(frame)
        took_s = time.perf_counter() - start
        if estimate.is_keyframe:
            break
    assert estimate.is_keyframe and took_s < SLOW_S / 2
    after = odometry.step(walk.frames[walk.frames.index(frame) + 1])
    assert after.stage_ms['wait'] > 0.5e3 * SLOW_S  # the next frame needs the map
    assert slow.threads and all(name.startswith('extraction') for name in slow.threads)
    odometry.close()


def test_the_map_is_adjusted_a_frame_after_a_keyframe_unless_these_are_frequent(
    walk: Film,
) -> None:
    for words in ((), ('keyframes.max_flow_ratio=0.01',)):
        estimates = run(walk.frames, *words)
        rows = [row for row, one in enumerate(estimates) if one.is_keyframe]
        late = {row + 2 for before, row in pairwise(rows) if row - before >= 4}
        found = {row for row, one in enumerate(estimates) if 'adjust' in one.stage_ms}
        assert found == {row for row in late if row < len(estimates)}
        assert len(found) >= 3


def test_an_error_of_the_map_reaches_the_caller(walk: Film) -> None:
    """Not a thread that dies in silence and a map that stays as it is."""
    odometry = Odometry(config(), T_BASE_CAMERA)
    odometry.step(walk.frames[0])

    def fail(*args: object) -> None:
        raise RuntimeError('out of memory')

    odometry._mapping._mapper.measure_new = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match='out of memory'):
        for frame in walk.frames[1:6]:
            odometry.step(frame)
    odometry.close()


def test_closing_ends_the_threads_and_may_be_repeated(walk: Film) -> None:
    before = threading.active_count()
    odometry = Odometry(config(), T_BASE_CAMERA)
    for frame in walk.frames[:5]:
        odometry.step(frame)
    assert threading.active_count() > before
    odometry.close()
    odometry.close()
    assert threading.active_count() == before


def test_a_reset_ends_the_threads_of_the_run_before(walk: Film) -> None:
    odometry = Odometry(config(), T_BASE_CAMERA)
    odometry.step(walk.frames[0])
    odometry.step(walk.frames[1])
    counts = []
    for _ in range(4):
        odometry.reset()
        odometry.step(walk.frames[0])
        odometry.step(walk.frames[1])
        counts.append(threading.active_count())
    assert len(set(counts)) == 1
    odometry.close()


# ---------------------------------------------------------------------------------- standstill


def test_a_standing_camera_keeps_pose_and_map_to_the_last_bit(room: World) -> None:
    path = sideways_walk(80)[:20]
    film = shoot(room, np.concatenate([path, np.repeat(path[-1:], 25, axis=0)]))
    odometry = Odometry(config(), T_BASE_CAMERA)
    estimates = [odometry.step(frame) for frame in film.frames[:30]]
    odometry._mapping.finish_work(odometry._mapping._watch)
    local_map = odometry._mapping.map
    kept = {name: getattr(local_map, name).copy() for name in ('rho', 'variance', 'anchor')}
    T_keyframes = local_map.T_odom_keyframe.copy()
    for frame in film.frames[30:]:
        still = odometry.step(frame)
        np.testing.assert_array_equal(still.T_odom_base, estimates[-1].T_odom_base)
        np.testing.assert_array_equal(still.covariance, estimates[-1].covariance)
        np.testing.assert_array_equal(still.twist, 0.0)
        assert still.reason == 'standing still' and not still.is_keyframe
    assert odometry._mapping.map is local_map
    for name, values in kept.items():
        np.testing.assert_array_equal(getattr(local_map, name), values)
    np.testing.assert_array_equal(local_map.T_odom_keyframe, T_keyframes)
    odometry.close()


@pytest.mark.parametrize('speed_m_s', [0.1, 0.2])
def test_a_crawl_is_followed_without_fits_and_starts(room: World, speed_m_s: float) -> None:
    """Five millimetres a frame are less than what a track may tremble."""
    path = np.tile(np.eye(4), (40, 1, 1))
    path[:, 0, 3] = 1.0 + speed_m_s * 0.05 * np.arange(40)
    path[:, 1, 3] = 2.5
    film = shoot(room, path)
    estimates = run(film.frames)
    assert statuses(estimates) == 'T' * 40
    speeds = np.array([one.twist[0] for one in estimates[10:]])
    np.testing.assert_allclose(speeds, speed_m_s, atol=0.06)
    assert position_errors_m(estimates, film.T_odom_base)[10:].max() < 0.01
    steps = np.diff(poses_of(estimates)[10:, 0, 3])
    assert (steps > 0).all()


def test_creeping_slower_than_anything_can_be_seen_adds_up(room: World) -> None:
    """One millimetre a frame: it stands and steps, but never falls far behind."""
    path = np.tile(np.eye(4), (60, 1, 1))
    path[:, 0, 3] = 1.0 + 0.001 * np.arange(60)
    path[:, 1, 3] = 2.5
    film = shoot(room, path)
    estimates = run(film.frames)
    assert statuses(estimates) == 'T' * 60
    assert position_errors_m(estimates, film.T_odom_base).max() < 0.03
    assert estimates[-1].T_odom_base[0, 3] > 0.025
    assert max(abs(one.twist[0]) for one in estimates) < 0.15  # the true speed is 0.02


# ---------------------------------------------------------------------------------------- mask


def test_masked_points_are_neither_found_nor_followed(walk: Film) -> None:
    mask = np.zeros((240, 320), bool)
    mask[:, 200:] = True
    plain = run(walk.frames[:40])
    frames = [dataclasses.replace(frame, mask=mask) for frame in walk.frames[:40]]
    masked = run(frames)
    assert all((one.features.xy[:, 0] > 200).any() for one in plain)
    for one in masked:
        x = np.rint(one.features.xy[:, 0]).astype(int)
        assert len(x) > 50 and x.max() < 200
    assert statuses(masked) == 'T' * 40
    assert position_errors_m(masked, walk.T_odom_base[:40]).max() < 0.04


def test_a_mask_that_comes_over_known_points_hides_them_at_once(walk: Film) -> None:
    mask = np.zeros((240, 320), bool)
    mask[60:180, 80:240] = True
    frames = [
        dataclasses.replace(frame, mask=mask) if row >= 15 else frame
        for row, frame in enumerate(walk.frames[:30])
    ]
    estimates = run(frames)
    for one in estimates[15:]:
        column, row = np.rint(one.features.xy).astype(int).T
        assert not mask[row, column].any()
    assert statuses(estimates) == 'T' * 30


def test_a_mask_of_another_size_is_a_bad_frame_and_not_the_end(walk: Film) -> None:
    frames = list(walk.frames[:10])
    frames[5] = dataclasses.replace(frames[5], mask=np.ones((10, 10), bool))
    estimates = run(frames)
    assert statuses(estimates) == 'TTTTTLTTTT'
    assert 'mask is 10x10' in estimates[5].reason


def test_a_bad_frame_right_after_a_keyframe_waits_for_the_map(walk: Film) -> None:
    odometry = Odometry(config(), T_BASE_CAMERA)
    odometry.step(walk.frames[0])
    slow = SlowExtractor(odometry._mapping._extractor)
    odometry._mapping._extractor, slow.delay_s = slow, 0.1
    for row in range(1, 40):
        if odometry.step(walk.frames[row]).is_keyframe:
            break
    answer = odometry.skip(BadFrame(walk.frames[row + 1].stamp_ns, 'truncated'))
    assert answer.status.value == 'lost'
    assert odometry.step(walk.frames[row + 2]).status.value == 'tracking'
    odometry.close()
