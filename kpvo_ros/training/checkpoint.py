"""The state of an interrupted run: one safetensors file, with the plain numbers in its header.

One file, written beside its place and then renamed, so a power cut leaves the old state or the
new one and never halves that do not fit. Nothing in it can run code.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kpvo_ros.training import TrainingError

_FACTS = 'facts'
_KIND = 'kpvo_training_state'


def save_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-able facts, replacing an earlier state at once.

    Raises:
        TrainingError: the file cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {'kind': _KIND, _FACTS: json.dumps(dict(facts))}
    beside = path.with_name(f'.{path.name}.part')
    try:
        save_file(plain, beside, header)
        with beside.open('rb') as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise TrainingError(
            f'{path}: cannot be written ({error}); free the disk, then go on with --resume'
        ) from None


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and facts of `save_state`.

    Raises:
        TrainingError: there is no such file, or it is no state of a training run.
    """
    if not path.is_file():
        raise TrainingError(f'{path}: there is no run to go on with; start without --resume')
    try:
        with safe_open(path, framework='pt') as file:
            header = file.metadata() or {}
            if header.get('kind') != _KIND:
                raise TrainingError(f'{path}: is not the state of a training run; give its folder')
            facts = json.loads(header[_FACTS])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f'{path}: damaged ({error}); start anew without --resume') from None


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def below_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `with_prefix`: those that carry the prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
