"""A world: textured primitives, how they move, its landmarks and its light.

Convention: the world frame has z up (REP-103), metres. A primitive is a convex solid that fills
the unit cube [-1, 1]^3 of its own frame after scaling by its half size: a box, an upright
cylinder, or an ellipsoid. Everything a ray-caster needs lies in arrays over the primitives, on
one torch device. Several primitives can make one object (a car) and share its number.
"""

from __future__ import annotations

import dataclasses
import enum
import math

import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.texture import TextureAtlas


class Shape(enum.IntEnum):
    """The solid inside a primitive's unit cube."""

    BOX = 0
    CYLINDER = 1  # axis along z
    ELLIPSOID = 2


class MotionKind(enum.Enum):
    """How an object moves away from where it was built."""

    LINEAR = 'linear'
    OSCILLATE = 'oscillate'
    CIRCLE = 'circle'


@dataclasses.dataclass(frozen=True)
class Motion:
    """Displacement of an object over time; none at time 0 when the phase is 0.

    Attributes:
        kind: LINEAR translates by `vector` metres a second; OSCILLATE by
            `vector` * sin(2 pi time / period + phase); CIRCLE turns about the vertical line
            through `centre` once in a period (a negative period turns clockwise), heading with it.
        vector: velocity or amplitude.
        centre: (x, y) of the axis of CIRCLE.
        period_s: seconds of one repeat.
        phase_rad: start of the repeat.
    """

    kind: MotionKind
    vector: tuple[float, float, float] = (0.0, 0.0, 0.0)
    centre: tuple[float, float] = (0.0, 0.0)
    period_s: float = 1.0
    phase_rad: float = 0.0

    def __post_init__(self) -> None:
        if self.period_s == 0 or not math.isfinite(self.period_s):
            raise SyntheticError(f'period of a motion is {self.period_s}: give seconds, not 0')

    def displacement(self, time_s: torch.Tensor) -> torch.Tensor:
        """Rigid displacements in the world frame: (B,) seconds -> (B, 4, 4) float64."""
        result = torch.eye(4, dtype=torch.float64, device=time_s.device).repeat(len(time_s), 1, 1)
        angle = 2 * math.pi * time_s / self.period_s + self.phase_rad
        if self.kind is MotionKind.CIRCLE:
            cosine, sine = angle.cos(), angle.sin()
            x, y = self.centre
            result[:, 0, 0], result[:, 0, 1] = cosine, -sine
            result[:, 1, 0], result[:, 1, 1] = sine, cosine
            result[:, 0, 3] = x - cosine * x + sine * y
            result[:, 1, 3] = y - sine * x - cosine * y
            return result
        amount = time_s if self.kind is MotionKind.LINEAR else angle.sin()
        vector = torch.tensor(self.vector, dtype=torch.float64, device=time_s.device)
        result[:, :3, 3] = amount[:, None] * vector
        return result


@dataclasses.dataclass(frozen=True)
class LandmarkPanel:
    """A sign on a wall or post that a robot can recognise.

    Attributes:
        landmark_id: unique number.
        class_name: which sign it shows, see `patterns.signs.LANDMARK_CLASSES`.
        position: (x, y, z) centre of its face, metres.
        normal: unit vector out of its face.
        size: (width, height) metres.
        object_id: its number in the rendered object ids.
    """

    landmark_id: int
    class_name: str
    position: tuple[float, float, float]
    normal: tuple[float, float, float]
    size: tuple[float, float]
    object_id: int


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """N primitives with all that is needed to render them.

    Attributes:
        shape: (N,) int64 `Shape`.
        T_world_prim: (N, 4, 4) float64 pose when no time has passed.
        half_size: (N, 3) float64 metres.
        object_id: (N,) int64, object a primitive belongs to.
        motion_index: (N,) int64 into `motions`, -1 for what stands still.
        texture: (N,) int64 into the atlas.
        uv_scale: (N, 3) float32 texture repeats for each unit of the primitive's cube.
        uv_offset: (N, 3) float32 shift of the texture.
        metres_per_repeat: (N,) float32, size of one repeat of the texture.
        tint: (N, 3) float32 colour in linear light by which the texture is multiplied.
        casts_shadow: (N,) bool.
        motions: displacements of moving objects.
        landmarks: the landmark panels.
        lighting: light the world was built for.
        atlas: textures.
    """

    shape: torch.Tensor
    T_world_prim: torch.Tensor
    half_size: torch.Tensor
    object_id: torch.Tensor
    motion_index: torch.Tensor
    texture: torch.Tensor
    uv_scale: torch.Tensor
    uv_offset: torch.Tensor
    metres_per_repeat: torch.Tensor
    tint: torch.Tensor
    casts_shadow: torch.Tensor
    motions: tuple[Motion, ...]
    landmarks: tuple[LandmarkPanel, ...]
    lighting: Lighting
    atlas: TextureAtlas

    def __len__(self) -> int:
        """Number of primitives."""
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        """Where the arrays live and rendering happens."""
        return self.shape.device

    def to(self, device: torch.device | str) -> World:
        """The same world on another device."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, atlas=self.atlas.to(device), **moved)

    def with_lighting(self, lighting: Lighting) -> World:
        """The same world in another light."""
        return dataclasses.replace(self, lighting=lighting)

    def poses_at(self, time_s: torch.Tensor) -> torch.Tensor:
        """`T_world_prim` at (B,) seconds: (B, N, 4, 4) float64."""
        time_s = time_s.to(self.device, torch.float64)
        poses = self.T_world_prim.expand(len(time_s), -1, -1, -1)
        if not self.motions:
            return poses
        still = torch.eye(4, dtype=torch.float64, device=self.device).expand(len(time_s), 4, 4)
        moves = [still, *(motion.displacement(time_s) for motion in self.motions)]
        return torch.stack(moves, dim=1)[:, self.motion_index + 1] @ poses
