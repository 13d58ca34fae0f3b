"""Completion of hidden patches: nothing leaks, cameras may be unknown, depth starts from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny import HEIGHT, LITTLE, WIDTH, camera, pictures, rich
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.adapter import insert_adapters
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.completion import (
    KIND,
    CompletionNet,
    hide,
    load_completion_net,
    start_from_completion,
)
from kpvo_ros.nets.cross_decoder import spread_layers
from kpvo_ros.nets.depth_vo import DepthVoNet

KEEP = torch.tensor([[1, 5], [0, 4]])


@pytest.fixture(params=[LITTLE, rich(LITTLE)], ids=['plain', 'rich'])
def network(request: pytest.FixtureRequest, torch_generator: torch.Generator) -> CompletionNet:
    network = CompletionNet(request.param, generator=torch_generator)
    with torch.no_grad():  # as if it had been trained a little
        network.mask_token.normal_(generator=torch_generator)
    return network.eval()


def is_seen(keep: Tensor = KEEP, patch_px: int = 8) -> Tensor:
    """(B, 1, H, W) bool, patch by patch."""
    seen = torch.zeros(len(keep), 1, HEIGHT, WIDTH, dtype=torch.bool)
    for row, patches in enumerate(keep.tolist()):
        for patch in patches:
            y, x = (
                patch_px * (patch // (WIDTH // patch_px)),
                patch_px * (patch % (WIDTH // patch_px)),
            )
            seen[row, :, y : y + patch_px, x : x + patch_px] = True
    return seen


# -- what is hidden ---------------------------------------------------------------------------


@torch.inference_mode()
def test_other_pixels_in_hidden_patches_change_nothing(
    network: CompletionNet, torch_generator: torch.Generator
) -> None:
    image0, image1 = pictures(torch_generator)
    changed = torch.where(is_seen(), image0, 1.0 + 5.0 * image1.flip(0, 3))
    found = network(image0, image1, KEEP, camera(30.0))
    assert torch.equal(network(changed, image1, KEEP, camera(30.0)), found)
    seen_changed = torch.where(is_seen(), 1.0 - image0, image0)
    assert not torch.allclose(network(seen_changed, image1, KEEP, camera(30.0)), found, atol=1e-3)


def test_no_gradient_reaches_hidden_patches(
    network: CompletionNet, torch_generator: torch.Generator
) -> None:
    image0, image1 = (image.requires_grad_() for image in pictures(torch_generator))
    network(image0, image1, KEEP).square().sum().backward()
    assert image0.grad is not None and image1.grad is not None
    hidden = ~is_seen().expand_as(image0)
    assert (image0.grad[hidden] == 0).all()
    assert (image0.grad[~hidden] != 0).float().mean() > 0.9
    assert (image1.grad != 0).float().mean() > 0.9


def test_the_exposure_of_a_hidden_picture_is_that_of_its_seen_patches(
    torch_generator: torch.Generator,
) -> None:
    image, _ = pictures(torch_generator)
    found = hide(image, KEEP, 8).double().numpy()
    for row in range(2):
        pixels = image[row].double().numpy()[:, is_seen()[row, 0].numpy()]
        assert found[row].mean() == pytest.approx(pixels.mean(), abs=1e-6)
        assert found[row].std() == pytest.approx(pixels.std(), abs=1e-6)
        np.testing.assert_allclose(found[row][:, is_seen()[row, 0].numpy()], pixels, atol=1e-7)


def test_not_finite_hidden_pixels_do_no_harm(torch_generator: torch.Generator) -> None:
    image, _ = pictures(torch_generator)
    image[~is_seen().expand_as(image)] = torch.nan
    assert torch.isfinite(hide(image, KEEP, 8)).all()


@torch.inference_mode()
def test_the_order_in_which_seen_patches_are_named_does_not_matter(
    network: CompletionNet, torch_generator: torch.Generator
) -> None:
    images = pictures(torch_generator)
    found = network(*images, KEEP)
    torch.testing.assert_close(network(*images, KEEP.flip(1)), found, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(*images, KEEP.flip(0)), found, atol=1e-3)


# -- what comes out ---------------------------------------------------------------------------


@torch.inference_mode()
def test_every_patch_is_drawn_whatever_the_size_of_the_other_view(
    network: CompletionNet, torch_generator: torch.Generator
) -> None:
    image0, image1 = pictures(torch_generator)
    other = torch.rand(2, 1, 8, 32, generator=torch_generator)
    for view in (image1, other):
        found = network(image0, view, KEEP)
        assert found.shape == (2, 6, 3 * 8 * 8) and found.dtype == torch.float32
        assert torch.isfinite(found).all()
    assert not torch.allclose(network(image0, image1, KEEP), found, atol=1e-3)


@torch.inference_mode()
def test_what_else_is_in_the_batch_does_not_matter(
    network: CompletionNet, torch_generator: torch.Generator
) -> None:
    image0, image1 = pictures(torch_generator)
    both = network(image0, image1, KEEP)
    for row in range(2):
        one = slice(row, row + 1)
        found = network(image0[one], image1[one], KEEP[one])
        torch.testing.assert_close(found, both[one], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_a_camera_that_is_not_known_is_left_out_image_by_image(
    network: CompletionNet, torch_generator: torch.Generator
) -> None:
    images = pictures(torch_generator)
    without = network(*images, KEEP)
    known = network(*images, KEEP, camera(30.0), camera(30.0))
    unknown = torch.full((2, 3, 3), torch.nan)
    assert torch.equal(network(*images, KEEP, unknown, unknown), without)
    assert not torch.allclose(known, without, atol=1e-3)
    K = camera(30.0).clone()
    K[1] = torch.nan
    half = network(*images, KEEP, K, K)
    torch.testing.assert_close(half[0], known[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(half[1], without[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_every_parameter_gets_a_finite_gradient(
    network: CompletionNet, dtype: torch.dtype, torch_generator: torch.Generator
) -> None:
    images = pictures(torch_generator)
    K = camera(30.0).clone()
    K[1] = torch.nan
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        found = network(*images, KEEP, K, K)
    assert found.dtype == torch.float32
    (found * torch.randn(found.shape, generator=torch_generator)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ('keep', 'line'),
    [
        (torch.tensor([[0, 6], [0, 1]]), '0..5'),
        (torch.tensor([[-1, 2], [0, 1]]), '-1..2'),
        (torch.zeros(2, 0, dtype=torch.int64), 'M > 0'),
        (torch.tensor([[0.0], [1.0]]), 'int64'),
        (torch.tensor([[0]]), 'B = 2'),
    ],
    ids=str,
)
def test_a_choice_of_patches_that_is_none_is_refused(keep: Tensor, line: str) -> None:
    network = CompletionNet(LITTLE)
    image = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    with pytest.raises(NetworkError, match=line):
        network(image, image, keep)


# -- files, and depth -------------------------------------------------------------------------


def saved(network: CompletionNet, folder: Path) -> Path:
    path = folder / 'completion.safetensors'
    save_weights(path, network, kind=KIND, config=network.config, notes={})
    return path


@torch.inference_mode()
def test_a_network_comes_back_from_its_file(
    network: CompletionNet, torch_generator: torch.Generator, tmp_path: Path
) -> None:
    path = saved(network, tmp_path)
    again = load_completion_net(path)
    assert again.config == network.config and not again.training
    images = pictures(torch_generator)
    torch.testing.assert_close(again(*images, KEEP), network(*images, KEEP))
    with pytest.raises(NetworkError, match='SHA-256'):
        load_completion_net(path, '0' * 64)
    save_weights(path, network, kind='depth_vo', config=network.config, notes={})
    with pytest.raises(NetworkError, match='of kind'):
        load_completion_net(path)


@torch.inference_mode()
def test_a_depth_network_that_starts_from_it_reads_pairs_as_it_does(
    network: CompletionNet, torch_generator: torch.Generator, tmp_path: Path
) -> None:
    """All patches seen, both directions: the layers of the heads are those of completion."""
    depth = DepthVoNet(network.config, generator=torch.Generator().manual_seed(99)).eval()
    before = {name: value.clone() for name, value in depth.state_dict().items()}
    objects = list(depth.parameters())
    start_from_completion(depth, saved(network, tmp_path))
    image0, image1 = pictures(torch_generator)
    encoded, expected = depth.encoder(image0), network.encoder(image0)
    assert torch.equal(encoded.tokens, expected.tokens)
    K0, K1 = camera(30.0), camera(45.0)
    found = depth.forward_features(image0, image1, K0, K1).layers
    forth = spread_layers(network.forward_features(image0, image1, None, K0, K1))
    back = spread_layers(network.forward_features(image1, image0, None, K1, K0))
    for layer, one, two in zip(found, forth, back, strict=True):
        torch.testing.assert_close(layer, torch.cat([one, two]), rtol=1e-4, atol=1e-5)
    after = depth.state_dict()
    changed = {name.split('.')[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {'encoder', 'decoder', 'rays'}
    assert all(a is b for a, b in zip(objects, depth.parameters(), strict=True))


@torch.inference_mode()
def test_other_heads_of_depth_and_motion_are_no_obstacle(tmp_path: Path) -> None:
    start = CompletionNet(LITTLE)
    sizes = dataclasses.replace(LITTLE, dpt_width=16, head_width=4, pose_width=24)
    depth = DepthVoNet(sizes, generator=torch.Generator().manual_seed(99))
    start_from_completion(depth, saved(start, tmp_path))
    assert torch.equal(depth.decoder.embed.weight, start.decoder.embed.weight)


@pytest.mark.parametrize(
    'sizes',
    [{'encoder_heads': 4}, {'decoder_heads': 4}, {'encoder_depth': 3}, {'patch_px': 16}],
    ids=str,
)
def test_a_start_of_other_sizes_is_refused_and_changes_nothing(
    sizes: dict[str, int], tmp_path: Path
) -> None:
    depth = DepthVoNet(dataclasses.replace(LITTLE, **sizes))
    before = [parameter.clone() for parameter in depth.parameters()]
    start = CompletionNet(LITTLE, generator=torch.Generator().manual_seed(99))
    with pytest.raises(NetworkError, match=f'{next(iter(sizes))}.*same sizes') as error:
        start_from_completion(depth, saved(start, tmp_path))
    assert '\n' not in str(error.value)
    assert all(torch.equal(a, b) for a, b in zip(before, depth.parameters(), strict=True))


def test_a_network_with_adapters_is_refused(tmp_path: Path) -> None:
    depth = DepthVoNet(LITTLE)
    insert_adapters(depth)
    with pytest.raises(NetworkError, match='without adapters'):
        start_from_completion(depth, saved(CompletionNet(LITTLE), tmp_path))
