"""The first two views, keyframe policy, readings of depth images."""

from __future__ import annotations

import dataclasses

import numpy as np
from points_world import CAMERA, cloud, map_of, pose, sights_of
import pytest

from kpvo_ros.config.runtime import KeyframeConfig, ScaleConfig
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.bootstrap import MIN_SIGHTS, relative_pose
from kpvo_ros.odometry.depth import read_depth
from kpvo_ros.odometry.keyframes import KeyframePolicy
from kpvo_ros.odometry.local_map import NO_SIGHTS, Sights

NOISE = 0.3 / CAMERA.fx
MOVED = pose(0.3, 0.1, 0.2, (0.02, 0.06, -0.03))


def two_views(
    rng: np.random.Generator,
    T_odom_camera: np.ndarray,
    count: int = 150,
    false: int = 0,
    config: KeyframeConfig | None = None,
) -> np.ndarray | None:
    position = cloud(rng, count)
    local_map = map_of(position, np.eye(4))
    noise = rng.normal(0, NOISE, (count, 2))
    noise[:false] += rng.uniform(-0.3, 0.3, (false, 2))
    sights = sights_of(np.arange(count), position, T_odom_camera, noise)
    return relative_pose(sights, local_map, CAMERA, config or KeyframeConfig(), seed=0)


@pytest.mark.parametrize('false', [0, 25])
def test_a_step_aside_gives_rotation_and_direction(rng: np.random.Generator, false: int) -> None:
    T = two_views(rng, MOVED, false=false)
    assert T is not None
    truth = se3.inverse(MOVED)
    assert np.linalg.norm(T[:3, 3]) == pytest.approx(1.0)
    direction = truth[:3, 3] / np.linalg.norm(truth[:3, 3])
    assert np.rad2deg(np.arccos(T[:3, 3] @ direction)) < 3.0
    assert np.rad2deg(se3.rotation_angle_rad(truth[:3, :3].T @ T[:3, :3])) < 0.3


@pytest.mark.parametrize('turn', [(0.0, 0.15, 0.0), (0.1, 0.0, 0.2), (0.0, 0.0, 0.6)])
def test_a_pure_rotation_gives_none(
    rng: np.random.Generator, turn: tuple[float, float, float]
) -> None:
    assert two_views(rng, pose(0.0, 0.0, 0.0, turn)) is None


def test_a_pure_rotation_seen_by_a_corner_of_the_image_gives_none() -> None:
    """Rotation and shift look alike there; an essential matrix alone found 2 degrees once."""
    turned = pose(0.0, 0.0, 0.0, (0.0, 0.6, 0.0))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        depth = rng.uniform(2.0, 8.0, 60)
        ray = rng.uniform(0.45, 0.62, (60, 2))
        position = np.column_stack([ray * depth[:, None], depth])
        local_map = map_of(position, np.eye(4))
        sights = sights_of(np.arange(60), position, turned, rng.normal(0, NOISE, (60, 2)))
        assert relative_pose(sights, local_map, CAMERA, KeyframeConfig(), 0) is None


def test_standing_still_gives_none(rng: np.random.Generator) -> None:
    assert two_views(rng, np.eye(4)) is None


def test_parallax_below_the_parameter_gives_none(rng: np.random.Generator) -> None:
    strict = dataclasses.replace(KeyframeConfig(), bootstrap_parallax_deg=15.0)
    assert two_views(rng, MOVED, config=strict) is None


def test_too_few_sights_give_none(rng: np.random.Generator) -> None:
    assert two_views(rng, MOVED, count=MIN_SIGHTS - 1) is None


def test_sights_that_belong_together_by_chance_only_give_none(rng: np.random.Generator) -> None:
    assert two_views(rng, MOVED, false=150) is None


def test_sights_the_lens_cannot_show_do_no_harm(rng: np.random.Generator) -> None:
    position = cloud(rng, 150)
    local_map = map_of(position, np.eye(4))
    sights = sights_of(np.arange(150), position, MOVED)
    sights.ray[:10] = np.nan
    assert relative_pose(sights, local_map, CAMERA, KeyframeConfig(), 0) is not None
    sights.ray[:] = np.nan
    assert relative_pose(sights, local_map, CAMERA, KeyframeConfig(), 0) is None
    sights.ray[:] = 0.1  # all tracks have slid to one place
    assert relative_pose(sights, local_map, CAMERA, KeyframeConfig(), 0) is None


