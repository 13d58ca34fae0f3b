"""Losses of pixels and of latent vectors: known values, means, slopes at zero."""

from __future__ import annotations

import math

import pytest
import torch

from kpvo_ros.errors import GeometryError
from kpvo_ros.losses import alignment_loss, photometric_cost, photometric_loss


def test_the_cost_of_pixels_has_the_photometric_loss_as_its_mean(
    torch_generator: torch.Generator,
) -> None:
    one, two = torch.rand((2, 2, 3, 9, 9), generator=torch_generator, dtype=torch.float64)
    assert float(photometric_cost(one, two).mean()) == pytest.approx(
        float(photometric_loss(one, two))
    )


def test_alignment_is_quadratic_near_and_linear_far_with_a_slope_everywhere() -> None:
    image, latent = torch.full((1, 3, 4, 4), 0.5), torch.ones(1, 5, 6)
    root3 = math.sqrt(3.0)
    for step, expected in ((0.01, 0.5 * 3 * 0.01**2), (0.2, 0.1 * (root3 * 0.2 - 0.05))):
        loss = alignment_loss(image + step, image, latent, latent, 1.0)
        assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert float(alignment_loss(image, image, latent + 0.3, latent, 2.0)) == pytest.approx(
        0.6, abs=1e-5
    )
    inputs = image.clone().requires_grad_(), latent.clone().requires_grad_()
    loss = alignment_loss(inputs[0], image, inputs[1], latent, 1.0)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(x.grad is not None and torch.isfinite(x.grad).all() for x in inputs)
    with pytest.raises(GeometryError, match=r'\(1, 5, 5\)'):
        alignment_loss(image, image, latent[..., 1:], latent, 1.0)
