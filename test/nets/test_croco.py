"""The completion network with rotary positions, and the import of its public weights."""

from __future__ import annotations

from collections.abc import Callable
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.adapter import insert_adapters
from kpvo_ros.nets.attention import Attention
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.croco import (
    BASE_DECODER,
    KIND,
    SMALL_DECODER,
    CrocoConfig,
    CrocoNet,
    load_croco_net,
)
from kpvo_ros.nets.importing import croco_sizes, import_croco, is_croco
from kpvo_ros.nets.rotary import rotary_turn, turned

TINY = CrocoConfig(
    encoder_width=16, encoder_depth=2, encoder_heads=2,
    decoder_width=24, decoder_depth=3, decoder_heads=3, mlp_ratio=2, patch_px=4,
)  # fmt: skip
State = dict[str, Tensor]


def layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f'{name}.weight': shape, f'{name}.bias': shape[:1]}


def recorded(config: CrocoConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes as the authors of CroCo v2 have them."""
    wide, narrow, patch = config.encoder_width, config.decoder_width, config.patch_px
    shapes = {
        'mask_token': (1, 1, narrow),
        **layer('patch_embed.proj', wide, 3, patch, patch),
        **layer('enc_norm', wide),
        **layer('dec_norm', narrow),
        **layer('decoder_embed', narrow, wide),
        **layer('prediction_head', patch**2 * 3, narrow),
    }
    sides = (('enc', config.encoder_depth, wide), ('dec', config.decoder_depth, narrow))
    for side, depth, width in sides:
        for name in (f'{side}_blocks.{i}' for i in range(depth)):
            shapes |= layer(f'{name}.norm1', width) | layer(f'{name}.norm2', width)
            shapes |= layer(f'{name}.attn.qkv', 3 * width, width)
            shapes |= layer(f'{name}.attn.proj', width, width)
            shapes |= layer(f'{name}.mlp.fc1', config.mlp_ratio * width, width)
            shapes |= layer(f'{name}.mlp.fc2', width, config.mlp_ratio * width)
            if side == 'dec':
                shapes |= layer(f'{name}.norm3', width) | layer(f'{name}.norm_y', width)
                for part in ('projq', 'projk', 'projv', 'proj'):
                    shapes |= layer(f'{name}.cross_attn.{part}', width, width)
    return shapes


def filled(config: CrocoConfig, generator: torch.Generator) -> State:
    return {
        name: torch.randn(shape, generator=generator) * max(1, math.prod(shape[1:])) ** -0.5
        for name, shape in recorded(config).items()
    }


def awake(generator: torch.Generator) -> CrocoNet:
    """A network whose mask token and factors say something."""
    network = CrocoNet(TINY, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


# -- rotary positions -------------------------------------------------------------------------


def test_a_turn_is_a_multiplication_of_complex_numbers(torch_generator: torch.Generator) -> None:
    """(a, b) as a + b i times e^(i angle), the row's in the first half of a head."""
    x = torch.randn(1, 1, 6, 16, generator=torch_generator)
    found = turned(x, rotary_turn((2, 3), 16))
    for token in range(6):
        for half, position in enumerate(divmod(token, 3)):
            for k in range(4):
                first = 8 * half + k
                number = complex(x[0, 0, token, first], x[0, 0, token, first + 4])
                angle = position * 100.0 ** (-k / 4)
                number *= complex(math.cos(angle), math.sin(angle))
                assert float(found[0, 0, token, first]) == pytest.approx(number.real, abs=1e-5)
                assert float(found[0, 0, token, first + 4]) == pytest.approx(number.imag, abs=1e-5)


def test_likeness_of_turned_tokens_depends_on_their_distance_alone(
    torch_generator: torch.Generator,
) -> None:
    query, key = torch.randn(2, 1, 1, 1, 32, generator=torch_generator)
    turn = rotary_turn((6, 7), 32)
    queries, keys = (
        turned(x.expand(1, 1, 42, 32), turn)[0, 0].unflatten(0, (6, 7)) for x in (query, key)
    )
    here = (queries[:-2, :-3] * keys[2:, 3:]).sum(-1)  # two rows and three columns apart
    torch.testing.assert_close(here, here[:1, :1].expand_as(here), rtol=1e-4, atol=1e-4)
    same = (queries * keys).sum(-1)
    torch.testing.assert_close(same, (query * key).sum().expand(6, 7), rtol=1e-4, atol=1e-4)
    assert float((here[0, 0] - same[0, 0]).abs()) > 0.1


@torch.inference_mode()
def test_attention_without_turns_is_that_with_turns_of_nothing(
    torch_generator: torch.Generator,
) -> None:
    attention = Attention(16, 2, generator=torch_generator)
    x, memory = torch.randn(2, 3, 1, 16, generator=torch_generator)
    still = rotary_turn((1, 1), 8)
    torch.testing.assert_close(attention(x, memory, still, still), attention(x, memory))


# -- the network ------------------------------------------------------------------------------


@torch.inference_mode()
def test_every_patch_is_predicted_from_any_choice_and_other_sizes(
    torch_generator: torch.Generator,
) -> None:
    network = awake(torch_generator)
    image0 = torch.rand(2, 3, 12, 20, generator=torch_generator)
    image1 = torch.rand(2, 3, 8, 24, generator=torch_generator)
    for keep in (None, torch.tensor([[0, 7], [3, 14]]), torch.zeros(2, 0, dtype=torch.int64)):
        found = network(image0, image1, keep)
        assert found.shape == (2, 15, 48) and torch.isfinite(found).all()


@torch.inference_mode()
def test_a_choice_of_all_patches_in_any_order_is_the_whole(
    torch_generator: torch.Generator,
) -> None:
    network = awake(torch_generator)
    image0, image1 = torch.rand(2, 2, 3, 12, 20, generator=torch_generator)
    order = torch.stack([torch.randperm(15, generator=torch_generator) for _ in range(2)])
    found = network(image0, image1, order)
    torch.testing.assert_close(found, network(image0, image1), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_hidden_patches_do_not_matter_and_the_other_image_does(
    torch_generator: torch.Generator,
) -> None:
    network = awake(torch_generator)
    image0, image1 = torch.rand(2, 1, 3, 8, 8, generator=torch_generator)
    keep = torch.tensor([[0, 3]])
    found = network(image0, image1, keep)
    other = image0.clone()
    other[..., :4, 4:] = 0.0
    torch.testing.assert_close(network(other, image1, keep), found)
    assert not torch.allclose(network(image0, image1.flip(-1), keep), found, atol=1e-3)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_finite_gradient(
    torch_generator: torch.Generator, dtype: torch.dtype
) -> None:
    network = CrocoNet(TINY, generator=torch_generator)
    image0, image1 = torch.rand(2, 2, 3, 12, 16, generator=torch_generator)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        found = network(image0, image1, torch.tensor([[0, 5, 6], [1, 2, 11]]))
    assert found.dtype == torch.float32
    (found * torch.randn(found.shape, generator=torch_generator)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_it_has_places_for_adapters(torch_generator: torch.Generator) -> None:
    network = awake(torch_generator)
    names = insert_adapters(network, generator=torch_generator)
    assert len(names) == 4 * (TINY.encoder_depth + TINY.decoder_depth)


def test_heads_that_cannot_be_turned_are_refused() -> None:
    with pytest.raises(NetworkError, match='give a multiple of 4'):
        CrocoConfig(encoder_width=24, encoder_heads=4)


# -- public weights ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('config', 'tensors', 'numbers'),
    [(SMALL_DECODER, 347, 120_076_288), (BASE_DECODER, 443, 200_269_824)],
)
def test_recorded_names_hold_as_many_numbers_as_the_network(
    config: CrocoConfig, tensors: int, numbers: int
) -> None:
    shapes = recorded(config)
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (tensors, numbers)
    with torch.device('meta'):
        network = CrocoNet(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == numbers


@torch.inference_mode()
def test_a_public_state_fills_the_network_and_comes_back_from_a_file(
    torch_generator: torch.Generator, tmp_path: Path
) -> None:
    state = filled(TINY, torch_generator)
    assert is_croco(state)
    network = import_croco(state, config=TINY)
    image0, image1 = torch.rand(2, 1, 3, 12, 16, generator=torch_generator)
    keep = torch.tensor([[0, 5]])
    found = network(image0, image1, keep)
    assert found.shape == (1, 12, 48) and torch.isfinite(found).all() and float(found.std()) > 0.1
    save_weights(tmp_path / 'n.safetensors', network, kind=KIND, config=TINY, notes={})
    again = load_croco_net(tmp_path / 'n.safetensors')
    assert again.config == TINY
    torch.testing.assert_close(again(image0, image1, keep), found)


@torch.inference_mode()
def test_the_prediction_is_rearranged_from_pixel_by_pixel_to_colour_by_colour(
    torch_generator: torch.Generator,
) -> None:
    state = filled(TINY, torch_generator)
    network = import_croco(state, config=TINY)
    x = torch.randn(5, TINY.decoder_width, generator=torch_generator)
    public = x @ state['prediction_head.weight'].mT + state['prediction_head.bias']
    found = network.prediction(x)
    for colour in range(3):
        for pixel in range(16):
            expected = public[:, 3 * pixel + colour]
            torch.testing.assert_close(found[:, 16 * colour + pixel], expected)


def complex_turned(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, heads, N, D) as complex numbers times e^(i angle), row by row."""
    rows = torch.arange(grid[0] * grid[1]) // grid[1]
    columns = torch.arange(grid[0] * grid[1]) % grid[1]
    parts = []
    for half, place in zip(x.chunk(2, dim=-1), (rows, columns), strict=True):
        real, imaginary = half.chunk(2, dim=-1)
        count = real.shape[-1]
        angle = place[:, None] * 100.0 ** (-torch.arange(count) / count)
        number = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)
        parts += [number.real, number.imag]
    return torch.cat(parts, dim=-1)


@torch.inference_mode()
def test_a_decoder_block_is_that_of_plain_operations_on_the_public_tensors(
    torch_generator: torch.Generator,
) -> None:
    state = filled(TINY, torch_generator)
    block = import_croco(state, config=TINY).decoder.blocks[1]
    grids = (2, 3), (4, 1)
    x = torch.randn(2, 6, 24, generator=torch_generator)
    memory = torch.randn(2, 4, 24, generator=torch_generator)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f'dec_blocks.1.{name}.weight'].mT + state[f'dec_blocks.1.{name}.bias']

    def norm(name: str, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return x * state[f'dec_blocks.1.{name}.weight'] + state[f'dec_blocks.1.{name}.bias']

    def heard(query: Tensor, key: Tensor, value: Tensor, grid: tuple[int, int]) -> Tensor:
        query, key, value = (t.unflatten(-1, (3, 8)).transpose(1, 2) for t in (query, key, value))
        query, key = complex_turned(query, grids[0]), complex_turned(key, grid)
        share = (query @ key.mT / 8**0.5).softmax(-1)
        return (share @ value).transpose(1, 2).flatten(2)

    own = linear('attn.qkv', norm('norm1', x)).chunk(3, dim=-1)
    after = x + linear('attn.proj', heard(*own, grids[0]))
    other = norm('norm_y', memory)
    asked = linear('cross_attn.projq', norm('norm2', after))
    key, value = linear('cross_attn.projk', other), linear('cross_attn.projv', other)
    after = after + linear('cross_attn.proj', heard(asked, key, value, grids[1]))
    hidden = linear('mlp.fc1', norm('norm3', after))
    hidden = 0.5 * hidden * (1.0 + torch.erf(hidden / 2**0.5))
    expected = after + linear('mlp.fc2', hidden)
    found = block(x, memory, *(rotary_turn(grid, 8) for grid in grids))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ('damage', 'line'),
    [
        (lambda s: s.pop('dec_blocks.0.norm_y.bias'), 'lacks.*norm_y'),
        (lambda s: s.update(enc_pos_embed=torch.zeros(4, 16)), 'enc_pos_embed.*CroCo-v2'),
        (lambda s: s.update({'enc_blocks.2.norm1.weight': torch.ones(16)}), 'enc_blocks.2'),
        (lambda s: s.update(mask_token=torch.zeros(1, 24)), r'needed is \(1, 1, 24\)'),
    ],
)
def test_a_wrong_state_is_refused(
    torch_generator: torch.Generator, damage: Callable[[State], object], line: str
) -> None:
    state = filled(TINY, torch_generator)
    damage(state)
    with pytest.raises(NetworkError, match=line) as error:
        import_croco(state, config=TINY)
    assert '\n' not in str(error.value)


def test_the_size_is_seen_from_the_blocks() -> None:
    for config in (SMALL_DECODER, BASE_DECODER):
        state = {name: torch.zeros(()) for name in recorded(config)}
        assert croco_sizes(state) == config
