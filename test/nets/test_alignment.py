"""Alignment of codes: known rotations are found, symmetry, sizes, gradients, files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import HEIGHT, LITTLE, WIDTH, code_of, pictures, rich
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry import se3
from kpvo_ros.nets.alignment import (
    KIND,
    AlignmentNet,
    AlignmentNetConfig,
    alignment_sizes,
    load_alignment_net,
    plain_picture,
    turn_between,
    turned,
)
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.depth_vo import SMALL, DepthVoConfig
from kpvo_ros.nets.vit import ON

CODE = code_of(LITTLE)
RICH = rich(CODE)


@pytest.fixture
def network(torch_generator: torch.Generator) -> AlignmentNet:
    return awake(CODE, torch_generator)


@torch.no_grad()
def awake(config: AlignmentNetConfig, generator: torch.Generator) -> AlignmentNet:
    """As if it had been trained a little: motions are not nearly none."""
    network = AlignmentNet(config, generator=generator).eval()
    network.pose.mlp[-1].weight.mul_(5.0)
    return network


def rotations(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(B, D, D) random ones, by the exponential of skew matrices."""
    M = torch.randn(count, size, size, generator=generator, dtype=torch.float64)
    return torch.linalg.matrix_exp(M - M.mT)


# -- the rotation -----------------------------------------------------------------------------


