"""The surface at hit points: normal, place on the texture, and how a pixel's footprint lies there.

The footprint follows from the ray's derivative: moving by one pixel moves the hit point along
the tangent plane by t (e - d (n e) / (n d)) with the ray d and its derivative e (H. Igehy,
"Tracing Ray Differentials", 1999). The formula is affine, so it is used in the unit frame of the
primitive.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from kpvo_ros.synthetic.raycast import slabs, wall_and_lids
from kpvo_ros.synthetic.vectors import dot, rotate, unit
from kpvo_ros.synthetic.view import View
from kpvo_ros.synthetic.world import Shape

_LIDS = 2  # face number of a cylinder's ends; boxes number their faces 0..5, round walls are 0


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """S rays that met a primitive; components come first so that they lie in memory as columns.

    Attributes:
        frame: (S,) int64 camera of the batch.
        primitive: (S,) int64.
        ray: (3, S) float32 direction with z = 1 in the camera frame.
        jacobian: (2, 2, S) float32, d ray[i] / d pixel[j].
        depth: (S,) float32 along the optical axis.
    """

    frame: torch.Tensor
    primitive: torch.Tensor
    ray: torch.Tensor
    jacobian: torch.Tensor
    depth: torch.Tensor

    @property
    def points(self) -> torch.Tensor:
        """(3, S) hit points in the camera frame."""
        return self.ray * self.depth


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """The surface at S samples.

    Attributes:
        normal: (3, S) unit vectors in the camera frame, towards the camera.
        face: (S,) int64 number of the face of the primitive.
        uv: (2, S) place on the texture.
        step_x, step_y: (2, S) change of uv to the next pixel on the right, below.
    """

    normal: torch.Tensor
    face: torch.Tensor
    uv: torch.Tensor
    step_x: torch.Tensor
    step_y: torch.Tensor


def surface_at(view: View, samples: Samples) -> Surface:
    """Look up the surface of every sample."""
    count = view.o.shape[1]
    index = samples.frame * count + samples.primitive
    A = view.A.reshape(-1, 9).T.index_select(1, index).reshape(3, 3, -1)
    o = view.o.reshape(-1, 3).T.index_select(1, index)
    d = rotate(A, samples.ray)
    ex, ey = (A[:, 0] * j[0] + A[:, 1] * j[1] for j in samples.jacobian.unbind(1))
    hit = o + samples.depth * d
    shapes = view.world.shape[samples.primitive]
    scale = view.world.uv_scale.T.index_select(1, samples.primitive)
    offset = view.world.uv_offset.T.index_select(1, samples.primitive)

    size = len(index)
    normal, uv = torch.empty_like(d), torch.empty_like(d[:2])
    step_x, step_y = torch.empty_like(uv), torch.empty_like(uv)
    face = torch.zeros_like(index)
    for shape in Shape:
        chosen = (shapes == shape).nonzero()[:, 0]
        if not len(chosen):
            continue
        every = len(chosen) == size
        part = lambda v, c=chosen, e=every: v if e else v.index_select(-1, c)  # noqa: E731
        n, number = _NORMALS[shape](part(o), part(d), part(hit))
        slope = dot(n, part(d))
        reach = part(samples.depth)
        tangents = [
            reach * (e - part(d) * (dot(n, e) / slope.clamp(max=-1e-9)))
            for e in (part(ex), part(ey))
        ]
        place = (part(hit), part(scale), part(offset), number)
        uv_part, steps = _TEXTURES[shape](*place, tangents)
        for target, value in ((normal, n), (uv, uv_part), (step_x, steps[0]), (step_y, steps[1])):
            target[:, chosen] = value
        face[chosen] = number
    normal = rotate(A.transpose(0, 1), normal)
    return Surface(unit(normal), face, uv, step_x, step_y)


Pair = tuple[torch.Tensor, torch.Tensor]
Mapped = tuple[torch.Tensor, list[torch.Tensor]]


def _box_normal(o: torch.Tensor, d: torch.Tensor, hit: torch.Tensor) -> Pair:
    """Face through which the ray enters: axis * 2 + (1 on the positive side)."""
    x_in, y_in, z_in = slabs(o, d)[0]
    last_yz = torch.where(y_in >= z_in, 1, 2)  # argmax over three rows is slow in torch
    axis = torch.where(x_in >= torch.maximum(y_in, z_in), 0, last_yz)
    positive = d.gather(0, axis[None])[0] < 0
    sign = torch.where(positive, 1.0, -1.0)
    normal = torch.stack([torch.where(axis == k, sign, 0.0) for k in range(3)])
    return normal, axis * 2 + positive


def _cylinder_normal(o: torch.Tensor, d: torch.Tensor, hit: torch.Tensor) -> Pair:
    (side_in, _), (lid_in, _) = wall_and_lids(o, d)
    lid = lid_in > side_in
    wall = hit * hit.new_tensor([[1.0], [1.0], [0.0]])
    end = torch.zeros_like(hit)
    end[2] = torch.where(d[2] < 0, 1.0, -1.0)
    return torch.where(lid, end, wall), torch.where(lid, _LIDS, 0)


def _ellipsoid_normal(o: torch.Tensor, d: torch.Tensor, hit: torch.Tensor) -> Pair:
    return hit, torch.zeros_like(hit[0], dtype=torch.int64)


def _box_texture(
    hit: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    face: torch.Tensor,
    tangents: list[torch.Tensor],
) -> Mapped:
    """Pictures stand upright on the sides and are not mirrored; on top x is to the right."""
    sign = torch.where(face % 2 == 1, 1.0, -1.0)
    on_x, on_z = face < 2, face >= 4

    def flatten(c: torch.Tensor) -> torch.Tensor:
        u = torch.where(on_x, sign * c[1], torch.where(on_z, c[0], -sign * c[0]))
        return torch.stack([u, torch.where(on_z, -c[1], -c[2])])

    uv = flatten(hit * scale + offset)
    return uv, [flatten(tangent * scale) for tangent in tangents]


def _cylinder_texture(
    hit: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    face: torch.Tensor,
    tangents: list[torch.Tensor],
) -> Mapped:
    """Wound around the wall scale[0] times; laid flat on the lids, one picture across."""
    lid = face == _LIDS
    turns = scale[0] / (2 * math.pi)
    around = torch.atan2(hit[1], hit[0]) * turns
    u = torch.where(lid, 0.5 * hit[0] + 0.5, around) + offset[0]
    v = torch.where(lid, -0.5 * hit[1] + 0.5, -hit[2] * scale[2]) + offset[2]

    def flatten(c: torch.Tensor) -> torch.Tensor:
        du = torch.where(lid, 0.5 * c[0], (hit[0] * c[1] - hit[1] * c[0]) * turns)
        return torch.stack([du, torch.where(lid, -0.5 * c[1], -c[2] * scale[2])])

    return torch.stack([u, v]), [flatten(tangent) for tangent in tangents]


def _ellipsoid_texture(
    hit: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    face: torch.Tensor,
    tangents: list[torch.Tensor],
) -> Mapped:
    """Longitude scale[0] times around, latitude scale[2] times from the middle to the pole."""
    turns, rise = scale[0] / (2 * math.pi), scale[2] / (math.pi / 2)
    flat = (hit[0].square() + hit[1].square()).clamp(min=1e-4)
    u = torch.atan2(hit[1], hit[0]) * turns + offset[0]
    v = offset[2] - torch.atan2(hit[2], flat.sqrt()) * rise

    def flatten(c: torch.Tensor) -> torch.Tensor:
        du = (hit[0] * c[1] - hit[1] * c[0]) / flat * turns
        return torch.stack([du, -c[2] * rise / flat.sqrt()])

    return torch.stack([u, v]), [flatten(tangent) for tangent in tangents]


_NORMALS = {
    Shape.BOX: _box_normal,
    Shape.CYLINDER: _cylinder_normal,
    Shape.ELLIPSOID: _ellipsoid_normal,
}
_TEXTURES = {
    Shape.BOX: _box_texture,
    Shape.CYLINDER: _cylinder_texture,
    Shape.ELLIPSOID: _ellipsoid_texture,
}
