"""Nearest rotations: known turns, scipy and Umeyama as other roads, gradients, lost ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
import torch
from torch import Tensor

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.fit import umeyama
from kpvo_ros.geometry.procrustes import best_rotation, nearest_rotation


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def turn(generator: torch.Generator, size: int, batch: int = 1, angle: float = 1.0) -> Tensor:
    """(batch, D, D) rotations, as the exponentials of antisymmetric matrices."""
    A = angle * normal(generator, batch, size, size)
    return torch.linalg.matrix_exp(A - A.transpose(-1, -2))


def assert_rotations(R: Tensor, atol: float = 1e-10) -> None:
    eye = torch.eye(R.shape[-1], dtype=R.dtype).expand_as(R)
    torch.testing.assert_close(R @ R.transpose(-1, -2), eye, atol=atol, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(R.shape[:-2], dtype=R.dtype))


@pytest.mark.parametrize('size', [1, 2, 3, 4, 24])
def test_a_rotation_is_nearest_to_itself_at_any_scale(
    size: int, torch_generator: torch.Generator
) -> None:
    R = turn(torch_generator, size, 5)
    scale = torch.logspace(-12, 6, 5, dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(nearest_rotation(scale * R), R, atol=1e-9, rtol=0)


def test_a_stretch_along_own_axes_does_not_turn(torch_generator: torch.Generator) -> None:
    # R (positive definite) has R as its orthogonal part (polar decomposition).
    R, Q = turn(torch_generator, 3, 6), turn(torch_generator, 3, 6)
    stretch = Q @ torch.diag(torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)) @ Q.mT
    torch.testing.assert_close(nearest_rotation(R @ stretch), R)


def test_no_other_rotation_is_nearer(torch_generator: torch.Generator) -> None:
    M = normal(torch_generator, 8, 1, 4, 4)  # about half of them reflect
    assert (torch.linalg.det(M) < 0).any()
    R = nearest_rotation(M)
    assert_rotations(R)
    best = (R - M).square().sum(dim=(-2, -1))
    others = torch.cat([R[:, 0], R[:, 0]])[:, None] @ torch.cat(
        [turn(torch_generator, 4, 30, angle)[None] for angle in (0.01, 1.0)]
    ).repeat_interleave(8, dim=0)
    cost = (others - torch.cat([M, M])).square().sum(dim=(-2, -1))
    assert (cost > torch.cat([best, best])).all()


def test_a_reflection_is_refused(torch_generator: torch.Generator) -> None:
    # The weakest axis is turned back: the nearest rotation of a mirror is the identity.
    mirror = torch.diag(torch.tensor([2.0, 1.0, -0.5], dtype=torch.float64))
    torch.testing.assert_close(nearest_rotation(mirror), torch.eye(3, dtype=torch.float64))
    source = normal(torch_generator, 50, 3)
    assert_rotations(best_rotation(source, -source)[None])


def test_vectors_turned_by_a_rotation_give_it_back(torch_generator: torch.Generator) -> None:
    for size, count in ((2, 1), (3, 2), (24, 23), (24, 512)):  # D - 1 vectors decide it
        R = turn(torch_generator, size, 3)
        source = normal(torch_generator, 3, count, size)
        found = best_rotation(source, source @ R.mT)
        torch.testing.assert_close(found, R, atol=1e-7, rtol=0)


def test_noisy_vectors_with_weights_agree_with_scipy(torch_generator: torch.Generator) -> None:
    source, noise = normal(torch_generator, 20, 3), normal(torch_generator, 20, 3)
    target = source @ turn(torch_generator, 3)[0].T + 0.3 * noise
    weight = torch.rand(20, generator=torch_generator, dtype=torch.float64)
    expected, _ = Rotation.align_vectors(target.numpy(), source.numpy(), weight.numpy())
    found = best_rotation(source, target, weight).numpy()
    np.testing.assert_allclose(found, expected.as_matrix(), atol=1e-9)


def test_centred_points_agree_with_umeyama(torch_generator: torch.Generator) -> None:
    source = normal(torch_generator, 30, 3) + 5.0
    target = source @ turn(torch_generator, 3)[0].T + 0.1 * normal(torch_generator, 30, 3) - 2.0
    _, expected, _ = umeyama(source.numpy(), target.numpy(), with_scale=False)
    found = best_rotation(source - source.mean(dim=0), target - target.mean(dim=0))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize('size', [2, 3, 5])
def test_gradients_agree_with_differences(size: int, torch_generator: torch.Generator) -> None:
    M = normal(torch_generator, 4, size, size).requires_grad_()
    assert torch.autograd.gradcheck(nearest_rotation, (M,))


@pytest.mark.parametrize(
    'values',
    [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 1.0, 1e-3), (1.0, 0.5, 0.0), (3.0, 1.0, -0.5)],
)
def test_gradients_are_right_where_singular_values_are_equal_or_vanish(
    values: tuple[float, ...], torch_generator: torch.Generator
) -> None:
    R, Q = turn(torch_generator, 3), turn(torch_generator, 3)
    M = R @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ Q
    assert torch.autograd.gradcheck(nearest_rotation, (M.requires_grad_(),))


def test_gradients_of_alignment_agree_with_differences(torch_generator: torch.Generator) -> None:
    source = normal(torch_generator, 2, 6, 4).requires_grad_()
    target = normal(torch_generator, 2, 6, 4).requires_grad_()
    weight = torch.rand(2, 6, generator=torch_generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(best_rotation, (source, target, weight))


@pytest.mark.parametrize(
    'values', [(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, -1.0), (1.0, 1e-9, -1e-9)]
)
def test_what_decides_no_rotation_gives_one_with_finite_gradients(
    values: tuple[float, ...], torch_generator: torch.Generator
) -> None:
    R, Q = turn(torch_generator, 3), turn(torch_generator, 3)
    M = (R @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ Q).requires_grad_()
    found = nearest_rotation(M)
    assert_rotations(found.detach())
    (found * normal(torch_generator, 1, 3, 3)).sum().backward()
    assert M.grad is not None
    assert torch.isfinite(M.grad).all()
    assert M.grad.abs().max() < 1e5


def test_one_vector_gets_a_gradient_towards_its_target(torch_generator: torch.Generator) -> None:
    # Rank 1 of 3: the turn about the vector is free, the others are decided.
    axis = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    angle = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    target = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)])[None]
    moved = best_rotation(axis, target) @ axis[0]
    torch.testing.assert_close(moved, target[0])
    (slope,) = torch.autograd.grad(moved[1], angle)
    assert float(slope) == pytest.approx(math.cos(0.3), abs=1e-6)


def test_descent_on_the_matrix_reaches_a_given_rotation(torch_generator: torch.Generator) -> None:
    wanted = turn(torch_generator, 3)
    M = torch.eye(3, dtype=torch.float64)[None].clone().requires_grad_()
    optimizer = torch.optim.Adam([M], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (nearest_rotation(M) - wanted).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(nearest_rotation(M.detach()), wanted, atol=1e-3, rtol=0)


def test_half_precision_is_raised_and_autocast_left_out(torch_generator: torch.Generator) -> None:
    R = turn(torch_generator, 3, 4).float()
    assert nearest_rotation(R.bfloat16()).dtype == torch.float32
    source = normal(torch_generator, 4, 10, 3).float()
    target = source @ R.mT
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = best_rotation(source, target)
    torch.testing.assert_close(found, R, atol=1e-5, rtol=0)


def test_a_broken_matrix_gives_nan_and_leaves_its_neighbours_alone() -> None:
    M = torch.eye(3).repeat(2, 1, 1)
    M[0, 1, 2] = math.nan
    M.requires_grad_()
    found = nearest_rotation(M)
    assert found[0].isnan().all()
    found[1].square().sum().backward()
    assert torch.equal(found[1].detach(), torch.eye(3))
    assert M.grad is not None
    assert torch.isfinite(M.grad).all()


def test_nothing_to_align_gives_the_identity_or_an_empty_batch() -> None:
    torch.testing.assert_close(best_rotation(torch.ones(2, 0, 5), torch.ones(2, 0, 5))[1],
                               torch.eye(5))  # fmt: skip
    assert nearest_rotation(torch.ones(0, 3, 3)).shape == (0, 3, 3)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(GeometryError, match=r'\(2, 3\)'):
        nearest_rotation(torch.ones(2, 3))
    with pytest.raises(GeometryError, match=r'\(4, 2\)'):
        best_rotation(torch.ones(4, 3), torch.ones(4, 2))
    with pytest.raises(GeometryError, match=r'weight \(4,\)'):
        best_rotation(torch.ones(4, 3), torch.ones(4, 3), torch.ones(3))
