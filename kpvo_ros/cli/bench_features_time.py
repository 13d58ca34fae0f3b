"""kpvo bench features, part time: milliseconds of one 640x480 image.

The ways take turns, so that a machine that is busy for a while is busy for all of them. With one
thread, processor time and wall time should agree; where they do not, the machine was shared.
"""

from __future__ import annotations

from collections.abc import Sequence
import time
from typing import Any

import cv2
import numpy as np

from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_features_data import POSE_SETS, as_colour, present
from kpvo_ros.cli.bench_features_predictions import Predictor
from kpvo_ros.errors import CommandError
from kpvo_ros.frontend.process import keep_freed_memory, use_threads
from kpvo_ros.types import Frame

_SIZE = (640, 480)
_THREADS = (2, 1)
_TURNS, _QUICK_TURNS = 3, 1
_COLUMNS = tuple(
    Column(f'{kind} ms, {threads} thread{"s" * (threads > 1)}', f'{kind}_ms_{threads}', '.1f')
    for threads in _THREADS
    for kind in ('cpu', 'wall')
)


def measure_time(
    options: BenchOptions, predictors: Sequence[Predictor]
) -> tuple[list[Table], dict[str, Any]]:
    """Medians over images and turns.

    Raises:
        CommandError: there are no images.
    """
    images = _images(options)
    if not images:
        raise CommandError('time: no recorded images; name their folder with --data')
    ways: dict[str, Any] = {predictor.name: {} for predictor in predictors}
    before = cv2.getNumThreads()
    keep_freed_memory()  # as the nodes do
    for threads in _THREADS:
        use_threads(threads)
        for name, seconds in _turns(images, predictors, options.quick).items():
            cpu_ms, wall_ms = (1e3 * np.median(seconds, axis=0)).tolist()
            ways[name] |= {f'cpu_ms_{threads}': cpu_ms, f'wall_ms_{threads}': wall_ms}
    use_threads(before)
    if 'sift' in ways:
        for numbers in ways.values():
            numbers['cpu_over_sift'] = numbers['cpu_ms_1'] / ways['sift']['cpu_ms_1']
    title = f'extraction, {_SIZE[0]}x{_SIZE[1]}, median of {len(images)} images'
    return [number_table(title, 'way', _COLUMNS, ways)], {'images': len(images), 'ways': ways}


# ------------------------------------------------------------------------------------ private


def _turns(
    images: list[np.ndarray], predictors: Sequence[Predictor], quick: bool
) -> dict[str, list[tuple[float, float]]]:
    """(processor, wall) seconds of each extraction of each way."""
    seconds: dict[str, list[tuple[float, float]]] = {p.name: [] for p in predictors}
    for predictor in predictors:
        predictor.way.extract(images[0])  # the first one pays for what comes up late
    for _ in range(_QUICK_TURNS if quick else _TURNS):
        for image in images:
            for predictor in predictors:
                cpu, wall = time.process_time(), time.perf_counter()
                predictor.way.extract(image)
                spent = time.process_time() - cpu, time.perf_counter() - wall
                seconds[predictor.name].append(spent)
    return seconds


def _images(options: BenchOptions) -> list[np.ndarray]:
    """The first image of each recording, filling the size."""
    images = []
    for folder in present(options.data_dir, (wanted.name for wanted in POSE_SETS)).values():
        with open_source(folder) as source:
            frame = next((r for r in source.records() if isinstance(r, Frame)), None)
        if frame is not None:
            images.append(_filling(as_colour(frame.image)))
    return images


def _filling(image: np.ndarray) -> np.ndarray:
    """The middle of an image, scaled so that it fills the size."""
    width, height = _SIZE
    scale = max(width / image.shape[1], height / image.shape[0])
    shape = (max(width, round(scale * image.shape[1])), max(height, round(scale * image.shape[0])))
    large = cv2.resize(image, shape, interpolation=cv2.INTER_AREA)
    left, top = (shape[0] - width) // 2, (shape[1] - height) // 2
    return np.ascontiguousarray(large[top : top + height, left : left + width])
