"""kpvo params: every parameter, as a table, as YAML, or as the documentation page."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = 'print every parameter with type, default and range; --yaml prints a file to start from'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument('--yaml', action='store_true', help='as a parameter file')
    form.add_argument('--markdown', action='store_true', help='as docs/parameters.md')
    parser.add_argument('--params', type=Path, metavar='FILE', help='start from this file')
    parser.add_argument('words', nargs='*', metavar='key=value', help='change these')


def run(args: argparse.Namespace) -> int:
    """Print."""
    from kpvo_ros.config.files import dump_yaml, load, parameter_page, range_text
    from kpvo_ros.config.runtime import VoConfig
    from kpvo_ros.config.schema import specs_of, to_flat
    from kpvo_ros.evaluation.table import text_table

    config = load(VoConfig(), args.params, args.words)
    if args.markdown:
        print(parameter_page(), end='')
    elif args.yaml:
        print(dump_yaml(config), end='')
    else:
        values = to_flat(config)
        rows = [
            (s.name, str(values[s.name]), range_text(s).replace('`', ''))
            for s in specs_of(VoConfig)
        ]
        print(text_table(rows, ('parameter', 'value', 'range')))
    return 0
