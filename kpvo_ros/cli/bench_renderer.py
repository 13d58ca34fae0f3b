"""kpvo bench renderer: how long the synthetic world takes for a picture."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from kpvo_ros.cli.bench import BenchOptions, Measurement, Table
from kpvo_ros.synthetic.recording import CAMERA, SyntheticSequence
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.sequence import sequence

_PRESETS = ('room', 'corridor', 'street', 'loop_200m')
_VIEWS, _QUICK_VIEWS = 20, 4
_HEADER = ('world', 'primitives', 'device', 'shadows', 'ms median', 'ms p95', 'frames/s')


def measure(options: BenchOptions) -> Measurement:
    """Time single views along each path, with and without shadows."""
    rows: list[tuple[str, ...]] = []
    numbers: dict[str, Any] = {}
    views = _QUICK_VIEWS if options.quick else _VIEWS
    for device in ['cpu', *(['cuda'] if torch.cuda.is_available() else [])]:
        for preset in _PRESETS:
            made = sequence(preset, options.seed, device=device)
            for shadows in (True, False):
                ms = _time_views(made, views, shadows)
                median, p95 = np.percentile(ms, (50, 95))
                key = f'{preset} {device} {"with" if shadows else "without"} shadows'
                numbers[key] = {
                    'primitives': len(made.world),
                    'views': views,
                    'median_ms': float(median),
                    'p95_ms': float(p95),
                }
                rows.append(
                    (
                        preset,
                        str(len(made.world)),
                        device,
                        'yes' if shadows else 'no',
                        f'{median:.0f}',
                        f'{p95:.0f}',
                        f'{1e3 / median:.1f}',
                    )
                )
    title = f'rendering {CAMERA.width}x{CAMERA.height}, {torch.get_num_threads()} threads'
    return Measurement([Table(title, _HEADER, rows)], numbers)


def _time_views(made: SyntheticSequence, views: int, shadows: bool) -> list[float]:
    """Milliseconds of each view; one is rendered before to warm up."""
    poses = made.path.T_world_camera
    ms = []
    for index in [0, *np.linspace(0, len(poses) - 1, views).astype(int)]:
        start = time.perf_counter()
        shot = render(made.world, poses[index], made.camera, shadows=shadows)
        shot.depth_m[0, 0, 0].item()  # waits for a GPU to be done
        ms.append((time.perf_counter() - start) * 1e3)
    return ms[1:]
