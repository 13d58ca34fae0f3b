"""The DPT head: sizes, where its pixels lie, and which layers of a decoder it reads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.cross_decoder import CrossDecoder, spread_layers
from kpvo_ros.nets.dpt import DptHead

INPUTS = 12


def layers(generator: torch.Generator, batch: int, rows: int, columns: int) -> list[Tensor]:
    return [torch.randn(batch, rows * columns, INPUTS, generator=generator) for _ in range(4)]


def head(generator: torch.Generator, **sizes: int) -> DptHead:
    return DptHead(INPUTS, 8, 4, 2, generator=generator, **sizes)


@pytest.mark.parametrize('grid', [(1, 1), (2, 4), (3, 5), (6, 3)])
@pytest.mark.parametrize('patch_px', [8, 16, 32])
@torch.inference_mode()
def test_every_pixel_gets_an_answer_also_of_odd_grids(
    torch_generator: torch.Generator, grid: tuple[int, int], patch_px: int
) -> None:
    found = head(torch_generator, patch_px=patch_px)(layers(torch_generator, 2, *grid), grid)
    assert found.shape == (2, 2, patch_px * grid[0], patch_px * grid[1])
    assert found.dtype == torch.float32 and torch.isfinite(found).all()


@torch.inference_mode()
def test_tokens_moved_by_two_patches_move_the_answer_by_as_much(
    torch_generator: torch.Generator,
) -> None:
    """By two, since the coarsest map has one cell for two of them."""
    network = head(torch_generator, patch_px=8)
    here = [torch.zeros(1, 36, 36, INPUTS) for _ in range(4)]
    for x in here:
        x[:, 16:18, 16:18] = torch.randn(1, 2, 2, INPUTS, generator=torch_generator)
    moved = [x.roll((2, -4), (1, 2)) for x in here]
    answer, other = (network([x.flatten(1, 2) for x in xs], (36, 36)) for xs in (here, moved))
    middle = slice(110, 170)
    expected = answer.roll((16, -32), (2, 3))[..., middle, middle]
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(other[..., middle, middle], expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_mirrored_head_centres_the_answer_on_its_patches(
    torch_generator: torch.Generator,
) -> None:
    """With filters that are their own mirror image, mirrored tokens have a mirrored answer."""
    network = head(torch_generator)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module is not network.last:
            module.weight += module.weight.flip(-1)
    for spread in network.spread:  # outputs are channel, row, column of the cells of a token
        cells = spread.linear.weight.unflatten(0, (8, spread.per_token, spread.per_token))
        cells += cells.flip(2)
    cells = network.last.weight.unflatten(0, (2, 2, 2))
    cells += cells.flip((2, 5))
    given = [x.unflatten(1, (4, 6)) for x in layers(torch_generator, 1, 4, 6)]
    answer = network([x.flatten(1, 2) for x in given], (4, 6))
    mirrored = network([x.flip(2).flatten(1, 2) for x in given], (4, 6))
    assert float(answer.std()) > 0.1
    torch.testing.assert_close(mirrored.flip(-1), answer, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_early_layers_are_read_finer_than_late_ones(torch_generator: torch.Generator) -> None:
    """How much neighbours differ where only one layer differs from zero."""
    network = head(torch_generator)
    given = layers(torch_generator, 1, 8, 8)
    silent = [torch.zeros_like(x) for x in given]
    base = network(silent, (8, 8))
    shares = []
    for level, x in enumerate(given):
        alone = [*silent[:level], x, *silent[level + 1 :]]
        change = network(alone, (8, 8)) - base
        shares.append(float(change.diff(dim=3).abs().mean() / change.abs().mean()))
    assert shares[0] > 1.5 * shares[3]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_finite_gradient(
    torch_generator: torch.Generator, dtype: torch.dtype
) -> None:
    network = head(torch_generator)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        answer = network(layers(torch_generator, 2, 3, 4), (3, 4))
    (answer * torch.randn(answer.shape, generator=torch_generator)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_what_is_not_four_layers_of_the_grid_is_refused(torch_generator: torch.Generator) -> None:
    network, given = head(torch_generator), layers(torch_generator, 1, 3, 4)
    with pytest.raises(NetworkError, match='4 layers of 3 x 4'):
        network(given[:3], (3, 4))
    with pytest.raises(NetworkError, match='4 layers of 4 x 4'):
        network(given, (4, 4))


@pytest.mark.parametrize('patch_px', [4, 12])
def test_patches_that_cannot_be_joined_are_refused(
    torch_generator: torch.Generator, patch_px: int
) -> None:
    with pytest.raises(NetworkError, match='multiple of 8'):
        head(torch_generator, patch_px=patch_px)


@pytest.mark.parametrize(
    ('depth', 'expected'),
    [(4, [1, 2, 3, 4]), (6, [2, 3, 5, 6]), (8, [2, 4, 6, 8]), (12, [3, 6, 9, 12])],
)
def test_four_evenly_spaced_layers_are_read(depth: int, expected: list[int]) -> None:
    named = tuple(torch.tensor(i + 1) for i in range(depth))
    assert [int(layer) for layer in spread_layers(named)] == expected


def test_a_decoder_of_three_layers_is_too_short() -> None:
    with pytest.raises(NetworkError, match='the decoder has 3'):
        spread_layers((torch.zeros(1),) * 3)


@torch.inference_mode()
def test_a_decoder_tells_what_every_block_made_of_the_image(
    torch_generator: torch.Generator,
) -> None:
    decoder = CrossDecoder(INPUTS, 16, 3, 2, generator=torch_generator)
    x = decoder.embed(torch.randn(2, 5, INPUTS, generator=torch_generator))
    memory = decoder.embed(torch.randn(2, 7, INPUTS, generator=torch_generator))
    found = decoder(x, memory)
    assert len(found) == 3
    for block, made in zip(decoder.blocks, found, strict=True):
        x = block(x, memory)
        torch.testing.assert_close(made, x)
    assert not torch.allclose(decoder(found[0], memory)[-1], decoder(found[0], -memory)[-1])


@torch.inference_mode()
def test_a_new_head_draws_no_grid_within_its_cells(torch_generator: torch.Generator) -> None:
    """The last step makes 2 x 2 pixels of one cell, which differ only when that is learned."""
    answer = head(torch_generator)(layers(torch_generator, 1, 3, 4), (3, 4))
    pairs = answer.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    torch.testing.assert_close(pairs, pairs[:, :, :, :1, :, :1].expand_as(pairs))
    assert float(answer[..., ::2].diff().abs().mean()) > 1e-3
