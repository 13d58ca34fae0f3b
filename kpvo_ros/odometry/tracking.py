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
from kpvo_ros.frontend.matcher import match
from kpvo_ros.frontend.patches import PatchRefiner
from kpvo_ros.geometry import se3, solve
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.odometry.resection import Resection, Sightings, resect
from kpvo_ros.odometry.standstill import is_standing
from kpvo_ros.types import Features, Frame

SIGHT_SIGMA_PX = 0.7  # standard deviation of one sight in the image
MAX_BLUR = 4.0  # expected error, in sights, beyond which a point proves nothing about a pose
BLURRED_SHARE = 0.3  # of the tracks that survive, below which the image is taken to be blurred
BLURRED_WINDOW_PX = 32  # patch for blurred images
BLURRED_REFINE_PX = 31  # the same for the patch that refines
BLURRED_MAX_ERROR_PX = 1.0  # way-back error for blurred images
SHARP_SHARE = 0.5  # of the points that look as at first, below which the image is blurred
TRUSTED_SHARE = 0.7  # of the sights that must agree with a pose found without sample consensus
# Of the sights, that must agree with any pose: true ones have 0.8 and more, and a false one finds
# up to a third of the tracks that slid into the picture of another place.
LEAST_SHARE = 0.5
GATES = (15.0, 6.0)  # sigmas from a pose by consensus, beyond which a sight is left out
WIDE = np.diag([1e6] * 3 + [10.0] * 3)  # covariance of a guess that is worth nothing


@dataclasses.dataclass(frozen=True)
class Guess:
    """Where the camera is expected.

    Attributes:
        T_odom_camera: (4, 4).
        covariance: (6, 6) local.
    """

    T_odom_camera: np.ndarray
    covariance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Pose:
    """A solved pose.

    Attributes:
        T_odom_camera: (4, 4).
        covariance: (6, 6) local, relative to the map.
        inlier: (N,) bool over the sights it was solved from.
        is_firm: whether points of known depth hold the position; the rotation alone otherwise.
    """

    T_odom_camera: np.ndarray
    covariance: np.ndarray
    inlier: np.ndarray
    is_firm: bool

    @property
    def inliers(self) -> int:
        """Number of supporting points."""
        return int(self.inlier.sum())


@dataclasses.dataclass(frozen=True)
class Followed:
    """Points followed into a new image.

    Attributes:
        sights: where they are.
        stands: whether nothing has moved.
    """

    sights: Sights
    stands: bool


