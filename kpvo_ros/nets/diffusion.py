"""A small U-Net that makes pictures out of noise, told by a few numbers what they shall be like.

It is a velocity field for flow matching (Lipman 2023, "Flow matching for generative modeling"; Liu
2023, "Flow straight and fast"): the state at time t is (1 - t) * picture + t * noise, the network
answers noise - picture. What is linear in this answer is computed, not learned (after Karras 2022,
"Elucidating the design space of diffusion-based generative models"; here for a straight flow).
The body works at half the resolution, on 2 x 2 pixels as channels, which is what a CPU can pay
for. Seed 000 [0025]: textures of rendered things made by a diffusion model.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from pathlib import Path

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.checkpoint import fill, load_weights, read_config
from kpvo_ros.nets.layers import Conv2d, Linear, StandardConv2d

KIND = 'diffusion'  # in weights files
STRIDE = 8  # both sides of a picture are multiples of it

SPREAD = 0.5  # standard deviation of pictures in -1..1
_FREQUENCIES = 12  # in which a time is written
_HIGHEST = 6.0  # the finest of them, in octaves over the slowest


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """Sizes of a `DiffusionNet`.

    Attributes:
        widths: channels at 1/2, 1/4 and 1/8 of the size.
        depths: residual blocks there, on the way down and in the middle.
        context: channels of what all blocks are told: time and condition.
        condition: numbers that say what a picture shall be like.
        examples: conditions of training pictures that are kept with the weights.
    """

    widths: tuple[int, int, int] = (48, 96, 128)
    depths: tuple[int, int, int] = (1, 1, 2)
    context: int = 128
    condition: int = 7
    examples: int = 256


class DiffusionNet(nn.Module):
    """Noisy pictures -> velocity.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.

    Attributes:
        examples: (E, C) conditions of training pictures, to draw new ones from.
    """

    examples: Tensor

    def __init__(
        self,
        config: DiffusionConfig = DiffusionConfig(),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        low, middle, high = config.widths
        self.context = Context(config, generator)
        self.stem = Conv2d(12, low, generator=generator)
        self.down1 = _blocks(low, low, config.depths[0], config.context, generator)
        self.halve1 = Conv2d(low, middle, 2, 2, generator=generator)
        self.down2 = _blocks(middle, middle, config.depths[1], config.context, generator)
        self.halve2 = Conv2d(middle, high, 2, 2, generator=generator)
        self.deep = _blocks(high, high, config.depths[2], config.context, generator)
        self.up2 = _blocks(high + middle, middle, 1, config.context, generator)
        self.up1 = _blocks(middle + low, low, 1, config.context, generator)
        self.last = _silenced(Conv2d(low, 12, generator=generator))
        self.register_buffer('examples', torch.zeros(config.examples, config.condition))

    def forward(self, noisy: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """The direction from picture to noise.

        Args:
            noisy: (B, 3, H, W) state, pictures in -1..1; both sides multiples of 8.
            time: (B,) 0 (picture) to 1 (noise).
            condition: (B, C).

        Returns:
            (B, 3, H, W) velocity d state / d time.

        Raises:
            NetworkError: the tensors do not have these shapes.
        """
        self._check(noisy, time, condition)
        scale = difficulty(time)[:, None, None, None]
        share = time[:, None, None, None]
        context = self.context(time, condition)
        half = _run(self.down1, self.stem(F.pixel_unshuffle(noisy / scale, 2)), context)
        quarter = _run(self.down2, self.halve1(half), context)
        x = _run(self.deep, self.halve2(quarter), context)
        x = _run(self.up2, torch.cat([_doubled(x), quarter], dim=1), context)
        x = _run(self.up1, torch.cat([_doubled(x), half], dim=1), context)
        learned = F.pixel_shuffle(self.last(x), 2).float()
        linear = (share - (1.0 - share) * SPREAD**2) / scale.square() * noisy
        return linear + SPREAD / scale * learned

    def tileable(self) -> DiffusionNet:
        """A copy for making pictures that wrap around: what leaves at one edge enters opposite.

        Training pictures end at their edges and are padded with zeros. The network makes no other
        use of where an edge is, so on a torus all of the picture is inside.
        """
        network = copy.deepcopy(self).requires_grad_(False).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
                module.padding_mode = 'circular'
        return network

    def _check(self, noisy: Tensor, time: Tensor, condition: Tensor) -> None:
        count = len(noisy)
        is_picture = noisy.ndim == 4 and noisy.shape[1] == 3
        if not is_picture or any(side < STRIDE or side % STRIDE for side in noisy.shape[2:]):
            raise NetworkError(
                f'pictures {tuple(noisy.shape)} must be (B, 3, H, W) with sides that are '
                f'multiples of {STRIDE}'
            )
        wanted = ((count,), (count, self.config.condition))
        if (tuple(time.shape), tuple(condition.shape)) != wanted:
            raise NetworkError(
                f'time {tuple(time.shape)} and condition {tuple(condition.shape)} must be '
                f'{wanted[0]} and {wanted[1]}'
            )


def difficulty(time: Tensor) -> Tensor:
    """(B,) standard deviation of the state at a time.

    The best velocity that is linear in the state leaves an error of SPREAD / difficulty.
    """
    return (time.square() + ((1.0 - time) * SPREAD).square()).sqrt()


class Context(nn.Module):
    """Time and condition -> what all blocks are told."""

    def __init__(self, config: DiffusionConfig, generator: torch.Generator) -> None:
        super().__init__()
        inputs = 2 * _FREQUENCIES + config.condition
        self.first = Linear(inputs, config.context, generator=generator)
        self.second = Linear(config.context, config.context, generator=generator)

    def forward(self, time: Tensor, condition: Tensor) -> Tensor:
        """(B,), (B, C) -> (B, D)."""
        octave = torch.linspace(0.0, _HIGHEST, _FREQUENCIES, device=time.device)
        angle = math.pi * time[:, None] * torch.exp2(octave)
        x = torch.cat([angle.cos(), angle.sin(), condition], dim=1)
        return F.silu(self.second(F.silu(self.first(x))))


class Block(nn.Module):
    """Residual block whose inner channels are scaled and shifted by the context.

    Args:
        inputs: channels in.
        outputs: channels out.
        context: channels of the context.
        generator: source of the initial weights.
    """

    def __init__(
        self, inputs: int, outputs: int, context: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.conv1 = StandardConv2d(inputs, outputs, generator=generator)
        self.film = _silenced(Linear(context, 2 * outputs, generator=generator))
        self.conv2 = _silenced(Conv2d(outputs, outputs, generator=generator))
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip = Conv2d(inputs, outputs, 1, generator=generator)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, I, H, W), (B, D) -> (B, O, H, W)."""
        scale, shift = self.film(context)[:, :, None, None].chunk(2, dim=1)
        inside = F.relu(self.conv1(x)) * (1 + scale) + shift
        return self.skip(x) + self.conv2(inside)