@pytest.mark.parametrize('size', [2, 3, 24])
def test_a_known_rotation_of_codes_is_found_and_undone(
    size: int, torch_generator: torch.Generator
) -> None:
    code = torch.randn(4, 40, size + 5, generator=torch_generator, dtype=torch.float64)
    R = rotations(4, size, torch_generator)
    moved = code.clone()
    moved[..., :size] = torch.einsum('bij,bnj->bni', R, code[..., :size])
    # What does not turn may be anything: it is not asked.
    other = torch.cat([moved[..., :size], code[..., size:].flip(1)], dim=-1)
    torch.testing.assert_close(turn_between(code, other, size), R, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(turned(code, R), moved)
    torch.testing.assert_close(turned(moved, R.mT), code)


def test_exchanged_codes_have_the_inverse_rotation_and_equal_ones_none(
    torch_generator: torch.Generator,
) -> None:
    code0, code1 = torch.randn(2, 3, 12, 8, generator=torch_generator)
    turn = turn_between(code0, code1, 6)
    torch.testing.assert_close(turn_between(code1, code0, 6), turn.mT, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(3))
    torch.testing.assert_close(turn_between(code0, code0, 6), torch.eye(6).expand(3, 6, 6))


def test_no_other_rotation_brings_codes_nearer(torch_generator: torch.Generator) -> None:
    code0, code1 = torch.randn(2, 1, 12, 6, generator=torch_generator, dtype=torch.float64)
    best = turn_between(code0, code1, 6)
    distance = (turned(code0, best) - code1).square().sum()
    for R in rotations(50, 6, torch_generator):
        assert (turned(code0, R[None]) - code1).square().sum() > distance


@torch.inference_mode()
def test_the_codes_of_a_pair_are_turned_into_each_other(
    network: AlignmentNet, torch_generator: torch.Generator
) -> None:
    images = pictures(torch_generator)
    found = network(*images)
    code0, code1 = network.codes(*images)
    expected0, expected1 = code1.clone(), code0.clone()  # what does not turn comes from the other
    assert torch.equal(found.code, torch.cat([code1, code0]))
    expected1[..., :6] = torch.einsum('bij,bnj->bni', found.turn, code0[..., :6])
    expected0[..., :6] = torch.einsum('bji,bnj->bni', found.turn, code1[..., :6])
    torch.testing.assert_close(found.moved, torch.cat([expected1, expected0]))
    apart = (found.moved - found.code)[..., :6].square().sum()
    assert apart < (torch.cat([code0, code1]) - found.code)[..., :6].square().sum()


# -- codes and pictures -----------------------------------------------------------------------


@pytest.mark.parametrize('size', [(8, 8), (16, 24), (24, 40)])
@pytest.mark.parametrize('config', [CODE, RICH], ids=['plain', 'rich'])
@torch.inference_mode()
def test_pictures_of_any_size_have_codes_of_one_size(
    config: AlignmentNetConfig, size: tuple[int, int], torch_generator: torch.Generator
) -> None:
    network = awake(config, torch_generator)
    image0, image1 = torch.rand(2, 3, 3, *size, generator=torch_generator)
    found = network(image0, image1)
    assert found.rebuilt.shape == (6, 3, *size)
    assert found.moved.shape == found.code.shape == (6, 12, 24)
    assert found.turn.shape == (3, 6, 6)
    assert all(part.dtype == torch.float32 and torch.isfinite(part).all() for part in found)
    torch.testing.assert_close(found.code.mean(dim=-1), torch.zeros(6, 12), rtol=0, atol=1e-5)
    length = found.code.square().mean(dim=-1)
    torch.testing.assert_close(length, torch.ones(6, 12), rtol=1e-2, atol=0)


@torch.inference_mode()
def test_no_pair_has_no_answers(network: AlignmentNet) -> None:
    none = torch.zeros(0, 3, HEIGHT, WIDTH)
    found = network(none, none)
    assert found.rebuilt.shape == (0, 3, HEIGHT, WIDTH) and found.turn.shape == (0, 6, 6)
    assert network.pose(found.turn).shape == (0, 4, 4)


@torch.inference_mode()
def test_exposure_changes_neither_codes_nor_what_is_to_be_rebuilt(
    network: AlignmentNet, torch_generator: torch.Generator
) -> None:
    image, other = pictures(torch_generator)
    dark = 0.6 * image + 0.1
    for view in (plain_picture, network.encode):
        changed = (view(dark) - view(image)).abs().mean()
        assert changed < 0.1 * (view(other) - view(image)).abs().mean()
    assert plain_picture(image).mean().abs() < 1e-6
    assert float(plain_picture(image).std()) == pytest.approx(0.25, rel=0.1)


@torch.inference_mode()
def test_another_code_and_another_place_are_another_picture(
    network: AlignmentNet, torch_generator: torch.Generator
) -> None:
    code = torch.randn(1, 12, 24, generator=torch_generator)
    drawn = network.decoder(code, (2, 3))
    assert not torch.allclose(network.decoder(-code, (2, 3)), drawn, atol=1e-3)
    assert not torch.allclose(drawn[..., :8], drawn[..., 8:16], atol=1e-3)
    # The vectors are a set: their order means nothing to who asks them.
    torch.testing.assert_close(network.decoder(code.flip(1), (2, 3)), drawn, rtol=1e-3, atol=1e-4)


# -- motion -----------------------------------------------------------------------------------


@torch.inference_mode()
def test_exchanged_images_have_the_inverse_motion_and_equal_ones_none(
    network: AlignmentNet, torch_generator: torch.Generator
) -> None:
    image0, image1 = pictures(torch_generator)
    K0, K1 = torch.eye(3).repeat(2, 2, 1, 1) * torch.tensor([[[[20.0]]], [[[30.0]]]])
    size_hw = (HEIGHT, WIDTH)
    forth = network.pose(network(image0, image1).turn, K0, K1, size_hw).numpy()
    back = network.pose(network(image1, image0).turn, K1, K0, size_hw).numpy()
    np.testing.assert_allclose(back, se3.inverse(forth), atol=1e-4)
    assert np.abs(forth - np.eye(4)).max() > 1e-2
    assert all(se3.is_rotation(T[:3, :3].astype(np.float64), 1e-5) for T in forth)
    still = network.pose(network(image0, image0).turn, K0, K0, size_hw)
    torch.testing.assert_close(still, torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_another_lens_is_another_motion_and_an_unknown_one_a_usual_one(
    network: AlignmentNet, torch_generator: torch.Generator
) -> None:
    turn = network(*pictures(torch_generator)).turn
    usual = torch.diag_embed(torch.tensor([0.8 * WIDTH, 0.8 * HEIGHT, 1.0])).expand(2, 3, 3)
    unknown = torch.full((2, 3, 3), torch.nan)
    size_hw = (HEIGHT, WIDTH)
    found = network.pose(turn)
    for K in (usual, unknown):
        torch.testing.assert_close(network.pose(turn, K, K, size_hw), found)
    assert not torch.allclose(network.pose(turn, 3 * usual, usual, size_hw), found, atol=1e-3)


def test_a_new_network_sees_a_camera_that_hardly_moves(torch_generator: torch.Generator) -> None:
    network = AlignmentNet(CODE, generator=torch_generator).eval()
    with torch.inference_mode():
        T = network.pose(network(*pictures(torch_generator)).turn).numpy()
    assert se3.rotation_angle_rad(T[0]) < math.radians(10) and np.abs(T[:, :3, 3]).max() < 0.2


# -- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('config', [CODE, RICH], ids=['plain', 'rich'])
def test_every_parameter_gets_a_finite_gradient(
    config: AlignmentNetConfig, dtype: torch.dtype, torch_generator: torch.Generator
) -> None:
    network = awake(config, torch_generator)
    images = pictures(torch_generator)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        found = network(*images)
        T_1_0 = network.pose(found.turn)
    assert T_1_0.dtype == torch.float32 and all(part.dtype == torch.float32 for part in found)
    parts = (*found[:3], T_1_0)
    sum((x * torch.randn(x.shape, generator=torch_generator)).sum() for x in parts).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_pictures_without_anything_on_them_have_finite_gradients(network: AlignmentNet) -> None:
    """All codes alike: the rotation is not decided by them."""
    image = torch.full((1, 3, HEIGHT, WIDTH), 0.5)
    found = network(image, image)
    sum(part.square().sum() for part in (*found, network.pose(found.turn))).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


# -- sizes and files --------------------------------------------------------------------------


def test_the_encoder_is_that_of_the_depth_network() -> None:
    sizes = alignment_sizes(SMALL, latents=64, equivariant=10)
    assert sizes.encoder == SMALL.encoder
    assert (sizes.latents, sizes.equivariant, sizes.pose_width) == (64, 10, SMALL.pose_width)
    odd = DepthVoConfig(encoder_width=48, encoder_heads=4, class_token=ON, learned_grid=(3, 5))
    assert alignment_sizes(odd).encoder == odd.encoder


@pytest.mark.parametrize(
    'change',
    [{'equivariant': 13}, {'equivariant': 1}, {'latent_heads': 5}, {'decoder_depth': 0}],
    ids=str,
)
def test_sizes_no_network_has_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(NetworkError, match='give'):
        dataclasses.replace(CODE, **change)


def test_images_of_two_sizes_are_refused(network: AlignmentNet) -> None:
    with pytest.raises(NetworkError, match='one size'):
        network(torch.zeros(1, 3, 16, 24), torch.zeros(1, 3, 16, 16))


@torch.inference_mode()
def test_a_network_comes_back_from_its_file(
    torch_generator: torch.Generator, tmp_path: Path
) -> None:
    network = awake(RICH, torch_generator)
    path = tmp_path / 'alignment.safetensors'
    save_weights(path, network, kind=KIND, config=network.config, notes={})
    again = load_alignment_net(path)
    assert again.config == RICH and not again.training
    images = pictures(torch_generator)
    for part, expected in zip(again(*images), network(*images), strict=True):
        torch.testing.assert_close(part, expected)
    with pytest.raises(NetworkError, match='SHA-256'):
        load_alignment_net(path, '0' * 64)
    save_weights(path, network, kind='completion', config=network.config, notes={})
    with pytest.raises(NetworkError, match='of kind'):
        load_alignment_net(path)


def test_the_same_seed_makes_the_same_network_and_draws_nothing_else() -> None:
    state = torch.get_rng_state()
    made = [AlignmentNet(RICH, generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (torch.cat([p.flatten() for p in n.parameters()]) for n in made)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
