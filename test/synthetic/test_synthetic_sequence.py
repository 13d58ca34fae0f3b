"""Camera effects and the named sequences."""

import cv2
import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import inverse, transform
from kpvo_ros.synthetic.effects import CameraEffects, develop
from kpvo_ros.synthetic.indoor import make_room
from kpvo_ros.synthetic.recording import SyntheticSequence, render_sequence
from kpvo_ros.synthetic.render import encode, render
from kpvo_ros.synthetic.sequence import PRESETS, START_NS, sequence
from kpvo_ros.synthetic.trajectory import walk_room

SMALL = Camera(80, 60, 57.0, 57.0, 39.5, 29.5)
PERFECT = CameraEffects()


@pytest.fixture(scope='module')
def room(small_atlas):
    return make_room(0, n_objects=20, atlas=small_atlas)


def developed(light, effects, time_s=0.0, seed=0):
    radiance = torch.full((1, 40, 60, 3), light)
    noise = torch.Generator().manual_seed(seed)
    return develop(radiance, effects, torch.tensor([time_s]), noise)[0].numpy().astype(float)


def test_encoding_is_gamma_two_with_a_shoulder_that_never_decreases():
    light = torch.linspace(0, 20, 4000)
    code = encode(light).numpy().astype(int)
    dim = light.numpy() < 0.7
    np.testing.assert_allclose(code[dim], 255 * np.sqrt(light.numpy()[dim]), atol=0.51)
    assert (np.diff(code) >= 0).all()
    assert code[-1] >= 250


def test_blackout_is_black_and_nothing_else_is():
    effects = CameraEffects(noise=0.05, blackouts_s=((1.0, 2.0),))
    assert developed(0.5, effects, 1.0).max() == 0
    assert developed(0.5, effects, 1.99).max() == 0
    assert developed(0.5, effects, 0.99).min() > 0
    assert developed(0.5, effects, 2.0).min() > 0


def test_exposure_follows_its_points():
    effects = CameraEffects(exposure=((1.0, 1.0), (2.0, 0.25)))
    for time_s, gain in ((0.0, 1.0), (1.5, 0.625), (9.0, 0.25)):
        np.testing.assert_allclose(
            developed(0.4, effects, time_s), 255 * np.sqrt(0.4 * gain), atol=0.51
        )


def test_auto_exposure_brings_every_scene_to_the_same_brightness():
    effects = CameraEffects(auto_exposure=1.0)
    assert developed(0.01, effects).mean() == pytest.approx(developed(0.6, effects).mean(), abs=1)


def test_noise_has_the_deviation_asked_for():
    noisy = (developed(0.49, CameraEffects(noise=0.02)) / 255) ** 2
    assert noisy.mean() == pytest.approx(0.49, abs=0.003)
    assert noisy.std() == pytest.approx(0.02 * np.sqrt(0.5), rel=0.08)


def test_noise_without_a_generator_is_refused():
    with pytest.raises(SyntheticError, match='generator'):
        develop(torch.zeros(1, 4, 4, 3), CameraEffects(noise=0.1), torch.zeros(1))


def test_vignetting_darkens_corners_and_spares_the_centre():
    image = developed(0.4, CameraEffects(vignetting=0.5))
    assert image[20, 30].mean() == pytest.approx(255 * np.sqrt(0.4), abs=1)
    assert image[0, 0].mean() == pytest.approx(255 * np.sqrt(0.2), abs=1)


@pytest.mark.parametrize(
    'options',
    [
        {'exposure': ()},
        {'exposure': ((1.0, 1.0), (0.0, 1.0))},
        {'exposure': ((0.0, 0.0),)},
        {'shutter_samples': 4},
        {'noise': -0.1},
        {'blackouts_s': ((2.0, 1.0),)},
    ],
)
def test_impossible_effects_are_refused(options):
    with pytest.raises(SyntheticError):
        CameraEffects(**options)


def test_motion_blur_is_the_mean_of_the_moments_the_shutter_was_open(room):
    path = walk_room(0, fps=10)
    blurred = CameraEffects(shutter_s=0.06, shutter_samples=3)
    item = SyntheticSequence('x', 0, room, path, SMALL, blurred).frame(40)
    stamp_ns = int(path.stamps_ns[40])
    moments = stamp_ns + np.array([-20_000_000, 0, 20_000_000])
    light = render(room, path.camera_at(moments), SMALL, time_s=moments * 1e-9).radiance
    expected = encode(light.mean(dim=0)).numpy().astype(int)
    assert np.abs(item.frame.image.astype(int) - expected).max() <= 1
    assert np.abs(encode(light[1]).numpy().astype(int) - expected).max() > 20
    sharp = SyntheticSequence('x', 0, room, path, SMALL, PERFECT).frame(40)
    np.testing.assert_array_equal(item.frame.depth_m, sharp.frame.depth_m)


