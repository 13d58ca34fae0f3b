"""Weights files: safetensors with a word about what is inside, read as if a stranger wrote them.

Next to the tensors a file carries one JSON text: the kind of network, its configuration, and
notes. Nothing in it is executed, sizes are bounded before anything is allocated, and what is
loaded is the very bytes that were hashed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import json
from pathlib import Path
import struct
from typing import Any, TypeVar

from safetensors import SafetensorError
import safetensors.torch
import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError

MAX_BYTES = 1 << 30
_MAX_HEADER_BYTES = 1 << 20
_MAX_SIZE = 4096  # of any number in a configuration: channels, layers
_KEY = 'kpvo'  # one key only: safetensors writes several in an order that changes
_OWN = ('kind', 'config')

Record = TypeVar('Record')
Network = TypeVar('Network', bound=nn.Module)


def save_weights(
    path: Path | str, module: nn.Module, *, kind: str, config: Any, notes: Mapping[str, str]
) -> str:
    """Write a network's parameters and buffers; the file appears whole or not at all.

    The same weights and words give the same bytes.

    Args:
        path: of the file; replaced when it exists.
        module: the network.
        kind: what it is, e.g. 'keypoint'; `load_weights` must ask for the same.
        config: the dataclass it was built with.
        notes: what a reader may want to know, e.g. the command that made it.

    Returns:
        the file's SHA-256, hexadecimal.

    Raises:
        NetworkError: a weight is not finite, a note has a reserved name, or the disk refuses.
    """
    path = Path(path)
    if reserved := sorted(set(notes) & set(_OWN)):
        raise NetworkError(f'the note {reserved[0]!r} has a reserved name; give it another')
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()
    }
    _check_finite(state, path)
    words = {**notes, 'kind': kind, 'config': json.dumps(dataclasses.asdict(config))}
    data = safetensors.torch.save(state, {_KEY: json.dumps(words, sort_keys=True)})
    partial = path.with_name(path.name + '.part')
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise NetworkError(
            f'weights {path} cannot be written ({error.strerror}); choose another place'
        ) from None
    return hashlib.sha256(data).hexdigest()


def load_weights(
    path: Path | str, *, kind: str, sha256: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a weights file.

    Args:
        path: of the file.
        kind: what it must be.
        sha256: what it must hash to, hexadecimal; None takes any.

    Returns:
        the tensors by name, on the CPU, and the words: 'kind', 'config' (JSON) and the notes.

    Raises:
        NetworkError: unreadable, another hash or kind, not a weights file, or not finite.
    """
    path = Path(path)
    data = _read(path)
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise NetworkError(
            f'weights {path} have SHA-256 {found[:12]}..., expected {sha256[:12].lower()}...; the '
            'file is damaged or another one: fetch it again'
        )
    words = _read_words(path, data)
    if words['kind'] != kind:
        raise NetworkError(
            f'weights {path} are of kind {words["kind"][:40]!r}, needed is {kind!r}; give another '
            'file'
        )
    try:
        state = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError):
        raise NetworkError(f'weights {path} are damaged; fetch the file again') from None
    _check_finite(state, path)
    return state, words


def load_network(
    path: Path | str,
    kind: str,
    defaults: Record,
    make: Callable[[Record], Network],
    sha256: str | None = None,
) -> Network:
    """The network of a weights file, on the CPU, in evaluation mode.

    Args:
        path: of the file.
        kind: what it must be.
        defaults: a configuration record of the network, see `read_config`.
        make: builds the network of a configuration.
        sha256: what the file must hash to, hexadecimal; None takes any.

    Raises:
        NetworkError: the file is not that of such a network, whole and finite.
    """
    state, words = load_weights(path, kind=kind, sha256=sha256)
    config = read_config(words, defaults)
    with torch.device('meta'):  # nothing is drawn, and nothing allocated before it is checked
        network = make(config)
    fill(network, state)
    return network.eval()


def read_kind(path: Path | str) -> str:
    """What a weights file says it is, e.g. 'keypoint'; its tensors are not looked at.

    Raises:
        NetworkError: unreadable, or not a weights file.
    """
    path = Path(path)
    return _read_words(path, _read(path))['kind']


def read_config(words: Mapping[str, str], defaults: Record) -> Record:
    """The configuration record that a weights file carries.

    Args:
        words: second result of `load_weights`.
        defaults: a record of the wanted type; its values tell types and lengths.

    Raises:
        NetworkError: unknown or missing names, or values no network has.
    """
    try:
        values = json.loads(words['config'])
    except (ValueError, RecursionError):
        values = None
    fields = {f.name: getattr(defaults, f.name) for f in dataclasses.fields(defaults)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or set(values) != set(fields):
        raise NetworkError(
            f'the weights carry the configuration {words["config"][:80]!r}, needed are '
            f'{", ".join(fields)}; they belong to another version'
        )
    checked = {name: _like(fields[name], value, name) for name, value in values.items()}
    return dataclasses.replace(defaults, **checked)  # type: ignore[type-var]


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network exactly these parameters and buffers; it may live on the meta device.

    Raises:
        NetworkError: a tensor is missing, unknown, or of another shape or type.
    """
    needed = module.state_dict()
    for name in sorted(needed.keys() | state.keys()):
        if name not in state:
            raise NetworkError(f'the weights lack {name!r}; they belong to another network')
        if name not in needed:
            raise NetworkError(f'the weights have an unknown {name[:80]!r}; wrong network')
        if (state[name].shape, state[name].dtype) != (needed[name].shape, needed[name].dtype):
            raise NetworkError(
                f'weight {name!r} is {tuple(state[name].shape)} {state[name].dtype}, needed is '
                f'{tuple(needed[name].shape)} {needed[name].dtype}; wrong network'
            )
    module.load_state_dict(state, strict=True, assign=True)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise NetworkError(f'weights {path} are {size} bytes, too many to be ours')
        return path.read_bytes()
    except OSError as error:
        raise NetworkError(
            f'weights {path} cannot be read ({error.strerror}); give the path of a .safetensors '
            'file'
        ) from None


def _read_words(path: Path, data: bytes) -> dict[str, str]:
    """The JSON text of the header: {name: text} with 'kind' and 'config'."""
    try:
        (length,) = struct.unpack_from('<Q', data)
        if length > _MAX_HEADER_BYTES:
            raise ValueError
        words = json.loads(json.loads(data[8 : 8 + length])['__metadata__'][_KEY])
        if not all(isinstance(words[name], str) for name in _OWN):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError, struct.error):
        raise NetworkError(
            f'{path} is not a weights file of this package; give one that kpvo train wrote'
        ) from None
    return {str(name): str(value) for name, value in words.items()}


def _check_finite(state: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NetworkError(f'weight {name[:80]!r} of {path} is not finite; do not use it')


def _like(default: Any, value: Any, name: str) -> Any:
    """`value` when it has type and length of `default`, lists as tuples."""
    if isinstance(default, tuple) and isinstance(value, list) and len(value) == len(default):
        return tuple(_like(d, v, name) for d, v in zip(default, value, strict=True))
    if type(value) is type(default) and isinstance(value, int) and 1 <= value <= _MAX_SIZE:
        return value
    raise NetworkError(f'the weights carry {name} = {str(value)[:40]}; no network has that')
