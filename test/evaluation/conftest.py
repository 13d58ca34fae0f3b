"""Truth for the evaluation tests: smooth random walks made with scipy, not with the package."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.types import Trajectory

Walk = Callable[..., Trajectory]


def make_walk(seed: int = 0, count: int = 60, step_m: float = 0.5, rate_hz: float = 10.0):
    """A path that turns slowly in all directions."""
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    R = Rotation.random(random_state=seed)
    position = rng.normal(size=3)
    for pose in poses:
        pose[:3, :3], pose[:3, 3] = R.as_matrix(), position
        position = position + R.apply([step_m, 0.0, 0.0])
        R = R * Rotation.from_rotvec(rng.normal(scale=0.1, size=3) + [0.0, 0.0, 0.05])
    stamps = 1_700_000_000_000_000_000 + np.arange(count) * int(1e9 / rate_hz)
    return Trajectory(stamps.astype(np.int64), poses)


def make_noisy(trajectory: Trajectory, seed: int = 1, metres: float = 0.05, rad: float = 0.02):
    """The same walk, each pose disturbed on its own."""
    rng = np.random.default_rng(seed)
    poses = trajectory.poses.copy()
    turns = Rotation.from_rotvec(rng.normal(scale=rad, size=(len(poses), 3))).as_matrix()
    poses[:, :3, :3] = poses[:, :3, :3] @ turns
    poses[:, :3, 3] += rng.normal(scale=metres, size=(len(poses), 3))
    return Trajectory(trajectory.stamps_ns, poses)


def make_pose(seed: int = 2) -> np.ndarray:
    """A random pose some metres away."""
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    T[:3, 3] = np.random.default_rng(seed).normal(scale=5.0, size=3)
    return T


@pytest.fixture
def walk() -> Trajectory:
    return make_walk()


@pytest.fixture
def walk_of() -> Walk:
    return make_walk


@pytest.fixture
def noisy_of() -> Walk:
    return make_noisy


@pytest.fixture
def pose_of() -> Callable[[int], np.ndarray]:
    return make_pose
