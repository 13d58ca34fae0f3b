"""kpvo bench features: mapped places, and views of them from elsewhere, with truth.

A map is a first pass of which images, depths and poses are known. A query is one more image of
something that a view of the map shows as well; how far apart the two were taken says how hard it
is. Beside the queries stand images of places that no map shows, where any answer is a wrong one.
Here are recorded ones: what of the end of a walk comes back to its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from pathlib import Path
import sys

import numpy as np

from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench_features_data import HELD_OUT_SHARE
from kpvo_ros.cli.tracking_truth import Clip, read_clip
from kpvo_ros.geometry import se3

BINS_M = (0.7, 1.2, 2.0, 3.0)  # distances of a query from the view of the map, upper ends
MAX_TURN_DEG = 60.0  # of a query from the view of the map
_SHARE = 0.15  # of a query that the view must show as well
_NOTHING = 0.02  # of an image of a strange place that any view may seem to show
_AGREE = 0.05  # relative difference of depth up to which two views see the same
_EVERY = 2  # images of the walk from keyframe to keyframe
_STRIDE_PX = 9  # between the pixels that are compared


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
    """Images to be recognised.

    Attributes:
        grays: Q of them, (H, W) uint8.
        poses: (Q, 4, 4) `T_world_camera`.
        depth_m: (Q,) median depth of what they show.
        distance_m: (Q,) from the view of the map that shows most of the same.
    """

    grays: list[np.ndarray]
    poses: np.ndarray
    depth_m: np.ndarray
    distance_m: np.ndarray

    def __len__(self) -> int:
        return len(self.grays)


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A map, queries that see it, and images that do not.

    Attributes:
        mapped: the first pass.
        queries: by what is special about them.
        strange: (H, W) uint8 images of places that are not in the map.
    """

    mapped: Clip
    queries: dict[str, Queries]
    strange: list[np.ndarray]


def recorded_trial(folder: Path) -> Trial:
    """The beginning of a recorded walk, and what of its end comes back to it.

    Raises:
        KpvoError: it cannot be read, or has no depth or no true poses.
    """
    with open_source(folder) as source:
        clip = read_clip(source, 0, sys.maxsize)
    first = len(clip) - round(HELD_OUT_SHARE * len(clip))
    mapped = part_of(clip, range(0, first, _EVERY))
    chosen, distances, strange = [], [], []
    for index in range(first, len(clip)):
        points = points_of(clip, index, _STRIDE_PX)
        pose = clip.poses[index]
        share, distance_m = best_view(mapped, points, pose)
        if share >= _SHARE:
            chosen.append(index)
            distances.append(distance_m)
        elif max(shown_by(mapped, i, points, pose) for i in range(len(mapped))) < _NOTHING:
            strange.append(clip.grays[index])
    met = part_of(clip, chosen)
    depth_m = np.array([np.nanmedian(depth) for depth in met.depths_m])
    queries = Queries(met.grays, met.poses, depth_m, np.array(distances))
    return Trial(mapped, {clip.name: queries}, strange)


def part_of(clip: Clip, indices: Sequence[int]) -> Clip:
    """Some views of a clip."""
    return dataclasses.replace(
        clip,
        grays=[clip.grays[i] for i in indices],
        depths_m=[clip.depths_m[i] for i in indices],
        poses=clip.poses[list(indices)],
    )


def points_of(clip: Clip, index: int, stride_px: int) -> np.ndarray:
    """(K, 3) what a view shows at every so many pixels, in its camera; NaN where unknown."""
    row, column = np.mgrid[: clip.camera.height : stride_px, : clip.camera.width : stride_px]
    xy = np.stack([column.ravel(), row.ravel()], axis=-1)
    depth_m = clip.depths_m[index][row, column].reshape(-1, 1)
    return np.asarray(clip.camera.unproject(xy.astype(float)) * depth_m)


def best_view(mapped: Clip, points: np.ndarray, T_world_camera: np.ndarray) -> tuple[float, float]:
    """The view of a map, neither too far nor turned too much, that shows most of an image.

    Args:
        mapped: the views.
        points: (K, 3) what the image shows, in its camera, NaN where unknown.
        T_world_camera: (4, 4) of the image.

    Returns:
        Share of the points that the view shows, 0 when there is no view; its distance.
    """
    turn = np.swapaxes(mapped.poses[:, :3, :3], 1, 2) @ T_world_camera[:3, :3]
    turn_rad = se3.rotation_angle_rad(turn)
    distance_m = np.linalg.norm(mapped.poses[:, :3, 3] - T_world_camera[:3, 3], axis=1)
    near = (distance_m <= BINS_M[-1]) & (turn_rad <= np.radians(MAX_TURN_DEG))
    shares = [(shown_by(mapped, int(i), points, T_world_camera), i) for i in np.flatnonzero(near)]
    share, view = max(shares, default=(0.0, 0))
    return share, float(distance_m[view])


def shown_by(mapped: Clip, view: int, points: np.ndarray, T_world_camera: np.ndarray) -> float:
    """Share of the points (K, 3) of an image that a view of the map shows, see `best_view`."""
    T_view_camera = se3.inverse(mapped.poses[view]) @ T_world_camera
    local = se3.transform(T_view_camera, points[np.isfinite(points[:, 2])])
    local = local[local[:, 2] > 0]
    xy = mapped.camera.project(local)
    inside = mapped.camera.contains(xy)
    column, row = xy[inside].round().astype(int).T
    ratio = mapped.depths_m[view][row, column] / local[inside, 2]
    return float((np.abs(ratio - 1.0) < _AGREE).sum() / max(1, len(points)))
