"""kpvo bench depth, part hololens: a real recording, whose beginning may have been adapted to.

Only the last 40 % of `hololens_000` is looked at; `kpvo train video` with `use=0.6` ends before.
Its sensor depth and its tracked poses serve for scoring alone. Depth is scaled by the medians of
each image, as for every method that learns from video; motion is not scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_depth_models import ADAPTED, SHIPPED, TUNED, Model
from kpvo_ros.cli.bench_depth_pairs import SIZE, YARDSTICK, PairSet, answer, flat_answers, score
from kpvo_ros.cli.bench_features_data import as_colour
from kpvo_ros.cli.bench_floors import Floor
from kpvo_ros.errors import CommandError
from kpvo_ros.evaluation.association import associate
from kpvo_ros.frontend.depth_map import picture_of, seen_by
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Frame

RECORDING = 'hololens_000'
# Adapting shall remove a fifth of the error, and be nearly as good as training everything.
FLOORS = (
    Floor('adapted_over_shipped', at_most=0.8),
    Floor('adapted_over_tuned', at_most=1.1),
)
_LAST_SHARE = 0.4
_GAP = 1  # frames between the two of a pair; they are 8 cm and 5 degrees apart as it is
_QUICK_EVERY = 15
_COLUMNS = (
    Column('images', 'pairs', 'd'),
    Column('AbsRel', 'abs_rel'),
    Column('Acc@1.25', 'acc_125'),
    Column('Acc@1.56', 'acc_125_2'),
    Column('RMSE m', 'rmse_m'),
    Column('scale', 'scale', '.2f'),
    Column('AbsRel unscaled', 'abs_rel_unscaled'),
    Column('rotation deg', 'rotation_deg', '.2f'),
    Column('direction deg', 'direction_deg', '.1f'),
)


def measure_recorded(
    options: BenchOptions, models: Sequence[Model]
) -> tuple[list[Table], dict[str, Any]]:
    """Errors of each network on the same frames, and what they are of each other.

    Raises:
        CommandError: there is no network, or no such recording with depth and poses.
    """
    if not models:
        raise CommandError('hololens: no weights; name some with --models NAME=FILE')
    folder = None if options.data_dir is None else options.data_dir / RECORDING
    if folder is None or not folder.is_dir():
        raise CommandError(f'hololens: there is no {RECORDING}; name its parent with --data')
    pairs = recorded_pairs(folder, _QUICK_EVERY if options.quick else 1)
    rows: dict[str, Any] = {}
    for name, network in [(YARDSTICK, None), *((one.name, one.network) for one in models)]:
        said = flat_answers(pairs) if network is None else answer(network, pairs)
        rows[name] = score(pairs, said, last_only=True, median_scaled=True).numbers()
        plain = score(pairs, said, last_only=True, median_scaled=False).numbers()
        rows[name]['abs_rel_unscaled'] = plain['abs_rel']
    numbers = {'models': rows, **ratios(rows)}
    title = (
        f'{RECORDING}, last {_LAST_SHARE:.0%}, {SIZE[0]}x{SIZE[1]}: depth scaled by medians, '
        'mean of images; motion median of pairs'
    )
    return [number_table(title, 'model', _COLUMNS, rows)], numbers


def ratios(rows: dict[str, Any]) -> dict[str, float]:
    """What the floors ask for, where the three networks are there by their names."""
    if not all((rows.get(name) or {}).get('abs_rel') for name in (SHIPPED, ADAPTED, TUNED)):
        return {}
    adapted = rows[ADAPTED]['abs_rel']
    return {
        'adapted_over_shipped': adapted / rows[SHIPPED]['abs_rel'],
        'adapted_over_tuned': adapted / rows[TUNED]['abs_rel'],
    }


def recorded_pairs(folder: Path, every: int = 1) -> PairSet:
    """Each frame of the end of a recording with the one before it.

    Args:
        folder: the recording.
        every: take only every so many pairs.

    Raises:
        CommandError: it has no depth, no poses, or too few frames.
        BagError: it cannot be read.
    """
    with open_source(folder) as source:
        truth = source.ground_truth()
        views = [_View.of(record) for record in source.records() if isinstance(record, Frame)]
    views = views[len(views) - round(_LAST_SHARE * len(views)) :]
    if truth is None or any(view.depth_m is None for view in views):
        raise CommandError(f'{folder}: needs depth and true poses to be scored against')
    stamps_ns = np.array([view.stamp_ns for view in views], dtype=np.int64)
    of_view, of_truth = associate(stamps_ns, truth.stamps_ns)
    if len(of_view) <= _GAP:
        raise CommandError(f'{folder}: too few frames with a true pose; check its stamps')
    views, poses = [views[i] for i in of_view], truth.poses[of_truth]
    camera = views[0].camera
    if camera.is_distorted or any(view.camera != camera for view in views):
        raise CommandError(f'{folder}: needs one camera without distortion for its depth images')
    images = np.stack([view.image for view in views])
    depth = np.stack([view.depth_m for view in views if view.depth_m is not None])
    now = np.arange(_GAP, len(views), every)
    before = now - _GAP
    return PairSet(
        RECORDING,
        images[before],
        images[now],
        depth[before],
        depth[now],
        seen_by(camera, *SIZE).K,
        se3.inverse(poses[now]) @ poses[before],
    )


# ------------------------------------------------------------------------------------ private


class _View(NamedTuple):
    """A frame in the size of the networks, so that a recording fits into memory.

    Attributes:
        stamp_ns: of the frame.
        camera: of the frame as recorded.
        image: (H, W, 3) uint8.
        depth_m: (H, W) a true reading of each pixel's place, never a mix; None without depth.
    """

    stamp_ns: int
    camera: Camera
    image: np.ndarray
    depth_m: np.ndarray | None

    @classmethod
    def of(cls, frame: Frame) -> _View:
        """Shrink a frame."""
        depth_m = frame.depth_m
        if depth_m is not None:
            depth_m = cv2.resize(depth_m, SIZE, interpolation=cv2.INTER_NEAREST_EXACT)
        image = as_colour(picture_of(frame, *SIZE, is_gray=False))
        return cls(frame.stamp_ns, frame.camera, image, depth_m)
