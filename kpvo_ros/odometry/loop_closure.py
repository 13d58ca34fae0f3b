"""Come back to a known place, and take the drift since then out of the map.

Every keyframe is remembered, added to a pose graph and held against those seen long before. One
recall proves little, so a loop is believed when the next keyframes recall places that imply the
same correction; then the graph spreads it over the path and T_map_odom steps. The odom frame
itself never moves.

Called from one thread, once a keyframe.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.config.runtime import LoopClosureConfig
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.memory import KeyframeMemory
from kpvo_ros.odometry.pose_graph import PoseGraph
from kpvo_ros.odometry.recall import Recall, StoredKeyframe
from kpvo_ros.types import Features

_SKIPPED = 5  # newest keyframes that are never a return, however slow the robot is
_PATIENCE = 3  # keyframes within which a second recall must confirm the first
_AGREEMENT = 22.5  # squared Mahalanobis distance of two corrections: 99.9 % of 6 numbers
_SIGMAS = 3.0  # of the odometry's own uncertainty that a loop may correct beyond max_drift
# What a step between keyframes is at least uncertain by: 2 mm and 0.05 degrees, and 0.5 % of it.
_LEAST = np.array([0.002] * 3 + [np.deg2rad(0.05)] * 3) ** 2
_LEAST_SHARE = 0.005


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A recall that nobody has confirmed yet.

    Attributes:
        keyframe: the one that recalled.
        recall: what it recalled.
        T_map_odom: (4, 4) correction it implies.
        count: how many keyframes had come until then.
    """

    keyframe: StoredKeyframe
    recall: Recall
    T_map_odom: np.ndarray
    count: int


