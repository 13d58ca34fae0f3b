"""Light and air of a world: sun, sky, lamps and fog.

Directions and positions are in the world frame (z up). Colours are linear light, where a white
surface that faces a sun of strength 1 has radiance 1.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.errors import SyntheticError

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Lamp:
    """A point light.

    Attributes:
        position: (x, y, z) metres.
        power: radiance of a white surface that faces the lamp at 1 m.
    """

    position: tuple[float, float, float]
    power: Colour = (4.0, 3.6, 3.0)


@dataclasses.dataclass(frozen=True)
class Lighting:
    """All light of a scene.

    Attributes:
        sun_direction: towards the sun, need not be normalised; None for no sun. Only one light
            casts shadows: the sun, or without a sun the first lamp.
        sun: strength of the sun.
        sky: light from above, also the brightness of the sky.
        bounce: light from below.
        lamps: point lights; those nearest to the camera are used.
        fog_per_m: share of light lost in a metre of air; 0 for clear air.
        fog: colour of the fog, also of the horizon.
        zenith: colour of the sky overhead, relative to `sky`.
        cloud: amount of clouds in 0..1.
    """

    sun_direction: tuple[float, float, float] | None = (0.5, 0.35, 0.8)
    sun: Colour = (0.95, 0.90, 0.80)
    sky: Colour = (0.44, 0.48, 0.56)
    bounce: Colour = (0.24, 0.23, 0.22)
    lamps: tuple[Lamp, ...] = ()
    fog_per_m: float = 0.0
    fog: Colour = (0.72, 0.76, 0.82)
    zenith: Colour = (0.25, 0.42, 0.78)
    cloud: float = 0.8

    def __post_init__(self) -> None:
        if self.sun_direction is not None and not np.linalg.norm(self.sun_direction) > 0:
            raise SyntheticError('sun direction has no length: give a vector towards the sun')
        if not self.fog_per_m >= 0:
            raise SyntheticError(f'fog_per_m={self.fog_per_m} must be at least 0')

    @classmethod
    def day(cls, azimuth_rad: float = 0.7, elevation_rad: float = 0.8) -> Lighting:
        """Clear day with the sun at the given place of the sky."""
        flat = np.cos(elevation_rad)
        x, y = flat * np.cos(azimuth_rad), flat * np.sin(azimuth_rad)
        return cls(sun_direction=(float(x), float(y), float(np.sin(elevation_rad))))

    @classmethod
    def overcast(cls, fog_per_m: float = 0.0) -> Lighting:
        """Even grey light without shadows."""
        return cls(
            sun_direction=None,
            sky=(0.62, 0.64, 0.66),
            bounce=(0.30, 0.30, 0.30),
            fog_per_m=fog_per_m,
            zenith=(0.68, 0.70, 0.73),
            cloud=1.0,
        )

    @classmethod
    def night(cls, lamps: tuple[Lamp, ...]) -> Lighting:
        """Street lamps under a dark sky."""
        return cls(
            sun_direction=None,
            sky=(0.020, 0.024, 0.036),
            bounce=(0.012, 0.012, 0.014),
            lamps=lamps,
            fog=(0.02, 0.022, 0.03),
            zenith=(0.006, 0.008, 0.016),
            cloud=0.02,
        )

    @classmethod
    def indoor(cls, lamps: tuple[Lamp, ...]) -> Lighting:
        """Ceiling lamps and light reflected by the walls."""
        return cls(
            sun_direction=None,
            sky=(0.24, 0.23, 0.21),
            bounce=(0.22, 0.20, 0.18),
            lamps=lamps,
        )

    def with_fog(self, fog_per_m: float) -> Lighting:
        """The same light in another air."""
        return dataclasses.replace(self, fog_per_m=fog_per_m)
