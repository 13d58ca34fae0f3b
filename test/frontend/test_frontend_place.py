"""The index of image descriptors: what is near is found, what is redundant makes room."""

from __future__ import annotations

import numpy as np
import pytest

from kpvo_ros.errors import FrontendError
from kpvo_ros.frontend.place import PlaceIndex


def directions(rng: np.random.Generator, count: int, size: int = 16) -> np.ndarray:
    vectors = rng.normal(size=(count, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def on_circle(angle_deg: float) -> np.ndarray:
    return np.array([np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))], np.float32)


def test_the_nearest_come_first_with_their_cosine(rng: np.random.Generator) -> None:
    index = PlaceIndex(10, 2)
    for key, angle in {7: 0.0, 3: 50.0, 5: 20.0, 9: 180.0}.items():
        index.add(key, on_circle(angle))
    keys, similarity = index.query(on_circle(15.0), 3)
    assert keys.tolist() == [5, 7, 3]
    np.testing.assert_allclose(similarity, np.cos(np.deg2rad([5.0, 15.0, 35.0])), atol=1e-6)


def test_a_disturbed_image_is_found_among_many(rng: np.random.Generator) -> None:
    vectors = directions(rng, 300)
    index = PlaceIndex(300, 16)
    for key, vector in enumerate(vectors):
        assert index.add(key, vector) is None
    noisy = vectors + 0.05 * rng.normal(size=vectors.shape).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    found = [index.query(vector, 1)[0][0] for vector in noisy]
    assert np.mean(found == np.arange(300)) > 0.98


def test_an_empty_index_and_a_count_of_zero_answer_nothing(rng: np.random.Generator) -> None:
    index = PlaceIndex(5, 2)
    for count in (0, 3):
        keys, similarity = index.query(on_circle(0.0), count)
        assert keys.shape == (0,) and keys.dtype == np.int64
        assert similarity.shape == (0,) and similarity.dtype == np.float32
    index.add(1, on_circle(0.0))
    assert len(index.query(on_circle(0.0), 0)[0]) == 0
    assert len(index.query(on_circle(0.0), 9)[0]) == 1


def test_what_is_removed_is_not_found_and_the_others_still_are(rng: np.random.Generator) -> None:
    vectors = directions(rng, 6)
    index = PlaceIndex(6, 16)
    for key, vector in enumerate(vectors):
        index.add(key, vector)
    index.remove(2)
    index.remove(5)
    assert index.keys == (0, 1, 3, 4) and 2 not in index
    for key in index.keys:
        keys, similarity = index.query(vectors[key], 1)
        assert keys.tolist() == [key] and similarity[0] == pytest.approx(1.0, abs=1e-5)


def test_a_known_key_gets_the_new_vector() -> None:
    index = PlaceIndex(2, 2)
    index.add(1, on_circle(0.0))
    index.add(2, on_circle(90.0))
    assert index.add(1, on_circle(180.0)) is None
    assert index.keys == (2, 1)
    keys, similarity = index.query(on_circle(180.0), 2)
    assert keys.tolist() == [1, 2]
    np.testing.assert_allclose(similarity, [1.0, 0.0], atol=1e-6)


def test_the_most_redundant_image_makes_room() -> None:
    index = PlaceIndex(4, 2)
    for key, angle in enumerate((0.0, 60.0, 70.0, 120.0)):
        index.add(key, on_circle(angle))
    # 60 and 70 are the closest pair; the next neighbour of 70 is 50 away, that of 60 is 60.
    assert index.add(4, on_circle(200.0)) == 2
    assert index.keys == (0, 1, 3, 4)


def test_the_newest_image_is_never_the_one_that_makes_room() -> None:
    index = PlaceIndex(3, 2)
    for key, angle in enumerate((0.0, 90.0, 180.0)):
        index.add(key, on_circle(angle))
    assert index.add(3, on_circle(91.0)) == 1
    one = PlaceIndex(1, 2)
    one.add(1, on_circle(0.0))
    assert one.add(2, on_circle(0.0)) == 1 and one.keys == (2,)


def test_a_long_stop_does_not_push_out_the_way_there(rng: np.random.Generator) -> None:
    index = PlaceIndex(20, 2)
    for key, angle in enumerate(np.arange(0.0, 150.0, 15.0)):
        index.add(key, on_circle(angle))
    for key in range(100, 300):
        index.add(key, on_circle(160.0 + rng.uniform(-0.5, 0.5)))
    assert len(index) == 20
    assert set(range(10)) <= set(index.keys)


@pytest.mark.parametrize(
    'vector',
    [np.ones(2), np.zeros(2), np.array([1.0, 0.0, 0.0]), np.array([np.nan, 1.0]), np.eye(2)],
    ids=str,
)
def test_what_is_no_unit_vector_of_that_size_is_refused(vector: np.ndarray) -> None:
    index = PlaceIndex(3, 2)
    with pytest.raises(FrontendError, match='of length 1'):
        index.add(1, vector)
    with pytest.raises(FrontendError, match='of length 1'):
        index.query(vector, 1)
    assert len(index) == 0


def test_impossible_sizes_and_unknown_keys_are_refused() -> None:
    with pytest.raises(FrontendError, match='at least 1'):
        PlaceIndex(0)
    with pytest.raises(FrontendError, match='not in the place index'):
        PlaceIndex(3).remove(4)
