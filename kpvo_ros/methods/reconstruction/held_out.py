"""How well a network matches real frames that it never saw, without knowing any pose.

Right matches of a rigid scene obey one epipolar geometry, whatever it is; so the matches judge
themselves, and method A alone can be compared with A and B. The same pairs in every run.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import poselib
import torch
from torch import Tensor

from kpvo_ros.methods.reconstruction.loss import rebuild_loss
from kpvo_ros.methods.reconstruction.network import (
    MatchingConfig,
    ReconstructionNet,
    grey,
    rebuild,
)
from kpvo_ros.nets.detection import detect, mutual_nearest, sample_descriptors
from kpvo_ros.synthetic.photo_set import PhotoSet
from kpvo_ros.synthetic.photometric import full, restyle

KEYPOINTS = 512
_BATCH = 8
_CELL_PX = 16
_EPIPOLAR_PX = 1.5
_MINIMAL = 8  # any seven pairs agree on some fundamental matrix
_CHANCE = 20  # fewer agree by chance among hundreds of wrong pairs
_COVER_PX = 32  # side of the cells that should have a good match


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutFrames:
    """Fixed pairs of frames; in every second pair image 1 has another light or weather.

    Attributes:
        image0, image1: (B, 3, H, W).
        place: (B,) int64 frame numbers.
    """

    image0: Tensor
    image1: Tensor
    place: Tensor


def make_held_out(
    photos: PhotoSet, count: int, size_px: int, max_gap: int, device: torch.device | str = 'cpu'
) -> HeldOutFrames:
    """Pairs of frames of recordings, always the same ones.

    Raises:
        SyntheticError: there is no recording in time.
    """
    generator = torch.Generator().manual_seed(1)
    pairs = photos.pairs(count, max_gap, generator)
    image0, image1 = photos.pair_crops(pairs, (size_px, size_px), generator)
    image1[1::2] = restyle(image1[1::2], generator, full())
    return HeldOutFrames(image0.to(device), image1.to(device), pairs[:, 0])


@torch.inference_mode()
def score_held_out(
    network: ReconstructionNet, pairs: HeldOutFrames, matching: MatchingConfig, near_frames: int
) -> dict[str, float]:
    """Metrics of a network; higher is better but for the last.

    Returns:
        `matching_score`: consistent matches as a share of the 512 keypoints asked for, so
            neither few sure matches nor many wrong ones are worth much;
        `restyled_score`: the same of the pairs that also differ in light or weather;
        `inlier_ratio`: share of the mutual matches that are consistent, mean over the pairs;
        `inliers`: their mean number;
        `coverage`: share of the cells of 32 px that hold a consistent match;
        `place`: share of the images whose partner has the most similar image descriptor among
            those that lie far away;
        `carried`: share by which the matches lower the loss of an image drawn by its style alone;
        `rebuild`: loss of the rebuilt images, in both directions.
    """
    counts, ratios, covers = [], [], []
    vectors0, vectors1, costs, guesses = [], [], [], []
    for start in range(0, len(pairs.place), _BATCH):
        part = slice(start, start + _BATCH)
        image0, image1 = pairs.image0[part], pairs.image1[part]
        maps0, maps1 = network(image0), network(image1)
        for one, two, image in ((maps0, maps1, image0), (maps1, maps0, image1)):
            drawn = rebuild(network.decoder, one, two, matching)
            nothing = torch.zeros_like(drawn.features)
            styled = network.decoder(nothing, one.image_descriptor)
            costs.append(float(rebuild_loss(drawn.picture, grey(image))) * len(image))
            guesses.append(float(rebuild_loss(styled, grey(image))) * len(image))
        vectors0.append(maps0.image_descriptor)
        vectors1.append(maps1.image_descriptor)
        sides = []
        for maps in (maps0, maps1):
            found = [xy for xy, _ in detect(maps.logits, KEYPOINTS, cell_px=_CELL_PX)]
            codes = [
                sample_descriptors(d[None], xy[None])[0]
                for d, xy in zip(maps.descriptor, found, strict=True)
            ]
            sides.append(list(zip(found, codes, strict=True)))
        for (xy0, code0), (xy1, code1) in zip(*sides, strict=True):
            index0, index1 = mutual_nearest(code0, code1)
            inlier = consistent(xy0[index0].cpu().numpy(), xy1[index1].cpu().numpy())
            counts.append(int(inlier.sum()))
            ratios.append(float(inlier.mean()) if len(inlier) else 0.0)
            covers.append(_coverage(xy0[index0].cpu().numpy()[inlier], image0.shape[-2:]))
    far = (pairs.place.unsqueeze(1) - pairs.place).abs() >= near_frames
    return {
        'matching_score': float(np.mean(counts)) / KEYPOINTS,
        'restyled_score': float(np.mean(counts[1::2] or counts)) / KEYPOINTS,
        'inlier_ratio': float(np.mean(ratios)),
        'inliers': float(np.mean(counts)),
        'coverage': float(np.mean(covers)),
        'place': _place_recall(torch.cat(vectors0), torch.cat(vectors1), far),
        'carried': 1.0 - sum(costs) / sum(guesses),
        'rebuild': sum(costs) / (2 * len(pairs.place)),
    }


def consistent(xy0: np.ndarray, xy1: np.ndarray) -> np.ndarray:
    """(N,) bool: which pairs of pixels (N, 2) agree on the best common epipolar geometry."""
    none = np.zeros(len(xy0), dtype=bool)
    if len(xy0) < _MINIMAL:
        return none
    options = {'max_epipolar_error': _EPIPOLAR_PX, 'seed': 0, 'max_iterations': 2000}
    _, info = poselib.estimate_fundamental(
        xy0.astype(np.float64), xy1.astype(np.float64), options, {}
    )
    inlier = np.asarray(info['inliers'], dtype=bool)
    return inlier if inlier.sum() >= _CHANCE else none


def _coverage(xy: np.ndarray, size_hw: torch.Size) -> float:
    rows, columns = (-(-side // _COVER_PX) for side in size_hw)
    cells = set(map(tuple, (xy // _COVER_PX).astype(int).tolist()))
    return len(cells) / (rows * columns)


def _place_recall(vector0: Tensor, vector1: Tensor, far: Tensor) -> float:
    similarity = vector0 @ vector1.T
    own = similarity.diagonal().clone()
    rivals = similarity.masked_fill(~far.to(similarity.device), -torch.inf)
    return float((own > rivals.amax(dim=1)).float().mean())
