"""Recordings as a training on video wants them: small pinhole pictures in memory, and lengths."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from kpvo_ros.errors import BagError, CommandError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import BadFrame, Frame, Trajectory, WheelOdometry

if TYPE_CHECKING:
    from kpvo_ros.bags.source import Source
    from kpvo_ros.methods.crossview.video_selection import Recording, VideoDataConfig

_LONGEST_GAP_NS = 500_000_000  # between two poses that are interpolated


def read_recording(
    path: Path, config: VideoDataConfig, *, use: float, most: int, known_lengths: str
) -> Recording:
    """Read a recording into memory.

    Args:
        path: bag, folder of frames, or video; intrinsics as they come with it, or in a YAML file
            of the same name beside it.
        config: size and fit of the pictures.
        use: share of the frames, from the beginning, that is read; nothing behind it.
        most: frames that are kept; longer recordings are thinned evenly.
        known_lengths: 'off', 'wheels' or 'poses'.

    Raises:
        CommandError: there is no camera, no readable frame, or no such lengths.
        BagError: the recording cannot be read.
    """
    import torch

    from kpvo_ros.methods.crossview.video_selection import Recording

    with _open(path) as source:
        frames = _Frames(config, most)
        wheels: dict[int, np.ndarray] = {}
        for record in _used(source, use):
            if isinstance(record, WheelOdometry):
                wheels[record.stamp_ns] = record.T_odom_base
            else:
                frames.take(record)
        if not frames.kept:
            raise CommandError(
                f'{path}: no readable frame ({frames.reason or "it is empty"}); check the '
                'recording, or raise use'
            )
        length_m = (
            None if known_lengths == 'off' else _lengths(path, source, wheels, known_lengths)
        )
    images = torch.from_numpy(np.stack([one.picture for one in frames.kept]))
    return Recording(
        path.resolve().name,
        images.permute(0, 3, 1, 2).contiguous(),
        np.array([one.stamp_ns for one in frames.kept], dtype=np.int64),
        torch.from_numpy(np.array(frames.target.K, dtype=np.float32)),
        length_m,
    )


class PathLengths:
    """How far a camera went, straight, between two instants of a recorded path.

    Args:
        path: poses `T_world_camera`.
    """

    def __init__(self, path: Trajectory) -> None:
        self._path = path

    def __call__(self, first_ns: int, second_ns: int) -> float:
        """Metres, NaN where the path has a hole or ends."""
        places = np.stack([self._place(first_ns), self._place(second_ns)])
        return float(np.linalg.norm(places[1] - places[0]))

    def _place(self, stamp_ns: int) -> np.ndarray:
        stamps_ns = self._path.stamps_ns
        after = int(np.searchsorted(stamps_ns, stamp_ns))
        if after < len(stamps_ns) and stamps_ns[after] == stamp_ns:
            return self._path.poses[after, :3, 3]
        if not 0 < after < len(stamps_ns):
            return np.full(3, np.nan)
        span_ns = int(stamps_ns[after] - stamps_ns[after - 1])
        if span_ns > _LONGEST_GAP_NS:
            return np.full(3, np.nan)
        share = int(stamp_ns - stamps_ns[after - 1]) / span_ns
        before, behind = self._path.poses[after - 1 : after + 1, :3, 3]
        return before + share * (behind - before)


@dataclasses.dataclass(frozen=True, eq=False)
class _Kept:
    """A frame in memory: its number in the recording, its stamp, (H, W, 3) uint8."""

    index: int
    stamp_ns: int
    picture: np.ndarray


class _Frames:
    """Takes frames in order, shrinks them, and thins them when they become too many.

    Attributes:
        kept: those in memory.
        target: the camera of their pictures; that of the first frame decides.
        reason: why the last unusable one was.
    """

    def __init__(self, config: VideoDataConfig, most: int) -> None:
        self._config, self._most = config, most
        self._stride, self._index = 1, 0
        self._camera: Camera | None = None
        self._maps: tuple[np.ndarray, np.ndarray] | None = None
        self._detail = 1  # pixels of the source for a pixel of the picture, about
        self.kept: list[_Kept] = []
        self.target: Camera
        self.reason = ''

    def take(self, record: Frame | BadFrame) -> None:
        """Keep a frame, or leave it out."""
        index, self._index = self._index, self._index + 1
        if index % self._stride:
            return
        if isinstance(record, BadFrame):
            self.reason = record.reason
            return
        self.kept.append(_Kept(index, record.stamp_ns, self._picture(record)))
        if len(self.kept) > self._most:
            self._stride *= 2
            self.kept = [one for one in self.kept if one.index % self._stride == 0]

    def _picture(self, frame: Frame) -> np.ndarray:
        """(H, W, 3) uint8 as the target camera sees it."""
        if frame.camera != self._camera:  # once, or when a zoom or a driver changes it
            if self._camera is None:
                self._aim(frame.camera)
            self._camera = frame.camera
            size = self._config.width_px * self._detail, self._config.height_px * self._detail
            self._maps = frame.camera.undistort_maps(self.target.resized(*size))
        assert self._maps is not None
        # The outermost half pixel of a picture has no neighbour to be mixed with.
        image = cv2.remap(
            frame.image, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        # Undistorted at full detail first, and then by area: neither blurred nor jagged.
        size = (self._config.width_px, self._config.height_px)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(small, cv2.COLOR_GRAY2RGB) if small.ndim == 2 else small

    def _aim(self, camera: Camera) -> None:
        """Choose the pinhole of the pictures."""
        plain = camera.rectified()
        width, height = self._config.width_px, self._config.height_px
        if self._config.fit == 'crop':
            scale = min(plain.width / width, plain.height / height)
            kept_w, kept_h = max(round(scale * width), 1), max(round(scale * height), 1)
            left, top = (plain.width - kept_w) // 2, (plain.height - kept_h) // 2
            plain = plain.cropped(left, top, kept_w, kept_h)
        self._detail = max(1, round(min(plain.width / width, plain.height / height)))
        self.target = plain.resized(width, height)


def _open(path: Path) -> Source:
    from kpvo_ros.bags.sources import is_bag_folder, open_source

    # Folders of frames know their own; bags and videos may have a file of their name beside them.
    inside = path.is_dir() and not is_bag_folder(path)
    beside = path.with_name(path.stem + '.yaml')
    intrinsics = None if inside or not beside.is_file() else beside
    try:
        return open_source(path, intrinsics=intrinsics)
    except BagError as error:
        place = path / 'intrinsics.yaml' if inside else beside
        hint = f'put its camera into {place}'
        text = str(error).replace('pass a YAML file with --intrinsics', hint)
        raise CommandError(text) from None


def _used(source: Source, use: float) -> Iterator[Frame | BadFrame | WheelOdometry]:
    """The records up to the end of the used share of the images."""
    last = None if use >= 1.0 else int(use * _count(source))
    images = 0
    for record in source.records():
        if isinstance(record, Frame | BadFrame):
            if images == last:
                return
            images += 1
        if isinstance(record, Frame | BadFrame | WheelOdometry):
            yield record


def _count(source: Source) -> int:
    """How many images a source has; containers of videos tell wrong numbers."""
    from kpvo_ros.bags.source import SourceKind

    told = source.info.n_frames
    if told is not None and source.info.kind is not SourceKind.VIDEO:
        return told
    return sum(isinstance(record, Frame | BadFrame) for record in source.records())


def _lengths(
    path: Path, source: Source, wheels: dict[int, np.ndarray], known_lengths: str
) -> PathLengths:
    if known_lengths == 'poses':
        truth = source.ground_truth()
        if truth is None:
            raise CommandError(f'{path}: has no recorded poses; set known_lengths=off')
        return PathLengths(truth)
    T_base_camera = source.extrinsics()
    if not wheels or T_base_camera is None:
        raise CommandError(
            f'{path}: has no wheel odometry or no /tf_static from the base to the camera; set '
            'known_lengths=off'
        )
    stamps_ns = sorted(wheels)
    poses = np.stack([wheels[stamp_ns] for stamp_ns in stamps_ns]) @ T_base_camera
    return PathLengths(Trajectory(np.array(stamps_ns, dtype=np.int64), poses))
