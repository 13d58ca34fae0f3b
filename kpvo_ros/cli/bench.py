"""kpvo bench: measurements that can be repeated, as a table and as JSON.

A bench is a module with `measure(options) -> Measurement`, registered in `BENCHES`. One with parts
that can be measured alone has `part_names() -> tuple[str, ...]` as well. One that shall run in
worlds nobody has seen has `FRESH_SEED = True`: it gets a new seed when the user names none. One
that compares extractors of the user's choice has `TAKES_EXTRACTORS = True`, one that runs with
parameters of the user's choice `TAKES_PARAMETERS = True`, one that compares networks of the user's
choice `TAKES_MODELS = True`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
from pathlib import Path
import secrets
import shlex
from types import ModuleType
from typing import Any

from kpvo_ros.errors import CommandError

HELP = 'measure: kpvo bench odometry, features, depth, frontend, renderer'
_DRAWN_SEEDS = (10_000, 2_000_000_000)  # far from the small ones of tests and developers
BENCHES = {
    'depth': 'kpvo_ros.cli.bench_depth',
    'features': 'kpvo_ros.cli.bench_features',
    'frontend': 'kpvo_ros.cli.bench_frontend',
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
        only: parts to measure, all when empty.
        seed_is_drawn: nobody asked for this seed.
        extractors: ways to extract keypoints, the bench's own choice when empty.
        words: parameters `key=value` that replace those of the bench.
        models: networks `name=file` to measure, the shipped one when empty.
    """

    data_dir: Path | None
    work_dir: Path
    quick: bool
    seed: int
    only: tuple[str, ...] = ()
    seed_is_drawn: bool = False
    extractors: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


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
    parser.add_argument(
        '--seed',
        type=int,
        metavar='N',
        help='of all that is random; default: a new one for odometry, 0 for the others',
    )
    parser.add_argument(
        '--only',
        default='',
        metavar='NAME[,NAME]',
        help='measure only these parts; a wrong name lists those there are',
    )
    parser.add_argument(
        '--extractors',
        default='',
        metavar='NAME[,NAME]',
        help='bench features: orb, akaze, sift, rootsift, kpvo, or a path of weights '
        '(default: all that have a name)',
    )
    parser.add_argument(
        '--models',
        nargs='+',
        default=[],
        metavar='NAME=FILE[+ADAPTERS]',
        help='bench depth: weights, with their adapters if any (default: shipped=depth_vo); the '
        'names shipped, adapted and tuned are compared with each other',
    )
    parser.add_argument(
        '--with',
        dest='words',
        default='',
        metavar='KEY=VALUE[,KEY=VALUE]',
        help='bench odometry: parameters of every case, beside its own; other parts do not run',
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    if args.name not in BENCHES:
        raise CommandError(f'no bench {args.name!r}: there are {", ".join(BENCHES)}')
    from kpvo_ros.cli.bench_context import commit, data_dir, machine
    from kpvo_ros.evaluation.table import text_table

    if args.json is not None:
        _require_writable(args.json)
    bench = importlib.import_module(BENCHES[args.name])
    options = BenchOptions(
        data_dir=data_dir(args.data),
        work_dir=args.work,
        quick=args.quick,
        seed=_seed(args.seed, bench),
        only=_parts(args.only, args.name, bench),
        seed_is_drawn=args.seed is None and _wants_fresh_seed(bench),
        extractors=_extractors(args.extractors, args.name, bench),
        words=_words(args.words, args.name, bench),
        models=_models(args.models, args.name, bench),
    )
    measurement = bench.measure(options)
    for table in measurement.tables:
        print(f'{table.title}\n{text_table(table.rows, table.header)}\n')
    if args.json is not None:
        content = {
            'bench': args.name,
            'command': shlex.join(args.command_line),
            'commit': commit(),
            'machine': machine(),
            'quick': args.quick,
            'seed': options.seed,
            'numbers': measurement.numbers,
        }
        args.json.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        print(f'all numbers: {args.json}')
    return 0


def _seed(named: int | None, bench: ModuleType) -> int:
    if named is not None:
        return named
    if not _wants_fresh_seed(bench):
        return 0
    low, high = _DRAWN_SEEDS
    return low + secrets.randbelow(high - low)


def _wants_fresh_seed(bench: ModuleType) -> bool:
    return bool(getattr(bench, 'FRESH_SEED', False))


def _parts(text: str, name: str, bench: ModuleType) -> tuple[str, ...]:
    """Names between commas.

    Raises:
        CommandError: the bench has no such part.
    """
    wanted = tuple(part for part in text.split(',') if part)
    known: tuple[str, ...] = bench.part_names() if hasattr(bench, 'part_names') else ()
    for part in wanted:
        if not known:
            raise CommandError(f'bench {name} has no parts: leave --only out')
        if part not in known:
            raise CommandError(f'bench {name} has no part {part!r}: there are {", ".join(known)}')
    return wanted


def _extractors(text: str, name: str, bench: ModuleType) -> tuple[str, ...]:
    """Names between commas.

    Raises:
        CommandError: the bench has its own.
    """
    wanted = tuple(dict.fromkeys(part for part in text.split(',') if part))
    if wanted and not getattr(bench, 'TAKES_EXTRACTORS', False):
        raise CommandError(f'bench {name} takes no extractors: leave --extractors out')
    return wanted


def _models(rows: list[str], name: str, bench: ModuleType) -> tuple[str, ...]:
    """The rows as they are.

    Raises:
        CommandError: the bench measures no networks.
    """
    if rows and not getattr(bench, 'TAKES_MODELS', False):
        raise CommandError(f'bench {name} takes no models: leave --models out')
    return tuple(rows)


def _words(text: str, name: str, bench: ModuleType) -> tuple[str, ...]:
    """Parameters between commas; what has no `=` is more of a value that has commas itself.

    Raises:
        CommandError: the bench takes none.
        ConfigError: there is no such parameter, or it cannot be that.
    """
    from kpvo_ros.config.runtime import VoConfig
    from kpvo_ros.config.schema import with_words

    words: list[str] = []
    for piece in filter(None, text.split(',')):
        if '=' in piece or not words:
            words.append(piece)
        else:
            words[-1] += f',{piece}'
    if words and not getattr(bench, 'TAKES_PARAMETERS', False):
        raise CommandError(f'bench {name} takes no parameters: leave --with out')
    with_words(VoConfig(), [word for word in words if '{' not in word])
    return tuple(words)


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
