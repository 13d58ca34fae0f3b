"""kpvo bench odometry: the replay over recorded and rendered sequences, scored.

Real sequences that are absent are reported as skipped. Rendered ones are rendered once and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import numpy as np

from kpvo_ros.bags.replay import ReplaySummary, replay
from kpvo_ros.bags.source import Record, Source, SourceInfo
from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench import BenchOptions, Measurement, Table
from kpvo_ros.cli.common import progress_bar
from kpvo_ros.cli.rendered import Recipe, rendered_bag
from kpvo_ros.cli.scoring import score_run
from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.config.schema import with_words
from kpvo_ros.evaluation.metrics import Metrics
from kpvo_ros.odometry.pipeline import STAGES
from kpvo_ros.types import Frame, Trajectory

_QUICK_S = 5.0
_DROPPED = 0.3
_HEADER = (
    'sequence', 'frames', 'tracked %', 'path m', 'ATE m', 'fit', 'drift %', 'scale %', 'fps',
    'ms median', 'ms p95',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: of the line.
        recorded: folder of a recorded sequence, '' for a rendered one.
        preset: of a rendered sequence.
        words: parameters; `{height}` becomes the height of the rendered camera.
        dropped: share of the images that get lost.
    """

    name: str
    recorded: str = ''
    preset: str = ''
    words: tuple[str, ...] = ('scale.source=depth',)
    dropped: float = 0.0


_MONO = ('scale.source=none',)
_HEIGHT = ('scale.source=camera_height', 'scale.camera_height_m={height}')
CASES = (
    Case('hololens_000 depth', recorded='hololens_000'),
    Case('hololens_000 monocular', recorded='hololens_000', words=_MONO),
    Case(
        'kitti_seq1 camera height',
        recorded='kitti_seq1',
        words=('scale.source=camera_height', 'scale.camera_height_m=1.65'),
    ),
    Case('euroc_v101_micro static', recorded='euroc_v101_micro', words=_MONO),
    Case('loop 200 m depth', preset='loop_200m'),
    Case('loop 200 m camera height', preset='loop_200m', words=_HEIGHT),
    Case('rotation depth', preset='rotation'),
    Case('pauses depth', preset='pauses'),
    Case('blackout depth', preset='blackout'),
    Case('loop 200 m, 30 % dropped', preset='loop_200m', dropped=_DROPPED),
)


def measure(options: BenchOptions) -> Measurement:
    """Run every case there is data for."""
    rows: list[tuple[str, ...]] = []
    stages: list[tuple[str, ...]] = []
    numbers: dict[str, Any] = {}
    for case in CASES:
        folder = options.data_dir / case.recorded if options.data_dir else None
        if case.recorded and (folder is None or not folder.is_dir()):
            rows.append((case.name, 'skipped: no data', *['-'] * (len(_HEADER) - 2)))
            numbers[case.name] = None
            continue
        summary, metrics, note = _run(case, options)
        rows.append(_row(case.name, summary, metrics))
        stages.append(_stage_row(case.name, summary))
        numbers[case.name] = {
            'summary': dataclasses.asdict(summary),
            'metrics': None if metrics is None else metrics.to_dict(),
            'note': note,
        }
    return Measurement(
        [
            Table('odometry', _HEADER, rows),
            Table('median milliseconds per stage', ('sequence', *STAGES, 'total'), stages),
        ],
        numbers,
    )


# ------------------------------------------------------------------------------------ private


def _run(case: Case, options: BenchOptions) -> tuple[ReplaySummary, Metrics | None, str]:
    run_dir = options.work_dir / 'runs' / case.name.replace(' ', '_').replace('%', 'percent')
    with _open(case, options) as source:
        extrinsics = source.extrinsics()
        height = '' if extrinsics is None else f'{extrinsics[2, 3]:.4f}'
        words = [word.format(height=height) for word in case.words]
        config = with_words(VoConfig(), [*words, f'seed={options.seed}'])
        with progress_bar(case.name) as progress:
            summary = replay(source, config, run_dir, progress=progress)
        truth = source.ground_truth()
    if not summary.poses:
        return summary, None, 'no pose'
    score = score_run(run_dir, truth, is_metric=config.scale.source != 'none')
    return summary, score.metrics, score.note


def _open(case: Case, options: BenchOptions) -> Source:
    duration_s = _QUICK_S if options.quick else None
    if case.recorded:
        assert options.data_dir is not None
        return open_source(options.data_dir / case.recorded, duration_s=duration_s)
    recipe = Recipe(case.preset, options.seed)
    if options.quick:
        recipe = dataclasses.replace(recipe, frames=_quick_frames(case.preset))
    source = open_source(rendered_bag(options.work_dir / 'rendered', recipe))
    if case.dropped:
        return DroppingSource(source, case.dropped, np.random.default_rng(options.seed))
    return source


def _quick_frames(preset: str) -> int:
    from kpvo_ros.synthetic.sequence import PRESETS

    return round(_QUICK_S * PRESETS[preset].fps)


class DroppingSource:
    """A `Source` that loses images at random, as a busy machine does.

    Args:
        source: the whole recording.
        share: of the images, that is lost.
        rng: decides which.
    """

    def __init__(self, source: Source, share: float, rng: np.random.Generator) -> None:
        self._source = source
        self._share = share
        self._rng = rng
        self.ground_truth: Callable[[], Trajectory | None] = source.ground_truth
        self.extrinsics: Callable[[], np.ndarray | None] = source.extrinsics
        self.close: Callable[[], None] = source.close

    @property
    def info(self) -> SourceInfo:
        """That of the recording; how many images remain is left to chance."""
        return dataclasses.replace(self._source.info, n_frames=None)

    def records(self) -> Iterator[Record]:
        """What is left."""
        for record in self._source.records():
            if not isinstance(record, Frame) or self._rng.random() >= self._share:
                yield record

    def __enter__(self) -> DroppingSource:
        """Return the source itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the recording."""
        self.close()


def _row(name: str, summary: ReplaySummary, metrics: Metrics | None) -> tuple[str, ...]:
    total = summary.stage_ms['total']
    times = (f'{summary.fps:.1f}', f'{total["median"]:.1f}', f'{total["p95"]:.1f}')
    start = (name, str(summary.frames), f'{summary.tracked_percent:.1f}')
    if metrics is None:
        return (*start, '-', '-', '-', '-', '-', *times)
    return (
        *start,
        f'{metrics.path_length_m:.2f}',
        f'{metrics.ate_m.rmse:.3f}',
        metrics.alignment.value,
        _text(metrics.drift_percent, '.2f'),
        _text(metrics.scale_error_percent, '+.2f'),
        *times,
    )


def _stage_row(name: str, summary: ReplaySummary) -> tuple[str, ...]:
    medians = summary.stage_ms
    return (name, *(_text(medians.get(s, {}).get('median'), '.1f') for s in (*STAGES, 'total')))


def _text(value: float | None, spec: str) -> str:
    return '-' if value is None else f'{value:{spec}}'
