"""Camera paths: where a robot, a car, or a hand carries the camera at which time.

The base frame is REP-103 (x forward, y left, z up) with its origin on the ground under the camera.
Speed starts and ends at zero and changes smoothly, also around stops; vibration and the bobbing of
a walk scale with the speed, so a standing camera stands still.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.se3 import (
    T_BASE_OPTICAL,
    from_rt,
    interpolate,
    inverse,
    log_se3,
    rpy_to_matrix,
)
from kpvo_ros.synthetic.curves import Curve, lap, line, spline
from kpvo_ros.synthetic.schedule import CAR, HAND, ROBOT, Carrier, Stop, ease, schedule
from kpvo_ros.types import Trajectory

Rng = np.random.Generator


@dataclasses.dataclass(frozen=True, eq=False)
class CameraPath:
    """Poses of a camera at the instants of its frames.

    Attributes:
        stamps_ns: (N,) int64.
        T_world_base: (N, 4, 4) float64.
        T_base_camera: (4, 4) pose of the optical frame in the base.
    """

    stamps_ns: np.ndarray
    T_world_base: np.ndarray
    T_base_camera: np.ndarray

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.stamps_ns)

    @property
    def T_world_camera(self) -> np.ndarray:
        """(N, 4, 4) poses of the optical frame."""
        return self.T_world_base @ self.T_base_camera

    @property
    def camera_height_m(self) -> float:
        """Height of the optical centre above the ground when the base stands level."""
        return float(self.T_base_camera[2, 3])

    @property
    def trajectory(self) -> Trajectory:
        """Ground truth of the optical frame."""
        return Trajectory(self.stamps_ns, self.T_world_camera)

    @property
    def length_m(self) -> float:
        """Length of the camera's way."""
        steps = np.diff(self.T_world_camera[:, :3, 3], axis=0)
        return float(np.linalg.norm(steps, axis=1).sum())

    @property
    def twist(self) -> np.ndarray:
        """(N, 6) velocity vx vy vz wx wy wz of the base in base axes, m/s and rad/s.

        Central differences of the poses; one-sided at the ends.
        """
        before = np.maximum(np.arange(len(self)) - 1, 0)
        after = np.minimum(np.arange(len(self)) + 1, len(self) - 1)
        seconds = np.maximum(self.stamps_ns[after] - self.stamps_ns[before], 1) * 1e-9
        return (
            log_se3(inverse(self.T_world_base[before]) @ self.T_world_base[after])
            / seconds[:, None]
        )

    def camera_at(self, stamp_ns: np.ndarray) -> np.ndarray:
        """`T_world_camera` at (M,) instants, interpolated; held outside the path."""
        place = np.interp(stamp_ns, self.stamps_ns, np.arange(len(self)))
        first = np.minimum(place.astype(int), max(len(self) - 2, 0))
        second = np.minimum(first + 1, len(self) - 1)
        poses = self.T_world_camera
        return interpolate(poses[first], poses[second], place - first)


@dataclasses.dataclass(frozen=True)
class Glance:
    """A quick look to the side and back while moving.

    Attributes:
        at_s: when it begins.
        angle_rad: how far to the left.
        duration_s: there and back.
    """

    at_s: float
    angle_rad: float
    duration_s: float


def follow(
    curve: Curve,
    carrier: Carrier,
    rng: Rng,
    *,
    fps: float,
    stops: Sequence[Stop] = (),
    glances: Sequence[Glance] = (),
    start_ns: int = 0,
) -> CameraPath:
    """Carry a camera along a curve.

    Args:
        curve: the way over the ground.
        carrier: speed, height and shaking.
        rng: phases of the shaking.
        fps: frames a second.
        stops: pauses, in the order of the way.
        glances: looks to the side.
        start_ns: stamp of the first frame.

    Raises:
        SyntheticError: the frame rate is not positive, or stops are too close to each other.
    """
    if not fps > 0:
        raise SyntheticError(f'fps={fps} must be positive')
    clock, distance, gate, turn = schedule(curve, carrier, stops)
    count = int(np.floor(clock[-1] * fps + 1e-9)) + 1
    time = np.arange(count) / fps
    xy, heading = curve.at(np.interp(time, clock, distance))
    liveliness = np.interp(time, clock, gate)
    shake = _shake(rng, time, carrier) * liveliness[:, None]
    heading = heading + np.interp(time, clock, turn) + _glancing(time, glances) + shake[:, 5]
    side = np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
    position = np.concatenate([xy + side * shake[:, 1:2], shake[:, 2:3]], axis=1)
    T_world_base = np.stack(
        [
            from_rt(rpy_to_matrix(roll, pitch, yaw), t)
            for roll, pitch, yaw, t in zip(
                shake[:, 3], shake[:, 4], heading, position, strict=True
            )
        ]
    )
    tilt = from_rt(rpy_to_matrix(0.0, carrier.pitch_rad, 0.0), np.array([0, 0, carrier.height_m]))
    stamps_ns = start_ns + np.round(time * 1e9).astype(np.int64)
    return CameraPath(stamps_ns, T_world_base, tilt @ T_BASE_OPTICAL)


