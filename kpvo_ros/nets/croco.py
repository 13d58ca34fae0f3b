"""Cross-view completion with rotary positions: the network of CroCo v2.

    image0 -> encoder -> embed, mask tokens for hidden patches -> decoder -> norm -> patches
    image1 -> encoder -> embed ------------------------------------^

Weinzaepfel 2023, "CroCo v2: improved cross-view completion pre-training for stereo matching and
optical flow". Encoder and decoder are our blocks with rotary positions; the parts are those of
the public model in number, order and size, so that its weights fit (`nets.importing`). They are a
start for research of users who accept their licence; nothing in this package is trained from them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.attention import linear
from kpvo_ros.nets.checkpoint import fill, load_weights, read_config
from kpvo_ros.nets.cross_decoder import CrossDecoder
from kpvo_ros.nets.rotary import Turn, rotary_turn
from kpvo_ros.nets.vit import Encoded, VisionTransformer, VitConfig, check_sizes, imagenet_colours

KIND = 'croco'  # in weights files

_EPSILON = 1e-6  # of all norms


@dataclasses.dataclass(frozen=True)
class CrocoConfig:
    """Sizes of a `CrocoNet`; see `SMALL_DECODER`, `BASE_DECODER`.

    Attributes:
        encoder_width: numbers per token of the encoder.
        encoder_depth: its blocks.
        encoder_heads: of its attentions.
        decoder_width: numbers per token of the decoder.
        decoder_depth: its blocks.
        decoder_heads: of its attentions.
        mlp_ratio: hidden units of all perceptrons per number.
        patch_px: side of a patch.

    Raises:
        NetworkError: sizes no network has.
    """

    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mlp_ratio: int = 4
    patch_px: int = 16

    def __post_init__(self) -> None:
        check_sizes('encoder', self.encoder_width, self.encoder_depth, self.encoder_heads)
        check_sizes('decoder', self.decoder_width, self.decoder_depth, self.decoder_heads)
        for name in ('encoder', 'decoder'):
            width = getattr(self, f'{name}_width') // getattr(self, f'{name}_heads')
            if width % 4:
                raise NetworkError(
                    f'heads of {width} numbers in the {name} cannot be turned by row and column; '
                    'give a multiple of 4'
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
        )


SMALL_DECODER = CrocoConfig()
BASE_DECODER = CrocoConfig(decoder_width=768, decoder_depth=12, decoder_heads=12)


class CrocoNet(nn.Module):
    """Two images, one of them with hidden patches -> all its patches.

    Args:
        config: sizes.
        generator: source of the initial weights, on the CPU; None stands for seed 0.
    """

    def __init__(
        self, config: CrocoConfig = SMALL_DECODER, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        generator = generator or torch.Generator('cpu').manual_seed(0)
        self.config = config
        width = config.decoder_width
        self.encoder = RotaryEncoder(config.encoder, generator=generator)
        self.decoder = CrossDecoder(
            config.encoder_width,
            width,
            config.decoder_depth,
            config.decoder_heads,
            mlp_ratio=config.mlp_ratio,
            generator=generator,
        )
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width)
        self.prediction = linear(width, 3 * config.patch_px**2, generator)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = _EPSILON

    def forward(self, image0: Tensor, image1: Tensor, keep: Tensor | None = None) -> Tensor:
        """Complete images.

        Args:
            image0: (B, 1 or 3, H, W) in 0..1, sides multiples of the patch.
            image1: (B, 1 or 3, H', W') of the same places, from elsewhere.
            keep: (B, M) int64 patches of `image0` that are seen, counted row by row; None for all.

        Returns:
            (B, N, 3 p^2) float32, the patches of `image0`, in each colour by colour, row by row;
            with public weights each patch with its own mean and spread taken out.

        Raises:
            NetworkError: the tensors are not that.
        """
        encoded0, encoded1 = self.encoder(image0, keep), self.encoder(image1)
        return self.prediction(self.norm(self.decode(encoded0, encoded1, keep)[-1])).float()

    def decode(
        self, encoded0: Encoded, encoded1: Encoded, keep: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Encoded images -> (B, N, C) of image 0 after each block of the decoder.

        Args:
            encoded0: of the patches that are seen.
            encoded1: of the other image.
            keep: as for `forward`.
        """
        tokens, memory = self.decoder.embed(encoded0.tokens), self.decoder.embed(encoded1.tokens)
        if keep is not None:
            rows, columns = encoded0.grid
            hidden = self.mask_token.to(tokens.dtype).expand(len(tokens), rows * columns, -1)
            index = keep[..., None].expand(-1, -1, tokens.shape[-1])
            tokens = hidden.scatter(1, index, tokens)
        head_width = self.config.decoder_width // self.config.decoder_heads
        turns = (
            rotary_turn(encoded.grid, head_width, device=tokens.device)
            for encoded in (encoded0, encoded1)
        )
        return self.decoder(tokens, memory, *turns)


def load_croco_net(path: Path | str, sha256: str | None = None) -> CrocoNet:
    """The network of a weights file, on the CPU.

    Args:
        path: of the file, see `nets.checkpoint`.
        sha256: what it must hash to; None takes any.

    Raises:
        NetworkError: the file is not that of a completion network, whole and finite.
    """
    state, words = load_weights(path, kind=KIND, sha256=sha256)
    config = read_config(words, SMALL_DECODER)
    with torch.device('meta'):  # nothing is drawn, and nothing allocated before it is checked
        network = CrocoNet(config)
    fill(network, state)
    return network.eval()


class RotaryEncoder(VisionTransformer):
    """A `VisionTransformer` whose positions are told in the attentions alone."""

    def _picture(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) -> (B, 3, H, W)."""
        return imagenet_colours(image)

    def _positions(self, rows: int, columns: int, device: torch.device) -> Tensor:
        """(N, C) of zeros."""
        return torch.zeros(rows * columns, self.config.width, device=device)

    def _turn(
        self, grid: tuple[int, int], keep: Tensor | None, device: torch.device
    ) -> Turn | None:
        """Of the tokens, or of those that are seen."""
        turn = rotary_turn(grid, self.config.width // self.config.heads, device=device)
        return turn if keep is None else turn.chosen(keep)
