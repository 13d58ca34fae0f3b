"""Scores of keypoints: hand-made cases whose answer can be counted on one's fingers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.keypoints import (
    area_under_recall,
    bootstrap_sigma,
    corner_error_px,
    map_by_homography,
    mean_of_groups,
    pose_error_deg,
    recall_at_1,
    recall_scores,
    repeatability,
    share_within,
    transfer_errors_px,
)

SIZE = (100, 80)
SHIFT = np.array([[1.0, 0.0, 30.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # to the right by 30
STRONG = np.array([[1.1, 0.2, -5.0], [-0.15, 0.9, 8.0], [0.0006, -0.0004, 1.0]])


def motion(rotation_deg: float, axis: str, translation: tuple[float, float, float]) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler(axis, rotation_deg, degrees=True).as_matrix()
    T[:3, 3] = translation
    return T


# ---------------------------------------------------------------------------------- homography


def test_pixels_are_mapped_as_opencv_maps_them(rng, tolerance):
    xy = rng.uniform(0, 80, (50, 2))
    expected = cv2.perspectiveTransform(xy[None], STRONG)[0]
    np.testing.assert_allclose(map_by_homography(STRONG, xy), expected, **tolerance['double'])
    # the same map, written with another sign
    np.testing.assert_allclose(map_by_homography(-STRONG, xy), expected, **tolerance['double'])


def test_what_lies_beyond_infinity_has_no_pixel():
    H = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.02, 0.0, 1.0]])  # horizon at x = 50
    mapped = map_by_homography(H, [[40.0, 0.0], [60.0, 0.0]])
    np.testing.assert_allclose(mapped[0], [200.0, 0.0])
    assert np.isnan(mapped[1]).all()


def test_no_pixels_map_to_no_pixels():
    assert map_by_homography(STRONG, np.zeros((0, 2))).shape == (0, 2)


def test_repeatability_counts_both_ways_what_both_images_see():
    xy0 = [[10.0, 10.0], [20.0, 20.0], [90.0, 40.0]]  # the last one leaves the image
    xy1 = [[42.0, 10.0], [60.0, 60.0], [5.0, 5.0]]  # the last one came in
    # 0 in 1: (40, 10) found at 2 px, (50, 20) not. 1 in 0: (12, 10) found, (30, 60) not.
    assert repeatability(xy0, xy1, SHIFT, SIZE, SIZE, 3.0) == pytest.approx(2 / 4)
    assert repeatability(xy0, xy1, SHIFT, SIZE, SIZE, 1.9) == 0.0


def test_repeatability_of_the_same_points_is_whole(rng):
    xy0 = rng.uniform((25, 25), (70, 60), (40, 2))
    xy1 = cv2.perspectiveTransform(xy0[None], STRONG)[0]
    assert repeatability(xy0, xy1, STRONG, SIZE, SIZE, 0.01) == 1.0


def test_without_common_keypoints_there_is_no_repeatability():
    none = np.zeros((0, 2))
    assert repeatability(none, none, SHIFT, SIZE, SIZE) is None
    assert repeatability([[95.0, 5.0]], [[3.0, 5.0]], SHIFT, SIZE, SIZE) is None
    assert repeatability([[10.0, 5.0]], none, SHIFT, SIZE, SIZE) == 0.0


def test_transfer_errors_are_distances_in_the_second_image():
    errors = transfer_errors_px([[0.0, 0.0], [10.0, 10.0]], [[33.0, 4.0], [40.0, 10.0]], SHIFT)
    np.testing.assert_allclose(errors, [5.0, 0.0])


def test_a_failed_match_is_within_no_limit():
    assert share_within([0.5, 1.0, np.nan, np.inf], 1.0) == 0.5
    assert share_within([], 1.0) == 0.0


def test_corner_error_of_a_shift_is_its_length():
    moved = SHIFT.copy()
    moved[:2, 2] += (3.0, 4.0)
    assert corner_error_px(moved, SHIFT, SIZE) == pytest.approx(5.0)
    assert corner_error_px(2.0 * SHIFT, SHIFT, SIZE) == pytest.approx(0.0)


def test_corners_are_centres_of_pixels():
    wider = np.diag([2.0, 1.0, 1.0])  # moves the right corners by width - 1, the left by nothing
    assert corner_error_px(wider, np.eye(3), SIZE) == pytest.approx(99.0 / 2)


def test_no_homography_is_an_infinite_error():
    assert corner_error_px(None, SHIFT, SIZE) == np.inf
    behind = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.02, 0.0, 1.0]])
    assert corner_error_px(behind, np.eye(3), SIZE) == np.inf


# ---------------------------------------------------------------------------------------- pose


@pytest.mark.parametrize(
    ('estimate', 'expected'),
    [
        (motion(20.0, 'y', (2.0, 0.0, 0.0)), 0.0),  # the length of the motion is not known
        (motion(27.0, 'y', (1.0, 0.0, 0.0)), 7.0),
        (motion(20.0, 'y', (1.0, 1.0, 0.0)), 45.0),
        (motion(20.0, 'y', (-1.0, 0.0, 0.0)), 180.0),
        (motion(23.0, 'y', (1.0, np.tan(np.radians(2.0)), 0.0)), 3.0),
    ],
)
def test_pose_error_is_the_larger_of_rotation_and_direction(estimate, expected):
    truth = motion(20.0, 'y', (0.3, 0.0, 0.0))
    assert pose_error_deg(estimate, truth) == pytest.approx(expected, abs=1e-6)


def test_no_pose_is_an_infinite_error_and_no_baseline_no_question():
    assert pose_error_deg(None, motion(5.0, 'x', (0.0, 0.0, 1.0))) == np.inf
    with pytest.raises(EvaluationError, match='baseline'):
        pose_error_deg(np.eye(4), np.eye(4))


# ---------------------------------------------------------------------------------------- area


def test_area_under_recall_is_that_of_the_steps(rng):
    errors = rng.uniform(0.0, 15.0, 40)
    grid = (np.arange(200_000) + 0.5) / 200_000 * 10.0
    recall = np.searchsorted(np.sort(errors), grid, side='right') / len(errors)
    assert area_under_recall(errors, 10.0) == pytest.approx(recall.mean(), abs=1e-4)


def test_area_of_perfect_and_of_failed_estimates():
    assert area_under_recall([0.0, 0.0], 5.0) == 1.0
    assert area_under_recall([np.inf, np.nan, 5.0, 7.0], 5.0) == 0.0
    assert area_under_recall([2.5, np.inf], 5.0) == 0.25


def test_nothing_measured_is_not_a_figure():
    with pytest.raises(EvaluationError, match='no errors'):
        area_under_recall([], 5.0)
    with pytest.raises(EvaluationError, match='positive'):
        recall_scores([1.0], 0.0)
    with pytest.raises(EvaluationError, match='positive'):
        recall_scores([-1.0], 5.0)


def test_a_long_group_weighs_no_more_than_a_short_one():
    assert mean_of_groups([[1.0], [3.0, 5.0, 4.0]]) == 2.5


def test_bootstrap_gives_the_standard_error_of_the_mean(rng):
    groups = [rng.normal(size=200), rng.normal(scale=3.0, size=100)]
    closed_form = np.sqrt(sum(np.var(g) / len(g) for g in groups)) / 2
    sigma = bootstrap_sigma(groups, rng, draws=4000)
    assert sigma == pytest.approx(closed_form, rel=0.06)
    assert bootstrap_sigma([[2.0, 2.0]], rng) == 0.0


# --------------------------------------------------------------------------------------- place


def test_recall_counts_queries_whose_best_allowed_answer_is_right():
    similarity = np.array([[1.0, 0.9, 0.2], [0.9, 1.0, 0.5], [0.2, 0.5, 1.0]])
    right = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    not_itself = ~np.eye(3, dtype=bool)
    # the third has nothing to be found and is no query
    assert recall_at_1(similarity, right, not_itself) == 1.0
    right[2, 0] = True  # now it has, and answers the second
    assert recall_at_1(similarity, right, not_itself) == pytest.approx(2 / 3)


def test_a_recording_that_never_comes_back_asks_nothing():
    with pytest.raises(EvaluationError, match='comes back'):
        recall_at_1(np.eye(3), np.eye(3, dtype=bool), ~np.eye(3, dtype=bool))
