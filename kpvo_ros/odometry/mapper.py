"""Make keyframes: measure the depths of what is seen, and add what is new.

Owns the map. The tracker finds points, the mapper decides what becomes one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial import cKDTree

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.frontend.mask import allowed
from kpvo_ros.frontend.spread import far_from
from kpvo_ros.odometry.depth import read_depth
from kpvo_ros.odometry.inverse_depth import fuse_readings, triangulate
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.odometry.motion import MotionState
from kpvo_ros.odometry.surface import measure_tilt
from kpvo_ros.odometry.tracking import SIGHT_SIGMA_PX, Tracker, to_rays
from kpvo_ros.odometry.window import adjust
from kpvo_ros.types import Features, Frame

MAX_STRIKES = 3  # contradictions in a row after which a point is dropped
RECALLED_SIGMA = 0.05  # relative, of the inverse depth of a point that was recognised
YOUNG_ROWS = 3  # newest keyframes in sight, whose points are still getting their depths
BORDER_PX = 8.0  # of the image, where patches are cut off


class Mapper:
    """Grows and prunes a `LocalMap`.

    Args:
        config: all parameters.
        tracker: finds points again.
        uses_depth: whether depth images are read.
        on_leave: told the rows of the keyframes that are about to leave the map.
    """

    def __init__(
        self,
        config: VoConfig,
        tracker: Tracker,
        uses_depth: bool,
        on_leave: Callable[[np.ndarray], None] = lambda rows: None,
    ) -> None:
        self._on_leave = on_leave
        self._config = config
        self._tracker = tracker
        self._uses_depth = uses_depth
        self.map = LocalMap(np.zeros((0, 1), np.uint8))

    def begin(self, frame: Frame, features: Features, motion: MotionState) -> Sights:
        """Forget everything and make the first keyframe; returns its sights."""
        self.map = LocalMap(features.descriptor)
        return self._add(frame, features, motion)

    def add_known(self, xy: np.ndarray, rho: np.ndarray, sights: Sights, frame: Frame) -> Sights:
        """Add points of known depth to the newest keyframe.

        Args:
            xy: (N, 2) pixels.
            rho: (N,) inverse depths.
            sights: what is seen there already.
            frame: of that keyframe; its own keypoints nearby lend the descriptors.

        Returns:
            All sights of the keyframe.
        """
        _, near = cKDTree(sights.xy).query(xy)
        descriptor = self.map.descriptor[sights.point[near]]
        features = Features(xy.astype(np.float32), np.ones(len(xy), np.float32), descriptor)
        ray = to_rays(frame.camera, xy)
        point = self.map.add_points(len(self.map.T_odom_keyframe) - 1, ray, features)
        self.map.set_depth(point, rho, (RECALLED_SIGMA * rho) ** 2)
        sights = concatenate(sights, Sights(point, features.xy, ray))
        self.map.sights[-1] = sights
        return sights

    def add_keyframe(
        self,
        frame: Frame,
        features: Callable[[], Features],
        sights: Sights,
        motion: MotionState,
        ignore: np.ndarray | None = None,
    ) -> Sights:
        """Make a keyframe.

        Args:
            frame: its image and depth.
            features: gives the keypoints of the image; asked only once old points are placed.
            sights: points of the map seen in it.
            motion: its pose.
            ignore: (H, W) bool, where nothing may be found again; None for nowhere.

        Returns:
            All points seen in it, old and new, with their (new) indices. `settle` has to follow.
        """
        T_odom_camera = motion.T_odom_camera
        again = self._find_again(frame, sights, T_odom_camera)
        sights = concatenate(sights, again[allowed(again.xy, ignore)])
        self.measure(frame, sights, T_odom_camera)
        found = features()
        fresh = far_from(found.xy, sights.xy, self._config.frontend.grid_cell_px / 4)
        room = max(0, self._config.frontend.max_keypoints - len(sights))
        chosen = np.flatnonzero(fresh)[:room]
        added = self._add(frame, _pick(found, chosen), motion)
        sights = concatenate(sights, added)
        self.map.sights[-1] = sights
        return self._prune(sights)

    def settle(self, focal_px: float) -> np.ndarray:
        """Adjust the map to the sights of its newest keyframe.

        Args:
            focal_px: of the camera.

        Returns:
            The points whose sights in it were dropped.
        """
        sights = self.map.sights[-1]
        adjust(self.map, self._config.keyframes.adjust_window, SIGHT_SIGMA_PX / focal_px)
        # What the adjusted map cannot explain is a track that slid, or something that moves.
        error = self.map.sight_errors(sights, self.map.T_odom_keyframe[-1])
        is_wrong = error > self._config.tracking.inlier_threshold_px / focal_px
        self.map.sights[-1] = sights[~is_wrong]
        measure_tilt(self.map, np.unique(self.map.anchor[sights.point])[-YOUNG_ROWS:])
        return sights.point[is_wrong]

    def measure(self, frame: Frame, sights: Sights, T_odom_camera: np.ndarray) -> None:
        """Fold sights from a known pose, and depth readings there, into the map."""
        triangulate(
            self.map,
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

    def _find_again(self, frame: Frame, sights: Sights, T_odom_camera: np.ndarray) -> Sights:
        """Old points that were out of sight or lost by the flow, by what they looked like."""
        unseen = self.map.has_depth.copy()
        unseen[sights.point] = False
        point = np.flatnonzero(unseen)
        expected = self.map.expected(point, T_odom_camera, frame.camera)
        inside = np.flatnonzero(frame.camera.contains(expected, BORDER_PX))
        empty = far_from(expected[inside], sights.xy, self._config.frontend.grid_cell_px / 4)
        chosen = inside[empty]
        return self._tracker.find_again(
            frame, self.map, point[chosen], expected[chosen], T_odom_camera
        )

    def _add(self, frame: Frame, features: Features, motion: MotionState) -> Sights:
        ray = to_rays(frame.camera, features.xy)
        usable = np.isfinite(ray).all(1)
        features, ray = _pick(features, usable), ray[usable]
        keyframe = self.map.add_keyframe(
            frame.stamp_ns, motion.T_odom_camera, motion.covariance, frame.gray
        )
        point = self.map.add_points(keyframe, ray, features)
        sights = Sights(point, features.xy, ray)
        self.map.sights[-1] = sights
        self._fuse_depth(frame, sights, motion.T_odom_camera)
        if self._uses_depth:
            measure_tilt(self.map, np.array([keyframe]))
        return sights

    def _fuse_depth(self, frame: Frame, sights: Sights, T_odom_camera: np.ndarray) -> None:
        if not self._uses_depth or frame.depth_m is None:
            return
        depth = read_depth(frame.depth_m, sights.xy, self._config.scale)
        fuse_readings(self.map, sights, depth, T_odom_camera, self._config.scale.depth_sigma)

    def _prune(self, sights: Sights) -> Sights:
        rows = self.map.superfluous(self._config.keyframes.window)
        self._on_leave(rows)
        new_index = self.map.forget(rows, MAX_STRIKES)
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
