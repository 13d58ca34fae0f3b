"""Adapters: small branches beside the perceptrons of a trained network, the only part that learns.

    x -> down (width -> 16) -> ReLU -> up (16 -> width) -> * scale -> added to the perceptron's sum

AdaptFormer (Chen 2022; seed 004 [0188]-[0194], [0203]): the network is frozen, 1 to 3 % more
parameters are trained on the robot's own video, and only those are kept. `up` is zero at birth, so
that a network with fresh adapters is the network. They are known by the names of the perceptrons
they stand beside; their state fits any network of the same sizes, but is of use only with the
weights it was trained on, hence the file names them.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.attention import TokenMlp
from kpvo_ros.nets.checkpoint import load_weights, read_config, save_weights
from kpvo_ros.nets.layers import Linear

KIND = 'adapter'  # in weights files
_BASE = 'base_sha256'  # note in them


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Sizes of adapters.

    Attributes:
        width: hidden units; 16 or 32 are usual.
        scale_percent: of the answer before it is added, predetermined ([0192]).
    """

    width: int = 16
    scale_percent: int = 10


class Adapter(nn.Module):
    """One branch: down, ReLU, up, scale; answers zero until it is trained.

    Args:
        width: numbers per token.
        config: sizes.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(
        self, width: int, config: AdapterConfig, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.down = Linear(width, config.width, generator=generator)
        self.up = Linear(config.width, width, generator=generator)
        if not self.up.weight.is_meta:
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.up(F.relu(self.down(x))) * (self.config.scale_percent / 100.0)


# -- in a network -----------------------------------------------------------------------------


def insert_adapters(
    network: nn.Module,
    config: AdapterConfig = AdapterConfig(),
    *,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Put a fresh adapter beside every perceptron; the network's answers stay the same.

    Args:
        network: with blocks of `nets.attention`.
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.

    Returns:
        the names of the parameters that are to be trained.

    Raises:
        NetworkError: there are adapters already, or no perceptron to put one beside.
    """
    generator = generator or torch.Generator('cpu').manual_seed(0)
    if adapters(network):
        raise NetworkError('the network has adapters already; remove them first')
    places = _places(network).values()
    if not places:
        raise NetworkError('the network has no perceptron for an adapter; give one with blocks')
    for place in places:
        adapter = Adapter(place.width, config, generator=generator)
        # Same device and precision as its neighbour, and no other: the sum is made there.
        place.adapter = adapter.to(place.up.weight.device, place.up.weight.dtype)
        place.adapter.train(place.training)
    return adapter_parameter_names(network)


def remove_adapters(network: nn.Module) -> None:
    """Take all adapters away: the network is what it was before they came."""
    for place in _places(network).values():
        place.adapter = None


def adapters(network: nn.Module) -> dict[str, Adapter]:
    """Name -> adapter, in the order in which they were inserted."""
    return {
        name: module for name, module in network.named_modules() if isinstance(module, Adapter)
    }


def adapter_parameter_names(network: nn.Module) -> list[str]:
    """Names of the adapters' parameters, as `network.named_parameters` has them."""
    return [
        f'{name}.{parameter}'
        for name, adapter in adapters(network).items()
        for parameter, _ in adapter.named_parameters()
    ]


def freeze_base(network: nn.Module) -> list[nn.Parameter]:
    """Let the adapters learn and nothing else ([0194]).

    Returns:
        the parameters for the optimiser.

    Raises:
        NetworkError: there are no adapters, so that nothing would learn.
    """
    found = adapters(network)
    if not found:
        raise NetworkError('the network has no adapters to train; insert them first')
    network.requires_grad_(False)
    parameters = [p for adapter in found.values() for p in adapter.parameters()]
    for parameter in parameters:
        parameter.requires_grad_()
    return parameters


def are_identity(network: nn.Module) -> bool:
    """Whether no adapter changes anything: their last layers are zero, as at birth."""
    return not any(
        bool(parameter.any())
        for adapter in adapters(network).values()
        for parameter in adapter.up.parameters()
    )


