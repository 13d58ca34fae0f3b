"""Two places from which one sees the same: wide baselines with enough in common."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import T_BASE_OPTICAL, from_rt, rpy_to_matrix
from kpvo_ros.synthetic.correspondence import from_depth
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.world_choice import SceneWorld

_CANDIDATES = 6
_ROUNDS = 8
_SHARED = (0.3, 0.85)  # share of the pixels that the other view must and may see
_LEAST_SHARED = 0.12  # of a pair taken for want of a better one
_LOW_PX = 48  # side of the small renderings that decide
_TOLERANCE = 0.05
_NEAR_M = 0.35
_TIME_S = 12.0
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True, eq=False)
class Viewpoints:
    """Where and when two pictures are taken.

    Attributes:
        T_world_camera0, T_world_camera1: (4, 4) float64 poses of the optical frames.
        time0_s, time1_s: instants, which decide where moving things are.
        shared: share of the pixels of either view that the other sees, the smaller of both.
    """

    T_world_camera0: np.ndarray
    T_world_camera1: np.ndarray
    time0_s: float
    time1_s: float
    shared: float


def choose_viewpoints(scene: SceneWorld, camera: Camera, rng: Rng) -> Viewpoints:
    """Draw pairs of viewpoints until one shares enough, measured on small renderings.

    Raises:
        SyntheticError: no pair shares anything, the world's path does not suit it.
    """
    small = camera.resized(_LOW_PX, _LOW_PX)
    best: Viewpoints | None = None
    for _ in range(_ROUNDS):
        drawn = [_draw(scene, rng) for _ in range(_CANDIDATES)]
        poses = np.stack([pose for pair in drawn for pose in pair])
        depth = render(scene.world, poses, small, shadows=False, antialias=False).depth_m
        shared = _shared(depth[0::2], depth[1::2], poses, small)
        for (pose0, pose1), share in zip(drawn, shared.tolist(), strict=True):
            time0, time1 = (float(t) for t in rng.uniform(0, _TIME_S, 2))
            spots = Viewpoints(pose0, pose1, time0, time1, share)
            if _SHARED[0] <= share <= _SHARED[1]:
                return spots
            if share <= _SHARED[1] and (best is None or share > best.shared):
                best = spots
    if best is None or best.shared < _LEAST_SHARED:
        raise SyntheticError('no two viewpoints of this world see the same: use another seed')
    return best


def _draw(scene: SceneWorld, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """A place on the path with a turned head, and one nearby that looks at the same point."""
    poses = scene.path.T_world_camera
    first = poses[int(rng.integers(len(poses)))]
    low, high = scene.reach_m
    distance = float(rng.uniform(low, high))
    forward = first[:3, 2]
    yaw = np.arctan2(forward[1], forward[0]) + float(rng.normal(0, 0.5))
    place0 = first[:3, 3] + rng.normal(0, 0.04, 3) * distance
    place0[2] = first[2, 3] + float(rng.uniform(-0.25, 0.5))
    gaze = np.array([np.cos(yaw), np.sin(yaw), float(rng.normal(-0.03, 0.08))])
    target = place0 + distance * gaze
    away = np.linalg.norm(poses[:, :3, 3] - first[:3, 3], axis=1)
    near = (away < 0.75 * distance).nonzero()[0]
    place1 = poses[int(rng.choice(near)), :3, 3] + rng.normal(0, 0.05, 3) * distance
    place1[2] = first[2, 3] + float(rng.uniform(-0.3, 0.6))
    aim = target + rng.normal(0, 0.12, 3) * distance
    return _looking(place0, target, rng), _looking(place1, aim, rng)


def _looking(place: np.ndarray, target: np.ndarray, rng: Rng) -> np.ndarray:
    """Pose of the optical frame at a place, towards a target, held a little askew."""
    x, y, z = target - place
    yaw, pitch = np.arctan2(y, x), -np.arctan2(z, np.hypot(x, y))
    roll = float(rng.normal(0, 0.1))
    return from_rt(rpy_to_matrix(roll, float(pitch), float(yaw)), place) @ T_BASE_OPTICAL


def _shared(depth0: Tensor, depth1: Tensor, poses: np.ndarray, camera: Camera) -> Tensor:
    """(N,) the smaller of the two shares; 0 where a camera stands in or at something."""
    T_1_0 = np.linalg.inv(poses[1::2]) @ poses[0::2]
    K = torch.tensor(camera.K, dtype=torch.float32, device=depth0.device)
    K = K.expand(len(depth0), 3, 3)
    T = torch.from_numpy(T_1_0).float().to(depth0.device)
    ways = from_depth(depth0, depth1, T, K, tolerance=_TOLERANCE)
    shares = torch.stack([way.visible.float().mean(dim=(1, 2)) for way in ways]).amin(dim=0)
    near = torch.stack([(d < _NEAR_M).float().mean(dim=(1, 2)) for d in (depth0, depth1)])
    return torch.where(near.amax(dim=0) > 0.05, 0.0, shares)
