"""A short film of a rendered room, with its truth: moving, standing, turning, moving again."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from torch import Tensor

from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import from_rt, inverse, rpy_to_matrix
from kpvo_ros.methods.crossview.video_selection import Recording, VideoDataConfig
from kpvo_ros.synthetic.indoor import make_room
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.texture import standard_atlas
from kpvo_ros.synthetic.trajectory import walk_room

CAMERA = Camera(96, 64, 80.0, 82.0, 46.1, 32.3)
SIZE_HW = (CAMERA.height, CAMERA.width)
MOVING, STANDING, TURNING = range(0, 9), range(9, 14), range(14, 21)
MOVING_AGAIN = range(21, 29)
TURN_RAD = 0.06  # from frame to frame
CONFIG = VideoDataConfig(
    width_px=96, height_px=64, min_parallax_px=1.0, max_parallax_px=16.0, max_gap=3
)


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
    """Pictures and truth.

    Attributes:
        recording: N pictures with a little noise of the sensor.
        depth_m: (N, 1, H, W) float32.
        T_world_camera: (N, 4, 4) float64.
    """

    recording: Recording
    depth_m: Tensor
    T_world_camera: np.ndarray

    def motion(self, first: int, second: int) -> np.ndarray:
        """(4, 4) T_second_first."""
        return inverse(self.T_world_camera[second]) @ self.T_world_camera[first]

    def parallax_px(self, first: int, second: int, xy: np.ndarray | None = None) -> float:
        """Median way of what is seen, less that of a camera that only turns.

        `xy` (N, 2) are the pixels of the first frame where it is looked at, all by default.
        """
        xy = CAMERA.pixel_centers().reshape(-1, 2) if xy is None else xy
        column, row = xy.round().astype(int).T
        depth_m = self.depth_m[first, 0].double().numpy()[row, column]
        points = CAMERA.unproject(xy) * depth_m[:, None]
        T = self.motion(first, second)
        turned = points @ T[:3, :3].T
        apart = CAMERA.project(turned + T[:3, 3]) - CAMERA.project(turned)
        return float(np.nanmedian(np.linalg.norm(apart, axis=-1)))


@functools.cache
def world() -> object:
    return make_room(3, atlas=standard_atlas(0, 128))


@functools.cache
def film() -> Film:
    poses = _path()
    shot = render(world(), poses, CAMERA)  # type: ignore[arg-type]
    noise = torch.randn(shot.image.shape, generator=torch.Generator().manual_seed(0))
    pictures = (shot.image + 1.5 * noise).round().clamp(0, 255).to(torch.uint8)
    recording = Recording(
        'film',
        pictures.permute(0, 3, 1, 2).contiguous(),
        np.arange(len(poses)) * 100_000_000,
        torch.tensor(CAMERA.K.copy(), dtype=torch.float32),
    )
    return Film(recording, shot.depth_m[:, None], poses)


def _path() -> np.ndarray:
    """(29, 4, 4): a walk with a rest, during which the camera looks to the side and back."""
    walk = walk_room(3, fps=10.0).T_world_camera[20:]
    stands = walk[[MOVING[-1]] * len(STANDING)]
    angles = TURN_RAD * np.array([1, 2, 3, 4, 3, 2, 1])
    turns = [
        walk[MOVING[-1]] @ from_rt(rpy_to_matrix(0.0, angle, 0.0), np.zeros(3)) for angle in angles
    ]
    again = walk[MOVING[-1] + 1 : MOVING[-1] + 1 + len(MOVING_AGAIN)]
    return np.concatenate([walk[: len(MOVING)], stands, np.stack(turns), again])
