"""Points before ideal cameras: the truth behind the tests of single odometry modules."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.local_map import LocalMap, Sights
from kpvo_ros.types import Features

CAMERA = Camera(640, 480, 500.0, 500.0, 319.5, 239.5)
COVARIANCE = 1e-6 * np.eye(6)
IMAGE = np.zeros((CAMERA.height, CAMERA.width), np.uint8)  # nobody looks at it


def features(xy: np.ndarray) -> Features:
    """Features whose descriptor is their row number."""
    rows = np.arange(len(xy), dtype=np.uint8)
    return Features(xy.astype(np.float32), np.ones(len(xy), np.float32), rows[:, None])


def rays_of(position: np.ndarray, T_odom_camera: np.ndarray) -> np.ndarray:
    """(N, 2) where points in odom coordinates appear on the plane z = 1."""
    local = (position - T_odom_camera[:3, 3]) @ T_odom_camera[:3, :3]
    return local[:, :2] / local[:, 2:]


def sights_of(
    point: np.ndarray,
    position: np.ndarray,
    T_odom_camera: np.ndarray,
    noise: npt.ArrayLike = 0.0,
) -> Sights:
    """Sights of points at known positions."""
    ray = rays_of(position, T_odom_camera) + np.asarray(noise)
    xy = ray * (CAMERA.fx, CAMERA.fy) + (CAMERA.cx, CAMERA.cy)
    return Sights(point, xy.astype(np.float32), ray)


def cloud(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 3) points two to eight metres ahead (z forward)."""
    depth = rng.uniform(2.0, 8.0, count)
    ray = rng.uniform(-0.5, 0.5, (count, 2))
    return np.column_stack([ray * depth[:, None], depth])


def add_view(local_map: LocalMap, T_odom_camera: np.ndarray) -> int:
    """A keyframe without sights, a tenth of a second after the one before; returns its row."""
    stamp_ns = 100_000_000 * (1 + len(local_map.stamp_ns))
    return local_map.add_keyframe(stamp_ns, T_odom_camera, COVARIANCE, IMAGE)


def map_of(position: np.ndarray, T_odom_camera: np.ndarray, with_depth: bool = False) -> LocalMap:
    """A map of one keyframe that sees all points; their depths are exact or unknown."""
    local_map = LocalMap(np.zeros((0, 1), np.uint8))
    keyframe = add_view(local_map, T_odom_camera)
    ray = rays_of(position, T_odom_camera)
    point = local_map.add_points(keyframe, ray, features(ray))
    local_map.sights[keyframe] = sights_of(point, position, T_odom_camera)
    if with_depth:
        local = (position - T_odom_camera[:3, 3]) @ T_odom_camera[:3, :3]
        local_map.rho[:] = 1.0 / local[:, 2]
        local_map.variance[:] = 1e-6
    return local_map


def pose(x: float, y: float, z: float, turn: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    return se3.from_rt(se3.exp_so3(np.array(turn, float)), [x, y, z])
