"""kpvo bench features, part homography: held-back photos, seen by a second camera.

The middle of a photo is the first view. The second is what a camera sees that looks at the whole
photo from elsewhere, in other light. The map between them is known to a rounding error, so
localisation can be judged; real depth and occlusion are the business of the part pose.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from kpvo_ros.cli.bench import BenchOptions, Table
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_features_data import (
    HELD_OUT_SHARE,
    as_colour,
    evenly,
    held_out_photos,
    present,
    read_views,
)
from kpvo_ros.cli.bench_features_predictions import RATIO, Predictions, Predictor
from kpvo_ros.errors import CommandError
from kpvo_ros.evaluation.keypoints import (
    area_under_recall,
    bootstrap_sigma,
    corner_error_px,
    repeatability,
    share_within,
    transfer_errors_px,
)
from kpvo_ros.geometry.solve import estimate_homography

if TYPE_CHECKING:
    import torch

# Photos of each recording; the share at its end that may be looked at.
_RECORDINGS = {
    'strecha_fountain_p11': (4, 1.0),
    'strecha_herz_jesus_p8': (4, 1.0),
    'strecha_herz_jesus_p25': (6, 1.0),
    'lund_door': (4, 1.0),
    'fox_ngp': (8, 1.0),
    'hololens_000': (10, HELD_OUT_SHARE),
}
_PHOTOS = {'road_signs_cc0': 14}
_MIDDLE = 0.8  # of width and height, the first view
_REPEAT_PX, _INLIER_PX = 3.0, 2.0
_MATCH_PX, _CORNER_PX = (1, 3, 5), (3, 5, 10)
_COLUMNS = (
    Column('repeat. %', 'repeatability_percent', '.1f'),
    *(Column(f'< {px} px %', f'within_{px}px_percent', '.1f') for px in _MATCH_PX),
    *(Column(f'AUC@{px}px', f'auc{px}', '.1f') for px in _CORNER_PX),
    Column('s.e. @5', 'auc5_sigma', '.1f'),
    Column(f'@5, ratio {RATIO}', 'auc5_ratio', '.1f'),
    Column(f'< 1 px %, ratio {RATIO}', 'within_1px_percent_ratio', '.1f'),
    Column('matches', 'matches', '.0f'),
)


@dataclasses.dataclass(frozen=True, eq=False)
class HomographyPair:
    """Two views of one photo, (H, W, 3) uint8 of one size, and the map of their pixels."""

    image0: np.ndarray
    image1: np.ndarray
    H_0to1: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of both."""
        return self.image0.shape[1], self.image0.shape[0]


def measure_homography(
    options: BenchOptions, predictors: Sequence[Predictor]
) -> tuple[list[Table], dict[str, Any]]:
    """Repeatability, precision of matches, and of the homography they give.

    Raises:
        CommandError: there are no photos.
    """
    photos = _photos(options)
    if not photos:
        raise CommandError('homography: no recorded photos; name their folder with --data')
    pairs = make_pairs(photos, options.seed)
    images = [image for pair in pairs for image in (pair.image0, pair.image1)]
    indices = [(2 * i, 2 * i + 1) for i in range(len(pairs))]
    ways = {}
    for predictor in predictors:
        made = predictor.predict('homography', images, indices)
        ways[predictor.name] = score_pairs(pairs, made, options.seed)
    numbers = {
        'pairs': len(pairs),
        'homographies': [pair.H_0to1.tolist() for pair in pairs],
        'ways': ways,
    }
    title = f'known homographies and light, {len(pairs)} photos'
    return [number_table(title, 'way', _COLUMNS, ways)], numbers


