"""Adapters: nobody at birth, the only ones that learn, and a state that travels alone."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.adapter import (
    Adapter,
    AdapterConfig,
    adapter_parameter_names,
    adapter_state,
    adapters,
    are_identity,
    freeze_base,
    insert_adapters,
    load_adapter_state,
    load_adapters,
    remove_adapters,
    save_adapters,
)
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.depth_vo import BASE, SMALL, TINY, DepthVoConfig, DepthVoNet

LITTLE = DepthVoConfig(32, 2, 2, 16, 4, 2, mlp_ratio=2, dpt_width=8, head_width=8, pose_width=8)
CONFIG = AdapterConfig(width=4)
BASE_SHA256 = 'ab' * 32


@pytest.fixture
def network(torch_generator: torch.Generator) -> DepthVoNet:
    return DepthVoNet(LITTLE, generator=torch_generator).eval()


@pytest.fixture
def pair(torch_generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    image0, image1 = torch.rand(2, 1, 3, 32, 48, generator=torch_generator)
    return image0, image1, torch.tensor([[[40.0, 0, 23.5], [0, 40, 15.5], [0, 0, 1]]])


def total(network: DepthVoNet, pair: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """A number that depends on every answer."""
    return sum((part.square().mean() for part in network(*pair)), torch.zeros(()))


@torch.no_grad()
def disturb(network: nn.Module, generator: torch.Generator) -> None:
    """As if the adapters had been trained."""
    for adapter in adapters(network).values():
        for parameter in adapter.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def test_an_adapter_is_a_bottleneck_with_relu_and_a_scale(
    torch_generator: torch.Generator,
) -> None:
    adapter = Adapter(3, AdapterConfig(width=2, scale_percent=50))
    adapter.down.weight.copy_(torch.tensor([[1.0, 0, 2], [0, -1, 0]]))
    adapter.up.weight.copy_(torch.tensor([[1.0, 0], [0, 1], [3, 1]]))
    adapter.up.bias.copy_(torch.tensor([0.0, 0, 10]))
    x = torch.tensor([[1.0, 2, 3], [1, -4, -1]])  # down: (7, -2) and (-1, 4)
    expected = 0.5 * torch.tensor([[7.0, 0, 21 + 10], [0, 4, 4 + 10]])
    torch.testing.assert_close(adapter(x), expected)


@torch.inference_mode()
def test_a_network_with_fresh_adapters_is_the_network(
    network: DepthVoNet, pair: tuple[Tensor, Tensor, Tensor], torch_generator: torch.Generator
) -> None:
    before = network(*pair)
    insert_adapters(network, CONFIG, generator=torch_generator)
    assert are_identity(network)
    for part, expected in zip(network(*pair), before, strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=0)
    disturb(network, torch_generator)
    assert not are_identity(network)
    changed = network(*pair)
    assert not torch.allclose(changed.depth0, before.depth0)
    assert not torch.allclose(changed.T_1_0, before.T_1_0)
    remove_adapters(network)
    for part, expected in zip(network(*pair), before, strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=0)


def test_every_block_of_encoder_and_decoder_gets_one(network: DepthVoNet) -> None:
    before = {name for name, _ in network.named_parameters()}
    names = insert_adapters(network, CONFIG)
    assert names == adapter_parameter_names(network)
    assert {name for name, _ in network.named_parameters()} - before == set(names)
    blocks = [f'encoder.blocks.{i}' for i in range(2)] + [f'decoder.blocks.{i}' for i in range(4)]
    assert list(adapters(network)) == [f'{block}.mlp.adapter' for block in blocks]


@pytest.mark.parametrize('config', [TINY, SMALL, BASE], ids=['tiny', 'small', 'base'])
@pytest.mark.parametrize('width', [16, 32])
def test_adapters_are_less_than_a_twentieth_of_the_parameters(
    config: DepthVoConfig, width: int
) -> None:
    with torch.device('meta'):
        network = DepthVoNet(config)
        base = sum(p.numel() for p in network.parameters())
        insert_adapters(network, AdapterConfig(width))
    added = sum(p.numel() for p in network.parameters()) - base
    expected = sum(
        depth * (2 * size * width + width + size)
        for depth, size in (
            (config.encoder_depth, config.encoder_width),
            (config.decoder_depth, config.decoder_width),
        )
    )
    assert added == expected < 0.05 * base


def test_only_adapters_learn(
    network: DepthVoNet, pair: tuple[Tensor, Tensor, Tensor], torch_generator: torch.Generator
) -> None:
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    names = insert_adapters(network, CONFIG, generator=torch_generator)
    learning = freeze_base(network)
    assert [n for n, p in network.named_parameters() if p.requires_grad] == names
    assert len(learning) == len(names)
    loss = total(network, pair)
    optimizer = torch.optim.Adam(learning, lr=1e-2)
    for _ in range(5):  # `down` gets its first gradient when `up` is no longer zero
        optimizer.zero_grad()
        total(network, pair).backward()
        optimizer.step()
    after = dict(network.named_parameters())
    for name, parameter in before.items():
        assert torch.equal(after[name], parameter) and after[name].grad is None, name
    for parameter in learning:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().sum() > 0
    assert total(network, pair) < 0.99 * loss


def test_the_state_of_adapters_makes_another_network_answer_alike(
    network: DepthVoNet, pair: tuple[Tensor, Tensor, Tensor], torch_generator: torch.Generator
) -> None:
    other = copy.deepcopy(network)
    insert_adapters(network, CONFIG, generator=torch_generator)
    insert_adapters(other, CONFIG)
    disturb(network, torch_generator)
    parameters = [p for adapter in adapters(other).values() for p in adapter.parameters()]
    state = adapter_state(network)
    assert sorted(state) == sorted(adapter_parameter_names(network))
    load_adapter_state(other, state)
    with torch.no_grad():
        for one, same in zip(network(*pair), other(*pair), strict=True):
            torch.testing.assert_close(same, one, rtol=0, atol=0)
        disturb(network, torch_generator)  # the state is a copy
    load_adapter_state(other, state)
    assert not torch.equal(next(iter(adapter_state(other).values())), state_of_first(network))
    same_ones = [p for adapter in adapters(other).values() for p in adapter.parameters()]
    assert all(a is b for a, b in zip(parameters, same_ones, strict=True))


def state_of_first(network: DepthVoNet) -> Tensor:
    return next(iter(adapter_state(network).values()))


@pytest.mark.parametrize('damage', ['missing', 'unknown', 'shape', 'nan'])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(
    network: DepthVoNet, torch_generator: torch.Generator, damage: str
) -> None:
    insert_adapters(network, CONFIG, generator=torch_generator)
    before = adapter_state(network)
    state = {name: tensor + 1 for name, tensor in before.items()}
    last = max(state)
    if damage == 'missing':
        del state[last]
    elif damage == 'unknown':
        state['encoder.norm.weight'] = torch.zeros(32)
    elif damage == 'shape':
        state[last] = torch.zeros(3)
    else:
        state[last] = state[last] * torch.nan
    with pytest.raises(NetworkError):
        load_adapter_state(network, state)
    for name, tensor in adapter_state(network).items():
        assert torch.equal(tensor, before[name])


def test_adapters_come_back_from_their_file(
    network: DepthVoNet,
    pair: tuple[Tensor, Tensor, Tensor],
    torch_generator: torch.Generator,
    tmp_path: Path,
) -> None:
    other = copy.deepcopy(network)
    insert_adapters(network, CONFIG, generator=torch_generator)
    disturb(network, torch_generator)
    path = tmp_path / 'adapters.safetensors'
    sha256 = save_adapters(
        path, network, base_sha256=BASE_SHA256.upper(), notes={'made_by': 'a test'}
    )
    words = load_adapters(path, other, base_sha256=BASE_SHA256, sha256=sha256)
    assert words['made_by'] == 'a test'
    with torch.no_grad():
        for one, same in zip(network(*pair), other(*pair), strict=True):
            torch.testing.assert_close(same, one, rtol=0, atol=0)
    base = sum(p.numel() for p in network.parameters()) - sum(
        tensor.numel() for tensor in adapter_state(network).values()
    )
    assert path.stat().st_size < base  # a quarter of the network's bytes: nothing of it is in it


def test_adapters_of_other_weights_or_another_network_are_refused(
    network: DepthVoNet, torch_generator: torch.Generator, tmp_path: Path
) -> None:
    path = tmp_path / 'adapters.safetensors'
    insert_adapters(network, CONFIG, generator=torch_generator)
    disturb(network, torch_generator)
    save_adapters(path, network, base_sha256=BASE_SHA256, notes={})
    before = adapter_state(network)
    with pytest.raises(NetworkError, match='trained on weights abab'):
        load_adapters(path, network, base_sha256='cd' * 32)
    with pytest.raises(NetworkError, match='SHA-256'):
        load_adapters(path, network, base_sha256=BASE_SHA256, sha256='0' * 64)
    narrow = DepthVoNet(DepthVoConfig(32, 2, 2, 8, 4, 2, mlp_ratio=2, dpt_width=8, head_width=8))
    insert_adapters(narrow, AdapterConfig(width=2))
    kept = adapters(narrow)
    with pytest.raises(NetworkError, match='needed is'):
        load_adapters(path, narrow, base_sha256=BASE_SHA256)
    assert adapters(narrow) == kept
    save_weights(path, narrow, kind='depth_vo', config=narrow.config, notes={})
    with pytest.raises(NetworkError, match='of kind'):
        load_adapters(path, network, base_sha256=BASE_SHA256)
    for name, tensor in adapter_state(network).items():
        assert torch.equal(tensor, before[name])


def test_what_cannot_be_adapted_is_refused(network: DepthVoNet, tmp_path: Path) -> None:
    assert are_identity(network) and adapter_state(network) == {}
    with pytest.raises(NetworkError, match='insert them first'):
        freeze_base(network)
    with pytest.raises(NetworkError, match='insert them first'):
        save_adapters(tmp_path / 'none', network, base_sha256=BASE_SHA256, notes={})
    with pytest.raises(NetworkError, match='no perceptron'):
        insert_adapters(nn.Linear(2, 2))
    insert_adapters(network, CONFIG)
    with pytest.raises(NetworkError, match='adapters already'):
        insert_adapters(network, CONFIG)
    with pytest.raises(NetworkError, match='insert adapters'):
        load_adapter_state(nn.Linear(2, 2), adapter_state(network))


def test_adapters_take_precision_and_mode_of_their_neighbours(network: DepthVoNet) -> None:
    network.to(torch.bfloat16)
    insert_adapters(network, CONFIG)
    for adapter in adapters(network).values():
        assert not adapter.training
        assert {p.dtype for p in adapter.parameters()} == {torch.bfloat16}
