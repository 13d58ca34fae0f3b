"""The colour of surfaces and sky: Lambert's law, sky light, lamps, dirt, fog.

Everything is linear light. Surfaces are purely diffuse, so a point keeps its colour when the
camera moves; the truth a test compares with is photometric as well as geometric.
"""

from __future__ import annotations

import torch

from kpvo_ros.synthetic.surface import Samples, Surface
from kpvo_ros.synthetic.vectors import dot, length, of_frame, rotate, unit
from kpvo_ros.synthetic.view import View

_GRIME_M = 6.3  # one repeat of the dirt, of no simple ratio to the textures' sizes
_LAMP_CORE_M2 = 0.04  # keeps the light of a lamp finite at the lamp
_CLOUD_REPEAT = 0.22


def shade(view: View, samples: Samples, surface: Surface, shaded: torch.Tensor) -> torch.Tensor:
    """Radiance of samples.

    Args:
        view: the scene.
        samples: the rays.
        surface: what they met.
        shaded: (S,) bool, whether something stands between the point and the main light.

    Returns:
        (S, 3) float32 linear light.
    """
    light = _light(view, samples, surface, shaded)
    return _through_fog(view, samples, _albedo(view, samples, surface) * light.T)


def sky(view: View, frame: torch.Tensor, ray: torch.Tensor, pixel_rad: float) -> torch.Tensor:
    """Radiance of the sky in given directions.

    Args:
        view: the scene.
        frame: (S,) int64 camera of each ray.
        ray: (3, S) float32 directions in the camera frame, z = 1.
        pixel_rad: angle between neighbouring pixels.

    Returns:
        (S, 3) float32 linear light.
    """
    lighting, atlas = view.world.lighting, view.world.atlas
    d = unit(_turn(view.R_world_camera, frame, ray))
    zenith, horizon, brightness = (
        torch.tensor(colour, dtype=torch.float32, device=ray.device)
        for colour in (lighting.zenith, lighting.fog, lighting.sky)
    )
    level = brightness.sum() / 1.48  # the sky of a clear day
    height = d[2].clamp(min=0)[:, None]
    colour = torch.lerp(horizon, zenith, height.sqrt().clamp(max=1)) * level
    if 'clouds' in atlas.names and lighting.cloud > 0:
        lift = d[2].clamp(min=0) + 0.12
        u, v = _CLOUD_REPEAT * d[0] / lift, _CLOUD_REPEAT * d[1] / lift
        mip = (atlas.size * _CLOUD_REPEAT * pixel_rad / lift.square() + 1e-9).log2()
        texture = torch.full_like(frame, atlas['clouds'])
        cover = atlas.sample(texture, u, v, mip)[:, :1] * lighting.cloud
        cover = cover * (d[2] * 6).clamp(0, 1)[:, None]
        colour = torch.lerp(colour, level * torch.full_like(colour, 0.95), cover)
    if lighting.fog_per_m > 0:
        haze = (1 - d[2].clamp(min=0) * 2).clamp(0, 1)[:, None]
        fog_share = haze * (1 - torch.exp(torch.tensor(-300.0 * lighting.fog_per_m)))
        colour = torch.lerp(colour, level * horizon.expand_as(colour), fog_share.to(colour))
    return colour


def _albedo(view: View, samples: Samples, surface: Surface) -> torch.Tensor:
    """(S, 3) share of light the surface returns."""
    world, primitive = view.world, samples.primitive
    code = world.atlas.sample_footprint(
        world.texture[primitive], surface.uv, surface.step_x, surface.step_y
    )
    if 'grime' in world.atlas.names:
        code = code * _grime(view, samples, surface)
    return code * code * world.tint[primitive]


def _grime(view: View, samples: Samples, surface: Surface) -> torch.Tensor:
    """(S, 1) dirt, laid out in metres on the faces of the primitive as its texture is."""
    world, primitive = view.world, samples.primitive
    ratio = world.metres_per_repeat[primitive] / _GRIME_M
    size = world.atlas.size
    step = torch.minimum(length(surface.step_x), length(surface.step_y))
    level = (1.5 * step * ratio * size + 1e-9).log2()
    texture = torch.full_like(primitive, world.atlas['grime'])
    shift = primitive * 0.37
    u, v = surface.uv[0] * ratio + shift, surface.uv[1] * ratio + 0.6 * shift
    return 2.0 * world.atlas.sample(texture, u, v, level)[:, :1]


def _light(view: View, samples: Samples, surface: Surface, shaded: torch.Tensor) -> torch.Tensor:
    """(3, S) light that falls on the surface."""
    lighting, frame = view.world.lighting, samples.frame
    sky_light, bounce, sun = (
        torch.tensor(colour, dtype=torch.float32, device=shaded.device)[:, None]
        for colour in (lighting.sky, lighting.bounce, lighting.sun)
    )
    up = dot(surface.normal, of_frame(view.up, frame))
    light = torch.lerp(bounce, sky_light, 0.5 + 0.5 * up)
    reaches = (~shaded).float()
    if view.sun is not None:
        facing = dot(surface.normal, of_frame(view.sun, frame)).clamp(min=0)
        light = light + sun * (facing * reaches)
    points = samples.points
    for index in range(view.lamps.shape[1]):
        towards = of_frame(view.lamps[:, index], frame) - points
        square = dot(towards, towards)
        facing = dot(surface.normal, towards).clamp(min=0) * square.clamp(min=1e-8).rsqrt()
        if index == 0 and view.sun is None:
            facing = facing * reaches
        power = of_frame(view.lamp_power[:, index], frame)
        light = torch.addcmul(light, power, facing / (square + _LAMP_CORE_M2))
    return light


def _through_fog(view: View, samples: Samples, colour: torch.Tensor) -> torch.Tensor:
    """What is left of a colour after its way through the air."""
    lighting = view.world.lighting
    if lighting.fog_per_m <= 0:
        return colour
    left = torch.exp(-lighting.fog_per_m * length(samples.points))[:, None]
    fog = (
        torch.tensor(lighting.fog, dtype=torch.float32, device=colour.device)
        * sum(lighting.sky)
        / 1.48
    )
    return torch.lerp(fog.expand_as(colour), colour, left)


def _turn(R: torch.Tensor, frame: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Rotate vectors (3, S), each by the matrix of its frame."""
    columns = R.permute(1, 2, 0)[:, :, frame] if len(R) > 1 else R[0][:, :, None]
    return rotate(columns, vector)
