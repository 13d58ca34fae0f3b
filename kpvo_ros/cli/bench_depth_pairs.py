"""kpvo bench depth: pairs of images whose truth is known, and what is said about them."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kpvo_ros.evaluation.depth import DepthErrors, depth_errors, pair_pose_errors
from kpvo_ros.frontend.gray import to_gray
from kpvo_ros.odometry.direct_alignment import align

if TYPE_CHECKING:
    from kpvo_ros.nets.depth_vo import DepthVoNet

SIZE = (256, 192)  # of the pictures that the networks see
YARDSTICK = 'one depth, no motion'  # name of `flat_answers`
_BATCH = 8  # pairs
_FLAT_SIGMA = 0.5  # of a depth that is the same everywhere


@dataclasses.dataclass(frozen=True, eq=False)
class PairSet:
    """P pairs of images of one camera.

    Attributes:
        group: where they were taken, for tables.
        image0: (P, H, W, 3) uint8 RGB.
        image1: (P, H, W, 3) the other view.
        depth0: (P, H, W) true metres, NaN where unknown.
        depth1: (P, H, W) of the other view.
        K: (3, 3) pinhole matrix.
        T_1_0: (P, 4, 4) true pose of camera 0 in camera 1, metres.
    """

    group: str
    image0: np.ndarray
    image1: np.ndarray
    depth0: np.ndarray
    depth1: np.ndarray
    K: np.ndarray
    T_1_0: np.ndarray

    def __len__(self) -> int:
        return len(self.T_1_0)


class Answers(NamedTuple):
    """What is said about the pairs of a `PairSet`.

    Attributes:
        depth0: (P, H, W) metres.
        depth1: (P, H, W) of the other view.
        sigma0: (P, H, W) standard deviation of the logarithm of `depth0`.
        T_1_0: (P, 4, 4).
    """

    depth0: np.ndarray
    depth1: np.ndarray
    sigma0: np.ndarray
    T_1_0: np.ndarray


class Scores(NamedTuple):
    """Errors of depth images and of motions, image by image and pair by pair.

    Attributes:
        depths: of every image with known depth.
        rotation_deg: (P,) see `PairPoseErrors`.
        translation_share: (P,).
        direction_deg: (P,).
    """

    depths: list[DepthErrors]
    rotation_deg: np.ndarray
    translation_share: np.ndarray
    direction_deg: np.ndarray

    def numbers(self) -> dict[str, float | int | None]:
        """Means over images, medians over pairs; None where nothing is known."""
        found: dict[str, float | int | None] = {'pairs': len(self.rotation_deg)}
        for name in ('acc_125', 'acc_125_2', 'acc_125_3', 'abs_rel', 'rmse_m'):
            found[name] = _figure(np.mean, [getattr(one, name) for one in self.depths])
        found['scale'] = _figure(np.median, [one.scale for one in self.depths])
        found['rotation_deg'] = _figure(np.median, self.rotation_deg)
        found['step_percent'] = _figure(np.median, 100.0 * self.translation_share)
        found['direction_deg'] = _figure(np.median, self.direction_deg)
        return found


def answer(network: DepthVoNet, pairs: PairSet) -> Answers:
    """Ask a network."""
    import torch

    def tensor(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255.0

    parts = []
    with torch.inference_mode():
        for start in range(0, len(pairs), _BATCH):
            rows = slice(start, start + _BATCH)
            image0, image1 = tensor(pairs.image0[rows]), tensor(pairs.image1[rows])
            K = torch.tensor(pairs.K, dtype=torch.float32).expand(len(image0), 3, 3)
            said = network(image0, image1, K)
            maps = (said.depth0, said.depth1, said.log_sigma0.exp())
            parts.append([*(one[:, 0].numpy() for one in maps), said.T_1_0.double().numpy()])
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def flat_answers(pairs: PairSet) -> Answers:
    """What can be said without looking: one depth everywhere, the true median, and no motion."""

    def flat(depth: np.ndarray) -> np.ndarray:
        median = np.array([np.nanmedian(one) if np.isfinite(one).any() else 1.0 for one in depth])
        return np.broadcast_to(median[:, None, None], depth.shape)

    depth0, depth1 = flat(pairs.depth0), flat(pairs.depth1)
    sigma0 = np.full(depth0.shape, _FLAT_SIGMA)
    return Answers(depth0, depth1, sigma0, np.tile(np.eye(4), (len(pairs), 1, 1)))


def refined(pairs: PairSet, answers: Answers) -> Answers:
    """The same depth, and each motion aligned by the grey values at that depth."""
    motions = [
        align(
            to_gray(pairs.image0[i]),
            answers.depth0[i],
            to_gray(pairs.image1[i]),
            pairs.K,
            answers.T_1_0[i],
            depth_sigma=answers.sigma0[i],
        ).T_1_0
        for i in range(len(pairs))
    ]
    return answers._replace(T_1_0=np.stack(motions) if motions else answers.T_1_0)


def score(pairs: PairSet, answers: Answers, *, last_only: bool, median_scaled: bool) -> Scores:
    """Compare with the truth.

    Args:
        pairs: with the truth.
        answers: about them.
        last_only: leave the depth of image 0 out, which is image 1 of another pair.
        median_scaled: as for `evaluation.depth_errors`.
    """
    both = [(answers.depth1, pairs.depth1)]
    both += [] if last_only else [(answers.depth0, pairs.depth0)]
    depths = [
        depth_errors(depth, truth, median_scaled=median_scaled)
        for side in both
        for depth, truth in zip(*side, strict=True)
    ]
    moved = pair_pose_errors(answers.T_1_0, pairs.T_1_0)
    return Scores([one for one in depths if one.pixels], *moved)


def pooled(scores: list[Scores]) -> Scores:
    """All images and pairs of several sets, at least one, as one."""
    depths = [one for part in scores for one in part.depths]
    return Scores(depths, *(np.concatenate(c) for c in zip(*(s[1:] for s in scores), strict=True)))


# ------------------------------------------------------------------------------------ private


def _figure(kind: Callable[[np.ndarray], Any], values: Any) -> float | None:
    """Mean or median of the finite ones, None of none."""
    numbers = np.asarray(values, np.float64)
    finite = numbers[np.isfinite(numbers)]
    return float(kind(finite)) if len(finite) else None
