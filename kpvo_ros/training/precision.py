"""The precision in which a step computes."""

from __future__ import annotations

import torch

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.nets.precision import profits_from_bfloat16


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """The context of a forward pass."""
    wanted = config.precision == 'bfloat16'
    if config.precision == 'auto':
        wanted = profits_from_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)
