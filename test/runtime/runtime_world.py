"""A small world of textured rectangles and the camera that films it, for the run-time tests.

Independent of the package's renderer: rays meet planes, textures are looked up by OpenCV. World
axes are those of REP-103 (z up); the base starts at a place of the room, so that every test also
notices when somebody takes odom for the world.
"""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
from typing import Any

import cv2
import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.config.schema import with_words
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import Frame, OdometryEstimate, Status

CAMERA = Camera(320, 240, 230.0, 230.0, 159.5, 119.5)
START_NS = 1_700_000_000_123_456_789
PERIOD_NS = 50_000_000
TEXEL_M = 0.012
CAMERA_HEIGHT_M = 0.9
# The camera sits ahead of and above the base, and looks a little to the left and down.
T_BASE_CAMERA = np.eye(4)
T_BASE_CAMERA[:3, :3] = (
    Rotation.from_euler('xyz', [0.0, 0.1, 0.15]).as_matrix() @ se3.T_BASE_OPTICAL[:3, :3]
)
T_BASE_CAMERA[:3, 3] = (0.2, 0.05, CAMERA_HEIGHT_M)


@dataclasses.dataclass(frozen=True)
class Rectangle:
    """A textured piece of a plane: corner, the vectors along its sides, and its picture."""

    corner: np.ndarray
    side_u: np.ndarray
    side_v: np.ndarray
    texture: np.ndarray


def make_rectangle(
    rng: np.random.Generator, corner: Any, side_u: Any, side_v: Any, texture: str = 'rich'
) -> Rectangle:
    corner, side_u, side_v = (np.asarray(x, float) for x in (corner, side_u, side_v))
    size = [max(8, round(float(np.linalg.norm(side)) / TEXEL_M)) for side in (side_v, side_u)]
    picture = rich_texture(rng, size) if texture == 'rich' else np.full(size, 128.0, np.float32)
    return Rectangle(corner, side_u, side_v, picture)


def rich_texture(rng: np.random.Generator, size: list[int]) -> np.ndarray:
    """Noise of several scales and patches with corners; smooth at the scale of a pixel."""
    height, width = size
    picture = np.full(size, 110.0, np.float32)
    for sigma, strength in ((2.0, 25.0), (6.0, 25.0), (20.0, 25.0)):
        noise = cv2.GaussianBlur(rng.normal(size=size).astype(np.float32), (0, 0), sigma)
        picture += strength * noise / noise.std()
    for _ in range(height * width // 1500):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(4, 26, size=2)
        cv2.rectangle(
            picture, (int(x), int(y)), (int(x + w), int(y + h)), rng.uniform(10, 245), -1
        )
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.0), np.float32)


