"""Bundle adjustment: disturbed truth returns, slopes are right, what is fixed stays."""

from __future__ import annotations

import numpy as np
from points_world import add_view, cloud, features, map_of, pose, sights_of
import pytest

from kpvo_ros.geometry import se3
from kpvo_ros.odometry import window
from kpvo_ros.odometry.local_map import LocalMap
from kpvo_ros.odometry.window import FIXED, adjust

SIGMA = 1e-3
KEYFRAMES = 5


def true_poses() -> np.ndarray:
    return np.stack(
        [
            pose(0.25 * k, 0.05 * k * k, 0.1 * k, (0.02 * k, -0.03 * k, 0.01))
            for k in range(KEYFRAMES)
        ]
    )


def make_map(rng: np.random.Generator, count: int = 120, noise: float = 0.0) -> LocalMap:
    """All keyframes see all points, which are anchored in the first."""
    poses, position = true_poses(), cloud(rng, count)
    local_map = map_of(position, poses[0], with_depth=True)
    for T in poses[1:]:
        row = add_view(local_map, T)
        off = rng.normal(0, noise, (count, 2)) if noise else 0.0
        local_map.sights[row] = sights_of(np.arange(count), position, T, off)
    return local_map


def disturb(local_map: LocalMap, rng: np.random.Generator) -> None:
    for row in range(FIXED, KEYFRAMES):
        local_map.T_odom_keyframe[row] @= se3.exp_se3(rng.normal(0, 0.01, 6))
    local_map.rho *= 1 + rng.normal(0, 0.03, len(local_map))


def test_disturbed_poses_and_depths_return_to_the_truth(rng: np.random.Generator) -> None:
    local_map = make_map(rng)
    rho = local_map.rho.copy()
    disturb(local_map, rng)
    assert adjust(local_map, KEYFRAMES, SIGMA, iterations=30)
    np.testing.assert_allclose(local_map.T_odom_keyframe, true_poses(), atol=1e-4)
    np.testing.assert_allclose(local_map.rho, rho, atol=1e-4)


def test_the_oldest_keyframes_of_the_window_do_not_move(rng: np.random.Generator) -> None:
    local_map = make_map(rng, noise=SIGMA)
    disturb(local_map, rng)
    before = local_map.T_odom_keyframe.copy()
    assert adjust(local_map, KEYFRAMES, SIGMA)
    np.testing.assert_array_equal(local_map.T_odom_keyframe[:FIXED], before[:FIXED])
    assert (local_map.T_odom_keyframe[FIXED:] != before[FIXED:]).any()


def test_keyframes_and_points_before_the_window_are_not_touched(rng: np.random.Generator) -> None:
    poses, position = true_poses(), cloud(rng, 120)
    local_map = map_of(position[:60], poses[0], with_depth=True)
    for row, T in enumerate(poses[1:], 1):
        add_view(local_map, T)
        if row == 1:
            later = map_of(position[60:], T, with_depth=True)
            point = local_map.add_points(1, later.ray, features(later.ray))
            local_map.rho[point], local_map.variance[point] = later.rho, 1e-6
        # The free keyframes see only what was first seen from the second one.
        seen = np.arange(120) if row < 3 else np.arange(60, 120)
        local_map.sights[row] = sights_of(seen, position[seen], T)
    disturb(local_map, rng)
    before = local_map.T_odom_keyframe.copy(), local_map.rho.copy()
    assert adjust(local_map, KEYFRAMES - 1, SIGMA)
    np.testing.assert_array_equal(local_map.T_odom_keyframe[:3], before[0][:3])
    np.testing.assert_array_equal(local_map.rho[:60], before[1][:60])
    assert (local_map.rho[60:] != before[1][60:]).any()


def test_false_sights_hardly_pull(rng: np.random.Generator) -> None:
    local_map = make_map(rng)
    for row in range(1, KEYFRAMES):
        local_map.sights[row].ray[:12] += rng.normal(0, 0.1, (12, 2))
    disturb(local_map, rng)
    assert adjust(local_map, KEYFRAMES, SIGMA, iterations=30)
    np.testing.assert_allclose(local_map.T_odom_keyframe, true_poses(), atol=2e-3)


def test_the_reprojection_error_falls_to_the_noise(rng: np.random.Generator) -> None:
    local_map = make_map(rng, count=200, noise=SIGMA)
    disturb(local_map, rng)
    assert adjust(local_map, KEYFRAMES, SIGMA, iterations=30)
    errors = []
    for row in range(1, KEYFRAMES):
        T, sights = local_map.T_odom_keyframe[row], local_map.sights[row]
        local = (local_map.positions(sights.point) - T[:3, 3]) @ T[:3, :3]
        errors.append(local[:, :2] / local[:, 2:] - sights.ray)
    assert np.std(errors) == pytest.approx(SIGMA, rel=0.15)


