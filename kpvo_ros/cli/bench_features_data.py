"""kpvo bench features: the recorded images it measures on.

Nothing here may be trained on: of `hololens_000` and of photo folders only the end is taken, which
`kpvo train` must leave out; the other sequences are not for training at all.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from pathlib import Path

import cv2
import numpy as np

from kpvo_ros.bags.image_files import IMAGE_SUFFIXES, natural_key, read_image
from kpvo_ros.bags.sources import open_source
from kpvo_ros.errors import KpvoError
from kpvo_ros.evaluation.association import associate
from kpvo_ros.evaluation.keypoint_pairs import PairLimits
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Frame

LONG_SIDE_PX = 640  # larger images are reduced to it
HELD_OUT_SHARE = 0.3  # of hololens_000, at its end
HELD_OUT_PHOTOS = 0.1  # of a folder of photos, at its end


@dataclasses.dataclass(frozen=True)
class PoseSet:
    """A recording with true poses, and the pairs that are compared in it."""

    name: str
    limits: PairLimits
    last_share: float = 1.0


# Far apart for still photos of a building, as near as keyframes of a moving robot for videos.
POSE_SETS = (
    PoseSet('strecha_fountain_p11', PairLimits(36, angle_deg=(35.0, 80.0))),
    PoseSet('strecha_herz_jesus_p8', PairLimits(28, angle_deg=(18.0, 80.0))),
    PoseSet('strecha_herz_jesus_p25', PairLimits(50, angle_deg=(30.0, 80.0))),
    PoseSet('lund_door', PairLimits(36, angle_deg=(22.0, 80.0))),
    PoseSet('fox_ngp', PairLimits(50, angle_deg=(10.0, 60.0))),
    PoseSet('kitti_seq1', PairLimits(30, gap=(5, 15))),
    PoseSet('hololens_000', PairLimits(50, gap=(2, 6)), HELD_OUT_SHARE),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Views:
    """Images with their cameras and poses.

    Attributes:
        images: (H, W) or (H, W, 3) uint8 each.
        camera: intrinsics of all of them, with the lens.
        poses: (N, 4, 4) `T_world_camera`.
        stamps_ns: (N,) int64.
    """

    images: list[np.ndarray]
    camera: Camera
    poses: np.ndarray
    stamps_ns: np.ndarray


def read_views(folder: Path, last_share: float = 1.0) -> Views:
    """The images of a recording that have a true pose, reduced to `LONG_SIDE_PX`.

    Args:
        folder: the recording.
        last_share: take only this share of the images, those at the end.

    Raises:
        KpvoError: it cannot be read, or has no true poses.
    """
    with open_source(folder) as source:
        frames = [record for record in source.records() if isinstance(record, Frame)]
        truth = source.ground_truth()
    if truth is None or not frames:
        raise KpvoError(f'{folder.name}: has no images with true poses; leave it out of --data')
    stamps_ns = np.array([frame.stamp_ns for frame in frames])
    of_truth, of_frame = associate(truth.stamps_ns, stamps_ns)
    first = len(of_frame) - round(last_share * len(of_frame))
    of_truth, of_frame = of_truth[first:], of_frame[first:]
    images = [reduced(frames[i].image) for i in of_frame]
    height, width = images[0].shape[:2]
    camera = frames[0].camera.resized(width, height)
    return Views(images, camera, truth.poses[of_truth], stamps_ns[of_frame])


def held_out_photos(folder: Path, count: int) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 of the end of a folder of photos, evenly picked.

    The order is that in which training reads them: numbers in names count as numbers.

    Raises:
        BagError: one cannot be read.
    """
    paths = sorted(
        (p for p in folder.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES),
        key=lambda path: (str(path.parent), natural_key(path)),
    )
    paths = paths[len(paths) - round(HELD_OUT_PHOTOS * len(paths)) :]
    return [as_colour(reduced(read_image(paths[i]))) for i in evenly(len(paths), count)]


def evenly(length: int, count: int) -> list[int]:
    """At most `count` indices below `length`, evenly spread."""
    return sorted({int(i) for i in np.linspace(0, length - 1, min(count, length)).round()})


def reduced(image: np.ndarray) -> np.ndarray:
    """An image whose long side is at most `LONG_SIDE_PX`."""
    height, width = image.shape[:2]
    scale = LONG_SIDE_PX / max(height, width)
    if scale >= 1.0:
        return image
    size = (round(scale * width), round(scale * height))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def as_colour(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) of an image that may be grey."""
    return np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image


def present(data_dir: Path | None, names: Iterable[str]) -> dict[str, Path]:
    """The folders of those names that are there."""
    if data_dir is None:
        return {}
    return {name: data_dir / name for name in names if (data_dir / name).is_dir()}


# ------------------------------------------------------------------------------------ private
