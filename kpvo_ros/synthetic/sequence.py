"""Recorded sequences that never existed: frames with depth and ground truth, by name and seed.

recording = sequence('loop_200m', seed=0)
for item in recording.frames():
    item.frame            # types.Frame, as a camera driver and a depth sensor would give it
recording.ground_truth    # types.Trajectory of the optical frame
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.synthetic import trajectory as paths
from kpvo_ros.synthetic.effects import CameraEffects
from kpvo_ros.synthetic.indoor import make_corridor, make_room
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.recording import CAMERA, REAL_CAMERA, SyntheticSequence
from kpvo_ros.synthetic.schedule import Stop
from kpvo_ros.synthetic.streets import make_loop_street, make_street
from kpvo_ros.synthetic.trajectory import CameraPath, Glance
from kpvo_ros.synthetic.world import World

START_NS = 1_700_000_000_000_000_000  # sequences begin at a plausible time of day


def sequence(
    name: str,
    seed: int = 0,
    *,
    fps: float | None = None,
    camera: Camera = CAMERA,
    effects: CameraEffects | None = None,
    device: torch.device | str = 'cpu',
) -> SyntheticSequence:
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
    return SyntheticSequence(name, seed, world.to(device), path, camera, effects)


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
    'blackout_3s': _Preset(
        _corridor, 20.0, dataclasses.replace(REAL_CAMERA, blackouts_s=((10.0, 13.0),))
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
