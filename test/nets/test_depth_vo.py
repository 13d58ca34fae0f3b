"""Depth and motion from one network: symmetry, cameras, sizes, files, and its budget."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import tiny
from tiny import LITTLE, rich
import torch
from torch import Tensor
import torch.nn.functional as F

from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry import se3
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.depth_vo import (
    BASE,
    KIND,
    MAX_SIGMA,
    MIN_SIGMA,
    SMALL,
    TINY,
    DepthVo,
    DepthVoConfig,
    DepthVoNet,
    as_depth,
    load_depth_vo_net,
    patch_rays,
)
from kpvo_ros.nets.vit import ON, Encoded
from kpvo_ros.nets.vo_decoder import difference

SIZES = dataclasses.replace(LITTLE, patch_px=16)
RICH = dataclasses.replace(rich(SIZES), fine=ON)
HEIGHT, WIDTH = 32, 48


@pytest.fixture
def network(torch_generator: torch.Generator) -> DepthVoNet:
    return awake(SIZES, torch_generator)


@torch.no_grad()
def awake(config: DepthVoConfig, generator: torch.Generator) -> DepthVoNet:
    """As if it had been trained a little: depths and motions are not nearly constant."""
    network = DepthVoNet(config, generator=generator).eval()
    for layer in (network.depth.last, network.motion.mlp[-1]):
        layer.weight.mul_(5.0)
    return network


def pictures(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Two batches (B, C, H, W) of smooth noise in 0..1."""
    image0, image1 = F.avg_pool2d(
        torch.rand(2 * shape[0], *shape[1:], generator=generator), 3, 1, 1
    ).chunk(2)
    return image0, image1


