"""Which pose of the estimate belongs to which of the reference: nearest in time, one to one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.seconds import format_seconds
from kpvo_ros.types import Trajectory

MAX_GAP_NS = 20_000_000


class Pairs(NamedTuple):
    """Indices that belong together, both strictly increasing; may be empty.

    Attributes:
        reference: (M,) int64 into the reference.
        estimate: (M,) int64 into the estimate.
    """

    reference: np.ndarray
    estimate: np.ndarray


def associate(
    reference_ns: np.ndarray, estimate_ns: np.ndarray, max_gap_ns: int = MAX_GAP_NS
) -> Pairs:
    """Pair two increasing series of stamps, smallest gaps first.

    Args:
        reference_ns: (N,) int64 stamps.
        estimate_ns: (M,) int64 stamps.
        max_gap_ns: largest difference of two stamps that belong together.

    Returns:
        The pairs. No stamp is used twice, and no two pairs cross in time.
    """
    before = np.searchsorted(reference_ns, estimate_ns, side='right') - 1
    candidates = np.stack([before, before + 1], axis=1)  # (M, 2) neighbours in time
    inside = (candidates >= 0) & (candidates < len(reference_ns))
    of_estimate, side = np.nonzero(inside)
    of_reference = candidates[of_estimate, side]
    gap_ns = np.abs(reference_ns[of_reference] - estimate_ns[of_estimate])
    near = np.flatnonzero(gap_ns <= max_gap_ns)
    order = near[np.argsort(gap_ns[near], kind='stable')]
    return _first_come(of_reference[order], of_estimate[order])


def paired(
    reference: Trajectory, estimate: Trajectory, max_gap_ns: int = MAX_GAP_NS
) -> tuple[Trajectory, Trajectory]:
    """The poses of both trajectories that belong together, in equal number.

    Raises:
        EvaluationError: no stamps lie within `max_gap_ns`.
    """
    pairs = associate(reference.stamps_ns, estimate.stamps_ns, max_gap_ns)
    if len(pairs.reference) == 0:
        raise EvaluationError(
            f'no stamps within {max_gap_ns / 1e6:g} ms: estimate {_span(estimate)}, '
            f'reference {_span(reference)}; same clock? else allow a larger gap'
        )
    return _take(reference, pairs.reference), _take(estimate, pairs.estimate)


# ------------------------------------------------------------------------------------ private


def _first_come(of_reference: np.ndarray, of_estimate: np.ndarray) -> Pairs:
    """Keep each candidate pair whose two ends are still free, in the order given."""
    used_reference: set[int] = set()
    used_estimate: set[int] = set()
    kept = []
    for i, j in zip(of_reference.tolist(), of_estimate.tolist(), strict=True):
        if i not in used_reference and j not in used_estimate:
            used_reference.add(i)
            used_estimate.add(j)
            kept.append((i, j))
    index = np.array(sorted(kept), dtype=np.int64).reshape(-1, 2)
    return Pairs(index[:, 0], index[:, 1])


def _take(trajectory: Trajectory, index: np.ndarray) -> Trajectory:
    return Trajectory(trajectory.stamps_ns[index], trajectory.poses[index])


def _span(trajectory: Trajectory) -> str:
    if len(trajectory) == 0:
        return 'empty'
    first, last = int(trajectory.stamps_ns[0]), int(trajectory.stamps_ns[-1])
    return f'{format_seconds(first)} to {format_seconds(last)} s'
