"""Tensors by name out of files that others publish: .safetensors, and .pth without its code.

A .pth file is a zip archive of a pickle and raw numbers. It is read by torch's restricted
unpickler, which knows tensors and plain containers and refuses everything else, so that nothing
of the file is executed. Sizes are bounded before anything is read; shapes are for the caller to
check before he computes with the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
import io
from pathlib import Path
from typing import Any
import zipfile

from safetensors import SafetensorError
import safetensors.torch
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.checkpoint import MAX_BYTES

SUFFIXES = ('.safetensors', '.pth', '.pt')

_SAFE_TORCH = '2.6'  # before it the restricted unpickler had a hole (CVE-2025-32434)
_MAX_TENSORS = 10_000
_WRAPPERS = ('model', 'state_dict')  # names under which training loops keep the tensors


def read_public_state(path: Path | str, *, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """The tensors of a public weights file, on the CPU, as they stand there.

    Args:
        path: of the file.
        max_bytes: of a larger one nothing is read.

    Raises:
        NetworkError: unreadable, too large, damaged, with anything but tensors and plain values
            inside, or without tensors.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise NetworkError(f'{path} is no {", ".join(SUFFIXES)}; give a file of weights')
    data = _bounded(path, max_bytes)
    content = _safetensors(path, data) if path.suffix == SUFFIXES[0] else _pth(path, data)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not 0 < len(content) <= _MAX_TENSORS:
        raise NetworkError(f'{path} has no tensors by name; give a file of weights')
    for name, value in content.items():
        if not isinstance(name, str) or not _is_plain(value):
            raise NetworkError(
                f'{path} has {ascii(name)[:80]}, which is no tensor; give a file of weights alone'
            )
    return dict(content)


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor with all its numbers in memory."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided
    return plain and value.device.type == 'cpu' and not value.is_quantized


def _bounded(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open('rb') as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise NetworkError(
            f'{path} cannot be read ({error.strerror}); give the path of a file'
        ) from None
    if len(data) > max_bytes:
        raise NetworkError(
            f'{path} has more than {max_bytes >> 20} MiB; give a file of weights alone'
        )
    return data


def _safetensors(path: Path, data: bytes) -> Any:
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError):
        raise NetworkError(f'{path} is damaged or no safetensors; fetch it again') from None


def _pth(path: Path, data: bytes) -> Any:
    """What torch's restricted unpickler makes of an archive."""
    if torch.__version__ < _SAFE_TORCH:  # it compares as versions, not as text
        raise NetworkError(
            f'torch {torch.__version__} reads .pth files unsafely; install torch 2.6 or later, or '
            'give a .safetensors file'
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            packed = any(entry.compress_type for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        packed = True
    if packed:  # torch.save does not compress; what unpacks to more than it shows is refused
        raise NetworkError(
            f'{path} is damaged or not written by torch.save of 2020 or later; fetch it again, or '
            'give a .safetensors file'
        )
    try:
        return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except Exception:  # whatever a stranger's file provokes
        raise NetworkError(
            f'{path} is damaged or has more than tensors inside, which is not executed; give a '
            'file of weights alone'
        ) from None
