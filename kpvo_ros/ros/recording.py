"""What bag_recorder writes: a run folder (trajectory, states, summary) with a rosbag2 in it.

The total time of a frame is its latency from the stamp of the image to the arrival of its
odometry; what is not the step of the odometry is transport and waiting.

Text files grow line by line and are flushed, so a killed recorder loses nothing it had received.
"""

from __future__ import annotations

from collections import Counter
import csv
import json
from pathlib import Path
import time
from typing import Any, TextIO

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
import numpy as np

from kpvo_ros.bags.images import stamp_ns_of
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.errors import RosError
from kpvo_ros.evaluation.files import STATES_FILE, SUMMARY_FILE, TRAJECTORY_FILE, tum_line
from kpvo_ros.ros.convert import matrix_from_pose
from kpvo_ros.types import Status

MAX_LATENCY_S = 30.0  # beyond, the stamps are no wall time and say nothing about latency
STATE_COLUMNS = (  # those of `evaluation.states`, so that kpvo evaluate reads a recording as a run
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


class Recording:
    """One folder of results; a context manager.

    Args:
        folder: made when missing.
        storage: 'mcap' or 'sqlite3'.

    Raises:
        RosError: the folder holds a recording already, or cannot be written.
        BagError: the bag cannot be written.
    """

    def __init__(self, folder: Path, storage: str = 'mcap') -> None:
        self._folder = folder
        self._offset_ns = 0
        self._counts: Counter[str] = Counter()
        self._states: Counter[str] = Counter()
        self._latency_ms: dict[int, float] = {}
        self._odometry_stamps: set[int] = set()
        self._waiting_rows: dict[int, dict[str, str]] = {}
        self.last_odometry_s: float | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._trajectory = _new_text(folder / TRAJECTORY_FILE)
            self._state_file = _new_text(folder / STATES_FILE)
        except FileExistsError as error:
            raise RosError(f'{error.filename} exists; give another --out') from None
        except OSError as error:
            raise RosError(f'{folder}: cannot be written ({error.strerror})') from None
        self._state_rows = csv.DictWriter(self._state_file, STATE_COLUMNS)
        self._state_rows.writeheader()
        self._bag = BagWriter(folder / 'bag', storage)

    def __enter__(self) -> Recording:
        """Return the recording itself."""
        return self

    def __exit__(self, *exc_info: Any) -> None:
        """Finish bag and files, also after an error."""
        self.close()

    def close(self) -> None:
        """Finish the bag and write summary.json."""
        self._bag.close()
        for stamp_ns, row in self._waiting_rows.items():
            self._write_state(stamp_ns, row)
        self._trajectory.close()
        self._state_file.close()
        part = self._folder / f'.{SUMMARY_FILE}.part'
        part.write_text(json.dumps(self.summary(), indent=2) + '\n', encoding='utf-8')
        part.replace(self._folder / SUMMARY_FILE)

    def set_restamp_offset(self, offset_ns: int) -> None:
        """Stamps are this much later than those of the source; text files are shifted back."""
        self._offset_ns = offset_ns

    def add_raw(self, topic: str, type_name: str, data: bytes) -> None:
        """Store one serialised message in the bag, at the time of its arrival."""
        self._counts[topic] += 1
        self._bag.write_raw(topic, type_name, time.time_ns(), data)

    def add_odometry(self, message: Odometry) -> None:
        """Take the latency of one odometry message."""
        stamp_ns = stamp_ns_of(message.header)
        latency_s = (time.time_ns() - stamp_ns) / 1e9
        self.last_odometry_s = time.monotonic()
        if abs(latency_s) < MAX_LATENCY_S:
            self._latency_ms[stamp_ns] = latency_s * 1e3
        self._odometry_stamps.add(stamp_ns)
        if stamp_ns in self._waiting_rows:
            self._write_state(stamp_ns, self._waiting_rows.pop(stamp_ns))

    def add_camera_pose(self, message: PoseStamped) -> None:
        """Add a line to the trajectory."""
        T_odom_camera = matrix_from_pose(message.pose)
        if T_odom_camera is not None:
            stamp_ns = stamp_ns_of(message.header) - self._offset_ns
            self._trajectory.write(tum_line(stamp_ns, T_odom_camera))
            self._trajectory.flush()

    def add_status(self, message: DiagnosticArray) -> None:
        """Add a line to the states, once the odometry of that stamp has come as well."""
        stamp_ns = stamp_ns_of(message.header)
        for status in message.status:
            row = {pair.key: pair.value for pair in status.values}
            self._states[row.get('state', '')] += 1
            if stamp_ns in self._odometry_stamps:
                self._write_state(stamp_ns, row)
            else:  # topics overtake each other
                self._waiting_rows[stamp_ns] = row

    def summary(self) -> dict[str, Any]:
        """Counts and latencies so far."""
        frames = sum(self._states.values())
        good = self._states[Status.TRACKING.value] + self._states[Status.DEGRADED.value]
        latencies = np.array(list(self._latency_ms.values()))
        return {
            'frames': frames,
            'tracked': good,
            'tracked_percent': 100.0 * good / frames if frames else None,
            'states': dict(self._states),
            'messages': dict(self._counts),
            'restamp_offset_ns': self._offset_ns,
            'latency_ms': {
                'count': len(latencies),
                'median': float(np.median(latencies)) if len(latencies) else None,
                'p95': float(np.percentile(latencies, 95)) if len(latencies) else None,
                'max': float(latencies.max()) if len(latencies) else None,
            },
        }

    def _write_state(self, stamp_ns: int, values: dict[str, str]) -> None:
        row = {key: values.get(key, '') for key in STATE_COLUMNS}
        row['stamp_ns'] = str(stamp_ns - self._offset_ns)
        row['status'] = values.get('state', '')
        row['total_ms'] = row['step_ms']
        latency_ms = self._latency_ms.get(stamp_ns)
        if latency_ms is not None:
            row['total_ms'] = f'{latency_ms:.3f}'
            row['transport_ms'] = f'{max(0.0, latency_ms - float(row["step_ms"] or 0.0)):.3f}'
        self._state_rows.writerow(row)
        self._state_file.flush()


def _new_text(path: Path) -> TextIO:
    return path.open('x', encoding='utf-8', newline='')
