"""Random crops of photos held in memory, and pairs of frames that follow each other."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError


class PhotoSet:
    """Photos that batches are cut from; seed 000 [0008]: "a set of training images".

    Args:
        recordings: lists of images (H, W, 3) uint8 RGB, each list one recording; sizes may
            differ.
        in_time: for each recording whether its images follow each other in time; none does when
            left out.

    Raises:
        SyntheticError: there is no image, or one has another shape or type.
    """

    def __init__(
        self,
        recordings: Sequence[Sequence[np.ndarray]],
        in_time: Sequence[bool] | None = None,
    ) -> None:
        self.images: list[np.ndarray] = []
        self.sequences: list[range] = []
        ordered = [False] * len(recordings) if in_time is None else in_time
        for images, follows in zip(recordings, ordered, strict=True):
            start = len(self.images)
            self.images += images
            if follows and len(images) > 1:
                self.sequences.append(range(start, len(self.images)))
        if not self.images:
            raise SyntheticError('a photo set needs at least one photo: pass more data')
        for image in self.images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise SyntheticError(
                    f'photos must be (H, W, 3) uint8, got {image.dtype} {image.shape}'
                )

    def __len__(self) -> int:
        """How many photos there are."""
        return len(self.images)

    def crops(
        self,
        count: int,
        size_hw: tuple[int, int],
        generator: torch.Generator,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Cut random parts of random photos, half of them mirrored.

        A part is as large as the crop or larger, up to the whole photo, and reduced to the
        crop's size; a photo that is too small is enlarged.

        Args:
            count: B.
            size_hw: (height, width) of the crops in pixels.
            generator: source of the draws.
            device: of the result, that of the generator when None.

        Returns:
            (B, 3, H, W) float32 RGB 0..1.
        """
        which = self._rows(count, len(self.images), generator)
        draws = self._draws(count, generator)
        parts = [_cut(self.images[i], size_hw, draw) for i, draw in zip(which, draws, strict=True)]
        return _to_tensor(parts, device or generator.device)

    def pairs(self, count: int, max_gap: int, generator: torch.Generator) -> Tensor:
        """Draw pairs of photos that lie near each other in a recording.

        Args:
            count: B.
            max_gap: largest distance in frames, at least 1; all distances are equally likely.
            generator: source of the draws.

        Returns:
            (B, 2) int64 indices into `images`, in either order of time.

        Raises:
            SyntheticError: there is no recording in time, or max_gap is not positive.
        """
        if not self.sequences or max_gap < 1:
            raise SyntheticError(
                f'no pairs with max_gap={max_gap} in {len(self.sequences)} recordings in time: '
                'pass videos, bags, or folders with a frames.txt, and a gap of at least 1'
            )
        frames = torch.tensor([(s.start, s.stop, i) for s in self.sequences for i in s])
        start, stop, first = frames[self._rows(count, len(frames), generator)].unbind(1)
        draw = torch.rand(count, 2, generator=generator, device=generator.device).cpu()
        gap = (1 + (draw[:, 0] * max_gap).long()).minimum(stop - start - 1)
        backward = draw[:, 1] < 0.5
        second = torch.where(backward, first - gap, first + gap)
        # Past either end of the recording: the other direction, else the end itself.
        second = torch.where(second < start, first + gap, second)
        second = torch.where(second >= stop, first - gap, second).maximum(start)
        return torch.stack([first, torch.where(second == first, start, second)], dim=1)

    def pair_crops(
        self,
        pairs: Tensor,
        size_hw: tuple[int, int],
        generator: torch.Generator,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cut the same part out of both photos of pairs (B, 2), mirrored alike.

        Returns:
            Two (B, 3, H, W) float32 RGB 0..1.
        """
        draws = self._draws(len(pairs), generator)
        views = [
            _to_tensor(
                [_cut(self.images[i], size_hw, d) for i, d in zip(column, draws, strict=True)],
                device or generator.device,
            )
            for column in pairs.T.tolist()
        ]
        return views[0], views[1]

    def _rows(self, count: int, size: int, generator: torch.Generator) -> list[int]:
        draw = torch.randint(size, (count,), generator=generator, device=generator.device)
        return list(draw.tolist())

    def _draws(self, count: int, generator: torch.Generator) -> list[list[float]]:
        return list(torch.rand(count, 4, generator=generator, device=generator.device).tolist())


def _cut(image: np.ndarray, size_hw: tuple[int, int], draw: Sequence[float]) -> np.ndarray:
    """(H, W, 3) uint8 crop; the draw in 0..1 says scale, position down and right, mirroring."""
    height, width = size_hw
    largest = min(image.shape[0] / height, image.shape[1] / width)
    scale = largest if largest <= 1 else 1 + (largest - 1) * draw[0]
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    top = int(draw[1] * (image.shape[0] - tall + 1))
    left = int(draw[2] * (image.shape[1] - wide + 1))
    part = image[top : top + tall, left : left + wide]
    if part.shape[:2] != size_hw:
        # Area averaging costs ten times as much and shows no difference for a small reduction.
        method = cv2.INTER_AREA if scale > 1.6 else cv2.INTER_LINEAR
        part = cv2.resize(part, (width, height), interpolation=method)
    return cv2.flip(part, 1) if draw[3] < 0.5 else part


def _to_tensor(parts: list[np.ndarray], device: torch.device | str) -> Tensor:
    """(B, 3, H, W) float32 0..1; copied to the device as bytes."""
    batch = torch.from_numpy(np.stack(parts)).to(device)
    return batch.permute(0, 3, 1, 2).contiguous().float().div_(255)
