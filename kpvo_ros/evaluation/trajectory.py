"""How far an estimated trajectory is from the reference.

All functions take two stacks of poses `T_world_body` of the same instants, (N, 4, 4), and leave
them unchanged. The estimate is already aligned (`alignment.py`) where that matters.

* ATE, RPE: Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", IROS 2012.
* Segment errors: Geiger et al., "Are we ready for autonomous driving?", CVPR 2012.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.alignment import Alignment, align
from kpvo_ros.geometry import se3

KITTI_LENGTHS_M = (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
KITTI_STEP = 10  # a segment starts at every tenth pose
SHORT_PATH_M = 200.0  # below, the KITTI lengths say nothing


@dataclasses.dataclass(frozen=True)
class ErrorStats:
    """Summary of a set of errors, in their unit; `std` is that of the population."""

    rmse: float
    mean: float
    median: float
    std: float
    min: float
    max: float
    count: int

    @classmethod
    def of(cls, errors: np.ndarray) -> ErrorStats:
        """Summarise (N,) errors.

        Raises:
            EvaluationError: there are none.
        """
        if len(errors) == 0:
            raise EvaluationError('no errors to summarise: the trajectories share no poses')
        return cls(
            rmse=float(np.sqrt(np.mean(np.square(errors)))),
            mean=float(np.mean(errors)),
            median=float(np.median(errors)),
            std=float(np.std(errors)),
            min=float(np.min(errors)),
            max=float(np.max(errors)),
            count=len(errors),
        )


@dataclasses.dataclass(frozen=True)
class RelativeErrors:
    """Errors of the motion over a fixed distance, in frames or in metres."""

    translation_m: ErrorStats
    rotation_deg: ErrorStats


@dataclasses.dataclass(frozen=True)
class SegmentErrors:
    """Averages over all segments, each error divided by the length of its segment.

    Attributes:
        translation_percent: t_err.
        rotation_deg_per_m: r_err.
        lengths_m: the segment lengths that fit into the path.
        segments: their number.
    """

    translation_percent: float
    rotation_deg_per_m: float
    lengths_m: tuple[float, ...]
    segments: int


def path_lengths_m(poses: np.ndarray) -> np.ndarray:
    """(N,) metres travelled up to each pose."""
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def position_errors_m(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """(N,) distances of corresponding positions."""
    _require_equal(reference, estimate)
    return np.linalg.norm(estimate[:, :3, 3] - reference[:, :3, 3], axis=1)


def rotation_errors_deg(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """(N,) angles between corresponding orientations."""
    _require_equal(reference, estimate)
    return np.rad2deg(se3.rotation_angle_rad(se3.inverse(reference) @ estimate))


def ate(reference: np.ndarray, estimate: np.ndarray) -> ErrorStats:
    """Absolute trajectory error: statistics of `position_errors_m`, metres."""
    return ErrorStats.of(position_errors_m(reference, estimate))


def rpe(
    reference: np.ndarray,
    estimate: np.ndarray,
    *,
    delta_frames: int | None = None,
    delta_m: float | None = None,
) -> RelativeErrors:
    """Relative pose error of every pair of poses a fixed distance apart.

    Args:
        reference: (N, 4, 4).
        estimate: (N, 4, 4).
        delta_frames: distance in poses; 1 when neither is given.
        delta_m: distance in metres along the reference: the pair ends at the first pose that is
            at least so far.

    Returns:
        Errors per pair, not divided by the distance.

    Raises:
        EvaluationError: a distance that is not positive, both kinds, or longer than the path.
    """
    _require_equal(reference, estimate)
    if delta_frames is not None and delta_m is not None:
        raise EvaluationError('a relative error is over frames or over metres, not both')
    delta = delta_m if delta_m is not None else (1 if delta_frames is None else delta_frames)
    if not delta > 0:
        raise EvaluationError(f'the distance of a relative error must be positive, got {delta}')
    travelled = path_lengths_m(reference) if delta_m is not None else np.arange(len(reference))
    first = np.arange(len(reference))
    first, last = _segments(travelled, first, float(delta))
    if len(first) == 0:
        unit = 'm' if delta_m is not None else 'frames'
        raise EvaluationError(f'no two poses are {delta:g} {unit} apart, choose less')
    error = _relative_errors(reference, estimate, first, last)
    return RelativeErrors(
        ErrorStats.of(np.linalg.norm(error[:, :3, 3], axis=1)),
        ErrorStats.of(np.rad2deg(se3.rotation_angle_rad(error))),
    )


def kitti_errors(
    reference: np.ndarray,
    estimate: np.ndarray,
    lengths_m: tuple[float, ...] | None = None,
    step: int | None = None,
) -> SegmentErrors:
    """Translation and rotation error per metre, averaged over segments of several lengths.

    A segment ends at the first pose that is at least `length` away, and its errors are divided
    by the distance really travelled. The benchmark's own program divides by the nominal length,
    which differs by less than 1 % there but matters where a path has few poses a metre.

    Args:
        reference: (N, 4, 4).
        estimate: (N, 4, 4); needs no alignment, the errors are relative.
        lengths_m: segment lengths along the reference. None takes those of the KITTI benchmark,
            100 to 800 m, and 10, 20 ... 80 % of a path shorter than 200 m.
        step: a segment starts at every `step`-th pose; None means 10, and 1 on a short path.

    Raises:
        EvaluationError: no segment of these lengths fits into the path.
    """
    _require_equal(reference, estimate)
    travelled = path_lengths_m(reference)
    is_short = travelled[-1] < SHORT_PATH_M
    if lengths_m is None:
        tenths = tuple(float(travelled[-1]) * k / 10 for k in range(1, 9))
        lengths_m = tenths if is_short else KITTI_LENGTHS_M
    starts = np.arange(0, len(reference), step or (1 if is_short else KITTI_STEP))
    used, translations, rotations = [], [], []
    for length in lengths_m:
        first, last = _segments(travelled, starts, length)
        if length > 0 and len(first) > 0:
            error = _relative_errors(reference, estimate, first, last)
            lengths = travelled[last] - travelled[first]
            translations.append(np.linalg.norm(error[:, :3, 3], axis=1) / lengths)
            rotations.append(se3.rotation_angle_rad(error) / lengths)
            used.append(length)
    if not used:
        raise EvaluationError(f'no segment fits into a path of {travelled[-1]:.3g} m')
    translation, rotation = np.concatenate(translations), np.concatenate(rotations)
    return SegmentErrors(
        translation_percent=100.0 * float(translation.mean()),
        rotation_deg_per_m=float(np.rad2deg(rotation.mean())),
        lengths_m=tuple(used),
        segments=len(translation),
    )


def scale_error(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Relative error of the scale by the Sim(3) fit: +0.02 when the estimate is 2 % too long.

    Raises:
        EvaluationError: the positions leave the fit open (see `align`).
    """
    return 1.0 / align(reference, estimate, Alignment.SIM3).scale - 1.0


