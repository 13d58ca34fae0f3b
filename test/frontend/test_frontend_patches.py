"""Patches bent and laid over pictures whose bending is known."""

from __future__ import annotations

import cv2
from hypothesis import assume, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.frontend.flow import FlowTracker
from kpvo_ros.frontend.patches import FirstSights, PatchRefiner, patch_warp
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera, DistortionModel

HEIGHT, WIDTH = 240, 320
MIDDLE = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
CAMERA = Camera(WIDTH, HEIGHT, 230.0, 240.0, 159.5, 119.5)
BENT_LENS = Camera(
    WIDTH, HEIGHT, 230.0, 230.0, 159.5, 119.5, DistortionModel.PLUMB_BOB, (-0.2, 0.05, 0.0, 0.0)
)
FACING = np.zeros((1, 2))  # tilt of a plane that faces its keyframe


@pytest.fixture
def refiner() -> PatchRefiner:
    return PatchRefiner(TrackingConfig())


@pytest.fixture
def scene(rng: np.random.Generator) -> np.ndarray:
    """(H, W) float64 with detail of every size above two pixels."""
    picture = np.zeros((HEIGHT, WIDTH))
    for sigma in (2.0, 4.0, 10.0):
        noise = ndimage.gaussian_filter(rng.normal(size=picture.shape), sigma)
        picture += 22.0 * noise / noise.std()
    return np.clip(picture + 128.0, 0.0, 255.0)


