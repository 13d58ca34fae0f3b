"""Photos for training out of whatever a user has: folders of images, videos, bags.

Only pictures are wanted here, so no intrinsics are asked for. The end of every recording is held
out, never single pictures in between: neighbours in time show the same thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import logging
import os
from pathlib import Path
import re

import cv2
import numpy as np

from kpvo_ros.bags.image_files import IMAGE_SUFFIXES, natural_key, read_image
from kpvo_ros.bags.images import decode_compressed, decode_image
from kpvo_ros.bags.reader import Bag
from kpvo_ros.bags.sources import BAG_SUFFIXES, VIDEO_SUFFIXES
from kpvo_ros.bags.topics import TopicChoice, choose_topics
from kpvo_ros.errors import BagError

_NOT_PHOTOS = re.compile(r'depth|disparity|label|mask|semantic|segment', re.IGNORECASE)
_INDEX_FILES = ('frames.txt', 'rgb.txt', 'data.csv', 'times.txt')
_FEWEST_TO_SPLIT = 5  # of fewer pictures none is held out unless the share says so
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoSequence:
    """Pictures of one recording.

    Attributes:
        name: where they come from.
        images: (H, W, 3) uint8 RGB each, sizes may differ.
        in_time: they follow each other in time; False for loose photos.
    """

    name: str
    images: tuple[np.ndarray, ...]
    in_time: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Photos:
    """All pictures found.

    Attributes:
        training: recordings without their ends.
        held_out: the ends.
        skipped: how many pictures could not be read.
    """

    training: tuple[PhotoSequence, ...]
    held_out: tuple[PhotoSequence, ...]
    skipped: int = 0

    @property
    def megabytes(self) -> float:
        """Memory that the pictures take."""
        parts = (*self.training, *self.held_out)
        return sum(image.nbytes for part in parts for image in part.images) / 1e6

    def summary(self) -> str:
        """One line on what was found."""
        train, held = (sum(len(s.images) for s in p) for p in (self.training, self.held_out))
        skipped = f', {self.skipped} unreadable' if self.skipped else ''
        return (
            f'{train} training and {held} held-out pictures of {len(self.training)} recordings, '
            f'{self.megabytes:.0f} MB{skipped}'
        )


def load_photos(
    paths: Sequence[str | Path],
    *,
    short_side_px: int,
    most: int | None = None,
    held_out: float = 0.1,
) -> Photos:
    """Load pictures into memory.

    A folder is searched with all folders below it; those named after depth, labels or masks are
    left out. Pictures count as one recording in time when an index file (frames.txt, rgb.txt,
    data.csv, times.txt) lies beside or above them, and always in videos and bags.

    Args:
        paths: folders, images, videos, bags.
        short_side_px: larger pictures are reduced until their shorter side has so many pixels;
            about 1.3 times the training crop leaves room for random scales.
        most: largest number of pictures kept, picked evenly over each recording; None for all.
        held_out: share of every recording, its end, that is held out.

    Raises:
        BagError: nothing readable was found, or an argument is out of its range.
    """
    if not 0 <= held_out < 1 or short_side_px < 16 or (most is not None and most < 1):
        raise BagError(
            f'held_out={held_out} must be within 0..1, short_side_px={short_side_px} at least 16 '
            f'and most={most} positive'
        )
    reels = [reel for path in paths for reel in _find(Path(path))]
    total = sum(reel.count for reel in reels)
    keep = 1.0 if most is None or total <= most else most / total
    training: list[PhotoSequence] = []
    ends: list[PhotoSequence] = []
    skipped = 0
    for reel in reels:
        picked = _pick(reel.count, keep)
        cut = reel.count - _ends(reel.count, held_out)
        images = {i: _reduced(image, short_side_px) for i, image in reel.read(picked)}
        skipped += len(picked) - len(images)
        for part, inside in ((training, range(cut)), (ends, range(cut, reel.count))):
            kept = tuple(images[i] for i in sorted(images) if i in inside)
            if kept:
                part.append(PhotoSequence(reel.name, kept, reel.in_time))
    photos = Photos(tuple(training), tuple(ends), skipped)
    if not photos.training:
        raise BagError(
            f'no readable picture in {", ".join(repr(str(p)) for p in paths) or "no path"}: '
            'pass folders of jpg or png, videos, or bags with an image topic'
        )
    _log.info('%s', photos.summary())
    return photos


class _Images:
    """A folder's image files, in order of name with numbers as numbers."""

    def __init__(self, name: str, files: list[Path], in_time: bool) -> None:
        self.name, self.in_time, self.count = name, in_time, len(files)
        self._files = files

    def read(self, picked: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in picked:
            try:
                yield index, read_image(self._files[index])
            except BagError as error:
                _log.warning('skipped: %s', error)


class _Video:
    in_time = True

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        capture = self._open()
        self.count = 0  # containers tell wrong numbers: count
        while capture.grab():
            self.count += 1
        capture.release()

    def read(self, picked: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        wanted = set(picked)
        capture = self._open()
        for index in range(self.count):
            if not capture.grab():
                break
            if index in wanted:
                ok, image = capture.retrieve()
                if ok:
                    yield index, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                else:
                    _log.warning('skipped: frame %d of %r cannot be decoded', index, self.name)
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise BagError(f'{str(self._path)!r} cannot be opened as a video: check the file')
        return capture


class _BagImages:
    in_time = True

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        with Bag(path) as bag:
            self._topic = str(choose_topics(bag.topics, TopicChoice())[0].image)
            self.count = bag.topics[self._topic].count

    def read(self, picked: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        wanted = set(picked)
        with Bag(self._path) as bag:
            for index, raw in enumerate(bag.raw_messages({self._topic})):
                if index not in wanted:
                    continue
                try:
                    msg = bag.deserialize(raw)
                    is_plain = hasattr(msg, 'encoding')
                    yield index, decode_image(msg) if is_plain else decode_compressed(msg)
                except BagError as error:
                    _log.warning('skipped: image %d of %r: %s', index, self.name, error)


def _find(path: Path) -> Iterator[_Images | _Video | _BagImages]:
    """The recordings at a path and below; what cannot be opened is named and left out."""
    if not path.exists():
        raise BagError(f'{str(path)!r} does not exist: check the path')
    if path.is_file():
        yield from _open_files(path.parent, [path])
        return
    for root, folders, names in os.walk(path):
        folder = Path(root)
        folders[:] = sorted(name for name in folders if not _NOT_PHOTOS.search(name))
        # A bag without its metadata is opened file by file: photos may lie beside it.
        if 'metadata.yaml' in names and any(Path(n).suffix in ('.mcap', '.db3') for n in names):
            folders.clear()
            yield from _open(_BagImages, folder)
        else:
            yield from _open_files(folder, [folder / name for name in names])


def _open_files(folder: Path, files: list[Path]) -> Iterator[_Images | _Video | _BagImages]:
    files = sorted(files, key=natural_key)
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if images:
        beside = (folder / name for name in _INDEX_FILES)
        above = (folder.parent / name for name in _INDEX_FILES)
        in_time = any(index.is_file() for index in (*beside, *above))
        yield _Images(f'{folder.parent.name}/{folder.name}', images, in_time)
    for file in files:
        if file.suffix.lower() in VIDEO_SUFFIXES:
            yield from _open(_Video, file)
        elif file.suffix.lower() in BAG_SUFFIXES:
            yield from _open(_BagImages, file)


def _open(
    kind: type[_Video] | type[_BagImages], path: Path
) -> Iterator[_Images | _Video | _BagImages]:
    try:
        yield kind(path)
    except BagError as error:
        _log.warning('skipped: %s', error)


def _pick(count: int, share: float) -> list[int]:
    """Indices spread evenly over `count` pictures, at least one."""
    kept = count if share >= 1 else max(1, int(count * share))
    return [int((i + 0.5) * count / kept) for i in range(min(kept, count))]


def _ends(count: int, share: float) -> int:
    """How many pictures at the end are held out."""
    number = round(share * count)
    return max(number, 1) if share > 0 and count >= _FEWEST_TO_SPLIT else number


def _reduced(image: np.ndarray, short_side_px: int) -> np.ndarray:
    """(H, W, 3) with the shorter side no longer than that; grey becomes RGB."""
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    scale = short_side_px / min(image.shape[:2])
    if scale >= 1:
        return np.array(image)  # a copy: a view would keep the message alive
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