def loop(
    seed: int,
    length_m: float = 200.0,
    *,
    fps: float = 15.0,
    carrier: Carrier = CAR,
    start_ns: int = 0,
) -> CameraPath:
    """One lap around the block of `make_loop_street` of the same length, ending where it began."""
    return follow(lap(length_m), carrier, np.random.default_rng(seed), fps=fps, start_ns=start_ns)


def drive(
    seed: int,
    length_m: float = 100.0,
    *,
    fps: float = 15.0,
    carrier: Carrier = CAR,
    stops: Sequence[Stop] = (),
    start_ns: int = 0,
) -> CameraPath:
    """Along a street of `make_street` in the right lane, from x = 6."""
    rng = np.random.default_rng(seed)
    share = np.linspace(0.0, 1.0, 9)
    wander = rng.uniform(-0.3, 0.3, len(share)) * (share > 0)
    points = np.stack([6.0 + share * length_m, -1.6 + wander], axis=-1)
    return follow(
        spline(points, closed=False), carrier, rng, fps=fps, stops=stops, start_ns=start_ns
    )


def walk_room(
    seed: int,
    size_m: tuple[float, float, float] = (9.0, 7.0, 2.8),
    *,
    fps: float = 20.0,
    stops: Sequence[Stop] = (),
    glances: Sequence[Glance] = (),
    start_ns: int = 0,
) -> CameraPath:
    """Once around the table of `make_room`, hand-held."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False) + rng.uniform(0, 2 * np.pi)
    radius = np.array(size_m[:2]) / 2 - 1.75
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    points = circle * radius * rng.uniform(0.92, 1.06, (8, 1))
    curve = spline(points, closed=True)
    return follow(curve, HAND, rng, fps=fps, stops=stops, glances=glances, start_ns=start_ns)


def walk_corridor(
    seed: int,
    length_m: float = 30.0,
    *,
    fps: float = 20.0,
    carrier: Carrier = ROBOT,
    stops: Sequence[Stop] = (),
    glances: Sequence[Glance] = (),
    start_ns: int = 0,
) -> CameraPath:
    """Along the corridor of `make_corridor` from x = 1.5, swerving a little."""
    rng = np.random.default_rng(seed)
    share = np.linspace(0.0, 1.0, max(4, round(length_m / 4)))
    points = np.stack([1.5 + share * length_m, rng.uniform(-0.3, 0.3, len(share))], axis=-1)
    curve = spline(points, closed=False)
    return follow(curve, carrier, rng, fps=fps, stops=stops, glances=glances, start_ns=start_ns)


def rotate_in_place(
    seed: int,
    position: tuple[float, float],
    *,
    turn_rad: float = 2 * np.pi,
    duration_s: float = 12.0,
    fps: float = 20.0,
    height_m: float = 1.45,
    start_ns: int = 0,
) -> CameraPath:
    """Turn about the vertical through the optical centre: no translation at all."""
    rng = np.random.default_rng(seed)
    carrier = dataclasses.replace(HAND, height_m=height_m, bob_m=0.0, sway_rad=0.0, pitch_rad=0.0)
    curve = line(position, float(rng.uniform(-np.pi, np.pi)), 0.0)
    stop = Stop(0.0, duration_s, turn_rad)
    return follow(curve, carrier, rng, fps=fps, stops=(stop,), start_ns=start_ns)


def _shake(rng: Rng, time: np.ndarray, carrier: Carrier) -> np.ndarray:
    """(N, 6) small motion x y z, roll pitch yaw: a few sines of nearby frequencies."""
    rates = carrier.rate_hz * np.array([0.23, 0.5, 1.0, 1.31])
    weights = np.array([0.5, 0.5, 1.0, 0.3])
    phases = rng.uniform(0, 2 * np.pi, (6, len(rates), 1))
    waves = np.sin(2 * np.pi * rates[:, None] * time + phases)
    waves = (weights[:, None] * waves).sum(axis=1).T  # (N, 6)
    amplitude = [0.0, carrier.bob_m / 2, carrier.bob_m, *[carrier.sway_rad] * 3]
    return waves * amplitude


def _glancing(time: np.ndarray, glances: Sequence[Glance]) -> np.ndarray:
    """(N,) yaw of all glances together."""
    yaw = np.zeros_like(time)
    for glance in glances:
        share = np.clip((time - glance.at_s) / glance.duration_s, 0, 1)
        yaw += glance.angle_rad * np.where(share < 0.5, ease(2 * share), ease(2 - 2 * share))
    return yaw
