"""Run the odometry over a recording: the same pipeline as the node, as fast as the machine.

Deterministic: no clock and no thread decides anything, so the same recording and parameters give
the same trajectory file.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
import contextlib
import dataclasses
import logging
from pathlib import Path
import resource
import time
from typing import Any

import numpy as np

from kpvo_ros.bags.run_folder import RunFolder
from kpvo_ros.bags.source import Record, Source
from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.config.schema import to_nested
from kpvo_ros.errors import BagError
from kpvo_ros.odometry.extrinsics import extrinsics_from
from kpvo_ros.odometry.pipeline import STAGES, Odometry
from kpvo_ros.types import BadFrame, Frame, Gyro, OdometryEstimate, Status, WheelOdometry

Observer = Callable[[Frame, OdometryEstimate], None]
Progress = Callable[[int, 'int | None'], None]
_log = logging.getLogger(__name__)
_JUMP_NS = 1_000_000_000  # a stamp further back than this is another run, not a late image


@dataclasses.dataclass(frozen=True)
class ReplaySummary:
    """What came out of a replay; written as summary.json.

    Attributes:
        source: name of the recording.
        frames: images offered by the recording, bad ones included.
        bad_frames: images that could not be decoded.
        poses: images with a measured pose.
        told_late: how many of these were only known when the map stood.
        tracked_percent: poses / frames.
        path_length_m: length of the estimated path (map units without a scale source).
        duration_s: time between the earliest and latest image.
        wall_s: computing time, decoding included.
        fps: frames / wall_s.
        status: frames per status.
        keyframes: how many were made.
        stage_ms: {stage: {median, p95}} over the frames where the stage ran.
        peak_memory_mb: of the process.
        interrupted: whether somebody stopped it before the end.
        notes: remarks of the recording and of the run.
        config: every parameter.
    """

    source: str
    frames: int
    bad_frames: int
    poses: int
    told_late: int
    tracked_percent: float
    path_length_m: float
    duration_s: float
    wall_s: float
    fps: float
    status: dict[str, int]
    keyframes: int
    stage_ms: dict[str, dict[str, float]]
    peak_memory_mb: float
    interrupted: bool
    notes: tuple[str, ...]
    config: dict[str, Any]

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) rows for a terminal table."""
        total = self.stage_ms['total']
        late = f' ({self.told_late} told late)'
        return [
            ('frames', f'{self.frames}' + (f' ({self.bad_frames} bad)' * bool(self.bad_frames))),
            ('tracked', f'{self.tracked_percent:.1f} %' + late * bool(self.told_late)),
            ('estimated path', f'{self.path_length_m:.2f}'),
            ('keyframes', f'{self.keyframes}'),
            ('frames per second', f'{self.fps:.1f}'),
            ('step median / p95', f'{total["median"]:.1f} / {total["p95"]:.1f} ms'),
            ('peak memory', f'{self.peak_memory_mb:.0f} MB'),
        ]