def load_diffusion_net(path: Path | str, sha256: str | None = None) -> DiffusionNet:
    """The network of a weights file, on the CPU.

    Args:
        path: of the file, see `nets.checkpoint`.
        sha256: what it must hash to; None takes any.

    Raises:
        NetworkError: the file is not that of such a network, whole and finite.
    """
    state, words = load_weights(path, kind=KIND, sha256=sha256)
    config = read_config(words, DiffusionConfig())
    with torch.device('meta'):  # nothing is drawn, and nothing allocated before it is checked
        network = DiffusionNet(config)
    fill(network, state)
    return network.eval()


def _blocks(
    inputs: int, outputs: int, depth: int, context: int, generator: torch.Generator
) -> nn.ModuleList:
    sizes = [inputs] + [outputs] * depth
    pairs = itertools.pairwise(sizes)
    return nn.ModuleList(Block(i, o, context, generator) for i, o in pairs)


def _run(blocks: nn.ModuleList, x: Tensor, context: Tensor) -> Tensor:
    for block in blocks:
        x = block(x, context)
    return x


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode='nearest')


def _silenced(layer: Conv2d | Linear) -> Conv2d | Linear:
    """A layer that says nothing at first, so that a block begins as its own input."""
    if not layer.weight.is_meta:
        nn.init.zeros_(layer.weight)
    return layer
