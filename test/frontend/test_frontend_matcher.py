"""Matching of descriptors against loops over all pairs."""

from __future__ import annotations

from typing import Any

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.frontend.matcher import match, match_near, pair_distances

KINDS = pytest.mark.parametrize('kind', ['binary', 'float'])


def descriptors(rng: np.random.Generator, count: int, kind: str) -> np.ndarray:
    if kind == 'binary':
        return rng.integers(0, 256, (count, 32), np.uint8)
    values = rng.random((count, 128)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def disturbed(rng: np.random.Generator, descriptor: np.ndarray) -> np.ndarray:
    """The same descriptors seen again: some bits flipped, some noise."""
    if descriptor.dtype == np.uint8:
        bits = np.unpackbits(descriptor, axis=1)
        return np.packbits(bits ^ (rng.random(bits.shape) < 0.08), axis=1)
    values = descriptor + rng.normal(0, 0.01, descriptor.shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """By OpenCV, one pair at a time."""
    kind = cv2.NORM_HAMMING if one.dtype == np.uint8 else cv2.NORM_L2
    return cv2.norm(one, other, kind)


def pairs_by_loops(
    descriptor0: np.ndarray,
    descriptor1: np.ndarray,
    ratio: float,
    near: np.ndarray | None = None,
) -> set[tuple[int, int]]:
    """Mutual nearest neighbours with a ratio test, among the pairs that are `near`."""
    table = np.array([[distance(a, b) for b in descriptor1] for a in descriptor0])
    if near is not None:
        table[~near] = np.inf
    pairs = set()
    for i, row in enumerate(table):
        j = int(row.argmin())
        rest = np.delete(row, j).min(initial=np.inf)
        if np.isfinite(row[j]) and table[:, j].argmin() == i and row[j] <= ratio * rest:
            pairs.add((i, j))
    return pairs


def table_of(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.array([[distance(a, b) for b in other] for a in one])


@KINDS
def test_distances_are_those_of_opencv(rng: np.random.Generator, kind: str) -> None:
    one, other = descriptors(rng, 9, kind), descriptors(rng, 9, kind)
    result = pair_distances(one, other)
    assert result.shape == (9,) and result.dtype == np.float32
    np.testing.assert_allclose(result, table_of(one, other).diagonal(), atol=1e-3)
    assert pair_distances(one[:0], other[:0]).shape == (0,)


@KINDS
@pytest.mark.parametrize('ratio', [0.6, 0.85, 1.0])
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 25))
def test_matching_is_mutual_nearest_neighbours_with_a_ratio(
    kind: str, ratio: float, seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    one = descriptors(rng, count, kind)
    other = np.concatenate([disturbed(rng, one[::2]), descriptors(rng, 4, kind)])
    found = match(one, other, ratio)
    # Equal distances may be paired either way; random bits are hardly ever equal but it happens.
    table = table_of(one, other)
    if kind == 'binary' and any(len(set(row)) < len(row) for row in [*table, *table.T]):
        assert (table[found.index0, found.index1] <= table[found.index0].min(1)).all()
        return
    assert set(zip(found.index0.tolist(), found.index1.tolist(), strict=True)) == pairs_by_loops(
        one, other, ratio
    )


@KINDS
@pytest.mark.parametrize('ratio', [0.7, 0.85, 1.0])
def test_a_crowd_matches_as_if_the_way_back_were_looked_at_for_all(
    rng: np.random.Generator, kind: str, ratio: float
) -> None:
    one = np.concatenate([descriptors(rng, 300, kind), descriptors(rng, 100, kind)])
    other = np.concatenate([disturbed(rng, one[:300]), disturbed(rng, one[:50])])
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING if kind == 'binary' else cv2.NORM_L2)
    back = [pair.trainIdx for pair in matcher.match(other, one)]
    expected = [
        (first.queryIdx, first.trainIdx)
        for first, second in matcher.knnMatch(one, other, k=2)
        if first.distance <= ratio * second.distance and back[first.trainIdx] == first.queryIdx
    ]
    found = match(one, other, ratio)
    assert list(zip(found.index0.tolist(), found.index1.tolist(), strict=True)) == expected
    assert len(expected) >= 200


def test_the_way_back_is_only_looked_at_for_those_that_win(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    make = cv2.BFMatcher

    class Counting:
        def __init__(self, kind: int) -> None:
            self._matcher = make(kind)
            self.knnMatch = self._matcher.knnMatch

        def match(self, query: np.ndarray, train: np.ndarray) -> Any:
            looked_at.append(len(query))
            return self._matcher.match(query, train)

    monkeypatch.setattr('kpvo_ros.frontend.matcher.cv2.BFMatcher', Counting)
    one = descriptors(rng, 200, 'float')
    other = np.concatenate([disturbed(rng, one[:30]), descriptors(rng, 150, 'float')])
    assert len(match(one, other, 0.5)) == 30
    assert looked_at == [30]
    assert len(match(one, descriptors(rng, 150, 'float'), 0.5)) == 0
    assert looked_at == [30], 'nobody wins, nobody looks back'


@KINDS
def test_points_seen_again_are_found(rng: np.random.Generator, kind: str) -> None:
    one = descriptors(rng, 60, kind)
    order = rng.permutation(60)
    found = match(one, disturbed(rng, one)[order], 0.85)
    assert len(found) >= 57
    np.testing.assert_array_equal(order[found.index1], found.index0)
    assert ((found.score >= 0.15 - 1e-6) & (found.score <= 1)).all()
    assert found.index0.dtype == np.int64 and found.score.dtype == np.float32


@KINDS
def test_identical_descriptors_have_the_full_score(rng: np.random.Generator, kind: str) -> None:
    one = descriptors(rng, 10, kind)
    found = match(one, one.copy(), 0.8)
    np.testing.assert_array_equal(found.index0, found.index1)
    np.testing.assert_allclose(found.score, 1.0, atol=1e-3)


@KINDS
@pytest.mark.parametrize(('n', 'm'), [(0, 0), (0, 5), (5, 0), (1, 5), (5, 1)])
def test_too_few_to_compare_match_nothing(
    rng: np.random.Generator, kind: str, n: int, m: int
) -> None:
    found = match(descriptors(rng, n, kind), descriptors(rng, m, kind))
    assert len(found) == 0
    assert found.index0.shape == found.index1.shape == found.score.shape == (0,)


@KINDS
def test_matching_nearby_leaves_out_what_is_far(rng: np.random.Generator, kind: str) -> None:
    one = descriptors(rng, 30, kind)
    other = disturbed(rng, one)
    xy0 = rng.uniform(0, 300, (30, 2))
    xy1 = xy0 + rng.uniform(-3, 3, (30, 2))
    xy1[::3] += 100.0
    found = match_near(one, xy0, other, xy1, 6.0, 0.95)
    near = np.linalg.norm(xy0[:, None] - xy1[None], axis=2) <= 6.0
    assert set(zip(found.index0.tolist(), found.index1.tolist(), strict=True)) == pairs_by_loops(
        one, other, 0.95, near
    )
    assert not set(found.index0.tolist()) & set(range(0, 30, 3))
    assert len(found) >= 18


def test_a_lone_neighbour_that_looks_different_is_refused(rng: np.random.Generator) -> None:
    """Nearby there is often nobody to compare with, so likeness itself is asked for."""
    one, other = descriptors(rng, 2, 'binary'), descriptors(rng, 2, 'binary')
    xy = np.array([[10.0, 10.0], [200.0, 200.0]])
    assert len(match_near(one, xy, other, xy, 5.0)) == 0  # some 128 of 256 bits differ
    assert len(match_near(one, xy, disturbed(rng, one), xy, 5.0)) == 2


@KINDS
@pytest.mark.parametrize(('n', 'm'), [(0, 5), (5, 0), (0, 0), (5, 3)])
def test_nothing_nearby_is_a_normal_answer(
    rng: np.random.Generator, kind: str, n: int, m: int
) -> None:
    found = match_near(
        descriptors(rng, n, kind),
        np.zeros((n, 2)),
        descriptors(rng, m, kind),
        np.full((m, 2), 9),
        9,
    )
    assert len(found) == 0


def test_two_points_never_match_the_same_one(rng: np.random.Generator) -> None:
    one = np.repeat(descriptors(rng, 4, 'binary'), 3, axis=0)
    xy = np.zeros((12, 2))
    found = match_near(one, xy, one[::3], xy[::3], 5.0)
    assert len(set(found.index1.tolist())) == len(found)


@KINDS
def test_the_only_one_nearby_is_matched_when_it_looks_the_same(
    rng: np.random.Generator, kind: str
) -> None:
    one = descriptors(rng, 5, kind)
    xy = rng.uniform(0, 300, (5, 2))
    found = match_near(one, xy, disturbed(rng, one)[2:3], xy[2:3] + 1.0, 4.0)
    assert found.index0.tolist() == [2] and found.index1.tolist() == [0]


def test_points_expected_nowhere_are_left_out(rng: np.random.Generator) -> None:
    one = descriptors(rng, 6, 'binary')
    xy = rng.uniform(0, 300, (6, 2))
    expected = xy.copy()
    expected[[1, 4]] = np.nan
    found = match_near(one, expected, disturbed(rng, one), xy, 4.0)
    assert found.index0.tolist() == [0, 2, 3, 5]


@KINDS
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), ratio=st.sampled_from([0.7, 0.9, 1.0]))
def test_a_crowd_is_matched_as_loops_would_do_it(kind: str, seed: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    one = descriptors(rng, 25, kind)
    other = disturbed(rng, np.concatenate([one, one[:10]]))
    xy0, xy1 = rng.uniform(0, 30, (25, 2)), rng.uniform(0, 30, (35, 2))
    near = np.linalg.norm(xy0[:, None] - xy1[None], axis=2) <= 12.0
    likely = table_of(one, other) <= (64.0 if kind == 'binary' else 0.8)
    if kind == 'binary' and any(len(set(row)) < len(row) for row in [*table_of(one, other)]):
        return  # equal distances may be paired either way
    found = match_near(one, xy0, other, xy1, 12.0, ratio)
    expected = {(i, j) for i, j in pairs_by_loops(one, other, ratio, near) if likely[i, j]}
    assert set(zip(found.index0.tolist(), found.index1.tolist(), strict=True)) == expected
