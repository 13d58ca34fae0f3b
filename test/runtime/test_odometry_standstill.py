"""Is the camera standing? Tracks that stay, tracks that creep, tracks that are too few."""

from __future__ import annotations

import numpy as np
import pytest

from kpvo_ros.odometry.local_map import NO_SIGHTS, Sights
from kpvo_ros.odometry.standstill import MIN_TRACKS, REST_NS, Rest, is_standing

PERIOD_NS = 50_000_000


def tracks(rng: np.random.Generator, count: int = 200) -> np.ndarray:
    return rng.uniform(0, 300, (count, 2)).astype(np.float32)


def seen(xy: np.ndarray) -> Sights:
    return Sights(np.arange(len(xy)), xy, np.zeros((len(xy), 2)))


def test_tracks_that_only_tremble_are_at_rest(rng: np.random.Generator) -> None:
    xy = tracks(rng)
    assert is_standing(xy, xy, 200)
    assert is_standing(xy, xy + rng.normal(0, 0.1, xy.shape), 200)


@pytest.mark.parametrize('shift', [(0.5, 0.0), (0.0, -0.35), (3.0, 3.0)])
def test_tracks_that_all_move_are_not(
    rng: np.random.Generator, shift: tuple[float, float]
) -> None:
    xy = tracks(rng)
    assert not is_standing(xy, xy + np.array(shift), 200)


def test_a_passer_by_does_not_make_the_camera_move(rng: np.random.Generator) -> None:
    xy = tracks(rng)
    moved = xy.copy()
    moved[:15] += 8.0  # less than one in ten
    assert is_standing(xy, moved, 200)
    moved[:25] += 8.0
    assert not is_standing(xy, moved, 200)


def test_zooming_on_the_middle_is_moving(rng: np.random.Generator) -> None:
    """Driving straight at a far wall leaves half of the tracks nearly where they were."""
    xy = tracks(rng)
    assert not is_standing(xy, 150 + (xy - 150) * 1.015, 200)


def test_too_few_tracks_prove_nothing(rng: np.random.Generator) -> None:
    xy = tracks(rng, MIN_TRACKS - 1)
    assert not is_standing(xy, xy, len(xy))
    xy = tracks(rng, 50)
    assert not is_standing(xy, xy, 100)  # half of them are gone: that is another picture
    assert not is_standing(np.zeros((0, 2)), np.zeros((0, 2)), 0)


def test_a_camera_that_has_not_moved_yet_stands_at_once(rng: np.random.Generator) -> None:
    rest, xy = Rest(), tracks(rng)
    rest.begin(0, seen(xy))
    assert rest.lasts(PERIOD_NS, seen(xy), was_moving=False)


def test_a_moving_camera_stands_only_after_a_while(rng: np.random.Generator) -> None:
    rest, xy = Rest(), tracks(rng)
    rest.begin(0, seen(xy))
    for row in range(1, 12):
        stamp_ns = row * PERIOD_NS
        assert rest.lasts(stamp_ns, seen(xy), was_moving=True) == (stamp_ns >= REST_NS)


def test_a_crawl_never_stands(rng: np.random.Generator) -> None:
    """A tenth of a pixel a frame: each step is invisible, the sum is not."""
    rest, xy = Rest(), tracks(rng)
    rest.begin(0, seen(xy))
    for row in range(1, 60):
        now = xy + np.array([0.1 * row, 0.0], np.float32)
        assert is_standing(now - np.array([0.1, 0.0], np.float32), now, 200)
        assert not rest.lasts(row * PERIOD_NS, seen(now), was_moving=True)


def test_points_that_are_not_seen_any_more_do_not_hide_a_rest(rng: np.random.Generator) -> None:
    rest, xy = Rest(), tracks(rng)
    rest.begin(0, seen(xy))
    kept = np.arange(200) % 4 > 0
    assert rest.lasts(REST_NS, seen(xy)[kept], was_moving=True)


def test_with_new_numbers_of_the_points_a_rest_begins_anew(rng: np.random.Generator) -> None:
    rest, xy = Rest(), tracks(rng)
    rest.begin(0, NO_SIGHTS)
    assert not rest.lasts(REST_NS, seen(xy), was_moving=True)
    assert not rest.lasts(2 * REST_NS - 1, seen(xy), was_moving=True)
    assert rest.lasts(2 * REST_NS, seen(xy), was_moving=True)
