"""Cross-view alignment: one image becomes the other by a rotation of its code (seed 004, Caiman).

    image0 -> encoder -> n vectors ask its tokens -> code0 --- turn ---> moved -> decoder -> image1
    image1 -> encoder -> n vectors ask its tokens -> code1 ----'
                                          turn -> pose head -> T_1_0

Seed 004 [0109]-[0121]. A code is an ordered set of n vectors. The first D numbers of each are
equivariant: from one view of a place to another they are turned, all vectors by the same rotation
of D dimensions, which is found in closed form (eq. 3). The others say what does not change. What
the encoder must learn so that the turned code of one image draws the other one is how the camera
has moved. The encoder is the `VisionTransformer` of depth and odometry.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry.procrustes import best_rotation, nearest_rotation
from kpvo_ros.nets.attention import Block, linear
from kpvo_ros.nets.checkpoint import load_network
from kpvo_ros.nets.cross_decoder import CrossDecoder, exchanged
from kpvo_ros.nets.depth_vo import DepthVoConfig
from kpvo_ros.nets.layers import Conv2d
from kpvo_ros.nets.vit import (
    FIXED,
    OFF,
    VisionTransformer,
    VitConfig,
    check_sizes,
    sinusoidal_positions,
    standardized,
)
from kpvo_ros.nets.vo_decoder import difference

KIND = 'alignment'  # in weights files

_FIRST = 0.1  # spread of the vectors before they have asked: little beside what they hear
_CONTRAST = 0.25  # of a picture without exposure, in colours of 0..1
_FAINT = 0.05  # of the first motions and pictures: nearly none
_KERNEL = 5  # of the last convolution, [0116]
_FOCAL_SHARE = 0.8  # of the sides of the picture: a usual lens
_POSE_SIZE = 12  # a matrix of 3 x 3 and a translation


@dataclasses.dataclass(frozen=True)
class AlignmentNetConfig:
    """Sizes of an `AlignmentNet`.

    Attributes:
        encoder_width: numbers per token of the encoder.
        encoder_depth: its blocks.
        encoder_heads: of its attentions.
        mlp_ratio: hidden units of all perceptrons per number.
        patch_px: side of a patch.
        class_token: of the encoder, see `VitConfig`.
        layer_scale: of the encoder, see `VitConfig`.
        learned_grid: of the encoder's positions, see `VitConfig`.
        latents: vectors of a code, 512 in the seed.
        latent_width: numbers of each, 128 in the seed.
        latent_depth: blocks in which the vectors of a code talk to each other.
        latent_heads: of their attentions.
        equivariant: numbers of each vector that are turned, 24 in the seed.
        decoder_depth: blocks in which the patches of a picture ask a code.
        feature_width: channels behind a pixel before the last convolution.
        pose_width: hidden units of the pose head.

    Raises:
        NetworkError: sizes no network has.
    """

    encoder_width: int = 192
    encoder_depth: int = 6
    encoder_heads: int = 3
    mlp_ratio: int = 4
    patch_px: int = 16
    class_token: int = OFF
    layer_scale: int = OFF
    learned_grid: tuple[int, int] = FIXED
    latents: int = 128
    latent_width: int = 128
    latent_depth: int = 4
    latent_heads: int = 4
    equivariant: int = 24
    decoder_depth: int = 2
    feature_width: int = 8
    pose_width: int = 128

    def __post_init__(self) -> None:
        assert self.encoder  # its record has checks of its own
        check_sizes('alignment code', self.latent_width, self.latent_depth, self.latent_heads)
        check_sizes('alignment decoder', self.latent_width, self.decoder_depth, self.latent_heads)
        most = min(self.latent_width, self.latents)
        if not 2 <= self.equivariant <= most:
            raise NetworkError(
                f'{self.equivariant} equivariant numbers of {self.latents} vectors of '
                f'{self.latent_width} decide no rotation; give 2 to {most}'
            )

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


def alignment_sizes(config: DepthVoConfig, **sizes: int) -> AlignmentNetConfig:
    """Those with the encoder of a depth and odometry network.

    Args:
        config: of that network.
        sizes: of the code and its decoder, by the names of `AlignmentNetConfig`.
    """
    names = {field.name for field in dataclasses.fields(AlignmentNetConfig)}
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(DepthVoConfig)}
    return AlignmentNetConfig(**{n: v for n, v in shared.items() if n in names} | sizes)


class Alignment(NamedTuple):
    """What becomes of B pairs, in both directions: first image 1 from image 0, then back.

    Attributes:
        rebuilt: (2 B, 3, H, W) float32, see `plain_picture`.
        moved: (2 B, n, K) float32, codes of the images they were rebuilt from, turned.
        code: (2 B, n, K) float32, codes of the images that they should be.
        turn: (B, D, D) float32, rotation from the code of image 0 to that of image 1.
    """

    rebuilt: Tensor
    moved: Tensor
    code: Tensor
    turn: Tensor


class AlignmentNet(nn.Module):
    """Two images of one place -> `Alignment`, and the motion of the camera.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    def __init__(
        self,
        config: AlignmentNetConfig = AlignmentNetConfig(),
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        self.encoder = VisionTransformer(config.encoder, generator=generator)
        self.latents = LatentSet(config, generator)
        self.decoder = PictureDecoder(config, generator)
        self.pose = PoseHead(config.equivariant, config.pose_width, generator)

    def forward(self, image0: Tensor, image1: Tensor) -> Alignment:
        """Turn pairs into each other.

        Args:
            image0: (B, 1 or 3, H, W) in 0..1, sides multiples of the patch.
            image1: the same shape.

        Raises:
            NetworkError: the tensors are not that.
        """
        code0, code1 = self.codes(image0, image1)
        turn = turn_between(code0, code1, self.config.equivariant)
        moved = torch.cat([turned(code0, turn), turned(code1, turn.mT)])
        rows, columns = (side // self.config.patch_px for side in image0.shape[-2:])
        return Alignment(
            self.decoder(moved, (rows, columns)), moved, torch.cat([code1, code0]), turn
        )

    def codes(self, image0: Tensor, image1: Tensor) -> tuple[Tensor, Tensor]:
        """(B, n, K) float32 of both images of pairs; arguments as for `forward`."""
        if image0.shape != image1.shape:
            raise NetworkError(
                f'both images of a pair have one size, got {tuple(image0.shape)} and '
                f'{tuple(image1.shape)}; resize one'
            )
        code0, code1 = self.encode(torch.cat([image0, image1])).chunk(2)
        return code0, code1

    def encode(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) -> code (B, n, K) float32."""
        return self.latents(self.encoder(image).tokens)


def load_alignment_net(path: Path | str, sha256: str | None = None) -> AlignmentNet:
    """The network of a weights file, on the CPU.

    Args:
        path: of the file, see `nets.checkpoint`.
        sha256: what it must hash to; None takes any.

    Raises:
        NetworkError: the file is not that of such a network, whole and finite.
    """
    return load_network(path, KIND, AlignmentNetConfig(), AlignmentNet, sha256)


# -- the rotation -----------------------------------------------------------------------------


def turn_between(code0: Tensor, code1: Tensor, equivariant: int) -> Tensor:
    """The rotation of D dimensions that brings one code nearest to another ([0114], eq. 3).

    Args:
        code0: (B, n, K), of which the first D numbers count.
        code1: the same shape.
        equivariant: D.

    Returns:
        (B, D, D) float32 or better; exchanged codes have the inverse. Differentiable.
    """
    return best_rotation(code0[..., :equivariant], code1[..., :equivariant])


def turned(code: Tensor, turn: Tensor) -> Tensor:
    """(B, n, K) with the first D numbers turned by (B, D, D), the others as they are."""
    size = turn.shape[-1]
    with torch.autocast(code.device.type, enabled=False):  # half precision is no rotation
        equivariant = code[..., :size].to(turn.dtype) @ turn.mT
    return torch.cat([equivariant.to(code.dtype), code[..., size:]], dim=-1)


def plain_picture(image: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) -> (B, 3, H, W) float32 around 0 without exposure: what is rebuilt.

    The encoder does not see exposure, so it cannot be asked for. The contrast is a usual one, so
    that distances of colours mean what they mean in pictures of 0..1.
    """
    return _CONTRAST * standardized(image)


# -- parts ------------------------------------------------------------------------------------


class LatentSet(nn.Module):
    """Tokens of an image -> its code: n vectors ask them, then talk to each other ([0112]).

    Args:
        config: sizes.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, config: AlignmentNetConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        width, heads = config.latent_width, config.latent_heads
        self.first = nn.Parameter(torch.zeros(config.latents, width))
        if not self.first.is_meta:
            with torch.no_grad():
                self.first.normal_(0.0, _FIRST, generator=generator)
        self.ask = CrossDecoder(
            config.encoder_width, width, 1, heads, mlp_ratio=config.mlp_ratio, generator=generator
        )
        self.blocks = nn.ModuleList(
            Block(width, heads, config.mlp_ratio, generator=generator)
            for _ in range(config.latent_depth)
        )
        # Vectors of a fixed size: else small ones would be as good as equal ones to the loss.
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, n, K) float32, each vector of mean 0 and spread 1."""
        memory = self.ask.embed(tokens)
        vectors = self.first.to(memory.dtype).expand(len(tokens), -1, -1)
        (vectors,) = self.ask(vectors, memory)
        for block in self.blocks:
            vectors = block(vectors)
        return self.norm(vectors.float())


class PictureDecoder(nn.Module):
    """A code -> a picture: each patch asks by its position ([0116]).

    Args:
        config: sizes.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, config: AlignmentNetConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self._patch_px, width = config.patch_px, config.latent_width
        self.place = linear(width, width, generator)
        self.answer = CrossDecoder(
            width,
            width,
            config.decoder_depth,
            config.latent_heads,
            mlp_ratio=config.mlp_ratio,
            generator=generator,
        )
        self.norm = nn.LayerNorm(width)
        self.spread = linear(width, config.feature_width * config.patch_px**2, generator)
        self.last = Conv2d(config.feature_width, 3, _KERNEL, generator=generator)
        if not self.last.weight.is_meta:
            with torch.no_grad():
                self.last.weight.mul_(_FAINT)

    def forward(self, code: Tensor, grid: tuple[int, int]) -> Tensor:
        """Codes (B, n, K) and rows and columns of patches -> (B, 3, H, W) float32."""
        positions = sinusoidal_positions(*grid, code.shape[-1], code.device)
        places = self.place(positions.to(self.place.weight.dtype)).expand(len(code), -1, -1)
        memory = self.answer.embed(code.to(self.answer.embed.weight.dtype))
        patches = self.spread(self.norm(self.answer(places, memory)[-1]))
        patches = patches.unflatten(1, grid).permute(0, 3, 1, 2)
        features = F.pixel_shuffle(patches, self._patch_px)
        return self.last(F.relu(features)).float()


class PoseHead(nn.Module):
    """The rotation between two codes -> the motion of the camera ([0120]).

    A perceptron makes 12 numbers of the rotation and of both lenses: nine are turned into the
    nearest rotation (Brégier 2021), three are a translation in metres. The inverse rotation gives
    the pose of the other camera, and the motion is their difference, as in `VoDecoder`: equal
    images have no motion, exchanged ones the inverse.

    Args:
        equivariant: D.
        hidden: units of the perceptron.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, equivariant: int, hidden: int, generator: torch.Generator | None) -> None:
        super().__init__()
        last = linear(hidden, _POSE_SIZE, generator, _FAINT)
        if not last.weight.is_meta:
            with torch.no_grad():
                last.bias[:9] = torch.eye(3).flatten()
        first = linear(equivariant**2 + 4, hidden, generator, math.sqrt(2.0))
        self.mlp = nn.Sequential(first, nn.GELU(), last)

    def forward(
        self,
        turn: Tensor,
        K0: Tensor | None = None,
        K1: Tensor | None = None,
        size_hw: tuple[int, int] = (1, 1),
    ) -> Tensor:
        """Tell the motion.

        Args:
            turn: (B, D, D) from the code of image 0 to that of image 1.
            K0: (B, 3, 3) pinhole matrices of image 0; those that are not finite, or None, stand
                for a usual lens.
            K1: of image 1.
            size_hw: of both images in pixels, height first.

        Returns:
            (B, 4, 4) T_1_0 float32, metres.
        """
        both = torch.cat([turn, turn.mT])
        # A rotation has entries of 1 / sqrt(D), the perceptron wants numbers of about 1.
        numbers = [(both * math.sqrt(turn.shape[-1])).flatten(1)]
        lens = torch.cat([_lens(K, turn, size_hw) for K in (K0, K1)])
        numbers += [lens, exchanged(lens)]
        poses = self.mlp(torch.cat(numbers, dim=1).to(next(self.mlp.parameters()).dtype)).float()
        R = nearest_rotation(poses[:, :9].unflatten(1, (3, 3)))
        above = torch.cat([R, poses[:, 9:, None]], dim=-1)
        below = above.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(above), 1, 4)
        T_common_0, T_common_1 = torch.cat([above, below], dim=1).chunk(2)
        return difference(T_common_0, T_common_1)


def _lens(K: Tensor | None, like: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """(B, 2) logarithms of the focal lengths in sides of the picture over usual ones."""
    if K is None:
        return like.new_zeros(len(like), 2)
    side = K.new_tensor([size_hw[1], size_hw[0]])
    share = K.diagonal(dim1=1, dim2=2)[:, :2] / (side * _FOCAL_SHARE)
    known = torch.isfinite(K).flatten(1).all(dim=1, keepdim=True) & (share > 0)
    return torch.where(known, share, 1.0).log().to(like.dtype)
