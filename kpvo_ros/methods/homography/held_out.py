"""How good a keypoint network is on photos that it never saw, in a few seconds.

The photos are looked at under strong known homographies and in other light, always the same ones,
so that two runs and two moments of a run can be compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor, nn

from kpvo_ros.geometry.solve import estimate_homography
from kpvo_ros.geometry.warp import apply_homography
from kpvo_ros.nets.detection import detect, sample_descriptors
from kpvo_ros.synthetic.homography import (
    HomographyLimits,
    map_points,
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
            pair = _score_pair(one, two, H, pairs.image0.shape[-2:])
            errors.append(pair.pop('corner_px'))
            for name, value in pair.items():
                sums[name] += value
    means = {name: value / len(errors) for name, value in sums.items()}
    recall = _place_recall(torch.cat(places[0]), torch.cat(places[1]))
    return {'corner_auc': _area(np.array(errors)), **means, 'place': recall}


def _score_pair(
    one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], H: Tensor, size_hw: torch.Size
) -> dict[str, float]:
    """Metrics of one pair of (xy (N, 2), descriptor (N, D))."""
    xy0, xy1 = one[0], two[0]
    nothing = {'match_1px': 0.0, 'match_3px': 0.0, 'repeatability': 0.0, 'corner_px': np.inf}
    if not len(xy0) or not len(xy1):
        return {**nothing, 'keypoints': float(len(xy0) + len(xy1)) / 2}
    similarity = one[1] @ two[1].T
    nearest, back = similarity.argmax(1), similarity.argmax(0)
    mutual = back[nearest] == torch.arange(len(xy0), device=xy0.device)
    there = map_points(H[None], xy0[None])[0]
    matched0, matched1 = xy0[mutual], xy1[nearest[mutual]]
    error = (there[mutual] - matched1).norm(dim=-1)
    rights = {f'match_{px:.0f}px': float((error <= px).float().mean()) for px in _MATCH_PX}
    height, width = size_hw
    common = ((there >= 0) & (there <= there.new_tensor([width - 1, height - 1]))).all(-1)
    again = torch.cdist(there[common], xy1).amin(1) <= _REPEAT_PX if common.any() else common[:1]
    return {
        **rights,
        'repeatability': float(again.float().mean()),
        'keypoints': float(len(xy0) + len(xy1)) / 2,
        'corner_px': _corner_error(matched0, matched1, H, size_hw),
    }


def _corner_error(xy0: Tensor, xy1: Tensor, H: Tensor, size_hw: torch.Size) -> float:
    """Mean distance in pixels of the picture's corners under the estimate and the truth."""
    result = estimate_homography(xy0.cpu().numpy(), xy1.cpu().numpy(), threshold_px=3.0)
    if result is None:
        return np.inf
    height, width = size_hw
    right, bottom = width - 1.0, height - 1.0
    corners = torch.tensor(
        [[[0.0, 0.0], [right, 0.0], [right, bottom], [0.0, bottom]]], dtype=torch.float64
    )
    estimate = torch.from_numpy(result.H_1_0)[None]
    found, ahead = apply_homography(estimate, corners)
    truth, _ = apply_homography(H[None].cpu().double(), corners)
    return float((found - truth).norm(dim=-1).mean()) if bool(ahead.all()) else np.inf


def _area(errors_px: np.ndarray) -> float:
    """Mean over the thresholds t of the area below t under the share of errors, over t."""
    gains = [np.clip(1.0 - errors_px / limit, 0.0, 1.0).mean() for limit in _THRESHOLDS_PX]
    return float(np.mean(gains))


def _place_recall(vector0: Tensor, vector1: Tensor) -> float:
    best = (vector0 @ vector1.T).argmax(1)
    return float((best == torch.arange(len(best), device=best.device)).float().mean())
