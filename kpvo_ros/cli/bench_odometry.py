"""kpvo bench odometry: everything one may ask of the odometry, measured anew.

The parts, in order, and what each asks for:

* cases: completeness and accuracy on recorded and rendered sequences (`bench_cases`)
* speed: milliseconds a frame, flat over thousands of frames (`bench_speed`)
* determinism: the same replay twice (`bench_determinism`)
* consistency: covariance against error over independent runs (`bench_consistency`)
* live: drops and latency of the real node (`bench_live`)

The seed is drawn anew for every run unless one is named, so the rendered worlds are not those the
odometry was developed in. Variants are compared in the same ones: `--seed N --with key=value`
adds parameters to every case, and only the cases run.
"""

from __future__ import annotations

from collections.abc import Callable
import sys
import time
from typing import Any

from kpvo_ros.cli.bench import BenchOptions, Measurement, Table
from kpvo_ros.cli.bench_case_list import CASES, Case
from kpvo_ros.cli.bench_cases import measure_cases
from kpvo_ros.cli.bench_consistency import measure_consistency
from kpvo_ros.cli.bench_determinism import measure_determinism
from kpvo_ros.cli.bench_live import measure_live
from kpvo_ros.cli.bench_speed import measure_speed
from kpvo_ros.cli.bench_worlds import Worlds
from kpvo_ros.errors import CommandError, KpvoError

FRESH_SEED = True
TAKES_PARAMETERS = True
_Part = Callable[[BenchOptions, Worlds], tuple[list[Table], dict[str, Any]]]
PARTS: dict[str, _Part] = {
    'cases': lambda options, worlds: measure_cases(_wanted_cases(options), options, worlds),
    'speed': measure_speed,
    'determinism': measure_determinism,
    'consistency': measure_consistency,
    'live': measure_live,
}


def part_names() -> tuple[str, ...]:
    """The parts, and every single case."""
    return (*PARTS, *(case.slug for case in CASES))


def measure(options: BenchOptions) -> Measurement:
    """Run the parts that are wanted; one that fails does not end the others.

    Raises:
        CommandError: parameters are given to a part that has its own.
    """
    wanted = _wanted_parts(options)
    worlds = Worlds(options)
    tables: list[Table] = []
    numbers: dict[str, Any] = {
        'seed': options.seed,
        'with': list(options.words),
        'wall_s': {},
    }
    for name in wanted:
        start = time.perf_counter()
        try:
            made, numbers[name] = PARTS[name](options, worlds)
        except KpvoError as error:
            made, numbers[name] = (
                [Table(name, ('failed',), [(str(error),)])],
                {'error': str(error)},
            )
        tables += made
        numbers['wall_s'][name] = round(time.perf_counter() - start, 1)
        print(f'{name}: {numbers["wall_s"][name]:.0f} s', file=sys.stderr)
    tables.append(_misses(numbers, options.seed))
    return Measurement(tables, numbers)


# ------------------------------------------------------------------------------------ private


def _wanted_parts(options: BenchOptions) -> list[str]:
    """All parts, or those named; the name of a case stands for the part of the cases."""
    single = {'cases'} if set(options.only) - set(PARTS) else set()
    if not options.words:
        return [name for name in PARTS if not options.only or name in {*options.only, *single}]
    others = [name for name in options.only if name in PARTS and name != 'cases']
    if others:
        raise CommandError(f'--with is for the cases: leave --only {",".join(others)} out')
    return ['cases']


def _wanted_cases(options: BenchOptions) -> list[Case]:
    everything = not options.only or 'cases' in options.only
    return [case for case in CASES if everything or case.slug in options.only]


def _misses(numbers: dict[str, Any], seed: int) -> Table:
    """Every floor that was not held, of all parts."""
    rows: list[tuple[str, ...]] = []
    count = 0
    for part in PARTS:
        for place, floors in _floors_in(numbers.get(part), part):
            count += len(floors)
            rows += [
                (place, name, _text(floor['value']), _limit(floor))
                for name, floor in floors.items()
                if not floor['held']
            ]
    title = f'seed {seed}: {count - len(rows)} of {count} floors held'
    return Table(f'{title}, missed:' if rows else title, ('case', 'number', 'is', 'floor'), rows)


def _floors_in(numbers: Any, place: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, floors) of every dictionary that has floors, at any depth."""
    if not isinstance(numbers, dict):
        return []
    found = [(place, numbers['floors'])] if 'floors' in numbers else []
    for name, value in numbers.items():
        if name != 'floors':
            found += _floors_in(value, f'{place}: {name}')
    return found


def _limit(floor: dict[str, Any]) -> str:
    low, high = floor['at_least'], floor['at_most']
    if low is None or high is None:
        return f'at least {low:g}' if high is None else f'at most {high:g}'
    return f'{low:.3g} to {high:.3g}'


def _text(value: float | None) -> str:
    return 'none' if value is None else f'{value:.4g}'
