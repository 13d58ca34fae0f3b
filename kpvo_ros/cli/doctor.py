"""kpvo doctor: what is installed, what is in a bag, and what is wrong with either."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = 'check the installation, or with BAG a recording: topics, rates, stamps, calibration, depth'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        'bag', nargs='?', type=Path, metavar='BAG', help='a recording to look at as well'
    )


def run(args: argparse.Namespace) -> int:
    """Look and tell; 1 when something blocks."""
    from kpvo_ros.cli.doctor_system import system_findings
    from kpvo_ros.cli.findings import print_findings

    blocks = print_findings('this machine', system_findings())
    if args.bag is not None:
        from kpvo_ros.cli.doctor_recording import recording_findings

        print()
        blocks |= print_findings(str(args.bag), recording_findings(args.bag))
    return 1 if blocks else 0
