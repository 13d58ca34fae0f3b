"""Does the covariance tell the truth? Normalised estimation error squared against chi-square.

Bar-Shalom, Li, Kirubarajan, "Estimation with Applications to Tracking and Navigation", chapter
5.4. For a consistent estimator e^T P^-1 e follows a chi-square law with 6 degrees of freedom:
its mean is 6. A larger mean is overconfidence, a smaller one is caution.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from kpvo_ros.errors import EvaluationError
from kpvo_ros.geometry import se3

DOF = 6


@dataclasses.dataclass(frozen=True)
class Consistency:
    """Result of the test.

    Attributes:
        nees: (N,) normalised errors squared.
        mean: their average; 6 for a consistent estimator.
        mean_bounds: interval that holds the average of N independent consistent estimates with
            the asked probability. Errors of one trajectory are correlated: for a strict test
            give estimates of independent runs.
        inside: fraction of the estimates within their own interval of that probability.
    """

    nees: np.ndarray
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
) -> Consistency:
    """Compare errors with the covariances that came with the estimates.

    Args:
        reference: (N, 4, 4) true poses, in the frame of the estimate (not fitted to it: a fit
            hides error; lay the first poses together).
        estimate: (N, 4, 4) poses.
        covariances: (N, 6, 6) in the ROS convention (parent axes, x y z rx ry rz).
        probability: of the intervals, two sided.

    Raises:
        EvaluationError: shapes disagree, N is zero, or a covariance is not positive definite.
    """
    errors, local = _local_errors(reference, estimate, covariances)
    try:
        np.linalg.cholesky(local)
    except np.linalg.LinAlgError:
        raise EvaluationError(
            'a covariance is not positive definite, it claims certainty'
        ) from None
    nees = np.einsum('ni,ni->n', errors, np.linalg.solve(local, errors[..., None])[..., 0])
    tails = ((1.0 - probability) / 2, (1.0 + probability) / 2)
    low, high = stats.chi2.ppf(tails, DOF)
    mean_low, mean_high = stats.chi2.ppf(tails, DOF * len(nees)) / len(nees)
    return Consistency(
        nees=nees,
        mean=float(nees.mean()),
        mean_bounds=(float(mean_low), float(mean_high)),
        inside=float(np.mean((nees >= low) & (nees <= high))),
    )


# ------------------------------------------------------------------------------------ private


def _local_errors(
    reference: np.ndarray, estimate: np.ndarray, covariances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 6) errors in the axes of the estimated body, and (N, 6, 6) their covariances."""
    count = len(estimate)
    expected = ((count, 4, 4), (count, 4, 4), (count, DOF, DOF))
    shapes = (reference.shape, estimate.shape, covariances.shape)
    if count == 0 or shapes != expected:
        raise EvaluationError(f'expected poses, poses, covariances of shapes {expected}: {shapes}')
    if not all(np.isfinite(array).all() for array in (reference, estimate, covariances)):
        raise EvaluationError('a pose or covariance holds NaN or infinity, leave its frame out')
    errors = se3.log_se3(se3.inverse(estimate) @ reference)
    return errors, se3.ros_to_local_covariance(covariances, estimate)
