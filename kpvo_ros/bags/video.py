"""A video file with an intrinsics file as a `Source`.

Players honour the orientation tag of phone videos, and so does this: calibrate with frames as
they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from kpvo_ros.bags.intrinsics import read_intrinsics
from kpvo_ros.bags.source import Notes, Record, Selection, SourceInfo, SourceKind, make_frame
from kpvo_ros.errors import BagError
from kpvo_ros.types import Trajectory

_DEFAULT_FPS = 30.0


class VideoSource:
    """The `Source` over a video file.

    Args:
        path: the video.
        intrinsics: YAML file with the camera.
        selection: which images are wanted.

    Raises:
        BagError: the video cannot be opened, or intrinsics are missing.
    """

    def __init__(self, path: Path, intrinsics: Path | None, selection: Selection) -> None:
        if intrinsics is None:
            raise BagError(f'{str(path)!r} is a video: pass a YAML file with --intrinsics')
        self._path = path
        self._camera = read_intrinsics(intrinsics)
        self._selection = selection
        self._notes = Notes(path.name)
        capture = self._open()
        self._fps = capture.get(cv2.CAP_PROP_FPS)
        self._n_stored = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        if not 1.0 <= self._fps <= 1000.0:
            self._notes.add(f'the video tells no frame rate: {_DEFAULT_FPS:g} is assumed')
            self._fps = _DEFAULT_FPS

    @property
    def info(self) -> SourceInfo:
        """What the container tells."""
        whole = self._selection.start_s == 0.0 and self._selection.duration_s is None
        known = whole and self._n_stored > 0
        return SourceInfo(
            name=self._path.stem,
            kind=SourceKind.VIDEO,
            n_frames=-(-self._n_stored // self._selection.stride) if known else None,
            camera=self._camera,
            has_depth=False,
            has_ground_truth=False,
            notes=tuple(self._notes),
        )

    def records(self) -> Iterator[Record]:
        """Decode one frame after the other; skipped ones are not converted."""
        picker = self._selection.picker()
        capture = self._open()
        try:
            index, previous_ns = 0, -1
            while capture.grab():
                stamp_ns = self._stamp_ns(capture, index, previous_ns)
                index, previous_ns = index + 1, stamp_ns
                if picker.take_image(stamp_ns):
                    ok, image = capture.retrieve()
                    if ok:
                        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                        yield make_frame(stamp_ns, rgb, self._camera)
        finally:
            capture.release()

    def ground_truth(self) -> Trajectory | None:
        """None: videos know no poses."""
        return None

    def extrinsics(self) -> np.ndarray | None:
        """None: videos know no robot base."""
        return None

    def close(self) -> None:
        """Nothing stays open between passes."""

    def __enter__(self) -> VideoSource:
        """Return the source itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the source."""
        self.close()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise BagError(f'{str(self._path)!r} cannot be opened as a video: check the file')
        return capture

    def _stamp_ns(self, capture: cv2.VideoCapture, index: int, previous_ns: int) -> int:
        """Time in the container; containers that tell none, or the same twice, count frames."""
        told_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
        if index == 0:
            return max(told_ns, 0)
        return told_ns if told_ns > previous_ns else previous_ns + round(1e9 / self._fps)
