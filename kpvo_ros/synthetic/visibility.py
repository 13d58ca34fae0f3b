"""Which primitive each ray meets first, and which one stands between a point and the light.

Both searches go tile by tile over short lists of candidates: the k-th candidates of all tiles are
tested together, a tile drops out as soon as nothing further can change it. Every pair is an
exact analytic intersection.
"""

from __future__ import annotations

import dataclasses

import torch

from kpvo_ros.synthetic.raycast import interval
from kpvo_ros.synthetic.rays import RayGrid
from kpvo_ros.synthetic.vectors import of_frame
from kpvo_ros.synthetic.view import NEAR_M, View
from kpvo_ros.synthetic.world import Shape

_BELOW_LAMP_M = 0.05  # only what hangs lower than this under the lamp can cast a shadow


@dataclasses.dataclass(frozen=True, eq=False)
class Hits:
    """First hits in tile order.

    Attributes:
        depth: (B, T, P) float32 along the optical axis, inf where nothing is met.
        primitive: (B, T, P) int64, -1 where nothing is met.
    """

    depth: torch.Tensor
    primitive: torch.Tensor


def first_hits(view: View, grid: RayGrid) -> Hits:
    """Cast the rays of all cameras."""
    batch, count = view.o.shape[:2]
    overlap, nearest = view.overlaps(grid)
    key = torch.where(overlap, nearest[:, None], torch.inf).reshape(-1, count)
    near, order = key.sort(dim=-1, stable=True)  # (B * T, N), front to back
    pixels = grid.xy.shape[-1]
    depth = torch.full((len(key), pixels), torch.inf, device=key.device)
    primitive = torch.full((len(key), pixels), -1, dtype=torch.int64, device=key.device)
    farthest = depth[:, 0].clone()
    A, o, shapes = view.A.reshape(-1, 3, 3), view.o.reshape(-1, 3), view.world.shape
    active = torch.arange(len(key), device=key.device)
    for k in range(count):
        active = active[near[active, k] < farthest[active]]
        if not len(active):
            break
        candidate = order[active, k]
        for shape, chosen in _by_shape(shapes[candidate]):
            rows, solid = active[chosen], candidate[chosen]
            index = rows // grid.tiles * count + solid
            d = _directions(A[index], grid.xy[:, rows % grid.tiles])
            t_in, t_out = interval(shape, o[index][..., None], d)
            old = depth[rows]
            closer = (t_in <= t_out) & (t_in > NEAR_M) & (t_in < old)
            depth[rows] = torch.where(closer, t_in, old)
            primitive[rows] = torch.where(closer, solid[:, None], primitive[rows])
        farthest[active] = depth[active].amax(-1)
    layout = (batch, grid.tiles, pixels)
    return Hits(depth.reshape(layout), primitive.reshape(layout))


