"""Does the covariance tell the truth? Normalised estimation error squared against chi-square.

Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation", chapter
5.4. For a consistent estimator e^T P^-1 e follows a chi-square law with as many degrees of freedom
as the error has numbers: 6 for a pose, 3 for its position or its rotation alone. Its mean is that
number; a larger mean is overconfidence, a smaller one is caution.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
from scipy import stats

from kpvo_ros.errors import EvaluationError
from kpvo_ros.geometry import se3


class Part(enum.Enum):
    """Which part of the pose is tested, with the marginal covariance of that part."""

    POSE = slice(0, 6)
    POSITION = slice(0, 3)
    ROTATION = slice(3, 6)

    @property
    def dof(self) -> int:
        """Degrees of freedom."""
        return int(self.value.stop - self.value.start)


@dataclasses.dataclass(frozen=True)
class Consistency:
    """Result of the test.

    Attributes:
        nees: (N,) normalised errors squared.
        dof: degrees of freedom of each, their mean for a consistent estimator.
        mean: their average.
        mean_bounds: interval that holds the average of N independent consistent estimates with
            the asked probability. Errors of one trajectory are correlated: for a strict test
            give estimates of independent runs.
        inside: fraction of the estimates within their own interval of that probability.
    """

    nees: np.ndarray
    dof: int
    mean: float
    mean_bounds: tuple[float, float]
    inside: float

    @property
    def is_consistent(self) -> bool:
        """Whether the average lies within its bounds."""
        return self.mean_bounds[0] <= self.mean <= self.mean_bounds[1]


def check_consistency(
    reference: np.ndarray,
    estimate: np.ndarray,
    covariances: np.ndarray,
    probability: float = 0.95,
    part: Part = Part.POSE,
) -> Consistency:
    """Compare errors with the covariances that came with the estimates.

    Args:
        reference: (N, 4, 4) true poses, in the frame of the estimate (not fitted to it: a fit
            hides error; lay the first poses together).
        estimate: (N, 4, 4) poses.
        covariances: (N, 6, 6) in the ROS convention (parent axes, x y z rx ry rz).
        probability: of the intervals, two sided.
        part: of the pose.

    Raises:
        EvaluationError: shapes disagree, N is zero, or a covariance is not positive definite.
    """
    _require_usable(reference, estimate, covariances)
    errors = parent_axes_errors(reference, estimate)[:, part.value]
    marginal = covariances[:, part.value, part.value]
    try:
        np.linalg.cholesky(marginal)
    except np.linalg.LinAlgError:
        raise EvaluationError(
            'a covariance is not positive definite, it claims certainty'
        ) from None
    nees = np.einsum('ni,ni->n', errors, np.linalg.solve(marginal, errors[..., None])[..., 0])
    tails = ((1.0 - probability) / 2, (1.0 + probability) / 2)
    low, high = stats.chi2.ppf(tails, part.dof)
    mean_low, mean_high = stats.chi2.ppf(tails, part.dof * len(nees)) / len(nees)
    return Consistency(
        nees=nees,
        dof=part.dof,
        mean=float(nees.mean()),
        mean_bounds=(float(mean_low), float(mean_high)),
        inside=float(np.mean((nees >= low) & (nees <= high))),
    )


def parent_axes_errors(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """What is missing from the estimate, as ROS measures the covariance of a pose.

    Args:
        reference: (N, 4, 4) true poses.
        estimate: (N, 4, 4) poses of the same instants in the same frame.

    Returns:
        (N, 6) x y z rx ry rz in parent axes, metres and radians: the true position is the
        estimated one plus x y z, the true rotation the estimated one turned by rx ry rz.
    """
    moved = reference[:, :3, 3] - estimate[:, :3, 3]
    turned = reference[:, :3, :3] @ np.swapaxes(estimate[:, :3, :3], 1, 2)
    return np.concatenate([moved, se3.log_so3(turned)], axis=1)


# ------------------------------------------------------------------------------------ private


def _require_usable(reference: np.ndarray, estimate: np.ndarray, covariances: np.ndarray) -> None:
    count = len(estimate)
    expected = ((count, 4, 4), (count, 4, 4), (count, 6, 6))
    shapes = (reference.shape, estimate.shape, covariances.shape)
    if count == 0 or shapes != expected:
        raise EvaluationError(f'expected poses, poses, covariances of shapes {expected}: {shapes}')
    if not all(np.isfinite(array).all() for array in (reference, estimate, covariances)):
        raise EvaluationError('a pose or covariance holds NaN or infinity, leave its frame out')
