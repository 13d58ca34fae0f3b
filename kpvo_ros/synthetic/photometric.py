"""Style of a photo: weather, time of day, light, and what the camera makes of them.

Seed 000 asks for variations in which only the style differs ([0021]-[0022]: texture, time of day,
season, weather), so that a network learns what a thing is and not how it was lit. `restyle`
draws a style for every image by itself; two calls on two views of a pair give two styles. No
effect moves a pixel: correspondences stay as they are.

The world comes first (`weather`), then the light that falls on it (`illumination`), then the
camera: colour and tone here, blur, noise and compression in `imaging`.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import math

import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.draws import LUMA, chosen, per_image, uniform
from kpvo_ros.synthetic.illumination import add_highlights, add_shadows, add_vignetting
from kpvo_ros.synthetic.imaging import add_blocks, add_noise, blur_gaussian, blur_motion
from kpvo_ros.synthetic.weather import WeatherLimits, change_weather


@dataclasses.dataclass(frozen=True)
class StyleLimits:
    """How often and how strongly the style changes.

    Shares are probabilities per image, each effect drawn by itself; strengths are the largest
    value drawn.

    Attributes:
        weather: weather, season and time of day, all fair by default.
        colour: share with another exposure, contrast, cast and saturation.
        exposure_stops: largest change of exposure, powers of two, up or down.
        contrast: largest relative change of contrast.
        cast: largest relative change of red and blue against green.
        saturation: largest relative change of saturation.
        grey: share without any colour.
        gamma: share with another tone curve.
        gamma_factor: largest exponent; its inverse is the smallest.
        shadow: share with cast shadows.
        shadow_strength: largest loss of light in a shadow, 0..1.
        highlight: share with glare or a light leak.
        vignetting: share with darker corners.
        blur: share out of focus.
        blur_px: largest standard deviation of that blur.
        motion: share blurred by motion.
        motion_px: longest path of that blur.
        noise: share with sensor noise.
        noise_sigma: largest standard deviation of the noise at full brightness, of 1.
        blocks: share with JPEG-like compression.
        blocks_step: coarsest quantisation of the DCT's low frequencies, of 1.
    """

    weather: WeatherLimits = dataclasses.field(default_factory=WeatherLimits)
    colour: float = 0.0
    exposure_stops: float = 0.9
    contrast: float = 0.4
    cast: float = 0.2
    saturation: float = 0.6
    grey: float = 0.0
    gamma: float = 0.0
    gamma_factor: float = 1.8
    shadow: float = 0.0
    shadow_strength: float = 0.7
    highlight: float = 0.0
    vignetting: float = 0.0
    blur: float = 0.0
    blur_px: float = 1.5
    motion: float = 0.0
    motion_px: float = 7.0
    noise: float = 0.0
    noise_sigma: float = 0.06
    blocks: float = 0.0
    blocks_step: float = 0.12

    def __post_init__(self) -> None:
        for name in (*_SHARES, 'shadow_strength', 'contrast'):
            if not 0 <= getattr(self, name) <= 1:
                raise SyntheticError(f'style: {name}={getattr(self, name)} must be within 0..1')
        for name in ('exposure_stops', 'cast', 'saturation', 'noise_sigma', 'blocks_step'):
            if not 0 <= getattr(self, name) < math.inf:
                raise SyntheticError(f'style: {name}={getattr(self, name)} must not be negative')
        if not (self.gamma_factor >= 1 and 0 < self.blur_px <= 8 and 1 <= self.motion_px <= 31):
            raise SyntheticError(
                f'style: gamma_factor={self.gamma_factor} must be at least 1, '
                f'blur_px={self.blur_px} within 0..8, motion_px={self.motion_px} within 1..31'
            )


_EXPOSED = (0.08, 0.8)  # mean brightness that automatic exposure keeps to, of 1
_OPENS_UP = 3.0  # largest gain it has in the dark
_PART = 4  # images at once on a CPU: so many stay in its cache
_SHARES = (
    'colour', 'grey', 'gamma', 'shadow', 'highlight', 'vignetting', 'blur', 'motion', 'noise',
    'blocks',
)  # fmt: skip


def photometric_only() -> StyleLimits:
    """Light and camera, mild to strong; the same weather in all pictures."""
    return StyleLimits(
        colour=0.85,
        grey=0.06,
        gamma=0.35,
        shadow=0.2,
        highlight=0.06,
        vignetting=0.15,
        blur=0.2,
        motion=0.06,
        noise=0.45,
        blocks=0.12,
    )


def full() -> StyleLimits:
    """Weather, season and time of day as well; about half of the pictures stay fair."""
    weather = WeatherLimits(season=0.12, fog=0.1, rain=0.1, snow=0.07, dusk=0.12, night=0.13)
    return dataclasses.replace(photometric_only(), weather=weather)


def restyle(
    images: Tensor,
    generator: torch.Generator,
    limits: StyleLimits | None = None,
    *,
    horizon_px: Tensor | None = None,
    depth_m: Tensor | None = None,
) -> Tensor:
    """Give every image a style of its own.

    Args:
        images: (B, 3, H, W) float32 RGB 0..1; left unchanged.
        generator: source of the draws.
        limits: how often and how strongly; `full()` when None.
        horizon_px: (B,) row of the horizon; about 45 % of the height when None.
        depth_m: (B, H, W) metres, NaN or infinite for the sky; guessed from the horizon when
            None. Only fog, rain and snow need it.

    Returns:
        (B, 3, H, W) float32 in 0..1.

    Raises:
        SyntheticError: a shape or type does not fit.
    """
    _check(images, horizon_px, depth_m)
    limits = full() if limits is None else limits
    out = images.clone()
    part = _PART if images.device.type == 'cpu' else max(len(images), 1)
    for start in range(0, len(images), part):
        rows = slice(start, start + part)
        _restyle_in_place(
            out[rows],
            generator,
            limits,
            None if horizon_px is None else horizon_px[rows],
            None if depth_m is None else depth_m[rows],
        )
    return out


def _restyle_in_place(
    images: Tensor,
    generator: torch.Generator,
    limits: StyleLimits,
    horizon_px: Tensor | None,
    depth_m: Tensor | None,
) -> None:
    change_weather(images, generator, limits.weather, horizon_px, depth_m)
    for share, effect, strength in (
        (limits.shadow, add_shadows, (limits.shadow_strength,)),
        (limits.highlight, add_highlights, ()),
        (limits.vignetting, add_vignetting, ()),
        (limits.blur, blur_gaussian, (limits.blur_px,)),
        (limits.motion, blur_motion, (limits.motion_px,)),
        (limits.gamma, change_gamma, (limits.gamma_factor,)),
        (limits.colour, change_colour, (limits,)),
        (limits.grey, remove_colour, ()),
        (limits.noise, add_noise, (limits.noise_sigma,)),
        (limits.blocks, add_blocks, (limits.blocks_step,)),
    ):
        _apply(images, share, generator, effect, *strength)
    images.clamp_(0, 1)


def change_colour(images: Tensor, generator: torch.Generator, limits: StyleLimits) -> Tensor:
    """Exposure, contrast about the mean, colour cast, saturation: one affine map of RGB each.

    Args:
        images: (M, 3, H, W).
        generator: source of the draws.
        limits: the strengths.

    Returns:
        (M, 3, H, W), not yet clamped.
    """
    count = len(images)
    mean = images.mean(dim=(1, 2, 3)).to(generator.device)
    gain = torch.exp2(uniform(count, -limits.exposure_stops, limits.exposure_stops, generator))
    # Cameras expose for the scene: nothing dark is made black, nothing bright all white.
    darkest, brightest = _EXPOSED
    low, high = (darkest / mean).clamp(0, _OPENS_UP), (brightest / mean).clamp(1)
    gain = torch.minimum(torch.maximum(gain, low), high)
    contrast = 1 + uniform(count, -limits.contrast, limits.contrast, generator)
    vivid = 1 + uniform(count, -limits.saturation, limits.saturation, generator)
    cast = torch.stack(
        [
            1 + uniform(count, -limits.cast, limits.cast, generator),
            torch.ones(count, device=generator.device),
            1 + uniform(count, -limits.cast, limits.cast, generator),
        ],
        dim=1,
    )
    lift = 0.05 * contrast * uniform(count, -1.0, 1.0, generator) * (limits.contrast > 0)
    eye = torch.eye(3, device=generator.device)
    towards_grey = eye.new_tensor(LUMA).expand(3, 3)
    M = vivid[:, None, None] * eye + (1 - vivid)[:, None, None] * towards_grey
    M = (M * cast[:, None, :] * (gain * contrast)[:, None, None]).to(images)
    offset = ((1 - contrast) * mean * gain + lift).to(images)[:, None, None].expand(-1, 3, 1)
    return torch.baddbmm(offset, M, images.flatten(2)).unflatten(2, images.shape[2:])


def change_gamma(images: Tensor, generator: torch.Generator, factor: float) -> Tensor:
    """Images (M, 3, H, W) raised to an exponent between 1 / factor and factor."""
    exponent = uniform(len(images), -math.log(factor), math.log(factor), generator).exp()
    return images.clamp(1e-4, 1).pow_(per_image(exponent, images))


def remove_colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (M, 3, H, W) as grey cameras see them: any positive mix of the three channels."""
    weights = torch.rand(len(images), 3, generator=generator, device=generator.device) + 0.2
    weights = (weights / weights.sum(1, keepdim=True)).to(images)
    return (images * weights[:, :, None, None]).sum(1, keepdim=True).expand_as(images)


def _apply(
    images: Tensor,
    share: float,
    generator: torch.Generator,
    effect: Callable[..., Tensor],
    *strength: object,
) -> None:
    """Let an effect fall upon a share of the images (B, 3, H, W), in place."""
    if share <= 0:
        return
    rows = chosen(len(images), share, generator).to(images.device)
    if len(rows) > 0:
        images.index_copy_(0, rows, effect(images.index_select(0, rows), generator, *strength))


def _check(images: Tensor, horizon_px: Tensor | None, depth_m: Tensor | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise SyntheticError(
            f'restyle needs floating images (B, 3, H, W) in 0..1, got {images.dtype} '
            f'{tuple(images.shape)}: convert uint8 with .float() / 255'
        )
    batch, _, height, width = images.shape
    if horizon_px is not None and horizon_px.shape != (batch,):
        raise SyntheticError(f'horizon_px needs shape {(batch,)}, got {tuple(horizon_px.shape)}')
    if depth_m is not None and depth_m.shape != (batch, height, width):
        raise SyntheticError(
            f'depth_m needs shape {(batch, height, width)}, got {tuple(depth_m.shape)}'
        )
