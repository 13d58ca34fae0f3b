"""Shared losses: known values, smallest at the answer, gradients as finite differences say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
import torch.nn.functional as F

from kpvo_ros.errors import GeometryError
from kpvo_ros.losses import (
    dual_softmax_loss,
    info_nce_loss,
    photometric_loss,
    smoothness_loss,
    ssim,
    weighted_mean,
)


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return F.normalize(values, dim=-1)


def test_orthogonal_descriptors_give_the_dual_softmax_in_closed_form() -> None:
    one = torch.eye(4, dtype=torch.float64)[None]
    loss = dual_softmax_loss(one, one, torch.ones(1, 4), 0.5)
    # Right answer e^2, three wrong ones e^0.
    assert float(loss) == pytest.approx(math.log(1 + 3 * math.exp(-2)))


def test_descriptors_that_tell_nothing_cost_the_log_of_their_number() -> None:
    same = torch.ones(2, 6, 1, dtype=torch.float64)
    loss = dual_softmax_loss(same, same, torch.ones(2, 6), 0.1)
    assert float(loss) == pytest.approx(math.log(6))


def test_matching_loss_rises_when_descriptors_are_disturbed(
    torch_generator: torch.Generator,
) -> None:
    right = unit(torch_generator, 2, 30, 16)
    noise = torch.randn(right.shape, generator=torch_generator, dtype=torch.float64)
    weight = torch.ones(2, 30)
    costs = [
        float(dual_softmax_loss(right, F.normalize(right + s * noise, dim=-1), weight, 0.1))
        for s in (0.0, 0.1, 0.3, 1.0)
    ]
    assert costs == sorted(costs)
    assert costs[0] < 0.1 * costs[-1]


def test_points_without_partner_change_nothing(torch_generator: torch.Generator) -> None:
    one, two = unit(torch_generator, 1, 5, 8), unit(torch_generator, 1, 5, 8)
    short = dual_softmax_loss(one[:, :3], two[:, :3], torch.ones(1, 3), 0.1)
    weight = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert float(dual_softmax_loss(one, two, weight, 0.1)) == pytest.approx(float(short))


def test_further_wrong_answers_cost_more_unless_excluded(torch_generator: torch.Generator) -> None:
    one, two = unit(torch_generator, 1, 3, 8), unit(torch_generator, 1, 5, 8)
    weight = torch.ones(1, 3)
    alone = float(dual_softmax_loss(one, two[:, :3], weight, 0.1))
    assert float(dual_softmax_loss(one, two, weight, 0.1)) > alone
    excluded = torch.zeros(1, 3, 5, dtype=torch.bool)
    excluded[:, :, 3:] = True
    assert float(dual_softmax_loss(one, two, weight, 0.1, excluded)) == pytest.approx(alone)


def test_no_correspondence_is_zero_with_a_gradient_path(torch_generator: torch.Generator) -> None:
    one = unit(torch_generator, 2, 4, 8).requires_grad_()
    loss = dual_softmax_loss(one, one, torch.zeros(2, 4), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert one.grad is not None
    assert torch.equal(one.grad, torch.zeros_like(one))


def test_matching_gradients_agree_with_differences(torch_generator: torch.Generator) -> None:
    one = unit(torch_generator, 1, 4, 3).requires_grad_()
    two = unit(torch_generator, 1, 6, 3).requires_grad_()
    weight = torch.tensor([[1.0, 0.5, 0.0, 1.0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: dual_softmax_loss(a, b, weight, 0.3), (one, two))


def test_image_vectors_in_closed_form_and_alone() -> None:
    one = torch.eye(3, dtype=torch.float64)
    expected = math.log(1 + 2 * math.exp(-1 / 0.2))
    assert float(info_nce_loss(one, one, 0.2)) == pytest.approx(expected)
    assert float(info_nce_loss(one, one.roll(1, 0), 0.2)) > 1.0
    assert float(info_nce_loss(one[:1], one[:1], 0.2)) == 0.0


def test_ssim_of_equal_images_is_one_and_of_inverted_ones_negative(
    torch_generator: torch.Generator,
) -> None:
    image = torch.rand((1, 3, 16, 16), generator=torch_generator)
    assert torch.allclose(ssim(image, image), torch.ones(1, 3, 16, 16), atol=1e-4)
    assert float(ssim(image, 1 - image).mean()) < -0.5


def test_constant_images_have_the_photometric_loss_of_their_brightness() -> None:
    dark, light = torch.full((1, 1, 8, 8), 0.2), torch.full((1, 1, 8, 8), 0.6)
    luminance = (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    expected = 0.85 * (1 - luminance) / 2 + 0.15 * 0.4
    assert float(photometric_loss(dark, light)) == pytest.approx(expected, rel=1e-4)
    assert float(photometric_loss(dark, dark)) == pytest.approx(0.0, abs=1e-6)


def test_photometric_loss_sees_valid_pixels_only(torch_generator: torch.Generator) -> None:
    image = torch.rand((1, 3, 12, 12), generator=torch_generator)
    broken = image.clone()
    broken[..., 8:] = 0.0
    valid = torch.ones(1, 1, 12, 12, dtype=torch.bool)
    valid[..., 7:] = False  # the window of column 7 reaches column 8
    assert float(photometric_loss(image, broken, valid)) == pytest.approx(0.0, abs=1e-5)
    assert float(photometric_loss(image, broken)) > 0.05


def test_photometric_gradients_agree_with_differences(torch_generator: torch.Generator) -> None:
    one, two = torch.rand((2, 1, 1, 5, 5), generator=torch_generator, dtype=torch.float64)
    one = one.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: photometric_loss(a, two), (one,))


def test_a_slope_is_excused_by_an_edge_of_the_image() -> None:
    step = torch.ones(1, 1, 8, 8)
    step[..., 4:] = 2.0
    flat, edge = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 3.0
    # One of seven column pairs steps by 1 over a mean of 1.5.
    assert float(smoothness_loss(step, flat)) == pytest.approx(1 / 1.5 / 7, rel=1e-5)
    assert float(smoothness_loss(step, edge)) == pytest.approx(math.exp(-3) / 1.5 / 7, rel=1e-5)
    assert float(smoothness_loss(7 * step, flat)) == pytest.approx(1 / 1.5 / 7, rel=1e-5)
    assert float(smoothness_loss(torch.ones(1, 1, 8, 8), edge)) == 0.0


def test_an_infinite_value_without_weight_does_not_count() -> None:
    values = torch.tensor([1.0, math.inf, 3.0], requires_grad=True)
    mean = weighted_mean(values, torch.tensor([1.0, 0.0, 1.0]))
    mean.backward()
    assert float(mean.detach()) == 2.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5]


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(GeometryError, match=r'\(1, 4, 2\)'):
        dual_softmax_loss(torch.ones(1, 4, 2), torch.ones(1, 3, 2), torch.ones(1, 4), 0.1)
    with pytest.raises(GeometryError, match=r'\(2, 5\)'):
        info_nce_loss(torch.ones(2, 4), torch.ones(2, 5), 0.1)
