"""The map the odometry lives on: a window of keyframes and the points first seen from them.

Points are kept as arrays, not objects, and as inverse depth along the ray of their first sight
(Civera 2008): a point without depth, one with a noisy depth reading and one triangulated to the
millimetre are the same thing with different variances, and every further sight is one scalar
Kalman update. When a keyframe moves, its points move with it.

Units are map units; the map is metric once the scale is known (`rescale`).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.frontend.patches import FirstSights, patch_warp
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.resection import Sightings
from kpvo_ros.types import Features

MIN_KNOWN = 20  # new points of known depth, fewer than which a keyframe is dropped early
NEWEST_KEPT = 4  # keyframes that are never dropped: what is seen now began there
UNKNOWN_RHO = 0.0  # inverse depth of a point that has none yet


@dataclasses.dataclass(frozen=True)
class Sights:
    """Where points of the map were seen in one image.

    Attributes:
        point: (N,) int64 indices into the map's arrays.
        xy: (N, 2) float32 pixels of the image as stored.
        ray: (N, 2) float64 undistorted coordinates on the plane z = 1.
    """

    point: np.ndarray
    xy: np.ndarray
    ray: np.ndarray

    def __len__(self) -> int:
        return len(self.point)

    def __getitem__(self, chosen: np.ndarray) -> Sights:
        return Sights(self.point[chosen], self.xy[chosen], self.ray[chosen])


NO_SIGHTS = Sights(np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros((0, 2)))
_PER_POINT = (
    'ray',
    'xy',
    'rho',
    'variance',
    'tilt',
    'descriptor',
    'strikes',
    'sensor_rho',
    'sensor_information',
    'is_learned',
)


class LocalMap:
    """Keyframe poses and inverse-depth points in the odom frame.

    Attributes (arrays over points; read only for others):
        anchor: (N,) int64 row of the keyframe of first sight.
        ray: (N, 2) float64 coordinates on the plane z = 1 of that keyframe.
        xy: (N, 2) float32 pixels there.
        rho: (N,) float64 inverse depth (1 / z), 0 while unknown.
        variance: (N,) float64 of `rho`, inf while unknown.
        tilt: (N, 2) float64 how inverse depth grows with `ray` around the point, see `surface`.
        descriptor: (N, D) as the extractor gave them.
        strikes: (N,) int64 how often in a row the point contradicted the pose.
        sensor_rho: (N,) float64 inverse depth from depth readings alone.
        sensor_information: (N,) float64 1 / variance of `sensor_rho`, 0 without a reading.
        is_learned: (N,) bool, the reading is that of a network.
        sights: one `Sights` per keyframe.
        T_odom_keyframe: (K, 4, 4) poses of the keyframes, oldest first.
        covariance: (K, 6, 6) local, of those poses since the start.
        stamp_ns: (K,) int64.
        images: K grey images (H, W) uint8.
        is_young: no keyframe has been dropped yet.
    """

    def __init__(self, descriptor_like: np.ndarray) -> None:
        self.T_odom_keyframe = np.zeros((0, 4, 4))
        self.covariance = np.zeros((0, 6, 6))
        self.stamp_ns = np.zeros(0, np.int64)
        self.images: list[np.ndarray] = []
        self.is_young = True
        self.anchor = np.zeros(0, np.int64)
        self.ray = np.zeros((0, 2))
        self.xy = np.zeros((0, 2), np.float32)
        self.rho = np.zeros(0)
        self.variance = np.zeros(0)
        self.tilt = np.zeros((0, 2))
        self.descriptor = np.zeros((0, *descriptor_like.shape[1:]), descriptor_like.dtype)
        self.strikes = np.zeros(0, np.int64)
        self.sensor_rho = np.zeros(0)
        self.sensor_information = np.zeros(0)
        self.is_learned = np.zeros(0, bool)
        self.sights: list[Sights] = []

    def __len__(self) -> int:
        return len(self.anchor)

    @property
    def has_depth(self) -> np.ndarray:
        """(N,) bool: points that can support a pose."""
        return np.isfinite(self.variance)

    def positions(self, point: np.ndarray) -> np.ndarray:
        """(M, 3) coordinates in the odom frame of points that have depth."""
        T = self.T_odom_keyframe[self.anchor[point]]
        local = homogeneous(self.ray[point]) / self.rho[point, None]
        return np.einsum('nij,nj->ni', T[:, :3, :3], local) + T[:, :3, 3]

    def sightings(self, sights: Sights, sigma_ray: float) -> Sightings:
        """What the pose solver wants to know of sights.

        A point without depth is taken to be as far as the others, give or take all of it.
        """
        T = self.T_odom_keyframe[self.anchor[sights.point]]
        known = self.has_depth[sights.point]
        typical = self.typical_rho(sights.point)
        return Sightings(
            direction=np.einsum('nij,nj->ni', T[:, :3, :3], homogeneous(self.ray[sights.point])),
            origin=T[:, :3, 3],
            rho=np.where(known, self.rho[sights.point], typical),
            variance=np.where(known, self.variance[sights.point], typical**2),
            ray=sights.ray,
            sigma=np.full(len(sights), sigma_ray),
        )

    def expected(self, point: np.ndarray, T_odom_camera: np.ndarray, camera: Camera) -> np.ndarray:
        """(M, 2) pixels where points should be seen; NaN behind the camera.

        Points without depth are taken to be as far as the others.
        """
        turned, shift = self.rays_seen_from(point, T_odom_camera)
        p = turned + self.likely_rho(point)[:, None] * shift
        with np.errstate(invalid='ignore', divide='ignore'):
            return np.where(p[:, 2:] > 0, camera.project(p), np.nan)

    def first_sights(
        self, point: np.ndarray, T_odom_camera: np.ndarray, camera: Camera
    ) -> FirstSights:
        """How points looked at first, and how they should look from a pose."""
        anchor = self.anchor[point]
        T_camera_keyframe = se3.inverse(T_odom_camera) @ self.T_odom_keyframe
        warp = patch_warp(
            camera,
            self.ray[point],
            self.likely_rho(point),
            self.tilt[point],
            T_camera_keyframe[anchor],
        )
        return FirstSights(self.images, anchor, self.xy[point], warp)

    def likely_rho(self, point: np.ndarray) -> np.ndarray:
        """(M,) inverse depths, the typical one for points without."""
        known = self.has_depth[point]
        return np.where(known, self.rho[point], self.typical_rho(point))

    def pose_covariance(
        self, point: np.ndarray, T_odom_camera: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """(6, 6) local covariance, since the start, of a pose measured from some points.

        The pose is as wrong as the keyframe that most of the points come from, plus `noise`, its
        own (6, 6) covariance relative to the map.
        """
        row = int(np.median(self.anchor[point])) if len(point) else -1
        T_camera_keyframe = se3.inverse(T_odom_camera) @ self.T_odom_keyframe[row]
        return se3.transport_covariance(self.covariance[row], T_camera_keyframe) + noise

    def set_depth(self, point: np.ndarray, rho: np.ndarray, variance: np.ndarray) -> None:
        """Depths known from elsewhere."""
        self.rho[point], self.variance[point] = rho, variance

    def seen_from(
        self, point: np.ndarray, T_odom_camera: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(M,) inverse depths of points in a camera, 0 where unknown, and variances (inf)."""
        turned, shift = self.rays_seen_from(point, T_odom_camera)
        p_z = turned[:, 2] + self.rho[point] * shift[:, 2]
        known = self.has_depth[point] & (p_z > 0)
        p_z = np.where(known, p_z, 1.0)
        slope = turned[:, 2] / p_z**2
        with np.errstate(invalid='ignore'):
            variance = np.where(known, self.variance[point] * slope**2, np.inf)
        return np.where(known, self.rho[point] / p_z, UNKNOWN_RHO), variance

    def typical_rho(self, point: np.ndarray) -> float:
        """Median inverse depth of those of the points that have one, else of the whole map."""
        known = point[self.has_depth[point]]
        if len(known) < 10:
            known = np.flatnonzero(self.has_depth)
        return float(np.median(self.rho[known])) if len(known) else 1.0

    def sight_errors(self, sights: Sights, T_odom_camera: np.ndarray) -> np.ndarray:
        """(N,) distance on the plane z = 1 of each sight from where the map expects it.

        NaN for points without depth.
        """
        turned, shift = self.rays_seen_from(sights.point, T_odom_camera)
        p = turned + self.rho[sights.point, None] * shift
        error = np.linalg.norm(p[:, :2] / p[:, 2:] - sights.ray, axis=1)
        return np.where(self.has_depth[sights.point], error, np.nan)

    def depth_noise(self, point: np.ndarray, T_odom_camera: np.ndarray) -> np.ndarray:
        """(M,) how far, on the plane z = 1 of a camera, one sigma of depth moves each point."""
        turned, shift = self.rays_seen_from(point, T_odom_camera)
        p = turned + self.rho[point, None] * shift
        slope = (shift[:, :2] - p[:, :2] / p[:, 2:] * shift[:, 2:]) / p[:, 2:]
        return np.linalg.norm(slope, axis=1) * np.sqrt(self.variance[point])

    def add_keyframe(
        self, stamp_ns: int, T_odom_camera: np.ndarray, covariance: np.ndarray, gray: np.ndarray
    ) -> int:
        """Append a keyframe without sights and return its row."""
        self.stamp_ns = np.append(self.stamp_ns, stamp_ns)
        self.images.append(gray)
        self.sights.append(NO_SIGHTS)
        self.covariance = np.concatenate([self.covariance, covariance[None]])
        self.T_odom_keyframe = np.concatenate([self.T_odom_keyframe, T_odom_camera[None]])
        return len(self.T_odom_keyframe) - 1

    def add_points(self, keyframe: int, ray: np.ndarray, features: Features) -> np.ndarray:
        """Append points without depth, first seen from `keyframe`.

        Args:
            keyframe: row of the keyframe.
            ray: (N, 2) coordinates on the plane z = 1.
            features: N features, for their pixels and descriptors.

        Returns:
            (N,) int64 indices of the new points.
        """
        count, first = len(ray), len(self)
        self.anchor = np.concatenate([self.anchor, np.full(count, keyframe, np.int64)])
        self.ray = np.concatenate([self.ray, ray])
        self.xy = np.concatenate([self.xy, features.xy])
        self.rho = np.concatenate([self.rho, np.full(count, UNKNOWN_RHO)])
        self.variance = np.concatenate([self.variance, np.full(count, np.inf)])
        self.tilt = np.concatenate([self.tilt, np.zeros((count, 2))])
        self.descriptor = np.concatenate([self.descriptor, features.descriptor])
        self.strikes = np.concatenate([self.strikes, np.zeros(count, np.int64)])
        self.sensor_rho = np.concatenate([self.sensor_rho, np.zeros(count)])
        self.sensor_information = np.concatenate([self.sensor_information, np.zeros(count)])
        self.is_learned = np.concatenate([self.is_learned, np.zeros(count, bool)])
        return np.arange(first, first + count)

    def rescale(self, factor: float, about: np.ndarray) -> None:
        """Stretch the whole map by `factor` about the position `about` (3,), which stays."""
        T = self.T_odom_keyframe.copy()
        T[:, :3, 3] = about + factor * (T[:, :3, 3] - about)
        self.T_odom_keyframe = T
        self.rho /= factor
        self.variance /= factor**2
        self.tilt /= factor
        self.sensor_rho /= factor
        self.sensor_information *= factor**2

    def move(self, T_new_old: np.ndarray) -> None:
        """Re-express the map in another odom frame: poses become T_new_old @ pose."""
        self.T_odom_keyframe = T_new_old @ self.T_odom_keyframe

    def superfluous(self, window: int) -> np.ndarray:
        """Rows of the keyframes beyond the window.

        The oldest goes, but before it any that could not be measured: a camera that turns on the
        spot keeps what it knew before the turn.
        """
        rows = np.arange(len(self.T_odom_keyframe))
        while len(rows) > window:
            rows = np.delete(rows, self._least_useful(rows))
        return np.setdiff1d(np.arange(len(self.T_odom_keyframe)), rows)

    def forget(self, rows: np.ndarray, max_strikes: int) -> np.ndarray:
        """Drop keyframes, their points, and points that struck out.

        Returns:
            (N,) int64: new index of every old point, -1 for the dropped.
        """
        rows = np.setdiff1d(np.arange(len(self.T_odom_keyframe)), rows)
        new_row = np.full(len(self.T_odom_keyframe), -1, np.int64)
        new_row[rows] = np.arange(len(rows))
        keep = (new_row[self.anchor] >= 0) & (self.strikes < max_strikes)
        new_index = np.full(len(self), -1, np.int64)
        new_index[keep] = np.arange(int(keep.sum()))
        self.is_young &= len(rows) == len(self.T_odom_keyframe)
        self.T_odom_keyframe = self.T_odom_keyframe[rows]
        self.covariance = self.covariance[rows]
        self.stamp_ns = self.stamp_ns[rows]
        self.anchor = new_row[self.anchor[keep]]
        for name in _PER_POINT:
            setattr(self, name, getattr(self, name)[keep])
        self.sights = [_renumbered(self.sights[row], new_index) for row in rows]
        self.images = [self.images[row] for row in rows]
        return new_index

    def _least_useful(self, rows: np.ndarray) -> int:
        """Position in `rows` of the keyframe to drop; never one of the newest."""
        old = rows[: max(1, len(rows) - NEWEST_KEPT)]
        known = np.bincount(self.anchor[self.has_depth], minlength=len(self.T_odom_keyframe))
        return int(np.argmax(known[old] < MIN_KNOWN))  # the first such, else the very first

    def rays_seen_from(
        self, point: np.ndarray, T_odom_camera: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per point, first ray and anchor position in the camera: p ~ turned + rho * shift."""
        T = se3.inverse(T_odom_camera) @ self.T_odom_keyframe
        T_camera_anchor = T[self.anchor[point]]
        rays = homogeneous(self.ray[point])
        return np.einsum('nij,nj->ni', T_camera_anchor[:, :3, :3], rays), T_camera_anchor[:, :3, 3]


def _renumbered(sights: Sights, new_index: np.ndarray) -> Sights:
    point = new_index[sights.point]
    kept = point >= 0
    return Sights(point[kept], sights.xy[kept], sights.ray[kept])


def homogeneous(ray: np.ndarray) -> np.ndarray:
    """(N, 3) rays with z = 1."""
    return np.concatenate([ray, np.ones((len(ray), 1))], axis=1)
