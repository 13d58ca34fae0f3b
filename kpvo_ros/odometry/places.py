"""Places the robot has seen, and what they are good for.

Some keyframes are looked at closely: `memory.extractor` describes them, in a thread of its own,
because the descriptors that are good enough from frame to frame are worthless after two metres of
blackout (measured in docs/results.md). One that describes whole images as well ranks the places by
that. When such a keyframe leaves the map it is stored with the depths the map has given its
points. A lost camera is held against the stored ones; a map that was begun anew after a loss is
joined to the old one when one of its keyframes is recognised; and with `loop_closure.enabled` a
place seen again corrects the drift between map and odom.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.frontend.process import give_way
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.odometry.memory import KeyframeMemory, appearance
from kpvo_ros.odometry.motion import MotionState
from kpvo_ros.odometry.recall import StoredKeyframe
from kpvo_ros.types import Features, Frame

if TYPE_CHECKING:
    from kpvo_ros.odometry.loop_closure import LoopCloser

_STEP = 0.1  # of the typical depth that the camera moves between two glances
_TURN_RAD = np.deg2rad(10.0)  # that it turns between two glances
_SAME_PX = 4.0  # how far a keypoint may be from a point of the map to be taken for the same
_NEAR_PX = 20.0  # how far a keypoint may be from points of the map that give it depth
_NEIGHBOURS = 3  # so many of them must agree
_AGREE = 0.2  # relative difference of inverse depth up to which they do
_RHO_SIGMA = 0.05  # relative, of an inverse depth taken over from neighbours
_MIN_DEPTHS = 10  # points known in both maps, fewer than which tell nothing about the unit


@dataclasses.dataclass(frozen=True)
class Recognised:
    """The present camera among remembered places.

    Attributes:
        T_odom_camera: (4, 4).
        covariance: (6, 6) local, since the start.
        noise: (6, 6) local, of the match alone.
        xy: (M, 2) pixels of the points that support it.
        rho: (M,) their inverse depths in the present camera.
    """

    T_odom_camera: np.ndarray
    covariance: np.ndarray
    noise: np.ndarray
    xy: np.ndarray
    rho: np.ndarray


class Places:
    """What is remembered, and loop closure on top of it.

    Args:
        config: `frontend`, `memory` and `loop_closure` are used.

    Raises:
        OdometryError: loop closure is enabled and its library is missing.
    """

    def __init__(self, config: VoConfig) -> None:
        self._extractor = load_extractor(
            dataclasses.replace(
                config.frontend,
                extractor=config.memory.extractor,
                max_keypoints=config.memory.max_keypoints,
            )
        )
        self._worker = ThreadPoolExecutor(1, thread_name_prefix='places', initializer=give_way)
        self._glances: dict[int, Future[Features]] = {}  # by stamp, of keyframes in the map
        self._T_glance: np.ndarray | None = None
        self._memory = KeyframeMemory(config.memory, config.seed)
        self._next_id = 0
        self._closer: LoopCloser | None = None
        if config.loop_closure.enabled:
            from kpvo_ros.odometry.loop_closure import LoopCloser  # loads GTSAM

            self._closer = LoopCloser(config.loop_closure, self._memory)

    def close(self) -> None:
        """End the thread."""
        self._worker.shutdown(cancel_futures=True)

    @property
    def T_map_odom(self) -> np.ndarray | None:
        """(4, 4) correction by loop closure, None when it is off."""
        return None if self._closer is None else self._closer.T_map_odom

    def glance(
        self,
        frame: Frame,
        ignore: np.ndarray | None,
        local_map: LocalMap,
        typical_depth: float,
        *,
        is_placed: bool,
    ) -> None:
        """Have a closer look at the newest keyframe of the map, when it shows something new.

        With loop closure it is held against all other places at once.

        Args:
            frame: its image.
            ignore: (H, W) bool, where not to look; None for nowhere.
            local_map: the map.
            typical_depth: of what is seen.
            is_placed: whether the pose of the map in odom, and its unit, are known.
        """
        T_odom_camera = local_map.T_odom_keyframe[-1]
        if self._T_glance is not None:
            T_step = se3.inverse(self._T_glance) @ T_odom_camera
            moved = float(np.linalg.norm(T_step[:3, 3])) > _STEP * typical_depth
            if not moved and se3.rotation_angle_rad(T_step[:3, :3]) < _TURN_RAD:
                return
        self._T_glance = T_odom_camera
        if self._closer is None:
            work = self._worker.submit(self._extractor.extract, frame.gray, ignore)
            self._glances[frame.stamp_ns] = work
        elif is_placed:
            features = self._extractor.extract(frame.gray, ignore)
            keyframe = _stored(local_map, -1, features, frame.camera, self._next_id)
            self._next_id += 1
            self._closer.offer(keyframe, features, frame.camera)

    def keep(self, local_map: LocalMap, rows: np.ndarray, camera: Camera) -> None:
        """Store keyframes that are about to leave the map, those that were looked at."""
        for row in rows:
            glance = self._glances.pop(int(local_map.stamp_ns[row]), None)
            if glance is None:
                continue
            features = glance.result()
            keyframe = _stored(local_map, int(row), features, camera, self._next_id)
            self._next_id += 1
            self._memory.add(keyframe)

    def discard_glances(self) -> None:
        """The map is gone, and where it lay is not known."""
        self._glances.clear()
        self._T_glance = None

    def recognise(
        self, frame: Frame, ignore: np.ndarray | None, motion: MotionState
    ) -> Recognised | None:
        """Where a lost camera is; a few places are tried at every call."""
        if not len(self._memory):
            return None
        features = self._extractor.extract(frame.gray, ignore)
        found = self._memory.recall(
            features,
            _look_of(features, frame.gray),
            frame.camera,
            T_guess=motion.T_odom_camera,
            sigma_m=float(np.sqrt(np.trace(motion.covariance[:3, :3]))),
        )
        if found is None:
            return None
        return Recognised(
            found.T_odom_camera,
            found.covariance,
            found.relative_covariance,
            features.xy[found.index_feature],
            1.0 / found.depth,
        )


def known_depths(
    local_map: LocalMap, sights: Sights, T_odom_camera: np.ndarray, xy: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depths at pixels, taken over from points of the map seen around them.

    Args:
        local_map: the map.
        sights: its points in an image.
        T_odom_camera: (4, 4) pose of that image.
        xy: (N, 2) pixels there.

    Returns:
        (N,) inverse depths, 0 where neighbours are far or disagree, and (N,) variances, inf there.
    """
    known = sights[local_map.has_depth[sights.point]]
    rho = np.zeros(len(xy))
    if len(known) >= _NEIGHBOURS:
        here, _ = local_map.seen_from(known.point, T_odom_camera)
        distance, near = cKDTree(known.xy).query(xy, k=_NEIGHBOURS)
        around = here[near]
        middle = np.median(around, axis=1)
        agree = np.ptp(around, axis=1) < _AGREE * middle
        rho = np.where(agree & (distance[:, 0] < _NEAR_PX), middle, 0.0)
        rho = np.where(distance[:, 0] < _SAME_PX, around[:, 0], rho)
    return rho, np.where(rho > 0, (_RHO_SIGMA * rho) ** 2, np.inf)


