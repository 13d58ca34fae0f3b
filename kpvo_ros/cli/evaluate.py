"""kpvo evaluate: score a run against ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from kpvo_ros.cli.common import print_table

HELP = 'score the trajectory of a run against ground truth; writes metrics.json, report.md, plots'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument('run_dir', type=Path, metavar='DIR', help='folder of kpvo replay')
    parser.add_argument(
        '--ground-truth',
        type=Path,
        required=True,
        metavar='FILE',
        help='trajectory of the camera in TUM, KITTI or EuRoC format',
    )
    parser.add_argument(
        '--align',
        default='se3',
        choices=('se3', 'sim3', 'yaw', 'origin', 'none'),
        help='freedom of the fit of the estimate to the truth (default: se3)',
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from kpvo_ros.evaluation.alignment import Alignment
    from kpvo_ros.evaluation.report import evaluate_run

    metrics = evaluate_run(args.run_dir, args.ground_truth, Alignment(args.align))
    print_table(f'{args.run_dir}: {args.run_dir / "report.md"}', metrics.rows())
    return 0
