"""Smooth edges: pixels where faces or shadows meet are rendered again with four rays.

Only what is seen in the pixel or its four neighbours can be seen by those rays (up to features
thinner than a pixel), so each ray is tested against at most five primitives, and its shadow
against at most five occluders. Sampling positions are the rotated grid of graphics hardware.
"""

from __future__ import annotations

import torch

from kpvo_ros.synthetic.raycast import interval
from kpvo_ros.synthetic.rays import RayGrid
from kpvo_ros.synthetic.shading import shade, sky
from kpvo_ros.synthetic.surface import Samples, surface_at
from kpvo_ros.synthetic.vectors import rotate
from kpvo_ros.synthetic.view import NEAR_M, View
from kpvo_ros.synthetic.visibility import ShadowLight
from kpvo_ros.synthetic.world import Shape

_OFFSETS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))  # pixels
_NEIGHBOURS = ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))


def edge_pixels(key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frame, row and column of the pixels whose key differs from that of a neighbour.

    Args:
        key: (B, H, W) int64, one number for each face and state of shadow.
    """
    edge = torch.zeros_like(key, dtype=torch.bool)
    across, down = key[:, :, 1:] != key[:, :, :-1], key[:, 1:] != key[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    frame, row, column = edge.nonzero(as_tuple=True)
    return frame, row, column


def smooth_colours(
    view: View,
    grid: RayGrid,
    light: ShadowLight | None,
    pixels: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    primitive: torch.Tensor,
    occluder: torch.Tensor,
) -> torch.Tensor:
    """Radiance of edge pixels, averaged over four rays.

    Args:
        view: the scene.
        grid: rays of the camera.
        light: what casts shadows, None for none.
        pixels: frame, row, column (E,) each.
        primitive: (B, H, W) int64 what each pixel's centre sees.
        occluder: (B, H, W) int64 what shades it.

    Returns:
        (E, 3) float32 linear light.
    """
    frame, ray, jacobian = _rays(grid, pixels)
    depth, winner = _nearest(view, frame, ray, _around(primitive, pixels))
    colour = torch.empty(len(frame), 3, device=ray.device)
    hit, missed = (winner >= 0).nonzero()[:, 0], (winner < 0).nonzero()[:, 0]
    if len(missed):
        pixel_rad = float(jacobian[0, 0].abs().mean())
        colour[missed] = sky(view, frame[missed], ray[:, missed], pixel_rad)
    if len(hit):
        samples = Samples(frame[hit], winner[hit], ray[:, hit], jacobian[..., hit], depth[hit])
        surface = surface_at(view, samples)
        shaded = torch.zeros_like(samples.frame, dtype=torch.bool)
        if light is not None:
            shaded = _shaded(light, samples, _around(occluder, pixels)[:, hit])
        colour[hit] = shade(view, samples, surface, shaded)
    return colour.reshape(len(_OFFSETS), -1, 3).mean(0)


def _rays(
    grid: RayGrid, pixels: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frame (4 E,), ray (3, 4 E) and Jacobian (2, 2, 4 E) of the rays of edge pixels."""
    frame, row, column = pixels
    index = grid.tile_index(row, column)
    centre = grid.xy.reshape(2, -1)[:, index]
    jacobian = grid.jacobian.reshape(2, 2, -1)[..., index]
    rays = torch.cat(
        [centre + jacobian[:, 0] * x + jacobian[:, 1] * y for x, y in _OFFSETS], dim=1
    )
    times = len(_OFFSETS)
    ray = torch.cat([rays, torch.ones_like(rays[:1])])
    return frame.repeat(times), ray, jacobian.repeat(1, 1, times)


def _around(
    values: torch.Tensor, pixels: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Values (B, H, W) of pixels and their neighbours, -1 for repeats: (5, 4 E)."""
    frame, row, column = pixels
    height, width = values.shape[1:]
    found: list[torch.Tensor] = []
    for down, right in _NEIGHBOURS:
        value = values[
            frame, (row + down).clamp(0, height - 1), (column + right).clamp(0, width - 1)
        ]
        for earlier in found:
            value = torch.where(value == earlier, -1, value)
        found.append(value)
    return torch.stack(found).repeat(1, len(_OFFSETS))


def _nearest(
    view: View, frame: torch.Tensor, ray: torch.Tensor, candidates: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth (S,) and primitive (S,) each ray meets among its candidates (5, S); -1 for none."""
    depth = torch.full_like(ray[0], torch.inf)
    winner = torch.full_like(frame, -1)
    for candidate in candidates:
        for shape, rows in _rows_by_shape(view, candidate):
            solid = candidate[rows]
            A, o = _solids(view, frame[rows], solid)
            d = rotate(A, ray[:, rows])
            t_in, t_out = interval(shape, o, d)
            closer = (t_in <= t_out) & (t_in > NEAR_M) & (t_in < depth[rows])
            depth[rows] = torch.where(closer, t_in, depth[rows])
            winner[rows] = torch.where(closer, solid, winner[rows])
    return depth, winner


def _shaded(light: ShadowLight, samples: Samples, candidates: torch.Tensor) -> torch.Tensor:
    """Whether one of the candidates (5, S) stands between each sample and the light: (S,)."""
    view = light.view
    shaded = torch.zeros_like(samples.frame, dtype=torch.bool)
    points = samples.points
    for candidate in candidates:
        candidate = torch.where(candidate == samples.primitive, -1, candidate)
        for shape, rows in _rows_by_shape(view, candidate):
            A, o = _solids(view, samples.frame[rows], candidate[rows])
            x = rotate(A, points[:, rows]) + o
            towards = light.towards(samples.frame[rows], points[:, rows])
            t_in, t_out = interval(shape, x, rotate(A, towards))
            blocked = (t_in <= t_out) & (t_out > 1e-3)
            if light.is_lamp:
                blocked &= t_in < 1
            shaded[rows] |= blocked
    return shaded


def _solids(
    view: View, frame: torch.Tensor, primitive: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`View.A` (3, 3, S) and `View.o` (3, S) of primitives, components first."""
    index = frame * view.o.shape[1] + primitive
    A = view.A.reshape(-1, 9).T.index_select(1, index).reshape(3, 3, -1)
    return A, view.o.reshape(-1, 3).T.index_select(1, index)


def _rows_by_shape(view: View, candidate: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """Rows whose candidate exists, grouped by its shape."""
    shapes = torch.where(candidate >= 0, view.world.shape[candidate], -1)
    groups = [(int(shape), (shapes == shape).nonzero()[:, 0]) for shape in Shape]
    return [(shape, rows) for shape, rows in groups if len(rows)]
