"""Season, weather and time of day painted into photos that were taken in fair weather.

Seed 000 [0022]: the style of a view may differ in time of day, season and weather. What is
painted is what each of them does to contrast and colour, with the share that depends on distance
following the depth of the scene, or a guess of it: ground rising to the horizon, far above it.
Enough of the scene is always left to be matched.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.draws import chosen, enlarge, luma, per_image, smooth_field, uniform
from kpvo_ros.synthetic.precipitation import add_flakes, add_streaks, wet_ground

_HORIZON = 0.45  # of the height, where nobody knows better
_FAR_M = 120.0  # what lies farther is hidden no more than this
_CAMERA_HEIGHT_M = 1.4
_LAMPS = 4  # at most, in one picture
_SHARES = ('season', 'fog', 'rain', 'snow', 'dusk', 'night', 'strength')


@dataclasses.dataclass(frozen=True)
class WeatherLimits:
    """How often each change comes; shares are probabilities per image.

    Rain, snow and fog exclude each other, so do dusk and night; either goes with a season.

    Attributes:
        season: share with autumn or winter vegetation.
        fog: share in fog.
        rain: share in rain, on wet ground.
        snow: share in falling snow, with snow lying.
        dusk: share in the low light of morning or evening.
        night: share at night, under lamps.
        strength: 0..1, scales what the change does.
    """

    season: float = 0.0
    fog: float = 0.0
    rain: float = 0.0
    snow: float = 0.0
    dusk: float = 0.0
    night: float = 0.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise SyntheticError(f'weather: {name}={getattr(self, name)} must be within 0..1')
        if self.fog + self.rain + self.snow > 1 or self.dusk + self.night > 1:
            raise SyntheticError(
                'weather: fog + rain + snow, and dusk + night, must not exceed 1: lower a share'
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """What is known about where things are, for M images.

    Attributes:
        horizon_px: (M,) row of the horizon.
        depth_m: (M, 1, H, W) metres, finite.
    """

    horizon_px: Tensor
    depth_m: Tensor


def change_weather(
    images: Tensor,
    generator: torch.Generator,
    limits: WeatherLimits,
    horizon_px: Tensor | None = None,
    depth_m: Tensor | None = None,
) -> None:
    """Paint a draw of season, weather and time of day into every image, in place.

    Args:
        images: (B, 3, H, W) in 0..1, changed.
        generator: source of the draws.
        limits: how often and how strongly.
        horizon_px: (B,) row of the horizon, about 45 % of the height when None.
        depth_m: (B, H, W) metres, NaN or infinite for the sky; guessed when None.
    """
    count = len(images)
    if horizon_px is None:
        horizon_px = (_HORIZON + uniform(count, -0.1, 0.1, generator)) * images.shape[-2]
    sky, light = uniform(count, 0.0, 1.0, generator), uniform(count, 0.0, 1.0, generator)
    fog, rain = limits.fog, limits.fog + limits.rain
    night = limits.dusk + limits.night
    turns = [
        (chosen(count, limits.season, generator), add_season),
        ((sky < fog).nonzero().squeeze(1), add_fog),
        (((sky >= fog) & (sky < rain)).nonzero().squeeze(1), add_rain),
        (((sky >= rain) & (sky < rain + limits.snow)).nonzero().squeeze(1), add_snow),
        ((light < limits.dusk).nonzero().squeeze(1), add_dusk),
        (((light >= limits.dusk) & (light < night)).nonzero().squeeze(1), add_night),
    ]
    for rows, effect in turns:
        if len(rows) == 0:
            continue
        rows = rows.to(images.device)
        before = images.index_select(0, rows)
        horizon = horizon_px.to(images)[rows]
        depth = None if depth_m is None else depth_m.to(images)[rows].unsqueeze(1)
        after = effect(before, generator, scene_of(before, horizon, depth)).clamp_(0, 1)
        images.index_copy_(0, rows, before.lerp_(after, limits.strength))


def scene_of(images: Tensor, horizon_px: Tensor, depth_m: Tensor | None) -> Scene:
    """Complete what is known about images (M, 3, H, W); depth (M, 1, H, W) may have holes.

    Without depth the ground below the horizon is taken as flat, seen from 1.4 m with a lens of
    medium width. Above, things come nearer with height again, as fronts of houses and trees do.
    """
    if depth_m is not None:
        known = torch.isfinite(depth_m) & (depth_m > 0)
        return Scene(horizon_px, torch.where(known, depth_m, _FAR_M).clamp(max=_FAR_M))
    height, width = images.shape[-2:]
    row = torch.arange(height, device=images.device, dtype=images.dtype)[None]
    below = row - horizon_px[:, None]  # (M, H) pixels
    drop = torch.where(below >= 0, below, -0.1 * below)
    depth = (_CAMERA_HEIGHT_M * 0.9 * max(height, width) / drop.clamp(min=1e-3)).clamp(max=_FAR_M)
    depth = depth[:, None, :, None].expand(-1, 1, height, width)
    return Scene(horizon_px, depth.contiguous())  # expanded, all that follows is twice as slow


def add_fog(images: Tensor, generator: torch.Generator, scene: Scene) -> Tensor:
    """Light is lost with distance and replaced by that of the fog (Koschmieder's law).

    A quarter of the contrast survives everywhere: fog so dense teaches nothing.
    """
    count = len(images)
    sight_m = per_image(uniform(count, 12.0, 70.0, generator), images)
    whiteness = per_image(uniform(count, 0.6, 0.9, generator), images)
    banks = smooth_field(count, _size(images), 3, generator).to(images)
    passing = torch.exp(-scene.depth_m * (0.5 + banks) / sight_m).clamp_(min=0.22)
    colour = whiteness * images.new_tensor([0.98, 1.0, 1.02])[:, None, None]
    return torch.lerp(colour.expand_as(images), images, 0.9 * passing)


def add_rain(images: Tensor, generator: torch.Generator, scene: Scene) -> Tensor:
    """Dull light, haze, mirrors on the ground, and streaks of drops."""
    count = len(images)
    dull = images * per_image(uniform(count, 0.55, 0.95, generator), images)
    dull = torch.lerp(dull, luma(dull), 0.5)
    haze = 1 - torch.exp(-scene.depth_m / per_image(uniform(count, 60, 200, generator), images))
    grey = per_image(uniform(count, 0.4, 0.6, generator), images)
    hazy = torch.lerp(dull, grey, 0.15 + 0.5 * haze)
    return add_streaks(wet_ground(hazy, generator, scene.horizon_px), generator)


def add_snow(images: Tensor, generator: torch.Generator, scene: Scene) -> Tensor:
    """White ground and white tops of bright things, pale light, haze, and flakes."""
    count = len(images)
    brightness = luma(images)
    pale = torch.lerp(images, brightness, 0.6)
    row = torch.arange(images.shape[-2], device=images.device, dtype=images.dtype)
    below = (row - scene.horizon_px[:, None]) / images.shape[-2]  # (M, H)
    # Snow lies on the ground first; above the horizon only where it is bright, on roofs and twigs.
    ground = torch.sigmoid(14 * below)[:, None, :, None]
    patches = smooth_field(count, _size(images), 14, generator).to(images)
    cover = per_image(uniform(count, 0.15, 0.5, generator), images)
    depth = 0.45 * ground + 0.4 * brightness + 0.5 * patches * ground - 1 + cover
    lying = torch.sigmoid(9 * depth)
    # Snow follows the shape of what it covers: part of the shading stays.
    white = (0.78 + 0.25 * brightness).expand_as(images)
    snowy = torch.lerp(pale, white, 0.8 * lying)
    haze = 1 - torch.exp(-scene.depth_m / per_image(uniform(count, 40, 150, generator), images))
    grey = per_image(uniform(count, 0.7, 0.88, generator), images)
    return add_flakes(torch.lerp(snowy, grey, 0.55 * haze), generator)


def add_dusk(images: Tensor, generator: torch.Generator, scene: Scene) -> Tensor:
    """Low light: warm around the horizon, blue in the sky and in the shadows, or both pale."""
    count, height = len(images), images.shape[-2]
    row = torch.arange(height, device=images.device, dtype=images.dtype)[None]
    away = ((row - scene.horizon_px[:, None]) / height).abs()[:, None, :, None]
    warmth = per_image(uniform(count, 0.3, 1.0, generator), images)
    warm = images.new_tensor([1.15, 0.72, 0.45])[:, None, None]
    cool = images.new_tensor([0.55, 0.6, 0.85])[:, None, None]
    tint = torch.lerp(cool, warm, warmth * torch.exp(-4 * away))
    gain = per_image(uniform(count, 0.55, 1.15, generator), images)
    return images * (0.85 + 0.15 * images) * tint * gain


def add_night(images: Tensor, generator: torch.Generator, scene: Scene) -> Tensor:
    """Dark and bluish, a black sky, warm pools of light under lamps, and a noisy sensor.

    The camera opens up as cameras do: the mean brightness comes out at 7..20 %.
    """
    count, size_hw = len(images), _size(images)
    brightness = luma(images)
    row = torch.arange(size_hw[0], device=images.device, dtype=images.dtype)[None]
    above = torch.sigmoid((scene.horizon_px[:, None] - row) / size_hw[0] * 25)[:, None, :, None]
    sky = above * torch.sigmoid(14 * (brightness - 0.6))
    moon = images.new_tensor([0.55, 0.72, 1.0])[:, None, None]
    lamp = images.new_tensor([1.0, 0.8, 0.5])[:, None, None]
    pools, bulbs = _lamps(count, size_hw, generator)
    ambient = per_image(uniform(count, 0.15, 0.6, generator), images)
    light = ambient * moon + pools.to(images) * lamp
    dark = images * images.sqrt() * (light * (1 - 0.85 * sky))
    wanted = per_image(uniform(count, 0.07, 0.2, generator), images)
    exposed = dark * (wanted / dark.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-3))
    exposed = exposed + bulbs.to(images) * images.new_tensor([1.0, 0.93, 0.75])[:, None, None]
    grain = torch.randn(1, 3, *size_hw, generator=generator, device=generator.device)
    level = per_image(uniform(count, 0.004, 0.03, generator), images)
    return exposed + grain.to(images) * level


def add_season(images: Tensor, generator: torch.Generator, scene: Scene) -> Tensor:
    """Green turns yellow, brown or red, or grey as of bare twigs; everything else stays.

    Args:
        images: (M, 3, H, W).
        generator: source of the draws.
        scene: not needed, the same for all effects.

    Returns:
        (M, 3, H, W).
    """
    count = len(images)
    red, green, blue = images.unbind(1)
    # Foliage is green above its mean of red and blue, but dark: measured against its brightness.
    excess = (green - torch.maximum(blue, 0.9 * red)).unsqueeze(1)
    leaf = (6 * excess / luma(images).clamp(min=0.08)).clamp_(0, 1)
    palette = images.new_tensor(
        [[1.35, 0.95, 0.35], [1.25, 0.85, 0.55], [1.5, 0.7, 0.4], [1.05, 1.0, 0.95]]
    )
    pick = torch.randint(len(palette), (count,), generator=generator, device=generator.device)
    colour = palette[pick.to(images.device)][:, :, None, None]
    gain = per_image(uniform(count, 0.85, 1.3, generator), images)
    patches = smooth_field(count, _size(images), 6, generator).to(images)
    return torch.lerp(images, luma(images) * colour * gain, leaf * (0.5 + 0.5 * patches))


def _lamps(
    count: int, size_hw: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Light (M, 1, H, W) that 1..4 lamps throw on the scene, and their glow seen directly.

    Light on the scene is smooth, so it is computed coarsely.
    """
    height, width = size_hw
    lit = uniform(count * _LAMPS, 0.0, 1.0, generator).view(-1, _LAMPS) < 0.6
    lit[:, 0] = True
    middle_x = uniform(count * _LAMPS, -0.1, 1.1, generator)
    middle_y = uniform(count * _LAMPS, 0.0, 0.75 * height / width, generator)
    reach2 = uniform(count * _LAMPS, 0.1, 0.45, generator) ** 2
    size2 = uniform(count * _LAMPS, 0.004, 0.02, generator) ** 2

    def light(step: int, spread2: Tensor, power: float) -> Tensor:
        rows, columns = -(-height // step), -(-width // step)
        y = torch.arange(rows, device=generator.device) * (step / width)
        x = torch.arange(columns, device=generator.device) * (step / width)
        y2, x2 = (y - middle_y[:, None]) ** 2, (x - middle_x[:, None]) ** 2
        distance2 = (y2[:, :, None] + x2[:, None]) / spread2[:, None, None]
        glow = (1 + distance2).pow_(-power).view(count, _LAMPS, rows, columns)
        total = torch.einsum('ml,mlyx->myx', lit.to(glow), glow).unsqueeze(1)
        return enlarge(total, size_hw)

    return light(8, reach2 / 3, 2), light(2, size2, 1).clamp_(max=1)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]
