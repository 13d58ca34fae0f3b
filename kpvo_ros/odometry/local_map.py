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

from kpvo_ros.geometry import se3
from kpvo_ros.types import Features

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
    'rho',
    'variance',
    'descriptor',
    'strikes',
    'sensor_rho',
    'sensor_information',
)


class LocalMap:
    """Keyframe poses and inverse-depth points in the odom frame.

    Attributes (arrays over points; read only for others):
        anchor: (N,) int64 row of the keyframe of first sight.
        ray: (N, 2) float64 coordinates on the plane z = 1 of that keyframe.
        rho: (N,) float64 inverse depth (1 / z), 0 while unknown.
        variance: (N,) float64 of `rho`, inf while unknown.
        descriptor: (N, D) as the extractor gave them.
        strikes: (N,) int64 how often in a row the point contradicted the pose.
        sensor_rho: (N,) float64 inverse depth from depth readings alone.
        sensor_information: (N,) float64 1 / variance of `sensor_rho`, 0 without a reading.
        sights: one `Sights` per keyframe.
    """

    def __init__(self, descriptor_like: np.ndarray) -> None:
        self.T_odom_keyframe = np.zeros((0, 4, 4))
        self.anchor = np.zeros(0, np.int64)
        self.ray = np.zeros((0, 2))
        self.rho = np.zeros(0)
        self.variance = np.zeros(0)
        self.descriptor = np.zeros((0, *descriptor_like.shape[1:]), descriptor_like.dtype)
        self.strikes = np.zeros(0, np.int64)
        self.sensor_rho = np.zeros(0)
        self.sensor_information = np.zeros(0)
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
        local = _homogeneous(self.ray[point]) / self.rho[point, None]
        return np.einsum('nij,nj->ni', T[:, :3, :3], local) + T[:, :3, 3]

    def sight_errors(self, sights: Sights, T_odom_camera: np.ndarray) -> np.ndarray:
        """(N,) distance on the plane z = 1 of each sight from where the map expects it.

        NaN for points without depth.
        """
        turned, shift = self._rays_seen_from(sights.point, T_odom_camera)
        p = turned + self.rho[sights.point, None] * shift
        error = np.linalg.norm(p[:, :2] / p[:, 2:] - sights.ray, axis=1)
        return np.where(self.has_depth[sights.point], error, np.nan)

    def depth_noise(self, point: np.ndarray, T_odom_camera: np.ndarray) -> np.ndarray:
        """(M,) how far, on the plane z = 1 of a camera, one sigma of depth moves each point."""
        turned, shift = self._rays_seen_from(point, T_odom_camera)
        p = turned + self.rho[point, None] * shift
        slope = (shift[:, :2] - p[:, :2] / p[:, 2:] * shift[:, 2:]) / p[:, 2:]
        return np.linalg.norm(slope, axis=1) * np.sqrt(self.variance[point])

    def add_keyframe(self, T_odom_camera: np.ndarray) -> int:
        """Append a keyframe without sights and return its row."""
        self.sights.append(NO_SIGHTS)
        self.T_odom_keyframe = np.concatenate([self.T_odom_keyframe, T_odom_camera[None]])
        return len(self.T_odom_keyframe) - 1

    def add_points(self, keyframe: int, ray: np.ndarray, features: Features) -> np.ndarray:
        """Append points without depth, first seen from `keyframe`.

        Args:
            keyframe: row of the keyframe.
            ray: (N, 2) coordinates on the plane z = 1.
            features: N features, for their descriptors.

        Returns:
            (N,) int64 indices of the new points.
        """
        count, first = len(ray), len(self)
        self.anchor = np.concatenate([self.anchor, np.full(count, keyframe, np.int64)])
        self.ray = np.concatenate([self.ray, ray])
        self.rho = np.concatenate([self.rho, np.full(count, UNKNOWN_RHO)])
        self.variance = np.concatenate([self.variance, np.full(count, np.inf)])
        self.descriptor = np.concatenate([self.descriptor, features.descriptor])
        self.strikes = np.concatenate([self.strikes, np.zeros(count, np.int64)])
        self.sensor_rho = np.concatenate([self.sensor_rho, np.zeros(count)])
        self.sensor_information = np.concatenate([self.sensor_information, np.zeros(count)])
        return np.arange(first, first + count)

    def triangulate(
        self, sights: Sights, T_odom_camera: np.ndarray, sigma_ray: float, min_parallax_rad: float
    ) -> None:
        """Fold sights from a known pose into the depths of their points.

        Points with depth get a Kalman update along their ray; points without get a depth when
        the parallax suffices and the two rays agree.

        Args:
            sights: what was seen.
            T_odom_camera: (4, 4) pose of the image.
            sigma_ray: standard deviation of a sight on the plane z = 1 (pixels / focal length).
            min_parallax_rad: angle between the rays a new point needs.
        """
        turned, shift = self._rays_seen_from(sights.point, T_odom_camera)
        known = self.has_depth[sights.point]
        self._update(sights[known], turned[known], shift[known], sigma_ray)
        fresh = ~known
        self._begin(sights[fresh], turned[fresh], shift[fresh], sigma_ray, min_parallax_rad)

    def fuse_depth(
        self, sights: Sights, depth: np.ndarray, T_odom_camera: np.ndarray, relative_sigma: float
    ) -> None:
        """Fold depth readings into the depths of the points seen there.

        Args:
            sights: what was seen.
            depth: (N,) depth along the optical axis of this image, NaN where unknown.
            T_odom_camera: (4, 4) pose of the image.
            relative_sigma: standard deviation of a reading divided by the reading.
        """
        turned, shift = self._rays_seen_from(sights.point, T_odom_camera)
        ahead = depth - shift[:, 2]
        with np.errstate(invalid='ignore', divide='ignore'):
            rho = turned[:, 2] / ahead
            variance = (relative_sigma * depth * rho / ahead) ** 2
        point, usable = sights.point, np.isfinite(rho) & (rho > 0) & (ahead > 0)
        old_rho, old_variance = self.rho[point], self.variance[point]
        # A reading that contradicts a well-known point is an edge or a reflection, not news.
        gate = (rho - old_rho) ** 2 < 9.0 * (variance + old_variance)
        usable &= gate | ~np.isfinite(old_variance)
        point = point[usable]
        weight_old = np.where(np.isfinite(old_variance), 1.0 / old_variance, 0.0)[usable]
        weight_new = 1.0 / variance[usable]
        total = weight_old + weight_new
        self.rho[point] = (weight_old * old_rho[usable] + weight_new * rho[usable]) / total
        self.variance[point] = 1.0 / total
        weight_old = self.sensor_information[point]
        total = weight_old + weight_new
        self.sensor_rho[point] = (
            weight_old * self.sensor_rho[point] + weight_new * rho[usable]
        ) / total
        self.sensor_information[point] = total

    def rescale(self, factor: float, about: np.ndarray) -> None:
        """Stretch the whole map by `factor` about the position `about` (3,), which stays."""
        position = self.T_odom_keyframe[:, :3, 3]
        self.T_odom_keyframe[:, :3, 3] = about + factor * (position - about)
        self.rho /= factor
        self.variance /= factor**2
        self.sensor_rho /= factor
        self.sensor_information *= factor**2

    def move(self, T_new_old: np.ndarray) -> None:
        """Re-express the map in another odom frame: poses become T_new_old @ pose."""
        self.T_odom_keyframe = T_new_old @ self.T_odom_keyframe

    def forget(self, window: int, max_strikes: int) -> np.ndarray:
        """Drop keyframes older than the window, their points, and points that struck out.

        Returns:
            (N,) int64: new index of every old point, -1 for the dropped.
        """
        dropped = max(0, len(self.T_odom_keyframe) - window)
        keep = (self.anchor >= dropped) & (self.strikes < max_strikes)
        new_index = np.full(len(self), -1, np.int64)
        new_index[keep] = np.arange(int(keep.sum()))
        self.T_odom_keyframe = self.T_odom_keyframe[dropped:]
        self.anchor = self.anchor[keep] - dropped
        for name in _PER_POINT:
            setattr(self, name, getattr(self, name)[keep])
        self.sights = [_renumbered(sights, new_index) for sights in self.sights[dropped:]]
        return new_index

    def _rays_seen_from(
        self, point: np.ndarray, T_odom_camera: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Per point, first ray and anchor position in the camera: p ~ turned + rho * shift."""
        T = se3.inverse(T_odom_camera) @ self.T_odom_keyframe
        T_camera_anchor = T[self.anchor[point]]
        rays = _homogeneous(self.ray[point])
        return np.einsum('nij,nj->ni', T_camera_anchor[:, :3, :3], rays), T_camera_anchor[:, :3, 3]

    def _update(
        self, sights: Sights, turned: np.ndarray, shift: np.ndarray, sigma_ray: float
    ) -> None:
        point = sights.point
        p = turned + self.rho[point, None] * shift
        predicted = p[:, :2] / p[:, 2:]
        slope = (shift[:, :2] - predicted * shift[:, 2:]) / p[:, 2:]  # d predicted / d rho
        residual = sights.ray - predicted
        steep = np.einsum('ni,ni->n', slope, slope)
        information = steep / sigma_ray**2
        # Only the residual along the epipolar line speaks of depth; 3 sigma of both guard it.
        along = np.einsum('ni,ni->n', slope, residual)
        allowed = 9.0 * steep * (sigma_ray**2 + steep * self.variance[point])
        good = (p[:, 2] > 0) & (along**2 <= allowed)
        variance = 1.0 / (1.0 / self.variance[point] + information)
        rho = self.rho[point] + variance * along / sigma_ray**2
        good &= rho > 0
        self.rho[point[good]] = rho[good]
        self.variance[point[good]] = variance[good]

    def _begin(
        self,
        sights: Sights,
        turned: np.ndarray,
        shift: np.ndarray,
        sigma_ray: float,
        min_parallax_rad: float,
    ) -> None:
        # ray x (turned + rho shift) = 0, solved for rho by least squares
        a = shift[:, :2] - sights.ray * shift[:, 2:]
        c = turned[:, :2] - sights.ray * turned[:, 2:]
        steep = np.einsum('ni,ni->n', a, a)
        with np.errstate(invalid='ignore', divide='ignore'):
            rho = -np.einsum('ni,ni->n', a, c) / steep
            p = turned + rho[:, None] * shift
            error = np.linalg.norm(p[:, :2] / p[:, 2:] - sights.ray, axis=1)
            slope2 = steep / p[:, 2] ** 2
        seen = _homogeneous(sights.ray)
        good = _angle(turned, seen) >= min_parallax_rad
        good &= (rho > 0) & (p[:, 2] > 0) & (error < 3.0 * sigma_ray)
        point = sights.point[good]
        self.rho[point] = rho[good]
        self.variance[point] = sigma_ray**2 / slope2[good]


def _renumbered(sights: Sights, new_index: np.ndarray) -> Sights:
    point = new_index[sights.point]
    kept = point >= 0
    return Sights(point[kept], sights.xy[kept], sights.ray[kept])


def _homogeneous(ray: np.ndarray) -> np.ndarray:
    return np.concatenate([ray, np.ones((len(ray), 1))], axis=1)


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    cross = np.linalg.norm(np.cross(a, b), axis=1)
    return np.arctan2(cross, np.einsum('ni,ni->n', a, b))