def make_pairs(photos: Sequence[np.ndarray], seed: int) -> list[HomographyPair]:
    """One pair of each photo (H, W, 3) uint8; the same seed gives the same pairs."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return [_make_pair(photo, generator) for photo in photos]


def score_pairs(pairs: Sequence[HomographyPair], made: Predictions, seed: int) -> dict[str, Any]:
    """All figures of one way."""
    rows = [_score_pair(pair, made, index) for index, pair in enumerate(pairs)]
    corners = np.array([row['corner'] for row in rows])
    tested = np.array([row['corner_ratio'] for row in rows])
    repeated = [row['repeatability'] for row in rows if row['repeatability'] is not None]
    found = {
        'repeatability_percent': 100.0 * float(np.mean(repeated)) if repeated else 0.0,
        'matches': float(np.mean([len(matches) for matches in made.matches])),
        'corner_errors_px': [round(e, 3) if np.isfinite(e) else None for e in corners],
    }
    for px in _MATCH_PX:
        found[f'within_{px}px_percent'] = 100.0 * float(np.mean([row[px] for row in rows]))
    found['within_1px_percent_ratio'] = 100.0 * float(np.mean([row['1_ratio'] for row in rows]))
    for px in _CORNER_PX:
        found[f'auc{px}'] = 100.0 * area_under_recall(corners, px)
        found[f'auc{px}_ratio'] = 100.0 * area_under_recall(tested, px)
    points = 100.0 * np.clip(1.0 - corners / 5.0, 0.0, 1.0)
    found['auc5_sigma'] = bootstrap_sigma([points], np.random.default_rng(seed))
    return found


# ------------------------------------------------------------------------------------ private


def _score_pair(pair: HomographyPair, made: Predictions, index: int) -> dict[Any, Any]:
    first, second = made.pairs[index]
    xy0, xy1 = made.keypoints[first], made.keypoints[second]
    row: dict[Any, Any] = {
        'repeatability': repeatability(xy0, xy1, pair.H_0to1, pair.size, pair.size, _REPEAT_PX)
    }
    for ratio, end in ((1.0, ''), (RATIO, '_ratio')):
        matched0, matched1 = made.matched(index, ratio)
        errors_px = transfer_errors_px(matched0, matched1, pair.H_0to1)
        row |= {f'{px}{end}' if end else px: share_within(errors_px, px) for px in _MATCH_PX}
        found = estimate_homography(matched0, matched1, threshold_px=_INLIER_PX)
        H = None if found is None else found.H_1_0
        row[f'corner{end}'] = corner_error_px(H, pair.H_0to1, pair.size)
    return row


def _make_pair(photo: np.ndarray, generator: torch.Generator) -> HomographyPair:
    import torch

    from kpvo_ros.synthetic.homography import (
        HomographyLimits,
        random_homographies,
        warp_by_homography,
    )
    from kpvo_ros.synthetic.photometric import photometric_only, restyle

    # Written out, so that the bench stays the same when training draws otherwise.
    limits = HomographyLimits(50.0, 45.0, 0.08, 2.0, 0.35, (1.0, 2.5), 0.35)
    height, width = (round(_MIDDLE * side) for side in photo.shape[:2])
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    H_0to1 = random_homographies(1, (height, width), generator, limits).double()
    photo_to_0 = torch.eye(3, dtype=torch.float64)
    photo_to_0[:2, 2] = -torch.tensor([left, top], dtype=torch.float64)
    whole = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255.0
    to_1 = (H_0to1 @ photo_to_0).float()
    view, _ = warp_by_homography(whole, to_1, (height, width), padding='border')
    view = restyle(view.clamp(0.0, 1.0), generator, photometric_only())
    image1 = (255.0 * view[0].permute(1, 2, 0)).round().to(torch.uint8).numpy()
    image0 = np.ascontiguousarray(photo[top : top + height, left : left + width])
    return HomographyPair(image0, image1, H_0to1[0].numpy())


def _photos(options: BenchOptions) -> list[np.ndarray]:
    photos: list[np.ndarray] = []
    for name, folder in present(options.data_dir, _RECORDINGS).items():
        count, last_share = _RECORDINGS[name]
        images = read_views(folder, last_share).images
        photos += [as_colour(images[i]) for i in evenly(len(images), count)]
    for name, folder in present(options.data_dir, _PHOTOS).items():
        photos += held_out_photos(folder, _PHOTOS[name])
    return photos[::5] if options.quick else photos