def test_the_variance_of_depths_is_that_of_their_sights(rng: np.random.Generator) -> None:
    """Against the information summed by hand from numerical slopes at fixed poses."""
    local_map = make_map(rng)
    assert adjust(local_map, KEYFRAMES, SIGMA, iterations=30)
    point, step, information = 7, 1e-6, 0.0
    for T in local_map.T_odom_keyframe[1:]:
        seen = []
        for rho in (local_map.rho[point] - step, local_map.rho[point] + step):
            kept, local_map.rho[point] = local_map.rho[point], rho
            local = (local_map.positions(np.array([point]))[0] - T[:3, 3]) @ T[:3, :3]
            local_map.rho[point] = kept
            seen.append(local[:2] / local[2])
        slope = (seen[1] - seen[0]) / (2 * step)
        information += slope @ slope / SIGMA**2
    assert local_map.variance[point] == pytest.approx(1 / information, rel=1e-3)


def test_depth_readings_hold_the_unit_of_the_map(rng: np.random.Generator) -> None:
    """Reading and parallax disagree by 3 %: the sharper one wins."""
    for relative_sigma, expected in ((1e-5, 1.03), (10.0, 1.0)):
        local_map = make_map(rng)
        rho = local_map.rho.copy()
        local_map.sensor_rho = 1.03 * rho
        local_map.sensor_information = 1 / (relative_sigma * rho) ** 2
        assert adjust(local_map, KEYFRAMES, SIGMA, iterations=50)
        assert np.median(local_map.rho / rho) == pytest.approx(expected, abs=2e-3)


def test_the_normal_equations_have_the_slope_of_the_cost(rng: np.random.Generator) -> None:
    """Gradient against central differences of the robust cost, for poses and for depths."""
    local_map = make_map(rng, count=40, noise=SIGMA)
    disturb(local_map, rng)
    local_map.sensor_rho = local_map.rho * 1.01
    local_map.sensor_information[:] = 1e4
    used, sights = window._collect(local_map, 0)
    problem = window._Problem(
        sights,
        local_map.sensor_rho[used],
        local_map.sensor_information[used],
        SIGMA,
        KEYFRAMES,
        FIXED,
    )
    state = window._State(local_map.T_odom_keyframe.copy(), local_map.rho[used].copy(), 1e-6)
    equations = problem._linearise(state, problem._look(state))

    def cost(xi: np.ndarray, d_rho: np.ndarray) -> float:
        T = state.T_odom_keyframe.copy()
        T[FIXED:] = T[FIXED:] @ se3.exp_se3(xi.reshape(-1, 6))
        return problem._look(window._State(T, state.rho + d_rho, 1e-6)).cost

    size, step = 6 * (KEYFRAMES - FIXED), 1e-7
    no_pose, no_rho = np.zeros(size), np.zeros(len(used))
    slope = np.array(
        [
            (cost(step * one, no_rho) - cost(-step * one, no_rho)) / (2 * step)
            for one in np.eye(size)
        ]
    )
    # d cost / d x = 2 J^T W e
    np.testing.assert_allclose(
        2 * equations.pose_gradient, slope, rtol=1e-3, atol=1e-4 * np.abs(slope).max()
    )
    for row in (0, 5, 17):
        one = step * (np.arange(len(used)) == row)
        expected = (cost(no_pose, one) - cost(no_pose, -one)) / (2 * step)
        scale = np.abs(equations.rho_gradient).max()
        np.testing.assert_allclose(
            2 * equations.rho_gradient[row], expected, rtol=1e-3, atol=1e-4 * scale
        )


@pytest.mark.parametrize('keyframes', [1, 2])
def test_too_little_to_adjust_is_left_alone(rng: np.random.Generator, keyframes: int) -> None:
    poses, position = true_poses(), cloud(rng, 50)
    local_map = map_of(position, poses[0], with_depth=True)
    for T in poses[1:keyframes]:
        row = add_view(local_map, T)
        local_map.sights[row] = sights_of(np.arange(50), position, T)
    before = local_map.rho.copy()
    assert not adjust(local_map, 8, SIGMA)
    np.testing.assert_array_equal(local_map.rho, before)


def test_few_points_are_left_alone(rng: np.random.Generator) -> None:
    local_map = make_map(rng, count=5)
    assert not adjust(local_map, KEYFRAMES, SIGMA)
