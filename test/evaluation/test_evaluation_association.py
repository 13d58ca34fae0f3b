"""Pairs of stamps: nearest, one to one, in order."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.association import associate, paired
from kpvo_ros.types import Trajectory

stamps = st.sets(st.integers(0, 300), max_size=25).map(
    lambda values: np.array(sorted(values), dtype=np.int64)
)


def test_equal_stamps_pair_completely():
    series = np.array([0, 10, 20, 30])
    pairs = associate(series, series, max_gap_ns=0)
    assert pairs.reference.tolist() == pairs.estimate.tolist() == [0, 1, 2, 3]


def test_the_nearest_reference_wins_and_far_ones_do_not_count():
    pairs = associate(np.array([0, 8, 20, 33]), np.array([10, 31, 60]), max_gap_ns=5)
    assert pairs.reference.tolist() == [1, 3]
    assert pairs.estimate.tolist() == [0, 1]


def test_one_reference_serves_only_the_closest_estimate():
    pairs = associate(np.array([100]), np.array([97, 101, 104]), max_gap_ns=10)
    assert pairs.reference.tolist() == [0]
    assert pairs.estimate.tolist() == [1]


def test_a_constant_offset_within_the_gap_pairs_everything():
    reference = np.arange(0, 1000, 50)
    pairs = associate(reference, reference + 7, max_gap_ns=10)
    assert len(pairs.reference) == len(reference)


@settings(deadline=None, max_examples=50)
@given(stamps, stamps, st.integers(0, 40))
def test_pairs_are_close_unique_ordered_and_leave_no_pair_behind(reference, estimate, gap):
    index_ref, index_est = associate(reference, estimate, gap)
    assert (np.diff(index_ref) > 0).all()
    assert (np.diff(index_est) > 0).all()
    assert (np.abs(reference[index_ref] - estimate[index_est]) <= gap).all()
    # No two stamps that are each other's nearest are left unpaired.
    for j in set(range(len(estimate))) - set(index_est.tolist()):
        if len(reference):
            i = int(np.argmin(np.abs(reference - estimate[j])))
            distance = abs(reference[i] - estimate[j])
            rivals = np.abs(estimate - reference[i])
            assert distance > gap or (np.delete(rivals, j) <= distance).any()


@settings(deadline=None, max_examples=30)
@given(stamps, stamps, st.integers(0, 40))
def test_equal_stamps_always_find_each_other(first, second, gap):
    assert len(associate(first, second, gap).reference) <= min(len(first), len(second))
    exact = set(first.tolist()) & set(second.tolist())
    assert len(associate(first, second, 0).reference) == len(exact)


def test_an_empty_side_gives_no_pairs():
    empty = np.array([], dtype=np.int64)
    for reference, estimate in ((empty, np.array([1])), (np.array([1]), empty), (empty, empty)):
        assert len(associate(reference, estimate, 10).reference) == 0


def test_no_overlap_is_one_line_with_both_spans(walk):
    later = Trajectory(walk.stamps_ns + 10**12, walk.poses)
    with pytest.raises(EvaluationError, match=r'no stamps within 20 ms.*1700000000\.0') as caught:
        paired(walk, later)
    assert '\n' not in str(caught.value)
    empty = Trajectory(np.array([], np.int64), np.zeros((0, 4, 4)))
    with pytest.raises(EvaluationError, match='estimate empty'):
        paired(walk, empty)


def test_paired_poses_belong_to_their_stamps(walk):
    every_other = Trajectory(walk.stamps_ns[::2] + 3_000_000, walk.poses[::2])
    reference, estimate = paired(walk, every_other)
    np.testing.assert_array_equal(reference.poses, walk.poses[::2])
    np.testing.assert_array_equal(estimate.stamps_ns - reference.stamps_ns, 3_000_000)
