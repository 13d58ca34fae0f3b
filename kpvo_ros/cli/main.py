"""The `kpvo` command: finds the subcommand, prints known errors as one line.

Subcommand modules define `HELP`, `add_arguments(parser)` and `run(args) -> exit code`; they
import heavy things inside `run`, so that `--help` is instant.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from types import ModuleType

from kpvo_ros.errors import KpvoError

COMMANDS = (
    *('demo', 'replay', 'evaluate', 'train', 'textures', 'convert', 'params', 'doctor', 'bench'),
    'models',
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 good, 1 known error, 2 wrong usage)."""
    args = parse(argv)
    level = logging.DEBUG if args.verbose else logging.WARNING
    logging.basicConfig(format='%(levelname)s: %(message)s', level=level, stream=sys.stderr)
    try:
        with _sigterm_like_ctrl_c():
            return args.run(args)
    except KpvoError as error:
        print(f'kpvo {args.command}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nstopped', file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe went away: nothing to tell anybody
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; `key=value` words may stand anywhere among the options."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    # argparse gives all words of a command to the first place where one may stand.
    words = [word for word in rest if '=' in word and not word.startswith('-')]
    strange = [word for word in rest if word not in words]
    if strange or (words and not hasattr(args, 'words')):
        parser.error(f'unrecognized arguments: {" ".join(strange or words)}')
    if words:
        args.words = [*args.words, *words]
    args.command_line = ['kpvo', *(sys.argv[1:] if argv is None else argv)]
    return args


def build_parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog='kpvo', description='Robot localization with one camera: replay, evaluate, convert.'
    )
    parser.add_argument('-v', '--verbose', action='store_true', help='log what is going on')
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name in COMMANDS:
        module: ModuleType = importlib.import_module(f'kpvo_ros.cli.{name}')
        command = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


@contextlib.contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """So that SIGTERM also unwinds: files are completed and child processes ended."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == '__main__':
    sys.exit(main())
