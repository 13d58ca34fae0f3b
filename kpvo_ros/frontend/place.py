"""Which stored images look like a new one: an index of image descriptors.

A few thousand vectors are compared in less than a millisecond, so nothing is approximated. When
the index is full, the image that is most like another one makes room: what remains is spread over
all that was seen, however long the robot stood in one place.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.errors import FrontendError

_MAX_LENGTH_ERROR = 1e-2  # of a unit vector


class PlaceIndex:
    """Unit vectors by key, at most `capacity` of them.

    Args:
        capacity: vectors that are kept.
        size: elements of a vector.
    """

    def __init__(self, capacity: int, size: int = 256) -> None:
        if capacity < 1 or size < 1:
            raise FrontendError(f'capacity {capacity} and size {size} must be at least 1')
        self._capacity = capacity
        # One place more than are kept: a new vector competes with the old ones.
        self._vectors = np.zeros((capacity + 1, size), np.float32)
        self._keys: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: int) -> bool:
        return key in self._keys

    @property
    def keys(self) -> tuple[int, ...]:
        """Stored keys, oldest first."""
        return tuple(self._keys)

    def add(self, key: int, vector: np.ndarray) -> int | None:
        """Store an image; a known key gets a new vector and becomes the newest.

        Args:
            key: the caller's name for the image.
            vector: (G,) unit length.

        Returns:
            the key that made room, None when there was enough. It is never the new one.

        Raises:
            FrontendError: not a unit vector of that size.
        """
        vector = self._checked(vector)
        if key in self:
            self.remove(key)
        self._vectors[len(self._keys)] = vector
        self._keys.append(key)
        if len(self._keys) <= self._capacity:
            return None
        redundant = self._keys[self._most_redundant()]
        self.remove(redundant)
        return redundant

    def remove(self, key: int) -> None:
        """Forget an image.

        Raises:
            FrontendError: it is not stored.
        """
        if key not in self:
            raise FrontendError(
                f'image {key} is not in the place index; it was evicted or never in'
            )
        slot = self._keys.index(key)
        self._keys.pop(slot)
        used = len(self._keys)
        self._vectors[slot:used] = self._vectors[slot + 1 : used + 1].copy()

    def query(self, vector: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The stored images that look most alike.

        Args:
            vector: (G,) unit length.
            count: at most so many.

        Returns:
            keys (M,) int64 and cosine similarities (M,) float32 in -1..1, best first; of equally
            similar ones the older first.

        Raises:
            FrontendError: not a unit vector of that size.
        """
        similarity = self._vectors[: len(self._keys)] @ self._checked(vector)
        best = np.argsort(-similarity, kind='stable')[: max(count, 0)]
        keys = np.array(self._keys, np.int64)[best]
        return keys, similarity[best].clip(-1.0, 1.0)

    def _most_redundant(self) -> int:
        """Slot of the stored vector, not the newest, that another one replaces best.

        Of the two vectors most alike, the one whose next neighbour is nearer says less.
        """
        vectors = self._vectors[: len(self._keys)]
        likeness = vectors @ vectors.T
        np.fill_diagonal(likeness, -np.inf)
        nearest = np.partition(likeness, -2, axis=1)[:, :-3:-1]  # (N, 2)
        # By the nearest neighbour, then by the next one; the last vector is the new one.
        return int(np.lexsort(-nearest[:-1].T[::-1])[0])

    def _checked(self, vector: np.ndarray) -> np.ndarray:
        vector = np.asarray(vector, np.float32)
        size = self._vectors.shape[1]
        length = float(np.linalg.norm(vector))
        if vector.shape != (size,) or not abs(length - 1.0) < _MAX_LENGTH_ERROR:
            raise FrontendError(
                f'an image descriptor is ({size},) of length 1, got {vector.shape} of length '
                f'{length:.3g}'
            )
        return vector
