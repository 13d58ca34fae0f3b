"""All numbers of one run against its ground truth, in one record.

`evaluate` is the whole evaluation: pair by time, align, measure. `compare` and `measure` are its
two halves, for those who also need the aligned poses (the plots).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, TypeVar

import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation import trajectory as errors
from kpvo_ros.evaluation.alignment import Alignment, Similarity, align, mean_turn
from kpvo_ros.evaluation.association import MAX_GAP_NS, paired
from kpvo_ros.types import Trajectory


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """What the user may choose.

    Attributes:
        alignment: freedom of the fit before errors are measured.
        max_gap_ns: largest difference of stamps that belong together.
        rpe_delta_frames: distance of the relative error in poses.
        rpe_delta_m: distance in metres, instead of the poses.
        up: vertical of both frames, for `Alignment.YAW`.
    """

    alignment: Alignment = Alignment.SE3
    max_gap_ns: int = MAX_GAP_NS
    rpe_delta_frames: int | None = None
    rpe_delta_m: float | None = None
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        if self.rpe_delta_frames is not None and self.rpe_delta_m is not None:
            raise EvaluationError('a relative error is over frames or over metres, choose one')
        for name in ('max_gap_ns', 'rpe_delta_frames', 'rpe_delta_m'):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise EvaluationError(f'{name} must be positive, got {value}')
        if not np.isclose(np.linalg.norm(self.up), 1.0):
            raise EvaluationError(f'up must be a unit vector, got {self.up}')


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A reference and an estimate in one frame.

    Attributes:
        reference: ground truth as given, all of it.
        stamps_ns: (N,) stamps of the estimate that have a partner in the reference.
        truth: (N, 4, 4) the partners.
        estimate: (N, 4, 4) estimated poses, aligned.
        similarity: the alignment that was applied.
        alignment: the freedom it had.
    """

    reference: Trajectory
    stamps_ns: np.ndarray
    truth: np.ndarray
    estimate: np.ndarray
    similarity: Similarity
    alignment: Alignment

    @functools.cached_property
    def position_errors_m(self) -> np.ndarray:
        """(N,) distances between estimate and truth."""
        return errors.position_errors_m(self.truth, self.estimate)

    @functools.cached_property
    def rotation_errors_deg(self) -> np.ndarray:
        """(N,) angles between estimate and truth.

        Where the alignment was free to rotate, the orientations get a fit of their own
        (`mean_turn`), so that the numbers also mean something on a straight path.
        """
        estimate = self.estimate
        if self.alignment in (Alignment.SE3, Alignment.SIM3):
            estimate = mean_turn(self.truth, estimate) @ estimate
        return errors.rotation_errors_deg(self.truth, estimate)


@dataclasses.dataclass(frozen=True)
class Metrics:
    """The numbers; None where a number has no meaning (no motion, unknown frame count).

    Attributes:
        alignment: freedom of the fit.
        frames: images of the stream, None when not known.
        poses: of the estimate.
        pairs: poses that were compared.
        tracked_percent: poses of all frames.
        duration_s: from the first to the last pair.
        path_length_m: of the reference along the pairs.
        aligned_scale: the scale that was applied to the estimate; 1 unless `SIM3`.
        ate_m: absolute position errors.
        rotation_deg: absolute rotation errors (`Comparison.rotation_errors_deg`).
        rpe: relative errors over `rpe_delta`.
        rpe_delta: such as '1 frame' or '5 m'.
        segments: KITTI errors.
        scale_error_percent: by a Sim(3) fit; positive when the estimate is too long.
        path_scale_error_percent: by the lengths of the paths.
        drift_percent: error at the end, first poses laid together, of the path.
    """

    alignment: Alignment
    frames: int | None
    poses: int
    pairs: int
    tracked_percent: float | None
    duration_s: float
    path_length_m: float
    aligned_scale: float
    ate_m: errors.ErrorStats
    rotation_deg: errors.ErrorStats
    rpe: errors.RelativeErrors | None
    rpe_delta: str
    segments: errors.SegmentErrors | None
    scale_error_percent: float | None
    path_scale_error_percent: float | None
    drift_percent: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**dataclasses.asdict(self), 'alignment': self.alignment.value}

    def rows(self) -> list[tuple[str, str]]:
        """Name and value with its unit, for a table; '-' where there is no value."""
        relative_m = self.rpe.translation_m.rmse if self.rpe else None
        relative_deg = self.rpe.rotation_deg.rmse if self.rpe else None
        t_err = self.segments.translation_percent if self.segments else None
        r_err = self.segments.rotation_deg_per_m if self.segments else None
        return [
            ('frames', _text(self.frames, 'd')),
            ('tracked', _text(self.tracked_percent, '.1f', ' %')),
            ('path length', _text(self.path_length_m, '.2f', ' m')),
            (f'ATE rmse ({self.alignment.value})', _text(self.ate_m.rmse, '.3f', ' m')),
            ('ATE max', _text(self.ate_m.max, '.3f', ' m')),
            ('rotation error rmse', _text(self.rotation_deg.rmse, '.2f', ' deg')),
            (f'RPE rmse ({self.rpe_delta})', _text(relative_m, '.4f', ' m')),
            ('RPE rotation rmse', _text(relative_deg, '.3f', ' deg')),
            ('scale error', _text(self.scale_error_percent, '+.2f', ' %')),
            ('t_err', _text(t_err, '.2f', ' %')),
            ('r_err', _text(r_err, '.4f', ' deg/m')),
            ('drift', _text(self.drift_percent, '.2f', ' %')),
        ]


