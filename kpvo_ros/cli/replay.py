"""kpvo replay: the odometry over a recording, offline."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from kpvo_ros.cli.common import add_source_arguments, open_source_of, print_table, progress_bar

if TYPE_CHECKING:
    from kpvo_ros.bags.source import Source
    from kpvo_ros.config.runtime import VoConfig

HELP = 'run the odometry over a bag, folder or video and write trajectory, states and report'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_source_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='result folder')
    parser.add_argument('--params', type=Path, metavar='FILE', help='parameter YAML')
    parser.add_argument(
        '--rerun',
        nargs='?',
        const='',
        metavar='FILE.rrd',
        help='show the run in the rerun viewer, or save it to a file',
    )
    parser.add_argument(
        'words', nargs='*', metavar='key=value', help='parameters, e.g. scale.source=depth'
    )


def run(args: argparse.Namespace) -> int:
    """Replay, then report; with ground truth beside the source, evaluate too."""
    from kpvo_ros.bags.replay import replay
    from kpvo_ros.cli.snapshot import Snapshot
    from kpvo_ros.evaluation.report import evaluate_run, report_run

    with open_source_of(args) as source:
        config = _configuration(args, source)
        snapshot = Snapshot(args.out, source.info.n_frames)
        observers = (snapshot, *_viewers(args))
        with progress_bar(f'replay {source.info.name}') as progress:
            summary = replay(source, config, args.out, observers=observers, progress=progress)
        snapshot.write()
        truth = source.ground_truth()
    rows = summary.rows()
    if truth is not None and summary.poses > 2:
        rows += evaluate_run(args.out, truth).rows()
    else:
        report_run(args.out)
    print_table(f'{summary.source}: {args.out / "report.md"}', rows)
    return 0 if summary.poses else 1


def _configuration(args: argparse.Namespace, source: Source) -> VoConfig:
    """Parameters from file and words; the scale source is guessed when nobody named it."""
    from kpvo_ros.config.files import load
    from kpvo_ros.config.runtime import VoConfig
    from kpvo_ros.config.schema import with_values

    config = load(VoConfig(), args.params, args.words)
    if config.scale.source != 'none' or any(w.startswith('scale.source=') for w in args.words):
        return config
    guess = 'depth' if source.info.has_depth else ''
    if config.scale.camera_height_m > 0:
        guess = 'camera_height'
    if not guess:
        print('no scale source: poses have an arbitrary unit (see scale.source)', file=sys.stderr)
        return config
    print(f'scale.source={guess} (guessed; give scale.source=... to choose)', file=sys.stderr)
    return with_values(config, {'scale.source': guess})


def _viewers(args: argparse.Namespace) -> tuple:
    if args.rerun is None:
        return ()
    from kpvo_ros.cli.rerun_view import RerunView

    return (RerunView(args.rerun),)
