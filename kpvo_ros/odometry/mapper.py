"""Make keyframes: measure the depths of what is seen, and add what is new.

Owns the map. The tracker finds points, the mapper decides what becomes one.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.frontend.spread import far_from
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.depth import read_depth
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.odometry.tracking import SIGHT_SIGMA_PX, Tracker, to_rays
from kpvo_ros.odometry.window import adjust
from kpvo_ros.types import Features, Frame

MAX_STRIKES = 3  # contradictions in a row after which a point is dropped
REFIND_RADIUS_PX = 6.0  # how far from its expected place an old point is looked for


class Mapper:
    """Grows and prunes a `LocalMap`."""

    def __init__(self, config: VoConfig, tracker: Tracker, uses_depth: bool) -> None:
        self._config = config
        self._tracker = tracker
        self._uses_depth = uses_depth
        self.map = LocalMap(np.zeros((0, 1), np.uint8))

    def begin(self, frame: Frame, features: Features, T_odom_camera: np.ndarray) -> Sights:
        """Forget everything and make the first keyframe; returns its sights."""
        self.map = LocalMap(features.descriptor)
        return self._add(frame, features, T_odom_camera)

    def add_keyframe(
        self, frame: Frame, features: Features, sights: Sights, T_odom_camera: np.ndarray
    ) -> Sights:
        """Make a keyframe.

        Args:
            frame: its image and depth.
            features: keypoints of the image.
            sights: points of the map seen in it.
            T_odom_camera: (4, 4) its pose.

        Returns:
            All points seen in it, old and new, with their (new) indices.
        """
        sights = self._find_again(frame.camera, features, sights, T_odom_camera)
        self.measure(frame, sights, T_odom_camera)
        fresh = far_from(features.xy, sights.xy, self._config.frontend.grid_cell_px / 4)
        room = max(0, self._config.frontend.max_keypoints - len(sights))
        chosen = np.flatnonzero(fresh)[:room]
        added = self._add(frame, _pick(features, chosen), T_odom_camera)
        sights = concatenate(sights, added)
        self.map.sights[-1] = sights
        adjust(self.map, self._config.keyframes.adjust_window, SIGHT_SIGMA_PX / frame.camera.fx)
        # What the adjusted map cannot explain is a track that slid, or something that moves.
        error = self.map.sight_errors(sights, self.map.T_odom_keyframe[-1])
        limit = self._config.tracking.inlier_threshold_px / frame.camera.fx
        self.map.sights[-1] = sights[~(error > limit)]
        return self._prune(self.map.sights[-1])

    def measure(self, frame: Frame, sights: Sights, T_odom_camera: np.ndarray) -> None:
        """Fold sights from a known pose, and depth readings there, into the map."""
        self.map.triangulate(
            sights,
            T_odom_camera,
            SIGHT_SIGMA_PX / frame.camera.fx,
            np.deg2rad(self._config.keyframes.min_parallax_deg),
        )
        self._fuse_depth(frame, sights, T_odom_camera)

    def measure_new(self, frame: Frame, sights: Sights, T_odom_camera: np.ndarray) -> None:
        """Give a depth to points that have none yet, between keyframes."""
        new = sights[~self.map.has_depth[sights.point]]
        if len(new):
            self.measure(frame, new, T_odom_camera)

    def strike(self, sights: Sights, inlier: np.ndarray) -> None:
        """Count contradictions in a row."""
        self.map.strikes[sights.point[inlier]] = 0
        self.map.strikes[sights.point[~inlier]] += 1

    def _find_again(
        self, camera: Camera, features: Features, sights: Sights, T_odom_camera: np.ndarray
    ) -> Sights:
        """Old points that were out of sight or lost by the flow, found by descriptor."""
        unseen = self.map.has_depth.copy()
        unseen[sights.point] = False
        again = self._tracker.search_near(
            features,
            self.map,
            camera,
            np.flatnonzero(unseen),
            T_odom_camera,
            REFIND_RADIUS_PX,
        )
        return concatenate(sights, again[far_from(again.xy, sights.xy, 4.0)])

    def _add(self, frame: Frame, features: Features, T_odom_camera: np.ndarray) -> Sights:
        ray = to_rays(frame.camera, features.xy)
        usable = np.isfinite(ray).all(1)
        features, ray = _pick(features, usable), ray[usable]
        keyframe = self.map.add_keyframe(T_odom_camera)
        point = self.map.add_points(keyframe, ray, features)
        sights = Sights(point, features.xy, ray)
        self.map.sights[-1] = sights
        self._fuse_depth(frame, sights, T_odom_camera)
        return sights

    def _fuse_depth(self, frame: Frame, sights: Sights, T_odom_camera: np.ndarray) -> None:
        if not self._uses_depth or frame.depth_m is None:
            return
        depth = read_depth(frame.depth_m, sights.xy, self._config.scale)
        self.map.fuse_depth(sights, depth, T_odom_camera, self._config.scale.depth_sigma)

    def _prune(self, sights: Sights) -> Sights:
        new_index = self.map.forget(self._config.keyframes.window, MAX_STRIKES)
        point = new_index[sights.point]
        kept = point >= 0
        return Sights(point[kept], sights.xy[kept], sights.ray[kept])


def concatenate(first: Sights, second: Sights) -> Sights:
    """Both sets of sights, one after the other."""
    return Sights(
        np.concatenate([first.point, second.point]),
        np.concatenate([first.xy, second.xy]),
        np.concatenate([first.ray, second.ray]),
    )


def _pick(features: Features, chosen: np.ndarray) -> Features:
    return Features(features.xy[chosen], features.score[chosen], features.descriptor[chosen])
