"""What every recorded camera stream looks like to the rest of the package.

A `Source` is opened by `sources.open_source`, asked for `records()` once or more, and closed.
Records come in the order of recording and are decoded when asked for, so memory stays flat.
Whatever cannot be decoded arrives as `BadFrame`, never as an exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import dataclasses
import enum
import logging
from typing import Protocol, TypeAlias

import numpy as np

from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import BadFrame, Frame, Gyro, Trajectory, WheelOdometry

Record: TypeAlias = 'Frame | BadFrame | WheelOdometry | Gyro'
OPTICAL_FRAME = 'camera_optical_frame'
_log = logging.getLogger(__name__)


class SourceKind(enum.Enum):
    """The layouts a source can be stored in."""

    FRAMES = 'folder with frames.txt'
    IMAGES = 'folder of images'
    TUM_RGBD = 'TUM RGB-D sequence'
    EUROC = 'EuRoC sequence'
    KITTI = 'KITTI odometry sequence'
    VIDEO = 'video file'
    BAG = 'ROS bag'
    RENDERED = 'rendered sequence'


@dataclasses.dataclass(frozen=True)
class SourceInfo:
    """What is known about a source without reading it through.

    Attributes:
        name: short name for titles and file names.
        kind: how it is stored.
        n_frames: how many images `records` will offer, None when that cannot be told cheaply.
        camera: intrinsics, None while a bag has not shown any.
        has_depth: whether frames can carry depth.
        has_ground_truth: whether `ground_truth` can answer.
        notes: one sentence per guess made or oddity met so far.
    """

    name: str
    kind: SourceKind
    n_frames: int | None
    camera: Camera | None
    has_depth: bool
    has_ground_truth: bool
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """A recorded camera stream; also a context manager that closes itself."""

    @property
    def info(self) -> SourceInfo:
        """What is known so far."""

    def records(self) -> Iterator[Record]:
        """Iterate from the start; finish or drop one pass before the next."""

    def ground_truth(self) -> Trajectory | None:
        """Poses `T_world_camera` of the optical frame, None where none were recorded."""

    def extrinsics(self) -> np.ndarray | None:
        """(4, 4) `T_base_camera` of the optical frame, None where it was not recorded."""

    def close(self) -> None:
        """Release files; closing twice is allowed."""

    def __enter__(self) -> Source:
        """Return the source itself."""

    def __exit__(self, *exc_info: object) -> None:
        """Close the source."""


class Notes:
    """What a source has to remark, each sentence once, logged when it comes up."""

    def __init__(self, name: str, sentences: Iterable[str] = ()) -> None:
        self._name = name
        self._sentences: dict[str, None] = {}
        for sentence in sentences:
            self.add(sentence)

    def add(self, sentence: str) -> None:
        """Remember and log a sentence that is new."""
        if sentence not in self._sentences:
            self._sentences[sentence] = None
            _log.warning('%s: %s', self._name, sentence)

    def __iter__(self) -> Iterator[str]:
        """The sentences in order."""
        return iter(self._sentences)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which images of a recording are wanted.

    Attributes:
        stride: take every n-th image.
        start_s: skip this many seconds from the first image on.
        duration_s: stop after this many seconds, None for all.
    """

    stride: int = 1
    start_s: float = 0.0
    duration_s: float | None = None

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise BagError(f'stride {self.stride} is not positive: use 1 for every image')
        if not self.start_s >= 0.0:
            raise BagError(f'start_s {self.start_s} is negative: use 0 for the beginning')
        if self.duration_s is not None and not self.duration_s > 0.0:
            raise BagError(f'duration_s {self.duration_s} must be positive: leave it out for all')

    def picker(self) -> SelectionPicker:
        """A fresh judge for one pass over the recording."""
        return SelectionPicker(self)


class SelectionPicker:
    """Applies a `Selection` to one pass of stamps; the first image seen is time zero."""

    def __init__(self, selection: Selection) -> None:
        self._stride = selection.stride
        self._start_ns = round(selection.start_s * 1e9)
        duration_s = selection.duration_s
        self._end_ns = None if duration_s is None else self._start_ns + round(duration_s * 1e9)
        self._first_ns: int | None = None
        self._count = 0

    def in_window(self, stamp_ns: int) -> bool:
        """Whether the stamp lies in the wanted time; stamps may jump back before time zero."""
        elapsed_ns = 0 if self._first_ns is None else stamp_ns - self._first_ns
        if self._start_ns and elapsed_ns < self._start_ns:
            return False
        return self._end_ns is None or elapsed_ns < self._end_ns

    def take_image(self, stamp_ns: int) -> bool:
        """Whether this image, the next one in order, is wanted."""
        if self._first_ns is None:
            self._first_ns = stamp_ns
        if not self.in_window(stamp_ns):
            return False
        self._count += 1
        return (self._count - 1) % self._stride == 0


def make_frame(
    stamp_ns: int,
    image: np.ndarray,
    camera: Camera,
    frame_id: str = OPTICAL_FRAME,
    depth_m: np.ndarray | None = None,
) -> Frame | BadFrame:
    """Join an image and its intrinsics; a `BadFrame` when their sizes disagree.

    Args:
        stamp_ns: time of the image.
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        camera: its intrinsics.
        frame_id: name of the optical frame.
        depth_m: (H, W) float32 metres; dropped by the caller when its size differs.
    """
    height, width = image.shape[:2]
    if (width, height) != (camera.width, camera.height):
        return BadFrame(
            stamp_ns,
            f'image is {width}x{height} but its intrinsics are for '
            f'{camera.width}x{camera.height}: give the intrinsics of this resolution',
        )
    return Frame(stamp_ns, image, camera, frame_id or OPTICAL_FRAME, depth_m)
