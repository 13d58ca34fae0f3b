"""The local map: depths from parallax and from readings, in any unit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from points_world import add_view, cloud, features, map_of, pose, rays_of, sights_of
import pytest

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.inverse_depth import fuse_readings, triangulate
from kpvo_ros.odometry.local_map import MIN_KNOWN, LocalMap, Sights

SIGMA = 1e-3
PARALLAX = np.deg2rad(1.0)
START = pose(0.3, -0.2, 0.5, (0.1, -0.2, 0.05))


def test_points_lie_where_their_rays_and_depths_say(rng: np.random.Generator) -> None:
    position = cloud(rng, 20)
    local_map = map_of(position, START, with_depth=True)
    np.testing.assert_allclose(local_map.positions(np.arange(20)), position, atol=1e-9)
    chosen = np.array([7, 3, 3])
    np.testing.assert_allclose(local_map.positions(chosen), position[chosen], atol=1e-9)
    assert local_map.positions(np.zeros(0, np.int64)).shape == (0, 3)


def test_a_new_map_is_empty_and_keeps_the_kind_of_descriptor() -> None:
    local_map = LocalMap(np.zeros((0, 128), np.float32))
    assert len(local_map) == 0
    assert local_map.descriptor.shape == (0, 128) and local_map.descriptor.dtype == np.float32
    assert local_map.has_depth.shape == (0,)


def test_points_without_depth_support_nothing(rng: np.random.Generator) -> None:
    local_map = map_of(cloud(rng, 5), START)
    assert not local_map.has_depth.any()
    assert np.isinf(local_map.variance).all()


def test_a_second_view_from_aside_gives_the_depth(rng: np.random.Generator) -> None:
    position = cloud(rng, 50)
    local_map = map_of(position, START)
    second = START @ pose(0.5, 0.1, 0.2, (0.02, 0.05, -0.03))
    triangulate(local_map, sights_of(np.arange(50), position, second), second, SIGMA, PARALLAX)
    assert local_map.has_depth.all()
    np.testing.assert_allclose(local_map.positions(np.arange(50)), position, atol=1e-8)


def test_the_variance_of_a_triangulated_depth_is_what_noise_makes_of_it(
    rng: np.random.Generator,
) -> None:
    """2000 noisy sights of one point: the scatter of rho is the promised one."""
    position = np.tile([[0.4, -0.3, 5.0]], (2000, 1))
    local_map = map_of(position, np.eye(4))
    second = pose(0.4, 0.0, 0.1)
    noise = rng.normal(0, SIGMA, (2000, 2))
    triangulate(
        local_map, sights_of(np.arange(2000), position, second, noise), second, SIGMA, PARALLAX
    )
    known = local_map.has_depth
    assert known.mean() > 0.95  # beyond three sigma the rays are said to disagree
    scatter = float(np.std(local_map.rho[known]))
    assert scatter == pytest.approx(float(np.sqrt(local_map.variance[known].mean())), rel=0.1)
    # Closed form for a sideways step b: rho = disparity / b, so sigma_rho = sigma / b.
    assert scatter == pytest.approx(SIGMA / 0.4, rel=0.15)


@pytest.mark.parametrize(
    'second',
    [np.eye(4), pose(0.0, 0.0, 0.0, (0.0, 0.2, 0.0)), pose(0.01, 0.0, 0.0)],
    ids=['no motion', 'pure rotation', 'too little parallax'],
)
def test_no_parallax_gives_no_depth(rng: np.random.Generator, second: np.ndarray) -> None:
    position = cloud(rng, 30)
    local_map = map_of(position, np.eye(4))
    noise = rng.normal(0, SIGMA, (30, 2))
    triangulate(
        local_map, sights_of(np.arange(30), position, second, noise), second, SIGMA, PARALLAX
    )
    assert not local_map.has_depth.any()


def test_rays_that_meet_behind_the_camera_or_nowhere_give_no_depth(
    rng: np.random.Generator,
) -> None:
    position = cloud(rng, 30)
    local_map = map_of(position, np.eye(4))
    second = pose(0.5, 0.0, 0.0)
    sights = sights_of(np.arange(30), position, second)
    behind = Sights(sights.point[:15], sights.xy[:15], sights.ray[:15] + (0.6, 0.0))
    apart = Sights(sights.point[15:], sights.xy[15:], sights.ray[15:] + (0.0, 0.1))
    for wrong in (behind, apart):
        triangulate(local_map, wrong, second, SIGMA, PARALLAX)
    assert not local_map.has_depth.any()


def test_many_sights_agree_with_least_squares_over_all_of_them(rng: np.random.Generator) -> None:
    """The recursive update against one linear solution for rho from all sights at once."""
    position = np.array([[0.5, 0.2, 4.0]])
    local_map = map_of(position, np.eye(4))
    # Sideways steps only: then every sight is linear in rho, u = x - rho * step.
    steps = np.linspace(0.3, 1.2, 12)
    noise = rng.normal(0, SIGMA, (12, 1, 2))
    for step, one in zip(steps, noise, strict=True):
        camera = pose(step, 0.0, 0.0)
        triangulate(
            local_map, sights_of(np.array([0]), position, camera, one), camera, SIGMA, PARALLAX
        )
    truth = 1.0 / 4.0
    expected = truth - (steps * noise[:, 0, 0]).sum() / (steps**2).sum()
    assert local_map.rho[0] == pytest.approx(expected, abs=1e-6)
    assert local_map.variance[0] == pytest.approx(SIGMA**2 / (steps**2).sum(), rel=1e-3)


def test_a_sight_that_contradicts_a_known_depth_does_not_change_it(
    rng: np.random.Generator,
) -> None:
    position = cloud(rng, 10)
    local_map = map_of(position, np.eye(4), with_depth=True)
    before = local_map.rho.copy()
    second = pose(0.5, 0.0, 0.0)
    triangulate(
        local_map, sights_of(np.arange(10), position, second, (0.2, 0.0)), second, SIGMA, PARALLAX
    )
    np.testing.assert_array_equal(local_map.rho, before)


# ------------------------------------------------------------------------------ depth readings


def test_a_depth_reading_is_taken_as_it_is(rng: np.random.Generator) -> None:
    position = cloud(rng, 20)
    local_map = map_of(position, np.eye(4))
    depth = position[:, 2].copy()
    depth[3] = np.nan
    fuse_readings(local_map, local_map.sights[0], depth, np.eye(4), 0.02)
    expected = np.arange(20) != 3
    np.testing.assert_array_equal(local_map.has_depth, expected)
    point = np.flatnonzero(expected)
    np.testing.assert_allclose(local_map.positions(point), position[point], atol=1e-9)
    # d rho = d depth / depth^2, so sigma_rho = 0.02 rho.
    np.testing.assert_allclose(
        np.sqrt(local_map.variance[point]), 0.02 / position[point, 2], rtol=1e-9
    )


def test_a_reading_from_another_view_is_carried_to_the_first(rng: np.random.Generator) -> None:
    position = cloud(rng, 20)
    local_map = map_of(position, START)
    second = START @ pose(0.4, -0.2, 0.6, (0.05, 0.1, 0.3))
    depth = ((position - second[:3, 3]) @ second[:3, :3])[:, 2]
    fuse_readings(local_map, sights_of(np.arange(20), position, second), depth, second, 0.02)
    np.testing.assert_allclose(local_map.positions(np.arange(20)), position, atol=1e-8)


def test_repeated_readings_narrow_the_depth(rng: np.random.Generator) -> None:
    position = cloud(rng, 10)
    local_map = map_of(position, np.eye(4))
    for _ in range(4):
        fuse_readings(local_map, local_map.sights[0], position[:, 2], np.eye(4), 0.02)
    np.testing.assert_allclose(np.sqrt(local_map.variance), 0.02 / position[:, 2] / 2, rtol=1e-9)
    np.testing.assert_allclose(1 / local_map.sensor_information, local_map.variance, rtol=1e-9)


@pytest.mark.parametrize('depth', [np.nan, 0.0, -1.0, np.inf])
def test_a_reading_that_is_none_changes_nothing(rng: np.random.Generator, depth: float) -> None:
    local_map = map_of(cloud(rng, 5), np.eye(4))
    fuse_readings(local_map, local_map.sights[0], np.full(5, depth), np.eye(4), 0.02)
    assert not local_map.has_depth.any()
    assert not local_map.sensor_information.any()


def test_a_reading_off_a_well_known_depth_is_refused(rng: np.random.Generator) -> None:
    position = cloud(rng, 5)
    local_map = map_of(position, np.eye(4), with_depth=True)
    before = local_map.rho.copy()
    fuse_readings(local_map, local_map.sights[0], 2.0 * position[:, 2], np.eye(4), 0.02)
    np.testing.assert_array_equal(local_map.rho, before)


# ------------------------------------------------------------------------- unit, place, memory


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 20.0), st.integers(0, 2**32 - 1))
def test_stretching_about_the_camera_changes_no_picture(factor: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    position = cloud(rng, 15)
    local_map = map_of(position, START)
    camera = START @ pose(0.4, 0.1, 0.1, (0.0, 0.1, 0.0))
    fuse_readings(
        local_map,
        local_map.sights[0],
        ((position - START[:3, 3]) @ START[:3, :3])[:, 2],
        START,
        0.02,
    )
    before = rays_of(local_map.positions(np.arange(15)), camera)
    noise = local_map.depth_noise(np.arange(15), camera)
    local_map.rescale(factor, camera[:3, 3])
    stretched = local_map.positions(np.arange(15))
    np.testing.assert_allclose(rays_of(stretched, camera), before, atol=1e-8)
    np.testing.assert_allclose(local_map.depth_noise(np.arange(15), camera), noise, rtol=1e-6)
    centre = camera[:3, 3]
    np.testing.assert_allclose(stretched - centre, factor * (position - centre), atol=1e-6)
    np.testing.assert_allclose(1 / local_map.sensor_rho, 1 / local_map.rho, rtol=1e-9)
    np.testing.assert_allclose(1 / local_map.sensor_information, local_map.variance, rtol=1e-9)


def test_depth_noise_is_how_far_one_sigma_moves_a_point(rng: np.random.Generator) -> None:
    position = cloud(rng, 10)
    local_map = map_of(position, START, with_depth=True)
    camera = START @ pose(0.4, 0.1, 0.1, (0.0, 0.1, 0.0))
    promised = local_map.depth_noise(np.arange(10), camera)
    before = rays_of(local_map.positions(np.arange(10)), camera)
    local_map.rho += 1e-3  # one sigma: the variance is 1e-6
    moved = rays_of(local_map.positions(np.arange(10)), camera) - before
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), promised, rtol=0.02)
    assert local_map.depth_noise(np.arange(10), START).max() < 1e-12  # along its own ray


def test_moving_the_map_moves_its_points(rng: np.random.Generator) -> None:
    position = cloud(rng, 10)
    local_map = map_of(position, START, with_depth=True)
    T = pose(3.0, -1.0, 2.0, (0.3, 0.2, -0.5))
    local_map.move(T)
    expected = se3.transform(T, position)
    np.testing.assert_allclose(local_map.positions(np.arange(10)), expected, atol=1e-9)


def test_forgetting_drops_old_keyframes_and_struck_points_and_renumbers(
    rng: np.random.Generator,
) -> None:
    position = cloud(rng, 12)
    local_map = map_of(position[:6], np.eye(4), with_depth=True)
    second = add_view(local_map, pose(1, 0, 0))
    point = local_map.add_points(second, np.zeros((6, 2)), features(np.zeros((6, 2))))
    local_map.sights[second] = sights_of(np.arange(12), position, pose(1, 0, 0))
    local_map.strikes[point[2]] = 3
    descriptor = local_map.descriptor.copy()
    new_index = local_map.forget(np.array([0]), 3)
    assert new_index.tolist() == [-1] * 6 + [0, 1, -1, 2, 3, 4]
    assert len(local_map) == 5 and len(local_map.T_odom_keyframe) == len(local_map.sights) == 1
    assert (local_map.anchor == 0).all()
    np.testing.assert_array_equal(local_map.descriptor, descriptor[[6, 7, 9, 10, 11]])
    np.testing.assert_allclose(local_map.T_odom_keyframe[0], pose(1, 0, 0))
    # The sights of the keyframe name the points by their new numbers.
    assert local_map.sights[0].point.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(
        local_map.sights[0].ray, rays_of(position[[6, 7, 9, 10, 11]], pose(1, 0, 0))
    )


def test_forgetting_nothing_changes_nothing(rng: np.random.Generator) -> None:
    local_map = map_of(cloud(rng, 4), START, with_depth=True)
    before = local_map.rho.copy()
    assert local_map.forget(np.zeros(0, np.int64), 3).tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(local_map.rho, before)


def window_of(rng: np.random.Generator, known: list[bool]) -> LocalMap:
    """A map with a keyframe per entry, with 30 points of known or unknown depth each."""
    local_map = LocalMap(np.zeros((0, 1), np.uint8))
    for row, has_depth in enumerate(known):
        add_view(local_map, pose(0.1 * row, 0, 0))
        point = local_map.add_points(row, np.zeros((30, 2)), features(np.zeros((30, 2))))
        if has_depth:
            local_map.set_depth(point, np.full(30, 0.2), np.full(30, 1e-4))
    return local_map


def test_the_oldest_keyframes_leave_the_window(rng: np.random.Generator) -> None:
    local_map = window_of(rng, [True] * 9)
    assert local_map.superfluous(9).tolist() == []
    assert local_map.superfluous(7).tolist() == [0, 1]
    assert local_map.superfluous(2).tolist() == list(range(7))


def test_a_turn_on_the_spot_keeps_what_was_measured_before_it(rng: np.random.Generator) -> None:
    """Nothing seen while turning has a depth: those views go first, but the newest stay."""
    local_map = window_of(rng, [True] * 4 + [False] * 8)
    assert local_map.superfluous(8).tolist() == [4, 5, 6, 7]
    assert local_map.superfluous(6).tolist() == [0, 1, 4, 5, 6, 7]


def test_a_keyframe_needs_enough_known_points_to_be_kept(rng: np.random.Generator) -> None:
    local_map = window_of(rng, [True] * 7)
    of_third = np.flatnonzero(local_map.anchor == 2)
    local_map.variance[of_third[MIN_KNOWN:]] = np.inf
    assert local_map.superfluous(6).tolist() == [0]
    local_map.variance[of_third[MIN_KNOWN - 1 :]] = np.inf
    assert local_map.superfluous(6).tolist() == [2]


def test_inverse_depths_seen_from_aside_are_those_of_the_points(rng: np.random.Generator) -> None:
    position = cloud(rng, 20)
    local_map = map_of(position, START, with_depth=True)
    local_map.variance[3] = np.inf
    camera = START @ pose(0.4, 0.1, 0.3, (0.0, 0.1, 0.0))
    rho, variance = local_map.seen_from(np.arange(20), camera)
    known = np.arange(20) != 3
    depth = ((position - camera[:3, 3]) @ camera[:3, :3])[:, 2]
    np.testing.assert_allclose(rho[known], 1.0 / depth[known], rtol=1e-9)
    assert rho[3] == 0.0 and np.isinf(variance[3])
    before = rho.copy()
    local_map.rho += 1e-6  # the promised spread is that of a small change
    slope = (local_map.seen_from(np.arange(20), camera)[0] - before) / 1e-6
    np.testing.assert_allclose(variance[known], 1e-6 * slope[known] ** 2, rtol=1e-4)


def test_the_covariance_of_a_pose_is_that_of_the_keyframe_it_hangs_on_and_its_noise(
    rng: np.random.Generator,
) -> None:
    """A keyframe turned by one sigma turns everything measured from it, with its lever."""
    local_map = map_of(cloud(rng, 20), START, with_depth=True)
    local_map.covariance[0] = np.diag([0, 0, 0, 0, 1e-4, 0])
    camera = START @ pose(0.0, 0.0, 2.0)
    covariance = local_map.pose_covariance(np.arange(20), camera, 1e-8 * np.eye(6))
    assert np.sqrt(covariance[4, 4]) == pytest.approx(0.01, rel=1e-3)
    assert np.sqrt(covariance[0, 0]) == pytest.approx(0.01 * 2.0, rel=1e-3)  # angle times way
    assert np.sqrt(covariance[2, 2]) == pytest.approx(1e-4, rel=1e-3)