def evaluate(
    estimate: Trajectory,
    reference: Trajectory,
    options: EvaluationOptions | None = None,
    frames: int | None = None,
) -> Metrics:
    """Measure an estimate against the ground truth.

    Args:
        estimate: poses of the camera in the odometry's frame.
        reference: true poses of the same camera in their own frame.
        options: see `EvaluationOptions`.
        frames: images of the stream, for the share that was tracked.

    Raises:
        EvaluationError: no common stamps, too few poses, or an alignment that is open.
    """
    options = options or EvaluationOptions()
    return measure(compare(estimate, reference, options), options, len(estimate), frames)


def compare(estimate: Trajectory, reference: Trajectory, options: EvaluationOptions) -> Comparison:
    """Pair by time and align; see `evaluate`."""
    truth, posed = paired(reference, estimate, options.max_gap_ns)
    similarity = align(truth.poses, posed.poses, options.alignment, options.up)
    return Comparison(
        reference=reference,
        stamps_ns=posed.stamps_ns,
        truth=truth.poses,
        estimate=similarity.apply(posed.poses),
        similarity=similarity,
        alignment=options.alignment,
    )


def measure(
    comparison: Comparison, options: EvaluationOptions, poses: int, frames: int | None = None
) -> Metrics:
    """All metrics of a comparison; see `evaluate`."""
    truth, estimate, stamps_ns = comparison.truth, comparison.estimate, comparison.stamps_ns
    tracked = None if frames is None else 100.0 * errors.completion(poses, frames)
    return Metrics(
        alignment=comparison.alignment,
        frames=frames,
        poses=poses,
        pairs=len(truth),
        tracked_percent=tracked,
        duration_s=int(stamps_ns[-1] - stamps_ns[0]) / 1e9,
        path_length_m=float(errors.path_lengths_m(truth)[-1]),
        aligned_scale=comparison.similarity.scale,
        ate_m=errors.ErrorStats.of(comparison.position_errors_m),
        rotation_deg=errors.ErrorStats.of(comparison.rotation_errors_deg),
        rpe=_relative(truth, estimate, options),
        rpe_delta=_delta_text(options),
        segments=_unless_degenerate(lambda: errors.kitti_errors(truth, estimate)),
        scale_error_percent=_unless_degenerate(lambda: 100 * errors.scale_error(truth, estimate)),
        path_scale_error_percent=_unless_degenerate(
            lambda: 100 * errors.path_scale_error(truth, estimate)
        ),
        drift_percent=_unless_degenerate(lambda: errors.drift_percent(truth, estimate)),
    )


# ------------------------------------------------------------------------------------ private

T = TypeVar('T')


def _unless_degenerate(measure_one: Callable[[], T]) -> T | None:
    """The number, or None where the motion gives it no meaning."""
    try:
        return measure_one()
    except EvaluationError:
        return None


def _relative(
    truth: np.ndarray, estimate: np.ndarray, options: EvaluationOptions
) -> errors.RelativeErrors | None:
    frames, metres = options.rpe_delta_frames, options.rpe_delta_m
    return _unless_degenerate(
        lambda: errors.rpe(truth, estimate, delta_frames=frames, delta_m=metres)
    )


def _delta_text(options: EvaluationOptions) -> str:
    if options.rpe_delta_m is not None:
        return f'{options.rpe_delta_m:g} m'
    frames = options.rpe_delta_frames or 1
    return f'{frames} frame' + ('s' if frames > 1 else '')


def _text(value: float | None, spec: str, unit: str = '') -> str:
    return '-' if value is None else f'{value:{spec}}{unit}'
