"""Cross-view completion: which patches are hidden, and what guessing them costs (seed 004).

An image is cut into square patches (seed 004 [0085]), most of them are masked at random ([0087]),
and the network rebuilds them from the rest and from another view. The cost is the mean squared
error of the masked patches (eq. 2), each brought to mean 0 and deviation 1 ([0096]): that teaches
structure, as brightness is easily guessed (table 2).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
import torch.nn.functional as F  # noqa: N812 (torch's own habit)

from kpvo_ros.errors import ConfigError, GeometryError

_FLAT = 1e-6  # variance added to every patch: noise on a blank wall is no structure


@dataclasses.dataclass(frozen=True, eq=False)
class PatchMasks:
    """Which patches of B images with N patches each are hidden.

    Attributes:
        kept: (B, N - M) indices, rising.
        masked: (B, M) indices, rising.
        inverse: (B, N), place of every patch in the row of kept and then masked ones.
    """

    kept: Tensor
    masked: Tensor
    inverse: Tensor

    @property
    def is_masked(self) -> Tensor:
        """(B, N) bool."""
        return self.inverse >= self.kept.shape[1]


def random_masks(count: int, patches: int, ratio: float, generator: torch.Generator) -> PatchMasks:
    """Hides the same number of patches in every image, all choices alike.

    Args:
        count: of images.
        patches: of one image, at least two.
        ratio: share that is masked, 0.9 in seed 004 (table 1); at least one patch is masked and
            at least one is kept.
        generator: on the device of the masks.

    Raises:
        ConfigError: the ratio is not between 0 and 1, or there is nothing to choose from.
    """
    if not 0.0 < ratio < 1.0:
        raise ConfigError(f'masking ratio {ratio!r} is not between 0 and 1: try 0.9')
    if patches < 2:
        raise ConfigError(f'{patches} patches cannot be kept and masked: use smaller patches')
    kept = min(max(patches - round(ratio * patches), 1), patches - 1)
    draw = torch.rand((count, patches), generator=generator, device=generator.device)
    order = draw.argsort(dim=1)
    chosen, hidden = order[:, :kept].sort(dim=1)[0], order[:, kept:].sort(dim=1)[0]
    return PatchMasks(chosen, hidden, torch.cat([chosen, hidden], dim=1).argsort(dim=1))


def take(tokens: Tensor, index: Tensor) -> Tensor:
    """Some tokens (B, K, D) of all (B, N, D) by their indices (B, K)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def restore(kept: Tensor, filler: Tensor, masks: PatchMasks) -> Tensor:
    """All tokens (B, N, D) in their order, from the kept ones and a filler for the masked ones.

    Args:
        kept: (B, N - M, D).
        filler: (D,) the same for all, or (B, M, D).
        masks: that chose them.
    """
    hidden = filler.to(kept.dtype).expand(*masks.masked.shape, kept.shape[-1])
    return take(torch.cat([kept, hidden], dim=1), masks.inverse)


def patchify(image: Tensor, size_px: int) -> Tensor:
    """Patches (B, N, C * size * size) of images (B, C, H, W), row by row, inside (C, y, x).

    Raises:
        GeometryError: the image cannot be cut into whole patches.
    """
    if image.ndim != 4 or size_px < 1 or image.shape[-2] % size_px or image.shape[-1] % size_px:
        raise GeometryError(
            f'images (B, C, H, W) of whole patches of {size_px} px expected, got '
            f'{tuple(image.shape)}: crop or resize them'
        )
    return F.unfold(image, size_px, stride=size_px).transpose(1, 2)


def unpatchify(patches: Tensor, size_px: int, size_hw: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) of patches (B, N, C * size * size); the inverse of `patchify`.

    Raises:
        GeometryError: the patches do not fill an image of that size.
    """
    height, width = size_hw
    fits = patches.ndim == 3 and patches.shape[2] % size_px**2 == 0
    fits &= height % size_px == 0 and width % size_px == 0
    if not fits or patches.shape[1] * size_px**2 != height * width:
        raise GeometryError(
            f'patches {tuple(patches.shape)} of {size_px} px do not fill {height} x {width} '
            f'pixels: pass the size that they were cut from'
        )
    return F.fold(patches.transpose(1, 2), size_hw, size_px, stride=size_px)


def normalize_patches(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Patches (B, N, P) with mean 0 and deviation 1, their means and deviations (B, N, 1).

    A patch of one colour becomes 0. `normal * deviation + mean` is the patch again, for pictures
    of what a network guesses.
    """
    mean = patches.mean(dim=-1, keepdim=True)
    deviation = (patches.var(dim=-1, keepdim=True, correction=0) + _FLAT).sqrt()
    return (patches - mean) / deviation, mean, deviation


def completion_loss(
    predicted: Tensor, image: Tensor, masks: PatchMasks, size_px: int, normalized: bool = True
) -> Tensor:
    """Mean squared error of the masked patches (seed 004 eq. 2); what was seen costs nothing.

    Args:
        predicted: (B, N, C * size * size) all patches, in the order of `patchify`.
        image: (B, C, H, W) the whole view.
        masks: what was hidden.
        size_px: side of a patch.
        normalized: the network predicts patches of mean 0 and deviation 1 ([0096]).

    Returns:
        A scalar in float32 or better; 1 for a normalised guess of 0 everywhere.

    Raises:
        GeometryError: the shapes do not fit.
    """
    truth = patchify(image, size_px)
    if predicted.shape != truth.shape or masks.inverse.shape != truth.shape[:2]:
        raise GeometryError(
            f'prediction {tuple(truth.shape)} and masks {tuple(truth.shape[:2])} expected, got '
            f'{tuple(predicted.shape)} and {tuple(masks.inverse.shape)}'
        )
    full = torch.promote_types(predicted.dtype, torch.float32)
    truth = take(truth.to(full), masks.masked)
    if normalized:
        truth, _, _ = normalize_patches(truth)
    return (take(predicted, masks.masked).to(full) - truth).square().mean()
