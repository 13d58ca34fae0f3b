"""Depth of one image: a vision transformer and a dense prediction head, as Depth Anything V2.

    picture -> ViT-S/14, DINOv2 -> blocks 3, 6, 9, 12 -> DPT head -> inverse depth, or metres

Yang 2024, "Depth Anything V2"; Oquab 2023, "DINOv2"; Ranftl 2021, "Vision transformers for dense
prediction". The parts are those of the public model in number, order and size, so that its weights
fit (`nets.importing`). What the answers mean depends on how they were trained:

- relative: inverse depth up to an unknown scale and shift per image, large is near;
- metric: metres along the optical axis, from 0 to the farthest depth of the training.

Two things are computed elsewhere than in the public model, with the same result: transposed
convolutions whose windows tile the picture are a linear layer per token, and the 1x1 convolution
of a fusion comes before the map is made larger. `nets.dpt` is the lighter head for own training.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry.sampling import resize
from kpvo_ros.nets.attention import linear
from kpvo_ros.nets.checkpoint import fill, load_weights, read_config
from kpvo_ros.nets.dpt import Fusion
from kpvo_ros.nets.layers import Conv2d
from kpvo_ros.nets.vit import OFF, ON, Encoded, VisionTransformer, VitConfig, imagenet_colours

KIND = 'mono_depth'  # in weights files
LEVELS = 4  # blocks that the head reads
PER_TOKEN = (4, 2)  # cells per side into which a token of the first and second level is spread

_EPSILON = 1e-6  # of all norms of the encoder
_MORE = 0.1  # of a patch: with so much more of them the positions are spread, see `_positions`
_FAINT = 0.03  # of the first answer, which is nearly the same everywhere
_FIRST = 1.0  # before the last ReLU or sigmoid, in an untrained network


@dataclasses.dataclass(frozen=True)
class MonoDepthConfig:
    """Sizes of a `MonoDepthNet`; the defaults are those of Depth-Anything-V2-Small.

    Attributes:
        width: numbers per token.
        depth: blocks, at least four.
        heads: of each attention.
        mlp_ratio: hidden units of the perceptrons per number.
        patch_px: side of a patch.
        learned_grid: rows and columns of the grid on which positions are learned.
        levels: numbers of the blocks that the head reads, the first block is 1.
        level_widths: channels of what is read there.
        dpt_width: channels of the maps that are summed, an even number.
        head_width: channels before the last layer.
        metric: ON for metres, OFF for inverse depth up to scale and shift.
        max_depth_m: farthest depth of a metric network; a relative one makes no use of it.

    Raises:
        NetworkError: sizes no network has.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: int = 4
    patch_px: int = 14
    learned_grid: tuple[int, int] = (37, 37)
    levels: tuple[int, int, int, int] = (3, 6, 9, 12)
    level_widths: tuple[int, int, int, int] = (48, 96, 192, 384)
    dpt_width: int = 64
    head_width: int = 32
    metric: int = OFF
    max_depth_m: int = 20

    def __post_init__(self) -> None:
        ascending = sorted(set(self.levels)) == list(self.levels)
        if not ascending or self.levels[0] < 1 or self.levels[-1] > self.depth:
            raise NetworkError(
                f'a head cannot read the blocks {self.levels} of {self.depth}; give four numbers '
                'in rising order'
            )
        if self.metric not in (OFF, ON) or self.max_depth_m < 1 or self.dpt_width % 2:
            raise NetworkError(
                f'metric {self.metric}, max_depth_m {self.max_depth_m} and dpt_width '
                f'{self.dpt_width} make no network; give {OFF} or {ON}, 1 or more, an even number'
            )
        assert self.encoder  # its record has checks of its own

    @property
    def encoder(self) -> VitConfig:
        """Sizes of the encoder."""
        return VitConfig(
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            patch_px=self.patch_px,
            class_token=ON,
            layer_scale=ON,
            learned_grid=self.learned_grid,
        )


SMALL = MonoDepthConfig()


