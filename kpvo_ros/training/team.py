"""The processes that train together: one alone, or those that torchrun started.

Gradients are averaged by hand after the backward pass. So a task may call its network as often
and in whichever order it likes, which the wrapper of torch does not allow, and a network of under
a million parameters needs no overlap of sending and computing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Protocol

import torch
from torch import Tensor, nn
import torch.distributed as dist

from kpvo_ros.training import TrainingError

_PATIENCE = timedelta(minutes=30)  # the others wait while rank 0 validates


class Team(Protocol):
    """What the loop asks of the processes it runs in.

    Attributes:
        rank: number of this process; only number 0 writes.
        size: how many there are.
    """

    rank: int
    size: int

    def decide(self, values: list[float]) -> list[float]:
        """What rank 0 passes, at every rank, so that all take the same turn."""
        ...

    def share_weights(self, network: nn.Module) -> None:
        """All networks become that of rank 0."""
        ...

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in place."""
        ...

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all ranks in order, on the CPU."""
        ...

    def close(self) -> None:
        """Part."""
        ...


class Alone:
    """A team of one."""

    rank = 0
    size = 1

    def decide(self, values: list[float]) -> list[float]:
        """See `Team`."""
        return values

    def share_weights(self, network: nn.Module) -> None:
        """See `Team`."""

    def average(self, tensors: Iterable[Tensor]) -> None:
        """See `Team`."""

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """See `Team`."""
        return [tensor.detach().cpu()]

    def close(self) -> None:
        """See `Team`."""


class Torchrun:
    """The processes of one `torchrun` call.

    Args:
        device: where this process computes; a GPU speaks NCCL, a CPU gloo.
    """

    def __init__(self, device: torch.device) -> None:
        backend = 'nccl' if device.type == 'cuda' else 'gloo'
        dist.init_process_group(backend, timeout=_PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._device = device

    def decide(self, values: list[float]) -> list[float]:
        """See `Team`."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        dist.broadcast(tensor, 0)
        return tensor.tolist()

    def share_weights(self, network: nn.Module) -> None:
        """See `Team`."""
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, 0)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """See `Team`."""
        kept = list(tensors)
        flat = torch.cat([tensor.detach().float().reshape(-1) for tensor in kept])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for tensor in kept:
            part = flat[start : start + tensor.numel()]
            tensor.detach().copy_(part.view(tensor.shape))
            start += tensor.numel()

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """See `Team`."""
        here = tensor.detach().to(self._device)
        gathered = [torch.empty_like(here) for _ in range(self.size)]
        dist.all_gather(gathered, here)
        return [part.cpu() for part in gathered]

    def close(self) -> None:
        """See `Team`."""
        dist.destroy_process_group()


def join_team(device: torch.device, environment: Mapping[str, str]) -> Team:
    """The team this process belongs to, by the variables that torchrun sets.

    Raises:
        TrainingError: WORLD_SIZE is no number, or torch cannot reach the others.
    """
    text = environment.get('WORLD_SIZE', '1')
    if not text.isdigit() or int(text) < 1:
        raise TrainingError(f'WORLD_SIZE={text!r} is no number of processes; start with torchrun')
    if int(text) == 1:
        return Alone()
    try:
        return Torchrun(device)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f'cannot join {text} processes ({reason}); start with torchrun') from (
            None
        )
