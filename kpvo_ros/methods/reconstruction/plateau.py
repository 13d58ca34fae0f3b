"""When a training has got where it can get: threshold or plateau (seed 001 [0048], claim 17)."""

from __future__ import annotations

import dataclasses

from kpvo_ros.config.schema import parameter


@dataclasses.dataclass(frozen=True)
class StopConfig:
    """What ends a run before its time; both look at the loss of the held-out rebuilt images."""

    below: float = parameter(
        0.0, 'End when the loss falls below this; 0 never does.', low=0.0, high=1.0
    )
    patience: int = parameter(
        0,
        'End after so many validations without a gain; 0 never does, as the learning rate of a '
        'run falls to its planned end.',
        low=0,
        high=10000,
    )
    gain: float = parameter(
        0.002, 'Smallest relative fall of the loss that counts.', low=0.0, high=1.0
    )


class Plateau:
    """Watches a loss, one value at a time.

    Args:
        config: when to end.

    Attributes:
        reached: whether to end.
    """

    def __init__(self, config: StopConfig) -> None:
        self.reached = False
        self._config = config
        self._best = float('inf')
        self._without_gain = 0

    def see(self, loss: float) -> None:
        """Take a validation's value in."""
        if loss < self._best * (1.0 - self._config.gain):
            self._best, self._without_gain = loss, 0
        else:
            self._without_gain += 1
        is_flat = 0 < self._config.patience <= self._without_gain
        self.reached = self.reached or is_flat or loss < self._config.below
