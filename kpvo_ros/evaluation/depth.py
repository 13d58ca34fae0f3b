"""How good depth images and the motion of pairs of images are, when the truth is known.

Depth is scored as the literature does since Eigen 2014, "Depth map prediction from a single image
using a multi-scale deep network": over the pixels whose true depth lies within a range, with the
prediction drawn into that range first; scaled by the ratio of medians where the scale cannot be
known (Zhou 2017, "Unsupervised learning of depth and ego-motion from video"). Networks answer
everywhere, so the literature is silent about pixels without an answer (NaN, infinite, zero or
negative). Here they count as wrong in the shares, lest a method gain by leaving hard pixels out,
and have no part in the errors and the scale, where no number could stand for them.

All is for one image or one batch taken as one; who wants the mean of images, averages.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kpvo_ros.errors import EvaluationError
from kpvo_ros.geometry import se3

Array = npt.NDArray[np.float64]

_RIGHT = 1.25  # ratio up to which a depth counts as right
_SHORTEST_STEP_M = 1e-3  # a shorter one has no direction worth comparing with


class DepthErrors(NamedTuple):
    """Errors of depth; NaN where nothing is known to compare with.

    Attributes:
        abs_rel: mean of |depth - truth| / truth over the pixels with an answer.
        rmse_m: root mean square of depth - truth over them, metres.
        acc_125: share in 0..1 of the known pixels where the larger of depth / truth and
            truth / depth is below 1.25; without an answer it is wrong.
        acc_125_2: the same below 1.25^2.
        acc_125_3: the same below 1.25^3.
        scale: median truth over median depth of the pixels with an answer, before any scaling;
            1 for a metric prediction.
        pixels: known true depths within the range.
    """

    abs_rel: float
    rmse_m: float
    acc_125: float
    acc_125_2: float
    acc_125_3: float
    scale: float
    pixels: int


class PairPoseErrors(NamedTuple):
    """Errors of the motion of P pairs; NaN where an estimate is not finite.

    Attributes:
        rotation_deg: (P,) angle between estimated and true rotation.
        translation_share: (P,) |t - t_true| / |t_true|; NaN when the true step is below 1 mm.
        direction_deg: (P,) angle between the translations; NaN when the true step is below 1 mm
            or the estimated one has no length.
    """

    rotation_deg: Array
    translation_share: Array
    direction_deg: Array


def depth_errors(
    depth_m: npt.ArrayLike,
    true_depth_m: npt.ArrayLike,
    *,
    median_scaled: bool = False,
    min_depth_m: float = 0.1,
    max_depth_m: float = 80.0,
) -> DepthErrors:
    """Compare predicted depth with the truth.

    Args:
        depth_m: predicted, any shape; not finite or not positive is no answer.
        true_depth_m: the same shape; NaN, infinite, or out of the range is unknown.
        median_scaled: multiply the prediction by `DepthErrors.scale` first.
        min_depth_m: nearest true depth that counts.
        max_depth_m: farthest one.

    Returns:
        The errors; all NaN and 0 pixels when no true depth is known.

    Raises:
        EvaluationError: the shapes differ, or the range is none.
    """
    depth_m = np.asarray(depth_m, np.float64)
    true_depth_m = np.asarray(true_depth_m, np.float64)
    if depth_m.shape != true_depth_m.shape:
        raise EvaluationError(
            f'depth {depth_m.shape} and true depth {true_depth_m.shape} differ: resize the '
            'prediction to the size of the truth'
        )
    if not 0 < min_depth_m < max_depth_m:
        raise EvaluationError(
            f'depths from {min_depth_m:g} to {max_depth_m:g} m are no range: give two rising '
            'positive numbers'
        )
    with np.errstate(invalid='ignore'):
        known = (true_depth_m >= min_depth_m) & (true_depth_m <= max_depth_m)
    depth, truth = depth_m[known], true_depth_m[known]
    answered = np.isfinite(depth) & (depth > 0)
    if not answered.any():
        wrong = 0.0 if truth.size else np.nan
        return DepthErrors(np.nan, np.nan, wrong, wrong, wrong, np.nan, truth.size)
    depth, truth, count = depth[answered], truth[answered], truth.size
    scale = float(np.median(truth) / np.median(depth))
    depth = np.clip(depth * scale if median_scaled else depth, min_depth_m, max_depth_m)
    ratio = np.maximum(depth / truth, truth / depth)
    right = [float((ratio < _RIGHT**power).sum() / count) for power in (1, 2, 3)]
    return DepthErrors(
        abs_rel=float((np.abs(depth - truth) / truth).mean()),
        rmse_m=float(np.sqrt(((depth - truth) ** 2).mean())),
        acc_125=right[0],
        acc_125_2=right[1],
        acc_125_3=right[2],
        scale=scale,
        pixels=count,
    )


def pair_pose_errors(T_1_0: npt.ArrayLike, true_T_1_0: npt.ArrayLike) -> PairPoseErrors:
    """Compare the estimated motion of pairs of images with the true one.

    Args:
        T_1_0: (P, 4, 4) pose of camera 0 in camera 1, metres; not finite is a failure.
        true_T_1_0: (P, 4, 4) the truth.

    Raises:
        EvaluationError: the shapes differ, or the truth is not finite.
    """
    T, truth = np.asarray(T_1_0, np.float64), np.asarray(true_T_1_0, np.float64)
    if truth.ndim != 3 or truth.shape[1:] != (4, 4) or T.shape != truth.shape:
        raise EvaluationError(
            f'motions are (P, 4, 4), got {T.shape} and {truth.shape}: give one estimate for each '
            'true motion'
        )
    if not np.isfinite(truth).all():
        raise EvaluationError('a true motion is not finite: leave the pair out')
    finite = np.isfinite(T).all(axis=(1, 2))
    turn = np.full(len(T), np.nan)
    between = T[finite, :3, :3].swapaxes(1, 2) @ truth[finite, :3, :3]
    turn[finite] = np.degrees(se3.rotation_angle_rad(between))
    t, true_t = T[:, :3, 3], truth[:, :3, 3]
    step, true_step = np.linalg.norm(t, axis=1), np.linalg.norm(true_t, axis=1)
    with np.errstate(invalid='ignore', divide='ignore'):
        share = np.linalg.norm(t - true_t, axis=1) / true_step
        sine = np.linalg.norm(np.cross(t, true_t), axis=1)
        direction = np.degrees(np.arctan2(sine, (t * true_t).sum(axis=1)))
        moved = finite & (true_step >= _SHORTEST_STEP_M)
        return PairPoseErrors(
            rotation_deg=turn,
            translation_share=np.where(moved, share, np.nan),
            direction_deg=np.where(moved & (step > 0), direction, np.nan),
        )
