"""From the tokens of two images to the motion between their cameras (seed 004 [0178], [0179])."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kpvo_ros.geometry.procrustes import nearest_rotation
from kpvo_ros.nets.attention import linear
from kpvo_ros.nets.cross_decoder import exchanged

_FAINT = 0.05  # of the first motions: nearly none
_POSE_SIZE = 12  # a matrix of 3 x 3 and a translation


class VoDecoder(nn.Module):
    """Tokens of both directions -> motion: the pose of either camera, and their difference.

    The tokens of an image are averaged with weights they give themselves. A perceptron of two
    layers makes 12 numbers of an image's own average and the other's ([0203]): nine are turned
    into the nearest rotation ([0120]; Brégier 2021), three are a translation in metres. Both poses
    are in one frame that is nobody's; the motion is what leads from one to the other ([0179]).

    Args:
        width: numbers per token.
        hidden: units of the perceptron.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, width: int, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.vote = linear(width, 1, generator)
        self.vote.register_parameter('bias', None)  # a softmax does not see it
        last = linear(hidden, _POSE_SIZE, generator, _FAINT)
        if not last.weight.is_meta:
            with torch.no_grad():
                last.bias[:9] = torch.eye(3).flatten()
        self.mlp: nn.Module = nn.Sequential(
            linear(2 * width, hidden, generator, math.sqrt(2.0)), nn.GELU(), last
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(2 B, N, C), first all images 0 -> (B, 4, 4) T_1_0 float32."""
        T_common_0, T_common_1 = self.poses(tokens).chunk(2)
        return difference(T_common_0, T_common_1)

    def poses(self, tokens: Tensor) -> Tensor:
        """(2 B, N, C) -> (2 B, 4, 4) poses of the cameras in a frame that each pair shares."""
        x = self.norm(tokens)
        share = self.vote(x).float().softmax(dim=1)
        summary = (share * x.float()).sum(dim=1).to(x.dtype)
        numbers = self.mlp(torch.cat([summary, exchanged(summary)], dim=1)).float()
        R = nearest_rotation(numbers[:, :9].unflatten(1, (3, 3)))
        return _pose(R, numbers[:, 9:])


def difference(T_c_0: Tensor, T_c_1: Tensor) -> Tensor:
    """(B, 4, 4) `T_1_0 = inverse(T_c_1) @ T_c_0` of rigid poses."""
    with torch.autocast(T_c_0.device.type, enabled=False):  # half precision is no pose
        R_1_c = T_c_1[:, :3, :3].transpose(1, 2)
        apart = T_c_0[:, :3, 3:] - T_c_1[:, :3, 3:]
        return _pose(R_1_c @ T_c_0[:, :3, :3], (R_1_c @ apart)[..., 0])


def _pose(R: Tensor, t: Tensor) -> Tensor:
    """(B, 4, 4) from (B, 3, 3) and (B, 3)."""
    above = torch.cat([R, t[..., None]], dim=-1)
    below = above.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(above), 1, 4)
    return torch.cat([above, below], dim=1)
