"""Blocks of convolutional networks.

A `NormedConv2d` is followed by batch normalisation (Ioffe 2015). A `StandardConv2d` scales its own
weights instead of its outputs (Qiao 2019, "Weight standardization"; the gain after Brock 2021,
"Characterizing signal propagation to close the performance gap in unnormalized ResNets"): it is
the same in training and at run time, whatever else is in the batch. Both fold into a plain
convolution. A deep trunk under a high learning rate needs the first: with standardised weights
alone all of its features died within a hundred steps.

All blocks halve a picture by windows that tile it, so that output (i, j) is centred between the
pixels 2 j and 2 j + 1: after n of them on pixel 2^n j + (2^n - 1) / 2.
"""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

_RELU_GAIN = math.sqrt(2.0 / (1.0 - 1.0 / math.pi))  # keeps the variance through conv and ReLU
_EPSILON = 1e-6
_MIN_MEAN = 1e-4  # of a feature map in GeM: its root has no slope at zero

Module = TypeVar('Module', bound=nn.Module)


class Conv2d(nn.Conv2d):
    """Torch's convolution, padded to keep the size, with initial weights from a generator.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: side of the filters; less the stride it is even.
        stride: pixels from one output to the next.
        generator: source of the initial weights (He 2015); None stands for seed 0.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=(kernel - stride) // 2)
        _initialize(self, generator)

    def reset_parameters(self) -> None:
        """Nothing: torch would draw from its own generator what is overwritten at once."""


class Linear(nn.Linear):
    """Torch's linear layer with initial weights from a generator; see `Conv2d`."""

    def __init__(
        self, inputs: int, outputs: int, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(inputs, outputs)
        _initialize(self, generator)

    def reset_parameters(self) -> None:
        """Nothing, as in `Conv2d`."""


class StandardConv2d(Conv2d):
    """Convolution whose filters have zero mean and unit variance times a learned gain."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, generator=generator)
        self.gain = nn.Parameter(torch.ones(outputs))

    def standardized(self) -> Tensor:
        """(O, I, K, K) the filters that are applied."""
        var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        fan_in = self.weight[0].numel()
        scale = self.gain[:, None, None, None] * _RELU_GAIN * torch.rsqrt(var * fan_in + _EPSILON)
        return (self.weight - mean) * scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        return self._conv_forward(x, self.standardized(), self.bias)

    def folded(self) -> nn.Conv2d:
        """A plain convolution with the same result."""
        assert self.bias is not None
        return _plain(self, self.standardized().detach(), self.bias.detach())


class NormedConv2d(Conv2d):
    """Convolution without bias, then batch normalisation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, generator=generator)
        self.register_parameter('bias', None)
        self.norm = _BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W')."""
        return self.norm(self._conv_forward(x, self.weight, None))

    def folded(self) -> nn.Conv2d:
        """A plain convolution that does what this one does in evaluation."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = (norm.weight * torch.rsqrt(norm.running_var + norm.eps)).detach()
        return _plain(
            self, self.weight.detach() * scale[:, None, None, None],
            norm.bias.detach() - norm.running_mean * scale,
        )  # fmt: skip


class _BatchNorm(nn.BatchNorm2d):
    """Without the count of batches, which is no weight and which nobody asks for."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.num_batches_tracked = None

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict[str, Any], *args: Any
    ) -> None:
        # From version 2 on torch takes a missing count for what it is.
        metadata = {**local_metadata, 'version': 2}
        super()._load_from_state_dict(state_dict, prefix, metadata, *args)


class Stage(nn.Module):
    """Half the size, then convolutions; ReLU after each.

    Args:
        inputs: channels in.
        outputs: channels out.
        depth: 3x3 convolutions after the halving.
        conv: kind of convolution.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        depth: int,
        *,
        conv: type[Conv2d] = StandardConv2d,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.down = conv(inputs, outputs, 2, 2, generator=generator)
        self.convs = nn.ModuleList(
            conv(outputs, outputs, generator=generator) for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H / 2, W / 2)."""
        x = F.relu_(self.down(x))
        for conv in self.convs:
            x = F.relu_(conv(x))
        return x


class GeneralizedMean(nn.Module):
    """One vector of a feature map: its power mean per channel (GeM, Radenovic 2018).

    The learned power moves between the average (1) and the maximum (infinity).
    """

    def __init__(self, power: float = 3.0) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) not negative -> (B, C) float32."""
        power = self.power.clamp(1.0, 10.0)
        mean = x.float().clamp(min=_MIN_MEAN).pow(power).mean(dim=(2, 3))
        return mean.pow(1.0 / power)


class Exact(nn.Module):
    """A layer that computes in float32 inside a network that does not."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        """What the layer makes of `x`."""
        return self.layer(x.float())


def upsampled(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W), linear between the pixel centres."""
    return F.interpolate(x, scale_factor=2.0, mode='bilinear', align_corners=False)


def fuse(module: Module) -> Module:
    """A copy for inference: every convolution folded, no gradients, evaluation mode."""
    fused = copy.deepcopy(module)
    for parent in list(fused.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, StandardConv2d | NormedConv2d):
                setattr(parent, name, child.folded())
    return fused.requires_grad_(False).eval()


def _plain(like: Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    with torch.device('meta'):
        plain = Conv2d(like.in_channels, like.out_channels, like.kernel_size[0], like.stride[0])
    plain.weight, plain.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return plain


def _initialize(module: nn.Conv2d | nn.Linear, generator: torch.Generator | None) -> None:
    """Normal weights that keep the variance through a ReLU, zero biases."""
    if module.weight.is_meta:  # a shape without numbers, about to be filled
        return
    generator = generator or torch.Generator('cpu').manual_seed(0)
    deviation = math.sqrt(2.0 / module.weight[0].numel())
    with torch.no_grad():
        module.weight.normal_(0.0, deviation, generator=generator)
        if module.bias is not None:
            module.bias.zero_()
