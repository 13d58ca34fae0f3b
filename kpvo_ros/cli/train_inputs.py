"""What `kpvo train` hands to the maker of any task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kpvo_ros.config.training import TrainingConfig

if TYPE_CHECKING:
    import torch

    from kpvo_ros.bags.photos import Photos
    from kpvo_ros.training.task import Task


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything a task is made of besides its configuration.

    Attributes:
        data: folders of photos, videos, bags.
        bank: folder for rendered things, which other runs may share.
        init: weights to begin with, None for random ones.
        device: where to train.
        notes: what a weights file shall say about its origin.
        say: shows a line.
    """

    data: Sequence[Path]
    bank: Path
    init: Path | None
    device: torch.device
    notes: dict[str, str]
    say: Callable[[str], None]


class AnyConfig(Protocol):
    """A task's record of parameters; the loop reads one section of it."""

    @property
    def training(self) -> TrainingConfig:
        """Parameters of the loop."""
        ...


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """One row of the table of tasks.

    Attributes:
        config: the parameters with their defaults.
        make: makes the task.
        needs_data: whether it cannot do without recordings or photos.
    """

    config: AnyConfig
    make: Callable[[Any, Inputs], Task]
    needs_data: bool = True


def read_photos(inputs: Inputs, short_side_px: int, most: int, held_out: float) -> Photos:
    """The photos of `inputs.data`, with one line on what was found."""
    from kpvo_ros.bags.photos import load_photos

    photos = load_photos(inputs.data, short_side_px=short_side_px, most=most, held_out=held_out)
    inputs.say(photos.summary())
    return photos
