"""What a camera does to light: shutter, exposure, lens shading, noise, and failing altogether.

Radiance in, 8-bit pictures out. Fog and light belong to the world (`lighting`), everything here to
the camera.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.render import encode


@dataclasses.dataclass(frozen=True)
class CameraEffects:
    """Imperfections of a camera.

    Attributes:
        exposure: (time_s, gain) points; the gain is interpolated between them, held outside.
        auto_exposure: share 0..1 by which the mean brightness is pulled towards middle grey.
        noise: standard deviation of the noise at full brightness, of 1; photon noise grows with
            the root of the light, a tenth of it is always there.
        vignetting: loss of light at the corners, 0..1.
        shutter_s: time the shutter is open around the stamp; 0 for no motion blur.
        shutter_samples: renderings averaged for the blur, odd.
        blackouts_s: (start, end) intervals in which the picture is black.
    """

    exposure: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    auto_exposure: float = 0.0
    noise: float = 0.0
    vignetting: float = 0.0
    shutter_s: float = 0.0
    shutter_samples: int = 5
    blackouts_s: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        times = [time for time, _ in self.exposure]
        if not times or sorted(times) != times or min(gain for _, gain in self.exposure) <= 0:
            raise SyntheticError(
                f'exposure {self.exposure} must be (time_s, gain) points in order, gains positive'
            )
        if self.shutter_samples < 1 or self.shutter_samples % 2 == 0:
            raise SyntheticError(f'shutter_samples={self.shutter_samples} must be odd: 3, 5, 7')
        if min(self.noise, self.vignetting, self.auto_exposure, self.shutter_s) < 0:
            raise SyntheticError(
                'noise, vignetting, auto_exposure and shutter_s must not be negative'
            )
        for start, end in self.blackouts_s:
            if not start < end:
                raise SyntheticError(f'blackout from {start} s to {end} s is empty: swap its ends')

    def shutter_offsets_s(self) -> np.ndarray:
        """(K,) instants of the renderings relative to the stamp, the middle one is 0."""
        if self.shutter_s <= 0 or self.shutter_samples == 1:
            return np.zeros(1)
        steps = np.arange(self.shutter_samples) - self.shutter_samples // 2
        return steps * (self.shutter_s / self.shutter_samples)

    def is_black(self, time_s: float) -> bool:
        """Whether the camera sees nothing at this time; intervals are half open."""
        return any(start <= time_s < end for start, end in self.blackouts_s)


def develop(
    radiance: torch.Tensor,
    effects: CameraEffects,
    time_s: torch.Tensor,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Make pictures of radiance.

    Args:
        radiance: (B, H, W, 3) float32 linear light.
        effects: what the camera does to it.
        time_s: (B,) seconds since the start of the sequence.
        generator: source of the noise, on the device of the radiance; needed with noise.

    Returns:
        (B, H, W, 3) uint8 RGB.

    Raises:
        SyntheticError: noise is asked for without a generator.
    """
    if effects.noise > 0 and generator is None:
        raise SyntheticError('camera noise needs a generator: pass torch.Generator with a seed')
    points = np.asarray(effects.exposure)
    gain = np.interp(time_s.cpu().numpy(), points[:, 0], points[:, 1])
    light = radiance * torch.from_numpy(gain).to(radiance)[:, None, None, None]
    if effects.auto_exposure > 0:
        mean = light.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-4)
        light = light * (0.22 / mean) ** min(effects.auto_exposure, 1.0)
    if effects.vignetting > 0:
        light = light * _lens_shading(light, effects.vignetting)
    if effects.noise > 0:
        noise = torch.randn(light.shape, generator=generator, device=light.device)
        light = light + effects.noise * noise * (0.01 + light.clamp(0, 1)).sqrt()
    black = [effects.is_black(float(time)) for time in time_s]
    return encode(light).masked_fill_(
        torch.tensor(black, device=light.device)[:, None, None, None], 0
    )


def _lens_shading(light: torch.Tensor, loss: float) -> torch.Tensor:
    """(1, H, W, 1) factor that falls with the square of the distance from the centre."""
    height, width = light.shape[1:3]
    y = torch.linspace(-1, 1, height, device=light.device)[:, None]
    x = torch.linspace(-1, 1, width, device=light.device)[None]
    return (1 - loss * 0.5 * (x.square() + y.square()))[None, ..., None]
