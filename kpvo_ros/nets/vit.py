"""A vision transformer: one token for each patch (Dosovitskiy 2021; seed 004 [0090]).

    picture -> exposure taken out -> patches -> linear -> + positions -> blocks -> norm

It takes any picture whose sides are multiples of the patch, and any choice of its patches: for
cross-view completion only those that are not masked are encoded (seed 004 [0089]).
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry.sampling import resize
from kpvo_ros.nets.attention import Block, linear
from kpvo_ros.nets.rotary import Turn

OFF, ON = 1, 2  # of a switch: weights files carry numbers from 1 on, see nets/checkpoint.py
FIXED = (1, 1)  # as `VitConfig.learned_grid`: no positions are learned

_MIN_CONTRAST = 0.02  # of colours 0..1: less is noise and must not be amplified to a picture
_MAX_DEPTH = 64  # blocks; more is a damaged file and would take minutes to build
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_SPREAD = (0.229, 0.224, 0.225)
_SLOWEST = 1e4  # patches over 2 pi: longest wave of the positions (Vaswani 2017)


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """Sizes of a `VisionTransformer`; those of `DepthVoConfig` give three of them.

    Attributes:
        width: numbers per token.
        depth: blocks.
        heads: of each attention.
        mlp_ratio: hidden units of the perceptrons per number.
        patch_px: side of a patch.
        class_token: ON for one more token that belongs to the whole picture.
        layer_scale: ON for learned factors of all branches, which steadies deep networks.
        learned_grid: rows and columns of the grid on which positions are learned (others are
            interpolated), or FIXED for sinusoidal ones.

    Raises:
        NetworkError: sizes no network has.
    """

    width: int = 192
    depth: int = 6
    heads: int = 3
    mlp_ratio: int = 4
    patch_px: int = 16
    class_token: int = OFF
    layer_scale: int = OFF
    learned_grid: tuple[int, int] = FIXED

    def __post_init__(self) -> None:
        check_sizes('encoder', self.width, self.depth, self.heads)
        for name in ('class_token', 'layer_scale'):
            if getattr(self, name) not in (OFF, ON):
                raise NetworkError(
                    f'{name} is {getattr(self, name)}; give {OFF} for off or {ON} for on'
                )


def check_sizes(name: str, width: int, depth: int, heads: int) -> None:
    """Refuse what cannot be built.

    Raises:
        NetworkError: the width does not suit heads and positions, or there are too many blocks.
    """
    if min(width, depth, heads) < 1 or width % heads or width % 4 or depth > _MAX_DEPTH:
        raise NetworkError(
            f'an {name} of width {width} with {heads} heads and {depth} blocks cannot be built; '
            f'give a width that is a multiple of 4 and of the heads, and 1 to {_MAX_DEPTH} blocks'
        )


class Encoded(NamedTuple):
    """What the encoder makes of a batch of pictures.

    Attributes:
        tokens: (B, N, C), row by row; with a choice of patches, in the order of that choice.
        class_token: (B, C), or None where the encoder has none.
        grid: rows and columns of patches in the whole picture.
    """

    tokens: Tensor
    class_token: Tensor | None
    grid: tuple[int, int]


class VisionTransformer(nn.Module):
    """Pictures -> tokens.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    def __init__(
        self, config: VitConfig = VitConfig(), *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        width = config.width
        self.embed = linear(3 * config.patch_px**2, width, generator)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.heads,
                config.mlp_ratio,
                layer_scale=config.layer_scale == ON,
                generator=generator,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        if config.class_token == ON:
            self.class_token = nn.Parameter(torch.zeros(width))
        if config.learned_grid != FIXED:
            # They start as the fixed ones: neighbours are alike before anything is learned.
            rows, columns = config.learned_grid
            fixed = sinusoidal_positions(rows, columns, width)
            self.positions = nn.Parameter(fixed.T.reshape(1, width, rows, columns).clone())

    def forward(self, image: Tensor, keep: Tensor | None = None) -> Encoded:
        """Encode pictures.

        Args:
            image: (B, 1, H, W) grey or (B, 3, H, W) RGB in 0..1, sides multiples of the patch.
            keep: (B, M) int64 indices of the patches to encode, counted row by row; None for all.

        Raises:
            NetworkError: the tensors are not that.
        """
        x, grid = self._tokens(image, keep)
        turn = self._turn(grid, keep, x.device)
        for block in self.blocks:
            x = block(x, turn)
        return self._encoded(x, grid)

    def layers(self, image: Tensor, levels: Sequence[int]) -> tuple[Encoded, ...]:
        """What several blocks make of pictures, each behind the norm.

        Args:
            image: as for `forward`.
            levels: numbers of the blocks in rising order, the first is 1.

        Raises:
            NetworkError: the tensors are not that.
        """
        x, grid = self._tokens(image, None)
        turn = self._turn(grid, None, x.device)
        found = []
        for number, block in enumerate(self.blocks[: levels[-1]], start=1):
            x = block(x, turn)
            if number in levels:
                found.append(self._encoded(x, grid))
        return tuple(found)

    def _tokens(self, image: Tensor, keep: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        """(B, class token and patches, C) as the first block reads them, and the grid."""
        rows, columns = grid_of(image, self.config.patch_px)
        pixels = patches(self._picture(image), self.config.patch_px)  # (B, N, 3 p^2)
        positions = self._positions(rows, columns, image.device).expand(len(image), -1, -1)
        if keep is not None:
            pixels, positions = _chosen(pixels, keep), _chosen(positions, keep)
        x = self.embed(pixels.to(self.embed.weight.dtype))
        x = x + positions.to(x.dtype)
        if self.config.class_token == ON:
            x = torch.cat([self.class_token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        return x, (rows, columns)

    def _encoded(self, x: Tensor, grid: tuple[int, int]) -> Encoded:
        """What a block has made of tokens, behind the norm."""
        x = self.norm(x)
        if self.config.class_token == ON:
            return Encoded(x[:, 1:], x[:, 0], grid)
        return Encoded(x, None, grid)

    def _picture(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) -> (B, 3, H, W) of which patches are cut."""
        return standardized(image)

    def _turn(
        self, grid: tuple[int, int], keep: Tensor | None, device: torch.device
    ) -> Turn | None:
        """Rotary positions of the tokens; none where positions are in the tokens, as here."""
        return None

    def _positions(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """(N, C) positions of a grid."""
        if self.config.learned_grid == FIXED:
            return sinusoidal_positions(rows, columns, self.config.width, device)
        return resize(self.positions.float(), rows, columns)[0].flatten(1).T


def grid_of(image: Tensor, patch_px: int) -> tuple[int, int]:
    """Rows and columns of patches in a batch of pictures.

    Raises:
        NetworkError: no (B, 1 or 3, H, W) of floating point numbers, or sides that are no
            multiples of the patch.
    """
    if image.ndim != 4 or image.shape[1] not in (1, 3) or not image.is_floating_point():
        raise NetworkError(
            f'images are (B, 1 or 3, H, W) floating point in 0..1, got {tuple(image.shape)} '
            f'{image.dtype}'
        )
    height, width = image.shape[-2:]
    if height % patch_px or width % patch_px or not height or not width:
        raise NetworkError(
            f'an image of {width}x{height} is not made of patches of {patch_px}x{patch_px} '
            f'pixels; pad or resize it to multiples of {patch_px}'
        )
    return height // patch_px, width // patch_px


def standardized(image: Tensor) -> Tensor:
    """(B, 3, H, W) float32 without exposure and contrast: mean 0 and spread 1 over all colours."""
    image = image.float().expand(-1, 3, -1, -1)
    image = image - image.mean(dim=(1, 2, 3), keepdim=True)
    spread = image.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    return image / (spread + _MIN_CONTRAST)


def imagenet_colours(image: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) -> (B, 3, H, W) float32 less the mean colour of ImageNet, over its spread.

    For networks that were trained with it; exposure stays in.
    """
    mean, spread = (
        torch.tensor(values, device=image.device)[:, None, None]
        for values in (_IMAGENET_MEAN, _IMAGENET_SPREAD)
    )
    return (image.float() - mean) / spread


def patches(image: Tensor, patch_px: int) -> Tensor:
    """(B, C, H, W) -> (B, N, C p^2): patches row by row, in each colour by colour, row by row."""
    tiles = image.unflatten(3, (-1, patch_px)).unflatten(2, (-1, patch_px))  # (B, C, h, p, w, p)
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def sinusoidal_positions(
    rows: int, columns: int, width: int, device: torch.device | str | None = None
) -> Tensor:
    """(rows * columns, C) float32: sine and cosine of the row, then of the column.

    A quarter of the numbers each, waves from 2 pi patches to 10 000 times that, in equal steps
    (Vaswani 2017, once per axis). They depend on no size, so that any grid can be had.
    """
    quarter = width // 4
    steps = torch.arange(quarter, dtype=torch.float32, device=device) / quarter
    speed = _SLOWEST**-steps
    row = torch.arange(rows, dtype=torch.float32, device=device)[:, None] * speed
    column = torch.arange(columns, dtype=torch.float32, device=device)[:, None] * speed
    by_row = torch.cat([row.sin(), row.cos()], dim=1)[:, None].expand(-1, columns, -1)
    by_column = torch.cat([column.sin(), column.cos()], dim=1)[None].expand(rows, -1, -1)
    return torch.cat([by_row, by_column], dim=2).flatten(0, 1)


def _chosen(tokens: Tensor, keep: Tensor) -> Tensor:
    """(B, N, C) at the indices (B, M) -> (B, M, C)."""
    batch, count = tokens.shape[:2]
    if keep.ndim != 2 or len(keep) != batch or keep.dtype != torch.int64:
        raise NetworkError(
            f'a choice of patches is (B, M) int64 with B = {batch}, got {tuple(keep.shape)} '
            f'{keep.dtype}'
        )
    if keep.numel() and (int(keep.min()) < 0 or int(keep.max()) >= count):
        raise NetworkError(
            f'the choice asks for patches {int(keep.min())}..{int(keep.max())}; the image has '
            f'0..{count - 1}'
        )
    return tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
