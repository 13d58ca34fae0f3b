"""Batches of triplets out of recordings in memory: a frame, one before it, one after it.

Mirrored half of the time. The network is shown pictures in changed light, the loss compares the
recorded ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kpvo_ros.methods.crossview.derotation import derotated
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.methods.crossview.video_selection import (
    Recording,
    Triplets,
    VideoDataConfig,
    find_triplets,
)
from kpvo_ros.synthetic.photometric import StyleLimits, restyle
from kpvo_ros.training import TrainingError

_PART = 4  # triplets that are looked at together


class TripletBatch(NamedTuple):
    """B triplets on one device.

    Attributes:
        pairs: 2 B pairs as they were recorded: the B targets with the frames before them, then
            with those after them; depth and motion unknown.
        shown: (3 B, 3, H, W) what the network sees: targets, frames before, frames after.
        R_1_0: (2 B, 3, 3) rotations that were taken out of the frames before and after that are
            shown; None where they are shown as recorded.
    """

    pairs: FramePairs
    shown: Tensor
    R_1_0: Tensor | None

    @property
    def triplets(self) -> int:
        """B."""
        return len(self.shown) // 3

    def first(self) -> TripletBatch:
        """The first triplet alone."""
        rows = [0, self.triplets]
        R_1_0 = None if self.R_1_0 is None else self.R_1_0[rows]
        shown = self.shown[:: self.triplets]
        return TripletBatch(FramePairs(*(value[rows] for value in self.pairs)), shown, R_1_0)


class VideoTriplets:
    """Makes batches out of recordings.

    Args:
        recordings: all of one size.
        config: what triplets are made of.
        device: of the batches.
        least: frames with neighbours that are needed.
        say: shows a line.

    Raises:
        TrainingError: there are fewer.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        config: VideoDataConfig,
        device: torch.device | str = 'cpu',
        *,
        least: int = 1,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config = config
        self._device = torch.device(device)
        self._recordings = recordings
        self._triplets: list[Triplets] = []
        for recording in recordings:
            found = find_triplets(recording, config)
            say(found.summary(recording))
            self._triplets.append(found)
        self._rows = torch.cat(
            [torch.zeros(0, 2, dtype=torch.int64)]
            + [
                torch.stack([torch.full((len(found),), number), torch.arange(len(found))], dim=1)
                for number, found in enumerate(self._triplets)
            ]
        )  # (M, 2) recording, triplet
        if self.targets < least:
            names = ', '.join(recording.name for recording in recordings) or 'no recording'
            raise TrainingError(
                f'only {self.targets} frames of {names} have a neighbour on either side with '
                f'enough parallax, {least} are needed: give longer recordings of a moving camera, '
                'or lower data.min_parallax_px'
            )

    def __len__(self) -> int:
        """Number of triplets."""
        return len(self._rows)

    @property
    def targets(self) -> int:
        """Number of frames that can be rebuilt from both sides."""
        return sum(found.targets for found in self._triplets)

    def make(self, count: int, generator: torch.Generator) -> TripletBatch:
        """A batch of `count` triplets; the same generator state gives the same batch."""
        device = generator.device
        picked = torch.randint(len(self), (count,), generator=generator, device=device).cpu()
        mirrored = torch.rand(count, generator=generator, device=device).cpu() < 0.5
        return self._batch(self._rows[picked], mirrored, generator)

    def fixed(self, count: int) -> list[TripletBatch]:
        """Up to so many triplets spread over all recordings, as recorded, in small batches."""
        count = min(count, len(self))
        rows = self._rows[(torch.arange(count) * len(self)) // max(count, 1)]
        return [
            self._batch(part, torch.zeros(len(part), dtype=torch.bool), None)
            for part in rows.split(_PART)
        ]

    def _batch(
        self, rows: Tensor, mirrored: Tensor, generator: torch.Generator | None
    ) -> TripletBatch:
        images, K, R_1_0, length_m = self._gather(rows)
        flip = mirrored.to(self._device)
        images = images.to(self._device, torch.float32).div_(255)
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)  # (3, B, ...)
        K, R_1_0 = _mirrored(K.to(self._device), R_1_0.to(self._device), flip, images.shape[-1])
        K, R_1_0 = K.repeat(2, 1, 1), R_1_0.transpose(0, 1).flatten(0, 1)  # (2 B, 3, 3)
        shown = images.flatten(0, 1)
        if generator is not None and self.config.jitter > 0:
            shown = restyle(shown, generator, _light(self.config.jitter))
        if self.config.derotate:
            turned = derotated(shown[len(rows) :], K, R_1_0)
            shown = torch.cat([shown[: len(rows)], turned])
        image0, image1 = images[0].repeat(2, 1, 1, 1), images[1:].flatten(0, 1)
        unknown = torch.full_like(image0[:, :1], torch.nan)
        T_1_0 = torch.full((len(K), 4, 4), torch.nan, device=self._device)
        lengths = length_m.T.flatten().to(self._device)
        pairs = FramePairs(image0, image1, K, K.clone(), unknown, unknown.clone(), T_1_0, lengths)
        return TripletBatch(pairs, shown, R_1_0 if self.config.derotate else None)

    def _gather(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(3, B, 3, H, W) uint8, K (B, 3, 3), rotations (B, 2, 3, 3), lengths (B, 2)."""
        images, K, rotations, lengths = [], [], [], []
        for number, row in rows.tolist():
            recording, found = self._recordings[number], self._triplets[number]
            images.append(recording.images[found.frames[row].to(recording.images.device)])
            K.append(recording.K)
            rotations.append(found.R_neighbour_target[row])
            lengths.append(found.length_m[row])
        stacked = torch.stack(images, dim=1)
        return stacked, torch.stack(K), torch.stack(rotations), torch.stack(lengths)


def _mirrored(K: Tensor, R: Tensor, flip: Tensor, width_px: int) -> tuple[Tensor, Tensor]:
    """Cameras (B, 3, 3) and rotations (B, 2, 3, 3) behind a mirror, where `flip` (B,) says so."""
    K = K.clone()
    K[:, 0, 2] = torch.where(flip, width_px - 1 - K[:, 0, 2], K[:, 0, 2])
    mirror = torch.diag(R.new_tensor([-1.0, 1.0, 1.0]))
    return K, torch.where(flip[:, None, None, None], mirror @ R @ mirror, R)


def _light(share: float) -> StyleLimits:
    """Another exposure, tone and noise for a share of the pictures; nothing that hides things."""
    return StyleLimits(
        colour=share,
        exposure_stops=0.4,
        contrast=0.2,
        cast=0.1,
        saturation=0.4,
        gamma=0.4 * share,
        gamma_factor=1.3,
        noise=0.4 * share,
        noise_sigma=0.02,
    )
