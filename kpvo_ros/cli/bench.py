"""kpvo bench: measurements that can be repeated, as a table and as JSON.

A bench is a module with `measure(options) -> Measurement`, registered in `BENCHES`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from pathlib import Path
import shlex
from typing import Any

from kpvo_ros.errors import CommandError

HELP = 'measure: kpvo bench odometry, kpvo bench renderer'
BENCHES = {
    'odometry': 'kpvo_ros.cli.bench_odometry',
    'renderer': 'kpvo_ros.cli.bench_renderer',
}


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """What every bench is told.

    Attributes:
        data_dir: folder of recorded sequences, None when there is none.
        work_dir: where recordings are rendered and results written.
        quick: measure a short piece of everything.
        seed: of all that is random.
    """

    data_dir: Path | None
    work_dir: Path
    quick: bool
    seed: int


@dataclasses.dataclass(frozen=True)
class Table:
    """A table for the terminal; cells are texts."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a bench found out.

    Attributes:
        tables: for the terminal.
        numbers: all of it, ready for JSON.
    """

    tables: list[Table]
    numbers: dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('name', metavar='NAME', help=f'one of {", ".join(BENCHES)}')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all numbers here')
    parser.add_argument(
        '--data',
        type=Path,
        metavar='DIR',
        help='recorded sequences; default: $KPVO_SHARED_DATA, ../shared/data beside the checkout',
    )
    parser.add_argument(
        '--work',
        type=Path,
        default=Path('out/bench'),
        metavar='DIR',
        help='rendered recordings and results (default: out/bench)',
    )
    parser.add_argument('--quick', action='store_true', help='a short piece of everything')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of all that is random')


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    if args.name not in BENCHES:
        raise CommandError(f'no bench {args.name!r}: there are {", ".join(BENCHES)}')
    from kpvo_ros.cli.bench_context import commit, data_dir, machine
    from kpvo_ros.evaluation.table import text_table

    if args.json is not None:
        _require_writable(args.json)
    options = BenchOptions(data_dir(args.data), args.work, args.quick, args.seed)
    measurement = importlib.import_module(BENCHES[args.name]).measure(options)
    for table in measurement.tables:
        print(f'{table.title}\n{text_table(table.rows, table.header)}\n')
    if args.json is not None:
        content = {
            'bench': args.name,
            'command': shlex.join(args.command_line),
            'commit': commit(),
            'machine': machine(),
            'quick': args.quick,
            'numbers': measurement.numbers,
        }
        args.json.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        print(f'all numbers: {args.json}')
    return 0


def _require_writable(path: Path) -> None:
    """Find out before an hour of measuring, not after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('a', encoding='utf-8'):
            pass
    except OSError as error:
        raise CommandError(
            f'{path}: cannot be written ({error.strerror}); choose another --json'
        ) from None