class MonoDepthNet(nn.Module):
    """One image -> inverse depth up to scale and shift, or depth in metres.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    def __init__(
        self,
        config: MonoDepthConfig = SMALL,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        self.encoder = DinoEncoder(config.encoder, generator=generator)
        self.head = MonoDepthHead(config, generator)
        # Faster convolutions on a CPU; torch's stubs do not know this call.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def metric(self) -> bool:
        """Whether the answers are metres."""
        return self.config.metric == ON

    def forward(self, image: Tensor) -> Tensor:
        """Look at images.

        Args:
            image: (B, 1, H, W) grey or (B, 3, H, W) RGB in 0..1, sides multiples of the patch.

        Returns:
            (B, 1, H, W) float32, not negative: metres if `metric`, else inverse depth up to scale
            and shift.

        Raises:
            NetworkError: the image is not that.
        """
        return self.forward_head(self.forward_features(image))

    def forward_features(self, image: Tensor) -> tuple[Encoded, ...]:
        """The encoder alone: four levels, for other tasks."""
        return self.encoder.layers(image, self.config.levels)

    def forward_head(self, levels: Sequence[Encoded]) -> Tensor:
        """The head alone; see `forward` for the result."""
        raw = self.head([level.tokens for level in levels], levels[0].grid)
        return self.config.max_depth_m * raw.sigmoid() if self.metric else raw.relu()

    def predict(self, image: Tensor, short_side_px: int = 518) -> Tensor:
        """Look at images of any size, at a size that suits the network.

        Args:
            image: (B, 1, H, W) or (B, 3, H, W) in 0..1.
            short_side_px: of the pictures that are looked at; the public model was trained with
                518. Smaller is faster and coarser.

        Returns:
            as `forward`, in the size of the image.

        Raises:
            NetworkError: the image is not that, or the side is shorter than a patch.
        """
        patch_px = self.config.patch_px
        if image.ndim != 4 or 0 in image.shape or short_side_px < patch_px:
            raise NetworkError(
                f'images {tuple(image.shape)} cannot be looked at with {short_side_px} pixels; '
                f'give (B, 1 or 3, H, W) and at least {patch_px} pixels'
            )
        height, width = image.shape[-2:]
        scale = short_side_px / min(height, width) / patch_px
        rows, columns = (max(1, round(scale * side)) for side in (height, width))
        found = self(resize(image, rows * patch_px, columns * patch_px))
        return resize(found, height, width)


def load_mono_depth_net(path: Path | str, sha256: str | None = None) -> MonoDepthNet:
    """The network of a weights file, on the CPU.

    Args:
        path: of the file, see `nets.checkpoint`.
        sha256: what it must hash to; None takes any.

    Raises:
        NetworkError: the file is not that of a depth network, whole and finite.
    """
    state, words = load_weights(path, kind=KIND, sha256=sha256)
    config = read_config(words, SMALL)
    with torch.device('meta'):  # nothing is drawn, and nothing allocated before it is checked
        network = MonoDepthNet(config)
    fill(network, state)
    return network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]


class DinoEncoder(VisionTransformer):
    """A `VisionTransformer` that reads pictures and positions as DINOv2 does.

    Args:
        config: sizes, with learned positions.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, config: VitConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__(config, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = _EPSILON

    def _picture(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) -> (B, 3, H, W)."""
        return imagenet_colours(image)

    def _positions(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """(N, C) learned positions, cubic between them.

        DINOv2 spreads them over a tenth of a patch more than there are, once against rounding:
        trained weights expect it.
        """
        if (rows, columns) == self.config.learned_grid:
            return self.positions[0].flatten(1).T
        learned_rows, learned_columns = self.config.learned_grid
        scale = ((rows + _MORE) / learned_rows, (columns + _MORE) / learned_columns)
        spread = F.interpolate(self.positions.float(), scale_factor=scale, mode='bicubic')
        return spread[0].flatten(1).T


class MonoDepthHead(nn.Module):
    """Tokens of four levels -> a picture of numbers, of any sign.

    Args:
        config: sizes.
        generator: source of the initial weights; None stands for seed 0.
    """

    def __init__(self, config: MonoDepthConfig, generator: torch.Generator | None) -> None:
        super().__init__()
        self.patch_px = config.patch_px
        widths, width = config.level_widths, config.dpt_width
        self.project = nn.ModuleList(linear(config.width, w, generator) for w in widths)
        self.spread = nn.ModuleList(
            linear(w, w * n**2, generator) for w, n in zip(widths, PER_TOKEN, strict=False)
        )
        self.halve = Conv2d(widths[-1], widths[-1], 3, 2, generator=generator)
        self.halve.padding = (1, 1)  # centred on every other token, not between two
        self.lateral = nn.ModuleList(Conv2d(w, width, generator=generator) for w in widths)
        for conv in self.lateral:
            conv.register_parameter('bias', None)
        self.fuse = nn.ModuleList(  # as `lateral`, the finest first
            Fusion(width, lateral=level < LEVELS - 1, generator=generator)
            for level in range(LEVELS)
        )
        self.narrow = Conv2d(width, width // 2, generator=generator)
        self.refine = Conv2d(width // 2, config.head_width, generator=generator)
        self.last = Conv2d(config.head_width, 1, 1, generator=generator)
        if not self.last.weight.is_meta:
            with torch.no_grad():
                self.last.weight.mul_(_FAINT)
                nn.init.constant_(self.last.bias, _FIRST)  # type: ignore[arg-type]

    def forward(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
        """Make a picture.

        Args:
            levels: four (B, N, C), the first block first.
            grid: rows and columns of the N tokens.

        Returns:
            (B, 1, rows * patch_px, columns * patch_px) float32.
        """
        maps = self._maps(levels, grid)
        laterals = [conv(x) for conv, x in zip(self.lateral, maps, strict=True)]
        x = self.fuse[-1](laterals[-1], None)
        for fuse, here in zip(reversed(self.fuse[:-1]), reversed(laterals[:-1]), strict=True):
            x = fuse(_stretched(x, *here.shape[-2:]), here)
        x = self.narrow(_stretched(x, 2 * x.shape[-2], 2 * x.shape[-1]))
        x = _stretched(x, grid[0] * self.patch_px, grid[1] * self.patch_px)
        return self.last(F.relu(self.refine(x))).float()

    def _maps(self, levels: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        """Tokens as maps of 4, 2, 1 and 1/2 cells per side of a patch."""
        maps = []
        for level, (project, tokens) in enumerate(zip(self.project, levels, strict=True)):
            x = project(tokens)
            if level < len(PER_TOKEN):
                x = self.spread[level](x)
            x = x.unflatten(1, grid).permute(0, 3, 1, 2)  # (B, C, rows, columns)
            if level < len(PER_TOKEN):
                x = F.pixel_shuffle(x, PER_TOKEN[level])
            maps.append(x.contiguous(memory_format=torch.channels_last))
        maps[-1] = self.halve(maps[-1])
        return maps


def _stretched(x: Tensor, height: int, width: int) -> Tensor:
    """(B, C, h, w) -> (B, C, height, width), corner pixels on corner pixels.

    Nowhere else in this package: the public model was trained with it.
    """
    return F.interpolate(x, size=(height, width), mode='bilinear', align_corners=True)