@dataclasses.dataclass(frozen=True, eq=False)
class ShadowLight:
    """The light that casts shadows, the sun or one lamp, in camera frames.

    Attributes:
        view: the scene.
        vector: (B, 3) direction towards the sun, or position of the lamp.
        is_lamp: which of the two.
        axes: (B, 3, 3) rows: two axes across the light, one along it (towards the sun, or up).
    """

    view: View
    vector: torch.Tensor
    is_lamp: bool
    axes: torch.Tensor

    @classmethod
    def of(cls, view: View) -> ShadowLight | None:
        """The shadow-casting light of a scene, None when there is none."""
        if view.sun is None and not view.lamps.shape[1]:
            return None
        is_lamp = view.sun is None
        vector = view.lamps[:, 0] if view.sun is None else view.sun
        along = view.up if is_lamp else vector
        helper = torch.eye(3, device=along.device)[along.abs().argmin(-1)]
        across = torch.linalg.cross(along, helper)
        across = across / across.norm(dim=-1, keepdim=True)
        axes = torch.stack([across, torch.linalg.cross(along, across), along], dim=1)
        return cls(view, vector, is_lamp, axes)

    def towards(self, frame: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """Vectors (3, S), not normalised, from points (3, S) of the given frames to the light."""
        vector = of_frame(self.vector, frame)
        return vector - points if self.is_lamp else vector.expand_as(points)

    def blocks(
        self, shape: int, A: torch.Tensor, o: torch.Tensor, x: torch.Tensor, light: torch.Tensor
    ) -> torch.Tensor:
        """Whether a solid stands between points and the light.

        Args:
            shape: `Shape` of the solid.
            A: (..., 3, 3) its `View.A`.
            o: (..., 3) its `View.o`.
            x: (..., 3, P) points in its unit frame.
            light: (..., 3) `vector` of the frame.

        Returns:
            (..., P) bool.
        """
        local = (A * light[..., None, :]).sum(-1)[..., None]
        if self.is_lamp:
            t_in, t_out = interval(shape, x, local + o[..., None] - x)
            return (t_in <= t_out) & (t_out > 1e-3) & (t_in < 1)
        t_in, t_out = interval(shape, x, local)
        return (t_in <= t_out) & (t_out > 1e-3)

    def plane(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Coordinates (B, 3, M) across the light and along it, and which are casters' places.

        Points (B, 3, M) with equal first two coordinates lie on one ray of the light. A lamp sees
        only what is below it: elsewhere the second result (B, M) is False.
        """
        if not self.is_lamp:
            return self.axes @ points, torch.ones_like(points[:, 0], dtype=torch.bool)
        seen = self.axes @ (points - self.vector[..., None])
        below = seen[:, 2] < -_BELOW_LAMP_M
        drop = torch.where(below, -seen[:, 2], 1.0)
        return torch.cat([seen[:, :2] / drop[:, None], seen[:, 2:]], dim=1), below


def find_occluders(
    light: ShadowLight, grid: RayGrid, hits: Hits, lit: torch.Tensor
) -> torch.Tensor:
    """Primitives that shade the hit points.

    Args:
        light: the light.
        grid: rays of the hits.
        hits: points.
        lit: (B, T, P) bool, which points face the light; the others are left out.

    Returns:
        (B, T, P) int64, -1 where the light arrives or the point does not face it.
    """
    view = light.view
    batch, count = view.o.shape[:2]
    depth = torch.where(lit, hits.depth, 1.0)
    points = torch.cat(
        [grid.xy * depth[:, None].reshape(batch, 1, *grid.xy.shape[1:]), depth[:, None]], dim=1
    )  # (B, 3, T, P)
    overlap = _shadow_overlaps(light, points, lit)
    order = overlap.reshape(-1, count).to(torch.uint8).sort(dim=-1, descending=True, stable=True)
    open_ = lit.reshape(-1, lit.shape[-1])
    own = hits.primitive.reshape(open_.shape)
    occluder = torch.full_like(own, -1)
    points = points.transpose(1, 2).reshape(-1, 3, points.shape[-1])  # (B * T, 3, P)
    A, o, shapes = view.A.reshape(-1, 3, 3), view.o.reshape(-1, 3), view.world.shape
    active = torch.arange(len(open_), device=open_.device)
    for k in range(count):
        active = active[order.values[active, k].bool()]
        active = active[(open_[active] & (occluder[active] < 0)).any(-1)]
        if not len(active):
            break
        candidate = order.indices[active, k]
        for shape, chosen in _by_shape(shapes[candidate]):
            rows, solid = active[chosen], candidate[chosen]
            frame = rows // grid.tiles
            index = frame * count + solid
            x = _affine(A[index], o[index], points[rows])
            blocked = light.blocks(shape, A[index], o[index], x, light.vector[frame])
            blocked &= open_[rows] & (own[rows] != solid[:, None])
            occluder[rows] = torch.where(blocked, solid[:, None], occluder[rows])
    return occluder.reshape(lit.shape)


def _shadow_overlaps(light: ShadowLight, points: torch.Tensor, lit: torch.Tensor) -> torch.Tensor:
    """Which primitives can shade which tiles: (B, T, N) bool."""
    view = light.view
    batch, count = view.o.shape[:2]
    tiles = lit.shape[1]
    across, _ = light.plane(points.reshape(batch, 3, -1))
    across = across.reshape(batch, 3, tiles, -1)
    tile_low = torch.where(lit[:, None], across, torch.inf).amin(-1)  # (B, 3, T)
    tile_high = torch.where(lit[:, None], across, -torch.inf).amax(-1)
    corners, below = light.plane(view.corners.reshape(batch, -1, 3).mT)
    corners, below = corners.reshape(batch, 3, count, 8), below.reshape(batch, 1, count, 8)
    whole = below.all(-1)
    low = torch.where(whole, corners.amin(-1), -torch.inf)[..., None, :]  # (B, 3, 1, N)
    high = torch.where(whole, corners.amax(-1), torch.inf)[..., None, :]
    tile_low, tile_high = tile_low[..., None], tile_high[..., None]
    overlap = (low[:, :2] <= tile_high[:, :2]) & (high[:, :2] >= tile_low[:, :2])
    above = high[:, 2] > tile_low[:, 2]
    return overlap.all(1) & above & (below.any(-1) & view.world.casts_shadow)


def _by_shape(shapes: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """Indices of the entries of each shape that occurs."""
    groups = [(int(shape), (shapes == shape).nonzero()[:, 0]) for shape in Shape]
    return [(shape, chosen) for shape, chosen in groups if len(chosen)]


def _directions(A: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """Rays (x, y, 1) in unit frames: A (M, 3, 3), xy (2, M, P) -> (M, 3, P)."""
    d = torch.addcmul(A[..., 2:], A[..., :1], xy[0][:, None])
    return d.addcmul_(A[..., 1:2], xy[1][:, None])


def _affine(A: torch.Tensor, o: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Points (M, 3, P) of camera frames in unit frames."""
    x = torch.addcmul(o[..., None], A[..., :1], points[:, :1])
    x.addcmul_(A[..., 1:2], points[:, 1:2])
    return x.addcmul_(A[..., 2:], points[:, 2:])
