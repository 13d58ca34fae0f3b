"""A blurred stretch: the motion goes on by what a network sees, and everybody is told so."""

from __future__ import annotations

import numpy as np
from runtime_world import Film, black, position_errors_m, statuses
from true_depth import TrueDepth, blurred, replay_with, shape_errors_m, without_depth

from kpvo_ros.types import Frame

BLUR = range(30, 46)


def with_blur(frames: list[Frame], rows: range = BLUR) -> list[Frame]:
    return [blurred(frame, 14.0) if row in rows else frame for row, frame in enumerate(frames)]


def test_a_blurred_stretch_is_degraded_instead_of_lost(walk: Film) -> None:
    frames = with_blur(walk.frames)
    lost, carried = (replay_with(source, frames) for source in (None, TrueDepth(walk)))
    assert statuses(lost) == 'T' * 30 + 'L' * 16 + 'T' * 34
    assert statuses(carried) == 'T' * 30 + 'D' * 16 + 'T' * 34
    assert {one.map_id for one in carried} == {0}
    errors = position_errors_m(carried, walk.T_odom_base)
    assert errors.max() < 0.1 < 0.4 < position_errors_m(lost, walk.T_odom_base).max()
    sigma = np.array([np.sqrt(np.trace(one.covariance[:3, :3])) for one in carried])
    assert (np.diff(sigma[29:46]) > 0).all() and sigma[45] > 10 * sigma[29]
    assert (errors[30:46] < 3 * sigma[30:46]).all()
    assert all(one.reason.endswith('from learned motions') for one in carried[30:46])
    speed = np.linalg.norm([one.twist[:3] for one in carried[33:46]], axis=1)
    true = np.linalg.norm(np.diff(walk.T_odom_base[32:46, :3, 3], axis=0), axis=1) / 0.05
    np.testing.assert_allclose(speed, true, atol=0.6)


def test_a_stretch_longer_than_a_map_lasts_is_carried_into_the_next_one(walk: Film) -> None:
    frames = with_blur(walk.frames, range(30, 60))
    estimates = replay_with(TrueDepth(walk), frames)
    assert statuses(estimates) == 'T' * 30 + 'D' * 30 + 'T' * 20
    assert position_errors_m(estimates, walk.T_odom_base).max() < 0.2


def test_in_a_map_of_any_unit_a_blur_is_carried_as_well(walk: Film) -> None:
    frames = with_blur(without_depth(walk))
    lost, carried = (
        replay_with(source, frames, 'scale.source=none') for source in (None, TrueDepth(walk))
    )
    assert statuses(lost[30:46]) == 'L' * 16
    assert statuses(carried[30:46]) == 'D' * 16
    assert shape_errors_m(carried, walk).max() < 0.15


def test_the_dark_carries_nobody(walk: Film) -> None:
    dark = [black(frame) if row in BLUR else frame for row, frame in enumerate(walk.frames)]
    source = TrueDepth(walk)
    estimates = replay_with(source, dark)
    assert statuses(estimates[30:46]) == 'L' * 16
    assert set(source.threads) == {'depth'}, 'nobody was asked about the dark'
