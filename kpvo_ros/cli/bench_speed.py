"""kpvo bench odometry, part speed: milliseconds a frame at 640x480, and whether they stay.

The images are decoded beforehand, so the time is that of the odometry. The long run drives one
stretch forth and back and compares time and memory of its fifths.
"""

from __future__ import annotations

import os
from pathlib import Path
import resource
from typing import Any

import numpy as np

from kpvo_ros.bags.replay import ReplaySummary, replay
from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_floors import Floor, judge
from kpvo_ros.cli.bench_sources import ForthAndBackSource
from kpvo_ros.cli.bench_worlds import Worlds, configuration
from kpvo_ros.cli.common import progress_bar
from kpvo_ros.evaluation.files import STATES_FILE
from kpvo_ros.evaluation.states import read_states
from kpvo_ros.odometry.pipeline import STAGES
from kpvo_ros.types import Frame, OdometryEstimate

PRESET, FRAMES, FPS, SIZE = 'loop_200m', 300, 30.0, 2  # 640x480
_LONG_FRAMES, _QUICK_LONG_FRAMES = 5000, 300
_PARTS = 5
_KINDS = {
    'monocular': ('scale.source=none',),
    'camera height': ('scale.source=camera_height', 'scale.camera_height_m={height}'),
}
_FLOORS = (Floor('median_ms', at_most=20.0), Floor('p95_ms', at_most=45.0))
_FLAT = (Floor('slowdown', at_most=1.2), Floor('grown_mb', at_most=50.0))
_COLUMNS = (
    Column('frames', 'frames', 'd'),
    Column('tracked %', 'tracked_percent', '.1f'),
    Column('ms median', 'median_ms', '.1f'),
    Column('ms p95', 'p95_ms', '.1f'),
    Column('ms max', 'max_ms', '.0f'),
    *(Column(stage, stage, '.1f') for stage in STAGES),
    Column('floors', 'verdict'),
)
_FIFTHS = (
    Column('frames', 'frames', 'd'),
    Column('ms median', 'median_ms', '.1f'),
    Column('ms p95', 'p95_ms', '.1f'),
    Column('memory MB', 'memory_mb', '.0f'),
)


def measure_speed(options: BenchOptions, worlds: Worlds) -> tuple[list[Table], dict[str, Any]]:
    """Replay from memory: once with every source of scale, then for long.

    Returns:
        Tables, and numbers.
    """
    bag = worlds.bag(PRESET, frames=FRAMES, fps=FPS, size=SIZE)
    frames, T_base_camera = _decoded(bag)
    runs_dir = options.work_dir / 'runs'
    short: dict[str, dict[str, Any]] = {}
    for kind, words in _KINDS.items():
        source = ForthAndBackSource(frames, len(frames), T_base_camera)
        run_dir = runs_dir / f'speed_{kind.replace(" ", "_")}'
        summary = _replay(source, words, run_dir, options, _Memory())
        short[kind] = _times(summary, run_dir)
    count = _QUICK_LONG_FRAMES if options.quick else _LONG_FRAMES
    source = ForthAndBackSource(_stretch(frames, count), count, T_base_camera)
    memory = _Memory()
    _replay(source, _KINDS['monocular'], runs_dir / 'speed_long', options, memory)
    flat = _flatness(runs_dir / 'speed_long', memory)
    tables = [
        number_table(f'speed at {_size_text(frames)}', 'scale', _COLUMNS, short),
        number_table(
            f'{count} frames forth and back: {flat["verdict"]}', 'fifth', _FIFTHS, flat['fifths']
        ),
    ]
    return tables, {**short, 'long': flat}


# ------------------------------------------------------------------------------------ private


class _Memory:
    """Observer that looks at the memory of this process after every frame."""

    def __init__(self) -> None:
        self.resident_mb: list[float] = []

    def __call__(self, frame: Frame, estimate: OdometryEstimate) -> None:
        self.resident_mb.append(resident_mb())


def resident_mb() -> float:
    """Memory of this process that is in use now; its peak where the system does not tell."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * os.sysconf('SC_PAGE_SIZE') / 2**20


def _decoded(bag: Path) -> tuple[list[Frame], np.ndarray | None]:
    """All images without depth, and where the camera sits."""
    with open_source(bag) as source:
        frames = [
            Frame(record.stamp_ns, record.image, record.camera, record.frame_id)
            for record in source.records()
            if isinstance(record, Frame)
        ]
        return frames, source.extrinsics()


def _stretch(frames: list[Frame], count: int) -> list[Frame]:
    """So much of the end that each fifth of the long run goes forth and back twice.

    Fifths that show the same differ in nothing but their age.
    """
    return frames[-(count // (4 * _PARTS) + 1) :]


def _replay(
    source: ForthAndBackSource,
    words: tuple[str, ...],
    run_dir: Path,
    options: BenchOptions,
    memory: _Memory,
) -> ReplaySummary:
    config = configuration(words, source, options.seed)
    with progress_bar(run_dir.name) as progress:
        return replay(source, config, run_dir, observers=(memory,), progress=progress)


def _times(summary: ReplaySummary, run_dir: Path) -> dict[str, Any]:
    total_ms = read_states(run_dir / STATES_FILE).total_ms
    numbers: dict[str, Any] = {
        'frames': summary.frames,
        'tracked_percent': summary.tracked_percent,
        'median_ms': float(np.median(total_ms)),
        'p95_ms': float(np.percentile(total_ms, 95)),
        'max_ms': float(total_ms.max()),
        **{stage: times['median'] for stage, times in summary.stage_ms.items()},
        'stage_ms': summary.stage_ms,
    }
    verdict = judge(_FLOORS, numbers)
    return {**numbers, 'floors': verdict.numbers, 'verdict': verdict.text}


def _flatness(run_dir: Path, memory: _Memory) -> dict[str, Any]:
    """Time and memory of each fifth; the first one begins everything and is not compared."""
    total_ms = read_states(run_dir / STATES_FILE).total_ms
    fifths = {
        str(number): {
            'frames': len(ms),
            'median_ms': float(np.median(ms)),
            'p95_ms': float(np.percentile(ms, 95)),
            'memory_mb': float(resident[-1]),
        }
        for number, (ms, resident) in enumerate(
            zip(
                np.array_split(total_ms, _PARTS),
                np.array_split(np.array(memory.resident_mb), _PARTS),
                strict=True,
            ),
            start=1,
        )
    }
    second, last = fifths['2'], fifths[str(_PARTS)]
    numbers: dict[str, Any] = {
        'slowdown': last['median_ms'] / second['median_ms'],
        'grown_mb': last['memory_mb'] - second['memory_mb'],
    }
    verdict = judge(_FLAT, numbers)
    return {**numbers, 'fifths': fifths, 'floors': verdict.numbers, 'verdict': verdict.text}


def _size_text(frames: list[Frame]) -> str:
    camera = frames[0].camera
    return f'{camera.width}x{camera.height}, {len(frames)} frames'
