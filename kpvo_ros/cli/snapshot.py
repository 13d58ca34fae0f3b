"""Keeps one typical frame of a run, for the report."""

from __future__ import annotations

from pathlib import Path

from kpvo_ros.types import Frame, OdometryEstimate

FRAME_FILE = 'frame.png'


class Snapshot:
    """An observer that remembers a tracked frame from the middle of the run.

    Args:
        out_dir: folder of the run.
        n_frames: how many frames are expected, None when nobody knows.
    """

    def __init__(self, out_dir: Path, n_frames: int | None) -> None:
        self._path = out_dir / FRAME_FILE
        self._middle = (n_frames or 0) // 2
        self._seen = 0
        self._kept: tuple[Frame, OdometryEstimate] | None = None

    def __call__(self, frame: Frame, estimate: OdometryEstimate) -> None:
        """Look at one frame."""
        self._seen += 1
        if estimate.has_pose and (self._kept is None or self._seen <= max(1, self._middle)):
            self._kept = frame, estimate

    def write(self) -> None:
        """Draw the frame with its keypoints and depth, if one was kept."""
        if self._kept is None:
            return
        from kpvo_ros.evaluation.plots_run import plot_frame

        frame, estimate = self._kept
        used = estimate.features.xy[estimate.features.score > 0]
        plot_frame(
            frame.image, used, frame.depth_m, self._path, f'{frame.stamp_ns * 1e-9:.3f} s: '
        )