def camera(focal_px: float = 40.0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """(1, 3, 3)."""
    return tiny.camera(focal_px, 1, height, width)


# -- what comes out ---------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(16, 16), (32, 48), (48, 80)])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('config', [SIZES, RICH], ids=['plain', 'rich'])
@torch.inference_mode()
def test_every_pixel_gets_a_depth_and_every_pair_a_rigid_motion(
    torch_generator: torch.Generator, size: tuple[int, int], channels: int, config: DepthVoConfig
) -> None:
    network = awake(config, torch_generator)
    images = pictures(torch_generator, 2, channels, *size)
    found = network(*images, camera(40, *size).expand(2, 3, 3))
    for maps in found[:4]:
        assert maps.shape == (2, 1, *size)
    for part in found:
        assert part.dtype == torch.float32 and torch.isfinite(part).all()
    assert (found.depth0 > 0).all() and (found.depth1 > 0).all()
    for T in found.T_1_0.double().numpy():
        assert se3.is_rotation(T[:3, :3], 1e-5)
        np.testing.assert_array_equal(T[3], [0, 0, 0, 1])


@torch.inference_mode()
def test_no_pair_has_no_answers(network: DepthVoNet) -> None:
    none = torch.zeros(0, 3, HEIGHT, WIDTH)
    found = network(none, none, torch.zeros(0, 3, 3))
    assert [len(part) for part in found] == [0] * 5
    assert found.depth0.shape[1:] == (1, HEIGHT, WIDTH) and found.T_1_0.shape[1:] == (4, 4)


@torch.inference_mode()
def test_exchanged_images_have_exchanged_depths_and_the_inverse_motion(
    network: DepthVoNet, torch_generator: torch.Generator
) -> None:
    image0, image1 = pictures(torch_generator, 2, 3, HEIGHT, WIDTH)
    K0, K1 = camera(40).expand(2, 3, 3), camera(55).expand(2, 3, 3)
    forth, back = network(image0, image1, K0, K1), network(image1, image0, K1, K0)
    torch.testing.assert_close(back.depth0, forth.depth1)
    torch.testing.assert_close(back.log_sigma1, forth.log_sigma0, rtol=1e-4, atol=1e-5)
    expected = se3.inverse(forth.T_1_0.numpy())
    np.testing.assert_allclose(back.T_1_0.numpy(), expected, atol=1e-5)
    assert np.abs(expected - np.eye(4)).max() > 1e-3


@torch.inference_mode()
def test_a_camera_that_sees_the_same_again_has_not_moved(
    network: DepthVoNet, torch_generator: torch.Generator
) -> None:
    image, _ = pictures(torch_generator, 2, 3, HEIGHT, WIDTH)
    found = network(image, image, camera().expand(2, 3, 3))
    torch.testing.assert_close(found.T_1_0, torch.eye(4).expand(2, 4, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.depth0, found.depth1)


@torch.inference_mode()
def test_what_else_is_in_the_batch_does_not_matter(
    network: DepthVoNet, torch_generator: torch.Generator
) -> None:
    images = pictures(torch_generator, 3, 3, HEIGHT, WIDTH)
    K = torch.cat([camera(f) for f in (30, 40, 50)])
    alone = network(images[0][1:2], images[1][1:2], K[1:2])
    for single, batch in zip(alone, network(*images, K), strict=True):
        torch.testing.assert_close(single[0], batch[1], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_other_image_changes_the_depth_of_this_one(
    network: DepthVoNet, torch_generator: torch.Generator
) -> None:
    image0, image1 = pictures(torch_generator, 1, 3, HEIGHT, WIDTH)
    K = camera()
    depth = network(image0, image1, K).depth0
    assert not torch.allclose(network(image0, image0, K).depth0, depth, rtol=1e-3)


@torch.inference_mode()
def test_tokens_that_were_kept_from_the_last_pair_do_as_well(
    network: DepthVoNet, torch_generator: torch.Generator
) -> None:
    image0, image1 = pictures(torch_generator, 1, 3, HEIGHT, WIDTH)
    kept, new = network.encoder(image0), network.encoder(image1)
    K = camera().expand(2, 3, 3)
    joined = Encoded(torch.cat([kept.tokens, new.tokens]), None, kept.grid)
    images = torch.cat([image0, image1])
    found = network.forward_head(network.join(joined, images, K), K)
    for part, expected in zip(found, network(image0, image1, K[:1]), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


# -- cameras ----------------------------------------------------------------------------------


def test_rays_go_through_the_centres_of_the_patches() -> None:
    K = torch.tensor([[[100.0, 0, 20], [0, 150, 10], [0, 0, 1]]]).repeat(2, 1, 1)
    K[1] = camera(80)[0]
    rays = patch_rays(K, (2, 3), 16)
    assert rays.shape == (2, 6, 5)
    torch.testing.assert_close(rays[..., :3].norm(dim=-1), torch.ones(2, 6))
    for i in range(6):
        pixels = torch.arange(16.0)
        centre = torch.stack([(16 * (i % 3) + pixels).mean(), (16 * (i // 3) + pixels).mean()])
        seen = torch.einsum('bij,bj->bi', K, rays[:, i, :3])
        torch.testing.assert_close(seen[:, :2] / seen[:, 2:], centre.expand(2, 2))
    focal = 200 * rays[:, 0, 3:].exp()
    torch.testing.assert_close(focal, torch.tensor([[100.0, 150], [80, 80]]))


@torch.inference_mode()
def test_another_lens_is_another_motion(
    network: DepthVoNet, torch_generator: torch.Generator
) -> None:
    images = pictures(torch_generator, 1, 3, HEIGHT, WIDTH)
    T, other = (network(*images, camera(f)).T_1_0 for f in (40, 80))
    assert float((T - other).abs().max()) > 1e-4
    torch.testing.assert_close(network(*images, camera(40), camera(40)).T_1_0, T, rtol=0, atol=0)


def test_depth_grows_with_the_focal_length_and_starts_at_three_metres() -> None:
    raw = torch.zeros(3, 2, 4, 4)
    K = torch.cat([camera(200), camera(400), camera(400)])
    K[2, 0, 0] = 100  # 400 x 100: a pixel of the same area as 200 x 200
    depth, log_sigma = as_depth(raw, K)
    expected = torch.tensor([3.0, 6, 3])[:, None, None, None].expand(3, 1, 4, 4)
    torch.testing.assert_close(depth, expected)
    torch.testing.assert_close(log_sigma, torch.zeros(3, 1, 4, 4))


def test_whatever_the_head_says_depth_is_positive_and_sigma_bounded() -> None:
    raw = torch.tensor([-1e6, -20, -1, -0.01, 0, 0.01, 1, 20, 1e6]).expand(1, 2, 1, 9)
    depth, log_sigma = as_depth(raw, camera(200))
    assert (depth > 0).all() and torch.isfinite(depth).all()
    assert (depth.diff() >= 0).all() and (log_sigma.diff() >= 0).all()
    near, far = float(depth.min()), float(depth.max())
    assert near == pytest.approx(0.003, rel=1e-3) and far == pytest.approx(3000, rel=1e-3)
    assert float(log_sigma.exp().min()) == pytest.approx(MIN_SIGMA, rel=1e-3)
    assert float(log_sigma.exp().max()) == pytest.approx(MAX_SIGMA, rel=1e-3)
    # Near zero both are what the head says.
    assert math.log(float(depth[..., 5]) / 3) == pytest.approx(0.01, rel=1e-3)
    assert float(log_sigma[..., 5]) == pytest.approx(0.01, rel=1e-3)


def test_the_motion_is_the_difference_of_two_poses(rng: np.random.Generator) -> None:
    T_c_0, T_c_1 = (se3.exp_se3(rng.normal(size=(5, 6))) for _ in range(2))
    found = difference(torch.from_numpy(T_c_0), torch.from_numpy(T_c_1)).numpy()
    np.testing.assert_allclose(T_c_1 @ found, T_c_0, atol=1e-12)


# -- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize('config', [SIZES, RICH], ids=['plain', 'rich'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_finite_gradient(
    torch_generator: torch.Generator, config: DepthVoConfig, dtype: torch.dtype
) -> None:
    network = DepthVoNet(config, generator=torch_generator)
    images = pictures(torch_generator, 2, 3, HEIGHT, WIDTH)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        found = network(*images, camera().expand(2, 3, 3))
    assert all(part.dtype == torch.float32 for part in found)
    loss = sum((x * torch.randn(x.shape, generator=torch_generator)).sum() for x in found)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_equal_images_have_finite_gradients(network: DepthVoNet) -> None:
    """Where both rotations are the same and, without texture, all tokens nearly alike."""
    image = torch.full((1, 3, HEIGHT, WIDTH), 0.5)
    sum(part.sum() for part in network(image, image, camera())).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_a_depth_and_a_motion_can_be_learned_by_heart(torch_generator: torch.Generator) -> None:
    network = DepthVoNet(SIZES, generator=torch_generator)
    images = pictures(torch_generator, 1, 3, HEIGHT, WIDTH)
    xi = [0.1, -0.05, 0.2, 0.05, 0.1, -0.05]
    T = torch.from_numpy(se3.exp_se3(xi)).float()
    slope = torch.linspace(1, 3, WIDTH).expand(1, 1, HEIGHT, WIDTH)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    errors = []
    for _ in range(30):
        found = network(*images, camera())
        depth_error = (found.depth0.log() - slope.log()).abs().mean()
        pose_error = (found.T_1_0[0] - T).abs().sum()
        optimizer.zero_grad()
        (depth_error + pose_error).backward()
        optimizer.step()
        errors.append((float(depth_error.detach()), float(pose_error.detach())))
    assert errors[-1][0] < 0.3 * errors[0][0]
    assert errors[-1][1] < 0.3 * errors[0][1]


def test_a_new_network_sees_a_still_camera_and_an_even_depth(
    torch_generator: torch.Generator,
) -> None:
    network = DepthVoNet(TINY, generator=torch_generator).eval()
    images = pictures(torch_generator, 1, 3, 64, 96)
    with torch.inference_mode():
        found = network(*images, camera(200, 64, 96))
    assert float(se3.rotation_angle_rad(found.T_1_0[0].numpy())) < 0.05
    assert float(found.T_1_0[0, :3, 3].norm()) < 0.05
    assert float((found.depth0.log() - math.log(3)).abs().max()) < 0.4


# -- sizes, precision, files ------------------------------------------------------------------


@pytest.mark.parametrize(
    ('config', 'most'), [(TINY, 6e6), (SMALL, 34e6), (BASE, 135e6)], ids=['tiny', 'small', 'base']
)
def test_the_networks_are_no_larger_than_they_are_said_to_be(
    config: DepthVoConfig, most: float
) -> None:
    with torch.device('meta'):
        network = DepthVoNet(config)
    count = sum(p.numel() for p in network.parameters())
    assert 0.9 * most < count < most


@torch.inference_mode()
def test_half_precision_changes_the_answers_little(
    network: DepthVoNet, torch_generator: torch.Generator
) -> None:
    images = pictures(torch_generator, 1, 3, HEIGHT, WIDTH)
    exact = network(*images, camera())
    same, rough = (network.fused(t)(*images, camera()) for t in (torch.float32, torch.bfloat16))
    for part, expected in zip(same, exact, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-6)
    assert all(part.dtype == torch.float32 for part in rough)
    spread = exact.depth0.log().std()
    assert float((rough.depth0 / exact.depth0).log().abs().mean()) < 0.1 * spread
    torch.testing.assert_close(rough.T_1_0, exact.T_1_0, rtol=0, atol=0.01)
    assert se3.is_rotation(rough.T_1_0[0, :3, :3].double().numpy(), 1e-5)
    assert not any(p.requires_grad for p in network.fused().parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_the_same_seed_makes_the_same_network_and_draws_nothing_else() -> None:
    state = torch.get_rng_state()
    made = [DepthVoNet(RICH, generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (torch.cat([p.flatten() for p in n.parameters()]) for n in made)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize('config', [SIZES, RICH], ids=['plain', 'rich'])
def test_a_network_comes_back_from_its_file(
    torch_generator: torch.Generator, tmp_path: Path, config: DepthVoConfig
) -> None:
    network = awake(config, torch_generator)
    path = tmp_path / 'weights.safetensors'
    sha256 = save_weights(path, network, kind=KIND, config=config, notes={})
    again = load_depth_vo_net(path, sha256)
    assert again.config == config and not again.training
    images = pictures(torch_generator, 1, 3, HEIGHT, WIDTH)
    with torch.inference_mode():
        for part, expected in zip(
            again(*images, camera()), network(*images, camera()), strict=True
        ):
            torch.testing.assert_close(part, expected)
    with pytest.raises(NetworkError, match='SHA-256'):
        load_depth_vo_net(path, '0' * 64)
    save_weights(path, network, kind='keypoint', config=config, notes={})
    with pytest.raises(NetworkError, match='of kind'):
        load_depth_vo_net(path)


def test_the_file_of_the_tiny_network_has_less_than_25_megabytes(tmp_path: Path) -> None:
    path = tmp_path / 'weights.safetensors'
    save_weights(path, DepthVoNet(), kind=KIND, config=TINY, notes={})
    assert path.stat().st_size < 25e6


@pytest.mark.parametrize(
    ('shape0', 'shape1', 'K', 'line'),
    [
        ((1, 3, 32, 48), (1, 3, 32, 32), camera(), 'one size'),
        ((1, 3, 32, 48), (1, 3, 32, 48), camera()[0], r'\(1, 3, 3\) floating'),
        ((2, 3, 32, 48), (2, 3, 32, 48), camera(), r'\(2, 3, 3\) floating'),
        ((1, 3, 32, 48), (1, 3, 32, 48), camera().long(), 'floating'),
        ((1, 3, 32, 48), (1, 3, 32, 48), camera(0), 'focal length'),
        ((1, 3, 32, 48), (1, 3, 32, 48), camera(math.nan), 'focal length'),
        ((1, 3, 32, 50), (1, 3, 32, 50), camera(), 'multiples of 16'),
        ((3, 32, 48), (3, 32, 48), camera().expand(3, 3, 3), '1 or 3'),
    ],
    ids=str,
)
def test_what_is_no_pair_of_images_is_refused(
    network: DepthVoNet, shape0: tuple[int, ...], shape1: tuple[int, ...], K: Tensor, line: str
) -> None:
    with pytest.raises(NetworkError, match=line):
        network(torch.zeros(shape0), torch.zeros(shape1), K)


@pytest.mark.parametrize(
    'change',
    [{'decoder_depth': 3}, {'decoder_heads': 5}, {'encoder_depth': 100}, {'layer_scale': 7}],
    ids=str,
)
def test_sizes_no_network_has_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(NetworkError, match='give'):
        dataclasses.replace(SIZES, **change)


def test_the_answer_is_named() -> None:
    assert DepthVo._fields == ('depth0', 'depth1', 'log_sigma0', 'log_sigma1', 'T_1_0')
