"""Which images of a recording with known poses are compared: fixed by the poses alone.

No method has a say in the choice, and the same poses always give the same pairs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kpvo_ros.errors import EvaluationError
from kpvo_ros.geometry import se3


@dataclasses.dataclass(frozen=True)
class PairLimits:
    """Which pairs are candidates, and how many of them are taken.

    Attributes:
        count: at most so many.
        gap: fewest and most images from the first to the second.
        angle_deg: smallest and largest rotation between the two.
    """

    count: int
    gap: tuple[int, int] = (1, 1_000_000)
    angle_deg: tuple[float, float] = (0.0, 180.0)


@dataclasses.dataclass(frozen=True)
class ViewPair:
    """Two images of one place.

    Attributes:
        index0: of the first.
        index1: of the second.
        angle_deg: rotation between them.
        baseline: distance of the cameras, unit of the poses.
    """

    index0: int
    index1: int
    angle_deg: float
    baseline: float


def choose_pairs(poses: npt.ArrayLike, limits: PairLimits) -> list[ViewPair]:
    """Pairs spread evenly from easy to hard, easiest first.

    The difficulty of a pair is the sum of its ranks by rotation and by baseline among the
    candidates.

    Args:
        poses: (N, 4, 4) `T_world_camera`.
        limits: which pairs may be taken.

    Raises:
        EvaluationError: no pair lies within the limits.
    """
    pairs = _candidates(np.asarray(poses, np.float64), limits)
    if not pairs:
        raise EvaluationError(f'no pair of images within {limits}: widen the limits')
    rank = _rank([pair.angle_deg for pair in pairs]) + _rank([pair.baseline for pair in pairs])
    order = np.lexsort((np.arange(len(pairs)), rank))
    count = min(limits.count, len(pairs))
    return [pairs[order[i]] for i in np.linspace(0, len(pairs) - 1, count).round().astype(int)]


def same_place(
    poses: npt.ArrayLike, max_distance: float = 1.0, max_angle_deg: float = 30.0
) -> np.ndarray:
    """(N, N) bool: which images were taken at one place, looking the same way.

    Args:
        poses: (N, 4, 4) `T_world_camera`.
        max_distance: between the cameras, unit of the poses.
        max_angle_deg: rotation between the cameras.
    """
    poses = np.asarray(poses, np.float64)
    distance = np.linalg.norm(poses[:, None, :3, 3] - poses[None, :, :3, 3], axis=-1)
    return (distance <= max_distance) & (_angles_deg(poses) <= max_angle_deg)


def apart_in_time(count: int, gap: int) -> np.ndarray:
    """(N, N) bool: which of `count` images in order lie at least `gap` images apart."""
    index = np.arange(count)
    return np.abs(index[:, None] - index[None]) >= gap


# ------------------------------------------------------------------------------------ private


def _candidates(poses: np.ndarray, limits: PairLimits) -> list[ViewPair]:
    angles_deg = _angles_deg(poses)
    low, high = limits.gap
    pairs = []
    for i in range(len(poses)):
        for j in range(i + low, min(i + high, len(poses) - 1) + 1):
            baseline = float(np.linalg.norm(poses[i, :3, 3] - poses[j, :3, 3]))
            if limits.angle_deg[0] <= angles_deg[i, j] <= limits.angle_deg[1] and baseline > 0:
                pairs.append(ViewPair(i, j, float(angles_deg[i, j]), baseline))
    return pairs


def _angles_deg(poses: np.ndarray) -> np.ndarray:
    relative = np.einsum('iba,jbc->ijac', poses[:, :3, :3], poses[:, :3, :3])
    return np.degrees(se3.rotation_angle_rad(relative))


def _rank(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values, kind='stable'), kind='stable')
