"""Noise to textures in a few steps along the learned flow."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.diffusion import DiffusionNet
from kpvo_ros.nets.precision import profits_from_bfloat16

STEPS = 10  # the network is looked at 19 times
_LAST = 0.1  # time of the last step: from here on only noise is taken away, in one go
_SPREAD = 0.15  # by which a condition may differ from that of a training picture


@torch.inference_mode()
def sample_textures(
    network: DiffusionNet,
    count: int,
    size_px: int,
    generator: torch.Generator,
    *,
    steps: int = STEPS,
    conditions: Tensor | None = None,
) -> Tensor:
    """Make textures that tile.

    Heun's method from noise to picture; each step but the last looks at the network twice.

    Args:
        network: trained.
        count: B.
        size_px: side S, a multiple of 8; also other sizes than that of the training pictures.
        generator: source of the noise, and of the conditions when none are given.
        steps: of the integration.
        conditions: (B, 7) what they shall be like, see `statistics.measure`; by default like
            training pictures.

    Returns:
        (B, 3, S, S) float32 RGB 0..1 on the network's device.

    Raises:
        NetworkError: count or steps are not positive, or sizes do not fit.
    """
    if count < 1 or steps < 1:
        raise NetworkError(f'{count} textures in {steps} steps: both must be at least 1')
    device = network.examples.device
    if conditions is None:
        conditions = draw_conditions(network, count, generator)
    conditions = conditions.to(device)
    field = network.tileable()
    shape = (count, 3, size_px, size_px)
    state = torch.randn(shape, generator=generator, device=generator.device).to(device)
    times = [*torch.linspace(1.0, _LAST, steps).tolist(), 0.0]
    for time, following in itertools.pairwise(times):
        velocity = _velocity(field, state, time, conditions)
        ahead = state + (following - time) * velocity
        if following > 0.0:
            mean = 0.5 * (velocity + _velocity(field, ahead, following, conditions))
            ahead = state + (following - time) * mean
        state = ahead
    return (0.5 + 0.5 * state).clamp(0.0, 1.0)


def draw_conditions(network: DiffusionNet, count: int, generator: torch.Generator) -> Tensor:
    """(B, 7) near those of training pictures, on the CPU or where the generator is."""
    place = generator.device
    known = network.examples.to(place)
    row = torch.randint(len(known), (count,), generator=generator, device=place)
    change = torch.randn(count, known.shape[1], generator=generator, device=place)
    return known[row] + _SPREAD * known.std(dim=0) * change


def _velocity(field: DiffusionNet, state: Tensor, time: float, conditions: Tensor) -> Tensor:
    moments = torch.full((len(state),), time, device=state.device)
    coarse = profits_from_bfloat16(state.device)
    with torch.autocast(state.device.type, torch.bfloat16, enabled=coarse):
        return field(state, moments, conditions).float()
