"""Joining two streams by stamp, all at once and while streaming."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np

from kpvo_ros.bags.joining import DepthJoiner
from kpvo_ros.bags.pairing import nearest_pairs


def test_pairs_are_made_by_distance_not_by_order():
    # 10 is nearer to 11 than to 7; 7 then remains for 4.
    assert nearest_pairs([4, 10], [7, 11], 5) == {0: 0, 1: 1}


def test_each_partner_is_used_once():
    assert nearest_pairs([10, 12], [11], 5) in ({0: 0}, {1: 0})


def test_nothing_beyond_the_tolerance_is_paired():
    assert nearest_pairs([0, 100], [21, 80], 20) == {1: 1}


def test_nothing_pairs_with_nothing():
    assert nearest_pairs([], [1], 5) == {}
    assert nearest_pairs([1], [], 5) == {}


@settings(deadline=None, max_examples=50)
@given(
    first=st.lists(st.integers(-1000, 1000), max_size=20),
    second=st.lists(st.integers(-1000, 1000), max_size=20),
    tolerance=st.integers(0, 100),
)
def test_pairs_are_close_unique_and_leave_no_pair_unmade(first, second, tolerance):
    pairs = nearest_pairs(first, second, tolerance)
    assert len(set(pairs.values())) == len(pairs)
    assert all(abs(first[i] - second[j]) <= tolerance for i, j in pairs.items())
    free_first = set(range(len(first))) - set(pairs)
    free_second = set(range(len(second))) - set(pairs.values())
    assert all(abs(first[i] - second[j]) > tolerance for i in free_first for j in free_second)


MS = 1_000_000


def _play(events):
    """Feed (kind, stamp_ms, recorded_ms); returns (image stamp, depth stamp, when) in ms."""
    joiner = DepthJoiner(20 * MS)
    out = []
    now = 0
    for kind, stamp, now in events:
        if kind == 'depth':
            joiner.add_depth(stamp * MS, now * MS, stamp)
        else:
            joiner.add(stamp * MS, now * MS, stamp, wants_depth=kind == 'image')
        out += [(image, depth, now) for image, depth in joiner.ready(now * MS)]
    out += [(image, depth, now) for image, depth in joiner.flush()]
    return out


def test_depth_recorded_before_its_image_is_joined_at_once():
    assert _play([('depth', 0, 1), ('image', 0, 2)]) == [(0, 0, 2)]


def test_an_image_waits_for_depth_recorded_later():
    events = [('image', 0, 1), ('image', 33, 34), ('depth', 2, 60), ('depth', 35, 90)]
    assert _play(events) == [(0, 2, 60), (33, 35, 90)]


def test_the_nearer_of_two_depth_maps_is_taken():
    assert _play([('depth', 85, 90), ('image', 100, 101), ('depth', 105, 110)]) == [
        (100, 105, 110)
    ]


def test_an_image_goes_on_alone_when_depth_is_too_far():
    assert _play([('image', 0, 0), ('depth', 21, 25)]) == [(0, None, 25)]


def test_an_image_does_not_wait_for_ever():
    events = [('image', 0, 0), ('other', 400, 400), ('other', 600, 600)]
    assert _play(events) == [(0, None, 600), (400, None, 600), (600, None, 600)]


def test_other_records_keep_their_place_behind_waiting_images():
    events = [('image', 0, 0), ('other', 5, 5), ('depth', 0, 30)]
    assert _play(events) == [(0, 0, 30), (5, None, 30)]


def test_images_at_the_end_are_not_lost():
    assert _play([('depth', 0, 0), ('image', 10, 10)]) == [(10, 0, 10)]


def test_waiting_images_stay_few():
    joiner = DepthJoiner(20 * MS)
    released = 0
    for i in range(1000):  # all at the same recorded time: only the number can stop the waiting
        joiner.add(i, 0, np.zeros(4), wants_depth=True)
        released += len(list(joiner.ready(0)))
    assert released >= 900
