"""The convolutions beside the transformer: where things went, and maps for the DPT head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.depth_vo import KIND, DepthVoConfig, DepthVoNet, load_depth_vo_net
from kpvo_ros.nets.fine_path import WIDTHS, FinePath, correlation
from kpvo_ros.nets.vit import ON

CONFIG = DepthVoConfig(
    32, 1, 2, 32, 4, 2, mlp_ratio=1, dpt_width=8, head_width=8, pose_width=16, fine=ON
)


def pictures(generator: torch.Generator, count: int) -> Tensor:
    return torch.rand(count, 3, 64, 96, generator=generator)


def camera() -> Tensor:
    return torch.tensor([[[80.0, 0.0, 47.5], [0.0, 80.0, 31.5], [0.0, 0.0, 1.0]]])


def test_correlation_is_the_cosine_with_every_place_around(
    torch_generator: torch.Generator,
) -> None:
    maps = torch.randn(4, 5, 3, 4, generator=torch_generator)
    found = correlation(maps, 2)
    assert found.shape == (4, 25, 3, 4)
    for one, other in ((0, 2), (2, 0), (3, 1)):
        for row in range(3):
            for column in range(4):
                for dy in range(-2, 3):
                    for dx in range(-2, 3):
                        there = row + dy, column + dx
                        expected = 0.0
                        if 0 <= there[0] < 3 and 0 <= there[1] < 4:
                            expected = float(
                                torch.cosine_similarity(
                                    maps[one, :, row, column],
                                    maps[other][:, there[0], there[1]],
                                    dim=0,
                                )
                            )
                        got = float(found[one, (dy + 2) * 5 + dx + 2, row, column])
                        assert got == pytest.approx(expected, abs=1e-5)


def test_correlation_is_highest_where_a_moved_picture_went(
    torch_generator: torch.Generator,
) -> None:
    wide = torch.randn(1, 8, 20, 30, generator=torch_generator)
    maps = torch.cat([wide[..., 4:16, 5:25], wide[..., 6:18, 2:22]])  # by (-2, 3) cells
    best = correlation(maps, 4)[0].argmax(dim=0)[4:-4, 4:-4]
    assert (best == (-2 + 4) * 9 + 3 + 4).all()


def test_the_path_gives_maps_of_all_sizes_and_a_token_for_each_patch(
    torch_generator: torch.Generator,
) -> None:
    fine = FinePath(24, torch_generator)(pictures(torch_generator, 4))
    half, quarter, eighth = WIDTHS
    assert fine.half.shape == (4, half, 32, 48)
    assert fine.quarter.shape == (4, quarter, 16, 24)
    assert fine.eighth.shape == (4, eighth, 8, 12)
    assert fine.tokens.shape == (4, 4 * 6, 24)


def test_exchanged_pictures_give_exchanged_answers_and_equal_ones_no_motion(
    torch_generator: torch.Generator,
) -> None:
    network = DepthVoNet(CONFIG, generator=torch_generator).eval()
    image0, image1 = pictures(torch_generator, 2).chunk(2)
    with torch.no_grad():
        forth, back = network(image0, image1, camera()), network(image1, image0, camera())
        same = network(image0, image0, camera())
    torch.testing.assert_close(forth.depth0, back.depth1, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forth.T_1_0 @ back.T_1_0, torch.eye(4)[None], rtol=0, atol=1e-5)
    torch.testing.assert_close(same.T_1_0, torch.eye(4)[None], rtol=0, atol=1e-5)


def test_depth_and_motion_depend_on_every_part(torch_generator: torch.Generator) -> None:
    network = DepthVoNet(CONFIG, generator=torch_generator)
    out = network(*pictures(torch_generator, 2).chunk(2), camera())
    (out.depth0.log().square().mean() + out.T_1_0[:, :3].square().sum()).backward()
    assert network.fine is not None
    for part in (network.fine, network.depth.beside):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


def test_weights_come_back_from_a_file(tmp_path: Path, torch_generator: torch.Generator) -> None:
    network = DepthVoNet(CONFIG, generator=torch_generator).eval()
    save_weights(tmp_path / 'a.safetensors', network, kind=KIND, config=CONFIG, notes={})
    again = load_depth_vo_net(tmp_path / 'a.safetensors')
    assert again.config == CONFIG
    image0, image1 = pictures(torch_generator, 2).chunk(2)
    with torch.no_grad():
        for a, b in zip(network(image0, image1, camera()), again(image0, image1, camera()),
                        strict=True):  # fmt: skip
            assert torch.equal(a, b)


@pytest.mark.parametrize(('fine', 'patch_px'), [(3, 16), (ON, 8)])
def test_sizes_that_cannot_be_are_refused_in_one_line(fine: int, patch_px: int) -> None:
    with pytest.raises(NetworkError, match='patches of') as caught:
        DepthVoConfig(fine=fine, patch_px=patch_px)
    assert '\n' not in str(caught.value)
