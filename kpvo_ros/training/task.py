"""What a method brings to the loop: data, a loss, held-out metrics, and what is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class Loss(NamedTuple):
    """What one batch costs.

    Attributes:
        total: scalar with gradient.
        parts: scalars without gradient, by name; every one becomes a curve.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Task(Protocol):
    """One method's share of a training run.

    Attributes:
        name: one word, e.g. 'homography'.
        network: holds all trained parameters; its device is the task's device.
    """

    name: str
    network: nn.Module

    def batch(self, generator: torch.Generator) -> Any:
        """One batch on the task's device; all its randomness comes from `generator`."""
        ...

    def loss(self, batch: Any, progress: float) -> Loss:
        """The loss of `self.network` on a batch; `progress` goes from 0 to 1 over the run.

        It is called under autocast: leave it for arithmetic that needs float32.
        """
        ...

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Metrics on held-out data; the first decides which weights are best (higher wins)."""
        ...

    def export(self, network: nn.Module, path: Path) -> None:
        """Write what a user ships."""
        ...