def path_scale_error(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Relative error of the path length: +0.02 when the estimate is 2 % too long.

    Needs no fit, so it also holds on a straight line, but jitter lengthens a path.

    Raises:
        EvaluationError: the reference does not move.
    """
    _require_equal(reference, estimate)
    length_m = _moved(reference)
    return float(path_lengths_m(estimate)[-1]) / length_m - 1.0


def drift_percent(reference: np.ndarray, estimate: np.ndarray) -> float:
    """Position error at the end, with the first poses laid together, in percent of the path.

    Raises:
        EvaluationError: the reference does not move.
    """
    _require_equal(reference, estimate)
    length_m = _moved(reference)
    aligned = align(reference, estimate, Alignment.ORIGIN).apply(estimate[-1:])
    return 100.0 * float(position_errors_m(reference[-1:], aligned)[0]) / length_m


def completion(frames_with_pose: int, frames: int) -> float:
    """Fraction of the frames that have a pose, 0 to 1.

    Raises:
        EvaluationError: there are no frames, or fewer than poses.
    """
    if not 0 <= frames_with_pose <= frames or frames == 0:
        raise EvaluationError(f'{frames_with_pose} poses of {frames} frames cannot be')
    return frames_with_pose / frames


# ------------------------------------------------------------------------------------ private


def _require_equal(reference: np.ndarray, estimate: np.ndarray) -> None:
    if reference.shape != estimate.shape or reference.shape[1:] != (4, 4) or len(reference) == 0:
        raise EvaluationError(
            f'poses must be two stacks (N, 4, 4) of the same instants, '
            f'got {reference.shape} and {estimate.shape}'
        )
    if not (np.isfinite(reference).all() and np.isfinite(estimate).all()):
        raise EvaluationError('a pose holds NaN or infinity: leave frames without a pose out')


def _segments(
    travelled: np.ndarray, starts: np.ndarray, length: float
) -> tuple[np.ndarray, np.ndarray]:
    """First and last index of the segments that start at `starts` and are at least `length`."""
    ends = np.searchsorted(travelled, travelled[starts] + length * (1.0 - 1e-9))
    inside = ends < len(travelled)
    return starts[inside], ends[inside]


def _relative_errors(
    reference: np.ndarray, estimate: np.ndarray, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
    """(M, 4, 4) what is left of the estimated motion after undoing the true one."""
    true_motion = se3.inverse(reference[first]) @ reference[last]
    motion = se3.inverse(estimate[first]) @ estimate[last]
    return se3.inverse(true_motion) @ motion


def _moved(reference: np.ndarray) -> float:
    """Path length of the reference, metres, refused when it is rounding."""
    length_m = float(path_lengths_m(reference)[-1])
    if length_m < 1e-6:
        raise EvaluationError('the reference does not move: no length to compare with')
    return length_m
