"""Pairing two streams by stamp."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def nearest_pairs(
    stamps_ns: Sequence[int], others_ns: Sequence[int], tolerance_ns: int
) -> dict[int, int]:
    """Pair each stamp with the nearest of the others, each of which is used at most once.

    Closer pairs are made first, so that an image never loses its depth map to a worse match.

    Args:
        stamps_ns: N stamps in any order.
        others_ns: M stamps in any order.
        tolerance_ns: largest difference of a pair.

    Returns:
        index into `stamps_ns` -> index into `others_ns`, for those that have a partner.
    """
    if not len(stamps_ns) or not len(others_ns):
        return {}
    order = np.argsort(others_ns, kind='stable')
    ordered = np.asarray(others_ns, dtype=np.int64)[order]
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    lows = np.searchsorted(ordered, stamps - tolerance_ns, side='left')
    highs = np.searchsorted(ordered, stamps + tolerance_ns, side='right')
    candidates = [
        (abs(int(ordered[j] - stamp)), i, int(order[j]))
        for i, (stamp, low, high) in enumerate(zip(stamps, lows, highs, strict=True))
        for j in range(low, high)
    ]
    pairs: dict[int, int] = {}
    used: set[int] = set()
    for _, i, j in sorted(candidates):
        if i not in pairs and j not in used:
            pairs[i] = j
            used.add(j)
    return pairs
