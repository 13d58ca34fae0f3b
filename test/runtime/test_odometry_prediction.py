"""Wheels and gyro: what they tell of the motion, and dead reckoning through the dark."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import logging

import numpy as np
import pytest
from runtime_world import (
    CAMERA_HEIGHT_M,
    PERIOD_NS,
    START_NS,
    T_BASE_CAMERA,
    Film,
    World,
    black,
    config,
    make_room,
    path_through,
    poses_of,
    position_errors_m,
    run,
    shoot,
    sideways_walk,
    statuses,
    turn_errors_deg,
)
from scipy.spatial.transform import Rotation

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import Frame, Gyro, OdometryEstimate, Status, WheelOdometry

DARK = slice(25, 65)
MS = 1_000_000
CHI2_6_999 = 22.5  # six degrees of freedom, 99.9 %


# ------------------------------------------------------------------------------------- helpers


def rolled(T: np.ndarray, scale: float = 1.01, seed: int = 3) -> np.ndarray:
    """(N, 4, 4) what wheels 1 % too small say about a path, with noise of each step."""
    rng, poses = np.random.default_rng(seed), [np.eye(4)]
    for step in se3.inverse(T[:-1]) @ T[1:]:
        wrong = step.copy()
        wrong[:3, 3] *= scale * (1 + 0.01 * rng.normal())
        poses.append(poses[-1] @ wrong @ turned(0.001 * rng.normal()))
    return np.stack(poses)


def turned(yaw: float, x: float = 0.0) -> np.ndarray:
    return se3.from_rt(se3.rpy_to_matrix(0.0, 0.0, yaw), [x, 0.0, 0.0])


def wheels_of(film: Film, poses: np.ndarray) -> list[WheelOdometry]:
    return [WheelOdometry(f.stamp_ns, T) for f, T in zip(film.frames, poses, strict=True)]


def rates_of(film: Film, bias: np.ndarray | None = None) -> list[Gyro]:
    """Rates at 100 Hz, from the truth: constant between two frames."""
    bias = np.zeros(3) if bias is None else bias
    steps = se3.inverse(film.T_odom_base[:-1]) @ film.T_odom_base[1:]
    rates = Rotation.from_matrix(steps[:, :3, :3]).as_rotvec() / (PERIOD_NS * 1e-9)
    stamps = START_NS + np.arange(0, PERIOD_NS * len(steps), 10 * MS) + 5 * MS
    rows = (stamps - START_NS) // PERIOD_NS
    return [Gyro(int(s), rates[row] + bias) for s, row in zip(stamps, rows, strict=True)]


def everything(film: Film) -> list[WheelOdometry | Gyro]:
    return [*wheels_of(film, rolled(film.T_odom_base)), *rates_of(film)]


def covered(film: Film, dark: slice = DARK) -> list[Frame]:
    frames = list(film.frames)
    frames[dark] = [black(frame) for frame in frames[dark]]
    return frames


def drive(
    frames: Iterable[Frame],
    records: Iterable[WheelOdometry | Gyro],
    *words: str,
    late_ns: int = 0,
) -> list[OdometryEstimate]:
    """The odometry over frames and records in the order of time; records come `late_ns` late."""
    odometry = Odometry(config(*words), T_BASE_CAMERA)
    waiting = sorted(records, key=lambda record: record.stamp_ns)
    estimates = []
    for frame in frames:
        while waiting and waiting[0].stamp_ns + late_ns <= frame.stamp_ns:
            record = waiting.pop(0)
            if isinstance(record, Gyro):
                odometry.offer_gyro(record)
            else:
                odometry.offer_wheel(record)
        estimates.append(odometry.step(frame))
    odometry.close()
    return estimates


def way_m(film: Film, rows: slice = DARK) -> float:
    places = film.T_odom_base[rows, :3, 3]
    return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())


def jumps_m(estimates: list[OdometryEstimate], film: Film) -> np.ndarray:
    """(N - 1,) how far a step of the told pose is from that of the robot."""
    told, true = poses_of(estimates), film.T_odom_base[: len(estimates)]
    steps, true_steps = se3.inverse(told[:-1]) @ told[1:], se3.inverse(true[:-1]) @ true[1:]
    return np.linalg.norm(steps[:, :3, 3] - true_steps[:, :3, 3], axis=1)


def nees(estimate: OdometryEstimate, T_true: np.ndarray) -> float:
    """Squared error of all six in units of the covariance."""
    turn = Rotation.from_matrix(estimate.T_odom_base[:3, :3] @ T_true[:3, :3].T).as_rotvec()
    error = np.concatenate([estimate.T_odom_base[:3, 3] - T_true[:3, 3], turn])
    return float(error @ np.linalg.solve(estimate.covariance, error))


@pytest.fixture(scope='module')
def dark_walk(walk: Film) -> list[OdometryEstimate]:
    """Two seconds of darkness on `walk`, with wheels."""
    return drive(covered(walk), wheels_of(walk, rolled(walk.T_odom_base)), 'prediction.wheel=true')


# ------------------------------------------------------------------------- through the darkness


def test_in_the_dark_the_pose_goes_on_by_the_wheels(
    walk: Film, dark_walk: list[OdometryEstimate]
) -> None:
    errors = position_errors_m(dark_walk, walk.T_odom_base)
    assert way_m(walk) > 1.4  # or nothing would be shown
    assert errors[DARK].max() < 0.05 * way_m(walk)
    assert turn_errors_deg(dark_walk, walk.T_odom_base)[DARK].max() < 2.0
    assert jumps_m(dark_walk, walk).max() < 0.05


def test_a_pose_by_the_wheels_says_so_and_is_not_lost(
    walk: Film, dark_walk: list[OdometryEstimate]
) -> None:
    assert statuses(dark_walk) == 'T' * 25 + 'D' * 40 + 'T' * 15
    for one in dark_walk[DARK]:
        assert 'dark' in one.reason and one.reason.endswith('position from the wheels')
        assert one.inliers == 0 and one.has_pose
    speed = np.linalg.norm([one.twist[:3] for one in dark_walk[DARK]], axis=1)
    steps = np.linalg.norm(np.diff(walk.T_odom_base[24:65, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(speed, steps / (PERIOD_NS * 1e-9), rtol=0.1)


def test_after_the_dark_the_old_map_is_found_from_where_the_wheels_have_led(
    walk: Film, dark_walk: list[OdometryEstimate]
) -> None:
    assert {one.map_id for one in dark_walk} == {0}
    assert position_errors_m(dark_walk, walk.T_odom_base)[-10:].max() < 0.02


def test_without_wheels_the_same_dark_loses_more_than_a_metre(walk: Film) -> None:
    errors = position_errors_m(run(covered(walk)), walk.T_odom_base)
    assert errors[DARK].max() > 1.0


def test_the_covariance_grows_with_every_dark_frame_and_holds_the_error(walk: Film) -> None:
    surprises = []
    for seed in range(4):
        wheels = wheels_of(walk, rolled(walk.T_odom_base, 1.0 + 0.02 * (-1) ** seed, seed))
        estimates = drive(covered(walk)[: DARK.stop], wheels, 'prediction.wheel=true')
        sizes = np.array([np.trace(one.covariance) for one in estimates])
        assert (np.diff(sizes[DARK.start - 1 :]) > 0).all()
        assert np.sqrt(np.trace(estimates[-1].covariance[:3, :3])) < 0.1 * way_m(walk)
        rows = range(DARK.start, DARK.stop)
        surprises += [nees(estimates[row], walk.T_odom_base[row]) for row in rows]
    assert max(surprises) < CHI2_6_999
    assert np.mean(surprises) > 0.2  # nor is it so large that nobody could use it


def test_a_new_map_begins_where_the_wheels_have_led(walk: Film) -> None:
    elsewhere = shoot(make_room(np.random.default_rng(78)), sideways_walk(80))
    frames = [*covered(walk)[: DARK.stop], *elsewhere.frames[DARK.stop :]]
    wheels = wheels_of(walk, rolled(walk.T_odom_base))
    estimates = drive(frames, wheels, 'prediction.wheel=true')
    assert [estimates[row].map_id for row in (0, -1)] == [0, 1]
    assert position_errors_m(estimates, walk.T_odom_base).max() < 0.05 * way_m(walk)
    assert jumps_m(estimates, walk).max() < 0.05
    # What was uncertain in the dark stays so.
    sizes = [np.trace(one.covariance) for one in estimates]
    assert sizes[-1] > 0.9 * sizes[DARK.stop - 1]
    assert nees(estimates[-1], walk.T_odom_base[-1]) < CHI2_6_999


def test_until_the_floor_is_seen_again_the_wheels_carry_the_told_pose(walk: Film) -> None:
    elsewhere = shoot(make_room(np.random.default_rng(78)), sideways_walk(80))
    frames = [*covered(walk, slice(35, 60))[:60], *elsewhere.frames[60:]]
    wheels = wheels_of(walk, rolled(walk.T_odom_base))
    words = 'scale.source=camera_height', f'scale.camera_height_m={CAMERA_HEIGHT_M}'
    estimates = drive(frames, wheels, *words, 'prediction.wheel=true')
    assert [estimates[row].map_id for row in (34, -1)] == [0, 1]
    reasons = [one.reason for one in estimates[60:]]
    assert any('floor' in reason and 'wheels' in reason for reason in reasons)
    assert 'S' not in statuses(estimates[30:]) and 'L' not in statuses(estimates[30:])
    assert jumps_m(estimates, walk)[30:].max() < 0.05
    told, true = poses_of(estimates), walk.T_odom_base
    moved = se3.inverse(told[34]) @ told[-1]
    np.testing.assert_allclose(moved, se3.inverse(true[34]) @ true[-1], atol=0.08)


# ------------------------------------------------------------------------ wheels that misbehave


def test_wheels_that_come_late_lead_to_the_same_place(walk: Film) -> None:
    wheels = wheels_of(walk, rolled(walk.T_odom_base))
    estimates = drive(covered(walk), wheels, 'prediction.wheel=true', late_ns=70 * MS)
    assert set(statuses(estimates[DARK])) == {'D'}
    assert position_errors_m(estimates, walk.T_odom_base).max() < 0.05 * way_m(walk)
    assert jumps_m(estimates, walk).max() < 0.05


def test_wheels_that_fall_silent_leave_the_pose_held_and_lost(walk: Film) -> None:
    wheels = wheels_of(walk, rolled(walk.T_odom_base))[:40]
    estimates = drive(covered(walk)[: DARK.stop], wheels, 'prediction.wheel=true')
    assert statuses(estimates[25:]) == 'D' * 17 + 'L' * 23
    places = poses_of(estimates[44:])
    np.testing.assert_array_equal(places, np.tile(places[0], (len(places), 1, 1)))
    sizes = [np.trace(one.covariance) for one in estimates[41:]]
    assert (np.diff(sizes) > 0).all() and sizes[-1] > 10 * sizes[0]


def test_wheels_that_return_tell_the_way_of_their_silence_without_a_step(walk: Film) -> None:
    wheels = wheels_of(walk, rolled(walk.T_odom_base))
    estimates = drive(
        covered(walk, slice(25, 80)), wheels[:35] + wheels[45:], 'prediction.wheel=true'
    )
    assert 'L' in statuses(estimates[35:46])
    assert position_errors_m(estimates, walk.T_odom_base)[44] > 0.2  # or nothing would be shown
    assert jumps_m(estimates, walk).max() < 0.06
    assert position_errors_m(estimates, walk.T_odom_base)[-1] < 0.05 * way_m(walk)


def test_wheels_set_to_zero_on_the_way_move_nothing(walk: Film) -> None:
    poses = rolled(walk.T_odom_base)
    poses[40:] = se3.inverse(poses[40]) @ poses[40:]
    estimates = drive(covered(walk), wheels_of(walk, poses), 'prediction.wheel=true')
    assert jumps_m(estimates, walk).max() < 0.05
    assert position_errors_m(estimates, walk.T_odom_base).max() < 0.05 * way_m(walk)


def test_wheels_whose_clock_jumps_back_are_survived(walk: Film) -> None:
    wheels = wheels_of(walk, rolled(walk.T_odom_base))
    wheels[40:] = [dataclasses.replace(w, stamp_ns=w.stamp_ns - 10**10) for w in wheels[40:]]
    odometry = Odometry(config('prediction.wheel=true'), T_BASE_CAMERA)
    estimates = []
    for frame, wheel in zip(covered(walk), wheels, strict=True):
        odometry.offer_wheel(wheel)
        estimates.append(odometry.step(frame))
    odometry.close()
    assert set(statuses(estimates[43 : DARK.stop])) == {'L'}
    assert jumps_m(estimates[: DARK.stop], walk).max() < 0.06
    assert all(np.isfinite(one.T_odom_base).all() for one in estimates)


def test_slipping_wheels_are_left_out_while_the_camera_contradicts_them(
    walk: Film, caplog: pytest.LogCaptureFixture
) -> None:
    wheels = wheels_of(walk, rolled(walk.T_odom_base, 2.0))
    with caplog.at_level(logging.WARNING):
        estimates = drive(covered(walk), wheels, 'prediction.wheel=true')
    assert 'the wheels contradict the camera' in caplog.text
    assert set(statuses(estimates[DARK])) == {'L'}  # as without wheels
    assert statuses(estimates[:25]) == 'T' * 25
    assert position_errors_m(estimates, walk.T_odom_base)[:25].max() < 0.02


def test_wheels_that_spin_in_the_dark_do_not_spoil_what_comes_after(walk: Film) -> None:
    poses = rolled(walk.T_odom_base)
    for row in range(35, 80):
        poses[row:] = poses[row:] @ turned(0.0, 0.01)
    estimates = drive(covered(walk), wheels_of(walk, poses), 'prediction.wheel=true')
    assert position_errors_m(estimates, walk.T_odom_base)[64] > 0.2  # or nothing would be shown
    assert all(np.isfinite(one.T_odom_base).all() for one in estimates)
    assert set(statuses(estimates[-5:])) == {'T'}
    moved = se3.inverse(estimates[74].T_odom_base) @ estimates[-1].T_odom_base
    wanted = se3.inverse(walk.T_odom_base[74]) @ walk.T_odom_base[-1]
    np.testing.assert_allclose(moved[:3, 3], wanted[:3, 3], atol=0.15)


# ----------------------------------------------------------------------------------------- off


@pytest.mark.parametrize('source', ['depth', 'none'])
def test_records_nobody_asked_for_change_nothing_at_all(walk: Film, source: str) -> None:
    words, frames = (f'scale.source={source}',), covered(walk, slice(25, 35))[:50]
    records = everything(walk)
    plain, offered = run(frames, *words), drive(frames, records, *words)
    for one, other in zip(plain, offered, strict=True):
        np.testing.assert_array_equal(one.T_odom_base, other.T_odom_base)
        np.testing.assert_array_equal(one.covariance, other.covariance)
        assert (one.status, one.reason) == (other.status, other.reason)


def test_wheels_move_no_map_whose_unit_is_arbitrary(walk: Film) -> None:
    words, frames = ('scale.source=none',), covered(walk)[: DARK.stop]
    records = wheels_of(walk, rolled(walk.T_odom_base))
    offered = drive(frames, records, *words, 'prediction.wheel=true')
    np.testing.assert_array_equal(poses_of(offered), poses_of(run(frames, *words)))
    assert offered[-1].status is Status.LOST


def test_the_same_records_give_the_same_answers(walk: Film) -> None:
    records = everything(walk)
    words = 'prediction.wheel=true', 'prediction.gyro=true'
    first, second = (drive(covered(walk), records, *words) for _ in range(2))
    np.testing.assert_array_equal(poses_of(first), poses_of(second))


# ---------------------------------------------------------------------------------------- gyro


def test_the_gyro_turns_a_pose_that_nobody_sees(turn: Film) -> None:
    frames = covered(turn, slice(15, 45))[:45]
    blind = drive(frames, rates_of(turn), 'prediction.gyro=true')
    truth = turn.T_odom_base[:45]
    assert turn_errors_deg(run(frames), truth)[-1] > 20.0  # or nothing would be shown
    assert turn_errors_deg(blind, truth).max() < 1.0
    assert set(statuses(blind[16:])) == {'L'}  # nobody knows the position
    assert blind[-1].covariance[5, 5] < 0.1**2


def test_the_gyro_foresees_a_turn_that_begins_abruptly(room: World) -> None:
    yaws = np.concatenate([np.zeros(10), 0.12 * np.arange(1, 11)])
    path = np.concatenate([path_through([(3.0, 3.0)] * 2, [yaw, yaw], 1) for yaw in yaws])
    film = shoot(room, path)
    kept = {}
    for gyro in ('true', 'false'):
        odometry = Odometry(config(f'prediction.gyro={gyro}'), T_BASE_CAMERA)
        rates = rates_of(film)
        for frame in film.frames[:10]:
            odometry.step(frame)
        for rate in rates:
            if rate.stamp_ns <= film.frames[10].stamp_ns:
                odometry.offer_gyro(rate)
        kept[gyro] = odometry.step(film.frames[10])
        odometry.close()
    errors = {key: turn_errors_deg([one], film.T_odom_base[10:11])[0] for key, one in kept.items()}
    assert errors['true'] < 0.3
    assert kept['true'].inliers >= kept['false'].inliers


def test_the_bias_of_the_gyro_is_learned_while_the_camera_stands(walk: Film) -> None:
    bias = np.array([0.02, -0.015, 0.03])
    standing = [
        dataclasses.replace(walk.frames[0], stamp_ns=START_NS + row * PERIOD_NS)
        for row in range(60)
    ]
    rng = np.random.default_rng(4)
    rates = [
        Gyro(START_NS + row * 5 * MS, bias + 0.003 * rng.normal(size=3)) for row in range(600)
    ]
    odometry = Odometry(config('prediction.gyro=true'), T_BASE_CAMERA)
    for frame in standing:
        while rates and rates[0].stamp_ns <= frame.stamp_ns:
            odometry.offer_gyro(rates.pop(0))
        assert odometry.step(frame).reason in ('', 'standing still')
    learned = odometry._prediction.gyro_bias_rad_s
    odometry.close()
    np.testing.assert_allclose(learned, bias, atol=0.003)


def test_a_gyro_in_wrong_axes_is_left_out(turn: Film, caplog: pytest.LogCaptureFixture) -> None:
    wrong = [dataclasses.replace(g, angular_velocity=-g.angular_velocity) for g in rates_of(turn)]
    with caplog.at_level(logging.WARNING):
        estimates = drive(turn.frames, wrong, 'prediction.gyro=true')
    assert 'the gyro contradict' in caplog.text
    assert statuses(estimates[-30:]) == 'T' * 30
    assert turn_errors_deg(estimates, turn.T_odom_base)[-1] < 1.0


def test_wheels_with_a_gyro_take_the_turn_from_the_gyro(walk: Film) -> None:
    poses = rolled(walk.T_odom_base)
    for row in range(26, 65):
        poses[row:] = poses[row:] @ turned(0.004)  # the robot skids a little all the way
    wheels, words = wheels_of(walk, poses), ('prediction.wheel=true', 'prediction.gyro=true')
    frames = covered(walk)[: DARK.stop]
    alone = turn_errors_deg(drive(frames, wheels, words[0]), walk.T_odom_base[: DARK.stop])
    both = turn_errors_deg(
        drive(frames, [*wheels, *rates_of(walk)], *words), walk.T_odom_base[: DARK.stop]
    )
    assert alone[-1] > 5.0 and both[-1] < 1.0
