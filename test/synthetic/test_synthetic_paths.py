"""Curves, schedules and camera paths."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.se3 import exp_se3, rotation_angle_rad, yaw_of
from kpvo_ros.synthetic import curves, trajectory
from kpvo_ros.synthetic.schedule import CAR, HAND, Stop
from kpvo_ros.synthetic.trajectory import Glance


@given(st.floats(120, 600))
@settings(deadline=None, max_examples=15)
def test_lap_of_any_length_closes_in_place_and_heading(length_m):
    lap = curves.lap(length_m)
    polyline = np.linalg.norm(np.diff(lap.xy, axis=0), axis=1).sum()
    assert polyline == pytest.approx(length_m, rel=1e-4)
    np.testing.assert_allclose(lap.xy[-1], lap.xy[0], atol=1e-9)
    assert lap.heading[-1] - lap.heading[0] == pytest.approx(2 * np.pi)
    assert lap.curvature.max() < 1 / 6.0


@given(st.floats(120, 600))
@settings(deadline=None, max_examples=15)
def test_lap_stays_on_the_outline_of_its_block(length_m):
    lap = curves.lap(length_m)
    half = np.array(curves.block_sides(length_m)) / 2
    outside = np.abs(lap.xy) - half
    assert outside.max() < 0.05
    on_side = np.abs(outside).min(axis=1) < 0.05
    assert on_side.mean() > 0.6  # the rest are the corners


def test_spline_passes_its_points_and_its_heading_is_its_tangent():
    points = np.array([[0, 0], [4, 1], [6, 5], [2, 7.0]])
    curve = curves.spline(points, closed=True)
    for point in points:
        assert np.linalg.norm(curve.xy - point, axis=1).min() < 0.01
    tangent = np.diff(curve.xy, axis=0)
    angle = np.arctan2(tangent[:, 1], tangent[:, 0])
    middle = 0.5 * (curve.heading[1:] + curve.heading[:-1])
    assert np.abs(np.angle(np.exp(1j * (angle - middle)))).max() < 1e-3


@pytest.mark.parametrize('points', [[[0, 0], [1, 1]], [[0, 0], [0, 0], [0, 0]], [1, 2, 3]])
def test_spline_of_too_few_points_is_refused(points):
    with pytest.raises(SyntheticError, match='three different'):
        curves.spline(points, closed=False)


def test_loop_drives_its_length_and_ends_where_it_began():
    path = trajectory.loop(3, 200.0, fps=15)
    ground = path.T_world_base[:, :2, 3]
    way = np.linalg.norm(np.diff(ground, axis=0), axis=1).sum()
    assert way == pytest.approx(200.0, rel=0.01)
    np.testing.assert_allclose(path.T_world_base[0], path.T_world_base[-1], atol=0.03)
    assert path.camera_height_m == CAR.height_m


@pytest.mark.parametrize(
    'path',
    [
        trajectory.loop(0, 200.0, fps=100),
        trajectory.drive(1, 80.0, fps=100, stops=[Stop(0.5, 2.0)]),
        trajectory.walk_room(2, fps=100),
        trajectory.walk_corridor(3, fps=100),
    ],
    ids=['loop', 'drive', 'room', 'corridor'],
)
def test_velocity_is_continuous_bounded_and_zero_at_both_ends(path):
    twist = path.twist
    assert np.abs(twist[[0, -1]]).max() < 0.08
    acceleration = np.diff(twist[:, :3], axis=0) * 100
    assert np.abs(acceleration).max() < 5.0  # half of gravity
    assert np.abs(np.diff(twist[:, 3:], axis=0) * 100).max() < 8.0
    assert twist[:, 0].max() < 6.3
    assert np.abs(twist[:, 1]).max() < 0.25  # cars and people do not slide sideways


def test_car_slows_down_in_bends():
    path = trajectory.loop(0, 200.0, fps=30)
    yaw_rate, speed = np.abs(path.twist[:, 5]), path.twist[:, 0]
    assert yaw_rate.max() < CAR.turn_rate_rad_s + 0.1  # the car also sways
    assert speed[yaw_rate > 0.45].max() < 4.5
    assert np.median(speed[yaw_rate < 0.05]) > 5.0


def test_twist_carries_one_pose_to_the_next():
    path = trajectory.walk_room(0, fps=50)
    for index in range(50, 60):
        step = np.linalg.inv(path.T_world_base[index]) @ path.T_world_base[index + 1]
        np.testing.assert_allclose(exp_se3(path.twist[index] / 50), step, atol=2e-3)


def test_stop_holds_the_camera_still():
    path = trajectory.walk_room(0, fps=20, stops=[Stop(0.4, 3.0)])
    speed = np.abs(path.twist).max(axis=1)
    still = speed < 1e-9
    longest = max(len(run) for run in ''.join('1' if s else '0' for s in still).split('0'))
    assert longest == pytest.approx(60, abs=3)
    assert path.length_m == pytest.approx(trajectory.walk_room(0, fps=20).length_m, rel=0.05)


def test_rotation_in_place_never_moves_the_optical_centre():
    path = trajectory.rotate_in_place(0, (1.0, 2.0), turn_rad=np.pi, duration_s=6.0, fps=20)
    centre = path.T_world_camera[:, :3, 3]
    np.testing.assert_allclose(centre, np.tile([1.0, 2.0, 1.45], (len(path), 1)), atol=1e-9)
    turned = yaw_of(path.T_world_base[-1]) - yaw_of(path.T_world_base[0])
    assert np.angle(np.exp(1j * (turned - np.pi))) == pytest.approx(0.0, abs=1e-6)
    assert len(path) == pytest.approx(121, abs=1)


def test_glance_turns_the_camera_and_returns():
    plain = trajectory.walk_room(0, fps=50)
    looked = trajectory.walk_room(0, fps=50, glances=[Glance(3.0, 1.0, 2.0)])
    angle = [
        float(rotation_angle_rad(a[:3, :3].T @ b[:3, :3]))
        for a, b in zip(plain.T_world_base, looked.T_world_base, strict=True)
    ]
    assert angle[int(4.0 * 50)] == pytest.approx(1.0, abs=1e-6)
    assert max(angle[: 3 * 50]) < 1e-6
    assert max(angle[5 * 50 :]) < 1e-6


def test_stamps_keep_the_frame_rate_and_start_as_told():
    path = trajectory.walk_corridor(0, 10.0, fps=30, start_ns=7)
    assert path.stamps_ns[0] == 7
    period = np.diff(path.stamps_ns)
    assert period.min() >= 33_333_333
    assert period.max() <= 33_333_334


def test_camera_at_frame_stamps_is_the_pose_of_the_frame():
    path = trajectory.walk_room(0, fps=10)
    np.testing.assert_allclose(path.camera_at(path.stamps_ns), path.T_world_camera, atol=1e-9)
    between = path.camera_at((path.stamps_ns[10:11] + path.stamps_ns[11:12]) // 2)[0]
    middle = path.T_world_camera[10:12, :3, 3].mean(axis=0)
    np.testing.assert_allclose(between[:3, 3], middle, atol=5e-3)


def test_trajectory_of_a_path_is_that_of_the_optical_frame():
    path = trajectory.walk_room(0, fps=5)
    np.testing.assert_array_equal(path.trajectory.poses, path.T_world_base @ path.T_base_camera)


def test_same_seed_gives_the_same_path():
    first, again, other = (trajectory.walk_room(seed, fps=5) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.T_world_base, again.T_world_base)
    assert len(first) != len(other) or not np.array_equal(first.T_world_base, other.T_world_base)


def test_stops_too_close_to_each_other_are_refused():
    with pytest.raises(SyntheticError, match='too close'):
        trajectory.walk_room(0, fps=10, stops=[Stop(0.5, 1.0), Stop(0.5, 1.0)])


@pytest.mark.parametrize('fps', [0.0, -5.0])
def test_frame_rates_that_are_not_positive_are_refused(fps):
    with pytest.raises(SyntheticError, match='fps'):
        trajectory.follow(curves.lap(200.0), HAND, np.random.default_rng(0), fps=fps)
