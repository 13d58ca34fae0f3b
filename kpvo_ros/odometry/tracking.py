"""Find points of the map in a new image and solve for its pose.

Two ways to find them, one way to solve: `follow` (optical flow from the last image: cheap,
sub-pixel, for the common frame) and `search` (descriptors against the whole window: for large
motion, blur and recovery). Both answer with `Sights`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.frontend.flow import FlowTracker
from kpvo_ros.frontend.matcher import match, match_near
from kpvo_ros.geometry import se3, solve
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.refine import refine_pnp
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.types import Features

SIGHT_SIGMA_PX = 0.7  # standard deviation of one sight in the image
MAX_BLUR = 4.0  # expected error, in sights, beyond which a point proves nothing about a pose


@dataclasses.dataclass(frozen=True)
class Pose:
    """A solved pose.

    Attributes:
        T_odom_camera: (4, 4).
        covariance: (6, 6) local, relative to the map.
        inlier: (N,) bool over the sights it was solved from (False where a point has no depth).
    """

    T_odom_camera: np.ndarray
    covariance: np.ndarray
    inlier: np.ndarray

    @property
    def inliers(self) -> int:
        """Number of supporting points."""
        return int(self.inlier.sum())


class Tracker:
    """Finds and solves; keeps no state between frames but its tools."""

    def __init__(self, config: TrackingConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._flow = FlowTracker(config)

    def follow(
        self, gray0: np.ndarray, gray1: np.ndarray, sights0: Sights, camera: Camera
    ) -> Sights:
        """The sights of image 0 that optical flow finds again in image 1."""
        xy, ok = self._flow.track(gray0, gray1, sights0.xy)
        return Sights(sights0.point[ok], xy[ok], to_rays(camera, xy[ok]))

    def search(
        self, features: Features, local_map: LocalMap, camera: Camera, among: np.ndarray
    ) -> Sights:
        """Points of the map found among keypoints by descriptor alone, anywhere in the image.

        Args:
            features: keypoints of the image.
            local_map: the map.
            camera: intrinsics of the image.
            among: (M,) indices of the points to search.
        """
        matches = match(local_map.descriptor[among], features.descriptor, self._config.match_ratio)
        return self._sights(among[matches.index0], features.xy[matches.index1], camera)

    def search_near(
        self,
        features: Features,
        local_map: LocalMap,
        camera: Camera,
        among: np.ndarray,
        T_odom_camera: np.ndarray,
        radius_px: float,
    ) -> Sights:
        """As `search`, but only near where a known pose puts the points.

        Args:
            features: keypoints of the image.
            local_map: the map.
            camera: intrinsics of the image.
            among: (M,) indices of points with depth.
            T_odom_camera: (4, 4) pose of the image.
            radius_px: search radius.
        """
        local = se3.transform(se3.inverse(T_odom_camera), local_map.positions(among))
        with np.errstate(invalid='ignore', divide='ignore'):
            expected = camera.project(local)
        visible = (local[:, 2] > 0) & camera.contains(expected)
        among, expected = among[visible], expected[visible]
        matches = match_near(
            local_map.descriptor[among],
            expected,
            features.descriptor,
            features.xy,
            radius_px,
            self._config.match_ratio,
        )
        return self._sights(among[matches.index0], features.xy[matches.index1], camera)

    def solve(
        self, sights: Sights, local_map: LocalMap, camera: Camera, T_guess: np.ndarray
    ) -> Pose | None:
        """Pose from sights of points with depth; None when too few agree.

        Args:
            sights: what was seen; points without depth are ignored.
            local_map: the map.
            camera: intrinsics.
            T_guess: (4, 4) predicted pose, the start of the refinement.
        """
        usable = np.flatnonzero(local_map.has_depth[sights.point])
        if len(usable) < self._config.min_inliers:
            return None
        xy = to_ideal_pixels(camera, sights.ray[usable])
        position = local_map.positions(sights.point[usable])
        threshold_px = self._config.inlier_threshold_px
        rough = solve.estimate_pnp(
            xy,
            position,
            camera,
            threshold_px=2.0 * threshold_px,
            seed=self._seed,
            T_camera_world=se3.inverse(T_guess),
        )
        if rough is None:
            return None
        # A point of uncertain depth says little along its ray and must not pull.
        noise_px = camera.fx * local_map.depth_noise(sights.point[usable], rough.T_world_camera)
        blur = np.sqrt(1.0 + (noise_px / SIGHT_SIGMA_PX) ** 2)
        result = refine_pnp(
            xy,
            position,
            camera,
            rough.T_camera_world,
            sigma_px=blur,
            loss_scale_px=SIGHT_SIGMA_PX,
            threshold_px=threshold_px,
        )
        # Far from where the map was made every depth is uncertain, and a false pose there would
        # find as much support as it likes among points that could be anywhere.
        if result is None or result.inliers[blur < MAX_BLUR].sum() < self._config.min_inliers:
            return None
        inlier = np.zeros(len(sights), bool)
        inlier[usable] = result.inliers
        return Pose(se3.inverse(result.T_camera_world), result.covariance, inlier)

    def _sights(self, point: np.ndarray, xy: np.ndarray, camera: Camera) -> Sights:
        return Sights(point, xy, to_rays(camera, xy))


def to_rays(camera: Camera, xy: np.ndarray) -> np.ndarray:
    """(N, 2) coordinates on the plane z = 1 of (N, 2) pixels as stored."""
    return camera.unproject(xy)[:, :2]


def to_ideal_pixels(camera: Camera, ray: np.ndarray) -> np.ndarray:
    """(N, 2) pixels of the lens-free camera with the same K."""
    return ray * (camera.fx, camera.fy) + (camera.cx, camera.cy)
