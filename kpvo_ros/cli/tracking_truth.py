"""Where the points of a picture really go: told by depth and poses, not by looking at pictures.

A point counts as visible in another picture when the depth there agrees with its own. Points on
depth edges have no single truth and are never visible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import itertools

import numpy as np

from kpvo_ros.bags.source import Source
from kpvo_ros.config.runtime import FrontendConfig
from kpvo_ros.errors import CommandError
from kpvo_ros.evaluation.association import associate
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Frame

_EDGE = 0.04  # relative difference of depth between neighbours from which on it is an edge
_EVERY = 5
_BORDER_PX = 3.0  # what is nearer to the border of a picture cannot be followed


@dataclasses.dataclass(frozen=True)
class Clip:
    """Consecutive pictures with all that is known about them.

    Attributes:
        name: for tables.
        grays: n pictures (H, W) uint8.
        depths_m: n depth pictures (H, W), NaN where unknown.
        poses: (n, 4, 4) `T_world_camera`.
        camera: intrinsics.
        depth_tolerance: relative difference of depth up to which a point is the same one.
    """

    name: str
    grays: list[np.ndarray]
    depths_m: list[np.ndarray]
    poses: np.ndarray
    camera: Camera
    depth_tolerance: float = 0.02

    def __len__(self) -> int:
        return len(self.grays)

    def depth(self, index: int, xy: np.ndarray) -> np.ndarray:
        """(N,) metres at (N, 2) pixels inside picture `index`; NaN unknown or at an edge."""
        return _depth_at(self.depths_m[index], xy)

    def motion(self, index0: int, index1: int) -> np.ndarray:
        """(4, 4) pose of camera 0 in camera 1."""
        return se3.inverse(self.poses[index1]) @ self.poses[index0]

    def follow(self, index0: int, index1: int, xy0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points of picture `index0` are in picture `index1`.

        Args:
            index0: of the first picture.
            index1: of the second.
            xy0: (N, 2) pixels in the first.

        Returns:
            (N, 2) pixels, NaN where that is unknown, and (N,) bool whether they are visible.
        """
        depth0 = self.depth(index0, xy0)
        local = self.camera.unproject(np.asarray(xy0, float)) * depth0[:, None]
        local = se3.transform(self.motion(index0, index1), local)
        with np.errstate(invalid='ignore', divide='ignore'):
            xy1 = np.where(local[:, 2:] > 0, self.camera.project(local), np.nan)
            last = (self.camera.width - 1 - _BORDER_PX, self.camera.height - 1 - _BORDER_PX)
            visible = np.all((xy1 > _BORDER_PX) & (xy1 < last), axis=1)
            there = self.depth(index1, np.where(visible[:, None], xy1, _BORDER_PX))
            visible &= np.abs(there / local[:, 2] - 1.0) < self.depth_tolerance
        return xy1, visible


def read_clip(source: Source, first: int, count: int, depth_tolerance: float = 0.02) -> Clip:
    """Frames `first` .. `first + count` of a recording with depth and ground truth.

    Raises:
        CommandError: the recording lacks depth or ground truth.
    """
    truth = source.ground_truth()
    records = (record for record in source.records() if isinstance(record, Frame))
    frames = [f for f in itertools.islice(records, first, first + count) if f.depth_m is not None]
    if truth is None or len(frames) < 2:
        raise CommandError(f'{source.info.name}: needs depth and ground truth from frame {first}')
    stamps_ns = np.array([frame.stamp_ns for frame in frames])
    of_frame, of_truth = associate(stamps_ns, truth.stamps_ns)
    frames = [frames[i] for i in of_frame]
    return Clip(
        source.info.name,
        [frame.gray for frame in frames],
        [frame.depth_m for frame in frames if frame.depth_m is not None],
        truth.poses[of_truth],
        frames[0].camera,
        depth_tolerance,
    )


def starts(clips: Sequence[Clip], gap: int) -> Iterator[tuple[Clip, int]]:
    """Every fifth picture that has another one `gap` frames later."""
    for clip in clips:
        for first in range(0, len(clip) - gap, _EVERY):
            yield clip, first


def keypoints(clip: Clip, index: int) -> np.ndarray:
    """(N, 2) float32 pixels that the odometry would start from."""
    return load_extractor(FrontendConfig()).extract(clip.grays[index]).xy


def _depth_at(depth_m: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Between pixels, inverse depth is linear on planes."""
    height, width = depth_m.shape
    corner = np.clip(np.floor(xy).astype(int), 0, (width - 2, height - 2))
    x, y = (xy - corner).T
    around = [(0, 0, (1 - x) * (1 - y)), (1, 0, x * (1 - y)), (0, 1, (1 - x) * y), (1, 1, x * y)]
    with np.errstate(divide='ignore', invalid='ignore'):
        rho = np.stack([1.0 / depth_m[corner[:, 1] + j, corner[:, 0] + i] for i, j, _ in around])
        flat = rho.max(0) < (1.0 + _EDGE) * rho.min(0)
        depth = 1.0 / sum(weight * r for (_, _, weight), r in zip(around, rho, strict=True))
    return np.where(flat, depth, np.nan)
