"""A decoder that reads one image in the light of another (CroCo; seed 004 [0092], [0093]).

Weinzaepfel 2022, "Self-supervised pre-training for 3D vision tasks by cross-view completion". The
blocks attend to the other image's tokens as the encoder made them, so that the two directions
of a pair are a batch of two, and a decoder that was trained to complete masked patches (one
direction, mask tokens among the patches) is used for depth and motion as it is ([0099]).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.attention import CrossBlock, linear
from kpvo_ros.nets.rotary import Turn
from kpvo_ros.nets.vit import check_sizes

LEVELS = 4  # layers that are read by a DPT head


class CrossDecoder(nn.Module):
    """Tokens of an image, tokens of another -> what every block makes of the first.

    Args:
        inputs: numbers per token of the encoder.
        width: numbers per token here.
        depth: blocks.
        heads: of each attention.
        mlp_ratio: hidden units of the perceptrons per number.
        layer_scale: whether all branches have learned factors.
        generator: source of the initial weights; None stands for seed 0.

    Raises:
        NetworkError: sizes no network has.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: int = 4,
        layer_scale: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes('decoder', width, depth, heads)
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.embed = linear(inputs, width, generator)
        self.blocks = nn.ModuleList(
            CrossBlock(width, heads, mlp_ratio, layer_scale=layer_scale, generator=generator)
            for _ in range(depth)
        )

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor,
        turn: Turn | None = None,
        memory_turn: Turn | None = None,
    ) -> tuple[Tensor, ...]:
        """Decode.

        Args:
            tokens: (B, N, C) of the image to decode: `embed` of the encoder's tokens (or mask
                tokens), plus positions and what else the caller knows of them.
            memory: (B, M, C) of the other image, made in the same way.
            turn: rotary positions of the tokens, for a decoder that was trained with them.
            memory_turn: those of the memory.

        Returns:
            (B, N, C) after each block.
        """
        layers = []
        for block in self.blocks:
            tokens = block(tokens, memory, turn, memory_turn)
            layers.append(tokens)
        return tuple(layers)


def spread_layers(layers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four of the layers, evenly spaced and the last among them ([0187]): 2, 4, 6, 8 of eight.

    Raises:
        NetworkError: there are fewer than four.
    """
    depth = len(layers)
    check_levels(depth)
    return tuple(layers[-(-depth * level // LEVELS) - 1] for level in range(1, LEVELS + 1))


def check_levels(depth: int) -> None:
    """Refuse a decoder of too few blocks for a DPT head.

    Raises:
        NetworkError: there are fewer than four.
    """
    if depth < LEVELS:
        raise NetworkError(
            f'a DPT head reads {LEVELS} layers, the decoder has {depth}; give it {LEVELS} or more'
        )


def exchanged(x: Tensor) -> Tensor:
    """(2 B, ...) with its halves exchanged: to each image of a pair the other one."""
    first, second = x.chunk(2)
    return torch.cat([second, first])
