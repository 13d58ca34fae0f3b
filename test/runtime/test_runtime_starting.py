"""From no map to a map without depth: planes with their two answers, turns, interruptions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from runtime_world import (
    T_BASE_CAMERA,
    World,
    best_scale,
    black,
    make_rectangle,
    path_through,
    run,
    shoot,
    sideways_walk,
    statuses,
    turn_errors_deg,
)

from kpvo_ros.geometry import se3
from kpvo_ros.odometry import starting
from kpvo_ros.odometry.local_map import Sights


@pytest.fixture(scope='module')
def plane() -> World:
    """One wall and nothing else, at y = 0."""
    rng = np.random.default_rng(3)
    return World([make_rectangle(rng, (-10, 0, -10), (20, 0, 0), (0, 0, 20))])


@pytest.mark.parametrize(
    ('knots', 'yaw', 'starts'),
    [
        ([(0, -4.0), (0.5, -4.0), (1.0, -4.0)], np.pi / 2, True),
        ([(0, -4.0), (0.6, -3.7), (1.2, -3.4)], np.pi / 2, True),
        ([(0, -5.0), (0, -4.0), (0, -3.0)], np.pi / 2, True),
        ([(0, -4.0), (0.5, -4.0), (1.0, -4.0)], np.pi / 2 - 0.6, False),
        ([(0, -4.0), (0.6, -3.7), (1.2, -3.4)], np.pi / 2 - 0.6, False),
    ],
    ids=['along it', 'along and towards', 'towards it', 'looking aside', 'both, looking aside'],
)
def test_before_a_wall_the_right_motion_is_taken_or_none(
    plane: World, knots: list[tuple[float, float]], yaw: float, starts: bool
) -> None:
    """A plane explains two motions; the false one is off by tens of degrees."""
    film = shoot(plane, path_through(knots, [yaw] * 3, 40))
    estimates = run(film.frames, 'scale.source=none')
    rows = [row for row, one in enumerate(estimates) if one.status.value == 'tracking']
    assert rows or not starts
    if not rows:
        return
    poses = np.stack([estimates[row].T_odom_camera for row in rows])
    truth = (film.T_odom_base @ T_BASE_CAMERA)[rows]
    poses, truth = se3.inverse(poses[0]) @ poses, se3.inverse(truth[0]) @ truth
    errors = best_scale(poses, truth) * poses[:, :3, 3] - truth[:, :3, 3]
    assert np.linalg.norm(errors, axis=1).max() < 0.06 * np.linalg.norm(truth[-1, :3, 3])
    turns = [se3.rotation_angle_rad(a[:3, :3].T @ b[:3, :3]) for a, b in zip(poses, truth)]  # noqa: B905
    assert np.rad2deg(max(turns)) < 2.0


def test_a_turn_goes_on_after_the_first_view_has_left_the_image(room: World) -> None:
    """Two and a half radians on the spot: views are begun anew, the rotation adds up."""
    on_axis = T_BASE_CAMERA.copy()
    on_axis[:2, 3] = 0.0
    path = path_through([(3.0, 3.0)] * 4, [0.0, 0.8, 1.6, 2.5], 60)
    film = shoot(room, path, T_base_camera=on_axis)
    estimates = run(film.frames, 'scale.source=none', T_base_camera=on_axis)
    assert statuses(estimates) == 'S' + 'D' * 59
    assert sum(one.is_keyframe for one in estimates) >= 4
    assert turn_errors_deg(estimates, film.T_odom_base).max() < 0.5
    assert {one.map_id for one in estimates} == {0}
    # The speed of turning is told as well.
    rates = np.array([one.twist[5] for one in estimates[5:]])
    assert np.median(rates) == pytest.approx(2.5 / 59 / 0.05, rel=0.05)


def test_after_a_turn_on_the_spot_a_step_aside_makes_the_map(room: World) -> None:
    on_axis = T_BASE_CAMERA.copy()
    on_axis[:2, 3] = 0.0
    turn = path_through([(1.2, 1.5)] * 3, [1.0, 0.6, 0.3], 15)
    path = np.concatenate([turn, sideways_walk(80)[1:45]])
    film = shoot(room, path, T_base_camera=on_axis)
    estimates = run(film.frames, 'scale.source=none', T_base_camera=on_axis)
    assert statuses(estimates[1:15]) == 'D' * 14
    begun = statuses(estimates).index('T')
    assert begun < 45 and statuses(estimates[begun:]) == 'T' * (59 - begun)
    turned = se3.inverse(estimates[begun].T_odom_base) @ estimates[-1].T_odom_base
    wanted = se3.inverse(film.T_odom_base[begun]) @ film.T_odom_base[-1]
    assert np.rad2deg(se3.rotation_angle_rad(turned[:3, :3].T @ wanted[:3, :3])) < 0.5


def test_darkness_while_the_map_is_being_made_only_delays_it(room: World) -> None:
    film = shoot(room, sideways_walk(80)[:50])
    frames = [black(f) if 8 <= row < 12 else f for row, f in enumerate(film.frames)]
    estimates = run(frames, 'scale.source=none')
    assert statuses(estimates[8:12]) == 'S' * 4
    assert 'dark' in estimates[8].reason
    assert statuses(estimates[-10:]) == 'T' * 10


def test_two_views_are_tried_again_only_after_more_motion(
    room: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera of many frames a second would say the same of each, 20 ms a time."""
    tried: list[float] = []
    relative_pose = starting.relative_pose

    def counted(sights: Sights, *rest: Any) -> np.ndarray | None:
        tried.append(starting.turn_between(sights, rest[0], rest[1]).moved_px)
        return relative_pose(sights, *rest)

    monkeypatch.setattr(starting, 'relative_pose', counted)
    film = shoot(room, sideways_walk(200)[:80])  # one or two centimetres a frame
    told = statuses(run(film.frames, 'scale.source=none'))
    assert 'T' in told
    waiting = told.index('T') - 1
    assert 2 <= len(tried) < 0.8 * waiting
    assert all(later > 1.05 * earlier for earlier, later in pairwise(tried))