class Tracker:
    """Finds and solves; keeps no state between frames but its tools."""

    def __init__(self, config: TrackingConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._flow = FlowTracker(config)
        self._patches = PatchRefiner(config)
        self._blurred_flow = FlowTracker(
            dataclasses.replace(
                config,
                flow_window_px=BLURRED_WINDOW_PX,
                flow_refine_px=BLURRED_REFINE_PX,
                flow_max_error_px=BLURRED_MAX_ERROR_PX,
            )
        )

    def follow(
        self,
        gray0: np.ndarray,
        gray1: np.ndarray,
        sights0: Sights,
        local_map: LocalMap,
        camera: Camera,
        T_guess: np.ndarray | None,
    ) -> Followed:
        """The sights of image 0 that are found again in image 1.

        Optical flow finds them; where the map knows how a point looked at first, that patch has
        the last word, so that errors do not add up from frame to frame.

        Args:
            gray0: (H, W) uint8.
            gray1: (H, W) uint8.
            sights0: points of the map seen in image 0.
            local_map: the map.
            camera: intrinsics of both.
            T_guess: (4, 4) expected pose of image 1, None without an idea.
        """
        guess = None
        if T_guess is not None:
            guess = local_map.expected(sights0.point, T_guess, camera)
        xy, ok = self._flow.track(gray0, gray1, sights0.xy, guess)
        is_blurred = len(ok) > 0 and float(ok.mean()) < BLURRED_SHARE
        if is_blurred:
            lost = np.flatnonzero(~ok)
            xy[lost], ok[lost] = self._blurred_flow.track(gray0, gray1, sights0.xy[lost])
        point, xy = sights0.point[ok], xy[ok]
        stands = is_standing(sights0.xy[ok], xy, len(ok))
        if T_guess is not None and not stands and not is_blurred:
            first = local_map.first_sights(point, T_guess, camera)
            refined, good = self._patches.refine(first, gray1, xy)
            if len(good) and good.mean() >= SHARP_SHARE:
                point, xy = point[good], refined[good]
        return Followed(self._sights(point, xy, camera), stands)

    def find_again(
        self,
        frame: Frame,
        local_map: LocalMap,
        point: np.ndarray,
        expected: np.ndarray,
        T_odom_camera: np.ndarray,
    ) -> Sights:
        """Points that nobody followed, by what they looked like at first.

        Args:
            frame: the image.
            local_map: the map.
            point: (M,) indices of points with depth.
            expected: (M, 2) pixels where they should be.
            T_odom_camera: (4, 4) pose of the image.
        """
        first = local_map.first_sights(point, T_odom_camera, frame.camera)
        xy, ok = self._patches.find_again(first, frame.gray, expected)
        return self._sights(point[ok], xy[ok], frame.camera)

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

    def solve(
        self, sights: Sights, local_map: LocalMap, camera: Camera, guess: Guess
    ) -> Pose | None:
        """Pose from sights of points of the map; None when too few agree.

        Points without depth hold the rotation: they are taken to be about as far as the others.

        Args:
            sights: what was seen.
            local_map: the map.
            camera: intrinsics.
            guess: where the camera is expected.
        """
        if len(sights) < self._config.min_inliers:
            return None
        seen = local_map.sightings(sights, SIGHT_SIGMA_PX / camera.fx)
        found = resect(seen, guess.T_odom_camera, guess.covariance)
        limit = self._config.inlier_threshold_px / SIGHT_SIGMA_PX
        if (found.surprise < limit).mean() < TRUSTED_SHARE:
            rough = self._consensus(sights, local_map, camera, guess.T_odom_camera)
            if rough is not None:
                found = self._from_consensus(seen, rough)
        inlier = found.surprise < limit
        if inlier.mean() < LEAST_SHARE:
            return None
        # Where every depth is uncertain, a false pose would find as much support as it likes
        # among points that could be anywhere.
        firm = inlier & (found.blur < MAX_BLUR)
        is_firm = int(firm.sum()) >= self._config.min_inliers
        if not is_firm and not self._turns(inlier):
            return None
        return Pose(found.T_odom_camera, found.covariance, inlier, is_firm)

    @staticmethod
    def _from_consensus(seen: Sightings, T_rough: np.ndarray) -> Resection:
        """Refined pose; what is far off it is false and must not pull."""
        for gate in GATES:
            near = resect(seen, T_rough, WIDE, iterations=0).surprise < gate
            T_rough = resect(seen[near], T_rough, WIDE).T_odom_camera
        near = resect(seen, T_rough, WIDE, iterations=0).surprise < GATES[-1]
        covariance = resect(seen[near], T_rough, WIDE, iterations=0).covariance
        everything = resect(seen, T_rough, WIDE, iterations=0)
        return dataclasses.replace(everything, covariance=covariance)

    def _turns(self, inlier: np.ndarray) -> bool:
        """Whether sights without firm depths are enough to go on with the rotation alone."""
        enough = inlier.sum() >= self._config.degraded_inliers
        return bool(enough and inlier.mean() > TRUSTED_SHARE)

    def _consensus(
        self, sights: Sights, local_map: LocalMap, camera: Camera, T_guess: np.ndarray
    ) -> np.ndarray | None:
        """Pose by sample consensus over the points with depth."""
        usable = np.flatnonzero(local_map.has_depth[sights.point])
        if len(usable) < self._config.min_inliers:
            return None
        result = solve.estimate_pnp(
            to_ideal_pixels(camera, sights.ray[usable]),
            local_map.positions(sights.point[usable]),
            camera,
            threshold_px=2.0 * self._config.inlier_threshold_px,
            seed=self._seed,
            T_camera_world=se3.inverse(T_guess),
        )
        if result is None or result.count < self._config.min_inliers:
            return None
        return result.T_world_camera

    def _sights(self, point: np.ndarray, xy: np.ndarray, camera: Camera) -> Sights:
        return Sights(point, xy, to_rays(camera, xy))


def to_rays(camera: Camera, xy: np.ndarray) -> np.ndarray:
    """(N, 2) coordinates on the plane z = 1 of (N, 2) pixels as stored."""
    return camera.unproject(xy)[:, :2]


def to_ideal_pixels(camera: Camera, ray: np.ndarray) -> np.ndarray:
    """(N, 2) pixels of the lens-free camera with the same K."""
    return ray * (camera.fx, camera.fy) + (camera.cx, camera.cy)
