"""The keyframes the odometry remembers, and how it finds out where it is among them.

The window of the local map forgets after some metres; this memory keeps a bounded number of
keyframes with all they need to be recognised (`recall.StoredKeyframe`), spread over everything
that was seen. A recall ranks them by likeness and by closeness to where the camera is thought to
be, and holds the best few against the image; what one call has no time for, the next ones try. The
cost of a call does not depend on how long the robot has been driving.

Not thread-safe: one thread calls, or the callers take turns.
"""

from __future__ import annotations

from collections.abc import Collection
import dataclasses

import numpy as np

from kpvo_ros.config.runtime import MemoryConfig
from kpvo_ros.errors import OdometryError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.place import PlaceIndex, appearance
from kpvo_ros.odometry.recall import Recall, Standards, StoredKeyframe, verify
from kpvo_ros.types import Features

__all__ = ['KeyframeMemory', 'Recall', 'StoredKeyframe', 'appearance']

_LIKENESS = 0.5  # weight of the whole image's appearance beside that of its keypoints
_CLOSENESS = 1.0  # weight of the expected place
_FATIGUE = 0.9  # how much of a vain try is remembered at the next call
_FAR_SIGMAS = 3.0  # a place further from the guess than this needs twice the support


class KeyframeMemory:
    """A bounded set of keyframes that can be recognised.

    Args:
        config: capacity and what a recall must show.
        seed: of the hashing of descriptors.
    """

    def __init__(self, config: MemoryConfig, seed: int = 0) -> None:
        self._config = config
        self._standards = Standards(config.min_inliers, config.min_support)
        self._seed = seed
        self.forget()

    def __len__(self) -> int:
        return int(self._used.sum())

    @property
    def ids(self) -> list[int]:
        """Ids of the stored keyframes, oldest first."""
        return sorted(int(one) for one in self._ids[self._used])

    def forget(self) -> None:
        """Forget everything."""
        capacity = self._config.capacity
        self._keyframes: list[StoredKeyframe | None] = [None] * capacity
        self._used = np.zeros(capacity, bool)
        self._ids = np.full(capacity, -1, np.int64)
        self._stamps_ns = np.zeros(capacity, np.int64)
        self._T = np.tile(np.eye(4), (capacity, 1, 1))
        self._reach = np.ones(capacity)  # median depth of the points
        self._appearance: np.ndarray | None = None  # (capacity, G)
        self._distance = np.full((capacity, capacity), np.inf)  # between views
        self._places = PlaceIndex(capacity, self._seed)
        self.restart_search()

    def restart_search(self) -> None:
        """What could not be recognised lately may be tried again: the camera is elsewhere."""
        self._tries = np.zeros(self._config.capacity)
        self._visited = np.zeros(self._config.capacity, bool)

    def add(self, keyframe: StoredKeyframe) -> int | None:
        """Store a keyframe.

        A full memory first drops the keyframe whose neighbours, or the new one, cover it best.

        Returns:
            The id of the dropped keyframe, None when there was room.

        Raises:
            OdometryError: the id is not larger than all stored ones.
        """
        if len(self) and keyframe.id <= int(self._ids[self._used].max()):
            raise OdometryError(f'keyframe {keyframe.id} is stored or old: ids must increase')
        dropped = None
        if self._used.all():
            slot = self._redundant(keyframe)
            dropped = int(self._ids[slot])
        else:
            slot = int(np.flatnonzero(~self._used)[0])
        self._put(slot, keyframe)
        return dropped

    def move(self, T_new_old: np.ndarray) -> None:
        """Re-express the memory in another odom frame: poses become T_new_old @ pose."""
        self._T = T_new_old @ self._T

    def recall(
        self,
        features: Features,
        appearance: np.ndarray,
        camera: Camera,
        *,
        T_guess: np.ndarray | None = None,
        sigma_m: float = np.inf,
        exclude_ids: Collection[int] = (),
        not_newer_than_ns: int | None = None,
        budget: int | None = None,
        fresh: bool = False,
    ) -> Recall | None:
        """Look for a stored keyframe that sees what the camera sees.

        Args:
            features: keypoints of the image.
            appearance: (G,) of the image.
            camera: its intrinsics.
            T_guess: (4, 4) where the camera is thought to be, None without an idea.
            sigma_m: standard deviation of that place; infinite for a camera that was carried off.
            exclude_ids: keyframes not to consider.
            not_newer_than_ns: only keyframes up to this stamp, None for all.
            budget: how many to hold against the image; None takes `memory.budget`.
            fresh: True when earlier failures say nothing about this image; then the best ranked
                are tried and nothing is remembered. By default calls in a row try the best ones
                less and less and go through all the others in turn.

        Returns:
            Pose and pairs, or None.
        """
        allowed = self._allowed(exclude_ids, not_newer_than_ns)
        if not len(allowed) or not len(features):
            return None
        score = self._score(allowed, features, appearance, T_guess, sigma_m)
        budget = self._config.budget if budget is None else budget
        if fresh:
            chosen = allowed[np.argsort(-score, kind='stable')][:budget]
        else:
            chosen = self._take_turns(allowed, score, budget)
        # Not the first that fits: a corridor fits in more than one place, one of them best.
        tried = [self._try(int(slot), features, camera, T_guess, sigma_m) for slot in chosen]
        found = max((one for one in tried if one), key=lambda one: one.support, default=None)
        if found is not None and not fresh:
            self.restart_search()
        return found

    def _try(
        self,
        slot: int,
        features: Features,
        camera: Camera,
        T_guess: np.ndarray | None,
        sigma_m: float,
    ) -> Recall | None:
        keyframe = self._get(slot)
        found = verify(keyframe, features, camera, self._standards, self._seed)
        if found is None or T_guess is None:
            return found
        off_m = float(np.linalg.norm(found.T_odom_camera[:3, 3] - T_guess[:3, 3]))
        is_far = off_m > _FAR_SIGMAS * sigma_m + self._reach[slot]
        return None if is_far and found.inliers < 2 * self._standards.min_inliers else found

    def _get(self, slot: int) -> StoredKeyframe:
        keyframe = self._keyframes[slot]
        assert keyframe is not None, f'slot {slot} is empty'
        return dataclasses.replace(
            keyframe, T_odom_camera=self._T[slot], descriptor=_widened(keyframe.descriptor)
        )

    def _allowed(self, exclude_ids: Collection[int], not_newer_than_ns: int | None) -> np.ndarray:
        """Slots that may be recalled."""
        allowed = self._used.copy()
        if len(exclude_ids):
            allowed &= ~np.isin(self._ids, list(exclude_ids))
        if not_newer_than_ns is not None:
            allowed &= self._stamps_ns <= not_newer_than_ns
        return np.flatnonzero(allowed)

    def _score(
        self,
        slots: np.ndarray,
        features: Features,
        appearance: np.ndarray,
        T_guess: np.ndarray | None,
        sigma_m: float,
    ) -> np.ndarray:
        """(K,) how promising each slot is; differences count."""
        shares = self._places.shares(features.descriptor)[slots]
        score = shares / max(float(shares.max()), 1e-9)
        if self._appearance is not None and self._appearance.shape[1] == len(appearance):
            score = score + _LIKENESS * (self._appearance[slots] @ appearance)
        if T_guess is not None and np.isfinite(sigma_m):
            off_m = np.linalg.norm(self._T[slots, :3, 3] - T_guess[:3, 3], axis=1)
            spread = sigma_m**2 + self._reach[slots] ** 2
            score = score + _CLOSENESS * np.exp(-0.5 * off_m**2 / spread)
        return np.asarray(score, np.float64)

    def _take_turns(self, slots: np.ndarray, score: np.ndarray, budget: int) -> np.ndarray:
        """The best slots, rested ones first, and one that no recent call has tried."""
        order = slots[np.argsort(self._tries[slots] - score, kind='stable')]
        chosen = order[: max(0, budget - 1)]
        self._visited[chosen] = True
        rest = order[~self._visited[order]]
        if not len(rest):
            self._visited[:] = False
            rest = order[len(chosen) :]
        chosen = np.concatenate([chosen, rest[:1]])
        self._visited[chosen] = True
        self._tries *= _FATIGUE
        self._tries[chosen] += 1.0
        return chosen

    def _put(self, slot: int, keyframe: StoredKeyframe) -> None:
        self._keyframes[slot] = dataclasses.replace(
            keyframe, descriptor=_narrowed(keyframe.descriptor)
        )
        self._used[slot], self._ids[slot] = True, keyframe.id
        self._stamps_ns[slot], self._T[slot] = keyframe.stamp_ns, keyframe.T_odom_camera
        self._reach[slot] = _reach(keyframe)
        if self._appearance is None:
            self._appearance = np.zeros((len(self._used), len(keyframe.appearance)), np.float32)
        self._appearance[slot] = keyframe.appearance
        self._places.put(slot, keyframe.descriptor[keyframe.has_depth])
        self._tries[slot], self._visited[slot] = 0.0, False
        distance = self._distances_to(keyframe)
        distance[slot] = np.inf
        self._distance[slot], self._distance[:, slot] = distance, distance

    def _redundant(self, newest: StoredKeyframe) -> int:
        """Slot of the keyframe that leaves the smallest gap among the others and the newest.

        The gap is the way from its nearest neighbour over it to its second nearest. The nearest
        alone would not do: on a straight way every keyframe is nearest to the next one, and the
        memory would forget each as soon as the next one comes.
        """
        distance = np.column_stack([self._distance, self._distances_to(newest)])
        gap = np.partition(distance, 1, axis=1)[:, :2].sum(axis=1)
        return int(np.lexsort((self._ids, gap))[0])

    def _distances_to(self, keyframe: StoredKeyframe) -> np.ndarray:
        """(capacity,) how much views differ: shift in median depths plus turn in radians."""
        T = keyframe.T_odom_camera
        shift = np.linalg.norm(self._T[:, :3, 3] - T[:3, 3], axis=1) / _reach(keyframe)
        cosine = 0.5 * (np.einsum('nij,ij->n', self._T[:, :3, :3], T[:3, :3]) - 1.0)
        distance = shift + np.arccos(np.clip(cosine, -1.0, 1.0))
        return np.where(self._used, distance, np.inf)


def _widened(descriptor: np.ndarray) -> np.ndarray:
    return descriptor if descriptor.dtype == np.uint8 else descriptor.astype(np.float32)


def _narrowed(descriptor: np.ndarray) -> np.ndarray:
    """Half the memory; three digits are enough to compare by."""
    return descriptor if descriptor.dtype == np.uint8 else descriptor.astype(np.float16)


def _reach(keyframe: StoredKeyframe) -> float:
    """Median depth of the points; 1 without any."""
    rho = keyframe.rho[keyframe.has_depth]
    return float(1.0 / np.median(rho)) if len(rho) else 1.0
