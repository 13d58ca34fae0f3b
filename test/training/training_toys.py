"""A task small enough to follow by hand, and a clock that goes as told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
import torch
from torch import Tensor, nn

from kpvo_ros.training.task import Loss

TRUTH = torch.tensor([[2.0, -1.0, 0.5]])


class LineTask:
    """Learns the weights of a noise-free linear map; the answer is `TRUTH`."""

    name = 'line'

    def __init__(self, poison_steps: tuple[int, ...] = ()) -> None:
        self.network = nn.Linear(3, 1)
        with torch.no_grad():
            self.network.weight.fill_(0.1)
            self.network.bias.fill_(0.3)  # type: ignore[union-attr]
        self.batches: list[Tensor] = []
        self._poison_steps = poison_steps

    def batch(self, generator: torch.Generator) -> Any:
        x = torch.randn((16, 3), generator=generator)
        self.batches.append(x)
        return x, len(self.batches) - 1

    def loss(self, batch: Any, progress: float) -> Loss:
        x, number = batch
        error = self.network(x) - x @ TRUTH.T
        total = (error**2).mean()
        if number in self._poison_steps:
            total = total * float('nan')
        return Loss(total, {'square': total.detach(), 'progress': torch.tensor(progress)})

    def validate(self, network: nn.Module) -> dict[str, float]:
        distance = (network.weight - TRUTH).norm()  # type: ignore[operator]
        return {'closeness': -float(distance)}

    def export(self, network: nn.Module, path: Path) -> None:
        save_file({'weight': network.weight.detach()}, path)  # type: ignore[dict-item]


class StepClock:
    """Every look at it costs `tick_s` seconds."""

    def __init__(self, tick_s: float) -> None:
        self.now_s, self._tick_s = 100.0, tick_s

    def __call__(self) -> float:
        self.now_s += self._tick_s
        return self.now_s