class World:
    """Rectangles, filmed by a pinhole camera."""

    def __init__(self, rectangles: Iterable[Rectangle]) -> None:
        self._rectangles = list(rectangles)

    def film(self, T_world_camera: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 picture and (H, W) float32 depth, NaN where there is nothing."""
        shape = (camera.height, camera.width)
        grid = np.indices(shape, dtype=float)
        rays = np.stack(
            [(grid[1] - camera.cx) / camera.fx, (grid[0] - camera.cy) / camera.fy, np.ones(shape)],
            axis=-1,
        )
        rays = rays @ T_world_camera[:3, :3].T
        depth = np.full(shape, np.inf)
        image = np.zeros(shape, np.float32)
        for one in self._rectangles:
            self._paint(one, T_world_camera[:3, 3], rays, depth, image)
        depth[~np.isfinite(depth)] = np.nan
        gray = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2), depth.astype(np.float32)

    @staticmethod
    def _paint(
        one: Rectangle, eye: np.ndarray, rays: np.ndarray, depth: np.ndarray, image: np.ndarray
    ) -> None:
        # eye + t ray = corner + u side_u + v side_v, for t, u, v of every pixel at once.
        normal = np.cross(one.side_u, one.side_v)
        with np.errstate(divide='ignore', invalid='ignore'):
            t = ((one.corner - eye) @ normal) / (rays @ normal)
        off = eye - one.corner
        u, v = (
            (off @ side + t * (rays @ side)) / (side @ side) for side in (one.side_u, one.side_v)
        )
        hit = (t > 0.05) & (t < depth) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
        if not hit.any():
            return
        height, width = one.texture.shape
        x, y = np.where(hit, u, 0) * (width - 1), np.where(hit, v, 0) * (height - 1)
        value = cv2.remap(
            one.texture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR
        )
        depth[hit], image[hit] = t[hit], value[hit]


def make_room(rng: np.random.Generator) -> World:
    """8 m by 6 m by 3 m with two pillars and a table; its floor is z = 0."""
    x, y, z = np.diag([8.0, 6.0, 3.0])
    o = np.zeros(3)
    walls = [(o, x, y), (o + z, x, y), (o, x, z), (o + y, x, z), (o, y, z), (o + x, y, z)]
    for corner, w, h in (((5.2, 1.0, 0.0), 0.5, 3.0), ((6.0, 4.3, 0.0), 0.4, 3.0),
                         ((4.2, 4.6, 0.0), 0.8, 0.7)):  # fmt: skip
        walls += box_sides(np.array(corner), w, h)
    return World(make_rectangle(rng, *wall) for wall in walls)


def box_sides(corner: np.ndarray, width: float, height: float) -> list[tuple[Any, Any, Any]]:
    x, y, z = np.diag([width, width, height])
    return [
        (corner, x, z), (corner + y, x, z), (corner, y, z), (corner + x, y, z), (corner + z, x, y)
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Film:
    """Frames of a camera and where it really was.

    Attributes:
        frames: one after the other, with depth.
        T_odom_base: (N, 4, 4) truth, in the frame of the first base pose.
    """

    frames: list[Frame]
    T_odom_base: np.ndarray

    @property
    def path_m(self) -> float:
        return float(np.linalg.norm(np.diff(self.T_odom_base[:, :3, 3], axis=0), axis=1).sum())


def shoot(
    world: World,
    T_world_base: np.ndarray,
    camera: Camera = CAMERA,
    noise: float = 1.5,
    T_base_camera: np.ndarray = T_BASE_CAMERA,
) -> Film:
    """Film along a path, 20 frames a second, with pixel noise."""
    rng = np.random.default_rng(99)
    frames = []
    for index, T in enumerate(T_world_base):
        image, depth_m = world.film(T @ T_base_camera, camera)
        grain = rng.normal(0.0, noise, image.shape[:2])[..., None]
        image = np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)
        frames.append(Frame(START_NS + index * PERIOD_NS, image, camera, depth_m=depth_m))
    return Film(frames, se3.inverse(T_world_base[0]) @ T_world_base)


def path_through(knots: Any, yaws: Any, count: int) -> np.ndarray:
    """(count, 4, 4) smooth base poses on the floor through (x, y) knots with headings."""
    place = np.linspace(0.0, 1.0, len(knots))
    when = np.linspace(0.0, 1.0, count)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :2, 3] = CubicSpline(place, np.asarray(knots, float))(when)
    T[:, :3, :3] = Slerp(place, Rotation.from_rotvec(np.outer(yaws, [0, 0, 1])))(when).as_matrix()
    return T


def sideways_walk(count: int) -> np.ndarray:
    """An arc through the room, a little over three metres."""
    return path_through(
        [(1.2, 1.5), (2.0, 2.2), (2.6, 3.2), (3.4, 3.4)], [0.3, 0.1, -0.2, -0.1], count
    )


def config(*words: str) -> VoConfig:
    """Defaults of a small image, one thread; `words` are key=value."""
    base = ('scale.source=depth', 'frontend.max_keypoints=500', 'frontend.threads=1')
    return with_words(VoConfig(), [*base, *words])


def run(
    frames: Iterable[Frame], *words: str, T_base_camera: np.ndarray = T_BASE_CAMERA
) -> list[OdometryEstimate]:
    """A fresh odometry over all frames."""
    odometry = Odometry(config(*words), T_base_camera)
    estimates = [odometry.step(frame) for frame in frames]
    odometry.close()
    return estimates


def replayed(
    frames: Iterable[Frame], *words: str, T_base_camera: np.ndarray = T_BASE_CAMERA
) -> tuple[list[OdometryEstimate], list[OdometryEstimate]]:
    """The same as a recording is treated: (answers in time, poses told late)."""
    odometry = Odometry(config(*words), T_base_camera, tells_late=True)
    estimates, late = [], []
    for frame in frames:
        estimates.append(odometry.step(frame))
        late += odometry.take_late()
    odometry.close()
    return estimates, late


def poses_of(estimates: Iterable[OdometryEstimate]) -> np.ndarray:
    return np.stack([estimate.T_odom_base for estimate in estimates])


def position_errors_m(estimates: list[OdometryEstimate], truth: np.ndarray) -> np.ndarray:
    """(N,) metres, without any alignment: odom starts at the first base pose."""
    return np.linalg.norm(poses_of(estimates)[:, :3, 3] - truth[:, :3, 3], axis=1)


def turn_errors_deg(estimates: list[OdometryEstimate], truth: np.ndarray) -> np.ndarray:
    R = poses_of(estimates)[:, :3, :3]
    off = Rotation.from_matrix(np.swapaxes(truth[:, :3, :3], 1, 2) @ R)
    return np.rad2deg(off.magnitude())


def in_order(frames: Iterable[Frame]) -> list[Frame]:
    """The same frames, one after the other in time."""
    return [
        dataclasses.replace(frame, stamp_ns=START_NS + row * PERIOD_NS)
        for row, frame in enumerate(frames)
    ]


def black(frame: Frame) -> Frame:
    """What a covered camera sends."""
    return dataclasses.replace(frame, image=np.zeros_like(frame.image))


def from_first_pose(
    estimates: list[OdometryEstimate], truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Poses in the map and their truth, both relative to the first of them."""
    rows = [row for row, one in enumerate(estimates) if one.status is Status.TRACKING]
    poses, truth = poses_of(estimates)[rows], truth[rows]
    return se3.inverse(poses[0]) @ poses, se3.inverse(truth[0]) @ truth


def best_scale(poses: np.ndarray, truth: np.ndarray) -> float:
    """Least squares metres per unit of poses that begin at the same place."""
    measured, wanted = poses[:, :3, 3], truth[:, :3, 3]
    return float((measured * wanted).sum() / (measured**2).sum())


def statuses(estimates: Iterable[OdometryEstimate]) -> str:
    """One letter per frame: Starting, Tracking, Degraded, Lost."""
    return ''.join(estimate.status.value[0].upper() for estimate in estimates)