# -- their state ------------------------------------------------------------------------------


def adapter_state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the adapters' parameters on the CPU, by the names of `adapter_parameter_names`."""
    return {
        f'{name}.{key}': tensor.detach().cpu().clone()
        for name, adapter in adapters(network).items()
        for key, tensor in adapter.state_dict().items()
    }


@torch.no_grad()
def load_adapter_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the adapters these parameters, all or (when something does not fit) none.

    They are copied into place, so that an optimiser and a copy that shares them see the change.

    Args:
        network: with adapters of the same size.
        state: result of `adapter_state`.

    Raises:
        NetworkError: a tensor is missing, unknown, of another shape, or not finite.
    """
    own = {
        f'{name}.{key}': parameter
        for name, adapter in adapters(network).items()
        for key, parameter in adapter.named_parameters()
    }
    for name in sorted(own.keys() | state.keys()):
        if name not in state:
            raise NetworkError(f'the adapters lack {name!r}; they belong to another network')
        if name not in own:
            raise NetworkError(
                f'the network has no {name[:80]!r}; insert adapters, or give those of this network'
            )
        if state[name].shape != own[name].shape:
            raise NetworkError(
                f'adapter {name!r} is {tuple(state[name].shape)}, needed is '
                f'{tuple(own[name].shape)}; give adapters of the same width'
            )
        if not bool(torch.isfinite(state[name]).all()):
            raise NetworkError(f'adapter {name!r} is not finite; do not use it')
    for name, parameter in own.items():
        parameter.copy_(state[name])


def save_adapters(
    path: Path | str, network: nn.Module, *, base_sha256: str, notes: Mapping[str, str]
) -> str:
    """Write the adapters of a network, and nothing of the network.

    Args:
        path: of the file; replaced when it exists.
        network: with adapters.
        base_sha256: of the weights file they were trained on, hexadecimal.
        notes: what a reader may want to know.

    Returns:
        the file's SHA-256, hexadecimal.

    Raises:
        NetworkError: there are no adapters, one is not finite, or the disk refuses.
    """
    found = adapters(network)
    if not found:
        raise NetworkError('the network has no adapters to write; insert them first')
    config = next(iter(found.values())).config
    words = {**notes, _BASE: base_sha256.lower()}
    return save_weights(path, _Bundle(network), kind=KIND, config=config, notes=words)


def load_adapters(
    path: Path | str, network: nn.Module, *, base_sha256: str, sha256: str | None = None
) -> dict[str, str]:
    """Put the adapters of a file into a network, instead of those it has.

    Args:
        path: of the file.
        network: with the weights they were trained on; unchanged when they do not fit.
        base_sha256: of the file those weights came from, hexadecimal.
        sha256: what the adapters' file must hash to; None takes any.

    Returns:
        the notes of the file.

    Raises:
        NetworkError: no such file, not of adapters, or of those for another network.
    """
    state, words = load_weights(path, kind=KIND, sha256=sha256)
    config = read_config(words, AdapterConfig())
    if words.get(_BASE) != base_sha256.lower():
        raise NetworkError(
            f'adapters {path} were trained on weights {words.get(_BASE, "unknown")[:12]}..., '
            f'these are {base_sha256[:12].lower()}...; adapt anew'
        )
    before = [place.adapter for place in _places(network).values()]
    remove_adapters(network)
    try:
        insert_adapters(network, config)
        load_adapter_state(network, state)
    except NetworkError:
        for place, adapter in zip(_places(network).values(), before, strict=True):
            place.adapter = adapter
        raise
    return words


def _places(network: nn.Module) -> dict[str, TokenMlp]:
    """Name -> perceptron beside which an adapter may stand."""
    return {name: m for name, m in network.named_modules() if isinstance(m, TokenMlp)}


class _Bundle(nn.Module):
    """The adapters of a network as a module whose state has their names in the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple: not to become a part

    def state_dict(self, *args: object, **kwargs: object) -> dict[str, Tensor]:  # type: ignore[override]
        """See `adapter_state`."""
        return adapter_state(self._network[0])
