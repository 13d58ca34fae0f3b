"""kpvo bench frontend: ways of finding points again, on pictures whose truth is known.

The truth comes from the depth and poses of rendered pictures, see `tracking_truth`; and from those
of a recorded sequence, when there is one, whose truth is good to about half a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2

from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench import BenchOptions, Measurement, Table
from kpvo_ros.cli.bench_columns import number_table
from kpvo_ros.cli.bench_frontend_drift import drift
from kpvo_ros.cli.bench_frontend_flow import flow
from kpvo_ros.cli.bench_frontend_light import light
from kpvo_ros.cli.bench_frontend_match import near_prediction
from kpvo_ros.cli.rendered import Recipe, rendered_bag
from kpvo_ros.cli.tracking_score import SCORE_COLUMNS, Score
from kpvo_ros.cli.tracking_truth import Clip, read_clip
from kpvo_ros.config.runtime import FrontendConfig

_PRESETS = ('loop_200m', 'room', 'corridor')
_FIRST, _FRAMES = 40, 50  # the paths begin at rest
_RECORDED, _RECORDED_TOLERANCE = 'hololens_000', 0.04
_Scores = dict[str, Score]


def part_names() -> tuple[str, ...]:
    """What can be measured alone."""
    return tuple(_PARTS)


def measure(options: BenchOptions) -> Measurement:
    """Measure all parts, or those asked for."""
    cv2.setNumThreads(FrontendConfig().threads)
    tables: list[Table] = []
    numbers: dict[str, Any] = {}
    for part in options.only or part_names():
        for title, scores in _PARTS[part](options).items():
            cases = {way: score.numbers() for way, score in scores.items()}
            numbers[title] = cases
            tables.append(number_table(title, 'way', SCORE_COLUMNS, cases))
    return Measurement(tables, numbers)


def _flow(options: BenchOptions) -> dict[str, _Scores]:
    found = {}
    for size, name in ((1, '320x240'), (2, '640x480')):
        clips = _rendered(options, size)
        for gap in (1, 4):
            found[f'flow over {_frames(gap)}, {name}'] = flow(clips, gap, options.seed)
    found.update(
        {
            f'flow over 1 frame, {_RECORDED}': flow([clip], 1, options.seed)
            for clip in _recorded(options)
        }
    )
    return found


def _drift(options: BenchOptions) -> dict[str, _Scores]:
    steps = (1, 5) if options.quick else (1, 5, 10, 20)
    by_step = drift(_rendered(options, 1), steps, options.seed)
    return {f'from keyframe, after {_frames(step)}': by_step[step] for step in steps}


def _light(options: BenchOptions) -> dict[str, _Scores]:
    return light(_rendered(options, 1), gap=2)


def _match(options: BenchOptions) -> dict[str, _Scores]:
    gaps = (5,) if options.quick else (5, 10)
    clips = _rendered(options, 1)
    return {
        f'near a prediction, {gap} frames after the keyframe': near_prediction(
            clips, gap, options.seed
        )
        for gap in gaps
    }


def _frames(count: int) -> str:
    return f'{count} frame' + 's' * (count != 1)


_PARTS: dict[str, Callable[[BenchOptions], dict[str, _Scores]]] = {
    'flow': _flow,
    'drift': _drift,
    'light': _light,
    'match': _match,
}


def _rendered(options: BenchOptions, size: int) -> list[Clip]:
    clips = []
    first, frames = (25, 10) if options.quick else (_FIRST, _FRAMES)
    for preset in _PRESETS[: 1 if options.quick else None]:
        recipe = Recipe(preset, options.seed, frames=first + frames, size=size)
        with open_source(rendered_bag(options.work_dir / 'rendered', recipe)) as source:
            clips.append(read_clip(source, first, frames))
    return clips


def _recorded(options: BenchOptions) -> list[Clip]:
    folder = options.data_dir / _RECORDED if options.data_dir else None
    if folder is None or not folder.is_dir():
        return []
    with open_source(folder) as source:
        return [read_clip(source, _FIRST, _FRAMES, _RECORDED_TOLERANCE)]
