"""A world seen from a batch of cameras: primitives and lights in camera coordinates.

Poses are combined in float64 and only then rounded to float32, so that a camera hundreds of metres
from the origin loses nothing.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch

from kpvo_ros.synthetic.rays import RayGrid
from kpvo_ros.synthetic.world import World

NEAR_M = 0.05  # nothing closer than this is drawn
_MAX_LAMPS = 8
_CORNERS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
_EDGES = torch.tensor(
    [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b) in (1, 2, 4)]
).T  # (2, 12) corners that differ in one sign


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """N primitives and the light as seen from B cameras; all float32.

    Attributes:
        world: what is seen.
        A: (B, N, 3, 3) turns directions of the camera frame into those of the unit frames.
        o: (B, N, 3) the camera centre in the unit frames.
        corners: (B, N, 8, 3) corners of the primitives in the camera frame.
        R_world_camera: (B, 3, 3).
        up: (B, 3) the world's z axis in the camera frame.
        sun: (B, 3) unit vector towards the sun in the camera frame, None without a sun.
        lamps: (B, L, 3) the nearest lamps in the camera frame.
        lamp_power: (B, L, 3) their strength.
    """

    world: World
    A: torch.Tensor
    o: torch.Tensor
    corners: torch.Tensor
    R_world_camera: torch.Tensor
    up: torch.Tensor
    sun: torch.Tensor | None
    lamps: torch.Tensor
    lamp_power: torch.Tensor

    @classmethod
    def of(cls, world: World, T_world_camera: torch.Tensor, time_s: torch.Tensor) -> View:
        """See a world from (B, 4, 4) float64 poses at (B,) seconds."""
        T_world_prim = world.poses_at(time_s)
        R_prim_world = T_world_prim[..., :3, :3].mT / world.half_size[..., None]
        R, centre = T_world_camera[:, :3, :3], T_world_camera[:, :3, 3]
        o = R_prim_world @ (centre[:, None] - T_world_prim[..., :3, 3])[..., None]
        scaled = T_world_prim[..., :3, :3] * world.half_size[:, None, :]
        corners = _CORNERS.to(world.device) @ scaled.mT + T_world_prim[..., None, :3, 3]
        corners = (corners - centre[:, None, None]) @ R[:, None]
        lighting = world.lighting
        sun = None
        if lighting.sun_direction is not None:
            direction = torch.tensor(lighting.sun_direction, dtype=R.dtype, device=R.device)
            sun = ((direction / direction.norm()) @ R).float()
        lamps, power = _nearest_lamps(world, centre)
        return cls(
            world,
            (R_prim_world @ R[:, None]).float(),
            o[..., 0].float(),
            corners.float(),
            R.float(),
            R[:, 2].float(),
            sun,
            ((lamps - centre[:, None]) @ R).float(),
            power.float(),
        )

    def overlaps(self, grid: RayGrid) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tiles each primitive can touch.

        Returns:
            overlap (B, T, N) bool, and nearest (B, N) float32, a lower bound of the depth.
        """
        low, high = self._bounds()
        tile = grid.bounds[None, :, None]  # (1, T, 1, 4)
        low, high = low[:, None], high[:, None]  # (B, 1, N, 2)
        overlap = (low[..., 0] <= tile[..., 1]) & (high[..., 0] >= tile[..., 0])
        overlap &= (low[..., 1] <= tile[..., 3]) & (high[..., 1] >= tile[..., 2])
        return overlap, self.corners[..., 2].amin(-1).clamp(min=NEAR_M)

    def _bounds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Bounds (B, N, 2) of the primitives on the plane z = 1, with room for rounding.

        Primitives that cross the near plane are cut there: their bounds are those of the corners
        in front of it and of the points where their edges pierce it.
        """
        edges = _EDGES.to(self.corners.device)
        start, end = self.corners[..., edges[0], :], self.corners[..., edges[1], :]
        span = end[..., 2:] - start[..., 2:]
        share = (NEAR_M - start[..., 2:]) / torch.where(span == 0, 1.0, span)
        pierce = start + share * (end - start)
        crosses = (start[..., 2] < NEAR_M) != (end[..., 2] < NEAR_M)
        seen = torch.cat([self.corners[..., 2] >= NEAR_M, crosses], dim=-1)[..., None]
        points = torch.cat([self.corners[..., :2], pierce[..., :2]], dim=-2)
        depth = torch.cat([self.corners[..., 2:], torch.full_like(pierce[..., 2:], NEAR_M)], -2)
        plane = points / torch.where(seen, depth, 1.0)
        low = torch.where(seen, plane, torch.inf).amin(-2)
        high = torch.where(seen, plane, -torch.inf).amax(-2)
        return low - 1e-5 * (1 + low.abs()), high + 1e-5 * (1 + high.abs())


def _nearest_lamps(world: World, centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and powers (B, L, 3) of the lamps nearest to the cameras.

    The first lamp of the world stays first where there is no sun, since it casts the shadows.
    """
    lamps = world.lighting.lamps
    position = centre.new_tensor([lamp.position for lamp in lamps]).reshape(-1, 3)
    power = centre.new_tensor([lamp.power for lamp in lamps]).reshape(-1, 3)
    distance = (position[None] - centre[:, None]).norm(dim=-1)
    if world.lighting.sun_direction is None and lamps:
        distance[:, 0] = -1.0
    nearest = distance.argsort(dim=-1, stable=True)[:, :_MAX_LAMPS]
    return position[nearest], power[nearest]
