"""Filming a world: frames with depth and ground truth, one after the other.

The frames are what a camera driver and a depth sensor would give (`types.Frame`); the truth comes
along beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses

import numpy as np
import torch

from kpvo_ros.geometry.camera import Camera
from kpvo_ros.synthetic.effects import CameraEffects, develop
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.trajectory import CameraPath
from kpvo_ros.synthetic.world import World
from kpvo_ros.types import Frame, Trajectory

CAMERA = Camera(320, 240, 230.0, 230.0, 159.5, 119.5)
REAL_CAMERA = CameraEffects(noise=0.012, vignetting=0.15)


@dataclasses.dataclass(frozen=True, eq=False)
class RenderedFrame:
    """One frame and the truth about it.

    Attributes:
        frame: what the sensors give.
        T_world_camera: (4, 4) pose of the optical frame.
        T_world_base: (4, 4) pose of the base.
        object_id: (H, W) int32 object at each pixel, -1 for the sky.
    """

    frame: Frame
    T_world_camera: np.ndarray
    T_world_base: np.ndarray
    object_id: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SyntheticSequence:
    """A camera on its way through a world.

    Attributes:
        name: of the preset.
        seed: it was made from; also seeds the noise.
        world: what is filmed.
        path: where the camera goes.
        camera: its intrinsics.
        effects: its imperfections.
        frame_id: name of the optical frame.
    """

    name: str
    seed: int
    world: World
    path: CameraPath
    camera: Camera = CAMERA
    effects: CameraEffects = REAL_CAMERA
    frame_id: str = 'camera_optical_frame'

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.path)

    @property
    def ground_truth(self) -> Trajectory:
        """Poses of the optical frame in the world."""
        return self.path.trajectory

    def shortened(self, frames: int) -> SyntheticSequence:
        """The first frames only."""
        path = dataclasses.replace(
            self.path,
            stamps_ns=self.path.stamps_ns[:frames],
            T_world_base=self.path.T_world_base[:frames],
        )
        return dataclasses.replace(self, path=path)

    def frames(
        self, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[RenderedFrame]:
        """Render frame after frame.

        Args:
            progress: called with the number of frames done and their total.
        """
        for index in range(len(self)):
            yield self.frame(index)
            if progress is not None:
                progress(index + 1, len(self))

    def frame(self, index: int) -> RenderedFrame:
        """Render one frame; the same index gives the same bytes in any order of calls."""
        stamp_ns = int(self.path.stamps_ns[index])
        time_s = (stamp_ns - int(self.path.stamps_ns[0])) * 1e-9
        offsets_s = self.effects.shutter_offsets_s()
        middle = len(offsets_s) // 2
        poses = self.path.camera_at(stamp_ns + np.round(offsets_s * 1e9).astype(np.int64))
        poses[middle] = self.path.T_world_camera[index]
        shot = render(self.world, poses, self.camera, time_s=time_s + offsets_s)
        noise = torch.Generator(shot.radiance.device).manual_seed(self.seed * 1_000_003 + index)
        radiance = shot.radiance.mean(dim=0, keepdim=True)
        image = develop(radiance, self.effects, torch.tensor([time_s]), noise)[0]
        frame = Frame(
            stamp_ns,
            image.cpu().numpy(),
            self.camera,
            self.frame_id,
            shot.depth_m[middle].cpu().numpy(),
        )
        object_id = shot.object_id[middle].to(torch.int32).cpu().numpy()
        return RenderedFrame(frame, poses[middle], self.path.T_world_base[index], object_id)


def render_sequence(
    world: World,
    path: CameraPath,
    camera: Camera = CAMERA,
    *,
    effects: CameraEffects = REAL_CAMERA,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[RenderedFrame]:
    """Render any path through any world, see `SyntheticSequence.frames`."""
    return SyntheticSequence('custom', seed, world, path, camera, effects).frames(progress)
