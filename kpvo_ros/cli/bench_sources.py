"""Recordings made harder or longer: images that get lost, a way driven forth and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import dataclasses

import numpy as np

from kpvo_ros.bags.source import Record, Source, SourceInfo, SourceKind
from kpvo_ros.errors import BagError
from kpvo_ros.types import Frame, Trajectory


class DroppingSource:
    """A `Source` that loses images at random, as a busy machine does.

    Args:
        source: the whole recording.
        share: of the images, that is lost.
        rng: decides which.
    """

    def __init__(self, source: Source, share: float, rng: np.random.Generator) -> None:
        self._source = source
        self._share = share
        self._rng = rng
        self.ground_truth: Callable[[], Trajectory | None] = source.ground_truth
        self.extrinsics: Callable[[], np.ndarray | None] = source.extrinsics
        self.close: Callable[[], None] = source.close

    @property
    def info(self) -> SourceInfo:
        """That of the recording; how many images remain is left to chance."""
        return dataclasses.replace(self._source.info, n_frames=None)

    def records(self) -> Iterator[Record]:
        """What is left."""
        for record in self._source.records():
            if not isinstance(record, Frame) or self._rng.random() >= self._share:
                yield record

    def __enter__(self) -> DroppingSource:
        """Return the source itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the recording."""
        self.close()


class ForthAndBackSource:
    """A `Source` that plays images in memory forth, back, and forth again.

    The way stays continuous and the stamps go on, so a run may last as long as one likes and
    costs nothing but the odometry.

    Args:
        frames: decoded images in order, at least two.
        count: how many to play.
        T_base_camera: (4, 4) pose of the optical frame in the base, None when not known.

    Raises:
        BagError: fewer than two images.
    """

    def __init__(
        self, frames: Sequence[Frame], count: int, T_base_camera: np.ndarray | None
    ) -> None:
        if len(frames) < 2:
            raise BagError(f'{len(frames)} images: going back needs at least two')
        self._frames = frames
        self._count = count
        self._T_base_camera = T_base_camera
        stamps_ns = [frame.stamp_ns for frame in frames]
        self._period_ns = int(np.median(np.diff(stamps_ns)))

    @property
    def info(self) -> SourceInfo:
        """All is known beforehand."""
        return SourceInfo(
            name='forth and back',
            kind=SourceKind.RENDERED,
            n_frames=self._count,
            camera=self._frames[0].camera,
            has_depth=self._frames[0].depth_m is not None,
            has_ground_truth=False,
        )

    def records(self) -> Iterator[Record]:
        """A new frame around the same image each time, so that nothing computed is kept."""
        start_ns, last = self._frames[0].stamp_ns, len(self._frames) - 1
        for index in range(self._count):
            frame = self._frames[last - abs(last - index % (2 * last))]
            yield dataclasses.replace(frame, stamp_ns=start_ns + index * self._period_ns)

    def ground_truth(self) -> None:
        """Not offered."""

    def extrinsics(self) -> np.ndarray | None:
        """As given."""
        return self._T_base_camera

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> ForthAndBackSource:
        """Return the source itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing is held."""
