"""Recorded sequences that never existed: frames with depth and ground truth, by name and seed.

seq = sequence('loop_200m', seed=0)
for item in seq.frames():
    item.frame        # types.Frame, as a camera driver and a depth sensor would give it
seq.ground_truth      # types.Trajectory of the optical frame
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import math

import numpy as np
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.synthetic import trajectory as paths
from kpvo_ros.synthetic.effects import CameraEffects, develop
from kpvo_ros.synthetic.indoor import make_corridor, make_room
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.streets import make_loop_street, make_street
from kpvo_ros.synthetic.trajectory import CameraPath, Glance, Stop
from kpvo_ros.synthetic.world import World
from kpvo_ros.types import Frame, Trajectory

CAMERA = Camera(320, 240, 230.0, 230.0, 159.5, 119.5)
START_NS = 1_700_000_000_000_000_000  # sequences begin at a plausible time of day
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
class Sequence:
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

    def shortened(self, frames: int) -> Sequence:
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
    """Render any path through any world, see `Sequence.frames`."""
    return Sequence('custom', seed, world, path, camera, effects).frames(progress)


def sequence(
    name: str,
    seed: int = 0,
    *,
    fps: float | None = None,
    camera: Camera = CAMERA,
    effects: CameraEffects | None = None,
    device: torch.device | str = 'cpu',
) -> Sequence:
    """A preset by name.

    Args:
        name: one of `PRESETS`.
        seed: the world, the path, and the noise.
        fps: frames a second, the preset's own by default.
        camera: intrinsics.
        effects: replaces those of the preset.
        device: where to render.

    Raises:
        SyntheticError: there is no such preset.
    """
    if name not in PRESETS:
        raise SyntheticError(f'no synthetic sequence {name!r}: use one of {", ".join(PRESETS)}')
    preset = PRESETS[name]
    world, path = preset.make(seed, fps or preset.fps)
    if effects is None:
        effects = preset.effects
    return Sequence(name, seed, world.to(device), path, camera, effects)


Made = tuple[World, CameraPath]


def _loop(seed: int, fps: float, length_m: float) -> Made:
    path = paths.loop(seed, length_m, fps=fps, start_ns=START_NS)
    return make_loop_street(seed, length_m=length_m, n_objects=round(0.3 * length_m)), path


def _loop_200m(seed: int, fps: float) -> Made:
    return _loop(seed, fps, 200.0)


def _loop_400m(seed: int, fps: float) -> Made:
    return _loop(seed, fps, 400.0)


def _street(seed: int, fps: float) -> Made:
    return make_street(seed), paths.drive(seed, fps=fps, start_ns=START_NS)


def _street_busy(seed: int, fps: float) -> Made:
    return make_street(seed, n_moving=8), paths.drive(seed, fps=fps, start_ns=START_NS)


def _street_fog(seed: int, fps: float) -> Made:
    world = make_street(seed, lighting=Lighting.overcast(fog_per_m=0.03))
    return world, paths.drive(seed, fps=fps, start_ns=START_NS)


def _street_night(seed: int, fps: float) -> Made:
    world = make_street(seed, lighting=Lighting.night(()))
    return world, paths.drive(seed, fps=fps, start_ns=START_NS)


def _room(seed: int, fps: float) -> Made:
    return make_room(seed), paths.walk_room(seed, fps=fps, start_ns=START_NS)


def _corridor(seed: int, fps: float) -> Made:
    return make_corridor(seed), paths.walk_corridor(seed, fps=fps, start_ns=START_NS)


def _rotation(seed: int, fps: float) -> Made:
    return make_room(seed), paths.rotate_in_place(seed, (1.8, 1.2), fps=fps, start_ns=START_NS)


def _pauses(seed: int, fps: float) -> Made:
    stops = (Stop(0.3, 3.0), Stop(0.65, 6.0, 2 * math.pi))
    return make_room(seed), paths.walk_room(seed, fps=fps, stops=stops, start_ns=START_NS)


def _fast_turns(seed: int, fps: float) -> Made:
    glances = (Glance(4.0, 1.2, 1.6), Glance(9.0, -1.4, 1.4), Glance(13.0, 1.0, 1.0))
    return make_room(seed), paths.walk_room(seed, fps=fps, glances=glances, start_ns=START_NS)


@dataclasses.dataclass(frozen=True)
class _Preset:
    make: Callable[[int, float], Made]
    fps: float
    effects: CameraEffects = REAL_CAMERA


PRESETS: dict[str, _Preset] = {
    'loop_200m': _Preset(_loop_200m, 15.0),
    'loop_400m': _Preset(_loop_400m, 15.0),
    'street': _Preset(_street, 15.0),
    'street_busy': _Preset(_street_busy, 15.0),
    'street_fog': _Preset(_street_fog, 15.0),
    'street_night': _Preset(
        _street_night, 15.0, CameraEffects(noise=0.03, vignetting=0.15, auto_exposure=0.6)
    ),
    'room': _Preset(_room, 20.0),
    'corridor': _Preset(_corridor, 20.0),
    'rotation': _Preset(_rotation, 20.0),
    'pauses': _Preset(_pauses, 20.0),
    'fast_turns': _Preset(_fast_turns, 20.0),
    'blackout': _Preset(
        _corridor, 20.0, dataclasses.replace(REAL_CAMERA, blackouts_s=((10.0, 11.5),))
    ),
    'exposure': _Preset(
        _corridor,
        20.0,
        dataclasses.replace(
            REAL_CAMERA, exposure=((5.0, 1.0), (6.0, 0.35), (12.0, 0.35), (12.3, 1.8), (18.0, 1.0))
        ),
    ),
    'motion_blur': _Preset(_corridor, 20.0, dataclasses.replace(REAL_CAMERA, shutter_s=0.02)),
}