def unit_ratio(
    local_map: LocalMap, sights: Sights, T_odom_camera: np.ndarray, found: Recognised
) -> float | None:
    """Unit of remembered places per unit of the map; None when too few points tell."""
    rho, _ = known_depths(local_map, sights, T_odom_camera, found.xy)
    both = rho > 0
    return float(np.median(rho[both] / found.rho[both])) if both.sum() >= _MIN_DEPTHS else None


def _stored(
    local_map: LocalMap, row: int, features: Features, camera: Camera, number: int
) -> StoredKeyframe:
    T_odom_camera = local_map.T_odom_keyframe[row]
    rho, variance = known_depths(local_map, local_map.sights[row], T_odom_camera, features.xy)
    ray = camera.unproject(features.xy)[:, :2]
    rho = np.where(np.isfinite(ray).all(1), rho, 0.0)
    return StoredKeyframe(
        id=number,
        stamp_ns=int(local_map.stamp_ns[row]),
        T_odom_camera=T_odom_camera,
        covariance=local_map.covariance[row],
        ray=np.nan_to_num(ray),
        rho=rho,
        variance=variance,
        descriptor=features.descriptor,
        appearance=_look_of(features, local_map.images[row]),
    )


def _look_of(features: Features, gray: np.ndarray) -> np.ndarray:
    """(G,) unit vector of the whole image: the extractor's, else coarse edges."""
    learned = features.image_descriptor
    return appearance(gray) if learned is None else learned


def features_of(local_map: LocalMap, sights: Sights) -> Features:
    """Points of the map as keypoints of an image in which they are seen."""
    score = local_map.has_depth[sights.point].astype(np.float32)
    return Features(sights.xy, score, local_map.descriptor[sights.point])
