"""Ranking of places: likeness of images and of sets of descriptors."""

from __future__ import annotations

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from places_world import random_descriptors
import pytest
from runtime_world import World, path_through, shoot

from kpvo_ros.odometry.place import MAX_HASHED, PlaceIndex, appearance


def flipped(rng: np.random.Generator, descriptor: np.ndarray, share: float) -> np.ndarray:
    bits = np.unpackbits(descriptor, axis=1)
    return np.packbits(bits ^ (rng.random(bits.shape) < share), axis=1)


def picture(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 5.0)
    return np.clip(128 + 30 * smooth / smooth.std(), 40, 200).astype(np.uint8)


def test_an_image_shares_everything_with_itself_and_nothing_with_noise(
    rng: np.random.Generator,
) -> None:
    index = PlaceIndex(3)
    own, other = random_descriptors(rng, 300), random_descriptors(rng, 300)
    index.put(0, own)
    index.put(2, other)
    shares = index.shares(own)
    assert shares[0] == 1.0
    assert shares[1] == 0.0
    assert shares[2] < 0.02


def test_a_third_of_common_points_with_changed_bits_stands_out(rng: np.random.Generator) -> None:
    index = PlaceIndex(20)
    stored = [random_descriptors(rng, 400) for _ in range(20)]
    for slot, descriptor in enumerate(stored):
        index.put(slot, descriptor)
    query = np.concatenate([flipped(rng, stored[7][:130], 0.1), random_descriptors(rng, 700)])
    shares = index.shares(query)
    assert shares.argmax() == 7
    assert shares[7] > 5 * np.delete(shares, 7).max()


def test_float_descriptors_survive_noise(rng: np.random.Generator) -> None:
    index = PlaceIndex(5)
    stored = [rng.random((200, 128)).astype(np.float32) for _ in range(5)]
    for slot, descriptor in enumerate(stored):
        index.put(slot, descriptor)
    shares = index.shares(stored[3] + rng.normal(0, 0.02, (200, 128)).astype(np.float32))
    assert shares.argmax() == 3
    assert shares[3] > 10 * np.delete(shares, 3).max()


@settings(deadline=None, max_examples=30)
@given(counts=st.lists(st.integers(0, 700), min_size=1, max_size=6), query=st.integers(0, 50))
def test_shares_are_shares_for_any_number_of_descriptors(counts: list[int], query: int) -> None:
    rng = np.random.default_rng(0)
    index = PlaceIndex(6)
    for slot, count in enumerate(counts):
        index.put(slot, random_descriptors(rng, count))
    shares = index.shares(random_descriptors(rng, query))
    assert shares.shape == (6,)
    assert ((shares >= 0) & (shares <= 1)).all()


def test_too_many_descriptors_are_thinned_out_evenly(rng: np.random.Generator) -> None:
    index = PlaceIndex(1)
    many = random_descriptors(rng, 3 * MAX_HASHED)
    index.put(0, many)
    thirds = [index.shares(part)[0] for part in np.array_split(many, 3)]
    np.testing.assert_allclose(thirds, 1 / 3, atol=0.02)


def test_an_erased_or_replaced_slot_forgets_its_image(rng: np.random.Generator) -> None:
    index = PlaceIndex(2)
    first, second = random_descriptors(rng, 100), random_descriptors(rng, 20)
    index.put(0, first)
    index.put(0, second)
    assert index.shares(first)[0] < 0.05
    assert index.shares(second)[0] == 1.0
    index.erase(0)
    assert index.shares(second)[0] == 0.0


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), gain=st.floats(0.5, 1.25), bias=st.floats(-15, 5))
def test_appearance_does_not_feel_light_and_contrast(seed: int, gain: float, bias: float) -> None:
    gray = picture(seed)
    other = np.clip(np.rint(gain * gray.astype(float) + bias), 0, 255).astype(np.uint8)
    first, second = appearance(gray), appearance(other)
    assert first.dtype == np.float32
    assert np.linalg.norm(first) == pytest.approx(1.0, abs=1e-5)
    assert first @ second > 0.97


def test_appearance_of_other_images_differs() -> None:
    looks = np.stack([appearance(picture(seed)) for seed in range(12)])
    likeness = looks @ looks.T
    assert (likeness[~np.eye(12, dtype=bool)] < 0.6).all()


def test_appearance_endures_a_small_shift_better_than_another_view(room: World) -> None:
    poses = path_through([(1.2, 1.5), (1.25, 1.53), (3.4, 3.4)], [0.3, 0.3, -1.2], 3)
    looks = [appearance(frame.gray) for frame in shoot(room, poses).frames]
    assert looks[0] @ looks[1] > looks[0] @ looks[2] + 0.2


@pytest.mark.parametrize('shape', [(480, 640), (240, 320), (30, 40), (1, 1)])
def test_appearance_has_one_length_for_all_sizes(shape: tuple[int, int]) -> None:
    flat = appearance(np.full(shape, 90, np.uint8))
    assert flat.shape == appearance(picture(0)).shape
    assert (flat == 0).all()
