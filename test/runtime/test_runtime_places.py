"""What remembered places are good for: kidnapped, lost elsewhere, driven in a loop."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_world import (
    T_BASE_CAMERA,
    Film,
    World,
    black,
    config,
    in_order,
    make_room,
    position_errors_m,
    run,
    shoot,
    sideways_walk,
    statuses,
    turn_errors_deg,
)

from kpvo_ros.errors import OdometryError
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.pipeline import Odometry

AT_ONCE = ('tracking.correction_m_s=1000', 'tracking.correction_rad_s=1000')


def test_a_kidnapped_robot_finds_itself_where_it_has_been_before(walk: Film) -> None:
    """Carried in the dark from the end of the walk to near its beginning, three metres away."""
    frames = in_order([*walk.frames, *[black(walk.frames[0])] * 10, *walk.frames[10:40]])
    truth = np.concatenate([walk.T_odom_base, walk.T_odom_base[70:], walk.T_odom_base[10:40]])
    estimates = run(frames, *AT_ONCE)
    assert statuses(estimates) == 'T' * 80 + 'L' * 10 + 'T' * 30
    assert position_errors_m(estimates, truth)[90:].max() < 0.05
    assert turn_errors_deg(estimates, truth)[90:].max() < 1.0
    assert {one.map_id for one in estimates} == {0}
    assert np.trace(estimates[-1].covariance) < 0.05 * np.trace(estimates[89].covariance)


def test_it_recognises_a_place_from_a_little_aside(room: World, walk: Film) -> None:
    """Forty centimetres and ten degrees off everything it has seen."""
    aside = sideways_walk(80)[20:40] @ se3.from_rt(
        se3.rpy_to_matrix(0, 0, np.deg2rad(-10)), [0.0, -0.4, 0.0]
    )
    second = shoot(room, aside)
    frames = in_order([*walk.frames, *[black(walk.frames[0])] * 10, *second.frames])
    truth = se3.inverse(sideways_walk(80)[0]) @ aside
    estimates = run(frames, *AT_ONCE)
    assert statuses(estimates[95:]).count('T') >= 14
    found = [row for row in range(90, 110) if estimates[row].status.value == 'tracking']
    errors = position_errors_m([estimates[row] for row in found], truth[np.array(found) - 90])
    assert errors.max() < 0.08


def test_a_place_never_seen_is_not_recognised(walk: Film) -> None:
    elsewhere = shoot(make_room(np.random.default_rng(78)), sideways_walk(80)[20:35])
    estimates = run(in_order([*walk.frames[:50], *elsewhere.frames]))
    assert statuses(estimates[50:]) == 'L' * 15
    assert np.linalg.norm(estimates[-1].T_odom_base[:3, 3]) > 0.5


def test_back_from_elsewhere_the_old_map_has_its_number_again(walk: Film) -> None:
    elsewhere = shoot(make_room(np.random.default_rng(78)), sideways_walk(80)[20:50])
    frames = in_order([*walk.frames[:60], *elsewhere.frames, *walk.frames[20:50]])
    estimates = run(frames, *AT_ONCE)
    assert {one.map_id for one in estimates[:80]} == {0}
    assert {one.map_id for one in estimates[83:90]} == {1}  # after restart_after_s
    assert statuses(estimates[92:]) == 'T' * 28
    assert {one.map_id for one in estimates[92:]} == {0}
    assert position_errors_m(estimates[92:], walk.T_odom_base[22:50]).max() < 0.05


def test_a_map_begun_anew_is_joined_to_the_old_one_when_it_meets_it(room: World) -> None:
    """In the dark the robot turns round; it starts anew there and turns back."""
    first = sideways_walk(80)[:40]
    behind = np.linspace(np.pi, 0.0, 60)
    last = first[-1]
    back = np.stack([last @ se3.from_rt(se3.rpy_to_matrix(0, 0, a), [0, 0, 0]) for a in behind])
    film = shoot(room, np.concatenate([first, back]))
    frames = [black(f) if 40 <= row < 45 else f for row, f in enumerate(film.frames)]
    words = ('keyframes.restart_after_s=0.2', *AT_ONCE)
    estimates = run(frames, *words)
    ids = [one.map_id for one in estimates]
    assert ids[:45] == [0] * 45 and 1 in ids[45:70]
    joined = 99 - ids[::-1].index(1) + 1
    assert joined < 100 and ids[joined:] == [0] * (100 - joined)
    turned = turn_errors_deg(estimates, film.T_odom_base)
    assert turned[joined - 1] > 100.0 and turned[joined + 1 :].max() < 3.0
    # Two views that share a corner of a wall join the maps; they do not measure them.
    assert position_errors_m(estimates, film.T_odom_base)[joined + 1 :].max() < 0.2


def test_a_loop_gives_the_correction_between_map_and_odom(walk: Film) -> None:
    pytest.importorskip('gtsam')
    frames = in_order([*walk.frames, *walk.frames[::-1], *walk.frames[:70]])
    truth = np.concatenate([walk.T_odom_base, walk.T_odom_base[::-1], walk.T_odom_base[:70]])
    words = ('keyframes.window=4', 'keyframes.max_flow_ratio=0.05')
    plain = run(frames, *words)
    estimates = run(frames, *words, 'loop_closure.enabled=true', 'loop_closure.min_gap_s=2.0')
    assert all(one.T_map_odom is None for one in plain)
    corrections = [one.T_map_odom for one in estimates]
    assert all(T is not None for T in corrections)
    np.testing.assert_allclose(corrections[0], np.eye(4), atol=1e-12)
    assert not np.allclose(corrections[-1], np.eye(4), atol=1e-4)
    # Odom does not notice; the map is at least as good.
    np.testing.assert_array_equal(estimates[-1].T_odom_base, plain[-1].T_odom_base)
    in_map = corrections[-1] @ estimates[-1].T_odom_base
    off = np.linalg.norm(in_map[:3, 3] - truth[-1, :3, 3])
    assert off < position_errors_m(estimates, truth)[-1] + 0.005


def test_loop_closure_without_its_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'gtsam', None)
    monkeypatch.delitem(__import__('sys').modules, 'kpvo_ros.odometry.loop_closure', raising=False)
    monkeypatch.delitem(__import__('sys').modules, 'kpvo_ros.odometry.pose_graph', raising=False)
    with pytest.raises(OdometryError, match='gtsam'):
        Odometry(config('loop_closure.enabled=true'), T_BASE_CAMERA)
