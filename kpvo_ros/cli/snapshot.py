"""Keeps one typical frame of a run, for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kpvo_ros.evaluation.report import REPORT_FILE
from kpvo_ros.types import Frame, OdometryEstimate

FRAME_FILE = 'frame.png'


class Snapshot:
    """An observer that remembers a tracked frame from the middle of the run.

    Args:
        out_dir: folder of the run.
        n_frames: how many frames are expected, None when nobody knows.
    """

    def __init__(self, out_dir: Path, n_frames: int | None) -> None:
        self._out_dir = out_dir
        self._middle = (n_frames or 0) // 2
        self._seen = 0
        self._kept: tuple[Frame, OdometryEstimate] | None = None

    def __call__(self, frame: Frame, estimate: OdometryEstimate) -> None:
        """Look at one frame."""
        self._seen += 1
        if estimate.has_pose and (self._kept is None or self._seen <= max(1, self._middle)):
            self._kept = frame, estimate

    def add_to_report(self) -> None:
        """Draw the frame with its keypoints and depth below the report, if one was kept."""
        if self._kept is not None:
            frame, estimate = self._kept
            used = estimate.features.xy[estimate.features.score > 0]
            add_frame(self._out_dir, frame, used)


def add_frame(run_dir: Path, frame: Frame, xy: np.ndarray) -> None:
    """Draw a frame beside the report of a run, and show it there.

    Args:
        run_dir: folder of the run, its report written.
        frame: image, and depth when it has any.
        xy: (N, 2) pixels of the keypoints.
    """
    from kpvo_ros.evaluation.plots_run import plot_frame

    title = f'{frame.stamp_ns * 1e-9:.3f} s'
    plot_frame(frame.image, xy, frame.depth_m, run_dir / FRAME_FILE, title)
    with (run_dir / REPORT_FILE).open('a', encoding='utf-8') as report:
        report.write(f'\n## A frame\n\n![keypoints and depth]({FRAME_FILE})\n')
