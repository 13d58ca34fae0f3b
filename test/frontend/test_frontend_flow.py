"""Optical flow on pictures whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.frontend.flow import FlowTracker

HEIGHT, WIDTH = 160, 220


def smooth_picture(rng: np.random.Generator) -> np.ndarray:
    """(H + 80, W + 80) float64, band-limited so that sub-pixel shifts are exact."""
    picture = np.zeros((HEIGHT + 80, WIDTH + 80))
    for sigma in (1.5, 3.0, 8.0):
        noise = ndimage.gaussian_filter(rng.normal(size=picture.shape), sigma)
        picture += 25.0 * noise / noise.std()
    return picture + 128.0


def view(picture: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """The middle of a picture; what it shows moves by `shift` (x, y) pixels."""
    moved = ndimage.shift(picture, (shift[1], shift[0]), order=5)[40:-40, 40:-40]
    return np.clip(np.rint(moved), 0, 255).astype(np.uint8)


def grid(border: float) -> np.ndarray:
    x, y = np.meshgrid(
        np.arange(border, WIDTH - border, 12), np.arange(border, HEIGHT - border, 12)
    )
    return np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)


@pytest.fixture
def tracker() -> FlowTracker:
    return FlowTracker(TrackingConfig())


@pytest.mark.parametrize(
    'shift', [(0.0, 0.0), (0.4, -0.3), (3.25, 1.6), (-11.5, 7.2), (18.0, 0.0)]
)
def test_a_known_shift_is_found_to_a_tenth_of_a_pixel(
    tracker: FlowTracker, rng: np.random.Generator, shift: tuple[float, float]
) -> None:
    picture = smooth_picture(rng)
    xy0 = grid(30.0)
    xy1, ok = tracker.track(view(picture, (0, 0)), view(picture, shift), xy0)
    assert ok.mean() > 0.95
    errors = np.linalg.norm(xy1[ok] - (xy0[ok] + shift), axis=1)
    assert np.median(errors) < 0.03
    assert np.percentile(errors, 95) < 0.1


def test_points_that_leave_the_image_are_dropped(
    tracker: FlowTracker, rng: np.random.Generator
) -> None:
    picture = smooth_picture(rng)
    xy0 = grid(6.0)
    shift = np.array([15.0, 0.0])
    xy1, ok = tracker.track(view(picture, (0, 0)), view(picture, (15.0, 0.0)), xy0)
    leaves = xy0[:, 0] + 15.0 > WIDTH - 1
    assert leaves.sum() >= 10
    assert not ok[leaves].any()
    assert ((xy1[ok] >= 0) & (xy1[ok] <= (WIDTH - 1, HEIGHT - 1))).all()
    inner = (xy0[:, 0] > 20) & (xy0[:, 0] < WIDTH - 40)
    assert np.abs((xy1 - xy0 - shift)[ok & inner]).max() < 0.2


def test_a_picture_without_texture_gives_no_tracks(tracker: FlowTracker) -> None:
    flat = np.full((HEIGHT, WIDTH), 128, np.uint8)
    _, ok = tracker.track(flat, flat, grid(20.0))
    assert not ok.any()


def test_two_pictures_of_different_things_give_few_tracks(
    tracker: FlowTracker, rng: np.random.Generator
) -> None:
    one, other = (view(smooth_picture(rng), (0, 0)) for _ in range(2))
    _, ok = tracker.track(one, other, grid(20.0))
    assert ok.mean() < 0.3


def test_what_gets_covered_is_not_tracked(tracker: FlowTracker, rng: np.random.Generator) -> None:
    picture = smooth_picture(rng)
    before = view(picture, (0, 0))
    after = view(picture, (2.0, 0.0))
    after[60:110, 80:150] = view(smooth_picture(rng), (0, 0))[60:110, 80:150]
    xy0 = grid(20.0)
    covered = (xy0[:, 0] > 88) & (xy0[:, 0] < 138) & (xy0[:, 1] > 66) & (xy0[:, 1] < 104)
    _, ok = tracker.track(before, after, xy0)
    assert covered.sum() >= 8
    assert ok[covered].mean() < 0.3
    assert ok[~covered].mean() > 0.7


def test_no_points_are_tracked_to_no_points(tracker: FlowTracker) -> None:
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    xy1, ok = tracker.track(image, image, np.zeros((0, 2), np.float32))
    assert xy1.shape == (0, 2) and xy1.dtype == np.float32
    assert ok.shape == (0,) and ok.dtype == bool


def test_inputs_are_left_as_they_are(tracker: FlowTracker, rng: np.random.Generator) -> None:
    picture = smooth_picture(rng)
    one, other, xy0 = view(picture, (0, 0)), view(picture, (4, 2)), grid(20.0)
    before = one.copy(), other.copy(), xy0.copy()
    tracker.track(one, other, xy0)
    for kept, used in zip(before, (one, other, xy0), strict=True):
        np.testing.assert_array_equal(kept, used)


def test_double_precision_points_are_welcome(
    tracker: FlowTracker, rng: np.random.Generator
) -> None:
    picture = smooth_picture(rng)
    xy1, ok = tracker.track(view(picture, (0, 0)), view(picture, (1, 0)), grid(30.0).astype(float))
    assert xy1.dtype == np.float32 and ok.all()


@pytest.mark.parametrize(
    ('gain', 'offset', 'gamma'), [(0.35, 0, 1.0), (0.8, 60, 1.0), (1.6, -20, 1.0), (1.0, 0, 0.6)]
)
def test_a_step_of_the_exposure_costs_neither_points_nor_precision(
    tracker: FlowTracker, rng: np.random.Generator, gain: float, offset: float, gamma: float
) -> None:
    picture = smooth_picture(rng)
    shifted = view(picture, (3.25, 1.6)) / 255.0
    exposed = np.clip(np.rint(255.0 * gain * shifted**gamma + offset), 0, 255).astype(np.uint8)
    xy0 = grid(30.0)
    xy1, ok = tracker.track(view(picture, (0, 0)), exposed, xy0)
    assert ok.mean() > 0.9
    assert np.median(np.linalg.norm(xy1[ok] - (xy0[ok] + (3.25, 1.6)), axis=1)) < 0.05
    _, unaided = FlowTracker(TrackingConfig(), matches_brightness=False).track(
        view(picture, (0, 0)), exposed, xy0
    )
    assert unaided.mean() < 0.7


def test_a_guess_finds_what_lies_too_far_for_the_pyramid(rng: np.random.Generator) -> None:
    tracker = FlowTracker(TrackingConfig(flow_levels=2))
    picture, shift = smooth_picture(rng), np.array([38.0, -26.0])
    one, other = view(picture, (0, 0)), view(picture, (38.0, -26.0))
    xy0 = grid(50.0)
    _, unaided = tracker.track(one, other, xy0)
    assert unaided.mean() < 0.3
    xy1, ok = tracker.track(one, other, xy0, xy0 + shift + rng.uniform(-3, 3, xy0.shape))
    assert ok.mean() > 0.95
    assert np.linalg.norm(xy1[ok] - xy0[ok] - shift, axis=1).max() < 0.2


def test_where_nothing_is_guessed_the_old_place_is_the_guess(
    tracker: FlowTracker, rng: np.random.Generator
) -> None:
    picture, xy0 = smooth_picture(rng), grid(30.0)
    one, other = view(picture, (0, 0)), view(picture, (4.0, 2.0))
    guess = np.full(xy0.shape, np.nan)
    for found, expected in zip(
        tracker.track(one, other, xy0, guess), tracker.track(one, other, xy0), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_without_a_pyramid_only_small_steps_are_found(rng: np.random.Generator) -> None:
    tracker = FlowTracker(TrackingConfig(flow_levels=0))
    picture, xy0 = smooth_picture(rng), grid(30.0)
    _, near = tracker.track(view(picture, (0, 0)), view(picture, (1.5, 0.5)), xy0)
    _, far = tracker.track(view(picture, (0, 0)), view(picture, (18.0, 0.0)), xy0)
    assert near.mean() > 0.9
    assert far.mean() < 0.2
