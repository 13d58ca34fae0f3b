"""Losses against a truth: likelihoods in closed form, smallest at the truth, gaps ignored."""

from __future__ import annotations

import dataclasses
import math

import pytest
from scipy.spatial.transform import Rotation
import torch
from torch import Tensor

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.warp import exp_se3_torch
from kpvo_ros.methods.crossview.supervised import (
    SupervisedConfig,
    depth_loss,
    motion_errors,
    supervised_loss,
)

NOISE = 1e-4  # small enough to be left out of the closed forms
CONFIG = SupervisedConfig()


def poses(generator: torch.Generator, count: int = 3, size: float = 0.3) -> Tensor:
    xi = torch.randn((count, 6), generator=generator, dtype=torch.float64)
    return exp_se3_torch(size * xi)


def depths(generator: torch.Generator) -> Tensor:
    return 0.5 + 9.0 * torch.rand((2, 1, 6, 8), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('error', ['laplace', 'gauss'])
def test_depth_costs_the_negative_logarithm_of_its_density(
    error: str, torch_generator: torch.Generator
) -> None:
    truth, sigma = depths(torch_generator), 0.2
    guess = depths(torch_generator)
    residual = truth.log() - guess.log()
    if error == 'laplace':
        spread = torch.tensor(sigma / math.sqrt(2.0), dtype=torch.float64)
        density = torch.distributions.Laplace(0.0, spread)
    else:
        density = torch.distributions.Normal(0.0, torch.tensor(sigma, dtype=torch.float64))
    expected = -density.log_prob(residual).mean()
    found = depth_loss(guess, torch.full_like(guess, math.log(sigma)), truth, error, NOISE)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ('error', 'expected'),
    [('laplace', math.sqrt(2.0) * 0.25), ('gauss', math.sqrt((0.1**2 + 0.4**2) / 2))],
)
def test_the_best_doubt_is_the_spread_of_the_errors(error: str, expected: float) -> None:
    truth = torch.full((1, 1, 2, 2), 3.0, dtype=torch.float64)
    off = torch.tensor([[0.1, -0.1], [0.4, -0.4]], dtype=torch.float64)[None, None]
    log_sigma = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_sigma], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        guess = truth * off.exp()
        depth_loss(guess, log_sigma.expand_as(guess), truth, error, NOISE).backward()
        optimizer.step()
    assert float(log_sigma.detach().exp()) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize('error', ['laplace', 'gauss'])
