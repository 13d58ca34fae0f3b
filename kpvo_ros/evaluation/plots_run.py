"""Plots of a run itself: where the time goes, and what one frame looks like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kpvo_ros.evaluation import plot_style as style
from kpvo_ros.evaluation.states import States

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_latency(states: States, path: Path) -> None:
    """Median and 95th percentile of every stage, and the spread of the whole step.

    Args:
        states: of every frame; frames without times are left out.
        path: PNG to write. Nothing is written when no frame has a time.
    """
    total_ms = states.total_ms[np.isfinite(states.total_ms)]
    if len(total_ms) == 0:
        return
    with style.figure(path, 9.0, 1.8 + 0.32 * max(len(states.stage_ms), 6)) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_stages(left, states.stage_ms)
        _draw_histogram(right, total_ms)
        figure.suptitle(
            f'Latency of {len(total_ms)} frames: median {np.median(total_ms):.1f} ms, '
            f'p95 {np.percentile(total_ms, 95):.1f} ms'
        )


def plot_frame(
    image: np.ndarray, xy: np.ndarray, depth_m: np.ndarray | None, path: Path, title: str = ''
) -> None:
    """A frame with its keypoints, and its depth map beside it.

    Args:
        image: (H, W, 3) uint8 RGB or (H, W) uint8.
        xy: (N, 2) pixels of the keypoints; may be empty.
        depth_m: (H, W) metres, NaN where unknown; None draws the frame alone.
        path: PNG to write.
        title: first words of the title, such as the stamp.
    """
    height, width = image.shape[:2]
    columns = 1 if depth_m is None else 2
    panel_in = 7.0 if columns == 1 else 5.6
    inches_high = float(np.clip(panel_in * height / width + 0.7, 2.2, 8.0))
    with style.figure(path, columns * panel_in + 0.6, inches_high) as figure:
        panels = figure.subplots(1, columns, squeeze=False)[0]
        panels[0].imshow(image, cmap='gray', vmin=0, vmax=255)
        panels[0].plot(*np.reshape(xy, (-1, 2)).T, 'o', ms=3.5, mfc='none', mec='#00e676', mew=0.9)
        panels[0].set_title(f'{len(xy)} keypoints')
        if depth_m is not None:
            _draw_depth(panels[1], depth_m)
        for axes in panels:
            axes.grid(False)
            axes.set_axis_off()
            axes.set_xlim(-0.5, width - 0.5)
            axes.set_ylim(height - 0.5, -0.5)
        if title:
            figure.suptitle(title)


# ------------------------------------------------------------------------------------ private


def _draw_stages(axes: Axes, stage_ms: dict[str, np.ndarray]) -> None:
    """Bars of the median with a whisker to the 95th percentile, in the order of the step."""
    measured = {name: ms[np.isfinite(ms)] for name, ms in stage_ms.items()}
    measured = {name: ms for name, ms in measured.items() if len(ms)}
    medians = np.array([np.median(ms) for ms in measured.values()])
    p95 = np.array([np.percentile(ms, 95) for ms in measured.values()])
    rows = np.arange(len(measured))
    axes.barh(rows, medians, height=0.62, color=style.ESTIMATE, label='median')
    axes.hlines(rows, medians, p95, color=style.ACCENT, lw=1.6)
    axes.plot(p95, rows, '|', color=style.ACCENT, ms=9, mew=1.8, label='p95')
    for row, (median, high) in enumerate(zip(medians, p95, strict=True)):
        axes.annotate(
            f'{median:.1f} / {high:.1f}', (high, row), xytext=(5, 0),
            textcoords='offset points', va='center', fontsize=8, color=style.TRUTH,
        )  # fmt: skip
    axes.set_yticks(rows, list(measured))
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.25 * float(p95.max()) if len(p95) else 1.0)
    axes.set_xlabel('time per frame [ms]')
    axes.grid(axis='y', visible=False)
    style.legend_above(axes)


def _draw_histogram(axes: Axes, total_ms: np.ndarray) -> None:
    median, p95 = np.median(total_ms), np.percentile(total_ms, 95)
    # A single stall of seconds must not squeeze the rest into one bin.
    top = max(1.3 * float(np.percentile(total_ms, 99)), 1e-3)
    bins = np.linspace(0.0, top, 33).tolist()
    axes.hist(np.minimum(total_ms, top), bins=bins, color=style.ESTIMATE, alpha=0.85)
    axes.axvline(median, color=style.TRUTH, lw=1.4, label='median')
    axes.axvline(p95, color=style.ACCENT, lw=1.4, ls='--', label='p95')
    axes.set_xlabel('whole step [ms]')
    axes.set_ylabel('frames')
    style.legend_above(axes)


def _draw_depth(axes: Axes, depth_m: np.ndarray) -> None:
    """Near is bright; unknown is grey."""
    import matplotlib as mpl

    known = depth_m[np.isfinite(depth_m)]
    near, far = np.percentile(known, (1, 99)) if len(known) else (0.0, 1.0)
    cmap = mpl.colormaps['turbo_r'].with_extremes(bad='#bdbdbd')
    shown = axes.imshow(
        np.ma.masked_invalid(depth_m), cmap=cmap, vmin=near, vmax=max(far, near + 1e-3)
    )
    share = 100.0 * len(known) / max(depth_m.size, 1)
    axes.set_title(f'depth, {share:.0f} % known')
    axes.figure.colorbar(shown, ax=axes, label='depth [m]', pad=0.02, shrink=0.9)