# -------------------------------------------------------------------------------- keyframes


def some_sights(point: np.ndarray, shift_px: float = 0.0) -> Sights:
    xy = np.stack([point * 3.0 + shift_px, np.full(len(point), 50.0)], 1).astype(np.float32)
    return Sights(point, xy, np.zeros((len(point), 2)))


def test_a_keyframe_is_due_when_points_get_lost() -> None:
    policy = KeyframePolicy(KeyframeConfig(min_tracked_ratio=0.7, max_flow_ratio=0.1))
    policy.begin(some_sights(np.arange(100)))
    assert not policy.wants(some_sights(np.arange(71)), 640)
    assert policy.wants(some_sights(np.arange(69)), 640)
    assert policy.wants(NO_SIGHTS, 640)


def test_a_keyframe_is_due_when_the_image_has_moved_on() -> None:
    policy = KeyframePolicy(KeyframeConfig(min_tracked_ratio=0.7, max_flow_ratio=0.1))
    policy.begin(some_sights(np.arange(100)))
    assert not policy.wants(some_sights(np.arange(100), 63.0), 640)
    assert policy.wants(some_sights(np.arange(100), 65.0), 640)


def test_points_that_are_newer_than_the_keyframe_do_not_count() -> None:
    policy = KeyframePolicy(KeyframeConfig(min_tracked_ratio=0.7))
    policy.begin(some_sights(np.arange(100)))
    assert policy.wants(some_sights(np.arange(50, 200)), 640)


def test_after_an_empty_keyframe_the_next_frame_is_wanted() -> None:
    policy = KeyframePolicy(KeyframeConfig())
    policy.begin(NO_SIGHTS)
    assert policy.wants(some_sights(np.arange(10)), 640)


# ----------------------------------------------------------------------------- depth readings

CONFIG = ScaleConfig(min_depth_m=0.5, max_depth_m=10.0)


def test_depth_is_read_at_the_nearest_pixel() -> None:
    depth_m = 2.0 + 1e-3 * np.arange(120, dtype=np.float32).reshape(10, 12)
    xy = np.array([[3.4, 5.6], [7.0, 2.0]], np.float32)
    np.testing.assert_allclose(read_depth(depth_m, xy, CONFIG), [depth_m[6, 3], depth_m[2, 7]])


def test_a_reading_on_an_edge_is_refused() -> None:
    depth_m = np.full((20, 20), 2.0, np.float32)
    depth_m[:, 10:] = 4.0
    xy = np.array([[9, 5], [10, 5], [7, 5], [12, 5]], np.float32)
    np.testing.assert_array_equal(read_depth(depth_m, xy, CONFIG), [np.nan, np.nan, 2.0, 4.0])


def test_holes_and_readings_out_of_range_are_refused() -> None:
    depth_m = np.full((9, 40), 3.0, np.float32)
    for column, value in ((4, np.nan), (12, 0.0), (20, np.inf), (28, 0.4), (36, 11.0)):
        depth_m[2:7, column - 2 : column + 3] = value
    xy = np.array([[4, 4], [12, 4], [20, 4], [28, 4], [36, 4]], np.float32)
    assert np.isnan(read_depth(depth_m, xy, CONFIG)).all()


def test_a_hole_next_to_a_reading_does_not_spoil_it() -> None:
    depth_m = np.full((9, 9), 3.0, np.float32)
    depth_m[:, 5] = np.nan
    np.testing.assert_array_equal(read_depth(depth_m, np.array([[4.0, 4.0]]), CONFIG), [3.0])


def test_pixels_at_the_border_are_read_too() -> None:
    depth_m = np.full((9, 12), 3.0, np.float32)
    xy = np.array([[0, 0], [11, 8], [-0.4, 8.4], [11.4, 0]], np.float32)
    np.testing.assert_array_equal(read_depth(depth_m, xy, CONFIG), 3.0)


def test_without_a_depth_image_nothing_is_known() -> None:
    assert np.isnan(read_depth(None, np.zeros((3, 2)), CONFIG)).all()
    depth_m = np.ones((5, 5), np.float32)
    assert read_depth(depth_m, np.zeros((0, 2)), CONFIG).shape == (0,)
