"""Direct alignment: motions that are known because the views were filmed from known places."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from runtime_world import T_BASE_CAMERA, World
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import OdometryError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.direct_alignment import Alignment, align

CAMERA = Camera(256, 192, 200.0, 200.0, 127.5, 95.5)
CLOSE_DEG, CLOSE_M = 0.1, 0.01
PLACES = ((2.5, 2.6, 0.3), (3.5, 2.4, 1.9), (3.2, 3.6, -2.5), (2.4, 3.3, -0.9))


class Pair:
    """Two views of the room with the motion between them, and depth of the first."""

    def __init__(self, room: World, place, T_1_0: np.ndarray, camera: Camera = CAMERA) -> None:
        x, y, yaw = place
        T_world_base = motion((0.0, 0.0, np.degrees(yaw)), (x, y, 0.0))
        T_world_0 = T_world_base @ T_BASE_CAMERA
        image0, self.depth0 = room.film(T_world_0, camera)
        image1, _ = room.film(T_world_0 @ np.linalg.inv(T_1_0), camera)
        self.gray0, self.gray1 = image0[..., 0], image1[..., 0]
        self.T_1_0, self.K = T_1_0, camera.K

    def align(self, guess: np.ndarray, **changed) -> Alignment:
        views = {'gray0': self.gray0, 'depth0': self.depth0, 'gray1': self.gray1, **changed}
        sigma = views.pop('depth_sigma', 0.1)
        return align(**views, K=self.K, T_1_0=guess, depth_sigma=sigma)


def motion(rotvec_deg, translation) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(rotvec_deg, degrees=True).as_matrix()
    T[:3, 3] = translation
    return T


def random_motion(rng: np.random.Generator, deg: float, metres: float) -> np.ndarray:
    axis, way = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    return motion(deg * axis, metres * way)


def error(T: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Degrees and metres."""
    turn = Rotation.from_matrix(T[:3, :3].T @ truth[:3, :3]).magnitude()
    return np.degrees(turn), float(np.linalg.norm(T[:3, 3] - truth[:3, 3]))


def assert_close(T: np.ndarray, truth: np.ndarray, factor: float = 1.0) -> None:
    deg, metres = error(T, truth)
    assert deg < factor * CLOSE_DEG and metres < factor * CLOSE_M, f'{deg} deg, {metres} m'


@pytest.fixture(scope='module')
def pair(room) -> Pair:
    return Pair(room, PLACES[0], motion((1.0, -3.0, 0.5), (0.08, -0.02, -0.15)))


@pytest.fixture(scope='module')
def guess(pair) -> np.ndarray:
    return random_motion(np.random.default_rng(3), 1.0, 0.05) @ pair.T_1_0


# ------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize('place', PLACES)
def test_a_guess_that_is_2_deg_and_10_cm_off_is_put_right(room, rng, place):
    for _ in range(2):
        truth = random_motion(rng, rng.uniform(0.0, 6.0), rng.uniform(0.05, 0.3))
        start = random_motion(rng, 2.0, 0.1) @ truth
        pair = Pair(room, place, truth)
        assert_close(pair.align(start).T_1_0, truth)


def test_a_camera_at_rest_stays_where_it_is(pair):
    still = pair.align(np.eye(4), gray1=pair.gray0)
    assert_close(still.T_1_0, np.eye(4), factor=0.01)
    assert still.inlier_share > 0.95


def test_another_exposure_of_the_second_image_does_not_matter(pair, guess):
    for gain, offset in ((0.7, 20.0), (0.8, -30.0), (0.5, 100.0)):
        darker = np.clip(gain * pair.gray1.astype(float) + offset, 0, 255)
        assert_close(pair.align(guess, gray1=darker).T_1_0, pair.T_1_0)


def test_something_that_moved_in_front_does_not_carry_the_camera_away(pair, guess, rng):
    hidden = pair.gray1.copy()
    hidden[40:130, 60:160] = rng.integers(0, 255, (90, 100))  # 18 % of the image
    result = pair.align(guess, gray1=hidden)
    assert_close(result.T_1_0, pair.T_1_0)
    assert result.inlier_share < pair.align(guess).inlier_share - 0.05


def test_noise_of_the_camera_is_averaged_away(pair, guess, rng):
    noisy = [gray + rng.normal(0.0, 8.0, gray.shape) for gray in (pair.gray0, pair.gray1)]
    result = pair.align(guess, gray0=noisy[0], gray1=noisy[1])
    assert_close(result.T_1_0, pair.T_1_0, factor=3.0)


def test_depth_with_holes_will_do(pair, guess, rng):
    holes = np.where(rng.random(pair.depth0.shape) < 0.5, pair.depth0, np.nan)
    holes[:, :60], holes[:30] = 0.0, -1.0
    assert_close(pair.align(guess, depth0=holes).T_1_0, pair.T_1_0)


def test_a_picture_of_odd_sides_is_aligned_as_well(room):
    truth = motion((0.0, 2.0, 0.0), (0.05, 0.0, 0.1))
    odd = Pair(room, PLACES[1], truth, CAMERA.cropped(0, 0, 251, 189))
    assert_close(odd.align(np.eye(4)).T_1_0, truth)


