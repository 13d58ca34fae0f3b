r"""Depth and motion from the alignment pretext task alone (seed 004 [0118]-[0120]).

    image0 -> encoder -> four layers -> DPT head -> depth0, sigma0
                 |  \-> code0 \
                 |            rotation -> pose head -> T_1_0
                 |  /-> code1 /
    image1 -> encoder -> four layers -> DPT head -> depth1, sigma1

Each image has its depth for itself; only the motion is seen from both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.alignment import AlignmentNetConfig, LatentSet, PoseHead, turn_between
from kpvo_ros.nets.cross_decoder import LEVELS
from kpvo_ros.nets.depth_vo import DepthVo, DepthVoConfig, as_depth, check_cameras
from kpvo_ros.nets.dpt import DptHead
from kpvo_ros.nets.vit import VisionTransformer


class AlignedDepthVoNet(nn.Module):
    """Two images and their cameras -> `DepthVo`, as a `DepthVoNet`.

    Encoder, code and pose head have the names they have in an `AlignmentNet` and start from it.

    Args:
        config: sizes of the encoder, of at least four blocks, and of the depth head.
        code: sizes of the code, with the same encoder.
        generator: source of the initial weights, on the CPU; None stands for seed 0.

    Raises:
        NetworkError: the encoder has too few blocks.
    """

    def __init__(
        self,
        config: DepthVoConfig,
        code: AlignmentNetConfig,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        check_encoder_levels(config.encoder_depth)
        self.config, self.code = config, code
        self.encoder = VisionTransformer(config.encoder, generator=generator)
        self.latents = LatentSet(code, generator)
        self.pose = PoseHead(code.equivariant, code.pose_width, generator)
        self.depth = DptHead(
            config.encoder_width,
            config.dpt_width,
            config.head_width,
            2,
            patch_px=config.patch_px,
            generator=generator,
        )

    def forward(
        self, image0: Tensor, image1: Tensor, K0: Tensor, K1: Tensor | None = None
    ) -> DepthVo:
        """Look at pairs of images; arguments as for `DepthVoNet`."""
        K1 = K0 if K1 is None else K1
        if image0.shape != image1.shape:
            raise NetworkError(
                f'both images of a pair have one size, got {tuple(image0.shape)} and '
                f'{tuple(image1.shape)}; resize one'
            )
        check_cameras(K0, len(image0))
        check_cameras(K1, len(image1))
        depth = self.config.encoder_depth
        levels = [-(-depth * level // LEVELS) for level in range(1, LEVELS + 1)]
        layers = self.encoder.layers(torch.cat([image0, image1]), levels)
        raw = self.depth([layer.tokens for layer in layers], layers[-1].grid)
        with torch.autocast(raw.device.type, enabled=False):
            metres, log_sigma = as_depth(raw, torch.cat([K0, K1]).float())
        code0, code1 = self.latents(layers[-1].tokens).chunk(2)
        turn = turn_between(code0, code1, self.code.equivariant)
        height, width = image0.shape[-2:]
        T_1_0 = self.pose(turn, K0, K1, (height, width))
        depth0, depth1 = metres.chunk(2)
        log_sigma0, log_sigma1 = log_sigma.chunk(2)
        return DepthVo(depth0, depth1, log_sigma0, log_sigma1, T_1_0)


def check_encoder_levels(depth: int) -> None:
    """Refuse an encoder of too few blocks for a DPT head.

    Raises:
        NetworkError: there are fewer than four.
    """
    if depth < LEVELS:
        raise NetworkError(
            f'a DPT head reads {LEVELS} layers, the encoder has {depth}; give it {LEVELS} or more'
        )
