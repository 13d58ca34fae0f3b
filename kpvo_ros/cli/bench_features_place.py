"""kpvo bench features, part place: the right place named first, among many.

The image descriptor of a learned way stands between two others: a thumbnail of 16x12 grey pixels,
which costs nothing, and the number of mutual SIFT matches with every single image, which costs
more than any robot has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

import cv2
import numpy as np

from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_features_data import HELD_OUT_SHARE, present, read_views
from kpvo_ros.cli.bench_features_predictions import RATIO, Predictor
from kpvo_ros.cli.bench_features_rendered import two_laps
from kpvo_ros.evaluation.keypoint_pairs import apart_in_time, same_place
from kpvo_ros.evaluation.keypoints import recall_at_1
from kpvo_ros.frontend.gray import to_gray

_RECORDED = 'hololens_000'
_RECORDED_EVERY, _RECORDED_GAP = 3, 20  # 20 images of the recording are a few seconds
_LAP_IMAGES, _QUICK_LAP_IMAGES = 30, 8
_LAP_DISTANCE_M = 5.0  # of images of a street; 1 m indoors
_THUMBNAIL = (16, 12)
_MATCHES = 'sift'  # counts matches with every image
_THUMBNAILS = 'thumbnail'


@dataclasses.dataclass(frozen=True, eq=False)
class PlaceSet:
    """Images, which of them show the same place, and which may be answered.

    Attributes:
        name: of the set.
        images: N of them, uint8.
        right: (N, N) bool.
        allowed: (N, N) bool.
    """

    name: str
    images: list[np.ndarray]
    right: np.ndarray
    allowed: np.ndarray

    @property
    def queries(self) -> np.ndarray:
        """(Q,) indices of the images that have a right answer."""
        return np.flatnonzero((self.right & self.allowed).any(axis=1))

    @property
    def comparisons(self) -> list[tuple[int, int]]:
        """Every query with every image it may be answered by."""
        return [(int(i), int(j)) for i in self.queries for j in np.flatnonzero(self.allowed[i])]


def measure_place(
    options: BenchOptions, predictors: Sequence[Predictor]
) -> tuple[list[Table], dict[str, Any]]:
    """Recall at 1 of every way that has something to say about whole images."""
    ways: dict[str, dict[str, Any]] = {}
    sets = {}
    for places in _place_sets(options):
        sets[places.name] = {'images': len(places.images), 'queries': len(places.queries)}
        for name, similarity in _similarities(places, predictors):
            recall = recall_at_1(similarity, places.right, places.allowed)
            ways.setdefault(name, {})[places.name] = 100.0 * recall
    columns = [Column(f'{name} %', name, '.1f') for name in sets]
    title = 'right place first, ' + ', '.join(
        f'{name}: {numbers["queries"]} queries' for name, numbers in sets.items()
    )
    return [number_table(title, 'way', columns, ways)], {'sets': sets, 'ways': ways}


def thumbnails(images: Sequence[np.ndarray]) -> np.ndarray:
    """(N, 192) unit vectors of images made very small, without their mean brightness."""
    small = [
        cv2.resize(to_gray(image), _THUMBNAIL, interpolation=cv2.INTER_AREA) for image in images
    ]
    flat = np.stack(small).reshape(len(images), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


# ------------------------------------------------------------------------------------ private


def _place_sets(options: BenchOptions) -> Iterator[PlaceSet]:
    for name, folder in present(options.data_dir, (_RECORDED,)).items():
        views = read_views(folder, HELD_OUT_SHARE)
        count = len(views.images)
        kept = np.arange(count) % _RECORDED_EVERY == 0  # a robot remembers a part of what it saw
        allowed = apart_in_time(count, _RECORDED_GAP) & kept
        yield PlaceSet(name, views.images, same_place(views.poses), allowed)
    count = _QUICK_LAP_IMAGES if options.quick else _LAP_IMAGES
    images, poses = two_laps(options.work_dir / 'features', options.seed, count)
    lap = np.repeat([0, 1], count)
    before = lap[:, None] > lap[None]
    yield PlaceSet('rendered laps', images, same_place(poses, _LAP_DISTANCE_M), before)


def _similarities(
    places: PlaceSet, predictors: Sequence[Predictor]
) -> Iterator[tuple[str, np.ndarray]]:
    """(N, N) of each way that can compare whole images."""
    vectors = thumbnails(places.images)
    yield _THUMBNAILS, vectors @ vectors.T
    part = 'place_' + places.name.replace(' ', '_')
    for predictor in predictors:
        if predictor.name == _MATCHES:
            made = predictor.predict(part, places.images, places.comparisons)
            count = np.zeros(places.allowed.shape)
            for (i, j), found in zip(made.pairs, made.matches, strict=True):
                count[i, j] = (found.score >= 1.0 - RATIO).sum()
            yield f'{_MATCHES}, matches counted', count
            continue
        if predictor.way.extract(places.images[0]).image_descriptor is None:
            continue
        made = predictor.predict(part, places.images, [])
        if made.image_descriptors is not None:
            yield predictor.name, made.image_descriptors @ made.image_descriptors.T
