"""The look all plots share: one palette, one font size, figures without global state.

Figures are made by `matplotlib.figure.Figure` directly: no pyplot, so no display is needed and
nothing stays behind. Matplotlib is imported on first use: it costs half a second that a caller of
the metrics should not pay.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kpvo_ros.errors import EvaluationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color universal design": told apart with any colour vision.
TRUTH = '#4d4d4d'
ESTIMATE = '#0072b2'
ACCENT = '#d55e00'
STATUS_COLOURS = {
    'starting': '#999999',
    'degraded': '#e69f00',
    'lost': '#d55e00',
    'bad': '#cc79a7',
}


@contextlib.contextmanager
def figure(path: Path, width_in: float, height_in: float) -> Iterator[Figure]:
    """A styled figure that is written to `path` as PNG when the block ends well.

    Raises:
        EvaluationError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        made = Figure(figsize=(width_in, height_in), layout='constrained')
        yield made
        try:
            made.savefig(path, format='png')
        except OSError as error:
            raise EvaluationError(f'{path}: cannot be written ({error.strerror})') from error


def segments_between_gaps(stamps_ns: np.ndarray) -> list[slice]:
    """Runs of stamps without a gap, so that no line is drawn where there were no poses.

    Args:
        stamps_ns: (N,) increasing.

    Returns:
        Slices that cover 0..N in order; a gap is longer than five median steps.
    """
    if len(stamps_ns) < 3:
        return [slice(0, len(stamps_ns))]
    steps = np.diff(stamps_ns)
    cuts = np.flatnonzero(steps > 5 * np.median(steps)) + 1
    edges = [0, *cuts.tolist(), len(stamps_ns)]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]


def legend_above(axes: Axes, columns: int = 4) -> None:
    """The legend in the band between title and axes, where it hides no data."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc='lower left', bbox_to_anchor=(0.0, 1.0), ncols=columns, borderaxespad=0.2)


_STYLE: Any = {
    'figure.dpi': 130,
    'savefig.dpi': 130,
    'font.size': 10,
    'axes.titlesize': 11,
    'axes.labelsize': 10,
    'axes.grid': True,
    'axes.axisbelow': True,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': '#808080',
    'grid.color': '#d9d9d9',
    'grid.linewidth': 0.6,
    'lines.linewidth': 1.4,
    'legend.frameon': False,
    'legend.fontsize': 9,
    'xtick.labelsize': 9,
    'ytick.labelsize': 9,
    'xtick.color': '#4d4d4d',
    'ytick.color': '#4d4d4d',
}
