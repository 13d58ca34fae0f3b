"""Estimates reduced to the floor."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.config.runtime import FramesConfig
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.extrinsics import extrinsics_from
from kpvo_ros.odometry.planar import (
    FIXED_VARIANCE,
    planar_covariance,
    planar_pose,
    planar_twist,
    project_to_plane,
)
from kpvo_ros.types import Features, OdometryEstimate, Status

ANGLE = st.floats(-3.1, 3.1)
TILT = st.floats(-1.2, 1.2)


def pose(roll: float, pitch: float, yaw: float, xyz: tuple[float, float, float]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('xyz', [roll, pitch, yaw]).as_matrix()
    T[:3, 3] = xyz
    return T


def spd(rng: np.random.Generator, scale: float = 1.0) -> np.ndarray:
    A = rng.normal(size=(6, 6)) * scale
    return A @ A.T + 1e-3 * scale**2 * np.eye(6)


@settings(deadline=None, max_examples=50)
@given(TILT, TILT, ANGLE)
def test_a_planar_pose_keeps_x_y_and_yaw_and_loses_the_rest(
    roll: float, pitch: float, yaw: float
) -> None:
    T = planar_pose(pose(roll, pitch, yaw, (1.0, -2.0, 3.0)))
    np.testing.assert_allclose(T, pose(0, 0, yaw, (1.0, -2.0, 0.0)), atol=1e-9)


def test_covariance_follows_the_samples(rng: np.random.Generator) -> None:
    T = pose(0.2, -0.5, 1.1, (1.0, 2.0, 3.0))
    covariance = spd(rng, 0.01)
    noise = rng.multivariate_normal(np.zeros(6), covariance, 20000)
    turned = Rotation.from_rotvec(noise[:, 3:]) * Rotation.from_matrix(T[:3, :3])
    yaw = turned.as_euler('xyz')[:, 2]
    samples = np.column_stack([T[0, 3] + noise[:, 0], T[1, 3] + noise[:, 1], yaw])
    planar = planar_covariance(covariance, T)[np.ix_([0, 1, 5], [0, 1, 5])]
    measured = np.cov(samples.T)
    np.testing.assert_allclose(planar, measured, atol=0.05 * np.abs(measured).max())


def test_what_the_floor_fixes_is_small_but_never_zero(rng: np.random.Generator) -> None:
    planar = planar_covariance(spd(rng), pose(0.1, 0.1, 0.1, (0, 0, 0)))
    np.testing.assert_array_equal(planar[[2, 3, 4], [2, 3, 4]], FIXED_VARIANCE)
    assert np.linalg.eigvalsh(planar).min() > 0


def test_twist_of_a_tilted_base_is_turned_level_before_z_is_dropped(
    rng: np.random.Generator,
) -> None:
    # Nose down by 30 degrees, moving along the odom x axis at 2 m/s.
    T = pose(0.0, np.pi / 6, 0.0, (0, 0, 0))
    twist = np.zeros(6)
    twist[:3] = T[:3, :3].T @ [2.0, 0.0, 0.0]
    twist[3:] = T[:3, :3].T @ [0.0, 0.0, 0.7]
    planar, covariance = planar_twist(twist, spd(rng), T)
    np.testing.assert_allclose(planar, [2.0, 0, 0, 0, 0, 0.7], atol=1e-12)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_a_base_on_its_nose_gives_finite_numbers(rng: np.random.Generator) -> None:
    planar = planar_covariance(spd(rng), pose(0.0, np.pi / 2, 0.3, (0, 0, 0)))
    assert np.isfinite(planar).all()


def test_the_camera_keeps_its_place_on_the_base_and_the_rest_is_untouched(
    rng: np.random.Generator,
) -> None:
    T_base_camera = extrinsics_from(FramesConfig(extrinsics_xyz_m=(0.1, 0.2, 0.3)))
    T = pose(0.1, -0.2, 0.3, (1, 2, 3))
    estimate = estimate_of(rng, T, T @ T_base_camera)
    flat = project_to_plane(estimate)
    np.testing.assert_allclose(
        se3.inverse(flat.T_odom_base) @ flat.T_odom_camera, T_base_camera, atol=1e-12
    )
    assert (flat.stamp_ns, flat.status, flat.inliers) == (7, Status.TRACKING, 5)
    np.testing.assert_array_equal(estimate.T_odom_base, T)
    assert flat.T_map_odom is None


def estimate_of(
    rng: np.random.Generator, T: np.ndarray, T_odom_camera: np.ndarray, **changes: Any
) -> OdometryEstimate:
    empty = Features(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 32), np.uint8))
    return OdometryEstimate(
        7, T, T_odom_camera, spd(rng), np.ones(6), spd(rng), Status.TRACKING, '', empty,
        5, 1.0, 0.1, False, 0, {}, **changes,
    )  # fmt: skip


def test_a_correction_puts_the_flat_base_where_the_base_is_in_the_map(
    rng: np.random.Generator,
) -> None:
    T = pose(0.1, -0.2, 0.3, (40, 2, 3))
    T_map_odom = pose(0.05, -0.1, 0.4, (1, 2, 3))  # tilted: 40 m away it lifts the base by 4 m
    flat = project_to_plane(estimate_of(rng, T, T, T_map_odom=T_map_odom))
    assert flat.T_map_odom is not None
    np.testing.assert_allclose(
        flat.T_map_odom @ flat.T_odom_base, planar_pose(T_map_odom @ T), atol=1e-12
    )
    np.testing.assert_allclose(flat.T_map_odom, planar_pose(flat.T_map_odom), atol=1e-12)


@pytest.mark.parametrize(
    ('rpy', 'forward'),
    [
        ((0.0, 0.0, 0.0), [1, 0, 0]),
        ((0.0, 0.0, np.pi / 2), [0, 1, 0]),
        ((0.0, np.pi / 2, 0.0), [0, 0, -1]),
    ],
    ids=['ahead', 'to the left', 'down'],
)
def test_extrinsics_of_a_camera_that_looks(
    rpy: tuple[float, float, float], forward: list[float]
) -> None:
    frames = FramesConfig(extrinsics_xyz_m=(0.1, 0.0, 0.4), extrinsics_rpy_rad=rpy)
    T_base_camera = extrinsics_from(frames)
    np.testing.assert_allclose(T_base_camera[:3, 2], forward, atol=1e-12)
    np.testing.assert_allclose(T_base_camera[:3, 3], [0.1, 0.0, 0.4])