def test_frames_carry_what_a_camera_and_a_depth_sensor_give(room):
    path = walk_room(0, fps=5, start_ns=START_NS)
    done = []
    recording = SyntheticSequence('x', 0, room, path, SMALL).shortened(3)
    items = list(recording.frames(lambda *progress: done.append(progress)))
    assert done == [(1, 3), (2, 3), (3, 3)]
    for index, item in enumerate(items):
        assert item.frame.stamp_ns == path.stamps_ns[index]
        assert item.frame.image.shape == (60, 80, 3)
        assert item.frame.image.dtype == np.uint8
        assert item.frame.depth_m.dtype == np.float32
        np.testing.assert_array_equal(item.T_world_camera, path.T_world_camera[index])
        np.testing.assert_array_equal(
            recording.ground_truth.poses[index], item.T_world_base @ path.T_base_camera
        )


def test_any_order_of_frames_gives_the_same_bytes(room):
    path = walk_room(0, fps=5)
    recording = SyntheticSequence('x', 3, room, path, SMALL)
    forward = [recording.frame(k).frame.image for k in (0, 5, 10)]
    backward = [recording.frame(k).frame.image for k in (10, 5, 0)][::-1]
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a, b)
    through = next(iter(render_sequence(room, path, SMALL, seed=3))).frame.image
    np.testing.assert_array_equal(through, forward[0])
    other = SyntheticSequence('x', 4, room, path, SMALL).frame(0).frame.image
    assert not np.array_equal(other, forward[0])


def test_unknown_preset_names_those_that_exist():
    with pytest.raises(SyntheticError, match='loop_200m'):
        sequence('loop')


@pytest.mark.parametrize('name', PRESETS)
def test_every_preset_gives_a_bright_textured_first_and_middle_frame(name):
    recording = sequence(name, 0, camera=SMALL)
    assert len(recording) > 100
    assert recording.ground_truth.stamps_ns[0] == START_NS
    for index in (0, len(recording) // 4):
        frame = recording.frame(index).frame
        assert frame.image.std() > 12
        assert np.nanmin(frame.depth_m) > 0.2


@pytest.mark.parametrize(('name', 'dark_s'), [('blackout', 1.5), ('blackout_3s', 3.0)])
def test_blackout_presets_go_dark_while_walking_and_come_back(name, dark_s):
    recording = sequence(name, 0, camera=SMALL)
    start, end = recording.effects.blackouts_s[0]
    assert end - start == dark_s
    seconds = (recording.path.stamps_ns - START_NS) * 1e-9
    inside = int(np.searchsorted(seconds, (start + end) / 2))
    after = int(np.searchsorted(seconds, end + 0.01))
    assert recording.frame(inside).frame.image.max() == 0
    assert recording.frame(inside).frame.depth_m.min() > 0  # the depth sensor is another one
    assert recording.frame(after).frame.image.mean() > 20
    moved = np.diff(recording.path.T_world_camera[[inside, after], :3, 3], axis=0)
    assert np.linalg.norm(moved) > 0.5


def test_tracked_corners_move_as_the_true_geometry_says():
    """Optical flow of OpenCV against depth and poses: small error, and no bias."""
    recording = sequence('loop_200m', 0, effects=PERFECT)
    errors = []
    for index in (60, 250, 400):
        first, second = recording.frame(index), recording.frame(index + 1)
        corners = cv2.goodFeaturesToTrack(first.frame.gray, 400, 0.01, 6)
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            first.frame.gray, second.frame.gray, corners, None, winSize=(15, 15), maxLevel=4
        )
        xy0, xy1 = corners[found[:, 0] > 0, 0], moved[found[:, 0] > 0, 0]
        depth = first.frame.depth_m
        column, row = np.round(xy0).astype(int).T
        rough = cv2.morphologyEx(np.nan_to_num(depth), cv2.MORPH_GRADIENT, np.ones((5, 5)))
        smooth = (rough / depth < 0.05)[row, column]
        rays = recording.camera.unproject(xy0[smooth].astype(float))
        points = rays * depth[row, column][smooth, None]
        T_1_0 = inverse(second.T_world_camera) @ first.T_world_camera
        errors.append(recording.camera.project(transform(T_1_0, points)) - xy1[smooth])
    error = np.concatenate(errors)
    assert len(error) > 300
    assert np.median(np.linalg.norm(error, axis=1)) < 0.3
    assert np.abs(np.median(error, axis=0)).max() < 0.1
