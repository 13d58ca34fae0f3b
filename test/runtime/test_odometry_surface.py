"""Tilts of surfaces whose plane is known."""

from __future__ import annotations

import numpy as np
from points_world import features
import pytest

from kpvo_ros.odometry.local_map import LocalMap
from kpvo_ros.odometry.surface import measure_tilt, tilt_of


def plane_view(
    rng: np.random.Generator, m: np.ndarray, count: int = 200, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rays, inverse depths and their sigmas on the plane m . p = 1."""
    ray = rng.uniform(-0.4, 0.4, (count, 2))
    rho = ray @ m[:2] + m[2]
    return ray, rho * (1.0 + noise * rng.normal(size=count)), np.full(count, 0.01 * m[2])


@pytest.mark.parametrize('lean', [(0.0, 0.0), (0.0, 0.9), (-0.5, 0.3)])
def test_the_tilt_of_a_plane_is_the_slope_of_its_inverse_depth(
    rng: np.random.Generator, lean: tuple[float, float]
) -> None:
    m = np.array([*lean, 1.0]) / 3.0
    np.testing.assert_allclose(tilt_of(*plane_view(rng, m)), np.tile(m[:2], (200, 1)), atol=1e-9)


def test_noise_of_a_percent_leaves_the_tilt_about_right(rng: np.random.Generator) -> None:
    m = np.array([0.1, 0.8, 1.0]) / 3.0
    off = tilt_of(*plane_view(rng, m, 400, noise=0.005)) - m[:2]
    assert np.median(np.linalg.norm(off, axis=1)) < 0.15 * np.linalg.norm(m[:2])


def test_points_scattered_in_depth_face_the_camera(rng: np.random.Generator) -> None:
    ray, rho, sigma = plane_view(rng, np.array([0.0, 0.0, 0.3]))
    rho = rho * rng.uniform(0.5, 2.0, len(rho))
    assert (tilt_of(ray, rho, sigma) == 0).all(axis=1).mean() > 0.95


def test_points_in_a_row_say_nothing_about_the_other_direction(rng: np.random.Generator) -> None:
    ray = np.stack([np.linspace(-0.4, 0.4, 100), np.zeros(100)], axis=1)
    tilt = tilt_of(ray, 0.3 + 0.2 * ray[:, 0], np.full(100, 0.003))
    np.testing.assert_array_equal(tilt, 0.0)


def test_neighbours_of_another_keyframe_or_without_depth_do_not_count(
    rng: np.random.Generator,
) -> None:
    local_map = LocalMap(np.zeros((0, 1), np.uint8))
    floor, wall = np.array([0.0, 0.8, 1.0]) / 3.0, np.array([0.0, 0.0, 0.2])
    for m in (floor, wall):
        row = local_map.add_keyframe(0, np.eye(4), np.eye(6), np.zeros((8, 8), np.uint8))
        ray, rho, sigma = plane_view(rng, m)
        point = local_map.add_points(row, ray, features(ray))
        local_map.set_depth(point[:150], rho[:150], sigma[:150] ** 2)
    measure_tilt(local_map, np.array([0]))
    np.testing.assert_allclose(local_map.tilt[:150], np.tile(floor[:2], (150, 1)), atol=1e-9)
    np.testing.assert_array_equal(local_map.tilt[150:], 0.0)  # no depth; the other keyframe
    measure_tilt(local_map, np.array([1]))
    np.testing.assert_allclose(local_map.tilt[200:350], 0.0, atol=1e-9)


def test_too_few_points_are_left_as_they_are() -> None:
    local_map = LocalMap(np.zeros((0, 1), np.uint8))
    measure_tilt(local_map, np.array([0]))
    assert len(local_map.tilt) == 0
