"""What bag_recorder wrote, as a run folder that kpvo evaluate reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np

from kpvo_ros.bags.reader import Bag
from kpvo_ros.errors import BagError, EvaluationError
from kpvo_ros.evaluation.report import STATES_FILE, SUMMARY_FILE, TRAJECTORY_FILE

RECORDING_FILE = 'recording.json'
_COLUMNS = (
    'stamp_ns',
    'status',
    'reason',
    'inliers',
    'keyframe',
    'scale',
    'scale_sigma',
    'transport_ms',
    'step_ms',
    'total_ms',
)


def make_run(recording_dir: Path, run_dir: Path, frames_offered: int) -> dict[str, Any]:
    """Make a run folder from a recording.

    The total time of a frame is its latency from stamp to arrival at the recorder; what is not
    the step of the odometry is transport and waiting.

    Args:
        recording_dir: folder of bag_recorder.
        run_dir: folder of the run.
        frames_offered: images the player had.

    Returns:
        The content of recording.json.

    Raises:
        EvaluationError: the recorder left nothing to evaluate.
    """
    try:
        summary = json.loads((recording_dir / RECORDING_FILE).read_text(encoding='utf-8'))
        run_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recording_dir / TRAJECTORY_FILE, run_dir / TRAJECTORY_FILE)
        _write_states(recording_dir / STATES_FILE, run_dir / STATES_FILE)
        text = json.dumps({'frames': frames_offered, 'recording': summary}, indent=2) + '\n'
        (run_dir / SUMMARY_FILE).write_text(text, encoding='utf-8')
    except (OSError, ValueError) as error:
        raise EvaluationError(f'{recording_dir}: no complete recording ({error})') from None
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


# ------------------------------------------------------------------------------------ private


def _write_states(recorded: Path, path: Path) -> None:
    with recorded.open(encoding='utf-8', newline='') as source:
        rows = list(csv.DictReader(source))
    with path.open('w', encoding='utf-8', newline='') as target:
        writer = csv.DictWriter(target, _COLUMNS, restval='', extrasaction='ignore')
        writer.writeheader()
        for row in rows:
            step, latency = row.get('step_ms') or '', row.get('latency_ms') or ''
            state = row.get('status') or row.get('state')
            timed = {'status': state, 'total_ms': latency or step}
            if step and latency:
                timed['transport_ms'] = f'{max(0.0, float(latency) - float(step)):.3f}'
            writer.writerow({**row, **timed})


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
