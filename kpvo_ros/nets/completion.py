"""Cross-view completion with the encoder and decoder of depth and odometry (seed 004).

    image0 -> its seen patches -> encoder -> embed, mask tokens -> decoder -> norm -> all patches
    image1 -> all its patches  -> encoder -> embed -------------------^

Seed 004 [0084]-[0102]; Weinzaepfel 2022, "CroCo". Encoder, decoder and rays are those of
`DepthVoNet`, in size and in use, so that what is learned here without any truth is where depth and
motion start from ([0098], [0099]). Rays are told where a camera is known and left out where it is
not: any video will do.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.attention import linear
from kpvo_ros.nets.checkpoint import load_network
from kpvo_ros.nets.cross_decoder import CrossDecoder
from kpvo_ros.nets.depth_vo import (
    TINY,
    DepthVoConfig,
    DepthVoNet,
    RayEmbedding,
    check_cameras,
    patch_rays,
)
from kpvo_ros.nets.vit import ON, Encoded, VisionTransformer, grid_of, sinusoidal_positions

KIND = 'completion'  # in weights files

_FAINT = 0.1  # of the first patches: nearly an even grey

# Of parts that it does not get from here.
_HEAD_SIZES = ('dpt_width', 'head_width', 'pose_width', 'fine')


class CompletionNet(nn.Module):
    """Two images, one of them with hidden patches -> all its patches.

    Args:
        config: sizes of the network that is to start from this one; those of its heads are
            carried along and build nothing here.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    def __init__(
        self, config: DepthVoConfig = TINY, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        width = config.decoder_width
        self.encoder = VisionTransformer(config.encoder, generator=generator)
        self.decoder = CrossDecoder(
            config.encoder_width,
            width,
            config.decoder_depth,
            config.decoder_heads,
            mlp_ratio=config.mlp_ratio,
            layer_scale=config.layer_scale == ON,
            generator=generator,
        )
        self.rays = RayEmbedding(width, generator)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)
        self.prediction = linear(width, 3 * config.patch_px**2, generator, _FAINT)

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        keep: Tensor | None = None,
        K0: Tensor | None = None,
        K1: Tensor | None = None,
    ) -> Tensor:
        """Complete images.

        Args:
            image0: (B, 1 or 3, H, W) in 0..1, sides multiples of the patch.
            image1: (B, 1 or 3, H', W') of the same places, from elsewhere.
            keep: (B, M) int64 patches of `image0` that are seen, counted row by row; None for all.
                Nothing of the others gets in, not even into the exposure.
            K0: (B, 3, 3) pinhole matrices of `image0`, those that are not finite are not known;
                None when none is.
            K1: of `image1`.

        Returns:
            (B, N, 3 p^2) float32, the patches of `image0`, in each colour by colour, row by row.

        Raises:
            NetworkError: the tensors are not that.
        """
        layers = self.forward_features(image0, image1, keep, K0, K1)
        return self.prediction(self.norm(layers[-1])).float()

    def forward_features(
        self,
        image0: Tensor,
        image1: Tensor,
        keep: Tensor | None = None,
        K0: Tensor | None = None,
        K1: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """(B, N, C) of `image0` after each block of the decoder; arguments as for `forward`."""
        seen = image0 if keep is None else hide(image0, keep, self.config.patch_px)
        return self.decode(self.encoder(seen, keep), self.encoder(image1), keep, K0, K1)

    def decode(
        self,
        encoded0: Encoded,
        encoded1: Encoded,
        keep: Tensor | None = None,
        K0: Tensor | None = None,
        K1: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Let an image, of which some patches are encoded, look at another one ([0091]-[0093]).

        Args:
            encoded0: of the patches that are seen.
            encoded1: of the other image.
            keep: as for `forward`.
            K0: as for `forward`.
            K1: as for `forward`.

        Returns:
            (B, N, C) of image 0 after each block of the decoder.
        """
        tokens = self.decoder.embed(encoded0.tokens)
        if keep is not None:
            rows, columns = encoded0.grid
            hidden = self.mask_token.to(tokens.dtype).expand(len(tokens), rows * columns, -1)
            index = keep[..., None].expand(-1, -1, tokens.shape[-1])
            tokens = hidden.scatter(1, index, tokens)
        memory = self.decoder.embed(encoded1.tokens)
        return self.decoder(
            self._placed(tokens, encoded0.grid, K0), self._placed(memory, encoded1.grid, K1)
        )

    def _placed(self, tokens: Tensor, grid: tuple[int, int], K: Tensor | None) -> Tensor:
        """(B, N, C) plus where they are and, behind a known camera, where they look."""
        positions = sinusoidal_positions(*grid, tokens.shape[-1], tokens.device)
        tokens = tokens + positions.to(tokens.dtype)
        if K is None:
            return tokens
        known = torch.isfinite(K).flatten(1).all(dim=1)[:, None, None]
        K = torch.where(known, K, torch.eye(3, dtype=K.dtype, device=K.device))
        check_cameras(K, len(tokens))
        rays = self.rays(patch_rays(K, grid, self.config.patch_px))
        return tokens + torch.where(known, rays, 0.0).to(tokens.dtype)


def hide(image: Tensor, keep: Tensor, patch_px: int) -> Tensor:
    """A picture of which nothing but some patches is left.

    The encoder takes mean and spread out of the whole picture, so that hidden patches would be
    heard. They are filled with a chequerboard that has mean and spread of the seen ones: the
    exposure comes from these alone, in one go with pictures that are seen whole.

    Args:
        image: (B, C, H, W), sides multiples of the patch.
        keep: (B, M) int64 patches that are seen, at least one, counted row by row.
        patch_px: their side.

    Returns:
        (B, C, H, W) float32.

    Raises:
        NetworkError: the tensors are not that.
    """
    rows, columns = grid_of(image, patch_px)
    _check_choice(keep, len(image), rows * columns)
    seen = torch.zeros(len(image), rows * columns, dtype=torch.bool, device=image.device)
    seen = seen.scatter(1, keep, True).unflatten(1, (1, rows, columns))
    seen = seen.repeat_interleave(patch_px, 2).repeat_interleave(patch_px, 3)  # (B, 1, H, W)
    image = torch.where(seen, image.float(), 0.0)
    count = image.shape[1] * seen.sum(dim=(1, 2, 3), keepdim=True)
    mean = image.sum(dim=(1, 2, 3), keepdim=True) / count
    apart = torch.where(seen, image - mean, 0.0)
    spread = (apart.square().sum(dim=(1, 2, 3), keepdim=True) / count).sqrt()
    height, width = image.shape[-2:]
    index = torch.arange(height, device=image.device)[:, None]
    sign = 1.0 - 2.0 * ((index + torch.arange(width, device=image.device)) % 2)
    return torch.where(seen, image, mean + spread * sign)


def load_completion_net(path: Path | str, sha256: str | None = None) -> CompletionNet:
    """The network of a weights file, on the CPU.

    Args:
        path: of the file, see `nets.checkpoint`.
        sha256: what it must hash to; None takes any.

    Raises:
        NetworkError: the file is not that of such a network, whole and finite.
    """
    return load_network(path, KIND, DepthVoConfig(), CompletionNet, sha256)


def start_from_completion(
    network: DepthVoNet,
    path: Path | str,
    sha256: str | None = None,
    *,
    encoder: VisionTransformer | None = None,
) -> None:
    """Give a network the encoder, decoder and rays of a completion network; its heads stay new.

    The parameters stay the same objects on the same device: an optimiser may hold them already.

    Args:
        network: without adapters.
        path: of a weights file of kind 'completion'.
        sha256: what it must hash to; None takes any.
        encoder: what gets the encoder, None for the network's own.

    Raises:
        NetworkError: the file is none, or the sizes differ.
    """
    start, whose = load_completion_net(path, sha256), f'weights {path}'
    check_same_sizes(network.config, start.config, whose, _HEAD_SIZES)
    copy_part(network.encoder if encoder is None else encoder, start.encoder, whose)
    copy_part(network.decoder, start.decoder, whose)
    copy_part(network.rays, start.rays, whose)


def check_same_sizes(
    wanted: Any, found: Any, whose: str, apart_from: tuple[str, ...] = ()
) -> None:
    """Refuse a start whose parts might fit in shape but not in meaning, as a number of heads does.

    Args:
        wanted: record of the sizes of the network that is to start.
        found: the same of what it is to start from, of a type with no more fields.
        whose: the latter, in words.
        apart_from: fields that may differ.

    Raises:
        NetworkError: another field differs.
    """
    for field in dataclasses.fields(found):
        has, needs = getattr(found, field.name), getattr(wanted, field.name)
        if field.name not in apart_from and has != needs:
            raise NetworkError(
                f'{whose} have {field.name} = {has}, the network has {needs}; build it with the '
                'same sizes'
            )


def copy_part(part: nn.Module, source: nn.Module, whose: str) -> None:
    """Overwrite all numbers of a part by those of another one, in place.

    Raises:
        NetworkError: they do not have the same tensors.
    """
    state, needed = source.state_dict(), part.state_dict()
    if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in needed.items()}:
        other = sorted(state.keys() ^ needed.keys()) or ['a shape']
        raise NetworkError(
            f'{whose} do not fit, they differ in {other[0]!r}; start with a network of the same '
            'sizes and without adapters'
        )
    part.load_state_dict(state)


def _check_choice(keep: Tensor, batch: int, count: int) -> None:
    fits = keep.ndim == 2 and len(keep) == batch and keep.dtype == torch.int64
    if not fits or not keep.shape[1]:
        raise NetworkError(
            f'a choice of patches is (B, M) int64 with B = {batch} and M > 0, got '
            f'{tuple(keep.shape)} {keep.dtype}'
        )
    if keep.numel() and (int(keep.min()) < 0 or int(keep.max()) >= count):
        raise NetworkError(
            f'the choice asks for patches {int(keep.min())}..{int(keep.max())}; the image has '
            f'0..{count - 1}'
        )
