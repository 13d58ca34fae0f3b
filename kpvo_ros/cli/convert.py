"""kpvo convert: any recording to a rosbag2."""

from __future__ import annotations

import argparse
from pathlib import Path

from kpvo_ros.cli.common import add_source_arguments, open_source_of, progress_bar

HELP = 'turn a bag, folder or video into a rosbag2 with image, camera_info, depth and truth'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_source_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, metavar='BAG', help='new bag folder')
    parser.add_argument('--storage', default='mcap', choices=('mcap', 'sqlite3'))
    parser.add_argument('--compressed', action='store_true', help='store JPEG images')


def run(args: argparse.Namespace) -> int:
    """Convert and say what was written."""
    from kpvo_ros.bags.convert import convert

    with open_source_of(args) as source, progress_bar('convert') as progress:
        done = convert(
            source,
            args.out,
            storage=args.storage,
            compressed=args.compressed,
            progress=progress,
        )
    print(
        f'{args.out}: {done.frames} images, {done.bad_frames} unreadable, '
        f'{done.wheel_poses} wheel poses, {done.truth_poses} true poses'
    )
    return 0
