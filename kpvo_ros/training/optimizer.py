"""AdamW with groups by shape, the average of the weights, and both as plain tensors.

Matrices and kernels decay; biases, norms and scales (one dimension or none) do not.
"""

from __future__ import annotations

from collections.abc import Mapping
import copy

import torch
from torch import Tensor, nn

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.training import TrainingError


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019) over all trainable parameters of a network."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {'params': [p for p in trained if p.ndim >= 2], 'weight_decay': config.weight_decay},
        {'params': [p for p in trained if p.ndim < 2], 'weight_decay': 0.0},
    ]
    groups = [group for group in groups if group['params']]
    if not groups:
        raise TrainingError('the network has no parameter that could be trained')
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups one learning rate."""
    for group in optimizer.param_groups:
        group['lr'] = rate


def optimizer_tensors(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimizer's memory as {parameter name/state name: tensor}; empty before a step."""
    flat = {}
    for name, parameter in network.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            flat[f'{name}/{key}'] = torch.as_tensor(value)
    return flat


def restore_optimizer(
    optimizer: torch.optim.Optimizer, network: nn.Module, flat: Mapping[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`.

    Raises:
        TrainingError: the tensors belong to another network.
    """
    parameters = dict(network.named_parameters())
    states: dict[str, dict[str, Tensor]] = {}
    for name, value in flat.items():
        owner, _, key = name.rpartition('/')
        if owner not in parameters:
            raise TrainingError(f'the checkpoint trains {owner!r}, which this network lacks')
        if value.ndim and value.shape != parameters[owner].shape:
            raise TrainingError(
                f'the checkpoint has {tuple(value.shape)} for {owner!r}, the network '
                f'{tuple(parameters[owner].shape)}; resume with the configuration it began with'
            )
        # AdamW counts steps on the CPU and keeps moments where the parameter is.
        place = parameters[owner].device if value.ndim else torch.device('cpu')
        states.setdefault(owner, {})[key] = value.to(place, copy=True)
    for owner, state in states.items():
        optimizer.state[parameters[owner]] = state


class AveragedWeights:
    """An exponential moving average of a network's weights and buffers.

    Attributes:
        network: a copy of the trained network that holds the averages; in eval mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take the weights after step number `step` (from 0) in; early steps are forgotten."""
        decay = min(self._decay, (1 + step) / (10 + step))
        new = network.state_dict()
        averages, values = [], []
        for name, average in self.network.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                values.append(new[name].to(average))
            else:
                average.copy_(new[name])
        torch._foreach_lerp_(averages, values, 1.0 - decay)
