"""The diffusion network: shapes, gradients, size, what wraps around, and its weights file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.diffusion import (
    KIND,
    SPREAD,
    DiffusionConfig,
    DiffusionNet,
    difficulty,
    load_diffusion_net,
)

SMALL = DiffusionConfig(widths=(16, 16, 32), depths=(1, 1, 1), context=16, examples=8)


def awake(generator: torch.Generator) -> DiffusionNet:
    """A small network whose layers all say something."""
    network = DiffusionNet(SMALL, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(
    generator: torch.Generator, count: int = 2, height: int = 24, width: int = 32
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    noisy = torch.randn(count, 3, height, width, generator=generator)
    time = torch.rand(count, generator=generator)
    return noisy, time, torch.randn(count, SMALL.condition, generator=generator)


def test_the_default_network_is_small() -> None:
    count = sum(parameter.numel() for parameter in DiffusionNet().parameters())
    assert count <= 1_500_000


@pytest.mark.parametrize(('height', 'width'), [(8, 8), (24, 32), (64, 40)])
def test_a_velocity_has_the_shape_of_its_picture(
    torch_generator: torch.Generator, height: int, width: int
) -> None:
    given = inputs(torch_generator, 3, height, width)
    velocity = awake(torch_generator)(*given)
    assert velocity.shape == given[0].shape
    assert torch.isfinite(velocity).all()


def test_every_parameter_gets_a_gradient(torch_generator: torch.Generator) -> None:
    network = awake(torch_generator)
    network(*inputs(torch_generator)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), name


def test_an_untrained_network_gives_the_best_velocity_that_is_linear_in_the_state(
    torch_generator: torch.Generator,
) -> None:
    """Pictures of independent pixels: least squares over many of them is the other road."""
    network = DiffusionNet(SMALL, generator=torch_generator)
    for time in (0.1, 0.5, 0.9):
        clean = SPREAD * torch.randn(64, 3, 32, 32, generator=torch_generator)
        noise = torch.randn(clean.shape, generator=torch_generator)
        state = (1 - time) * clean + time * noise
        slope = (state * (noise - clean)).mean() / state.square().mean()
        moments = torch.full((64,), time)
        found = network(state, moments, torch.zeros(64, SMALL.condition))
        torch.testing.assert_close(found, slope * state, atol=0.05, rtol=0.02)
        error = (found - (noise - clean)).square().mean().sqrt()
        assert float(error.detach()) == pytest.approx(
            SPREAD / float(difficulty(moments)[0]), rel=0.02
        )


def test_a_tileable_network_does_not_see_where_a_picture_begins(
    torch_generator: torch.Generator,
) -> None:
    network = awake(torch_generator).tileable()
    noisy, time, condition = inputs(torch_generator, 1, 32, 32)
    shift = (8, 16)  # a multiple of the stride
    shifted = network(noisy.roll(shift, (2, 3)), time, condition)
    expected = network(noisy, time, condition).roll(shift, (2, 3))
    torch.testing.assert_close(shifted, expected, atol=1e-5, rtol=1e-4)


def test_a_tileable_copy_leaves_the_trained_network_as_it_is(
    torch_generator: torch.Generator,
) -> None:
    network = awake(torch_generator)
    given = inputs(torch_generator)
    before = network(*given)
    copy = network.tileable()
    torch.testing.assert_close(network(*given), before, rtol=0, atol=0)
    assert not torch.allclose(copy(*given), before)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_condition_and_the_time_change_the_answer(torch_generator: torch.Generator) -> None:
    network = awake(torch_generator)
    noisy, time, condition = inputs(torch_generator)
    before = network(noisy, time, condition)
    assert not torch.allclose(network(noisy, time, condition + 1.0), before)
    assert not torch.allclose(network(noisy, 0.5 * time, condition), before)


@pytest.mark.parametrize(
    ('noisy', 'time', 'condition', 'says'),
    [
        ((1, 3, 20, 24), (1,), (1, 7), 'multiples of 8'),
        ((1, 1, 24, 24), (1,), (1, 7), 'pictures'),
        ((3, 24, 24), (3,), (3, 7), 'pictures'),
        ((1, 3, 0, 24), (1,), (1, 7), 'multiples of 8'),
        ((2, 3, 24, 24), (1,), (2, 7), 'time (1,)'),
        ((2, 3, 24, 24), (2,), (2, 6), 'condition (2, 6)'),
    ],
)
def test_what_does_not_fit_is_named(
    noisy: tuple[int, ...], time: tuple[int, ...], condition: tuple[int, ...], says: str
) -> None:
    with pytest.raises(NetworkError) as error:
        DiffusionNet(SMALL)(torch.zeros(noisy), torch.zeros(time), torch.zeros(condition))
    assert says in str(error.value)


def test_saved_weights_come_back_with_their_examples(
    torch_generator: torch.Generator, tmp_path: Path
) -> None:
    network = awake(torch_generator)
    network.examples = torch.randn(network.examples.shape, generator=torch_generator)
    path = tmp_path / 'weights.safetensors'
    sha256 = save_weights(path, network, kind=KIND, config=SMALL, notes={})
    again = load_diffusion_net(path, sha256)
    given = inputs(torch_generator)
    torch.testing.assert_close(again(*given), network(*given))
    assert torch.equal(again.examples, network.examples)
    with pytest.raises(NetworkError, match='SHA-256'):
        load_diffusion_net(path, '0' * 64)
