"""kpvo bench depth, part speed: milliseconds of one look, for each size of network.

Time does not depend on what the weights are, so they are drawn. A look of the depth and odometry
network is two images in, two depths and the motion out; that of the imported network is one image.
The networks take turns, so that a machine that is busy for a while is busy for all of them. With
one thread, processor time and wall time should agree; where they do not, the machine was shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_depth_models import Model
from kpvo_ros.cli.bench_depth_pairs import SIZE
from kpvo_ros.cli.bench_floors import Floor
from kpvo_ros.frontend.process import keep_freed_memory, use_threads
from kpvo_ros.geometry.camera import Camera

if TYPE_CHECKING:
    import torch
    from torch import nn

TINY, SMALL, IMPORTED = 'tiny', 'small', 'imported ViT-S'
IMPORTED_SIZE = (686, 518)  # what 4:3 images become before the public model, whole patches of 14
FLOORS = (Floor('tiny_ms', at_most=60.0),)
_FOCAL_PX = (220.0, 220.0)
_THREADS = (2, 1)
_TURNS, _QUICK_TURNS = 9, 1
_COLUMNS = (
    Column('size', 'size'),
    Column('parameters M', 'parameters_m', '.1f'),
    *(
        Column(f'{kind} ms, {threads} thread{"s" * (threads > 1)}', f'{kind}_ms_{threads}', '.1f')
        for threads in _THREADS
        for kind in ('cpu', 'wall')
    ),
)
_Look = Callable[[], object]


def measure_speed(
    options: BenchOptions, models: Sequence[Model]
) -> tuple[list[Table], dict[str, Any]]:
    """Medians over turns; the given weights have no part in it."""
    import torch

    from kpvo_ros.nets.precision import profits_from_bfloat16

    before = cv2.getNumThreads(), torch.get_num_threads()
    keep_freed_memory()  # as the nodes do
    rows, looks = _candidates()
    turns = _QUICK_TURNS if options.quick else _TURNS
    try:
        for threads in _THREADS:
            use_threads(threads)
            for name, seconds in _turns(looks, turns).items():
                cpu_ms, wall_ms = (1e3 * np.median(seconds, axis=0)).tolist()
                rows[name] |= {f'cpu_ms_{threads}': cpu_ms, f'wall_ms_{threads}': wall_ms}
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
    coarse = profits_from_bfloat16(torch.device('cpu'))
    chosen = f'{TINY} {"bfloat16" if coarse else "float32"}'  # what the odometry would take here
    numbers = {
        'networks': rows,
        'turns': turns,
        'bfloat16_in_hardware': coarse,
        'tiny_ms': rows[chosen][f'wall_ms_{_THREADS[0]}'],
    }
    note = '' if coarse else '; this processor emulates bfloat16'
    return [number_table(f'one look, median of {turns}{note}', 'network', _COLUMNS, rows)], numbers


# ------------------------------------------------------------------------------------ private


def _candidates() -> tuple[dict[str, dict[str, Any]], dict[str, _Look]]:
    """Numbers and looks of every network in both precisions."""
    import torch

    from kpvo_ros.nets import depth_vo, mono_depth

    rows: dict[str, dict[str, Any]] = {}
    looks: dict[str, _Look] = {}
    generator = torch.Generator().manual_seed(0)
    width, height = SIZE
    images = torch.rand(2, 3, height, width, generator=generator)
    K = torch.tensor([Camera(*SIZE, *_FOCAL_PX, (width - 1) / 2, (height - 1) / 2).K.tolist()])
    for size, config in ((TINY, depth_vo.TINY), (SMALL, depth_vo.SMALL)):
        network = depth_vo.DepthVoNet(config, generator=generator)
        for dtype in (torch.float32, torch.bfloat16):
            name = f'{size} {_word(dtype)}'
            rows[name] = _row(network, SIZE)
            looks[name] = _look(network.fused(dtype), images[:1], images[1:], K)
    mono = mono_depth.MonoDepthNet(generator=generator).requires_grad_(False).eval()
    image = torch.rand(1, 3, *IMPORTED_SIZE[::-1], generator=generator)
    looks[f'{IMPORTED} float32'] = _look(mono, image)
    looks[f'{IMPORTED} bfloat16'] = _look(_in_bfloat16(mono), image)
    for dtype in (torch.float32, torch.bfloat16):
        rows[f'{IMPORTED} {_word(dtype)}'] = _row(mono, IMPORTED_SIZE)
    return rows, looks


def _look(network: nn.Module, *inputs: torch.Tensor) -> _Look:
    import torch

    return torch.inference_mode()(functools.partial(network, *inputs))


def _in_bfloat16(network: nn.Module) -> nn.Module:
    import copy

    import torch

    return copy.deepcopy(network).to(torch.bfloat16)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _row(network: nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    count = sum(parameter.numel() for parameter in network.parameters())
    return {'size': f'{size[0]}x{size[1]}', 'parameters_m': count / 1e6}


def _turns(looks: dict[str, _Look], turns: int) -> dict[str, list[tuple[float, float]]]:
    """(processor, wall) seconds of each look of each network."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in looks}
    for look in looks.values():
        look()  # the first one pays for what comes up late
    for _ in range(turns):
        for name, look in looks.items():
            cpu, wall = time.process_time(), time.perf_counter()
            look()
            seconds[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return seconds
