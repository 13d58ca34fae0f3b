"""Pairs of real images of one place, and some whose truth is known (seed 001).

Frames of a recording with a random gap show one place from two perspectives and need no poses
([0035], [0046]). Photos under homographies and rendered worlds join them ([0047]): their known
correspondences keep alive what method A has taught.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kpvo_ros.config.schema import parameter
from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.correspondence import Correspondence, from_homography
from kpvo_ros.synthetic.draws import chosen
from kpvo_ros.synthetic.homography import random_homographies, two_views
from kpvo_ros.synthetic.photo_set import PhotoSet
from kpvo_ros.synthetic.photometric import full, photometric_only, restyle
from kpvo_ros.synthetic.scene_pairs import SceneBank

_SEEDS = 2**31 - 1
_NOWHERE = 1_000_000  # distance in frames between pairs of which no place is known


@dataclasses.dataclass(frozen=True)
class ReconstructionDataConfig:
    """What training pairs of method B are made of."""

    size_px: int = parameter(
        256, 'Side of the square pictures; larger ones need more time a step.', low=64, high=1024
    )
    max_gap: int = parameter(
        4,
        'Largest distance of two frames of a pair, in pictures as loaded; raise it for slow '
        'cameras, as long as the pairs still overlap.',
        low=1,
        high=10000,
    )
    homographies: float = parameter(
        0.25, 'Share of the pairs that are a photo under a homography.', low=0.0, high=1.0
    )
    margin: float = parameter(
        1.2, 'Side of the photo piece around such a picture, in pictures.', low=1.0, high=3.0
    )
    scenes: float = parameter(
        0.0, 'Share of the pairs that show rendered worlds; above 0 renders a bank.',
        low=0.0, high=1.0,
    )  # fmt: skip
    style: float = parameter(
        0.5,
        'Share of the pairs of which one view gets other light, weather, or season; the rest '
        'stays as recorded.',
        low=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        if self.homographies + self.scenes > 1.0:
            raise SyntheticError(
                f'homographies={self.homographies} and scenes={self.scenes} are shares of one '
                'batch: together at most 1'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class FrameBatch:
    """B pairs, those with known truth first.

    Attributes:
        image0, image1: (B, 3, H, W) float32 RGB 0..1.
        truth: where the pixels of the first K of image0 lie in image1, None when K is 0.
        place: (B,) int64; pairs with near numbers may show the same place.
        seed: of what the loss draws.
    """

    image0: Tensor
    image1: Tensor
    truth: Correspondence | None
    place: Tensor
    seed: int


class FramePairs:
    """Makes batches out of recordings.

    Args:
        photos: recordings; at least one whose images follow each other in time, unless no pair
            is to be made of frames.
        config: what pairs are made of.
        scenes: rendered pairs, None for none.
        device: of the batches.

    Raises:
        SyntheticError: frames are needed and there is no recording in time, or scenes without
            a bank.
    """

    def __init__(
        self,
        photos: PhotoSet,
        config: ReconstructionDataConfig = ReconstructionDataConfig(),
        scenes: SceneBank | None = None,
        device: torch.device | str = 'cpu',
    ) -> None:
        if config.scenes > 0 and scenes is None:
            raise SyntheticError(
                f'scenes={config.scenes} needs a bank of rendered pairs: pass one, or set scenes=0'
            )
        if config.homographies + config.scenes < 1.0 and not photos.sequences:
            raise SyntheticError(
                'method B learns from frames that follow each other, and no recording in time '
                'was found: pass videos, bags, or folders with a frames.txt'
            )
        self._photos, self._config, self._scenes, self._device = photos, config, scenes, device

    def make(self, count: int, generator: torch.Generator) -> FrameBatch:
        """A batch of `count` pairs; the same generator state gives the same batch."""
        config = self._config
        draw = torch.rand(count, generator=generator, device=generator.device).cpu()
        by_homography = int((draw < config.homographies).sum())
        by_scene = int((draw < config.homographies + config.scenes).sum()) - by_homography
        by_frames = count - by_homography - by_scene
        views, truths = [], []
        for number, make in ((by_homography, self._warped), (by_scene, self._rendered)):
            if number:
                image0, image1, truth = make(number, generator)
                views.append((image0, image1))
                truths.append(truth)
        place = _NOWHERE * (1 + torch.arange(count))
        if by_frames:
            pairs = self._photos.pairs(by_frames, config.max_gap, generator)
            views.append(self._crops(pairs, generator))
            place[count - by_frames :] = pairs[:, 0]
        image0, image1 = (torch.cat(column) for column in zip(*views, strict=True))
        image0 = _restyled(image0, generator, config.style)
        seed = torch.randint(_SEEDS, (1,), generator=generator, device=generator.device)
        return FrameBatch(image0, image1, _joined(truths), place.to(image0.device), int(seed))

    def _crops(self, pairs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        size_hw = (self._config.size_px, self._config.size_px)
        return self._photos.pair_crops(pairs, size_hw, generator, self._device)

    def _warped(
        self, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Correspondence]:
        size_px = self._config.size_px
        around = max(size_px, round(self._config.margin * size_px))
        sources = self._photos.crops(count, (around, around), generator, self._device)
        H = random_homographies(count, (size_px, size_px), generator, device=sources.device)
        image0, image1, _ = two_views(sources, H, (size_px, size_px))
        # Without this the two would show the very same noise of the camera.
        image1 = restyle(image1, generator, photometric_only())
        return image0, image1, from_homography(H, (size_px, size_px))[0]

    def _rendered(
        self, count: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Correspondence]:
        assert self._scenes is not None
        pairs = self._scenes.cut(count, (self._config.size_px,) * 2, generator)
        return pairs.image0, pairs.image1, pairs.to1


def _restyled(images: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Some of the images (B, 3, H, W) in another light or weather."""
    rows = chosen(len(images), share, generator).to(images.device)
    if not len(rows):
        return images
    return images.index_copy(0, rows, restyle(images[rows], generator, full()))


def _joined(truths: list[Correspondence]) -> Correspondence | None:
    if not truths:
        return None
    return Correspondence(
        torch.cat([truth.xy_in_other for truth in truths]),
        torch.cat([truth.visible for truth in truths]),
    )
