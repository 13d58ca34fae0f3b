"""Blocks of transformers: attention, a perceptron per token, and both with what went before.

    x + attention(norm(x))                      among the tokens of one image
    x + attention(norm(x), norm(memory))        to the tokens of another image (CrossBlock only)
    x + perceptron(norm(x)) + adapter(x)        each token for itself; see nets/adapter.py

Vaswani 2017, "Attention is all you need", with the norms before the branches (Xiong 2020, "On
layer normalization in the transformer architecture"), as seed 004 [0090], [0093] and [0190].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.layers import Linear
from kpvo_ros.nets.rotary import Turn, turned

_QUIET = 0.25  # of a branch at birth beside what it is added to: many of them follow one another
_LAYER_SCALE = 0.1  # first factor, for networks of up to 18 blocks (Touvron 2021, CaiT)


def linear(
    inputs: int, outputs: int, generator: torch.Generator | None, gain: float = 1.0
) -> Linear:
    """A linear layer that multiplies the variance by `gain` squared; no ReLU follows here.

    Args:
        inputs: numbers in.
        outputs: numbers out.
        generator: source of the initial weights; None stands for seed 0.
        gain: standard deviation of an output whose inputs are independent and of variance 1.
    """
    layer = Linear(inputs, outputs, generator=generator)
    if not layer.weight.is_meta:
        with torch.no_grad():
            layer.weight.mul_(gain / math.sqrt(2.0))
    return layer


class Attention(nn.Module):
    """Every token asks the tokens of a memory; fused attention of torch, several heads.

    Args:
        width: numbers per token.
        heads: the width is split among them.
        generator: source of the initial weights; None stands for seed 0.

    Raises:
        NetworkError: the width cannot be split evenly.
    """

    def __init__(self, width: int, heads: int, *, generator: torch.Generator | None) -> None:
        super().__init__()
        if width % heads:
            raise NetworkError(
                f'{heads} heads cannot share a width of {width}; give a multiple of the heads'
            )
        self.heads = heads
        self.query = linear(width, width, generator)
        self.key_value = linear(width, 2 * width, generator)
        self.out = linear(width, width, generator, _QUIET)

    def forward(
        self, x: Tensor, memory: Tensor, turn: Turn | None = None, memory_turn: Turn | None = None
    ) -> Tensor:
        """(B, N, C) asks (B, M, C) -> (B, N, C); self-attention is `memory = x`.

        With both `turn` of the N tokens and `memory_turn` of the M tokens positions are told here
        (see `nets.rotary`), otherwise they are in the tokens.
        """
        query = self._split(self.query(x))
        key, value = (self._split(part) for part in self.key_value(memory).chunk(2, dim=-1))
        if turn is not None and memory_turn is not None:
            query, key = turned(query, turn), turned(key, memory_turn)
        heard = _attend(query, key, value)  # (B, heads, N, C / heads)
        return self.out(heard.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, C / heads)."""
        return x.unflatten(-1, (self.heads, x.shape[-1] // self.heads)).transpose(1, 2)


class LayerScale(nn.Module):
    """A learned factor per channel, small at birth (Touvron 2021, CaiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((width,), _LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return x * self.factor


class TokenMlp(nn.Module):
    """x + perceptron(norm(x)) + adapter(x), each token for itself.

    The adapter reads the token before the norm (seed 004 [0191]) and is nobody until
    `nets.adapter.insert_adapters` puts one there.

    Args:
        width: numbers per token.
        ratio: hidden units per number.
        layer_scale: whether the perceptron's answer has a `LayerScale`.
        generator: source of the initial weights; None stands for seed 0.
    """

    adapter: nn.Module | None

    def __init__(
        self,
        width: int,
        ratio: int = 4,
        *,
        layer_scale: bool = False,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(width)
        self.up = linear(width, ratio * width, generator, math.sqrt(2.0))
        self.down = linear(ratio * width, width, generator, _QUIET)
        self.scale = _scale(width, layer_scale)
        self.register_module('adapter', None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        after = x + self.scale(self.down(F.gelu(self.up(self.norm(x)))))
        return after if self.adapter is None else after + self.adapter(x)


class Block(nn.Module):
    """Self-attention, then a perceptron: one layer of the encoder.

    Args:
        width: numbers per token.
        heads: of the attention.
        mlp_ratio: hidden units of the perceptron per number.
        layer_scale: whether both branches have a `LayerScale`.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: int = 4,
        *,
        layer_scale: bool = False,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, generator=generator)
        self.scale = _scale(width, layer_scale)
        self.mlp = TokenMlp(width, mlp_ratio, layer_scale=layer_scale, generator=generator)

    def forward(self, x: Tensor, turn: Turn | None = None) -> Tensor:
        """(B, N, C), and the rotary positions of the N tokens or None -> (B, N, C)."""
        own = self.norm(x)
        return self.mlp(x + self.scale(self.attention(own, own, turn, turn)))


class CrossBlock(nn.Module):
    """Self-attention, attention to another image, a perceptron: one layer of the decoder.

    Args:
        width: numbers per token, of both images.
        heads: of each attention.
        mlp_ratio: hidden units of the perceptron per number.
        layer_scale: whether all branches have a `LayerScale`.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: int = 4,
        *,
        layer_scale: bool = False,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, generator=generator)
        self.scale = _scale(width, layer_scale)
        self.cross_norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(width)
        self.cross = Attention(width, heads, generator=generator)
        self.cross_scale = _scale(width, layer_scale)
        self.mlp = TokenMlp(width, mlp_ratio, layer_scale=layer_scale, generator=generator)

    def forward(
        self, x: Tensor, memory: Tensor, turn: Turn | None = None, memory_turn: Turn | None = None
    ) -> Tensor:
        """(B, N, C) with the tokens (B, M, C) of the other image -> (B, N, C); see `Attention`."""
        own = self.norm(x)
        x = x + self.scale(self.attention(own, own, turn, turn))
        other = self.memory_norm(memory)
        x = x + self.cross_scale(self.cross(self.cross_norm(x), other, turn, memory_turn))
        return self.mlp(x)


def _scale(width: int, wanted: bool) -> nn.Module:
    return LayerScale(width) if wanted else nn.Identity()


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention of (B, heads, N, C).

    Written out where gradients are wanted on a CPU: torch's fused kernel has a slow way back
    there, which was half of a training step.
    """
    if query.device.type != 'cpu' or not query.requires_grad:
        return F.scaled_dot_product_attention(query, key, value)
    likeness = query / math.sqrt(query.shape[-1]) @ key.transpose(-2, -1)
    return likeness.softmax(dim=-1).to(value.dtype) @ value
