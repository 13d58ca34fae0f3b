"""Depth of one image: shapes, meaning of the answers, positions, gradients, files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.adapter import freeze_base, insert_adapters
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.mono_depth import (
    KIND,
    DinoEncoder,
    MonoDepthConfig,
    MonoDepthNet,
    load_mono_depth_net,
)
from kpvo_ros.nets.vit import ON

TINY = MonoDepthConfig(
    width=16,
    depth=4,
    heads=2,
    mlp_ratio=2,
    patch_px=14,
    learned_grid=(3, 4),
    levels=(1, 2, 3, 4),
    level_widths=(4, 6, 8, 10),
    dpt_width=8,
    head_width=4,
)
METRIC = dataclasses.replace(TINY, metric=ON, max_depth_m=80)
BOTH = pytest.mark.parametrize('config', [TINY, METRIC], ids=['relative', 'metric'])


def awake(generator: torch.Generator, config: MonoDepthConfig = TINY) -> MonoDepthNet:
    """A network whose last layer says something."""
    network = MonoDepthNet(config, generator=generator)
    with torch.no_grad():
        network.head.last.weight.mul_(20.0)
    return network.eval()


@BOTH
@pytest.mark.parametrize('size', [(14, 14), (28, 70), (42, 56), (70, 14)])
@pytest.mark.parametrize('channels', [1, 3])
@torch.inference_mode()
def test_every_pixel_gets_a_depth_that_can_be(
    torch_generator: torch.Generator, config: MonoDepthConfig, size: tuple[int, int], channels: int
) -> None:
    network = awake(torch_generator, config)
    found = network(torch.rand(2, channels, *size, generator=torch_generator))
    assert found.shape == (2, 1, *size) and found.dtype == torch.float32
    assert torch.isfinite(found).all() and float(found.min()) >= 0.0
    assert not network.metric or float(found.max()) <= 80.0


@BOTH
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_finite_gradient(
    torch_generator: torch.Generator, config: MonoDepthConfig, dtype: torch.dtype
) -> None:
    network = MonoDepthNet(config, generator=torch_generator)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        found = network(torch.rand(2, 3, 42, 70, generator=torch_generator))
    assert found.dtype == torch.float32
    (found * torch.randn(found.shape, generator=torch_generator)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@torch.inference_mode()
def test_an_untrained_network_sees_a_wall(torch_generator: torch.Generator) -> None:
    """Inverse depth 1, or the sigmoid of 1 of the farthest, everywhere."""
    image = torch.rand(1, 3, 42, 42, generator=torch_generator)
    relative = MonoDepthNet(TINY, generator=torch_generator)(image)
    assert float((relative - 1.0).abs().max()) < 0.3
    metric = MonoDepthNet(METRIC, generator=torch_generator)(image)
    assert float((metric - 80.0 / (1.0 + math.exp(-1.0))).abs().max()) < 5.0


@torch.inference_mode()
def test_three_equal_colours_are_grey_and_pictures_of_a_batch_do_not_meet(
    torch_generator: torch.Generator,
) -> None:
    network = awake(torch_generator)
    image = torch.rand(2, 1, 28, 42, generator=torch_generator)
    found = network(image)
    torch.testing.assert_close(network(image.expand(-1, 3, -1, -1)), found)
    torch.testing.assert_close(network(image[1:]), found[1:], rtol=1e-4, atol=1e-5)
    assert float((found[0] - found[1]).abs().max()) > 1e-3


def cubic(learned: int, wanted: int) -> Tensor:
    """(wanted, learned) shares of Keys 1981 with a = -3/4, the border repeated."""
    a, matrix = -0.75, torch.zeros(wanted, learned, dtype=torch.float64)
    for i in range(wanted):
        x = (i + 0.5) * learned / (wanted + 0.1) - 0.5
        for j in range(math.floor(x) - 1, math.floor(x) + 3):
            d = abs(x - j)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * (d**3 - 5 * d**2 + 8 * d - 4)
            matrix[i, min(max(j, 0), learned - 1)] += near if d <= 1 else far
    return matrix


@pytest.mark.parametrize(('rows', 'columns'), [(5, 9), (12, 6), (1, 1), (20, 20)])
@torch.inference_mode()
def test_learned_positions_are_spread_over_a_tenth_of_a_patch_more(
    torch_generator: torch.Generator, rows: int, columns: int
) -> None:
    encoder = DinoEncoder(dataclasses.replace(TINY.encoder, learned_grid=(12, 16)))
    encoder.positions.copy_(torch.randn(1, 16, 12, 16, generator=torch_generator))
    expected = cubic(12, rows) @ encoder.positions[0].double() @ cubic(16, columns).mT
    found = encoder._positions(rows, columns, torch.device('cpu'))
    torch.testing.assert_close(found.double().T, expected.flatten(1), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_learned_positions_of_the_learned_grid_are_as_they_are() -> None:
    encoder = DinoEncoder(TINY.encoder)
    encoder.positions.copy_(torch.arange(16.0 * 12).reshape(1, 16, 3, 4))
    found = encoder._positions(3, 4, torch.device('cpu'))
    assert torch.equal(found[4 * 2 + 1], encoder.positions[0, :, 2, 1])


@torch.inference_mode()
def test_levels_are_what_the_blocks_make_of_each_other(torch_generator: torch.Generator) -> None:
    network = awake(torch_generator)
    encoder, image = network.encoder, torch.rand(1, 3, 28, 28, generator=torch_generator)
    levels = encoder.layers(image, (2, 4))
    torch.testing.assert_close(levels[1].tokens, encoder(image).tokens)
    torch.testing.assert_close(levels[1].class_token, encoder(image).class_token)
    encoder.blocks = encoder.blocks[:2]
    torch.testing.assert_close(levels[0].tokens, encoder(image).tokens)
    assert levels[0].grid == (2, 2)


@pytest.mark.parametrize('size', [(30, 50), (50, 30), (14, 200), (43, 43)])
@torch.inference_mode()
def test_images_of_any_size_are_looked_at(
    torch_generator: torch.Generator, size: tuple[int, int]
) -> None:
    network = awake(torch_generator)
    found = network.predict(torch.rand(1, 3, *size, generator=torch_generator), 28)
    assert found.shape == (1, 1, *size) and torch.isfinite(found).all()


@torch.inference_mode()
def test_an_image_of_the_right_size_is_not_changed_before(
    torch_generator: torch.Generator,
) -> None:
    network = awake(torch_generator)
    image = torch.rand(1, 3, 28, 56, generator=torch_generator)
    torch.testing.assert_close(network.predict(image, 28), network(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    ('image', 'side', 'line'),
    [
        (torch.zeros(1, 3, 0, 20), 28, 'at least 14'),
        (torch.zeros(3, 20, 20), 28, 'B, 1 or 3'),
        (torch.zeros(1, 3, 20, 20), 13, 'at least 14'),
        (torch.zeros(1, 2, 20, 20), 28, '1 or 3'),
    ],
    ids=str,
)
def test_what_cannot_be_looked_at_is_refused(image: Tensor, side: int, line: str) -> None:
    with pytest.raises(NetworkError, match=line):
        MonoDepthNet(TINY).predict(image, side)


def test_a_picture_that_is_not_made_of_patches_is_refused() -> None:
    with pytest.raises(NetworkError, match='multiples of 14'):
        MonoDepthNet(TINY)(torch.zeros(1, 3, 14, 20))


@torch.inference_mode()
def test_fresh_adapters_change_nothing_and_are_all_that_learns(
    torch_generator: torch.Generator,
) -> None:
    network = awake(torch_generator)
    image = torch.rand(1, 3, 28, 28, generator=torch_generator)
    before = network(image)
    names = insert_adapters(network, generator=torch_generator)
    assert len(names) == 4 * TINY.depth
    torch.testing.assert_close(network(image), before, rtol=0, atol=0)
    assert len(freeze_base(network)) == len(names)


def test_the_same_seed_makes_the_same_network_and_draws_nothing_else() -> None:
    state = torch.get_rng_state()
    made = [MonoDepthNet(TINY, generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in made)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@BOTH
def test_saved_weights_come_back_and_know_what_they_mean(
    torch_generator: torch.Generator, tmp_path: Path, config: MonoDepthConfig
) -> None:
    network, path = awake(torch_generator, config), tmp_path / 'net.safetensors'
    sha256 = save_weights(path, network, kind=KIND, config=config, notes={})
    again = load_mono_depth_net(path, sha256)
    assert again.config == config and not again.training
    image = torch.rand(1, 3, 28, 42, generator=torch_generator)
    torch.testing.assert_close(again(image), network(image))
    save_weights(path, network, kind='keypoint', config=config, notes={})
    with pytest.raises(NetworkError, match="needed is 'mono_depth'"):
        load_mono_depth_net(path)


@pytest.mark.parametrize(
    'change',
    [
        {'levels': (1, 2, 2, 4)},
        {'levels': (2, 1, 3, 4)},
        {'levels': (0, 1, 2, 3)},
        {'levels': (1, 2, 3, 5)},
        {'metric': 3},
        {'max_depth_m': 0},
        {'dpt_width': 7},
        {'heads': 3},
    ],
    ids=str,
)
def test_sizes_no_network_has_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(NetworkError, match='give'):
        dataclasses.replace(TINY, **change)
