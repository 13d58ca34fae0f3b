"""Matching of descriptors: mutual nearest neighbours with a ratio test.

Binary descriptors (uint8) are compared by Hamming distance, float ones by Euclidean distance of
unit vectors. No match is a normal answer: an empty `Matches`.
"""

from __future__ import annotations

import cv2
import numpy as np

from kpvo_ros.types import Matches

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
    back = np.array([p.trainIdx for p in matcher.match(descriptor1, descriptor0)])
    index0 = np.arange(len(descriptor0))
    closeness = distance[:, 0] / np.maximum(distance[:, 1], 1e-9)
    good = (back[best1] == index0) & (closeness <= ratio)
    return Matches(index0[good], best1[good], (1.0 - closeness[good]).astype(np.float32))


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
        xy0: (N, 2) where the first are expected in the second image, pixels.
        descriptor1: (M, D).
        xy1: (M, 2) pixels.
        radius_px: search radius.
        ratio: see `match`.
    """
    if len(descriptor0) < 1 or len(descriptor1) < 2:
        return _NONE
    distance = descriptor_distances(descriptor0, descriptor1)
    offset = xy0[:, None, :] - xy1[None, :, :]
    distance[np.einsum('nmk,nmk->nm', offset, offset) > radius_px**2] = np.inf
    index0 = np.arange(len(descriptor0))
    best1 = distance.argmin(1)
    best = distance[index0, best1]
    mutual = distance.argmin(0)[best1] == index0
    second = np.partition(distance, 1, axis=1)[:, 1]
    closeness = np.where(np.isfinite(second), best, 0.0) / np.maximum(second, 1e-9)
    limit = 64.0 if descriptor0.dtype == np.uint8 else 0.8
    good = mutual & np.isfinite(best) & (closeness <= ratio) & (best <= limit)
    return Matches(index0[good], best1[good], (1.0 - closeness[good]).astype(np.float32))


def descriptor_distances(descriptor0: np.ndarray, descriptor1: np.ndarray) -> np.ndarray:
    """(N, M) float32 distances: Hamming for uint8, Euclidean for float32 unit vectors."""
    if descriptor0.dtype == np.uint8:
        # Hamming distance as a product of +-1 vectors: BLAS beats a loop over pairs.
        bits0 = np.unpackbits(descriptor0, axis=1).astype(np.float32) * 2 - 1
        bits1 = np.unpackbits(descriptor1, axis=1).astype(np.float32) * 2 - 1
        return (bits0.shape[1] - bits0 @ bits1.T) / 2
    return np.sqrt(np.maximum(2.0 - 2.0 * descriptor0 @ descriptor1.T, 0.0))
