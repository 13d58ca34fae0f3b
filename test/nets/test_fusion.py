"""Both pretext tasks in one network: shares sum to one, starts are taken over, files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import HEIGHT, LITTLE, WIDTH, camera, code_of, pictures
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry import se3
from kpvo_ros.nets import alignment as alignment_room
from kpvo_ros.nets import completion as completion_room
from kpvo_ros.nets.alignment import AlignmentNet
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.completion import CompletionNet
from kpvo_ros.nets.depth_vo import DepthVo, DepthVoNet
from kpvo_ros.nets.fusion import (
    KIND,
    EarlyFusionNet,
    FusionConfig,
    LateFusionNet,
    depth_weights,
    fused,
    kind_of,
    load_fusion_net,
    make_fusion,
    start_from_pretexts,
)

SIZES = dataclasses.replace(LITTLE, encoder_depth=4)  # a DPT head reads four layers of it
CODE = code_of(SIZES)


def network_of(fusion: str, seed: int = 1) -> DepthVoNet | LateFusionNet:
    generator = torch.Generator().manual_seed(seed)
    return make_fusion(fusion, SIZES, CODE, generator=generator).eval()


def pair(generator: torch.Generator, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return *pictures(generator, count), camera(30.0, count)


def answer(depth: float, sigma: float, T_1_0: Tensor | None = None) -> DepthVo:
    """The same everywhere."""
    maps = torch.full((1, 1, 2, 2), depth), torch.full((1, 1, 2, 2), math.log(sigma))
    T_1_0 = torch.eye(4)[None] if T_1_0 is None else T_1_0
    return DepthVo(maps[0], maps[0], maps[1], maps[1], T_1_0)


# -- late: shares -----------------------------------------------------------------------------


def test_shares_sum_to_one_and_are_inverse_variances(torch_generator: torch.Generator) -> None:
    sigma = 0.05 + torch.rand(2, 3, 1, 4, 5, generator=torch_generator, dtype=torch.float64)
    share = depth_weights(sigma.log(), torch.zeros(2, dtype=torch.float64))
    assert share.shape == sigma.shape
    torch.testing.assert_close(share.sum(dim=0), torch.ones_like(sigma[0]))
    torch.testing.assert_close(share[0] / share[1], (sigma[1] / sigma[0]).square())


def test_two_depths_become_their_weighted_mean_in_the_logarithm() -> None:
    found = fused(answer(2.0, 0.1), answer(4.0, 0.2), torch.zeros(3, 2))
    weights = np.array([1 / 0.1**2, 1 / 0.2**2])
    weights /= weights.sum()
    log_depth = weights @ np.log([2.0, 4.0])
    variance = weights @ (np.array([0.1, 0.2]) ** 2 + (np.log([2.0, 4.0]) - log_depth) ** 2)
    for depth, log_sigma in ((found.depth0, found.log_sigma0), (found.depth1, found.log_sigma1)):
        torch.testing.assert_close(depth, torch.full((1, 1, 2, 2), math.exp(log_depth)))
        torch.testing.assert_close(
            log_sigma, torch.full((1, 1, 2, 2), 0.5 * math.log(variance)), rtol=1e-4, atol=1e-5
        )


def test_two_that_agree_are_no_surer_and_two_that_disagree_less_sure() -> None:
    same = fused(answer(3.0, 0.1), answer(3.0, 0.1), torch.zeros(3, 2))
    torch.testing.assert_close(same.log_sigma0.exp(), torch.full((1, 1, 2, 2), 0.1))
    apart = fused(answer(3.0, 0.1), answer(6.0, 0.1), torch.zeros(3, 2))
    assert (apart.log_sigma0 > same.log_sigma0 + 1).all()


def test_all_votes_for_one_network_give_its_answer(torch_generator: torch.Generator) -> None:
    T = torch.from_numpy(se3.exp_se3([0.1, 0.2, -0.1, 0.3, 0.2, 0.1])).float()[None]
    one, two = answer(2.0, 0.1, T), answer(5.0, 0.1)
    for number, expected in enumerate((one, two)):
        votes = torch.full((3, 2), -50.0)
        votes[:, number] = 50.0
        for part, wanted in zip(fused(one, two, votes), expected, strict=True):
            torch.testing.assert_close(part, wanted, rtol=1e-4, atol=1e-5)


def test_two_rotations_about_one_axis_meet_between_by_their_shares() -> None:
    angles = (0.1, 0.5)
    T = [torch.from_numpy(se3.exp_se3([a, 0, 0, 0, a, 0])).float()[None] for a in angles]
    T = [t.clone() for t in T]
    for t, x in zip(T, (1.0, 2.0), strict=True):
        t[:, :3, 3] = torch.tensor([x, 0.0, 0.0])
    even = fused(answer(1, 1, T[0]), answer(1, 1, T[1]), torch.zeros(3, 2)).T_1_0[0].double()
    assert se3.is_rotation(even[:3, :3].numpy(), 1e-5)
    assert float(se3.rotation_angle_rad(even.numpy())) == pytest.approx(0.3, abs=1e-5)
    torch.testing.assert_close(even[:3, 3].float(), torch.tensor([1.5, 0, 0]))
    # The chordal mean of two turns by a and b with shares p, q has the angle of p e^ia + q e^ib.
    votes = torch.tensor([[0.0, 0], [math.log(3.0), 0], [math.log(3.0), 0]])
    uneven = fused(answer(1, 1, T[0]), answer(1, 1, T[1]), votes).T_1_0[0].double()
    expected = np.angle(0.75 * np.exp(1j * angles[0]) + 0.25 * np.exp(1j * angles[1]))
    assert float(se3.rotation_angle_rad(uneven.numpy())) == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(uneven[:3, 3].float(), torch.tensor([1.25, 0, 0]))


def test_trust_follows_the_errors_on_held_out_pairs() -> None:
    network = network_of('late')
    assert isinstance(network, LateFusionNet)
    network.trust((1.0, 2.0), (0.03, 0.01))
    share = network.votes.softmax(dim=1).detach()
    torch.testing.assert_close(share[0], torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(share[1], torch.tensor([0.8, 0.2]))
    torch.testing.assert_close(share[2], torch.tensor([0.1, 0.9]))
    for errors in ((0.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(NetworkError, match='give positive'):
            network.trust(errors, (1.0, 1.0))


@torch.inference_mode()
def test_a_late_fusion_lies_between_both_answers(torch_generator: torch.Generator) -> None:
    network = network_of('late')
    assert isinstance(network, LateFusionNet)
    inputs = pair(torch_generator)
    found, (one, two) = network(*inputs), network.both(*inputs)
    low, high = torch.minimum(one.depth0, two.depth0), torch.maximum(one.depth0, two.depth0)
    assert (found.depth0 >= low * 0.9999).all() and (found.depth0 <= high * 1.0001).all()
    assert (high > 1.001 * low).any()


# -- early ------------------------------------------------------------------------------------


@torch.inference_mode()
def test_an_early_fusion_deaf_to_its_second_encoder_is_the_plain_network(
    torch_generator: torch.Generator,
) -> None:
    early, plain = network_of('early', 1), network_of('none', 2)
    assert isinstance(early, EarlyFusionNet)
    early.encoders.merge.weight[:, 32:] = 0
    early.encoders.completion.load_state_dict(plain.encoder.state_dict())
    for name in ('decoder', 'rays', 'depth', 'motion'):
        early.get_submodule(name).load_state_dict(plain.get_submodule(name).state_dict())
    inputs = pair(torch_generator)
    for part, expected in zip(early(*inputs), plain(*inputs), strict=True):
        torch.testing.assert_close(part, expected)


@torch.inference_mode()
def test_an_early_fusion_hears_both_encoders(torch_generator: torch.Generator) -> None:
    early = network_of('early')
    assert isinstance(early, EarlyFusionNet)
    image, _, _ = pair(torch_generator)
    before = early.encoder(image).tokens
    for part in (early.encoders.completion, early.encoders.alignment):
        kept = part.norm.bias.clone()
        part.norm.bias += torch.randn(32, generator=torch_generator)
        assert not torch.allclose(early.encoder(image).tokens, before, atol=1e-3)
        part.norm.bias.copy_(kept)


# -- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize('fusion', ['none', 'early', 'late'])
@torch.inference_mode()
def test_every_fusion_answers_as_a_depth_network_does(
    fusion: str, torch_generator: torch.Generator
) -> None:
    network = network_of(fusion)
    image0, image1, K = pair(torch_generator)
    found, swapped = network(image0, image1, K), network(image1, image0, K, K)
    for maps in found[:4]:
        assert maps.shape == (2, 1, HEIGHT, WIDTH)
    assert all(part.dtype == torch.float32 and torch.isfinite(part).all() for part in found)
    assert (found.depth0 > 0).all()
    torch.testing.assert_close(swapped.depth1, found.depth0, rtol=1e-4, atol=1e-5)
    for T in found.T_1_0.double().numpy():
        assert se3.is_rotation(T[:3, :3], 1e-5)
        np.testing.assert_array_equal(T[3], [0, 0, 0, 1])
    none = torch.zeros(0, 3, HEIGHT, WIDTH)
    assert [len(part) for part in network(none, none, K[:0])] == [0] * 5


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('fusion', ['early', 'late'])
def test_every_parameter_gets_a_finite_gradient(
    fusion: str, dtype: torch.dtype, torch_generator: torch.Generator
) -> None:
    network = network_of(fusion)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        found = network(*pair(torch_generator))
    sum((x * torch.randn(x.shape, generator=torch_generator)).sum() for x in found).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize('fusion', ['early', 'late'])
@torch.inference_mode()
def test_a_network_comes_back_from_its_file(
    fusion: str, torch_generator: torch.Generator, tmp_path: Path
) -> None:
    network = network_of(fusion)
    path = tmp_path / 'fusion.safetensors'
    assert kind_of(network) == KIND != kind_of(network_of('none'))
    save_weights(path, network, kind=kind_of(network), config=network.config, notes={})
    again = load_fusion_net(path)
    assert type(again) is type(network) and again.config == network.config
    inputs = pair(torch_generator)
    for part, expected in zip(again(*inputs), network(*inputs), strict=True):
        torch.testing.assert_close(part, expected)
    save_weights(path, network, kind='depth_vo', config=network.config, notes={})
    with pytest.raises(NetworkError, match='of kind'):
        load_fusion_net(path)


# -- starts -----------------------------------------------------------------------------------


@pytest.fixture
def starts(tmp_path: Path) -> tuple[Path, Path]:
    """Files of both pretext tasks."""
    first = CompletionNet(SIZES, generator=torch.Generator().manual_seed(11))
    second = AlignmentNet(CODE, generator=torch.Generator().manual_seed(12))
    files = tmp_path / 'completion.safetensors', tmp_path / 'alignment.safetensors'
    save_weights(files[0], first, kind=completion_room.KIND, config=first.config, notes={})
    save_weights(files[1], second, kind=alignment_room.KIND, config=second.config, notes={})
    return files


@pytest.mark.parametrize('fusion', ['early', 'late'])
@torch.inference_mode()
def test_both_encoders_read_pictures_as_they_learned_to(
    fusion: str, starts: tuple[Path, Path], torch_generator: torch.Generator
) -> None:
    network = network_of(fusion)
    start_from_pretexts(network, *starts)
    image, other, K = pair(torch_generator)
    first = completion_room.load_completion_net(starts[0])
    second = alignment_room.load_alignment_net(starts[1])
    if isinstance(network, LateFusionNet):
        own, aligned = network.completion.encoder, network.alignment.encoder
        found = network.alignment(image, other, K).T_1_0
        expected = second.pose(second(image, other).turn, K, K, (HEIGHT, WIDTH))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    else:
        assert isinstance(network, EarlyFusionNet)
        own, aligned = network.encoders.completion, network.encoders.alignment
        assert torch.equal(network.decoder.embed.weight, first.decoder.embed.weight)
    torch.testing.assert_close(own(image).tokens, first.encoder(image).tokens)
    torch.testing.assert_close(aligned(image).tokens, second.encoder(image).tokens)


@torch.inference_mode()
def test_a_plain_network_starts_from_either_but_not_from_both(starts: tuple[Path, Path]) -> None:
    second = alignment_room.load_alignment_net(starts[1])
    network = network_of('none')
    start_from_pretexts(network, None, starts[1])
    assert torch.equal(network.encoder.embed.weight, second.encoder.embed.weight)
    first = completion_room.load_completion_net(starts[0])
    start_from_pretexts(network, starts[0], None)
    assert torch.equal(network.encoder.embed.weight, first.encoder.embed.weight)
    with pytest.raises(NetworkError, match='one file or a fusion'):
        start_from_pretexts(network, *starts)


@pytest.mark.parametrize('fusion', ['none', 'early', 'late'])
def test_starts_in_the_wrong_place_or_of_other_sizes_are_refused(
    fusion: str, starts: tuple[Path, Path]
) -> None:
    with pytest.raises(NetworkError, match='of kind'):
        start_from_pretexts(network_of(fusion), None, starts[0])
    other = dataclasses.replace(SIZES, encoder_heads=4)
    with pytest.raises(NetworkError, match=r'heads = 2.*same sizes'):
        start_from_pretexts(make_fusion(fusion, other, CODE), None, starts[1])
    more = dataclasses.replace(CODE, equivariant=8)
    if fusion == 'late':
        with pytest.raises(NetworkError, match='equivariant = 6'):
            start_from_pretexts(make_fusion(fusion, SIZES, more), None, starts[1])


def test_what_is_no_fusion_is_refused() -> None:
    with pytest.raises(NetworkError, match='none, early, late'):
        make_fusion('both')
    with pytest.raises(NetworkError, match='give 1 for early'):
        FusionConfig(fusion=3)
    shallow = dataclasses.replace(SIZES, encoder_depth=3)
    with pytest.raises(NetworkError, match=r'encoder has 3.*4 or more'):
        make_fusion('late', shallow)