def test_depth_in_another_unit_gives_the_translation_in_that_unit(pair, guess):
    half = guess.copy()
    half[:3, 3] *= 0.5
    metres = pair.align(guess)
    other = pair.align(half, depth0=0.5 * pair.depth0)
    np.testing.assert_allclose(other.T_1_0[:3, 3], 0.5 * metres.T_1_0[:3, 3], atol=1e-9)
    np.testing.assert_allclose(other.T_1_0[:3, :3], metres.T_1_0[:3, :3], atol=1e-9)
    unit = np.diag([2.0, 2.0, 2.0, 1.0, 1.0, 1.0])  # a covariance scales by the unit squared
    expected = unit @ metres.information @ unit
    np.testing.assert_allclose(other.information, expected, rtol=1e-6, atol=1e-3)


# ---------------------------------------------------------------------------------- information


def test_stripes_leave_the_direction_along_them_unknown(rng):
    """A wall straight ahead whose grey values change from left to right only."""
    row = np.interp(np.arange(256), np.arange(0, 264, 8), rng.uniform(30, 220, 33))
    gray, depth = np.tile(row, (192, 1)), np.full((192, 256), 2.0)
    result = align(gray, depth, gray, CAMERA.K, motion((0.0, 0.0, 0.0), (0.0, 0.05, 0.0)))
    information = result.information
    assert abs(information[1]).max() < 1e-9 * information[0, 0]
    assert result.T_1_0[1, 3] == pytest.approx(0.05, abs=1e-9)  # nothing said otherwise
    np.testing.assert_allclose(information, information.T)


def test_a_depth_that_is_known_less_well_tells_less_of_the_motion(pair, guess):
    sigmas = (0.0, 0.05, np.full(pair.depth0.shape, 0.2))
    known = [pair.align(guess, depth_sigma=sigma).information for sigma in sigmas]
    for more, less in itertools.pairwise(known):
        assert np.linalg.eigvalsh(more - less).min() > 0


def test_a_depth_that_is_quite_unknown_does_not_spoil_the_others(pair, guess):
    sigma = np.full(pair.depth0.shape, 0.05)
    sigma[:, :50], sigma[:, 50:80] = np.nan, np.inf
    result = pair.align(guess, depth_sigma=sigma)
    assert_close(result.T_1_0, pair.T_1_0)
    assert np.isfinite(result.information).all()


def test_the_covariance_contains_what_a_wrong_depth_does(room, rng):
    squared = []
    for place in PLACES:
        truth = random_motion(rng, 3.0, 0.2)
        pair = Pair(room, place, truth)
        coarse = np.kron(rng.normal(0.0, 0.1, (6, 8)), np.ones((32, 32)))  # 10 % by patches
        result = pair.align(truth, depth0=pair.depth0 * np.exp(coarse))
        between = np.linalg.inv(result.T_1_0) @ truth
        xi = [*between[:3, 3], *Rotation.from_matrix(between[:3, :3]).as_rotvec()]
        squared.append(float(xi @ result.information @ np.array(xi)))
    assert 0.1 < np.median(squared) < 22.5  # 99.9 % of the chi-square with 6 degrees of freedom


# ----------------------------------------------------------------------------------- degenerate


@pytest.mark.parametrize(
    'changed',
    [
        {'gray0': np.full((192, 256), 90.0)},
        {'depth0': np.full((192, 256), np.nan)},
        {'depth0': np.zeros((192, 256))},
    ],
)
def test_what_cannot_be_aligned_keeps_the_guess_and_claims_nothing(pair, guess, changed):
    result = pair.align(guess, **changed)
    np.testing.assert_allclose(result.T_1_0, guess, atol=1e-12)
    assert not result.information.any()
    assert (result.inlier_share, result.iterations) == (0.0, 0)


def test_a_guess_that_looks_away_from_everything_is_kept(pair):
    away = motion((0.0, 180.0, 0.0), (0.0, 0.0, 0.0))
    result = pair.align(away)
    np.testing.assert_allclose(result.T_1_0, away, atol=1e-12)
    assert not result.information.any() and result.inlier_share == 0.0


def test_another_place_has_few_inliers(room, pair, guess):
    elsewhere = Pair(room, PLACES[2], np.eye(4)).gray0
    assert pair.align(guess, gray1=elsewhere).inlier_share < 0.5
    assert pair.align(guess).inlier_share > 0.8


def test_a_picture_of_a_few_pixels_is_no_error():
    result = align(np.zeros((8, 6)), np.ones((8, 6)), np.zeros((8, 6)), np.eye(3), np.eye(4))
    np.testing.assert_array_equal(result.T_1_0, np.eye(4))


def test_the_inputs_are_left_as_they_are_and_bytes_serve_as_well_as_floats(pair, guess):
    start, depth = guess.copy(), pair.depth0.copy()
    from_bytes = pair.align(guess)
    from_floats = pair.align(guess, gray0=pair.gray0.astype(float), gray1=pair.gray1.astype(float))
    np.testing.assert_array_equal(from_bytes.T_1_0, from_floats.T_1_0)
    np.testing.assert_array_equal(guess, start)
    np.testing.assert_array_equal(pair.depth0, depth)


def test_what_does_not_fit_is_refused(pair):
    with pytest.raises(OdometryError, match='resize'):
        pair.align(np.eye(4), gray1=pair.gray1[:100])
    with pytest.raises(OdometryError, match='resize'):
        pair.align(np.eye(4), depth0=pair.depth0[None])
    with pytest.raises(OdometryError, match='neither a number'):
        pair.align(np.eye(4), depth_sigma=np.ones(3))
    for bad in (np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(OdometryError, match='start from the identity'):
            pair.align(bad)