def test_depth_too_near_or_too_far_costs_the_same_more_at_any_distance(error: str) -> None:
    truth = torch.tensor([0.3, 3.0, 30.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    log_sigma = torch.full_like(truth, math.log(0.1))

    def at(factor: float, chosen: Tensor = truth) -> float:
        return float(depth_loss(factor * chosen, log_sigma[: len(chosen)], chosen, error, NOISE))

    assert at(1.0) < at(1.05) < at(1.2)
    assert at(1.2) == pytest.approx(at(1 / 1.2))
    for one in truth:
        assert at(1.2, one[None]) == pytest.approx(at(1.2))


def test_certainty_is_worth_no_more_than_the_noise_of_the_truth() -> None:
    truth = torch.full((1, 1, 2, 2), 2.0, dtype=torch.float64)
    costs = [
        float(depth_loss(truth, torch.full_like(truth, x), truth, 'gauss', 0.01))
        for x in (-2.0, -5.0, -50.0, -800.0)
    ]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(math.log(0.01) + 0.5 * math.log(2 * math.pi))


@pytest.mark.parametrize('error', ['laplace', 'gauss'])
def test_depth_gradients_agree_with_differences(
    error: str, torch_generator: torch.Generator
) -> None:
    truth = depths(torch_generator)[:1, :, :3, :3]
    truth[..., 1, 1] = math.nan
    depth = depths(torch_generator)[:1, :, :3, :3].requires_grad_()
    log_sigma = torch.randn(
        truth.shape, generator=torch_generator, dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(
        lambda d, s: depth_loss(d, s, truth, error, 0.05), (depth, log_sigma)
    )


def test_unknown_depths_and_motions_take_no_part(torch_generator: torch.Generator) -> None:
    truth, T = depths(torch_generator), poses(torch_generator)
    guess = (depths(torch_generator), torch.zeros_like(truth), poses(torch_generator))
    gaps, gap_T = truth.clone(), T.clone()
    gaps[1] = torch.tensor([math.nan, math.inf, 0.0, -1.0]).repeat(12).reshape(1, 6, 8)
    gap_T[2, 0, 3] = math.nan
    first = supervised_loss(guess[0][:1], guess[1][:1], guess[2][:2], truth[:1], T[:2])
    inputs = [x.clone().requires_grad_() for x in guess]
    loss = supervised_loss(*inputs, gaps, gap_T)
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(float(first.total))
    for name, part in loss.parts.items():
        assert float(part) == pytest.approx(float(first.parts[name])), name
    for tensor, unknown in zip(inputs, (1, 1, 2), strict=True):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert not tensor.grad[unknown].any()
        assert tensor.grad[0].any()


def test_no_truth_at_all_is_zero_with_a_gradient_path(torch_generator: torch.Generator) -> None:
    inputs = [
        x.requires_grad_()
        for x in (torch.ones(2, 1, 6, 8), torch.zeros(2, 1, 6, 8), torch.eye(4)[None].clone())
    ]
    nothing = torch.full((2, 1, 6, 8), math.nan), torch.full((1, 4, 4), math.nan)
    loss = supervised_loss(*inputs, *nothing)
    loss.total.backward()
    assert float(loss.total.detach()) == 0.0
    assert all(x.grad is not None and not x.grad.any() for x in inputs)


def test_no_motion_is_a_normal_batch(torch_generator: torch.Generator) -> None:
    truth = depths(torch_generator)
    none = torch.zeros(0, 4, 4, dtype=torch.float64)
    loss = supervised_loss(truth, torch.zeros_like(truth), none, truth, none)
    assert float(loss.parts['rotation']) == float(loss.parts['translation_m']) == 0.0


@pytest.mark.parametrize('angle_deg', [0.0, 0.1, 5.0, 90.0, 180.0])
def test_a_motion_is_off_by_its_angle_and_its_distance(
    angle_deg: float, torch_generator: torch.Generator
) -> None:
    truth, T = poses(torch_generator, 4), poses(torch_generator, 4)
    axis = torch.nn.functional.normalize(truth[:, :3, 3], dim=-1).numpy()
    turn = Rotation.from_rotvec(math.radians(angle_deg) * axis).as_matrix()
    T[:, :3, :3] = truth[:, :3, :3] @ torch.from_numpy(turn)
    T[:, :3, 3] = truth[:, :3, 3] + torch.tensor([0.3, 0.0, -0.4])
    depth = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    parts = supervised_loss(depth, depth, T, depth, truth, CONFIG).parts
    # 1e-5: the root of the rounding of numbers near 1 is 1e-8, in degrees 1e-6.
    assert float(parts['rotation_deg']) == pytest.approx(angle_deg, abs=1e-5)
    assert float(parts['translation_m']) == pytest.approx(0.5)
    chord = 2.0 * math.sin(math.radians(angle_deg) / 2)
    assert float(parts['rotation']) == pytest.approx(math.hypot(chord, 1e-3) - 1e-3, abs=1e-9)
    errors = motion_errors(T, truth)
    torch.testing.assert_close(errors.distance2, torch.full((4,), 0.25, dtype=torch.float64))


def test_the_true_motion_costs_nothing_and_every_step_away_more(
    torch_generator: torch.Generator,
) -> None:
    truth = poses(torch_generator, 1)
    depth = torch.ones(1, 1, 1, 1, dtype=torch.float64)

    def at(xi: Tensor) -> float:
        T = truth @ exp_se3_torch(xi[None])
        parts = supervised_loss(depth, depth, T, depth, truth, CONFIG).parts
        return float(parts['rotation'] + parts['translation'])

    assert at(torch.zeros(6, dtype=torch.float64)) == pytest.approx(0.0, abs=1e-12)
    for axis in torch.eye(6, dtype=torch.float64):
        for sign in (-1.0, 1.0):
            small, large = at(0.01 * sign * axis), at(0.1 * sign * axis)
            assert 0.005 < small < 0.2 * large


def test_descent_on_the_motion_reaches_the_truth(torch_generator: torch.Generator) -> None:
    truth = poses(torch_generator, 2)
    xi = torch.zeros((2, 6), dtype=torch.float64, requires_grad=True)
    depth = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    optimizer = torch.optim.Adam([xi], lr=0.02)
    for step in range(300):
        optimizer.param_groups[0]['lr'] = 0.02 * (1.0 - step / 300)
        optimizer.zero_grad()
        loss = supervised_loss(depth, depth, exp_se3_torch(xi), depth, truth, CONFIG)
        loss.total.backward()
        optimizer.step()
    torch.testing.assert_close(exp_se3_torch(xi.detach()), truth, atol=2e-3, rtol=0)


def test_motion_gradients_agree_with_differences_also_at_the_truth(
    torch_generator: torch.Generator,
) -> None:
    truth = poses(torch_generator, 2)
    depth = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    xi = torch.zeros((2, 6), dtype=torch.float64)
    xi[1] = 0.2
    assert torch.autograd.gradcheck(
        lambda x: (
            supervised_loss(depth, depth, truth @ exp_se3_torch(x), depth, truth, CONFIG).total
        ),
        (xi.requires_grad_(),),
        eps=1e-7,
    )


def test_weights_weigh_the_parts(torch_generator: torch.Generator) -> None:
    truth, T = depths(torch_generator), poses(torch_generator)
    guess = (depths(torch_generator), torch.zeros_like(truth), poses(torch_generator))
    parts = supervised_loss(*guess, truth, T).parts
    for name in ('depth', 'rotation', 'translation'):
        weights = {f'{other}_weight': 0.0 for other in ('depth', 'rotation', 'translation')}
        config = dataclasses.replace(CONFIG, **(weights | {f'{name}_weight': 3.0}))
        total = supervised_loss(*guess, truth, T, config).total
        assert float(total) == pytest.approx(3.0 * float(parts[name]))


def test_mistakes_are_named(torch_generator: torch.Generator) -> None:
    truth, T = depths(torch_generator), poses(torch_generator)
    with pytest.raises(GeometryError, match=r'\(2, 1, 6, 7\)'):
        depth_loss(truth[..., 1:], truth, truth, 'laplace', NOISE)
    with pytest.raises(GeometryError, match="'cauchy'"):
        depth_loss(truth, truth, truth, 'cauchy', NOISE)
    with pytest.raises(GeometryError, match=r'\(3, 3, 4\)'):
        motion_errors(T[:, :3], T)