def as_uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def bent(scene: np.ndarray, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The picture in which what was at MIDDLE + d is at MIDDLE + shift + matrix @ d."""
    back = np.linalg.inv(matrix)[::-1, ::-1]  # scipy counts rows first
    middle = MIDDLE[::-1]
    offset = middle - back @ (middle + np.asarray(shift)[::-1])
    return as_uint8(ndimage.affine_transform(scene, back, offset, order=3, mode='reflect'))


def spots(matrix: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of the scene well inside both pictures, and where they are in the bent one."""
    x, y = np.meshgrid(np.arange(30, WIDTH - 30, 14), np.arange(30, HEIGHT - 30, 14))
    before = np.stack([x, y], axis=-1).reshape(-1, 2).astype(float)
    after = (before - MIDDLE) @ matrix.T + MIDDLE + shift
    inside = ((after > 15) & (after < (WIDTH - 16, HEIGHT - 16))).all(1)
    return before[inside], after[inside]


def turned(angle_deg: float, scale: float) -> np.ndarray:
    angle = np.deg2rad(angle_deg)
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def one_keyframe(count: int) -> np.ndarray:
    return np.zeros(count, np.int64)


@pytest.mark.parametrize(
    'matrix',
    [np.eye(2), turned(25.0, 1.0), turned(0.0, 1.5), turned(-40.0, 0.7), np.diag([1.0, 0.6])],
    ids=['as it was', 'turned', 'nearer', 'turned and further', 'from the side'],
)
def test_a_guess_half_a_pixel_off_is_put_right(refiner, scene, rng, matrix):
    shift = np.array([2.3, -1.4])
    before, after = spots(matrix, shift)
    guess, later = after + rng.uniform(-0.5, 0.5, after.shape), bent(scene, matrix, shift)
    warp = np.broadcast_to(matrix, (len(before), 2, 2))
    xy, ok = refiner.refine(
        FirstSights([as_uint8(scene)], one_keyframe(len(before)), before, warp), later, guess
    )
    assert xy.dtype == np.float32
    assert ok.mean() > 0.97
    errors = np.linalg.norm(xy[ok] - after[ok], axis=1)
    assert np.median(errors) < 0.04
    assert np.percentile(errors, 95) < 0.15


def test_bending_is_what_makes_it_work(refiner, scene):
    matrix, shift = turned(30.0, 1.4), np.zeros(2)
    before, after = spots(matrix, shift)
    later = bent(scene, matrix, shift)
    straight = np.broadcast_to(np.eye(2), (len(before), 2, 2))
    xy, ok = refiner.refine(
        FirstSights([as_uint8(scene)], one_keyframe(len(before)), before, straight), later, after
    )
    errors = np.linalg.norm(xy - after, axis=1)
    assert (ok & (errors < 0.2)).mean() < 0.5


def test_the_drift_of_a_chain_of_flows_is_taken_out(scene):
    """The camera approaches by 3 % a frame; each frame adds its own error to the chain."""
    flow, frames = FlowTracker(TrackingConfig()), 15
    refiner = PatchRefiner(TrackingConfig(patch_max_move_px=4.0))
    before, _ = spots(np.eye(2), np.zeros(2))
    before = before[(np.abs(before - MIDDLE) < (90, 60)).all(1)]
    chain, ok = before.astype(np.float32), np.ones(len(before), bool)
    now = as_uint8(scene)
    for step in range(1, frames + 1):
        last, now = now, bent(scene, turned(0.0, 1.03**step), np.zeros(2))
        chain, kept = flow.track(last, now, chain)
        ok &= kept
    matrix = turned(0.0, 1.03**frames)
    truth = (before - MIDDLE) @ matrix.T + MIDDLE
    warp = np.broadcast_to(matrix, (len(before), 2, 2))
    xy, good = refiner.refine(
        FirstSights([as_uint8(scene)], one_keyframe(len(before)), before, warp), now, chain
    )
    ok &= good
    assert ok.mean() > 0.7
    drift = np.median(np.linalg.norm(chain[ok] - truth[ok], axis=1))
    left = np.median(np.linalg.norm(xy[ok] - truth[ok], axis=1))
    assert left < 0.06
    assert left < 0.3 * drift


def test_a_track_that_slid_is_given_up_and_left_where_it_was(refiner, scene):
    before, after = spots(np.eye(2), np.zeros(2))
    slid = after + (1.9, 0.0)
    warp = np.broadcast_to(np.eye(2), (len(before), 2, 2))
    gray = as_uint8(scene)
    xy, ok = refiner.refine(
        FirstSights([gray], one_keyframe(len(before)), before, warp), gray, slid
    )
    assert ok.mean() < 0.1
    np.testing.assert_array_equal(xy[~ok], slid[~ok].astype(np.float32))


def test_the_limit_of_the_move_is_the_parameter(scene):
    before, after = spots(np.eye(2), np.zeros(2))
    warp = np.broadcast_to(np.eye(2), (len(before), 2, 2))
    gray = as_uint8(scene)
    generous = PatchRefiner(TrackingConfig(patch_max_move_px=3.0))
    xy, ok = generous.refine(
        FirstSights([gray], one_keyframe(len(before)), before, warp), gray, after + (1.5, 0.0)
    )
    assert ok.mean() > 0.8
    assert np.median(np.linalg.norm(xy[ok] - after[ok], axis=1)) < 0.03


@pytest.mark.parametrize(
    'matrix',
    [np.full((2, 2), np.nan), np.zeros((2, 2)), 20.0 * np.eye(2), np.diag([1.0, -1.0])],
    ids=['unknown', 'vanished', 'far too large', 'mirrored'],
)
def test_what_cannot_be_bent_keeps_its_guess_and_counts_as_good(refiner, scene, matrix):
    before, after = spots(np.eye(2), np.zeros(2))
    warp = np.broadcast_to(np.eye(2), (len(before), 2, 2)).copy()
    warp[::2] = matrix
    guess = after + 0.3
    gray = as_uint8(scene)
    xy, ok = refiner.refine(
        FirstSights([gray], one_keyframe(len(before)), before, warp), gray, guess
    )
    assert ok[::2].all()
    np.testing.assert_array_equal(xy[::2], guess[::2].astype(np.float32))
    assert np.median(np.linalg.norm(xy[1::2] - after[1::2], axis=1)) < 0.03


def test_every_point_is_compared_with_its_own_keyframe(refiner, scene, rng):
    matrices = [np.eye(2), turned(20.0, 1.0), turned(0.0, 1.3)]
    keyframes = [bent(scene, np.linalg.inv(m), np.zeros(2)) for m in matrices]
    _, after = spots(np.eye(2), np.zeros(2))
    after = after[(np.abs(after - MIDDLE) < (80, 50)).all(1)]
    which = rng.integers(0, 3, len(after))
    warp = np.array(matrices)[which]
    before = np.einsum('nij,nj->ni', np.linalg.inv(warp), after - MIDDLE) + MIDDLE
    guess = after + rng.uniform(-0.4, 0.4, after.shape)
    xy, ok = refiner.refine(FirstSights(keyframes, which, before, warp), as_uint8(scene), guess)
    assert ok.mean() > 0.95
    assert np.percentile(np.linalg.norm(xy[ok] - after[ok], axis=1), 95) < 0.15
    _, confused = refiner.refine(
        FirstSights(keyframes, (which + 1) % 3, before, warp), as_uint8(scene), guess
    )
    assert confused.mean() < 0.7


@pytest.mark.parametrize(('gain', 'offset'), [(0.4, 0.0), (0.7, 60.0), (1.25, -10.0)])
def test_another_exposure_does_no_harm(refiner, scene, rng, gain, offset):
    before, after = spots(np.eye(2), np.zeros(2))
    later = as_uint8(gain * scene + offset)
    guess = after + rng.uniform(-0.5, 0.5, after.shape)
    warp = np.broadcast_to(np.eye(2), (len(before), 2, 2))
    xy, ok = refiner.refine(
        FirstSights([as_uint8(scene)], one_keyframe(len(before)), before, warp), later, guess
    )
    assert ok.mean() > 0.95
    assert np.median(np.linalg.norm(xy[ok] - after[ok], axis=1)) < 0.04


def test_more_patches_than_the_picture_has_room_for(refiner, rng):
    noise = ndimage.gaussian_filter(rng.normal(size=(48, 60)), 2.0)
    gray = as_uint8(128.0 + 40.0 * noise / noise.std())
    truth = rng.uniform(12, 35, (400, 2))
    guess = truth + rng.uniform(-0.3, 0.3, truth.shape)
    warp = np.broadcast_to(np.eye(2), (400, 2, 2))
    xy, ok = refiner.refine(FirstSights([gray], one_keyframe(400), truth, warp), gray, guess)
    assert ok.mean() > 0.95
    assert np.percentile(np.linalg.norm(xy[ok] - truth[ok], axis=1), 95) < 0.1


def test_no_points_are_refined_to_no_points(refiner):
    gray = np.zeros((HEIGHT, WIDTH), np.uint8)
    nothing = np.zeros((0, 2))
    xy, ok = refiner.refine(
        FirstSights([gray], one_keyframe(0), nothing, np.zeros((0, 2, 2))), gray, nothing
    )
    assert xy.shape == (0, 2) and xy.dtype == np.float32
    assert ok.shape == (0,) and ok.dtype == bool


def test_inputs_are_left_as_they_are(refiner, scene):
    before, after = spots(np.eye(2), np.zeros(2))
    gray, warp = as_uint8(scene), np.tile(np.eye(2), (len(before), 1, 1))
    inputs = [gray, before, warp, after.astype(np.float32)]
    copies = [array.copy() for array in inputs]
    refiner.refine(FirstSights([gray], one_keyframe(len(before)), before, warp), gray, inputs[3])
    for used, kept in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(used, kept)


# ---------------------------------------------------------------------------------- find_again


@pytest.mark.parametrize('matrix', [np.eye(2), turned(15.0, 1.2)], ids=['as it was', 'turned'])
def test_points_are_found_again_where_they_are_expected(refiner, scene, rng, matrix):
    before, after = spots(matrix, np.zeros(2))
    expected = after + rng.uniform(-1.4, 1.4, after.shape)
    warp = np.broadcast_to(matrix, (len(before), 2, 2))
    later = bent(scene, matrix, np.zeros(2))
    xy, ok = refiner.find_again(
        FirstSights([as_uint8(scene)], one_keyframe(len(before)), before, warp), later, expected
    )
    assert ok.mean() > 0.9
    errors = np.linalg.norm(xy[ok] - after[ok], axis=1)
    assert np.median(errors) < 0.04 and np.percentile(errors, 95) < 0.2


def test_what_got_hidden_is_not_found_again(refiner, scene, rng):
    before, after = spots(np.eye(2), np.zeros(2))
    later = as_uint8(scene)
    other = ndimage.gaussian_filter(rng.normal(size=scene.shape), 2.0)
    later[:, :160] = as_uint8(128.0 + 40.0 * other / other.std())[:, :160]
    hidden, seen = after[:, 0] < 148, after[:, 0] > 172
    warp = np.broadcast_to(np.eye(2), (len(before), 2, 2))
    _, ok = refiner.find_again(
        FirstSights([as_uint8(scene)], one_keyframe(len(before)), before, warp), later, after
    )
    assert ok[hidden].mean() < 0.05
    assert ok[seen].all()


def test_darkness_hides_nothing(refiner, scene):
    before, after = spots(np.eye(2), np.zeros(2))
    warp = np.broadcast_to(np.eye(2), (len(before), 2, 2))
    dark = as_uint8(0.4 * scene + 5.0)
    _, ok = refiner.find_again(
        FirstSights([as_uint8(scene)], one_keyframe(len(before)), before, warp), dark, after
    )
    assert ok.mean() > 0.95


def test_what_cannot_be_looked_for_is_not_found(refiner, scene):
    before, after = spots(np.eye(2), np.zeros(2))
    warp = np.tile(np.eye(2), (len(before), 1, 1))
    expected = after.copy()
    warp[0] = np.nan
    warp[1] = 9.0 * np.eye(2)
    expected[2] = np.nan
    expected[3] = (-5.0, 40.0)
    gray = as_uint8(scene)
    xy, ok = refiner.find_again(
        FirstSights([gray], one_keyframe(len(before)), before, warp), gray, expected
    )
    assert not ok[:4].any() and ok[4:].mean() > 0.95
    np.testing.assert_array_equal(xy[:4], expected[:4].astype(np.float32))
    flat = np.full_like(gray, 90)
    _, ok = refiner.find_again(
        FirstSights([gray], one_keyframe(len(before)), before, warp), flat, expected
    )
    assert not ok.any()


def test_nothing_to_look_for_is_a_normal_answer(refiner):
    gray, nothing = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((0, 2))
    xy, ok = refiner.find_again(
        FirstSights([gray], one_keyframe(0), nothing, np.zeros((0, 2, 2))), gray, nothing
    )
    assert xy.shape == (0, 2) and ok.shape == (0,)


# ---------------------------------------------------------------------------------- patch_warp


def test_a_camera_that_stays_bends_nothing(rng):
    ray = rng.uniform(-0.5, 0.5, (50, 2))
    for camera in (CAMERA, BENT_LENS):
        warp = patch_warp(
            camera, ray, rng.uniform(0.05, 1.0, 50), rng.normal(size=(50, 2)), np.eye(4)
        )
        np.testing.assert_allclose(warp, np.broadcast_to(np.eye(2), (50, 2, 2)), atol=1e-9)


def test_going_ahead_enlarges_by_the_ratio_of_distances():
    ahead = se3.from_rt(np.eye(3), np.array([0.0, 0.0, -1.0]))  # the keyframe is 1 m behind
    warp = patch_warp(CAMERA, np.zeros((1, 2)), np.array([1 / 4.0]), FACING, ahead)
    np.testing.assert_allclose(warp[0], 4.0 / 3.0 * np.eye(2), atol=1e-9)


def test_rolling_turns_the_patch():
    rotation = Rotation.from_euler('z', 30, degrees=True).as_matrix()
    square = Camera(WIDTH, HEIGHT, 230.0, 230.0, 159.5, 119.5)
    still = se3.from_rt(rotation, np.zeros(3))
    warp = patch_warp(square, np.zeros((1, 2)), np.array([0.3]), FACING, still)
    np.testing.assert_allclose(warp[0], rotation[:2, :2], atol=1e-9)


@given(
    angles=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    move=st.tuples(*[st.floats(-0.8, 0.8)] * 3),
    depth=st.floats(2.0, 30.0),
    lean=st.just((0.0, 0.0)) | st.tuples(*[st.floats(-1.5, 1.5)] * 2),
    pixel=st.tuples(st.floats(60, 260), st.floats(50, 190)),
)
@settings(deadline=None, max_examples=80)
def test_the_bending_is_that_of_the_homography_of_the_plane(angles, move, depth, lean, pixel):
    """H = K (R + t m') K^-1 for the plane m . p = 1; its slope at the pixel is the bending."""
    rotation, t = Rotation.from_rotvec(angles).as_matrix(), np.array(move)
    m = np.array([*lean, 1.0]) / depth
    K = np.array([[230.0, 0, 159.5], [0, 240.0, 119.5], [0, 0, 1]])
    ray = (np.array([pixel]) - K[:2, 2]) / (230.0, 240.0)
    rho = m[:2] @ ray[0] + m[2]
    assume(rho > 0.5 / depth)
    H = K @ (rotation + np.outer(t, m)) @ np.linalg.inv(K)
    corners = np.array(pixel) + [[-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]]
    left, right, up, down = cv2.perspectiveTransform(corners[None], H)[0]
    expected = np.stack([right - left, down - up], axis=1)
    pose = se3.from_rt(rotation, t)
    warp = patch_warp(CAMERA, ray, np.array([rho]), m[None, :2], pose)
    # A plane that leans bends lines within the reach of the difference; one that faces does not.
    limit = 0.01 if lean == (0.0, 0.0) else 0.02
    np.testing.assert_allclose(warp[0], expected, rtol=limit, atol=limit)


def test_each_point_has_the_pose_of_its_own_keyframe(rng):
    poses = np.stack([se3.exp_se3(0.2 * rng.normal(size=6)) for _ in range(8)])
    ray, rho = rng.uniform(-0.3, 0.3, (8, 2)), rng.uniform(0.1, 0.3, 8)
    tilt = rng.normal(size=(8, 2))
    together = patch_warp(CAMERA, ray, rho, tilt, poses)
    for n in range(8):
        alone = patch_warp(CAMERA, ray[n : n + 1], rho[n : n + 1], tilt[n : n + 1], poses[n])
        np.testing.assert_allclose(together[n], alone[0], rtol=1e-12)


def test_a_bent_lens_bends_patches_towards_its_rim():
    """A point that goes from the middle to the rim: pixels there are closer together."""
    turn = Rotation.from_euler('y', 25, degrees=True).as_matrix()
    pose = se3.from_rt(turn, np.zeros(3))
    warp = patch_warp(BENT_LENS, np.zeros((1, 2)), np.array([0.2]), FACING, pose)
    step = 0.5 / 230.0
    rays = np.array([[-step, 0, 1], [step, 0, 1], [0, -step, 1], [0, step, 1]])
    left, right, up, down = BENT_LENS.project(rays @ turn.T)
    np.testing.assert_allclose(
        warp[0], np.stack([right - left, down - up], axis=1), rtol=0.01, atol=0.005
    )


def test_a_point_behind_the_camera_has_no_bending():
    back = se3.from_rt(np.eye(3), np.array([0.0, 0.0, -9.0]))
    warp = patch_warp(CAMERA, np.zeros((1, 2)), np.array([1 / 4.0]), FACING, back)
    assert np.isnan(warp).all()
