"""Which frames of a video can teach depth and motion, decided once, before anything is trained.

Blurred, glaring and dark frames are left out, and pairs that stand, only turn, or are too far
apart (`parallax`). What is left are triplets: a frame, one before it, one after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
import dataclasses

import cv2
import numpy as np
import torch
from torch import Tensor

from kpvo_ros.config.schema import parameter
from kpvo_ros.errors import ConfigError
from kpvo_ros.methods.crossview.parallax import PairMotion, ParallaxMeter, Verdict, Watched
from kpvo_ros.training import TrainingError

_DARKEST, _BRIGHTEST = 5, 250  # beyond them a pixel of 0..255 tells nothing
_PARTNERS = 2  # of a frame, on either side
_GROWTH = 1.4  # from one gap that is tried to the next
_MULTIPLE_PX = 16

LengthBetween = Callable[[int, int], float]


@dataclasses.dataclass(frozen=True)
class VideoDataConfig:
    """What training triplets are made of."""

    width_px: int = parameter(
        256, 'Width of the pictures, a multiple of 16; smaller ones train faster.',
        low=32, high=1024,
    )  # fmt: skip
    height_px: int = parameter(192, 'Height, likewise.', low=32, high=1024)
    fit: str = parameter(
        'stretch',
        'How a picture of another shape gets that size: stretch shows all of it, as the network '
        'is used; crop keeps its pixels square.',
        choices=('stretch', 'crop'),
    )
    frames: int = parameter(
        4000, 'Most frames in memory, of all recordings; longer ones are thinned.', low=10
    )
    min_parallax_px: float = parameter(
        2.0,
        'Pairs whose median parallax is smaller stand or only turn; in pixels of this size.',
        low=0.1,
        high=100.0,
    )
    max_parallax_px: float = parameter(
        32.0, 'Pairs with more are too far apart to be rebuilt from each other.', low=1.0
    )
    max_gap: int = parameter(
        12, 'Largest distance of a pair in frames; raise it for slow robots.', low=1, high=1000
    )
    sharpness: float = parameter(
        0.3,
        'A frame is blurred when the variance of its Laplacian is below this share of the '
        'median of its recording; 0 keeps all.',
        low=0.0,
        high=1.0,
    )
    clipped: float = parameter(
        0.4, 'A frame with a larger share of black or white pixels is left out.', low=0.0, high=1.0
    )
    derotate: bool = parameter(
        False,
        'Show the network pairs without their measured rotation; for hand-held video and a '
        'network that knows no turns.',
    )
    jitter: float = parameter(
        0.8, 'Share of the pictures in another light, for the network only.', low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        for name in ('width_px', 'height_px'):
            value = getattr(self, name)
            if value % _MULTIPLE_PX:
                raise ConfigError(
                    f'data.{name}={value} is no multiple of {_MULTIPLE_PX}: try '
                    f'{max(round(value / _MULTIPLE_PX), 2) * _MULTIPLE_PX}'
                )
        if self.min_parallax_px >= self.max_parallax_px:
            raise ConfigError(
                f'data.min_parallax_px={self.min_parallax_px} must be below '
                f'data.max_parallax_px={self.max_parallax_px}: lower it'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """A video in memory.

    Attributes:
        name: of the recording.
        images: (N, 3, H, W) uint8 RGB of a pinhole.
        stamps_ns: (N,) int64.
        K: (3, 3) float32, pixels of this size.
        length_m: how far the camera went between two stamps, NaN where unknown; None for nowhere.
    """

    name: str
    images: Tensor
    stamps_ns: np.ndarray
    K: Tensor
    length_m: LengthBetween | None = None

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.images)

    def part(self, start: int, stop: int) -> Recording:
        """Some frames in a row, without copying them."""
        return dataclasses.replace(
            self, images=self.images[start:stop], stamps_ns=self.stamps_ns[start:stop]
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Triplets:
    """Frames of one recording with a neighbour on either side.

    Attributes:
        frames: (M, 3) int64: target, before, after.
        R_neighbour_target: (M, 2, 3, 3) float32 measured rotations to before and after.
        length_m: (M, 2) float32 lengths of the motions; NaN is unknown.
        left_out: how many frames are no target, and why.
    """

    frames: Tensor
    R_neighbour_target: Tensor
    length_m: Tensor
    left_out: Counter[str]

    def __len__(self) -> int:
        """Number of triplets."""
        return len(self.frames)

    @property
    def targets(self) -> int:
        """Number of frames that can be rebuilt from both sides."""
        return len(self.frames[:, 0].unique())

    def summary(self, recording: Recording) -> str:
        """One line on what was found."""
        reasons = ', '.join(f'{count} {why}' for why, count in self.left_out.most_common())
        return (
            f'{recording.name}: {self.targets} of {len(recording)} frames have a neighbour on '
            f'either side' + (f'; left out: {reasons}' if reasons else '')
        )


def split(recording: Recording, held_out: float) -> tuple[Recording, Recording]:
    """The beginning, to train on, and the end, which is held out: never frames in between.

    Args:
        recording: to split.
        held_out: share of the end, 0..1.
    """
    cut = len(recording) - round(held_out * len(recording))
    return recording.part(0, cut), recording.part(cut, len(recording))


def find_triplets(recording: Recording, config: VideoDataConfig) -> Triplets:
    """Look through a recording once.

    Raises:
        TrainingError: the recording has another size than it should have.
    """
    size_hw = (config.height_px, config.width_px)
    if tuple(recording.images.shape[1:]) != (3, *size_hw):
        raise TrainingError(
            f'{recording.name} holds pictures {tuple(recording.images.shape[1:])}, expected are '
            f'{(3, *size_hw)}: resize them together with K'
        )
    grays = [_gray(image) for image in recording.images]
    spoilt = _spoilt(grays, config)
    meter = ParallaxMeter(
        recording.K.numpy(), size_hw, config.min_parallax_px, config.max_parallax_px
    )
    pairs = _measure(grays, spoilt, meter, config.max_gap)
    return _join(recording, pairs, spoilt)


def _gray(image: Tensor) -> np.ndarray:
    """(H, W) uint8 of (3, H, W)."""
    return cv2.cvtColor(
        np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy()), cv2.COLOR_RGB2GRAY
    )


def _spoilt(grays: list[np.ndarray], config: VideoDataConfig) -> dict[int, str]:
    """Frame -> why it cannot be used by itself."""
    if not grays:
        return {}
    sharp = np.array([cv2.Laplacian(gray, cv2.CV_32F).var() for gray in grays])
    clipped = np.array([((gray <= _DARKEST) | (gray >= _BRIGHTEST)).mean() for gray in grays])
    blurred = sharp < config.sharpness * np.median(sharp)
    reasons = {int(i): 'blurred' for i in np.flatnonzero(blurred)}
    return reasons | {
        int(i): 'too dark or bright' for i in np.flatnonzero(clipped > config.clipped)
    }


def _measure(
    grays: list[np.ndarray], spoilt: dict[int, str], meter: ParallaxMeter, max_gap: int
) -> dict[tuple[int, int], PairMotion]:
    """What happened from a frame to some of those after it, until the view is another one."""
    watched: dict[int, Watched] = {}

    def watch(index: int) -> Watched:
        if index not in watched:
            watched[index] = meter.watch(grays[index])
        return watched[index]

    pairs = {}
    for index in range(len(grays)):
        watched.pop(index - 1, None)
        if index in spoilt:
            continue
        usable = 0
        for gap in _gaps(max_gap):
            other = index + gap
            if other >= len(grays) or usable == _PARTNERS:
                break
            if other in spoilt:
                continue
            motion = meter.between(watch(index), watch(other))
            pairs[index, other] = motion
            usable += motion.verdict is Verdict.USABLE
            if motion.verdict is Verdict.APART:
                break
    return pairs


def _gaps(largest: int) -> list[int]:
    """1, 2, 3, 5, 7, ...: what little parallax needs, few steps reach."""
    gaps, gap = [], 1
    while gap <= largest:
        gaps.append(gap)
        gap = max(gap + 1, round(_GROWTH * gap))
    return gaps


def _join(
    recording: Recording, pairs: dict[tuple[int, int], PairMotion], spoilt: dict[int, str]
) -> Triplets:
    """All triplets of usable pairs."""
    before: dict[int, list[int]] = {index: [] for index in range(len(recording))}
    after: dict[int, list[int]] = {index: [] for index in range(len(recording))}
    refused: dict[int, list[Verdict]] = {index: [] for index in range(len(recording))}
    for (first, second), motion in pairs.items():
        if motion.verdict is Verdict.USABLE:
            after[first].append(second)
            before[second].append(first)
    for (first, second), motion in pairs.items():
        if motion.verdict is not Verdict.USABLE:  # why a side is empty
            refused[first] += [] if after[first] else [motion.verdict]
            refused[second] += [] if before[second] else [motion.verdict]
    frames, rotations, lengths = [], [], []
    left_out = Counter(spoilt.values())
    for index in range(len(recording)):
        if index in spoilt:
            continue
        if not before[index] or not after[index]:
            common = Counter(refused[index]).most_common(1)
            left_out[common[0][0].value if common else 'at an end'] += 1
            continue
        for one in before[index]:
            for two in after[index]:
                frames.append((index, one, two))
                rotations.append((pairs[one, index].R_1_0.T, pairs[index, two].R_1_0))
                lengths.append((_length(recording, one, index), _length(recording, index, two)))
    return Triplets(
        torch.tensor(frames, dtype=torch.int64).reshape(-1, 3),
        torch.from_numpy(np.array(rotations, dtype=np.float32).reshape(-1, 2, 3, 3)),
        torch.tensor(lengths, dtype=torch.float32).reshape(-1, 2),
        left_out,
    )


def _length(recording: Recording, first: int, second: int) -> float:
    if recording.length_m is None:
        return float('nan')
    stamps_ns = recording.stamps_ns
    return recording.length_m(int(stamps_ns[first]), int(stamps_ns[second]))