def replay(
    source: Source,
    config: VoConfig,
    out_dir: Path,
    *,
    observers: tuple[Observer, ...] = (),
    progress: Progress | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> ReplaySummary:
    """Run the odometry over a source and record the run.

    However the run ends, what was recorded stays and the summary is written.

    Args:
        source: the recording.
        config: all parameters.
        out_dir: folder of the run (`run_folder.RunFolder`).
        observers: called with every frame and its estimate, e.g. a viewer.
        progress: called with (frames done, frames in all or None).
        should_stop: asked before every frame; True ends the run as if the recording ended.

    Returns:
        The summary, which is also in summary.json.

    Raises:
        BagError: the source holds no image, or the folder cannot be written.
        OdometryError: the configuration cannot work.
    """
    T_base_camera = source.extrinsics()
    if T_base_camera is None:
        T_base_camera = extrinsics_from(config.frames)
    odometry = Odometry(config, T_base_camera, tells_late=True)
    with contextlib.closing(odometry), RunFolder(out_dir, STAGES) as folder:
        run = _Run(odometry, observers)
        try:
            for record, decode_ms in _timed(source.records()):
                if should_stop():
                    run.tally.interrupted = True
                    break
                run.take(record, decode_ms, folder)
                if progress:
                    progress(run.tally.frames, source.info.n_frames)
        except BaseException:
            run.tally.interrupted = True
            raise
        finally:
            summary = run.tally.summary(source, config, folder.parts)
            folder.write_summary(dataclasses.asdict(summary))
    if not summary.frames and not summary.interrupted:
        raise BagError(f'{source.info.name}: not one image in it; check the image topic')
    return summary


class _Run:
    """The odometry at work, and what is known about it so far."""

    def __init__(self, odometry: Odometry, observers: tuple[Observer, ...]) -> None:
        self.tally = _Tally()
        self._odometry = odometry
        self._observers = observers
        self._last_ns: int | None = None

    def take(self, record: Record, decode_ms: float, folder: RunFolder) -> None:
        """Hand one record to the odometry and write down the answer."""
        if isinstance(record, WheelOdometry):
            self._odometry.offer_wheel(record)
            return
        if isinstance(record, Gyro):
            self._odometry.offer_gyro(record)
            return
        if self._is_repeated(record):
            record = BadFrame(record.stamp_ns, 'stamp is not newer than the one before: left out')
        if isinstance(record, BadFrame):
            self._odometry.skip(record)
            folder.add_bad(record)
            self.tally.add_bad()
            return
        start = time.perf_counter()
        estimate = self._odometry.step(record)
        total_ms = (time.perf_counter() - start) * 1e3
        estimate.stage_ms['decode'] = decode_ms
        late = self._odometry.take_late()
        folder.add_late(late)
        self.tally.add_late(late, folder.parts)
        folder.add(estimate, total_ms)
        self.tally.add(estimate, total_ms, folder.parts)
        for observe in self._observers:
            observe(record, estimate)

    def _is_repeated(self, record: Frame | BadFrame) -> bool:
        last_ns = self._last_ns
        if last_ns is not None and last_ns - _JUMP_NS <= record.stamp_ns <= last_ns:
            return True
        self._last_ns = record.stamp_ns
        return False


def _timed(records: Iterator[Record]) -> Iterator[tuple[Record, float]]:
    """Every record with the milliseconds it took to decode."""
    while True:
        start = time.perf_counter()
        record = next(records, None)
        if record is None:
            return
        yield record, (time.perf_counter() - start) * 1e3


class _Tally:
    """Counts while the replay runs."""

    def __init__(self) -> None:
        self.frames = self._bad = self._late = self._keyframes = 0
        self._status: Counter[str] = Counter()
        self._ms: dict[str, list[float]] = defaultdict(list)
        self._stamps_ns: list[int] = []
        self._positions: dict[tuple[int, int], np.ndarray] = {}  # by part and stamp
        self._start = time.perf_counter()
        self.interrupted = False

    def add_bad(self) -> None:
        """Count a frame that could not be used."""
        self.frames += 1
        self._bad += 1

    def add(self, estimate: OdometryEstimate, total_ms: float, part: int) -> None:
        """Count a frame that was given to the odometry, in a part of the trajectory."""
        self.frames += 1
        self._stamps_ns.append(estimate.stamp_ns)
        self._status[estimate.status.value] += 1
        self._keyframes += estimate.is_keyframe
        for stage, ms in estimate.stage_ms.items():
            self._ms[stage].append(ms)
        self._ms['total'].append(total_ms)
        if estimate.has_pose:
            self._add_pose(estimate, part)

    def add_late(self, estimates: Iterable[OdometryEstimate], part: int) -> None:
        """Count poses that frames got after their answers."""
        for estimate in estimates:
            self._late += 1
            self._add_pose(estimate, part)

    def _add_pose(self, estimate: OdometryEstimate, part: int) -> None:
        self._positions[part, estimate.stamp_ns] = estimate.T_odom_camera[:3, 3].copy()

    def _length(self) -> float:
        """Of the way through all positions, in the order of time."""
        way = np.array([self._positions[key] for key in sorted(self._positions)])
        return float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum()) if len(way) else 0.0

    def summary(self, source: Source, config: VoConfig, parts: int) -> ReplaySummary:
        """All numbers so far."""
        notes = source.info.notes
        if parts > 1:
            files = 'trajectory_tum_2.txt' + (' and following' if parts > 2 else '')
            jumps = f'time jumped back {parts - 1} time(s): poses from then on are in {files}'
            notes += (jumps,)
            _log.warning('%s: %s', source.info.name, jumps)
        wall_s = time.perf_counter() - self._start
        stamps = self._stamps_ns or [0]
        return ReplaySummary(
            source=source.info.name,
            frames=self.frames,
            bad_frames=self._bad,
            poses=len(self._positions),
            told_late=self._late,
            tracked_percent=100.0 * len(self._positions) / max(1, self.frames),
            path_length_m=self._length(),
            duration_s=(max(stamps) - min(stamps)) * 1e-9,
            wall_s=wall_s,
            fps=self.frames / wall_s,
            status={status.value: self._status[status.value] for status in Status},
            keyframes=self._keyframes,
            stage_ms={'total': _quantiles([]), **{k: _quantiles(v) for k, v in self._ms.items()}},
            peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            interrupted=self.interrupted,
            notes=notes,
            config=to_nested(config),
        )


def _quantiles(ms: list[float]) -> dict[str, float]:
    if not ms:
        return {'median': 0.0, 'p95': 0.0}
    median, p95 = np.percentile(ms, (50, 95))
    return {'median': round(float(median), 3), 'p95': round(float(p95), 3)}
