"""A pose from sights whose depths are more or less known: against closed forms and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
from points_world import CAMERA, cloud, pose, rays_of
import pytest

from kpvo_ros.geometry import se3
from kpvo_ros.odometry import resection
from kpvo_ros.odometry.resection import Sightings, resect

SIGMA = 0.7 / CAMERA.fx
FIRST = pose(0.3, -0.2, 0.5, (0.1, -0.2, 0.05))
STEP = pose(0.25, 0.05, 0.1, (0.03, -0.06, 0.02))
NOW = FIRST @ STEP
ANYWHERE = np.diag([100.0] * 3 + [1.0] * 3)


def sightings(
    position: np.ndarray,
    ray: np.ndarray,
    rho: np.ndarray | None = None,
    sigma_rho: np.ndarray | float = 1e-7,
    sigma: float = SIGMA,
) -> Sightings:
    """Points first seen from `FIRST`; `rho` is what is believed of them, the truth by default."""
    count = len(position)
    local = se3.transform(se3.inverse(FIRST), position)
    return Sightings(
        direction=np.c_[local[:, :2] / local[:, 2:], np.ones(count)] @ FIRST[:3, :3].T,
        origin=np.tile(FIRST[:3, 3], (count, 1)),
        rho=1.0 / local[:, 2] if rho is None else rho,
        variance=np.broadcast_to(np.square(sigma_rho), (count,)),
        ray=ray,
        sigma=np.full(count, sigma),
    )


def ahead(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points in front of `FIRST`."""
    return se3.transform(FIRST, cloud(rng, count))


def off(T: np.ndarray) -> np.ndarray:
    """Local error of a pose that should be `NOW`."""
    return se3.log_se3(se3.inverse(NOW) @ T)


def test_sights_without_noise_give_the_pose_from_far_off(rng: np.random.Generator) -> None:
    position = ahead(rng, 40)
    far = NOW @ pose(0.4, -0.3, 0.5, (0.2, 0.3, -0.3))
    found = resect(sightings(position, rays_of(position, NOW)), far, ANYWHERE, iterations=40)
    np.testing.assert_allclose(off(found.T_odom_camera), 0.0, atol=1e-4)
    assert found.surprise.max() < 0.05


def test_the_pose_is_that_of_opencv(rng: np.random.Generator) -> None:
    """Under noise far below the scale of the loss, least squares is what both solve."""
    position = ahead(rng, 40)
    ray = rays_of(position, NOW) + rng.normal(0, 2e-4, (40, 2))
    found = resect(sightings(position, ray, sigma=2e-2), FIRST, 1e8 * ANYWHERE, iterations=60)
    ok, turn, shift = cv2.solvePnP(position, ray, np.eye(3), None, flags=cv2.SOLVEPNP_ITERATIVE)
    assert ok
    T = se3.inverse(se3.from_rt(cv2.Rodrigues(turn)[0], shift.ravel()))
    assert np.abs(off(T)).max() > 3e-4  # the noise shows
    np.testing.assert_allclose(found.T_odom_camera, T, atol=2e-5)


def test_the_error_is_what_the_covariance_promises() -> None:
    """NEES over draws of sights and of depths, most of them bad."""
    rng = np.random.default_rng(3)
    squared = []
    for _ in range(300):
        position = ahead(rng, 60)
        true_rho = 1.0 / se3.transform(se3.inverse(FIRST), position)[:, 2]
        sigma_rho = true_rho * rng.choice([1e-4, 0.02, 0.2], 60)
        rho = np.maximum(true_rho + rng.normal(0, sigma_rho), 0.01)
        ray = rays_of(position, NOW) + rng.normal(0, SIGMA, (60, 2))
        found = resect(sightings(position, ray, rho, sigma_rho), FIRST, ANYWHERE, iterations=30)
        xi = off(found.T_odom_camera)
        squared.append(xi @ np.linalg.solve(found.covariance, xi))
    # The Cauchy loss pays for its robustness: the covariance may be a little too large.
    assert 4.0 < np.mean(squared) < 6.6


