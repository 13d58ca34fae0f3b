"""Depth and motion learn from a truth: rendered worlds, depth cameras, surveyed paths.

Depth is compared in its logarithm, where a tenth too far costs the same near and far (seed 004
[0127]); the network also says how sure it is and pays for both doubt and surprise (Kendall and
Gal, "What uncertainties do we need", 2017). Motion is compared in rotation and translation (seed
004 [0121], eq. 6), each as a length and not as a square: between two frames of a video both are
small, and squares of small errors teach nothing. A translation counts by its share of the step, as
a room is crossed in centimetres and a street in metres.

Float32 throughout: leave autocast before.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from kpvo_ros.config.schema import parameter
from kpvo_ros.errors import GeometryError
from kpvo_ros.losses import weighted_mean
from kpvo_ros.training.task import Loss

_TIP_RAD = 1e-3  # rounds the tip of an angle; a twentieth of a degree is good enough
_TIP_M = 1e-3  # the same for translations


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Weights and sizes of the losses against a truth."""

    depth_weight: float = parameter(1.0, 'Weight of the depth and its doubt.', low=0.0)
    rotation_weight: float = parameter(
        10.0, 'Weight of the rotation error, a radian; raise it for turning robots.', low=0.0
    )
    translation_weight: float = parameter(
        2.0, 'Weight of the translation error, as a share of the step.', low=0.0
    )
    still_m: float = parameter(
        0.05,
        'Length added to every step before errors are divided by it; shorter steps hardly count '
        'as steps. Raise it for fast vehicles.',
        low=1e-3,
        high=100.0,
    )
    depth_error: str = parameter(
        'laplace',
        'How errors of depth are spread; gauss trusts every pixel, laplace forgives edges.',
        choices=('laplace', 'gauss'),
    )
    depth_noise: float = parameter(
        0.01,
        'Relative noise of the true depths; the network is not asked to be better. Raise it for '
        'depth cameras.',
        low=1e-4,
        high=1.0,
    )


def supervised_loss(
    depth: Tensor,
    log_sigma: Tensor,
    T_1_0: Tensor,
    true_depth: Tensor,
    true_T_1_0: Tensor,
    config: SupervisedConfig = SupervisedConfig(),
) -> Loss:
    """The loss of depths and motions whose truth is known, at least in places.

    Args:
        depth: (B, 1, H, W) metres, positive everywhere.
        log_sigma: (B, 1, H, W) logarithm of the doubt, see `depth_loss`.
        T_1_0: (P, 4, 4) predicted motions; their number is free.
        true_depth: (B, 1, H, W) metres; zero, negative or NaN is unknown.
        true_T_1_0: (P, 4, 4); NaN is unknown.
        config: weights.

    Returns:
        Total, and the parts `depth`, `rotation`, `translation`, before their weights, with
        `depth_log_error`, the mean absolute error of the logarithm, and the mean errors
        `rotation_deg` and `translation_m`.

    Raises:
        GeometryError: the shapes do not fit.
    """
    likely = depth_loss(depth, log_sigma, true_depth, config.depth_error, config.depth_noise)
    errors = motion_errors(T_1_0, true_T_1_0)
    rotation = weighted_mean(_length(errors.chord2, _TIP_RAD), errors.known)
    step_m = torch.nan_to_num(true_T_1_0[:, :3, 3]).norm(dim=1) + config.still_m
    translation = weighted_mean(_length(errors.distance2, _TIP_M) / step_m, errors.known)
    total = (
        config.depth_weight * likely
        + config.rotation_weight * rotation
        + config.translation_weight * translation
    )
    residual, seen = _log_residual(depth.detach(), true_depth)
    angle = 2.0 * torch.asin((0.5 * errors.chord2.detach().sqrt()).clamp(max=1.0))
    told = {
        'depth': likely.detach(),
        'rotation': rotation.detach(),
        'translation': translation.detach(),
        'depth_log_error': weighted_mean(residual.abs(), seen),
        'rotation_deg': weighted_mean(torch.rad2deg(angle), errors.known),
        'translation_m': weighted_mean(errors.distance2.detach().sqrt(), errors.known),
    }
    return Loss(total, told)


