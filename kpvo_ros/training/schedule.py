"""How long a run is and how fast it learns: progress by steps or by time, warm-up, cosine."""

from __future__ import annotations

import dataclasses
import math

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.training import TrainingError


@dataclasses.dataclass(frozen=True)
class Plan:
    """The length of a run: exactly one of the two is set.

    Attributes:
        steps: optimizer steps.
        minutes: time of work, validation included, over all sittings of a resumed run.

    Raises:
        TrainingError: none or both are set, or one is not positive and finite.
    """

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.minutes) if value is not None]
        if len(given) != 1 or not 0 < given[0] < math.inf:
            raise TrainingError(
                f'a run has a positive number of steps or of minutes, got steps={self.steps} and '
                f'minutes={self.minutes}; give --minutes N or --steps N'
            )

    def progress(self, step: int, elapsed_s: float) -> float:
        """Share 0..1 of the run that lies behind, after `step` steps and `elapsed_s` seconds."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.minutes is not None
        return min(1.0, max(0.0, elapsed_s) / (60.0 * self.minutes))


def learning_rate(config: TrainingConfig, step: int, progress: float) -> float:
    """The rate of step number `step` (from 0): linear warm-up times half a cosine.

    Loshchilov and Hutter, "SGDR", 2017, without restarts.
    """
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    left = config.final_rate_share
    return config.learning_rate * warmup * (left + (1 - left) * _half_cosine(progress))


def _half_cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))
