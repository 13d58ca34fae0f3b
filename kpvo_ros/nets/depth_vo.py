r"""Depth of two images and the motion between them, from one network (seed 004 [0176]-[0187]).

    image0 -> encoder -> decoder (looks at 1) -> DPT head -> depth0, sigma0
                 |  \  /                     \-> VO decoder -> pose of camera 0 \
                 |   ><       shared weights                                      T_1_0
                 |  /  \                     /-> VO decoder -> pose of camera 1 /
    image1 -> encoder -> decoder (looks at 0) -> DPT head -> depth1, sigma1

Both images go through every part as one batch. Hence two equal images have the motion identity,
and exchanged ones the inverse motion, up to rounding and before anything is learned.

Intrinsics are an input, in two places. The decoder is told the ray through the centre of every
patch and the focal lengths, embedded and added to its tokens: the same shift of pixels is another
rotation behind another lens. And depths are made for a focal length of 200 px and scaled by the
actual one (Yin 2023, "Metric3D"): what looks the same through twice the focal length, in size and
in parallax, is twice as far; this need not be learned. The encoder sees pictures only, so that
pretext tasks without a known camera can train it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry.sampling import pixel_grid
from kpvo_ros.nets.attention import linear
from kpvo_ros.nets.checkpoint import load_network
from kpvo_ros.nets.cross_decoder import (
    CrossDecoder,
    check_levels,
    exchanged,
    spread_layers,
)
from kpvo_ros.nets.dpt import DptHead
from kpvo_ros.nets.fine_path import PATCH_PX, WIDTHS, Fine, FinePath
from kpvo_ros.nets.layers import Exact
from kpvo_ros.nets.vit import (
    FIXED,
    OFF,
    ON,
    Encoded,
    VisionTransformer,
    VitConfig,
    check_sizes,
    sinusoidal_positions,
)
from kpvo_ros.nets.vo_decoder import VoDecoder

KIND = 'depth_vo'  # in weights files
MIN_SIGMA, MAX_SIGMA = math.exp(-5.0), math.exp(5.0)  # of the logarithm of depth

_FOCAL_PX = 200.0  # of the camera for which depths are made
_FIRST_DEPTH_M = 3.0  # everywhere, with that camera, before anything is learned
_FAR = math.log(1000.0)  # depths are between 1/1000 and 1000 times the first one
_RAY_SIZE = 5  # numbers that tell the ray of a patch


class DepthVo(NamedTuple):
    """What the network tells about a pair of images, all float32.

    Attributes:
        depth0: (B, 1, H, W) metres along the optical axis of camera 0, positive.
        depth1: (B, 1, H, W) the same for camera 1.
        log_sigma0: (B, 1, H, W) logarithm of the standard deviation of log(depth0).
        log_sigma1: (B, 1, H, W) the same for `depth1`.
        T_1_0: (B, 4, 4) pose of camera 0 in camera 1 (optical frames), metres: it maps points of
            camera 0 into camera 1.
    """

    depth0: Tensor
    depth1: Tensor
    log_sigma0: Tensor
    log_sigma1: Tensor
    T_1_0: Tensor


@dataclasses.dataclass(frozen=True)
class DepthVoConfig:
    """Sizes of a `DepthVoNet`; see `TINY`, `SMALL`, `BASE`.

    Attributes:
        encoder_width: numbers per token of the encoder.
        encoder_depth: its blocks.
        encoder_heads: of its attentions.
        decoder_width: numbers per token of the decoder.
        decoder_depth: its blocks, at least four.
        decoder_heads: of its attentions.
        mlp_ratio: hidden units of all perceptrons per number.
        patch_px: side of a patch, a multiple of 8.
        dpt_width: channels of the maps in the DPT head.
        head_width: channels on the way to full size.
        pose_width: hidden units of the VO decoder.
        class_token: of the encoder, see `VitConfig`.
        layer_scale: of all blocks, see `VitConfig`.
        learned_grid: of the encoder's positions, see `VitConfig`.
        fine: ON for convolutions beside the transformer, see `fine_path`; patches of 16 only.

    Raises:
        NetworkError: sizes no network has.
    """

    encoder_width: int = 192
    encoder_depth: int = 6
    encoder_heads: int = 3
    decoder_width: int = 192
    decoder_depth: int = 4
    decoder_heads: int = 3
    mlp_ratio: int = 4
    patch_px: int = 16
    dpt_width: int = 32
    head_width: int = 16
    pose_width: int = 128
    class_token: int = OFF
    layer_scale: int = OFF
    learned_grid: tuple[int, int] = FIXED
    fine: int = OFF

    def __post_init__(self) -> None:
        if self.fine not in (OFF, ON) or (self.fine == ON and self.patch_px != PATCH_PX):
            raise NetworkError(
                f'fine is {self.fine} with patches of {self.patch_px} px; give {OFF} for off, or '
                f'{ON} for on with patches of {PATCH_PX}'
            )
        check_sizes('decoder', self.decoder_width, self.decoder_depth, self.decoder_heads)
        check_levels(self.decoder_depth)
        assert self.encoder  # its record has checks of its own

    @property
    def encoder(self) -> VitConfig:
        """Sizes of the encoder."""
        return VitConfig(
            width=self.encoder_width,
            depth=self.encoder_depth,
            heads=self.encoder_heads,
            mlp_ratio=self.mlp_ratio,
            patch_px=self.patch_px,
            class_token=self.class_token,
            layer_scale=self.layer_scale,
            learned_grid=self.learned_grid,
        )


TINY = DepthVoConfig(fine=ON)
SMALL = DepthVoConfig(384, 12, 6, 256, 8, 8, dpt_width=96, head_width=48, pose_width=256, fine=ON)
BASE = DepthVoConfig(
    768, 12, 12, 512, 8, 16, dpt_width=256, head_width=128, pose_width=512, fine=ON
)


class PairFeatures(NamedTuple):
    """What the heads read; the first half of a batch of 2 B belongs to image 0.

    Attributes:
        layers: four layers of the decoder, (2 B, N, C) each, the last one last.
        grid: rows and columns of the N tokens.
        fine: maps beside the transformer, None where the network has none.
    """

    layers: tuple[Tensor, ...]
    grid: tuple[int, int]
    fine: Fine | None = None


class DepthVoNet(nn.Module):
    """Two images and their cameras -> `DepthVo`.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    def __init__(
        self, config: DepthVoConfig = TINY, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        self.encoder = VisionTransformer(config.encoder, generator=generator)
        self.decoder = CrossDecoder(
            config.encoder_width,
            config.decoder_width,
            config.decoder_depth,
            config.decoder_heads,
            mlp_ratio=config.mlp_ratio,
            layer_scale=config.layer_scale == ON,
            generator=generator,
        )
        self.rays = RayEmbedding(config.decoder_width, generator)
        self.depth = DptHead(
            config.decoder_width,
            config.dpt_width,
            config.head_width,
            2,
            patch_px=config.patch_px,
            beside=WIDTHS[::-1] if config.fine == ON else (),
            generator=generator,
        )
        self.fine = FinePath(config.decoder_width, generator) if config.fine == ON else None
        self.motion = VoDecoder(config.decoder_width, config.pose_width, generator)
        # Faster convolutions on a CPU; torch's stubs do not know this call.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, image0: Tensor, image1: Tensor, K0: Tensor, K1: Tensor | None = None
    ) -> DepthVo:
        """Look at pairs of images.

        Args:
            image0: (B, 1, H, W) grey or (B, 3, H, W) RGB in 0..1, sides multiples of the patch:
                pad at the right and the bottom, which leaves K as it is, or resize with K.
            image1: the same shape.
            K0: (B, 3, 3) pinhole matrix of image 0, pixels of this very size; lens distortion is
                the caller's to remove.
            K1: (B, 3, 3) of image 1; None when it is the same camera.

        Raises:
            NetworkError: the tensors are not that.
        """
        features = self.forward_features(image0, image1, K0, K1)
        K1 = K0 if K1 is None else K1
        return self.forward_head(features, torch.cat([K0, K1]))

    def forward_features(
        self, image0: Tensor, image1: Tensor, K0: Tensor, K1: Tensor | None = None
    ) -> PairFeatures:
        """Encoder and decoder alone, for other tasks; arguments as for `forward`."""
        K1 = K0 if K1 is None else K1
        if image0.shape != image1.shape:
            raise NetworkError(
                f'both images of a pair have one size, got {tuple(image0.shape)} and '
                f'{tuple(image1.shape)}; resize one'
            )
        check_cameras(K0, len(image0))
        check_cameras(K1, len(image1))
        images = torch.cat([image0, image1])
        return self.join(self.encoder(images), images, torch.cat([K0, K1]))

    def join(self, encoded: Encoded, images: Tensor, K: Tensor) -> PairFeatures:
        """Let encoded images look at each other.

        A video's image 1 is the next pair's image 0: who keeps its tokens saves half the encoder.

        Args:
            encoded: of 2 B images, first all images 0, then all images 1.
            images: (2 B, 1 or 3, H, W) themselves.
            K: (2 B, 3, 3).
        """
        tokens, grid = self.decoder.embed(encoded.tokens), encoded.grid
        positions = sinusoidal_positions(*grid, tokens.shape[-1], tokens.device)
        rays = self.rays(patch_rays(K, grid, self.config.patch_px))
        tokens = tokens + positions.to(tokens.dtype) + rays.to(tokens.dtype)
        fine = None if self.fine is None else self.fine(images)
        if fine is not None:
            tokens = tokens + fine.tokens.to(tokens.dtype)
        layers = self.decoder(tokens, exchanged(tokens))
        return PairFeatures(spread_layers(layers), grid, fine)

    def forward_head(self, features: PairFeatures, K: Tensor) -> DepthVo:
        """The heads alone.

        Args:
            features: result of `forward_features` or `join`.
            K: (2 B, 3, 3), first all cameras 0, then all cameras 1.
        """
        fine = features.fine
        beside = () if fine is None else (fine.eighth, fine.quarter, fine.half)
        raw = self.depth(features.layers, features.grid, beside)  # (2 B, 2, H, W)
        with torch.autocast(raw.device.type, enabled=False):
            depth, log_sigma = as_depth(raw, K.float())
        depth0, depth1 = depth.chunk(2)
        log_sigma0, log_sigma1 = log_sigma.chunk(2)
        T_1_0 = self.motion(features.layers[-1])
        return DepthVo(depth0, depth1, log_sigma0, log_sigma1, T_1_0)

    def fused(self, dtype: torch.dtype = torch.float32) -> DepthVoNet:
        """A copy for inference with the same result: no gradients, evaluation mode.

        In bfloat16 the last steps of depth and pose stay exact: 8 bits are steps of 1 % of depth.
        """
        network = copy.deepcopy(self).requires_grad_(False).eval().to(dtype)
        if dtype != torch.float32:
            network.depth.last = Exact(network.depth.last)
            network.motion.mlp = Exact(network.motion.mlp)
        return network


