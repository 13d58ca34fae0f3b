"""How good a keypoint network is on photos that it never saw, in a few seconds.

The photos are looked at under strong known homographies and in other light, always the same ones,
so that two runs and two moments of a run can be compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from kpvo_ros.evaluation.keypoints import (
    area_under_recall,
    corner_error_px,
    recall_at_1,
    repeatability,
    share_within,
    transfer_errors_px,
)
from kpvo_ros.geometry.solve import estimate_homography
from kpvo_ros.nets.detection import detect, mutual_nearest, sample_descriptors
from kpvo_ros.synthetic.homography import (
    HomographyLimits,
    random_homographies,
    warp_by_homography,
)
from kpvo_ros.synthetic.photometric import full, photometric_only, restyle

KEYPOINTS = 512
_BATCH = 8
_CELL_PX = 16
_THRESHOLDS_PX = (3.0, 5.0, 10.0)  # of the corner error
_MATCH_PX = (1.0, 3.0)
_REPEAT_PX = 3.0


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """Fixed pairs.

    Attributes:
        image0, image1: (B, 3, H, W); every second pair also differs in weather or time of day.
        H_0to1: (B, 3, 3).
    """

    image0: Tensor
    image1: Tensor
    H_0to1: Tensor


def make_held_out(photos: Tensor, generator: torch.Generator) -> HeldOut:
    """Pairs of photos (B, 3, H, W) and what a strong homography and other light make of them."""
    limits = HomographyLimits()
    height, width = photos.shape[-2:]
    H = random_homographies(len(photos), (height, width), generator, limits, photos.device)
    warped, _ = warp_by_homography(photos, H)
    images = []
    for image in (photos, warped):
        light = restyle(image[0::2], generator, photometric_only())
        weather = restyle(image[1::2], generator, full())
        styled = torch.empty_like(image)
        styled[0::2], styled[1::2] = light, weather
        images.append(styled)
    return HeldOut(images[0], images[1], H)


@torch.inference_mode()
def score_held_out(network: nn.Module, pairs: HeldOut) -> dict[str, float]:
    """Metrics of a network; all shares 0..1, higher is better.

    Returns:
        `corner_auc`: mean area under the recall curve of the corner error up to 3, 5 and 10 px;
        `match_1px`, `match_3px`: share of the mutual nearest neighbours that are right;
        `repeatability`: share of keypoints in the common part found again within 3 px;
        `place`: share of images whose partner has the most similar image descriptor;
        `keypoints`: mean number, of at most 512.
    """
    height, width = pairs.image0.shape[-2:]
    errors, places = [], ([], [])  # type: tuple[list[float], tuple[list[Tensor], list[Tensor]]]
    sums = dict.fromkeys(('match_1px', 'match_3px', 'repeatability', 'keypoints'), 0.0)
    for start in range(0, len(pairs.H_0to1), _BATCH):
        part = slice(start, start + _BATCH)
        sides = []
        for images, vectors in zip((pairs.image0[part], pairs.image1[part]), places, strict=True):
            maps = network(images)
            found = detect(maps.logits.float(), KEYPOINTS, cell_px=_CELL_PX)
            vectors.append(maps.image_descriptor.float())
            sides.append(
                [
                    (xy, sample_descriptors(descriptor[None].float(), xy[None])[0])
                    for (xy, _), descriptor in zip(found, maps.descriptor, strict=True)
                ]
            )
        for one, two, H in zip(*sides, pairs.H_0to1[part], strict=True):
            pair = _score_pair(one, two, H, (width, height))
            errors.append(pair.pop('corner_px'))
            for name, value in pair.items():
                sums[name] += value
    means = {name: value / len(errors) for name, value in sums.items()}
    areas = [area_under_recall(errors, limit) for limit in _THRESHOLDS_PX]
    vectors0, vectors1 = (torch.cat(vectors).cpu() for vectors in places)
    own = np.eye(len(vectors0), dtype=bool)
    recall = recall_at_1((vectors0 @ vectors1.T).numpy(), own, np.ones_like(own))
    return {'corner_auc': float(np.mean(areas)), **means, 'place': recall}


def _score_pair(
    one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], H: Tensor, size: tuple[int, int]
) -> dict[str, float]:
    """Metrics of a pair of (xy (N, 2), descriptor (N, D)); images are `size` = (width, height)."""
    index0, index1 = mutual_nearest(one[1], two[1])
    xy0, xy1, H_0to1 = (x.cpu().double().numpy() for x in (one[0], two[0], H))
    matched0, matched1 = xy0[index0.cpu().numpy()], xy1[index1.cpu().numpy()]
    errors = transfer_errors_px(matched0, matched1, H_0to1)
    result = estimate_homography(matched0, matched1, threshold_px=3.0)
    estimate = None if result is None else result.H_1_0
    return {
        **{f'match_{px:.0f}px': share_within(errors, px) for px in _MATCH_PX},
        'repeatability': repeatability(xy0, xy1, H_0to1, size, size, _REPEAT_PX) or 0.0,
        'keypoints': float(len(xy0) + len(xy1)) / 2,
        'corner_px': corner_error_px(estimate, H_0to1, size),
    }
