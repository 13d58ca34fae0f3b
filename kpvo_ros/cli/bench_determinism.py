"""kpvo bench odometry, part determinism: the same replay twice gives the same files."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

from kpvo_ros.bags.replay import replay
from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_floors import Floor, judge
from kpvo_ros.cli.bench_worlds import Worlds, configuration
from kpvo_ros.cli.common import progress_bar
from kpvo_ros.evaluation.files import STATES_FILE, TRAJECTORY_FILE

PRESET = 'loop_200m'
_KINDS = {
    'depth': ('scale.source=depth',),
    'camera height': ('scale.source=camera_height', 'scale.camera_height_m={height}'),
}
_FLOORS = (Floor('trajectories', at_most=1), Floor('states', at_most=1))
_COLUMNS = (
    Column('different trajectories', 'trajectories', 'd'),
    Column('different states', 'states', 'd'),
    Column('sha256 of the trajectory', 'sha256'),
    Column('floors', 'verdict'),
)


def measure_determinism(
    options: BenchOptions, worlds: Worlds
) -> tuple[list[Table], dict[str, Any]]:
    """Replay a loop twice with every source of scale and compare what was written.

    Returns:
        Tables, and the digests of each kind.
    """
    numbers: dict[str, dict[str, Any]] = {}
    for kind, words in _KINDS.items():
        digests = [_run(kind, words, turn, options, worlds) for turn in (1, 2)]
        counts = {
            'trajectories': len({trajectory for trajectory, _ in digests}),
            'states': len({states for _, states in digests}),
        }
        verdict = judge(_FLOORS, counts)
        numbers[kind] = {
            **counts,
            'sha256': digests[0][0],
            'digests': digests,
            'floors': verdict.numbers,
            'verdict': verdict.text,
        }
    return [number_table('the same replay twice', 'scale', _COLUMNS, numbers)], numbers


def states_digest(path: Path) -> str:
    """SHA-256 of a states.csv without its times, which differ from run to run."""
    with path.open(encoding='utf-8', newline='') as file:
        rows = [
            [row[name] for name in row if not name.endswith('_ms')] for row in csv.DictReader(file)
        ]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


# ------------------------------------------------------------------------------------ private


def _run(
    kind: str, words: tuple[str, ...], turn: int, options: BenchOptions, worlds: Worlds
) -> tuple[str, str]:
    """Digests of trajectory and states of one run."""
    run_dir = options.work_dir / 'runs' / f'determinism_{kind.replace(" ", "_")}_{turn}'
    with worlds.source(PRESET, world=1) as source:
        config = configuration(words, source, options.seed)
        with progress_bar(f'determinism {kind} {turn}') as progress:
            replay(source, config, run_dir, progress=progress)
    trajectory = hashlib.sha256((run_dir / TRAJECTORY_FILE).read_bytes()).hexdigest()
    return trajectory, states_digest(run_dir / STATES_FILE)