def load_depth_vo_net(path: Path | str, sha256: str | None = None) -> DepthVoNet:
    """The network of a weights file, on the CPU.

    Args:
        path: of the file, see `nets.checkpoint`.
        sha256: what it must hash to; None takes any.

    Raises:
        NetworkError: the file is not that of a depth and odometry network, whole and finite.
    """
    network = load_network(path, KIND, DepthVoConfig(), DepthVoNet, sha256)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class RayEmbedding(nn.Module):
    """Where the patches look -> what is added to their tokens.

    Args:
        width: numbers per token.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, width: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.hidden = linear(_RAY_SIZE, width, generator, math.sqrt(2.0))
        self.out = linear(width, width, generator)

    def forward(self, rays: Tensor) -> Tensor:
        """(B, N, 5) -> (B, N, C)."""
        return self.out(F.gelu(self.hidden(rays.to(self.hidden.weight.dtype))))


def patch_rays(K: Tensor, grid: tuple[int, int], patch_px: int) -> Tensor:
    """Where patches look and how much they see.

    Args:
        K: (B, 3, 3) pinhole matrices without skew.
        grid: rows and columns of patches.
        patch_px: their side.

    Returns:
        (B, N, 5) float32: unit vector through the centre of each patch (optical frame), and the
        logarithms of both focal lengths over 200 px, row by row.
    """
    centre = patch_px * pixel_grid(*grid, device=K.device).flatten(0, 1) + (patch_px - 1) / 2
    focal, principal = _focal_px(K)[:, None], K[:, None, :2, 2].float()
    xy = (centre - principal) / focal  # (B, N, 2)
    direction = F.normalize(F.pad(xy, (0, 1), value=1.0), dim=-1)
    angle = (focal / _FOCAL_PX).log().expand_as(xy)
    return torch.cat([direction, angle], dim=-1)


def as_depth(raw: Tensor, K: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the head -> depth and its uncertainty, whatever the numbers are.

    Args:
        raw: (B, 2, H, W).
        K: (B, 3, 3).

    Returns:
        (B, 1, H, W) metres, positive, and (B, 1, H, W) log of sigma of log depth.
    """
    log_depth, log_sigma = raw.chunk(2, dim=1)
    focal = _focal_px(K).log().mean(dim=1)[:, None, None, None]  # of a pixel with as large an area
    scale = focal + math.log(_FIRST_DEPTH_M / _FOCAL_PX)
    return (scale + _limited(log_depth, _FAR)).exp(), _limited(log_sigma, math.log(MAX_SIGMA))


def check_cameras(K: Tensor, count: int) -> None:
    """Refuse what is no batch of pinhole matrices.

    Raises:
        NetworkError: another shape, or a focal length that is not positive.
    """
    if K.shape != (count, 3, 3) or not K.is_floating_point():
        raise NetworkError(
            f'cameras are ({count}, 3, 3) floating point, one for each image, got '
            f'{tuple(K.shape)} {K.dtype}'
        )
    if not bool((_focal_px(K) > 0).all()):
        raise NetworkError('a focal length is not positive; give the pinhole matrix in pixels')


def _focal_px(K: Tensor) -> Tensor:
    """(B, 2) focal lengths."""
    return K.diagonal(dim1=1, dim2=2)[:, :2].float()


def _limited(x: Tensor, limit: float) -> Tensor:
    """About x near zero, never beyond the limit, smooth: training can always come back."""
    return limit * torch.tanh(x / limit)
