"""Matching of descriptors: mutual nearest neighbours with a ratio test.

Binary descriptors (uint8) are compared by Hamming distance, float ones by Euclidean distance of
unit vectors. No match is a normal answer: an empty `Matches`.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import cKDTree

from kpvo_ros.types import Matches

_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
_FARTHEST_BINARY, _FARTHEST_FLOAT = 64.0, 0.8  # distances at which things look different
_NONE = Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


def match(descriptor0: np.ndarray, descriptor1: np.ndarray, ratio: float = 1.0) -> Matches:
    """Mutual nearest neighbours whose second-best is clearly worse.

    Args:
        descriptor0: (N, D) uint8 or float32.
        descriptor1: (M, D) of the same type.
        ratio: best distance must be below `ratio` times the second-best; 1.0 switches this off.

    Returns:
        Matches with score 1 - best/second (distinctiveness, 0..1).
    """
    if len(descriptor0) < 2 or len(descriptor1) < 2:
        return _NONE
    binary = descriptor0.dtype == np.uint8
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING if binary else cv2.NORM_L2)
    pairs = matcher.knnMatch(descriptor0, descriptor1, k=2)
    best1 = np.array([p[0].trainIdx for p in pairs])
    distance = np.array([(p[0].distance, p[1].distance) for p in pairs])
    closeness = distance[:, 0] / np.maximum(distance[:, 1], 1e-9)
    index0 = np.flatnonzero(closeness <= ratio)
    index1 = best1[index0]
    mutual = _nearest(matcher, descriptor1, descriptor0, index1) == index0
    index0, index1 = index0[mutual], index1[mutual]
    return Matches(index0, index1, (1.0 - closeness[index0]).astype(np.float32))


def match_near(
    descriptor0: np.ndarray,
    xy0: np.ndarray,
    descriptor1: np.ndarray,
    xy1: np.ndarray,
    radius_px: float,
    ratio: float = 1.0,
) -> Matches:
    """As `match`, but only pairs closer than `radius_px` in the image are compared.

    Args:
        descriptor0: (N, D).
        xy0: (N, 2) where the first are expected in the second image, pixels; NaN for nowhere.
        descriptor1: (M, D).
        xy1: (M, 2) pixels.
        radius_px: search radius.
        ratio: see `match`.
    """
    index0, index1 = _pairs_within(xy0, xy1, radius_px)
    if not len(index0):
        return _NONE
    distance = pair_distances(descriptor0[index0], descriptor1[index1])
    forward = np.lexsort((distance, index0))  # neighbours of one point together, best first
    index0, index1, distance = index0[forward], index1[forward], distance[forward]
    first = _starts_of_groups(index0)
    second = np.append(
        np.where(first[1:], np.inf, distance[1:]), np.inf
    )  # a lone one has no rival
    closeness = np.where(np.isfinite(second), distance, 0.0) / np.maximum(second, 1e-9)
    limit = _FARTHEST_BINARY if descriptor0.dtype == np.uint8 else _FARTHEST_FLOAT
    good = first & _is_best_of_group(index1, distance) & (closeness <= ratio) & (distance <= limit)
    return Matches(index0[good], index1[good], (1.0 - closeness[good]).astype(np.float32))


def pair_distances(descriptor0: np.ndarray, descriptor1: np.ndarray) -> np.ndarray:
    """(N,) float32 distances of N pairs: Hamming for uint8, Euclidean for float32 unit vectors."""
    if descriptor0.dtype == np.uint8:
        return _BITS_SET[descriptor0 ^ descriptor1].sum(axis=1, dtype=np.int32).astype(np.float32)
    return np.linalg.norm(descriptor0 - descriptor1, axis=1).astype(np.float32)


def _nearest(
    matcher: cv2.BFMatcher, query: np.ndarray, train: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """(K,) rows of `train` nearest to the `wanted` (K,) rows of `query`, each looked at once."""
    rows, place = np.unique(wanted, return_inverse=True)
    found = matcher.match(query[rows], train) if len(rows) else ()
    return np.array([pair.trainIdx for pair in found], np.int64)[place]


def _pairs_within(
    xy0: np.ndarray, xy1: np.ndarray, radius_px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of all pairs not farther apart than the radius."""
    known = np.flatnonzero(np.isfinite(xy0).all(axis=1))
    if not len(known) or not len(xy1):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    near = cKDTree(xy0[known]).sparse_distance_matrix(
        cKDTree(xy1), radius_px, output_type='ndarray'
    )
    return known[near['i']], near['j'].astype(np.int64)


def _starts_of_groups(sorted_index: np.ndarray) -> np.ndarray:
    """(N,) bool whether each entry is the first with its value."""
    return np.append(True, sorted_index[1:] != sorted_index[:-1])


def _is_best_of_group(index: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """(N,) bool whether each entry has the smallest distance of those with its index."""
    order = np.lexsort((distance, index))
    best = np.zeros(len(index), bool)
    best[order] = _starts_of_groups(index[order])
    return best
