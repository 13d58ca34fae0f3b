"""Training pairs of method A: a photo, its variation, and what was put into both.

Photo -> homography (blocks 120, 121 of seed 000) -> things and sheets in both (130-134) -> a style
for each view (133a); a share of the pairs are views of whole rendered worlds instead. Every
ingredient has a switch, so that its share in the result can be measured.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import torch
from torch import Tensor

from kpvo_ros.config.schema import parameter
from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.compose import compose
from kpvo_ros.synthetic.correspondence import Pairs, from_homography, join
from kpvo_ros.synthetic.homography import HomographyLimits, random_homographies, two_views
from kpvo_ros.synthetic.object_bank import ObjectBank
from kpvo_ros.synthetic.photometric import full, photometric_only, restyle
from kpvo_ros.synthetic.placement import PlacementLimits, place_objects
from kpvo_ros.synthetic.scene_pairs import SceneBank
from kpvo_ros.synthetic.sheets import add_sheets

PhotoSource = Callable[[int, tuple[int, int], torch.Generator], Tensor]


@dataclasses.dataclass(frozen=True)
class HomographyDataConfig:
    """What training pairs of method A are made of."""

    size_px: int = parameter(
        256, 'Side of the square pictures; larger ones need more time a step.', low=64, high=1024
    )
    margin: float = parameter(
        1.4,
        'Side of the photo piece around a picture, in pictures; more shows the variation real '
        'surroundings instead of mirrored ones, but needs larger photos.',
        low=1.0,
        high=3.0,
    )
    tilt_deg: float = parameter(
        50.0, 'Largest tilt of the second camera; more for robots that look along walls.',
        low=0.0, high=75.0,
    )  # fmt: skip
    scale: float = parameter(
        2.0, 'Largest enlargement or reduction between the views.', low=1.0, high=4.0
    )
    content: bool = parameter(
        True, 'Rendered things, sheets and worlds; false for homographies alone.'
    )
    style: bool = parameter(
        True, 'Weather, season, time of day and textures differ; false for exposure and noise.'
    )
    moving: bool = parameter(True, 'Some things move on their own between the views.')
    objects: int = parameter(4, 'Most rendered things in a pair.', low=0, high=16)
    object_share: float = parameter(
        0.6, 'Share of the places for things that are taken.', low=0.0, high=1.0
    )
    turn_deg: float = parameter(
        60.0, 'Largest turn of a thing between the views.', low=10.0, high=180.0
    )
    sheets: float = parameter(
        0.5, 'Share of the pairs with a piece of another photo before them.', low=0.0, high=1.0
    )
    moving_share: float = parameter(
        0.5, 'Share of the movable things that move in between.', low=0.0, high=1.0
    )
    scenes: float = parameter(
        0.15, 'Share of the pairs that show rendered worlds instead of photos.', low=0.0, high=1.0
    )


class PairMaker:
    """Makes batches of pairs on the device of its photos.

    Args:
        photos: (count, (height, width), generator) -> (count, 3, height, width) float32 RGB 0..1
            random pieces of photos.
        config: what pairs are made of.
        bank: rendered things; needed for content.
        scenes: rendered worlds, None for none.

    Raises:
        SyntheticError: content is asked for without a bank.
    """

    def __init__(
        self,
        photos: PhotoSource,
        config: HomographyDataConfig = HomographyDataConfig(),
        bank: ObjectBank | None = None,
        scenes: SceneBank | None = None,
    ) -> None:
        if config.content and config.objects and bank is None:
            raise SyntheticError(
                'content=true needs a bank of rendered things: pass one from '
                'object_bank.render_bank, or set content=false'
            )
        self.photos, self.config, self.bank, self.scenes = photos, config, bank, scenes
        self.limits = HomographyLimits(tilt_deg=config.tilt_deg, scale=config.scale)
        self.light = photometric_only()
        self.style = full() if config.style else self.light
        self.placement = PlacementLimits(
            count=config.objects,
            share=config.object_share,
            turn_deg=config.turn_deg,
            moving=config.moving_share if config.moving else 0.0,
            restyled=config.style,
        )

    def make(self, count: int, generator: torch.Generator) -> Pairs:
        """A batch of `count` pairs with styles; the same generator state gives the same batch."""
        pairs = self.make_plain(count, generator)
        plain = pairs.image0, pairs.image1
        # One view in fair weather: two nights have too little in common to learn from.
        fair = torch.rand(1, generator=generator, device=generator.device).item() < 0.5
        styles = (self.light, self.style) if fair else (self.style, self.light)
        image0, image1 = (
            restyle(image, generator, style) for image, style in zip(plain, styles, strict=True)
        )
        return dataclasses.replace(pairs, image0=image0, image1=image1, plain=plain)

    def make_plain(self, count: int, generator: torch.Generator) -> Pairs:
        """A batch before the styles: what is visible in both views has nearly the same colour."""
        draw = torch.rand(count + 1, generator=generator, device=generator.device).tolist()
        from_scenes = sum(value < self.config.scenes for value in draw[:count])
        if self.scenes is None or not self.config.content:
            from_scenes = 0
        parts = []
        if count > from_scenes:
            parts.append(self._from_photos(count - from_scenes, generator))
        if from_scenes and self.scenes is not None:
            parts.append(self._from_scenes(self.scenes, from_scenes, generator))
        pairs = join(parts) if len(parts) > 1 else parts[0]
        # The variation is the softer picture of the two: it must not always be the second.
        return pairs.swapped() if draw[count] < 0.5 else pairs

    def _from_photos(self, count: int, generator: torch.Generator) -> Pairs:
        config = self.config
        size_hw = (config.size_px, config.size_px)
        around = max(config.size_px, 8 * math.ceil(config.size_px * config.margin / 8))
        sources = self.photos(count, (around, around), generator)
        H = random_homographies(count, size_hw, generator, self.limits, sources.device)
        image0, image1, _ = two_views(sources, H, size_hw)
        ways = from_homography(H, size_hw)
        if config.content:
            images = (image0, image1)
            images, ways = add_sheets(images, ways, sources, H, generator, config.sheets)
            image0, image1 = images
            if self.bank is not None and config.objects:
                things = place_objects(H, size_hw, self.bank, generator, self.placement)
                return compose(image0, image1, ways, self.bank, things)
        still = torch.zeros_like(ways[0].visible)
        return Pairs(image0, image1, ways[0], ways[1], still, still)

    def _from_scenes(self, scenes: SceneBank, count: int, generator: torch.Generator) -> Pairs:
        size_hw = (self.config.size_px, self.config.size_px)
        pairs = scenes.cut(count, size_hw, generator, restyled=self.config.style)
        if self.config.moving:
            return pairs
        # Without moving content nobody tells the network what moves, in scenes neither.
        still = torch.zeros_like(pairs.movable0)
        return dataclasses.replace(pairs, movable0=still, movable1=still)
