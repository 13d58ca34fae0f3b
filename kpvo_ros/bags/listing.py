"""A recording that is a list of image files: the common shape of all folder layouts.

A layout (`layouts.py`) reads its index files once and hands over a `Listing`; `ListingSource`
turns it into records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
from pathlib import Path

import numpy as np

from kpvo_ros.bags.image_files import read_depth, read_image
from kpvo_ros.bags.source import Notes, Record, Selection, SourceInfo, SourceKind, make_frame
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import BadFrame, Trajectory


@dataclasses.dataclass(frozen=True)
class Entry:
    """One image file, its stamp, and the depth map that goes with it."""

    stamp_ns: int
    image: Path
    depth: Path | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """All that a folder layout says about a recording.

    Attributes:
        root: the folder.
        kind: its layout.
        entries: the images in order.
        camera: their intrinsics.
        depth_units_per_metre: stored depth value of one metre.
        load_ground_truth: reads `T_world_camera`, None where there is no such file.
        notes: one sentence per guess or oddity.
    """

    root: Path
    kind: SourceKind
    entries: tuple[Entry, ...]
    camera: Camera
    depth_units_per_metre: float = 1000.0
    load_ground_truth: Callable[[], Trajectory] | None = None
    notes: tuple[str, ...] = ()


class ListingSource:
    """The `Source` over a `Listing`."""

    def __init__(self, listing: Listing, selection: Selection) -> None:
        if not listing.entries:
            raise BagError(f'{str(listing.root)!r} lists no images: check the folder')
        self._listing = listing
        self._notes = Notes(listing.root.name, listing.notes)
        picker = selection.picker()
        self._entries = [e for e in listing.entries if picker.take_image(e.stamp_ns)]
        if not self._entries:
            raise BagError(
                f'no image of {str(listing.root)!r} lies in the wanted time: change start_s '
                'or duration_s'
            )
        missing = sum(not entry.image.is_file() for entry in self._entries)
        if missing:
            self._notes.add(f'{missing} of {len(self._entries)} listed images are missing')

    @property
    def info(self) -> SourceInfo:
        """What the index files tell."""
        listing = self._listing
        return SourceInfo(
            name=listing.root.resolve().name,
            kind=listing.kind,
            n_frames=len(self._entries),
            camera=listing.camera,
            has_depth=any(entry.depth for entry in self._entries),
            has_ground_truth=listing.load_ground_truth is not None,
            notes=tuple(self._notes),
        )

    def records(self) -> Iterator[Record]:
        """Decode one file after the other."""
        for entry in self._entries:
            yield self._read(entry)

    def ground_truth(self) -> Trajectory | None:
        """`T_world_camera` from the file of the layout."""
        load = self._listing.load_ground_truth
        return None if load is None else load()

    def extrinsics(self) -> np.ndarray | None:
        """None: folder layouts know no robot base."""
        return None

    def close(self) -> None:
        """Nothing stays open between records."""

    def __enter__(self) -> ListingSource:
        """Return the source itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the source."""
        self.close()

    def _read(self, entry: Entry) -> Record:
        try:
            image = read_image(entry.image)
        except BagError as error:
            return BadFrame(entry.stamp_ns, str(error))
        depth_m = None if entry.depth is None else self._read_depth(entry.depth, image.shape[:2])
        return make_frame(entry.stamp_ns, image, self._listing.camera, depth_m=depth_m)

    def _read_depth(self, path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
        """None when it cannot be used: the image alone is still worth having."""
        try:
            depth_m = read_depth(path, self._listing.depth_units_per_metre)
        except BagError as error:
            self._notes.add(str(error))
            return None
        if depth_m.shape != shape:
            self._notes.add('depth maps of another size than their image are left out: align them')
            return None
        return depth_m
