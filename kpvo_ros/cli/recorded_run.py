"""What bag_recorder wrote: a run folder with a bag in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kpvo_ros.bags.reader import Bag
from kpvo_ros.errors import BagError, EvaluationError
from kpvo_ros.evaluation.files import SUMMARY_FILE


def complete_summary(run_dir: Path, frames_offered: int) -> dict[str, Any]:
    """Tell the summary of a recording how many images the player had.

    Args:
        run_dir: folder of bag_recorder.
        frames_offered: images the player had; dropped ones then count as not tracked.

    Returns:
        The summary, with the frames the node answered as `answered`.

    Raises:
        EvaluationError: the recorder left no summary.
    """
    path = run_dir / SUMMARY_FILE
    try:
        summary = json.loads(path.read_text(encoding='utf-8'))
        summary = {**summary, 'answered': summary['frames'], 'frames': frames_offered}
        path.write_text(json.dumps(summary, indent=2) + '\n', encoding='utf-8')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f'{path}: not the summary of a recording ({error})') from None
    return summary


def keypoints_at(recording_dir: Path, stamp_ns: int, offset_ns: int) -> np.ndarray:
    """Keypoints that were published for the image nearest to a time.

    Args:
        recording_dir: folder of bag_recorder.
        stamp_ns: time in the played bag.
        offset_ns: what the player added to the stamps.

    Returns:
        (N, 2) pixels; empty when no keypoints were recorded.
    """
    best, gap_ns = np.zeros((0, 2)), 10**18
    try:
        with Bag(recording_dir / 'bag') as bag:
            topics = {name for name in bag.topics if name.rpartition('/')[2] == 'keypoints'}
            for _, _, cloud in bag.messages(topics):
                cloud_ns = cloud.header.stamp.sec * 10**9 + cloud.header.stamp.nanosec - offset_ns
                if abs(cloud_ns - stamp_ns) < gap_ns:
                    best, gap_ns = _pixels(cloud), abs(cloud_ns - stamp_ns)
    except BagError:
        return best
    return best


def _pixels(cloud: Any) -> np.ndarray:
    """(N, 2) fields u and v of a PointCloud2."""
    offsets = {field.name: field.offset for field in cloud.fields}
    kind = np.dtype(
        {
            'names': ['u', 'v'],
            'formats': ['<f4', '<f4'],
            'offsets': [offsets['u'], offsets['v']],
            'itemsize': cloud.point_step,
        }
    )
    points = np.frombuffer(bytes(cloud.data), kind, count=cloud.width * cloud.height)
    return np.stack([points['u'], points['v']], axis=1)
