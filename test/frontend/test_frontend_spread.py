"""Even coverage of the image by keypoints."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np

from kpvo_ros.frontend.spread import far_from, spread_evenly

COORDINATE = st.floats(0.0, 199.0, width=32)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), max_size=30)


def xy_of(points: list[tuple[float, float]]) -> np.ndarray:
    return np.array(points, np.float32).reshape(-1, 2)


def spread_by_loops(xy: np.ndarray, score: np.ndarray, cell_px: int, count: int) -> list[int]:
    """Round robin as one would write it on paper."""
    cells: dict[tuple[int, int], list[int]] = {}
    for index in sorted(range(len(xy)), key=lambda i: (-score[i], i)):
        cells.setdefault((int(xy[index, 0] // cell_px), int(xy[index, 1] // cell_px)), []).append(
            index
        )
    chosen: list[int] = []
    rank = 0
    while len(chosen) < len(xy):
        round_ = [members[rank] for members in cells.values() if rank < len(members)]
        chosen += sorted(round_, key=lambda i: -score[i])
        rank += 1
    return chosen[:count]


@settings(deadline=None, max_examples=50)
@given(POINTS, st.integers(8, 120), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_spreading_is_a_round_robin_over_cells(
    points: list[tuple[float, float]], cell_px: int, count: int, seed: int
) -> None:
    xy = xy_of(points)
    score = np.random.default_rng(seed).permutation(len(xy)).astype(np.float32)  # no ties
    kept = spread_evenly(xy, score, (200, 200), cell_px, count)
    assert kept.tolist() == spread_by_loops(xy, score, cell_px, count)


def test_every_cell_gives_its_best_before_any_gives_its_second() -> None:
    xy = np.array([[5, 5], [6, 5], [45, 5], [46, 5], [5, 45]], np.float32)
    score = np.array([9.0, 8.0, 1.0, 2.0, 0.5], np.float32)
    assert spread_evenly(xy, score, (80, 80), 40, 5).tolist() == [0, 3, 4, 1, 2]
    assert spread_evenly(xy, score, (80, 80), 40, 3).tolist() == [0, 3, 4]


def test_nothing_in_gives_nothing_out() -> None:
    kept = spread_evenly(np.zeros((0, 2), np.float32), np.zeros(0), (80, 80), 40, 5)
    assert kept.shape == (0,) and kept.dtype.kind == 'i'


def test_all_in_one_cell_keeps_the_strongest() -> None:
    xy = np.full((6, 2), 3.0, np.float32)
    score = np.array([1, 5, 3, 6, 2, 4], np.float32)
    assert spread_evenly(xy, score, (40, 40), 40, 3).tolist() == [3, 1, 5]


def test_a_count_beyond_the_number_keeps_all() -> None:
    xy = np.array([[1, 1], [50, 1]], np.float32)
    kept = spread_evenly(xy, np.array([1, 2], np.float32), (60, 60), 40, 100)
    assert sorted(kept.tolist()) == [0, 1]


def test_ties_are_broken_the_same_way_every_time() -> None:
    xy = np.random.default_rng(3).uniform(0, 80, (50, 2)).astype(np.float32)
    score = np.ones(50, np.float32)
    first = spread_evenly(xy, score, (80, 80), 16, 20)
    np.testing.assert_array_equal(first, spread_evenly(xy, score, (80, 80), 16, 20))
    assert len(set(first.tolist())) == 20


def test_an_image_that_is_no_multiple_of_the_cell_keeps_its_columns_apart() -> None:
    # 50 px with cells of 40: (45, 5) is a cell of its own, not the one of (5, 45).
    xy = np.array([[45, 5], [5, 45], [5, 46]], np.float32)
    score = np.array([1, 3, 2], np.float32)
    assert spread_evenly(xy, score, (50, 50), 40, 2).tolist() == [1, 0]


@settings(deadline=None, max_examples=50)
@given(POINTS, POINTS, st.floats(1.0, 60.0))
def test_far_points_are_told_from_near_ones(
    points: list[tuple[float, float]], others: list[tuple[float, float]], distance_px: float
) -> None:
    """Exact but for a margin: nothing near is called far, nothing beyond the next cell near."""
    xy, others_xy = xy_of(points), xy_of(others)
    far = far_from(xy, others_xy, distance_px)
    assert far.shape == (len(xy),) and far.dtype == bool
    for point, is_far in zip(xy, far, strict=True):
        nearest = np.abs(others_xy - point).max(1).min(initial=np.inf)  # chessboard distance
        if nearest < distance_px * (1 - 1e-4):
            assert not is_far
        if nearest > 2 * distance_px * (1 + 1e-4):
            assert is_far


def test_without_others_everything_is_far() -> None:
    none = np.zeros((0, 2), np.float32)
    assert far_from(np.ones((3, 2), np.float32), none, 5.0).all()
    assert far_from(none, np.ones((3, 2), np.float32), 5.0).shape == (0,)
