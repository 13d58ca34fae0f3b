"""Which stored images show the same place as a new one: ranking only, never a proof.

Two cues. Descriptors are hashed (locality sensitive hashing by sampled bits, Indyk and Motwani
1998; for float descriptors by sampled comparisons, Yagnik 2011, "The power of comparative
reasoning"): the share of an image's hashes that occur in the new one tells common points from
different ones at a few nanoseconds each, so a whole memory is ranked in a millisecond or two.
`appearance` describes the layout of the image in coarse oriented edges (after GIST, Oliva 2001):
weaker, but it still speaks when blur or light changed every keypoint.
"""

from __future__ import annotations

import cv2
import numpy as np

MAX_HASHED = 512  # descriptors of an image that are hashed; more are thinned out evenly
_TABLES = 8
_BITS = 18  # of a hash: chance agreement is rare, true pairs (a tenth of bits differs) agree often
_NOTHING = 1 << _BITS  # the hash of an empty place, never in a query
_THUMBNAIL = (64, 48)  # width, height of the image whose edges are binned
_CELLS = (8, 6)
_ORIENTATIONS = 8


class PlaceIndex:
    """Hashes of the descriptors of stored images, by slot.

    Args:
        capacity: number of slots.
        seed: of the choice of bits.
    """

    def __init__(self, capacity: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._hashes = np.full((_TABLES, capacity, MAX_HASHED), _NOTHING, np.uint32)
        self._counts = np.zeros(capacity, np.int64)
        self._sampled: np.ndarray | None = None  # which bits; known with the first descriptor

    def put(self, slot: int, descriptor: np.ndarray) -> None:
        """Store an image by its descriptors (N, D); what was in the slot is forgotten."""
        self.erase(slot)
        chosen = descriptor[:: max(1, -(-len(descriptor) // MAX_HASHED))]
        self._counts[slot] = len(chosen)
        self._hashes[:, slot, : len(chosen)] = self._hash(chosen)

    def erase(self, slot: int) -> None:
        """Empty a slot."""
        self._hashes[:, slot] = _NOTHING
        self._counts[slot] = 0

    def shares(self, descriptor: np.ndarray) -> np.ndarray:
        """(capacity,) share of each slot's hashes that occur among those of (N, D) descriptors.

        Zero for empty slots.
        """
        votes = np.zeros(len(self._counts))
        used = np.flatnonzero(self._counts)
        if not len(used) or not len(descriptor):
            return votes
        occurs = np.zeros(_NOTHING + 1, bool)
        for wanted, stored in zip(self._hash(descriptor), self._hashes, strict=True):
            occurs[wanted] = True
            votes[used] += np.count_nonzero(occurs[stored[used]], axis=1)
            occurs[wanted] = False
        votes[used] /= _TABLES * self._counts[used]
        return votes

    def _hash(self, descriptor: np.ndarray) -> np.ndarray:
        """(tables, N) uint32."""
        if self._sampled is None:
            width = descriptor.shape[1] * (8 if descriptor.dtype == np.uint8 else 1)
            shape = (2, _TABLES, _BITS)
            self._sampled = self._rng.integers(width, size=shape)
        first, second = self._sampled
        if descriptor.dtype == np.uint8:
            bits = np.unpackbits(descriptor, axis=1)[:, first].astype(np.float32)
        else:
            bits = (descriptor[:, first] > descriptor[:, second]).astype(np.float32)
        powers = (1 << np.arange(_BITS)).astype(np.float32)  # below 2^24: exact
        return (bits @ powers).T.astype(np.uint32)


def appearance(gray: np.ndarray) -> np.ndarray:
    """(G,) float32 unit vector of an (H, W) uint8 image; the product of two is their likeness.

    Strengths of edges by orientation in coarse cells: light and contrast cancel, small shifts
    stay within a cell. The zero vector for an image without edges, which is like nothing.
    """
    small = cv2.resize(gray, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
    gx, gy = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    strength, angle = cv2.cartToPolar(gx, gy)
    orientation = (angle * (_ORIENTATIONS / np.pi)).astype(np.int64) % _ORIENTATIONS
    # The root keeps one strong edge from speaking for the whole image.
    one_hot = (orientation[..., None] == np.arange(_ORIENTATIONS)) * np.sqrt(strength)[..., None]
    cells = cv2.resize(one_hot, _CELLS, interpolation=cv2.INTER_AREA).ravel()
    cells -= cells.mean()
    length = float(np.linalg.norm(cells))
    return (cells / length if length > 1e-6 else np.zeros_like(cells)).astype(np.float32)
