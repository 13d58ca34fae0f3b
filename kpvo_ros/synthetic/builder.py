"""Building a world piece by piece; what is added is frozen into a `World` at the end."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools

import numpy as np
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.se3 import from_rt, rpy_to_matrix
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.patterns.signs import LANDMARK_CLASSES
from kpvo_ros.synthetic.texture import TextureAtlas
from kpvo_ros.synthetic.world import LandmarkPanel, Motion, Shape, World

Vector = Sequence[float] | np.ndarray
WHITE = (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Skin:
    """How a surface looks.

    Attributes:
        texture: name in the atlas.
        repeat_m: size of one repeat in metres; None stretches one picture over each face.
        tint: linear-light factors.
        cells: when the picture is a grid of that many cells (windows), the texture starts at a
            border between cells on the left and top edges; 0 lets it start anywhere.
    """

    texture: str
    repeat_m: float | None = 2.0
    tint: tuple[float, float, float] = WHITE
    cells: int = 0


@dataclasses.dataclass(frozen=True)
class _Primitive:
    shape: Shape
    T_world_prim: np.ndarray
    half_size: np.ndarray
    object_id: int
    motion_index: int
    skin: Skin
    offset: np.ndarray
    casts_shadow: bool


class WorldBuilder:
    """Collects primitives, motions and landmarks.

    Args:
        atlas: textures to choose from.
        rng: shifts the textures, so that no two walls begin alike.
    """

    def __init__(self, atlas: TextureAtlas, rng: np.random.Generator) -> None:
        self.atlas = atlas
        self.rng = rng
        self._primitives: list[_Primitive] = []
        self._motions: list[Motion] = []
        self._landmarks: list[LandmarkPanel] = []
        self._first_class = int(rng.integers(len(LANDMARK_CLASSES)))
        self._ids = itertools.count()

    def new_object(self) -> int:
        """A fresh object number, to be shared by the primitives of one thing."""
        return next(self._ids)

    def move(self, motion: Motion) -> int:
        """Register a motion; pass the result as `motion` to the primitives that follow it."""
        self._motions.append(motion)
        return len(self._motions) - 1

    def add(
        self,
        shape: Shape,
        centre: Vector,
        size: Vector,
        skin: Skin,
        *,
        yaw: float = 0.0,
        pose: np.ndarray | None = None,
        object_id: int | None = None,
        motion: int = -1,
        casts_shadow: bool = True,
    ) -> int:
        """Add one primitive.

        Args:
            shape: box, cylinder or ellipsoid.
            centre: (3,) metres in the world, or in `pose` when given.
            size: (3,) full size along its axes, metres.
            skin: texture.
            yaw: turn about z, radians.
            pose: (4, 4) frame in which centre and yaw are given, the world by default.
            object_id: number of the object it belongs to, a fresh one by default.
            motion: result of `move`, -1 to stand still.
            casts_shadow: False for the ground and the shell of rooms.

        Returns:
            The object number.

        Raises:
            SyntheticError: a size is not positive, or the texture is unknown.
        """
        half = 0.5 * np.asarray(size, dtype=np.float64)
        if half.shape != (3,) or not (half > 0).all():
            raise SyntheticError(f'size {size} of a primitive must be three positive metres')
        self.atlas[skin.texture]  # raises early, where the caller can be seen
        T = from_rt(rpy_to_matrix(0.0, 0.0, yaw), np.asarray(centre, dtype=np.float64))
        T = T if pose is None else pose @ T
        number = self.new_object() if object_id is None else object_id
        offset = self._offset(skin, half)
        self._primitives.append(
            _Primitive(shape, T, half, number, motion, skin, offset, casts_shadow)
        )
        return number

    def box(self, centre: Vector, size: Vector, skin: Skin, **options: object) -> int:
        """Add a box, see `add`."""
        return self.add(Shape.BOX, centre, size, skin, **options)  # type: ignore[arg-type]

    def cylinder(self, centre: Vector, size: Vector, skin: Skin, **options: object) -> int:
        """Add a cylinder along z, see `add`."""
        return self.add(Shape.CYLINDER, centre, size, skin, **options)  # type: ignore[arg-type]

    def ellipsoid(self, centre: Vector, size: Vector, skin: Skin, **options: object) -> int:
        """Add an ellipsoid, see `add`."""
        return self.add(Shape.ELLIPSOID, centre, size, skin, **options)  # type: ignore[arg-type]

    def next_class(self) -> str:
        """Class for the next landmark: all in turn, beginning anywhere."""
        return LANDMARK_CLASSES[(self._first_class + len(self._landmarks)) % len(LANDMARK_CLASSES)]

    def landmark(
        self, class_name: str, position: Vector, yaw: float, size: tuple[float, float]
    ) -> LandmarkPanel:
        """Add a landmark panel, 2 cm thick.

        Args:
            class_name: one of `patterns.signs.LANDMARK_CLASSES`.
            position: (3,) centre of its face, metres.
            yaw: direction of its normal in the ground plane, radians.
            size: width and height, metres.
        """
        normal = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        position = np.asarray(position, dtype=np.float64)
        skin = Skin(f'landmark_{class_name}', None)
        number = self.box(position - 0.01 * normal, (0.02, size[0], size[1]), skin, yaw=yaw)
        x, y, z = (float(value) for value in position)
        nx, ny, nz = (float(value) for value in normal)
        panel = LandmarkPanel(
            len(self._landmarks), class_name, (x, y, z), (nx, ny, nz), size, number
        )
        self._landmarks.append(panel)
        return panel

    def build(self, lighting: Lighting) -> World:
        """Freeze everything into a world on the CPU.

        Raises:
            SyntheticError: nothing was added.
        """
        if not self._primitives:
            raise SyntheticError('a world needs at least one primitive: add a ground first')
        items = self._primitives
        layout = [_layout(item) for item in items]

        def numbers(values: list) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int64)

        def floats(values: list) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values)).float()

        return World(
            shape=numbers([int(item.shape) for item in items]),
            T_world_prim=torch.from_numpy(np.stack([item.T_world_prim for item in items])),
            half_size=torch.from_numpy(np.stack([item.half_size for item in items])),
            object_id=numbers([item.object_id for item in items]),
            motion_index=numbers([item.motion_index for item in items]),
            texture=numbers([self.atlas[item.skin.texture] for item in items]),
            uv_scale=floats([scale for scale, _ in layout]),
            uv_offset=floats([item.offset for item in items]),
            metres_per_repeat=floats([repeat for _, repeat in layout]),
            tint=floats([item.skin.tint for item in items]),
            casts_shadow=torch.tensor([item.casts_shadow for item in items]),
            motions=tuple(self._motions),
            landmarks=tuple(self._landmarks),
            lighting=lighting,
            atlas=self.atlas,
        )

    def _offset(self, skin: Skin, half: np.ndarray) -> np.ndarray:
        if skin.repeat_m is None:
            return np.full(3, 0.5)
        if not skin.cells:
            return self.rng.uniform(0, 1, 3)
        return half / skin.repeat_m + self.rng.integers(0, skin.cells, 3) / skin.cells


def _layout(item: _Primitive) -> tuple[np.ndarray, float]:
    """Repeats of the texture for each unit of the cube, and metres of one repeat."""
    repeat, half = item.skin.repeat_m, item.half_size
    if item.shape is Shape.BOX:
        if repeat is None:
            return np.full(3, 0.5), float(2 * half.max())
        return half / repeat, repeat
    around = 2 * np.pi * np.sqrt(half[0] * half[1])
    turns = 1.0 if repeat is None else max(1.0, round(around / repeat))
    upwards = 0.5 if repeat is None else half[2] / repeat
    if item.shape is Shape.ELLIPSOID:
        upwards = turns / 4  # a quarter of the way around is as long as middle to pole
    return np.array([turns, turns, upwards]), float(around / turns)
