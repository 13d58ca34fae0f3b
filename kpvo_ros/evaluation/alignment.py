"""Bring an estimated trajectory into the frame of the reference.

SE(3) and Sim(3) are the least squares solutions of Umeyama, "Least-squares estimation of
transformation parameters between two point patterns", PAMI 1991; `YAW` is its closed form with
four degrees of freedom (translation and heading), for systems that know the vertical.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from kpvo_ros.errors import EvaluationError, GeometryError
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.fit import umeyama


class Alignment(enum.Enum):
    """What may be fitted before the errors are measured."""

    SE3 = 'se3'  # rotation and translation
    SIM3 = 'sim3'  # and scale: for an odometry that does not claim to be metric
    YAW = 'yaw'  # translation and a turn about the vertical
    ORIGIN = 'origin'  # the first poses coincide
    NONE = 'none'  # both are already in one frame


class Similarity(NamedTuple):
    """A rigid motion and a scale: a position p becomes `scale * R p + t`.

    Attributes:
        scale: reference metres per metre of the estimate.
        T_ref_est: (4, 4) rotation and translation.
    """

    scale: float
    T_ref_est: np.ndarray

    def apply(self, poses: np.ndarray) -> np.ndarray:
        """Poses (N, 4, 4) of the estimate in the frame of the reference; a new array."""
        scaled = poses.copy()
        scaled[:, :3, 3] *= self.scale
        return self.T_ref_est @ scaled


def align(
    reference: np.ndarray,
    estimate: np.ndarray,
    mode: Alignment = Alignment.SE3,
    up: tuple[float, float, float] = (0.0, 0.0, 1.0),
) -> Similarity:
    """Fit the estimate to the reference.

    Args:
        reference: (N, 4, 4) poses `T_ref_body`.
        estimate: (N, 4, 4) poses `T_est_body` of the same instants.
        mode: the freedom of the fit.
        up: unit vector of the vertical, the same in both frames; used by `YAW` only.

    Returns:
        The similarity that takes the estimate into the frame of the reference.

    Raises:
        EvaluationError: too few poses, or positions that leave the rotation open (no motion, a
            straight line).
    """
    if len(reference) != len(estimate) or len(reference) == 0:
        raise EvaluationError(
            f'alignment needs as many poses in both, got {len(reference)} and {len(estimate)}'
        )
    if mode is Alignment.NONE:
        return Similarity(1.0, np.eye(4))
    if mode is Alignment.ORIGIN:
        return Similarity(1.0, reference[0] @ se3.inverse(estimate[0]))
    if mode is Alignment.YAW:
        return Similarity(1.0, _fit_yaw(reference[:, :3, 3], estimate[:, :3, 3], np.array(up)))
    return _fit_umeyama(reference[:, :3, 3], estimate[:, :3, 3], mode is Alignment.SIM3)


def mean_turn(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """Turn of the world that best lays the orientations of the estimate on the reference.

    The fit of positions leaves the roll about a nearly straight path open and shows it as a large
    constant rotation error that no odometry made; this turn has nothing to do with positions.

    Args:
        reference: (N, 4, 4) poses.
        estimate: (N, 4, 4) poses of the same instants.

    Returns:
        (4, 4) rotation `T_ref_est`, the chordal mean; identity where the orientations cancel.
    """
    products = reference[:, :3, :3] @ np.swapaxes(estimate[:, :3, :3], 1, 2)
    try:
        return se3.from_rt(se3.nearest_rotation(products.mean(axis=0)), np.zeros(3))
    except GeometryError:
        return np.eye(4)


# ------------------------------------------------------------------------------------ private

_MIN_SPREAD = 1e-6  # of the extent, or of a metre: below it is rounding


def _fit_umeyama(reference: np.ndarray, estimate: np.ndarray, with_scale: bool) -> Similarity:
    for name, positions in (('reference', reference), ('estimate', estimate)):
        _require_plane(name, positions)
    try:
        scale, R, t = umeyama(estimate, reference, with_scale)
    except GeometryError as error:
        raise EvaluationError(f'{error}; {_WITHOUT_FIT}') from error
    return Similarity(float(scale), se3.from_rt(R, t))


def _fit_yaw(reference: np.ndarray, estimate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """T_ref_est that turns about `up` only."""
    centred_ref = reference - reference.mean(axis=0)
    centred_est = estimate - estimate.mean(axis=0)
    flat_ref = centred_ref - np.outer(centred_ref @ up, up)
    flat_est = centred_est - np.outer(centred_est @ up, up)
    sine = np.cross(flat_est, flat_ref).sum(axis=0) @ up
    cosine = (flat_est * flat_ref).sum()
    if np.hypot(sine, cosine) <= _MIN_SPREAD**2 * len(reference):
        raise EvaluationError(f'no horizontal motion, the heading is open; {_WITHOUT_FIT}')
    R = se3.exp_so3(up * np.arctan2(sine, cosine))
    return se3.from_rt(R, reference.mean(axis=0) - R @ estimate.mean(axis=0))


def _require_plane(name: str, positions: np.ndarray) -> None:
    """Refuse positions that do not span at least a plane: the rotation would be arbitrary."""
    if len(positions) < 3:
        raise EvaluationError(f'{len(positions)} common poses, a fit needs 3; {_WITHOUT_FIT}')
    spread = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False)
    if spread[0] < _MIN_SPREAD:
        raise EvaluationError(f'the {name} does not move; {_WITHOUT_FIT}')
    if spread[1] < _MIN_SPREAD * spread[0]:
        raise EvaluationError(f'the {name} is a straight line, its roll is open; {_WITHOUT_FIT}')


_WITHOUT_FIT = 'align by origin or none instead'
