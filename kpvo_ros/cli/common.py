"""What several subcommands share: source options, progress bars."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import contextlib
from pathlib import Path
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kpvo_ros.bags.source import Source


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare SOURCE and the options that say how to read it."""
    parser.add_argument(
        'source',
        type=Path,
        help='ROS bag (.mcap, .db3, .bag, folder), folder of images, or video file',
    )
    group = parser.add_argument_group('reading the source')
    group.add_argument('--image-topic', metavar='TOPIC', help='default: the only image topic')
    group.add_argument('--camera-info-topic', metavar='TOPIC', help='default: beside the image')
    group.add_argument('--depth-topic', metavar='TOPIC', help='depth aligned to the image')
    group.add_argument('--odometry-topic', metavar='TOPIC', help='odometry of the wheels')
    group.add_argument('--imu-topic', metavar='TOPIC', help='IMU whose gyro is read')
    group.add_argument('--ground-truth-topic', metavar='TOPIC', help='true poses')
    group.add_argument('--intrinsics', type=Path, metavar='YAML', help='camera calibration file')
    group.add_argument('--rectified', action='store_true', help='bag images are rectified: use P')
    group.add_argument('--stride', type=int, default=1, metavar='N', help='take every n-th image')
    group.add_argument('--start', type=float, default=0.0, metavar='S', help='skip S seconds')
    group.add_argument('--duration', type=float, metavar='S', help='stop after S seconds')


def open_source_of(args: argparse.Namespace) -> Source:
    """Open the source the arguments name."""
    from kpvo_ros.bags.sources import open_source

    return open_source(
        args.source,
        image_topic=args.image_topic,
        camera_info_topic=args.camera_info_topic,
        depth_topic=args.depth_topic,
        odometry_topic=args.odometry_topic,
        imu_topic=args.imu_topic,
        ground_truth_topic=args.ground_truth_topic,
        intrinsics=args.intrinsics,
        rectified=args.rectified,
        stride=args.stride,
        start_s=args.start,
        duration_s=args.duration,
    )


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on the terminal, nothing when the output is not one; yields its update function."""
    from tqdm import tqdm

    with tqdm(desc=title, unit='frame', disable=not sys.stderr.isatty(), leave=False) as bar:

        def update(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for an end between two frames; a second one does not wait.

    Yields the function that tells whether the end was asked for.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        print('\nstopping after this frame', file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """A two-column table under a title."""
    from kpvo_ros.evaluation.table import text_table

    print(title)
    print(text_table(rows))
