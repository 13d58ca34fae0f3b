"""kpvo bench odometry, part live: vo_node over DDS with 640x480 images at 30 Hz.

Player, node and recorder share the machine, as driver, odometry and navigation do on a robot.
"""

from __future__ import annotations

from pathlib import Path
import shutil
from typing import Any

from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_floors import Floor, judge
from kpvo_ros.cli.bench_speed import FPS, FRAMES, PRESET, SIZE
from kpvo_ros.cli.bench_worlds import Worlds
from kpvo_ros.cli.live_run import IMAGE_TOPIC, INFO_TOPIC, play_through_nodes
from kpvo_ros.cli.recorded_run import complete_summary
from kpvo_ros.cli.ros_environment import require_ros
from kpvo_ros.errors import CommandError, RosError

_KINDS = {
    'monocular': ('scale.source:=none',),
    'camera height': ('scale.source:=camera_height', 'scale.camera_height_m:={height}'),
}
_FLOORS = (Floor('dropped_percent', at_most=1.0), Floor('latency_p95_ms', at_most=60.0))
_COLUMNS = (
    Column('frames', 'frames', 'd'),
    Column('dropped %', 'dropped_percent', '.2f'),
    Column('tracked %', 'tracked_percent', '.1f'),
    Column('ms median', 'latency_median_ms', '.1f'),
    Column('ms p95', 'latency_p95_ms', '.1f'),
    Column('ms max', 'latency_max_ms', '.0f'),
    Column('floors', 'verdict'),
)


def measure_live(options: BenchOptions, worlds: Worlds) -> tuple[list[Table], dict[str, Any]]:
    """Play through the nodes with every source of scale; skipped without ROS 2.

    Returns:
        Tables, and numbers.
    """
    title = f'live over DDS at {FPS:g} Hz, image to odometry'
    try:
        require_ros()
    except RosError as error:
        numbers = {kind: {'verdict': f'skipped: {error}'} for kind in _KINDS}
    else:
        bag = worlds.bag(PRESET, frames=FRAMES, fps=FPS, size=SIZE)
        runs_dir = options.work_dir / 'runs'
        numbers = {
            kind: _run(bag, runs_dir / f'live_{kind.replace(" ", "_")}', words)
            for kind, words in _KINDS.items()
        }
    return [number_table(title, 'scale', _COLUMNS, numbers)], numbers


def live_numbers(recorded: dict[str, Any]) -> dict[str, Any]:
    """Drops and latency from the completed summary of a recording."""
    frames, answered, latency = recorded['frames'], recorded['answered'], recorded['latency_ms']
    numbers: dict[str, Any] = {
        'frames': frames,
        'answered': answered,
        'dropped_percent': 100.0 * (frames - answered) / frames,
        'tracked_percent': 100.0 * recorded['tracked'] / frames,
        'latency_median_ms': latency['median'],
        'latency_p95_ms': latency['p95'],
        'latency_max_ms': latency['max'],
    }
    verdict = judge(_FLOORS, numbers)
    return {**numbers, 'floors': verdict.numbers, 'verdict': verdict.text}


# ------------------------------------------------------------------------------------ private


def _run(bag: Path, result_dir: Path, words: tuple[str, ...]) -> dict[str, Any]:
    with open_source(bag) as source:
        frames, mount = source.info.n_frames or 0, source.extrinsics()
    height = '' if mount is None else f'{mount[2, 3]:.4f}'
    try:
        shutil.rmtree(result_dir, ignore_errors=True)
        result_dir.mkdir(parents=True)
    except OSError as error:
        raise CommandError(
            f'{result_dir}: cannot be made ({error.strerror}); choose another --work'
        ) from None
    remaps = {'image': IMAGE_TOPIC, 'camera_info': INFO_TOPIC}
    parameters = [word.format(height=height) for word in words]
    play_through_nodes(bag, result_dir, frames, remaps, parameters)
    return live_numbers(complete_summary(result_dir, frames))
