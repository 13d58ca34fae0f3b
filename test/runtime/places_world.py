"""Points with descriptors of their own, seen by an ideal camera: places that can be recognised.

No images: what a detector would deliver is drawn directly, with pixel noise, flipped bits, missed
points and clutter, so the truth of every pair is known.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from points_world import CAMERA

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.recall import StoredKeyframe
from kpvo_ros.types import Features

BYTES = 32
SIGMA_PX = 0.5
DEPTH_SIGMA = 0.01  # of the depth, relative
LOOKS = np.zeros(16, np.float32)  # nothing in the whole image tells places apart


@dataclasses.dataclass(frozen=True)
class Places:
    """Points of a world.

    Attributes:
        position: (N, 3).
        descriptor: (N, 32) uint8.
    """

    position: np.ndarray
    descriptor: np.ndarray

    def visible(self, T_world_camera: np.ndarray, reach_m: float = 12.0) -> np.ndarray:
        """(M,) rows of the points inside the image."""
        local = se3.transform(se3.inverse(T_world_camera), self.position)
        with np.errstate(invalid='ignore', divide='ignore'):
            inside = CAMERA.contains(CAMERA.project(local), 2.0)
        return np.flatnonzero(inside & (local[:, 2] > 0.3) & (local[:, 2] < reach_m))

    def see(
        self,
        T_world_camera: np.ndarray,
        rng: np.random.Generator,
        clutter: int = 100,
        missed: float = 0.3,
        flips: float = 0.06,
    ) -> tuple[Features, np.ndarray]:
        """Features of an image, and the row of the point each shows (-1 for clutter)."""
        rows = self.visible(T_world_camera)
        rows = rng.permutation(rows[rng.random(len(rows)) >= missed])
        xy = self._pixels(rows, T_world_camera) + rng.normal(0, SIGMA_PX, (len(rows), 2))
        bits = np.unpackbits(self.descriptor[rows], axis=1)
        bits = bits ^ (rng.random(bits.shape) < flips)
        nowhere = rng.uniform((0, 0), (CAMERA.width, CAMERA.height), (clutter, 2))
        descriptor = np.concatenate([np.packbits(bits, axis=1), random_descriptors(rng, clutter)])
        xy = np.concatenate([xy, nowhere]).astype(np.float32)
        features = Features(xy, np.ones(len(xy), np.float32), descriptor)
        return features, np.concatenate([rows, np.full(clutter, -1)])

    def keyframe(
        self,
        number: int,
        T_world_camera: np.ndarray,
        rng: np.random.Generator,
        T_odom_camera: np.ndarray | None = None,
        period_ns: int = 1_000_000_000,
    ) -> tuple[StoredKeyframe, np.ndarray]:
        """A keyframe with noisy depths, and the row of the point behind each of its points."""
        rows = self.visible(T_world_camera)
        ray = CAMERA.unproject(self._pixels(rows, T_world_camera))[:, :2]
        depth = se3.transform(se3.inverse(T_world_camera), self.position[rows])[:, 2]
        rho = 1.0 / (depth * (1.0 + rng.normal(0, DEPTH_SIGMA, len(rows))))
        stored = StoredKeyframe(
            id=number,
            stamp_ns=number * period_ns,
            T_odom_camera=T_world_camera if T_odom_camera is None else T_odom_camera,
            covariance=np.eye(6) * 1e-6,
            ray=ray,
            rho=rho,
            variance=(DEPTH_SIGMA * rho) ** 2,
            descriptor=self.descriptor[rows],
            appearance=LOOKS,
        )
        return stored, rows

    def _pixels(self, rows: np.ndarray, T_world_camera: np.ndarray) -> np.ndarray:
        local = se3.transform(se3.inverse(T_world_camera), self.position[rows])
        return np.asarray(CAMERA.project(local))


def random_descriptors(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, BYTES), dtype=np.uint8)


def box_of_points(rng: np.random.Generator, low: tuple, high: tuple, count: int) -> Places:
    """Points all over a box."""
    return Places(rng.uniform(low, high, (count, 3)), random_descriptors(rng, count))


def together(*places: Places) -> Places:
    return Places(
        np.concatenate([one.position for one in places]),
        np.concatenate([one.descriptor for one in places]),
    )


def level_camera(x: float, y: float, yaw_rad: float) -> np.ndarray:
    """(4, 4) camera at a place of the floor plane, looking along a heading (z up, x ahead)."""
    R = se3.rpy_to_matrix(0.0, 0.0, yaw_rad)
    return se3.from_rt(R, [x, y, 0.0]) @ se3.T_BASE_OPTICAL


def room_ahead(rng: np.random.Generator, x: float, count: int = 300) -> Places:
    """Points three to eight metres ahead of a camera that stands at (x, 0) and looks along +y."""
    return box_of_points(rng, (x - 3.0, 3.0, -2.0), (x + 3.0, 8.0, 2.0), count)


AHEAD = np.pi / 2  # heading that looks into `room_ahead`
