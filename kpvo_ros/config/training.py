"""The parameters of a training run that every method shares.

A method adds records of its own (data, loss, network) beside this one; the defaults train the
small networks of this package from scratch on two CPU cores.
"""

from __future__ import annotations

import dataclasses

from kpvo_ros.config.schema import parameter


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the one training loop runs."""

    learning_rate: float = parameter(
        3e-3,
        'Step size at its peak; lower it to refine weights that are already good.',
        low=1e-7,
        high=1.0,
    )
    final_rate_share: float = parameter(
        0.01, 'Share of the learning rate that is left at the end.', low=0.0, high=1.0
    )
    warmup_steps: int = parameter(
        100, 'Steps in which the rate rises from nothing; more for fragile starts.', low=0
    )
    weight_decay: float = parameter(
        0.01,
        'Pull of weight matrices towards zero; raise it when few photos are learned by heart.',
        low=0.0,
        high=1.0,
    )
    clip_norm: float = parameter(
        1.0, 'Longest gradient that is followed at its full length.', low=1e-6, high=1e6
    )
    ema_decay: float = parameter(
        0.998,
        'Memory of the averaged weights, which are what is validated and shipped; raise it for '
        'runs of many hours.',
        low=0.0,
        high=0.999999,
    )
    precision: str = parameter(
        'auto',
        'auto takes bfloat16 where the device computes faster with it; float32 to compare.',
        choices=('auto', 'float32', 'bfloat16'),
    )
    channels_last: bool = parameter(
        True, 'Memory layout of images; false only to search for a fault.'
    )
    max_skipped: int = parameter(
        20, 'Steps in a row without a finite gradient after which the run gives up.', low=1
    )
    validations: int = parameter(
        12, 'How often the held-out data are looked at in a run.', low=1, high=10000
    )
    log_every_steps: int = parameter(20, 'Steps between two lines of metrics.jsonl.', low=1)
    checkpoint_every_s: float = parameter(
        60.0, 'Most seconds of work that a power cut may cost.', low=0.0
    )
    seed: int = parameter(
        0, 'Other numbers give other draws of data and initial weights.', low=0, high=2**31 - 1
    )
