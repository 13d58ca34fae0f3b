"""The renderer: a world and camera poses in, image, depth, normals and object ids out.

A ray-caster without approximations in the geometry: depth, normal and object id belong to the ray
through the centre of each pixel (integer coordinates, as `Camera.unproject` has it). Colours are
filtered: textures by mip levels over the pixel's footprint, edges by additional rays. Runs on the
device of the world; batches of poses are rendered together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses

import numpy as np
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.synthetic.edges import edge_pixels, smooth_colours
from kpvo_ros.synthetic.rays import RayGrid, ray_grid
from kpvo_ros.synthetic.shading import shade, sky
from kpvo_ros.synthetic.surface import Samples, Surface, surface_at
from kpvo_ros.synthetic.vectors import dot
from kpvo_ros.synthetic.view import View
from kpvo_ros.synthetic.visibility import Hits, ShadowLight, find_occluders, first_hits
from kpvo_ros.synthetic.world import World

_FACES = 8  # numbers reserved for the faces of one primitive
_CHUNK_PIXELS = {'cpu': 1 << 17, 'cuda': 1 << 22}  # rendered at once: cache size, memory

Array = np.ndarray | torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Render:
    """B rendered views; tensors on the device of the world.

    Attributes:
        radiance: (B, H, W, 3) float32 linear light; `effects.develop` makes pictures of it.
        depth_m: (B, H, W) float32 metres along the optical axis, NaN where nothing is met.
        normal: (B, H, W, 3) float32 unit normals in the camera frame, NaN where nothing is met.
        object_id: (B, H, W) int64, -1 where nothing is met.
    """

    radiance: torch.Tensor
    depth_m: torch.Tensor
    normal: torch.Tensor
    object_id: torch.Tensor

    @property
    def image(self) -> torch.Tensor:
        """(B, H, W, 3) uint8 RGB at exposure 1 without noise."""
        return encode(self.radiance)


def render(
    world: World,
    T_world_camera: Array,
    camera: Camera,
    *,
    time_s: Array | Sequence[float] | float = 0.0,
    shadows: bool = True,
    antialias: bool = True,
) -> Render:
    """Render a world from a batch of poses, on the device the world is on.

    Args:
        world: what to render, with its light (see `World.to`, `World.with_lighting`).
        T_world_camera: (B, 4, 4) or (4, 4) poses of the optical frame.
        camera: intrinsics; pixels whose ray is 90 degrees or more off the axis stay black.
        time_s: one time for all or (B,) times, where moving objects are.
        shadows: cast the shadows of the main light.
        antialias: smooth the edges of faces and shadows.

    Raises:
        SyntheticError: the poses have another shape or are not finite.
    """
    if isinstance(T_world_camera, np.ndarray):
        T_world_camera = T_world_camera.copy()  # torch warns of read-only arrays
    poses = torch.as_tensor(T_world_camera, dtype=torch.float64)
    poses = poses[None] if poses.ndim == 2 else poses
    if poses.shape[1:] != (4, 4) or not bool(poses.isfinite().all()):
        raise SyntheticError(
            f'camera poses of shape {tuple(poses.shape)} must be finite (B, 4, 4) matrices'
        )
    times = torch.as_tensor(time_s, dtype=torch.float64).expand(len(poses))
    grid = ray_grid(camera, world.device)
    limit = _CHUNK_PIXELS.get(world.device.type, _CHUNK_PIXELS['cuda'])
    step = max(1, limit // (camera.width * camera.height))
    with torch.no_grad(), _one_thread():
        parts = [
            _render_chunk(
                View.of(world, pose.to(world.device), time.to(world.device)),
                grid,
                shadows,
                antialias,
            )
            for pose, time in zip(poses.split(step), times.split(step), strict=True)
        ]
    return Render(*(torch.cat(column) for column in zip(*parts, strict=True)))


def encode(radiance: torch.Tensor) -> torch.Tensor:
    """Linear light to uint8 with gamma 2 and a soft shoulder that keeps highlights apart."""
    bright = (radiance - 0.7).clamp(min=0)
    soft = torch.where(radiance > 0.7, 0.7 + 0.3 * bright / (bright + 0.3), radiance)
    return (soft.clamp(min=0).sqrt() * 255).round_().clamp_(0, 255).to(torch.uint8)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Borrow torch's thread setting.

    The work is many small steps: a second thread gains 5 % on an idle machine and waits at every
    step on a busy one (measured: 112 ms a frame with one thread, 679 ms with two).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _render_chunk(view: View, grid: RayGrid, shadows: bool, antialias: bool) -> Tensors:
    hits = first_hits(view, grid)
    hits = Hits(hits.depth, hits.primitive.masked_fill(~grid.valid, -1))
    samples, place = _samples(grid, hits)
    surface = surface_at(view, samples)
    light = ShadowLight.of(view) if shadows else None
    occluder = _occluders(light, grid, hits, samples, surface, place)
    colour = _colours(view, grid, hits, samples, surface, occluder, place)

    def image(values: torch.Tensor) -> torch.Tensor:
        return grid.to_image(values.reshape(*hits.depth.shape, *values.shape[1:]))

    primitive, colour = image(hits.primitive.flatten()), image(colour)
    if antialias:
        key = _scatter(surface.face, place, hits) + hits.primitive.flatten() * _FACES
        shaded = (occluder >= 0).flatten().long()
        pixels = edge_pixels(image(key * 2 + shaded))
        if len(pixels[0]):
            around = (primitive, image(occluder.flatten()))
            colour[pixels] = smooth_colours(view, grid, light, pixels, *around)
        colour.masked_fill_(~image(grid.valid.expand_as(hits.depth).flatten())[..., None], 0)
    seen = primitive >= 0
    depth = image(hits.depth.flatten()).masked_fill(~seen, torch.nan)
    normal = torch.full((hits.depth.numel(), 3), torch.nan, device=place.device)
    normal[place] = surface.normal.T
    object_id = torch.where(seen, view.world.object_id[primitive], -1)
    return colour, depth, image(normal), object_id


def _samples(grid: RayGrid, hits: Hits) -> tuple[Samples, torch.Tensor]:
    """The rays that met something, and their places in flat tile order."""
    place = (hits.primitive.flatten() >= 0).nonzero()[:, 0]
    frame, pixel = place // grid.valid.numel(), place % grid.valid.numel()
    xy = grid.xy.reshape(2, -1).index_select(1, pixel)
    samples = Samples(
        frame,
        hits.primitive.flatten()[place],
        torch.cat([xy, torch.ones_like(xy[:1])]),
        grid.jacobian.reshape(4, -1).index_select(1, pixel).reshape(2, 2, -1),
        hits.depth.flatten()[place],
    )
    return samples, place


def _occluders(
    light: ShadowLight | None,
    grid: RayGrid,
    hits: Hits,
    samples: Samples,
    surface: Surface,
    place: torch.Tensor,
) -> torch.Tensor:
    """(B, T, P) int64 what shades each pixel, -1 for nothing."""
    if light is None:
        return torch.full_like(hits.primitive, -1)
    towards = light.towards(samples.frame, samples.points)
    faces = dot(surface.normal, towards) > 0
    lit = _scatter(faces, place, hits).reshape(hits.depth.shape)
    return find_occluders(light, grid, hits, lit)


def _colours(
    view: View,
    grid: RayGrid,
    hits: Hits,
    samples: Samples,
    surface: Surface,
    occluder: torch.Tensor,
    place: torch.Tensor,
) -> torch.Tensor:
    """(B * T * P, 3) radiance of all pixels in tile order."""
    colour = torch.zeros(hits.depth.numel(), 3, device=place.device)
    colour[place] = shade(view, samples, surface, occluder.flatten()[place] >= 0)
    empty = (grid.valid & (hits.primitive < 0)).flatten().nonzero()[:, 0]
    if len(empty):
        pixel = empty % grid.valid.numel()
        xy = grid.xy.reshape(2, -1).index_select(1, pixel)
        ray = torch.cat([xy, torch.ones_like(xy[:1])])
        pixel_rad = float(grid.jacobian[0, 0].abs().mean())
        colour[empty] = sky(view, empty // grid.valid.numel(), ray, pixel_rad)
    return colour


def _scatter(values: torch.Tensor, place: torch.Tensor, hits: Hits) -> torch.Tensor:
    """Values of the samples at their places among all pixels, 0 elsewhere: (B * T * P,)."""
    target = torch.zeros(hits.depth.numel(), dtype=values.dtype, device=values.device)
    target[place] = values
    return target