class LoopCloser:
    """Finds returns and keeps the correction between map and odom.

    Args:
        config: see there.
        memory: where keyframes are stored; the closer adds to it, others may recall from it.
    """

    def __init__(self, config: LoopClosureConfig, memory: KeyframeMemory) -> None:
        self._config = config
        self._memory = memory
        self.forget()

    @property
    def T_map_odom(self) -> np.ndarray:
        """(4, 4) the present correction; the identity until the first loop."""
        return self._graph.correction()

    @property
    def loops(self) -> int:
        """Number of loops in the graph."""
        return self._graph.loops

    def forget(self) -> None:
        """Forget path and memory: a new map in another unit begins."""
        self._memory.forget()
        self._graph = PoseGraph()
        self._previous: StoredKeyframe | None = None
        self._recent: list[int] = []
        self._path_m = 0.0
        self._driven_m: dict[int, float] = {}  # path until each keyframe of the graph
        self._covariance: dict[int, np.ndarray] = {}
        self._candidate: _Candidate | None = None
        self._count = 0

    def offer(
        self, keyframe: StoredKeyframe, features: Features, camera: Camera
    ) -> np.ndarray | None:
        """Take the newest keyframe.

        Args:
            keyframe: it, with its pose and covariance in the odom frame.
            features: keypoints of its image, also those without depth.
            camera: intrinsics of its image.

        Returns:
            (4, 4) the new T_map_odom when a loop was closed, else None.
        """
        recall = self._look_back(keyframe, features, camera)
        self._extend(keyframe)
        correction = None if recall is None else self._consider(keyframe, recall)
        self._remember(keyframe)  # last: it may push out the very keyframe that was recalled
        return correction

    def _look_back(
        self, keyframe: StoredKeyframe, features: Features, camera: Camera
    ) -> Recall | None:
        """A keyframe seen long ago that shows the same place."""
        return self._memory.recall(
            features,
            keyframe.appearance,
            camera,
            exclude_ids=self._recent,
            not_newer_than_ns=keyframe.stamp_ns - round(self._config.min_gap_s * 1e9),
            fresh=True,
        )

    def _extend(self, keyframe: StoredKeyframe) -> None:
        """Append a keyframe to the graph."""
        self._count += 1
        step = np.eye(6)
        if self._previous is not None:
            T_step = se3.inverse(self._previous.T_odom_camera) @ keyframe.T_odom_camera
            self._path_m += float(np.linalg.norm(T_step[:3, 3]))
            step = _step_covariance(self._previous.covariance, keyframe.covariance, T_step)
        self._graph.add_keyframe(keyframe.id, keyframe.T_odom_camera, step)
        self._driven_m[keyframe.id] = self._path_m
        self._covariance[keyframe.id] = keyframe.covariance
        self._recent = [*self._recent, keyframe.id][-_SKIPPED:]
        self._previous = keyframe

    def _remember(self, keyframe: StoredKeyframe) -> None:
        """Store a keyframe, and drop from the graph what the memory has no room for."""
        dropped = self._memory.add(keyframe)
        if dropped is not None and dropped in self._graph:
            self._graph.drop(dropped)
            del self._driven_m[dropped], self._covariance[dropped]

    def _consider(self, keyframe: StoredKeyframe, recall: Recall) -> np.ndarray | None:
        """Close the loop when an earlier recall says the same, else keep this one for later."""
        if recall.keyframe_id not in self._graph or not self._is_plausible(keyframe, recall):
            return None
        T_map_camera = self._graph.pose(recall.keyframe_id) @ recall.T_keyframe_camera
        T_map_odom = T_map_camera @ se3.inverse(keyframe.T_odom_camera)
        before = self._candidate
        self._candidate = _Candidate(keyframe, recall, T_map_odom, self._count)
        if before is None or not self._agree(before, self._candidate):
            return None
        for candidate in (before, self._candidate):
            self._close(candidate)
        self._graph.optimise()
        # The graph has moved: what this recall implies is what the graph now says.
        self._candidate = dataclasses.replace(self._candidate, T_map_odom=self.T_map_odom)
        return self.T_map_odom

    def _close(self, candidate: _Candidate) -> None:
        """Add a loop, unless one of its ends was dropped while it waited."""
        recall, new = candidate.recall, candidate.keyframe.id
        if recall.keyframe_id in self._graph and new in self._graph:
            self._graph.add_loop(
                recall.keyframe_id, new, recall.T_keyframe_camera, recall.relative_covariance
            )

    def _is_plausible(self, keyframe: StoredKeyframe, recall: Recall) -> bool:
        """Whether the path since can have drifted as far as the recall implies."""
        old = recall.keyframe_id
        T_map_camera = self._graph.pose(old) @ recall.T_keyframe_camera
        off_m = np.linalg.norm(T_map_camera[:3, 3] - self._graph.pose(keyframe.id)[:3, 3])
        driven_m = self._path_m - self._driven_m[old]
        grown = np.trace((keyframe.covariance - self._covariance[old])[:3, :3])
        allowed_m = self._config.max_drift * driven_m + _SIGMAS * np.sqrt(max(0.0, float(grown)))
        return bool(off_m <= allowed_m + float(np.median(recall.depth)) * _LEAST_SHARE)

    def _agree(self, first: _Candidate, second: _Candidate) -> bool:
        """Whether two recalls in short order imply the same correction, as far as they know."""
        if second.count - first.count > _PATIENCE:
            return False
        T_odom_camera = second.keyframe.T_odom_camera
        T_between = se3.inverse(first.keyframe.T_odom_camera) @ T_odom_camera
        T_first = first.T_map_odom @ T_odom_camera
        off = se3.log_se3(se3.inverse(T_first) @ second.T_map_odom @ T_odom_camera)
        covariance = se3.compose_covariance(
            first.recall.relative_covariance, second.recall.relative_covariance, T_between
        )
        covariance = covariance + _step_covariance(
            first.keyframe.covariance, second.keyframe.covariance, T_between
        )
        return bool(off @ np.linalg.solve(covariance, off) < _AGREEMENT)


def _step_covariance(first: np.ndarray, second: np.ndarray, T_step: np.ndarray) -> np.ndarray:
    """(6, 6) local covariance of a step, from those of its ends since the start.

    What the end knows worse than the start is the step's; rounding and adjustments in between may
    leave nothing of it, so there is a least amount.
    """
    grown = second - se3.transport_covariance(first, se3.inverse(T_step))
    values, vectors = np.linalg.eigh(0.5 * (grown + grown.T))
    return (vectors * np.maximum(values, 0.0)) @ vectors.T + _least_step(T_step)


def _least_step(T_step: np.ndarray) -> np.ndarray:
    """(6, 6) what a step is at least uncertain by."""
    length, turn = np.linalg.norm(T_step[:3, 3]), se3.rotation_angle_rad(T_step)
    share = np.array([float(length)] * 3 + [float(turn)] * 3) * _LEAST_SHARE
    return np.diag(_LEAST + share**2)
