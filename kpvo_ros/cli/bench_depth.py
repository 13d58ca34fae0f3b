"""kpvo bench depth: how good and how fast learned depth and odometry are.

`--models NAME=FILE[+ADAPTERS] ...` says what is measured; without it, the shipped weights. The
parts:

* rendered: depth and motion in rendered worlds that no training has seen, all of it known; motion
  as the network says it, and refined on the grey values with its own depth
* hololens: depth in the end of a real recording; with the rows `shipped`, `adapted`, and `tuned`,
  what adapters gain and how near they come to training everything
* speed: milliseconds of one look; needs no weights
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import sys
import time
from typing import Any

from kpvo_ros.cli import bench_depth_recorded, bench_depth_rendered, bench_depth_time
from kpvo_ros.cli.bench import BenchOptions, Measurement, Table
from kpvo_ros.cli.bench_depth_models import Model, load_models_or_reason
from kpvo_ros.cli.bench_depth_pairs import YARDSTICK
from kpvo_ros.cli.bench_depth_rendered import REFINED, TOGETHER
from kpvo_ros.cli.bench_floors import Floor, judge
from kpvo_ros.errors import KpvoError

TAKES_MODELS = True
_Part = Callable[[BenchOptions, Sequence[Model]], tuple[list[Table], dict[str, Any]]]
PARTS: dict[str, _Part] = {
    'rendered': bench_depth_rendered.measure_rendered,
    'hololens': bench_depth_recorded.measure_recorded,
    'speed': bench_depth_time.measure_speed,
}
_WITHOUT_WEIGHTS = 'speed'


def part_names() -> tuple[str, ...]:
    """What can be measured alone."""
    return tuple(PARTS)


def measure(options: BenchOptions) -> Measurement:
    """Run the parts that are wanted; one that fails does not end the others.

    Raises:
        KpvoError: weights that were asked for by name cannot be used.
    """
    models, absent = load_models_or_reason(options.models)
    tables: list[Table] = []
    numbers: dict[str, Any] = {
        'models': {model.name: model.files for model in models},
        'absent': absent,
        'wall_s': {},
    }
    wanted = options.only or part_names()
    for name in wanted:
        start = time.perf_counter()
        try:
            made, numbers[name] = PARTS[name](options, models)
        except KpvoError as error:
            made = [Table(name, ('failed',), [(str(error),)])]
            numbers[name] = {'error': str(error)}
        tables += made
        numbers['wall_s'][name] = round(time.perf_counter() - start, 1)
        print(f'{name}: {numbers["wall_s"][name]:.0f} s', file=sys.stderr)
    if absent and any(name != _WITHOUT_WEIGHTS for name in wanted):
        tables.append(Table('no weights', ('why',), [(absent,)]))
    tables += _judged(numbers)
    return Measurement(tables, numbers)


# ------------------------------------------------------------------------------------ private


def _judged(numbers: dict[str, Any]) -> list[Table]:
    """One row for each floor whose part was measured."""
    rows: list[tuple[str, ...]] = []
    numbers['floors'] = {}
    for what, floors, measured in _to_judge(numbers):
        verdict = judge([floor for floor in floors if floor.number in measured], measured)
        if not verdict.numbers:
            continue
        numbers['floors'][what] = verdict.numbers
        for number, floor in verdict.numbers.items():
            low, high = floor['at_least'], floor['at_most']
            limit = f'at least {low:g}' if high is None else f'at most {high:g}'
            value = '-' if floor['value'] is None else f'{floor["value"]:.3g}'
            rows.append((what, number, value, limit, 'held' if floor['held'] else 'missed'))
    return [Table('floors', ('of', 'number', 'is', 'floor', ''), rows)] if rows else []


def _to_judge(
    numbers: dict[str, Any],
) -> list[tuple[str, Sequence[Floor], dict[str, Any]]]:
    """What is judged by which floors: every network, and its motion refined."""
    found: list[tuple[str, Sequence[Floor], dict[str, Any]]] = []
    for name, groups in numbers.get('rendered', {}).get('models', {}).items():
        if name != YARDSTICK:
            floors = bench_depth_rendered.FLOORS
            found.append((name, floors, groups[TOGETHER]))
            found.append((f'{name}, {REFINED}', floors, groups[REFINED][TOGETHER]))
    found.append(('adapters', bench_depth_recorded.FLOORS, numbers.get('hololens', {})))
    found.append(('speed', bench_depth_time.FLOORS, numbers.get('speed', {})))
    return found
