"""kpvo demo: a rendered recording through the real nodes, scored against the truth.

A player, vo_node and a recorder run as processes of their own over DDS, as on a robot. Nothing
is waited for by the clock: each step begins when the one before it is seen to be done.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import shutil
from typing import TYPE_CHECKING, Any

from kpvo_ros.cli.common import print_table
from kpvo_ros.cli.live_run import DEPTH_TOPIC, IMAGE_TOPIC, INFO_TOPIC, play_through_nodes
from kpvo_ros.cli.ros_environment import require_ros
from kpvo_ros.errors import EvaluationError, RosError

if TYPE_CHECKING:
    from kpvo_ros.bags.source import Source
    from kpvo_ros.evaluation.metrics import Metrics

HELP = 'play a rendered recording with ground truth through the real nodes and score them'
PRESET, FRAMES = 'loop_200m', 525  # 35 s of a drive through streets
MIN_TRACKED_PERCENT = 90.0
MAX_ATE_SHARE = 0.03  # of the path; a robot that is further off did not localize
_REMAPS = {'image': IMAGE_TOPIC, 'camera_info': INFO_TOPIC, 'depth': DEPTH_TOPIC}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        '--out', type=Path, default=Path('out/demo'), metavar='DIR', help='default: out/demo'
    )
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='another world')
    parser.add_argument(
        '--keep', action='store_true', help='keep the results of the demo before this one'
    )


def run(args: argparse.Namespace) -> int:
    """Render, play, record, score."""
    require_ros()
    from kpvo_ros.bags.sources import open_source
    from kpvo_ros.cli.rendered import Recipe, rendered_bag

    bag = rendered_bag(args.out / 'sample', Recipe(PRESET, args.seed, frames=FRAMES))
    result_dir = _fresh(args.out / 'result', args.keep)
    with open_source(bag) as sample:
        frames = sample.info.n_frames or 0
        play_through_nodes(bag, result_dir, frames, _REMAPS, ('scale.source:=depth',))
        return _report(sample, result_dir, frames)


# ------------------------------------------------------------------------------------ private


def _fresh(folder: Path, keep: bool) -> Path:
    """A folder that does not exist yet; the one before it is removed, or moved aside."""
    try:
        if folder.exists() and keep:
            number = 1
            while (aside := folder.with_name(f'{folder.name}.{number}')).exists():
                number += 1
            folder.rename(aside)
        elif folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise RosError(
            f'{folder}: cannot be made ({error.strerror}); choose another --out'
        ) from None
    return folder


def _report(sample: Source, result_dir: Path, frames: int) -> int:
    """Score, print, judge."""
    from kpvo_ros.cli.recorded_run import complete_summary
    from kpvo_ros.evaluation.report import REPORT_FILE, evaluate_run

    truth = sample.ground_truth()
    assert truth is not None  # the renderer writes it
    logs = result_dir / 'logs'
    try:
        recorded = complete_summary(result_dir, frames)
        metrics = evaluate_run(result_dir, truth)
    except EvaluationError as error:
        raise RosError(f'no odometry came out ({error}); see the logs in {logs}') from None
    _add_frame(sample, result_dir, recorded['restamp_offset_ns'])
    print_table(f'{PRESET}, rendered, through the nodes', _rows(metrics, recorded, frames))
    print(f'\nreport: {result_dir / REPORT_FILE}')
    failure = _failure(metrics)
    if failure:
        raise RosError(f'{failure}; see the logs in {logs}')
    return 0


def _rows(metrics: Metrics, recorded: dict[str, Any], frames: int) -> list[tuple[str, str]]:
    latency = recorded['latency_ms']
    times = '-'
    if latency['count']:
        times = f'{latency["median"]:.1f} / {latency["p95"]:.1f} ms'
    scale = metrics.scale_error_percent
    drift = metrics.drift_percent
    return [
        ('frames played', str(frames)),
        ('frames answered', str(recorded['answered'])),
        ('tracked', f'{metrics.tracked_percent or 0.0:.1f} %'),
        ('path length', f'{metrics.path_length_m:.1f} m'),
        ('ATE rmse', f'{metrics.ate_m.rmse:.3f} m'),
        ('scale error', '-' if scale is None else f'{scale:+.2f} %'),
        ('drift', '-' if drift is None else f'{drift:.2f} %'),
        ('latency median / p95', times),
    ]


def _failure(metrics: Metrics) -> str:
    """What is not good enough, '' when all is well."""
    tracked = metrics.tracked_percent or 0.0
    if tracked < MIN_TRACKED_PERCENT:
        return f'only {tracked:.1f} % of the frames were tracked (at least 90 % are expected)'
    limit_m = MAX_ATE_SHARE * metrics.path_length_m
    if not metrics.ate_m.rmse <= limit_m:
        return f'ATE {metrics.ate_m.rmse:.2f} m is above {limit_m:.2f} m'
    return ''


def _add_frame(sample: Source, result_dir: Path, offset_ns: int) -> None:
    """The middle frame with the keypoints that were published for it."""
    from kpvo_ros.cli.recorded_run import keypoints_at
    from kpvo_ros.cli.snapshot import add_frame
    from kpvo_ros.types import Frame

    images = (record for record in sample.records() if isinstance(record, Frame))
    middle = (sample.info.n_frames or 0) // 2
    for index, frame in enumerate(images):
        if index == middle:
            xy = keypoints_at(result_dir, frame.stamp_ns, offset_ns)
            add_frame(result_dir, frame, xy)
            return
