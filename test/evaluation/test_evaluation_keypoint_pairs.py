"""Pairs of views are chosen by their poses alone, from easy to hard."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.keypoint_pairs import (
    PairLimits,
    apart_in_time,
    choose_pairs,
    same_place,
)

STEP_DEG, STEP_M = 5.0, 0.5


def turning(count: int) -> np.ndarray:
    """Cameras that turn by 5 degrees and go on by half a metre from image to image."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for index, pose in enumerate(poses):
        angle = index * STEP_DEG
        pose[:3, :3] = Rotation.from_euler('y', angle, degrees=True).as_matrix()
        pose[0, 3] = index * STEP_M
    return poses


def test_a_pair_says_how_far_apart_its_views_are():
    (pair,) = choose_pairs(turning(3), PairLimits(5, gap=(2, 2)))
    assert (pair.index0, pair.index1) == (0, 2)
    assert pair.angle_deg == pytest.approx(10.0)
    assert pair.baseline == pytest.approx(1.0)


def test_gap_and_angle_limit_the_pairs():
    pairs = choose_pairs(turning(20), PairLimits(1000, gap=(2, 9), angle_deg=(14.0, 31.0)))
    gaps = {pair.index1 - pair.index0 for pair in pairs}
    assert gaps == {3, 4, 5, 6}  # 15 to 30 degrees
    assert len(pairs) == len(set(pairs)) == 17 + 16 + 15 + 14


def test_few_pairs_are_spread_from_the_easiest_to_the_hardest():
    pairs = choose_pairs(turning(12), PairLimits(6, gap=(1, 8)))
    gaps = [pair.index1 - pair.index0 for pair in pairs]
    assert gaps == sorted(gaps)
    assert (gaps[0], gaps[-1], len(gaps)) == (1, 8, 6)
    assert pairs == choose_pairs(turning(12), PairLimits(6, gap=(1, 8)))


def test_views_without_a_baseline_are_no_pair():
    poses = turning(4)
    poses[:, :3, 3] = 0.0
    with pytest.raises(EvaluationError, match='widen the limits'):
        choose_pairs(poses, PairLimits(5))


def test_a_place_is_near_and_seen_in_the_same_direction():
    poses = turning(4)
    poses[3, :3, :3] = Rotation.from_euler('y', 100, degrees=True).as_matrix()
    near = same_place(poses, max_distance=0.6, max_angle_deg=30.0)
    assert near[0].tolist() == [True, True, False, False]
    assert near[2].tolist() == [False, True, True, False]


def test_neighbours_in_time_are_not_apart():
    assert apart_in_time(4, 2)[1].tolist() == [False, False, False, True]
