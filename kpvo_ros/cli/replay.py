"""kpvo replay: the odometry over a recording, offline."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from kpvo_ros.cli.common import (
    add_source_arguments,
    open_source_of,
    print_table,
    progress_bar,
    stop_on_signals,
)

if TYPE_CHECKING:
    from kpvo_ros.bags.replay import ReplaySummary
    from kpvo_ros.bags.source import Source
    from kpvo_ros.config.runtime import VoConfig

HELP = 'run the odometry over a bag, folder or video and write trajectory, states and report'
INTERRUPTED = 130  # the exit code of a shell for a program ended by Ctrl-C


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
    """Replay, then report; with ground truth in the source, evaluate too."""
    from kpvo_ros.bags.replay import replay
    from kpvo_ros.cli.scoring import score_run
    from kpvo_ros.cli.snapshot import Snapshot

    with open_source_of(args) as source:
        config = _configuration(args, source)
        snapshot = Snapshot(args.out, source.info.n_frames)
        observers = (snapshot, *_viewers(args))
        with progress_bar(f'replay {source.info.name}') as progress, stop_on_signals() as stop:
            summary = replay(
                source,
                config,
                args.out,
                observers=observers,
                progress=progress,
                should_stop=stop,
            )
        truth = source.ground_truth()
    if not summary.poses:
        print(_why_no_pose(summary, args.out), file=sys.stderr)
        return INTERRUPTED if summary.interrupted else 1
    score = score_run(args.out, truth, is_metric=config.scale.source != 'none')
    if score.note:
        print(f'note: {score.note}', file=sys.stderr)
    snapshot.add_to_report()
    rows = summary.rows() + score.rows()
    print_table(f'{summary.source}: {args.out / "report.md"}', rows)
    if summary.interrupted:
        print(f'stopped after {summary.frames} frames', file=sys.stderr)
    return INTERRUPTED if summary.interrupted else 0


def _why_no_pose(summary: ReplaySummary, run_dir: Path) -> str:
    """One line for a run that never had a pose."""
    from kpvo_ros.evaluation.files import STATES_FILE
    from kpvo_ros.evaluation.states import read_states

    states_path = run_dir / STATES_FILE
    reasons = Counter(reason for reason in read_states(states_path).reason if reason)
    why = f' (mostly: {reasons.most_common(1)[0][0]})' if reasons else ''
    return (
        f'no pose in {summary.frames} frames{why}; see {states_path}, and check the recording '
        'with kpvo doctor'
    )


def _configuration(args: argparse.Namespace, source: Source) -> VoConfig:
    """Parameters from file and words; the scale source is guessed when nobody named it."""
    from kpvo_ros.config.files import load, read_values
    from kpvo_ros.config.runtime import VoConfig
    from kpvo_ros.config.schema import with_values

    config = load(VoConfig(), args.params, args.words)
    named = {word.partition('=')[0] for word in args.words}
    if args.params is not None:
        named |= set(read_values(args.params))
    if 'scale.source' in named:
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
