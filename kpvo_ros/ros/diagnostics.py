"""Counters of a node and what /diagnostics says about them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
import dataclasses
import functools
import importlib.metadata
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from kpvo_ros.types import OdometryEstimate, Status

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

_LEVELS = {
    Status.STARTING: WARN,
    Status.TRACKING: OK,
    Status.DEGRADED: WARN,
    Status.LOST: ERROR,
}
OLD_STAMP_S = 1.0
_RATE_WINDOW = 50


@dataclasses.dataclass
class Counts:
    """What became of the images.

    Attributes:
        received: images that arrived.
        processed: images that went through the algorithm.
        dropped: images replaced by a newer one before they were looked at.
        bad: images that could not be used.
        repeated: images whose stamp did not grow.
        waiting: images before camera_info or the camera's pose were known.
        errors: images on which the algorithm failed unexpectedly.
    """

    received: int = 0
    processed: int = 0
    dropped: int = 0
    bad: int = 0
    repeated: int = 0
    waiting: int = 0
    errors: int = 0


class InputMonitor:
    """Counts images and their rate; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrivals_s: deque[float] = deque(maxlen=_RATE_WINDOW)
        self.counts = Counts()
        self.last_reason = ''
        self.started_s = time.monotonic()

    def restart(self) -> None:
        """Silence is counted from now."""
        with self._lock:
            self._arrivals_s.clear()
            self.started_s = time.monotonic()

    def count(self, what: str, reason: str = '') -> None:
        """Add one to a field of `Counts`, with the reason when something was wrong."""
        with self._lock:
            setattr(self.counts, what, getattr(self.counts, what) + 1)
            if what == 'received':
                self._arrivals_s.append(time.monotonic())
            if reason:
                self.last_reason = reason

    @property
    def silence_s(self) -> float:
        """Seconds since the last image, or since the start."""
        with self._lock:
            return time.monotonic() - (
                self._arrivals_s[-1] if self._arrivals_s else self.started_s
            )

    @property
    def rate_hz(self) -> float:
        """Images a second over the last ones."""
        with self._lock:
            if len(self._arrivals_s) < 2:
                return 0.0
            # Up to now, so that the rate falls when the camera stops.
            return (len(self._arrivals_s) - 1) / max(time.monotonic() - self._arrivals_s[0], 1e-9)


def input_status(
    name: str, monitor: InputMonitor, age_s: float | None, silent_after_s: float
) -> DiagnosticStatus:
    """State of the image stream.

    Args:
        name: name of the node.
        monitor: its counters.
        age_s: node clock minus newest image stamp; None before the first image.
        silent_after_s: no image for this long is an error.
    """
    level, message = OK, 'images arrive'
    if monitor.silence_s > silent_after_s:
        level, message = ERROR, f'no image for {monitor.silence_s:.1f} s'
    elif monitor.counts.received == 0:
        level, message = WARN, 'waiting for the first image'
    elif age_s is not None and abs(age_s) > OLD_STAMP_S:
        level = WARN
        message = f'stamps are {age_s:.1f} s old; set use_sim_time for a bag, or check the clocks'
    values = {
        'frequency_hz': f'{monitor.rate_hz:.2f}',
        'stamp_age_s': '' if age_s is None else f'{age_s:.3f}',
        **{key: str(value) for key, value in dataclasses.asdict(monitor.counts).items()},
        'last_reason': monitor.last_reason,
    }
    return status_message(f'{name}: input', level, message, values)


def odometry_status(name: str, estimate: OdometryEstimate, step_ms: float) -> DiagnosticStatus:
    """State of the odometry after one frame that took `step_ms` altogether."""
    values = {
        'stamp_ns': str(estimate.stamp_ns),
        'state': estimate.status.value,
        'reason': estimate.reason,
        'inliers': str(estimate.inliers),
        'keypoints': str(len(estimate.features)),
        'scale': f'{estimate.scale:.6g}',
        'scale_sigma': f'{estimate.scale_sigma:.4g}',
        'keyframe': str(estimate.is_keyframe).lower(),
        'map': str(estimate.map_id),
        'step_ms': f'{step_ms:.2f}',
        **{f'{stage}_ms': f'{ms:.2f}' for stage, ms in estimate.stage_ms.items()},
        'version': package_version(),
    }
    message = estimate.reason or estimate.status.value
    return status_message(f'{name}: odometry', _LEVELS[estimate.status], message, values)


def status_message(
    name: str, level: bytes, message: str, values: Mapping[str, str]
) -> DiagnosticStatus:
    """One DiagnosticStatus."""
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, values=pairs)


@functools.cache
def package_version() -> str:
    """Version of the installed package; to look for it on the disk takes milliseconds."""
    try:
        return importlib.metadata.version('kpvo_ros')
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'
