"""Blocks of transformers: attention by its formula, what must not matter, and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.attention import Attention, Block, CrossBlock, LayerScale, TokenMlp, linear

WIDTH, HEADS = 12, 3


def tokens(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, WIDTH, generator=generator)


@torch.no_grad()
def by_hand(attention: Attention, x: Tensor, memory: Tensor) -> Tensor:
    """The formula of the paper for one image (N, C), head by head, token by token."""
    query = attention.query(x)
    key, value = attention.key_value(memory).split(WIDTH, dim=1)
    size = WIDTH // HEADS
    heard = torch.zeros_like(x)
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        for i in range(len(x)):
            likeness = [math.exp(query[i, part] @ k[part] / math.sqrt(size)) for k in key]
            for weight, v in zip(likeness, value, strict=True):
                heard[i, part] += weight / sum(likeness) * v[part]
    return attention.out(heard)


@pytest.mark.parametrize('own', [True, False])
def test_attention_is_the_softmax_of_scaled_products(
    torch_generator: torch.Generator, own: bool
) -> None:
    attention = Attention(WIDTH, HEADS, generator=torch_generator)
    x = tokens(torch_generator, 2, 5)
    memory = x if own else tokens(torch_generator, 2, 7)
    found = attention(x, memory)
    for i in range(2):
        torch.testing.assert_close(found[i], by_hand(attention, x[i], memory[i]))


@torch.no_grad()
def test_the_order_of_the_memory_does_not_matter_and_that_of_the_tokens_is_kept(
    torch_generator: torch.Generator,
) -> None:
    block = CrossBlock(WIDTH, HEADS, generator=torch_generator)
    x, memory = tokens(torch_generator, 2, 5), tokens(torch_generator, 2, 7)
    order = torch.tensor([3, 0, 4, 1, 2])
    expected = block(x, memory)[:, order]
    torch.testing.assert_close(block(x[:, order], memory.flip(1)), expected)


@torch.no_grad()
def test_a_memory_of_one_token_is_heard_by_everybody_alike(
    torch_generator: torch.Generator,
) -> None:
    attention = Attention(WIDTH, HEADS, generator=torch_generator)
    memory = tokens(torch_generator, 1, 1)
    value = attention.key_value(memory)[..., WIDTH:]
    expected = attention.out(value).expand(1, 6, WIDTH)
    torch.testing.assert_close(attention(tokens(torch_generator, 1, 6), memory), expected)


@pytest.mark.parametrize('count', [(0, 4), (2, 0)])
def test_no_image_and_no_token_are_answered_with_none(count: tuple[int, int]) -> None:
    x, memory = torch.zeros(*count, WIDTH), torch.zeros(count[0], 3, WIDTH)
    assert CrossBlock(WIDTH, HEADS, generator=None)(x, memory).shape == (*count, WIDTH)


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(NetworkError, match='5 heads'):
        Attention(WIDTH, 5, generator=None)


@torch.no_grad()
def test_blocks_whose_branches_are_silent_change_nothing(torch_generator: torch.Generator) -> None:
    block = Block(WIDTH, HEADS, generator=torch_generator)
    cross = CrossBlock(WIDTH, HEADS, generator=torch_generator)
    x = tokens(torch_generator, 2, 5)
    assert not torch.allclose(block(x), x) and not torch.allclose(cross(x, x), x)
    for layer in (block.attention.out, block.mlp.down, cross.attention.out, cross.cross.out):
        layer.weight.zero_()
    cross.mlp.down.weight.zero_()
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)
    torch.testing.assert_close(cross(x, -x), x, rtol=0, atol=0)


@torch.no_grad()
def test_layer_scale_of_zero_silences_all_branches(torch_generator: torch.Generator) -> None:
    cross = CrossBlock(WIDTH, HEADS, layer_scale=True, generator=torch_generator)
    x = tokens(torch_generator, 2, 5)
    loud = cross(x, -x) - x
    for module in cross.modules():
        if isinstance(module, LayerScale):
            module.factor.zero_()
    assert float(loud.abs().max()) > 1e-3
    torch.testing.assert_close(cross(x, -x), x, rtol=0, atol=0)


@torch.no_grad()
def test_an_adapter_reads_the_token_before_the_norm(torch_generator: torch.Generator) -> None:
    mlp = TokenMlp(WIDTH, generator=torch_generator)
    x = 5 + tokens(torch_generator, 2, 5)  # which the norm would take away
    before = mlp(x)
    mlp.adapter = nn.Identity()
    torch.testing.assert_close(mlp(x), before + x)


@pytest.mark.parametrize('layer_scale', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_finite_gradient(
    torch_generator: torch.Generator, layer_scale: bool, dtype: torch.dtype
) -> None:
    block = Block(WIDTH, HEADS, layer_scale=layer_scale, generator=torch_generator)
    cross = CrossBlock(WIDTH, HEADS, layer_scale=layer_scale, generator=torch_generator)
    x, memory = tokens(torch_generator, 2, 5), tokens(torch_generator, 2, 7)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        answer = cross(block(x), memory)
    (answer * torch.randn(answer.shape, generator=torch_generator)).sum().backward()
    for name, parameter in [*block.named_parameters(), *cross.named_parameters()]:
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_tokens_neither_grow_nor_die_in_twelve_blocks(torch_generator: torch.Generator) -> None:
    x = torch.randn(2, 20, 64, generator=torch_generator)
    for _ in range(12):
        x = Block(64, 4, generator=torch_generator)(x)
    assert 0.8 < float(x.std()) < 3.0


@pytest.mark.parametrize('gain', [1.0, 0.25])
@torch.no_grad()
def test_a_linear_layer_has_the_gain_it_was_asked_for(
    torch_generator: torch.Generator, gain: float
) -> None:
    layer = linear(256, 512, torch_generator, gain)
    spread = layer(torch.randn(256, 256, generator=torch_generator)).std()
    assert float(spread) == pytest.approx(gain, rel=0.03)