def depth_loss(
    depth: Tensor, log_sigma: Tensor, true_depth: Tensor, error: str, noise: float
) -> Tensor:
    """Negative log likelihood of the logarithm of true depths.

    Args:
        depth: (B, 1, H, W) metres, positive everywhere.
        log_sigma: (B, 1, H, W) logarithm of the standard deviation of the logarithm: with
            sigma = 0.1 the depth is right to about a tenth.
        true_depth: (B, 1, H, W) metres; zero, negative or NaN is unknown.
        error: 'laplace' or 'gauss'.
        noise: standard deviation of the logarithm of the truth, added to sigma as squares; so
            a perfect depth is not worth an infinite certainty.

    Returns:
        Mean over the known pixels, a scalar, 0 with a gradient path without any; negative where
        the network is right and sure.

    Raises:
        GeometryError: the shapes do not fit, or nobody knows such an error.
    """
    if depth.shape != true_depth.shape or log_sigma.shape != true_depth.shape:
        raise GeometryError(
            f'depth, doubt and truth of one shape expected, got {tuple(depth.shape)}, '
            f'{tuple(log_sigma.shape)}, {tuple(true_depth.shape)}: resize the truth without mixing'
        )
    residual, known = _log_residual(depth, true_depth)
    log_spread = 0.5 * torch.logaddexp(
        2.0 * log_sigma, torch.full_like(log_sigma, 2.0 * math.log(noise))
    )
    scaled = residual * torch.exp(-log_spread)
    if error == 'laplace':  # of mean deviation sigma / sqrt(2)
        cost = math.sqrt(2.0) * scaled.abs() + log_spread + 0.5 * math.log(2.0)
    elif error == 'gauss':
        cost = 0.5 * scaled.square() + log_spread + 0.5 * math.log(2.0 * math.pi)
    else:
        raise GeometryError(f"error {error!r} is unknown: choose 'laplace' or 'gauss'")
    return weighted_mean(cost, known)


class MotionErrors(NamedTuple):
    """What predicted motions are off, as squares, which have a slope everywhere.

    Attributes:
        chord2: (P,) (2 sin(angle / 2))^2, for small angles the square of the angle in rad; half
            of |R - R_true|^2 of seed 004 eq. 6.
        distance2: (P,) square of the distance of the translations in metres.
        known: (P,) 1 or 0.
    """

    chord2: Tensor
    distance2: Tensor
    known: Tensor


def motion_errors(T_1_0: Tensor, true_T_1_0: Tensor) -> MotionErrors:
    """Errors of rotations and translations (P, 4, 4) against a truth with NaN where unknown.

    Raises:
        GeometryError: the shapes do not fit.
    """
    if T_1_0.ndim != 3 or T_1_0.shape[1:] != (4, 4) or T_1_0.shape != true_T_1_0.shape:
        raise GeometryError(
            f'two (P, 4, 4) expected, got {tuple(T_1_0.shape)} and {tuple(true_T_1_0.shape)}'
        )
    known = torch.isfinite(true_T_1_0).flatten(1).all(dim=1)
    difference = torch.where(known[:, None, None], T_1_0 - true_T_1_0, 0.0)
    chord2 = 0.5 * difference[:, :3, :3].square().sum(dim=(1, 2))
    distance2 = difference[:, :3, 3].square().sum(dim=1)
    return MotionErrors(chord2, distance2, known.to(chord2.dtype))


def _length(square: Tensor, tip: float) -> Tensor:
    """The root with a round tip, 0 at 0."""
    return (square + tip**2).sqrt() - tip


def _log_residual(depth: Tensor, true_depth: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of predicted over true depth, and 1 where the truth is known, else 0."""
    known = torch.isfinite(true_depth) & (true_depth > 0)
    residual = depth.log() - torch.where(known, true_depth, 1.0).log()
    return residual, known.to(residual.dtype)