def test_points_without_depth_hold_the_rotation_and_not_the_length_of_the_step(
    rng: np.random.Generator,
) -> None:
    position = ahead(rng, 80)
    true_rho = 1.0 / se3.transform(se3.inverse(FIRST), position)[:, 2]
    wrong = 0.5 * true_rho  # all believed twice as far, give or take all of it
    ray = rays_of(position, NOW) + rng.normal(0, SIGMA, (80, 2))
    seen = sightings(position, ray, wrong, 3.0 * wrong)
    found = resect(seen, FIRST @ pose(0.2, 0.0, 0.0), np.diag([0.3**2] * 3 + [1.0] * 3), 40)
    assert np.rad2deg(se3.rotation_angle_rad(NOW[:3, :3].T @ found.T_odom_camera[:3, :3])) < 0.5
    way = se3.inverse(found.T_odom_camera)[:3, :3] @ (found.T_odom_camera - FIRST)[:3, 3]
    along = way / np.linalg.norm(way)
    spread = np.sqrt(along @ found.covariance[:3, :3] @ along)
    assert spread > 0.1  # next to the 0.3 it started with
    assert np.sqrt(np.diag(found.covariance)[3:]).max() < np.deg2rad(0.5)
    # Known depths fix the length as well.
    known = resect(sightings(position, ray), FIRST, ANYWHERE, 40)
    assert np.sqrt(along @ known.covariance[:3, :3] @ along) < 0.01
    assert np.linalg.norm(off(known.T_odom_camera)[:3]) < 0.02


def test_an_uncertain_depth_does_not_pull_along_its_epipolar_line(
    rng: np.random.Generator,
) -> None:
    position = ahead(rng, 60)
    true_rho = 1.0 / se3.transform(se3.inverse(FIRST), position)[:, 2]
    rho, sigma_rho = true_rho.copy(), np.full(60, 1e-6)
    rho[30:] *= 1.5
    sigma_rho[30:] = 0.5 * true_rho[30:]
    found = resect(
        sightings(position, rays_of(position, NOW), rho, sigma_rho), FIRST, ANYWHERE, 40
    )
    np.testing.assert_allclose(off(found.T_odom_camera), 0.0, atol=1e-3)
    assert found.blur[:30].max() < 0.1 and np.median(found.blur[30:]) > 4.0


def test_a_third_of_false_sights_hardly_pulls(rng: np.random.Generator) -> None:
    position = ahead(rng, 90)
    ray = rays_of(position, NOW)
    ray[:30] += rng.uniform(-0.3, 0.3, (30, 2))
    found = resect(sightings(position, ray), FIRST, np.diag([0.1] * 3 + [0.1] * 3), 40)
    np.testing.assert_allclose(off(found.T_odom_camera), 0.0, atol=5e-3)
    assert (found.surprise[30:] < 3.0).all() and np.median(found.surprise[:30]) > 20.0


def test_without_a_sight_the_pose_is_the_expected_one() -> None:
    nothing = sightings(np.zeros((0, 3)), np.zeros((0, 2)))
    found = resect(nothing, NOW, ANYWHERE)
    np.testing.assert_allclose(found.T_odom_camera, NOW, atol=1e-12)
    np.testing.assert_allclose(found.covariance, ANYWHERE, rtol=1e-9)


def test_points_behind_the_camera_count_as_false(rng: np.random.Generator) -> None:
    position = ahead(rng, 40)
    ray = rays_of(position, NOW)
    seen = sightings(position, ray)
    seen.direction[:8] *= -1.0
    found = resect(seen, NOW @ pose(0.05, 0.0, 0.0), ANYWHERE)
    assert (found.surprise[:8] > 1e3).all()
    np.testing.assert_allclose(off(found.T_odom_camera), 0.0, atol=1e-3)


@pytest.mark.parametrize('sigma_rho', [0.0, 1e-9])
def test_the_gradient_is_the_slope_of_the_cost(rng: np.random.Generator, sigma_rho: float) -> None:
    """Central differences at a pose well off the answer, the prior included."""
    position = ahead(rng, 30)
    ray = rays_of(position, NOW) + rng.normal(0, SIGMA, (30, 2))
    seen = sightings(position, ray, sigma_rho=sigma_rho)
    prior = resection._Prior(FIRST, np.diag([4.0, 1.0, 2.0, 30.0, 10.0, 20.0]))
    T = FIRST @ se3.exp_se3(np.array([0.01, -0.02, 0.01, 0.01, 0.005, -0.01]))
    slope = [
        (cost_at(seen, T, prior, one) - cost_at(seen, T, prior, -one)) / 2e-6
        for one in 1e-6 * np.eye(6)
    ]
    gradient = 2.0 * resection._linearise(seen, T, prior).gradient  # d cost / d x = 2 J^T W e
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-3 * np.abs(slope).max())


def cost_at(seen: Sightings, T: np.ndarray, prior: resection._Prior, xi: np.ndarray) -> float:
    return resection._linearise(seen, T @ se3.exp_se3(xi), prior).cost
