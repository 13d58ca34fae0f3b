"""Exposure undone: the expected picture is the one the camera would have taken."""

from __future__ import annotations

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from scipy import ndimage

from kpvo_ros.frontend.brightness import match_brightness, match_values


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(120, 160)), 4.0)
    return np.clip(128.0 + 45.0 * noise / noise.std(), 0, 255).astype(np.uint8)


def exposed(gray: np.ndarray, gain: float, offset: float, gamma: float) -> np.ndarray:
    return np.clip(np.rint(255.0 * gain * (gray / 255.0) ** gamma + offset), 0, 255).astype(
        np.uint8
    )


@given(
    seed=st.integers(0, 1000),
    gain=st.floats(0.2, 3.0),
    offset=st.floats(-30.0, 60.0),
    gamma=st.floats(0.5, 1.6),
)
@settings(deadline=None, max_examples=40)
def test_whatever_the_exposure_did_is_undone(seed, gain, offset, gamma):
    gray = picture(seed)
    bright = exposed(gray, gain, offset, gamma)
    matched = match_brightness(gray, bright)
    assert matched.shape == gray.shape and matched.dtype == np.uint8
    error = np.abs(matched.astype(float) - bright)
    assert error.mean() < 2.5


def test_the_scene_may_have_moved_in_between():
    gray = picture(1)
    moved = np.roll(gray, (7, -11), (0, 1))
    matched = match_brightness(gray, exposed(moved, 0.4, 5.0, 1.0))
    error = np.abs(matched.astype(float) - exposed(gray, 0.4, 5.0, 1.0))
    assert error.mean() < 1.0


def test_pictures_of_one_brightness_are_left_alone():
    gray = picture(2)
    assert match_brightness(gray, np.roll(gray, 5, 1)) is gray
    assert match_brightness(gray, exposed(gray, 1.0, 1.0, 1.0)) is gray


def test_pictures_of_nothing_are_borne():
    black, white = np.zeros((40, 50), np.uint8), np.full((40, 50), 255, np.uint8)
    for gray0 in (black, white, picture(3)):
        for gray1 in (black, white):
            matched = match_brightness(gray0, gray1)
            assert matched.shape == gray0.shape and matched.dtype == np.uint8
    assert (match_brightness(black, white) == 255).all()


def test_gain_and_offset_between_the_same_things_give_the_straight_line(rng):
    values0 = rng.integers(40, 200, 500).astype(np.uint8)
    values1 = np.rint(0.6 * values0 + 25.0).astype(np.uint8)
    table = match_values(values0, values1)
    np.testing.assert_allclose(table, 0.6 * np.arange(256) + 25.0, atol=1.0)
    np.testing.assert_allclose(cv2.LUT(values0, table)[:, 0], values1, atol=1.0)


def test_values_alike_or_without_contrast_are_not_scaled():
    same = np.arange(0, 250, 5).astype(np.uint8)
    np.testing.assert_array_equal(match_values(same, same), np.arange(256))
    flat = np.full(50, 100, np.uint8)
    np.testing.assert_array_equal(
        match_values(flat, flat + np.uint8(30)), np.minimum(np.arange(256) + 30, 255)
    )
