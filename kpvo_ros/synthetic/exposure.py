"""What an automatic camera makes of linear light."""

from __future__ import annotations

from torch import Tensor

from kpvo_ros.synthetic.render import encode

_TONE = 0.25  # mean radiance that the exposure aims at


def expose(radiance: Tensor) -> Tensor:
    """Pictures with the exposure of an automatic camera, each for itself.

    Args:
        radiance: (B, H, W, 3) linear light, see `Render`.

    Returns:
        (B, 3, H, W) uint8 RGB.
    """
    mean = radiance.clamp(max=2.0).mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-3)
    gain = (_TONE / mean).pow(0.8).clamp(0.3, 8.0)
    return encode(radiance * gain).permute(0, 3, 1, 2)
