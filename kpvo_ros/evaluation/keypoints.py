"""How good keypoints and their matches are, when the truth is known. Pure functions.

A homography `H_0to1` maps pixels of image 0 to pixels of image 1. An error that is NaN or
infinite is a failure: the estimate does not exist. Shares and areas are in 0..1.
Sources: repeatability after DeTone, "SuperPoint", CVPR 2018 workshops, section 5; areas under the
recall curve after Sarlin, "SuperGlue", CVPR 2020, section 5, but exact instead of by trapezia.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from kpvo_ros.errors import EvaluationError
from kpvo_ros.geometry import se3

Array = npt.NDArray[np.float64]
Size = tuple[int, int]  # (width, height) pixels


def map_by_homography(H_0to1: npt.ArrayLike, xy0: npt.ArrayLike) -> Array:
    """(N, 2) pixels in image 1 of (N, 2) pixels in image 0; NaN beyond infinity."""
    H = np.asarray(H_0to1, np.float64)
    xy0 = np.asarray(xy0, np.float64).reshape(-1, 2)
    mapped = np.column_stack([xy0, np.ones(len(xy0))]) @ H.T
    ahead = mapped[:, 2:] * np.sign(np.linalg.det(H)) > 1e-12
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.where(ahead, mapped[:, :2] / mapped[:, 2:], np.nan)


def repeatability(
    xy0: npt.ArrayLike,
    xy1: npt.ArrayLike,
    H_0to1: npt.ArrayLike,
    size0: Size,
    size1: Size,
    radius_px: float = 3.0,
) -> float | None:
    """Share of the keypoints seen by both images that the other image has as well.

    Args:
        xy0: (N, 2) keypoints of image 0, pixels.
        xy1: (M, 2) keypoints of image 1, pixels.
        H_0to1: (3, 3) true map.
        size0: (width, height) of image 0.
        size1: the same of image 1.
        radius_px: distance, measured in the image of the other, up to which it is the same one.

    Returns:
        The share, None when there is no keypoint in the part that both images see.
    """
    xy0, xy1 = (np.asarray(xy, np.float64).reshape(-1, 2) for xy in (xy0, xy1))
    count = found = 0
    H = np.asarray(H_0to1, np.float64)
    there = map_by_homography(H, xy0), map_by_homography(np.linalg.inv(H), xy1)
    for mapped, others, size in ((there[0], xy1, size1), (there[1], xy0, size0)):
        seen = mapped[_inside(mapped, size)]
        count += len(seen)
        if len(seen) and len(others):
            found += int((cKDTree(others).query(seen)[0] <= radius_px).sum())
    return found / count if count else None


def transfer_errors_px(xy0: npt.ArrayLike, xy1: npt.ArrayLike, H_0to1: npt.ArrayLike) -> Array:
    """(N,) distance in image 1 between matched pixels and the truth; NaN beyond infinity."""
    xy1 = np.asarray(xy1, np.float64).reshape(-1, 2)
    return np.linalg.norm(map_by_homography(H_0to1, xy0) - xy1, axis=1)


def share_within(errors: npt.ArrayLike, limit: float) -> float:
    """Share of errors (N,) that are at most `limit`; 0 of none."""
    errors = np.asarray(errors, np.float64)
    with np.errstate(invalid='ignore'):
        return float((errors <= limit).mean()) if errors.size else 0.0


def corner_error_px(H_estimate: npt.ArrayLike | None, H_0to1: npt.ArrayLike, size0: Size) -> float:
    """Mean distance between the four corners of image 0 mapped by an estimate and by the truth.

    Args:
        H_estimate: (3, 3), None when the estimate failed.
        H_0to1: (3, 3) true map.
        size0: (width, height) of image 0.

    Returns:
        Pixels of image 1; infinite for a failure.
    """
    if H_estimate is None:
        return float('inf')
    right, bottom = size0[0] - 1.0, size0[1] - 1.0
    corners = np.array([[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]])
    distance = map_by_homography(H_estimate, corners) - map_by_homography(H_0to1, corners)
    error = float(np.linalg.norm(distance, axis=1).mean())
    return error if np.isfinite(error) else float('inf')


def pose_error_deg(T_estimate: npt.ArrayLike | None, T_1_0: npt.ArrayLike) -> float:
    """The larger of the errors of rotation and of the direction of translation.

    Args:
        T_estimate: (4, 4) pose of camera 0 in camera 1 up to scale, None when it failed.
        T_1_0: (4, 4) the truth.

    Returns:
        Degrees; infinite for a failure.

    Raises:
        EvaluationError: the truth has no translation, so there is no direction to compare with.
    """
    truth = np.asarray(T_1_0, np.float64)
    if not np.linalg.norm(truth[:3, 3]) > 0:
        raise EvaluationError('true motion has no translation: choose pairs with a baseline')
    if T_estimate is None:
        return float('inf')
    estimate = np.asarray(T_estimate, np.float64)
    turn = float(se3.rotation_angle_rad(estimate[:3, :3].T @ truth[:3, :3]))
    error = np.degrees(max(turn, _angle_rad(estimate[:3, 3], truth[:3, 3])))
    return float(error) if np.isfinite(error) else float('inf')


def recall_scores(errors: npt.ArrayLike, threshold: float) -> Array:
    """(N,) what each error adds to the area under the recall curve: 1 for none, 0 from the limit.

    The recall at e is the share of errors not larger than e. One error gives a step there, and
    the step's area from 0 to the threshold, over the threshold, is `1 - error / threshold`.

    Raises:
        EvaluationError: the threshold is not positive, or an error is negative.
    """
    errors = np.asarray(errors, np.float64)
    if not threshold > 0 or (errors < 0).any():
        raise EvaluationError(f'threshold {threshold} and errors must be positive')
    return np.clip(1.0 - np.where(np.isnan(errors), np.inf, errors) / threshold, 0.0, 1.0)


def area_under_recall(errors: npt.ArrayLike, threshold: float) -> float:
    """Exact area under the recall curve of errors (N,) up to a threshold, in 0..1.

    Raises:
        EvaluationError: there are no errors, or see `recall_scores`.
    """
    scores = recall_scores(errors, threshold)
    if not scores.size:
        raise EvaluationError('no errors: measure at least one pair')
    return float(scores.mean())


def mean_of_groups(groups: Sequence[npt.ArrayLike]) -> float:
    """Mean over groups of the mean of each, so that a group with many members weighs no more."""
    return float(np.mean([np.mean(np.asarray(group, np.float64)) for group in groups]))


def bootstrap_sigma(
    groups: Sequence[npt.ArrayLike],
    rng: np.random.Generator,
    draws: int = 500,
    figure: Callable[[Sequence[npt.ArrayLike]], float] = mean_of_groups,
) -> float:
    """Standard error of a figure of groups of numbers, by drawing the members anew.

    Members are drawn with replacement within their group (Efron 1979); the groups stay.

    Args:
        groups: numbers (N_i,) of each group.
        rng: draws.
        draws: how often.
        figure: of the groups.
    """
    arrays = [np.asarray(group, np.float64) for group in groups]
    figures = [
        figure([array[rng.integers(0, len(array), len(array))] for array in arrays])
        for _ in range(draws)
    ]
    return float(np.std(figures, ddof=1))


def recall_at_1(similarity: npt.ArrayLike, right: npt.ArrayLike, allowed: npt.ArrayLike) -> float:
    """Share of queries whose most similar allowed image is a right one.

    Args:
        similarity: (N, M) of queries and images.
        right: (N, M) bool, the image shows the place of the query.
        allowed: (N, M) bool, the image may be answered (not the query itself, nor its
            neighbours in time).

    Raises:
        EvaluationError: no query has an allowed right answer, so there is nothing to find.
    """
    allowed = np.asarray(allowed, bool)
    findable = (np.asarray(right, bool) & allowed).any(axis=1)
    if not findable.any():
        raise EvaluationError('no query has a right answer: take a recording that comes back')
    answer = np.where(allowed, np.asarray(similarity, np.float64), -np.inf).argmax(axis=1)
    hit = np.take_along_axis(np.asarray(right, bool), answer[:, None], axis=1)[:, 0]
    return float(hit[findable].mean())


# ------------------------------------------------------------------------------------ private


def _inside(xy: Array, size: Size) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid='ignore'):
        return np.asarray(((xy >= -0.5) & (xy < np.array(size) - 0.5)).all(axis=1))


def _angle_rad(a: Array, b: Array) -> float:
    return float(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b))
