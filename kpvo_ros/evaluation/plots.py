"""Plots of an estimate over its ground truth: the path, the errors, the coordinates over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpvo_ros.evaluation import plot_style as style
from kpvo_ros.evaluation.metrics import Comparison, Metrics
from kpvo_ros.evaluation.states import States
from kpvo_ros.types import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_trajectory(comparison: Comparison, metrics: Metrics, path: Path) -> None:
    """The aligned estimate over the ground truth, seen along the axis of least motion.

    Args:
        comparison: aligned poses.
        metrics: numbers for the title.
        path: PNG to write.
    """
    truth, estimate = comparison.reference.poses[:, :3, 3], comparison.estimate[:, :3, 3]
    axes_shown = _widest_plane(np.concatenate([truth, estimate]))
    truth, estimate = truth[:, axes_shown], estimate[:, axes_shown]
    with style.figure(path, *_size_for(np.concatenate([truth, estimate]))) as figure:
        axes = figure.add_subplot()
        _draw_path(axes, comparison.reference.stamps_ns, truth, style.TRUTH, 'ground truth')
        lines = _draw_by_error(axes, comparison.stamps_ns, estimate, comparison.position_errors_m)
        figure.colorbar(lines, ax=axes, label='position error [m]', pad=0.02, aspect=30)
        axes.plot(*estimate[0], 'o', color=style.ESTIMATE, ms=7, mec='white', label='start')
        axes.plot(*estimate[-1], 's', color=style.ACCENT, ms=7, mec='white', label='end')
        _finish_map(axes, axes_shown)
        figure.suptitle(
            f'Estimate over ground truth ({comparison.alignment.value}): '
            f'ATE {metrics.ate_m.rmse:.3f} m rmse over {metrics.path_length_m:.1f} m'
        )


def plot_path(trajectory: Trajectory, path: Path) -> None:
    """A trajectory alone, for a run without ground truth; arguments as in `plot_trajectory`."""
    positions = trajectory.poses[:, :3, 3]
    axes_shown = _widest_plane(positions)
    positions = positions[:, axes_shown]
    length_m = np.linalg.norm(np.diff(trajectory.poses[:, :3, 3], axis=0), axis=1).sum()
    with style.figure(path, *_size_for(positions)) as figure:
        axes = figure.add_subplot()
        _draw_path(axes, trajectory.stamps_ns, positions, style.ESTIMATE, 'estimate')
        axes.plot(*positions[0], 'o', color=style.ESTIMATE, ms=7, mec='white', label='start')
        axes.plot(*positions[-1], 's', color=style.ACCENT, ms=7, mec='white', label='end')
        _finish_map(axes, axes_shown)
        figure.suptitle(f'Estimated path, {length_m:.1f} m')


def plot_errors(
    comparison: Comparison, metrics: Metrics, path: Path, states: States | None = None
) -> None:
    """Position and rotation error over time, shaded where the odometry said it was in trouble.

    Args:
        comparison: aligned poses.
        metrics: numbers for the title.
        path: PNG to write.
        states: of every frame, for the shading.
    """
    start_ns = int(comparison.stamps_ns[0])
    panels = (
        ('position', 'm', comparison.position_errors_m, metrics.ate_m.rmse),
        ('rotation', 'deg', comparison.rotation_errors_deg, metrics.rotation_deg.rmse),
    )
    with style.figure(path, 9.0, 5.2) as figure:
        for row, (name, unit, values, rmse) in enumerate(panels):
            axes = _time_axes(figure, 2, row, f'{name} error [{unit}]')
            if states is not None:
                _shade_status(axes, states, start_ns)
            _draw_over_time(axes, comparison.stamps_ns, values, start_ns, style.ESTIMATE, None)
            axes.axhline(rmse, color=style.TRUTH, lw=1.0, ls='--', label=f'rmse {rmse:.3g} {unit}')
            axes.set_ylim(bottom=0.0)
            style.legend_above(axes, columns=6)
        figure.suptitle(
            f'Errors: ATE rmse {metrics.ate_m.rmse:.3f} m, max {metrics.ate_m.max:.3f} m, '
            f'rotation rmse {metrics.rotation_deg.rmse:.2f} deg'
        )


def plot_coordinates(comparison: Comparison, path: Path) -> None:
    """x, y and z over time, estimate and ground truth.

    Args:
        comparison: aligned poses.
        path: PNG to write.
    """
    reference = comparison.reference
    start_ns = int(min(comparison.stamps_ns[0], reference.stamps_ns[0]))
    with style.figure(path, 9.0, 6.4) as figure:
        for axis, name in enumerate('xyz'):
            axes = _time_axes(figure, 3, axis, f'{name} [m]')
            truth, estimate = reference.poses[:, axis, 3], comparison.estimate[:, axis, 3]
            _draw_over_time(
                axes, reference.stamps_ns, truth, start_ns, style.TRUTH, 'ground truth', ls='--'
            )
            _draw_over_time(
                axes, comparison.stamps_ns, estimate, start_ns, style.ESTIMATE, 'estimate'
            )
            if axis == 0:
                style.legend_above(axes)
        spread = np.ptp(reference.poses[:, :3, 3], axis=0)
        extent = ' x '.join(f'{metres:.1f}' for metres in spread)
        figure.suptitle(f'Position over time in the frame of the ground truth ({extent} m)')


# ------------------------------------------------------------------------------------ private


def _widest_plane(positions: np.ndarray) -> list[int]:
    """The two coordinate axes with the largest extent: across the page, then up the page.

    A path much longer than wide is laid on its side, the long axis across.
    """
    extent = np.ptp(positions, axis=0)
    across, up = sorted(np.argsort(extent, kind='stable')[1:].tolist())
    return [up, across] if extent[up] > 2.0 * extent[across] else [across, up]


def _size_for(points: np.ndarray) -> tuple[float, float]:
    """Width and height in inches that suit the extent of (N, 2) points."""
    width, height = np.maximum(np.ptp(points, axis=0), 1e-9)
    return 9.0, float(np.clip(7.6 * height / width + 1.4, 3.6, 8.0))


def _draw_path(
    axes: Axes, stamps_ns: np.ndarray, points: np.ndarray, colour: str, label: str
) -> None:
    for run in style.segments_between_gaps(stamps_ns):
        axes.plot(*points[run].T, color=colour, lw=1.4, ls='-', label=label)
        label = '_nolegend_'


def _draw_by_error(
    axes: Axes, stamps_ns: np.ndarray, points: np.ndarray, errors_m: np.ndarray
) -> Any:
    """The path as short pieces coloured by the error at their end; returns what has a scale."""
    from matplotlib.collections import LineCollection

    pieces, values = [], []
    for run in style.segments_between_gaps(stamps_ns):
        pieces.append(np.stack([points[run][:-1], points[run][1:]], axis=1))
        values.append(errors_m[run][1:])
    lines = LineCollection(list(np.concatenate(pieces)), cmap='plasma_r', linewidths=2.6)
    lines.set_array(np.concatenate(values))
    lines.set_clim(0.0, max(float(errors_m.max()), 1e-9))
    lines.set_capstyle('round')
    axes.add_collection(lines)
    axes.plot([], [], color=lines.cmap(0.5), lw=2.6, label='estimate')
    return lines


def _finish_map(axes: Axes, axes_shown: list[int]) -> None:
    first, second = ('xyz'[axis] for axis in axes_shown)
    axes.set_xlabel(f'{first} [m]')
    axes.set_ylabel(f'{second} [m]')
    axes.set_aspect('equal', adjustable='datalim')
    axes.margins(0.06)
    if axes_shown[0] > axes_shown[1]:
        axes.invert_yaxis()  # swapped axes alone would show the mirror image of the path
    style.legend_above(axes)


def _time_axes(figure: Figure, rows: int, row: int, label: str) -> Axes:
    """One of several axes below each other that share their time."""
    shared = figure.axes[0] if figure.axes else None
    axes = figure.add_subplot(rows, 1, row + 1, sharex=shared)
    axes.set_ylabel(label)
    axes.margins(x=0.01)
    if row == rows - 1:
        axes.set_xlabel('time [s]')
    else:
        axes.tick_params(labelbottom=False)
    return axes


def _draw_over_time(
    axes: Axes,
    stamps_ns: np.ndarray,
    values: np.ndarray,
    start_ns: int,
    colour: str,
    label: str | None,
    ls: str = '-',
) -> None:
    seconds = (stamps_ns - start_ns) / 1e9
    for run in style.segments_between_gaps(stamps_ns):
        axes.plot(seconds[run], values[run], color=colour, ls=ls, label=label)
        label = None


def _shade_status(axes: Axes, states: States, start_ns: int) -> None:
    """Bands behind the frames that were not simply tracked; each status once in the legend."""
    if len(states) < 2:
        return
    seconds = (states.stamps_ns - start_ns) / 1e9
    half = 0.5 * float(np.median(np.abs(np.diff(seconds))))
    named: set[str] = set()
    begin = 0
    for index in range(1, len(states) + 1):
        if index < len(states) and states.status[index] == states.status[begin]:
            continue
        status, colour = states.status[begin], style.STATUS_COLOURS.get(states.status[begin])
        if colour is not None:
            label = None if status in named else status
            axes.axvspan(
                seconds[begin] - half, seconds[index - 1] + half,
                color=colour, alpha=0.3, lw=0, label=label,
            )  # fmt: skip
            named.add(status)
        begin = index
