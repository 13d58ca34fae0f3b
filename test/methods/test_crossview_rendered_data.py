"""Pairs out of rendered walks: pictures, depth, cameras and poses that fit each other."""

from __future__ import annotations

import dataclasses

import crossview_walks
import pytest
import torch
from torch import Tensor
import torch.nn.functional as F

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.sampling import pixel_grid, sample
from kpvo_ros.geometry.warp import project, warp_by_depth
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.methods.crossview.rendered_data import (
    RenderedDataConfig,
    RenderedPairs,
    Window,
    cut_K,
    pick_depth,
    places,
)
from kpvo_ros.synthetic.walk_bank import WalkBank

PLAIN = RenderedDataConfig(height_px=32, width_px=48, light=False)


def differences(pairs: FramePairs, off_m: float) -> tuple[Tensor, Tensor]:
    """Mean grey differences of image 0 and its rebuilding, right and disturbed, where visible."""
    warp = warp_by_depth(pairs.image1, pairs.depth0, pairs.K0, pairs.K1, pairs.T_1_0)
    met = sample(torch.nan_to_num(pairs.depth1, nan=1000.0), warp.xy, mode='nearest')
    seen = warp.valid & ((warp.depth_in_1 / met).log().abs() < 0.05)
    assert float(seen.float().mean()) > 0.4
    T_1_0 = pairs.T_1_0.clone()
    T_1_0[:, 0, 3] += off_m
    other = warp_by_depth(pairs.image1, pairs.depth0, pairs.K0, pairs.K1, T_1_0)
    right, wrong = (
        (rebuilt.image.mean(1, keepdim=True) - pairs.image0.mean(1, keepdim=True)).abs()[seen]
        for rebuilt in (warp, other)
    )
    return right.mean(), wrong.mean()


@pytest.mark.parametrize('zoom', [1.0, 1.3])
@pytest.mark.parametrize('backwards', [False, True])
def test_a_view_is_rebuilt_from_the_other_by_depth_and_motion(
    zoom: float, backwards: bool, torch_generator: torch.Generator
) -> None:
    config = dataclasses.replace(PLAIN, zoom=zoom)
    pairs = RenderedPairs(crossview_walks.small_bank(), config).make(24, torch_generator).check()
    pairs = pairs.swapped() if backwards else pairs
    for off_m in (0.5, -0.5):
        right, wrong = differences(pairs, off_m)
        assert float(right) < 0.6 * float(wrong)


def test_mirrored_pairs_are_as_true_as_the_others(torch_generator: torch.Generator) -> None:
    maker = RenderedPairs(crossview_walks.small_bank(), dataclasses.replace(PLAIN, zoom=1.0))
    pairs = maker.make(32, torch_generator)
    stored = F.avg_pool2d(crossview_walks.small_bank().images.flatten(0, 1).float() / 255, 2)
    distance = (pairs.image0[:, None] - stored).abs().amax(dim=(2, 3, 4)).amin(dim=1)
    mirrored = distance > 0.02  # the others are pictures of the bank, made smaller
    assert 6 < int(mirrored.sum()) < 26
    again = (pairs.image0.flip(-1)[:, None] - stored).abs().amax(dim=(2, 3, 4)).amin(dim=1)
    assert float(again[mirrored].max()) < 0.02
    for rows in (mirrored, ~mirrored):
        right, wrong = differences(FramePairs(*(value[rows] for value in pairs)), 0.5)
        assert float(right) < 0.6 * float(wrong)


def test_a_window_sees_a_point_where_the_whole_picture_does(
    torch_generator: torch.Generator,
) -> None:
    """Through the new matrix to a new pixel, and from there back by `places`."""
    K = crossview_walks.small_bank().K[:4]
    mirrored = torch.tensor([False, True, False, True])
    window = Window(
        torch.tensor([0.0, 3.2, 10.5, 7.0]), torch.tensor([0.0, 1.5, 6.0, 2.5]),
        torch.tensor([2.0, 1.7, 1.4, 1.9]), mirrored,
    )  # fmt: skip
    points = torch.rand(4, 10, 3, generator=torch_generator) + torch.tensor([-0.5, -0.5, 1.5])
    flipped = torch.where(mirrored[:, None, None], points * torch.tensor([-1, 1, 1]), points)
    found = project(flipped, cut_K(K, window, 48))
    y, x = places(window, (32, 48))
    columns, rows = found.unbind(dim=-1)  # the places are linear in the pixel
    back = torch.stack(
        [
            x[:, :1] + (x[:, 1:2] - x[:, :1]) * columns,
            y[:, :1] + (y[:, 1:2] - y[:, :1]) * rows,
        ],
        dim=-1,
    )
    torch.testing.assert_close(back, project(points, K), atol=1e-3, rtol=0)


def test_depth_between_pixels_is_exact_on_a_plane() -> None:
    grid = pixel_grid(20, 30)

    def plane(xy: Tensor) -> Tensor:
        return 1 / (0.2 + 0.004 * xy[..., 0] - 0.003 * xy[..., 1])

    y = torch.tensor([[0.0, 0.5, 7.25, 18.9]])
    x = torch.tensor([[0.3, 11.0, 28.5]])
    one = torch.zeros(1, dtype=torch.long)
    found = pick_depth(plane(grid)[None, None], one, one, y, x)[0, 0]
    wanted = plane(torch.stack(torch.broadcast_tensors(x[0][None, :], y[0][:, None]), dim=-1))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_depth_is_never_mixed_across_an_edge_or_with_the_sky() -> None:
    depth = torch.full((1, 1, 8, 8), 2.0)
    depth[..., 4:] = 5.0
    depth[..., :3, :] = torch.nan
    one = torch.zeros(1, dtype=torch.long)
    y, x = torch.tensor([[2.4, 2.6, 5.5]]), torch.tensor([[3.4, 3.6]])
    found = pick_depth(depth, one, one, y, x)[0, 0]
    wanted = torch.tensor([[torch.nan, torch.nan], [2.0, 5.0], [2.0, 5.0]])
    torch.testing.assert_close(found, wanted, equal_nan=True)


def test_places_at_the_rim_read_the_outer_pixels() -> None:
    depth = torch.arange(1.0, 17.0).reshape(1, 1, 4, 4)
    one = torch.zeros(1, dtype=torch.long)
    rim = torch.tensor([[-0.5, 3.5]])
    found = pick_depth(depth, one, one, rim, rim)[0, 0]
    torch.testing.assert_close(found, torch.tensor([[1.0, 4.0], [13.0, 16.0]]))


def test_the_same_generator_state_gives_the_same_pairs() -> None:
    maker = RenderedPairs(crossview_walks.small_bank(), dataclasses.replace(PLAIN, light=True))
    one, two = (maker.make(6, torch.Generator().manual_seed(4)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    other = maker.make(6, torch.Generator().manual_seed(5))
    assert not torch.equal(one.image0, other.image0)


def test_light_changes_pictures_within_bounds_and_nothing_else() -> None:
    bank = crossview_walks.small_bank()
    lit, plain = (
        RenderedPairs(bank, dataclasses.replace(PLAIN, light=light)).make(
            24, torch.Generator().manual_seed(6)
        )
        for light in (True, False)
    )
    for name in ('K0', 'K1', 'depth0', 'depth1', 'T_1_0', 'length_m'):
        torch.testing.assert_close(getattr(lit, name), getattr(plain, name), equal_nan=True)
    assert float(lit.image0.min()) >= 0 and float(lit.image1.max()) <= 1
    change = (lit.image0 - plain.image0).abs().mean(dim=(1, 2, 3))
    assert float(change.median()) > 0.02
    # A grey camera is grey in both views.
    colour = [(image - image.mean(1, keepdim=True)).abs().amax(dim=(1, 2, 3)) for image in lit[:2]]
    grey = colour[0] < 1e-4
    assert torch.equal(grey, colour[1] < 1e-4) and 0 < int(grey.sum()) < 14


def test_pairs_are_no_farther_apart_than_asked_for(torch_generator: torch.Generator) -> None:
    bank = crossview_walks.small_bank()
    longest = bank.T_first_camera[:, :, :3, 3].diff(dim=1).norm(dim=-1).max()
    near = RenderedPairs(bank, dataclasses.replace(PLAIN, max_gap=1)).make(64, torch_generator)
    assert float(near.length_m.max()) <= float(longest) + 1e-5
    wide = RenderedPairs(bank, dataclasses.replace(PLAIN, max_gap=3)).make(64, torch_generator)
    assert float(wide.length_m.max()) > float(longest)
    torch.testing.assert_close(wide.length_m, wide.T_1_0[:, :3, 3].norm(dim=1))


def test_sky_and_what_is_too_far_are_unknown(torch_generator: torch.Generator) -> None:
    bank = crossview_walks.small_bank()
    pairs = RenderedPairs(bank, dataclasses.replace(PLAIN, far_m=10.0)).make(48, torch_generator)
    whole = RenderedPairs(bank, PLAIN).make(48, torch.Generator().manual_seed(1))
    assert float(pairs.depth0.nan_to_num(nan=0.0).max()) <= 10.0
    assert float(whole.depth0.nan_to_num(nan=0.0).max()) > 10.0
    assert bool(pairs.depth0.isnan().any()) and float(pairs.depth0.nanmedian()) > 0.5


def test_small_pictures_are_means_over_all_pixels() -> None:
    """A quarter of the size: four by four pixels each, none is left out."""
    bank = crossview_walks.small_bank()
    config = RenderedDataConfig(height_px=32, width_px=32, light=False)
    large = WalkBank(
        bank.images.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :128, :128],
        bank.depth_m.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., :128, :128],
        bank.T_first_camera,
        bank.K * torch.tensor([[2.0], [2.0], [1.0]]),
    )
    pairs = RenderedPairs(large, config).fixed(5)
    means = F.avg_pool2d(large.images.flatten(0, 1).float() / 255, 4)
    distance = (pairs.image0[:, None] - means).abs().amax(dim=(2, 3, 4)).amin(dim=1)
    assert float(distance.max()) < 0.01


def test_fixed_pairs_are_the_same_and_at_most_as_many_as_there_are() -> None:
    maker = RenderedPairs(crossview_walks.small_bank(), PLAIN)
    one, two = maker.fixed(7), maker.fixed(7)
    assert torch.equal(one.image0, two.image0) and len(one.K0) == 7
    every = maker.fixed(10_000).check()
    assert 7 < len(every.K0) <= 5 * (4 * 3)  # walks, ordered pairs of four views


@pytest.mark.parametrize('change', [{'height_px': 40}, {'width_px': 100}])
def test_sizes_that_no_patches_fill_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(SyntheticError, match='multiples of 16'):
        dataclasses.replace(PLAIN, **change)


def test_a_bank_without_common_views_is_refused() -> None:
    bank = crossview_walks.small_bank()
    far = bank.T_first_camera.clone()
    far[:, :, 0, 3] += 1000.0 * torch.arange(4)
    apart = dataclasses.replace(bank, T_first_camera=far, depth_m=torch.full_like(bank.depth_m, 2))
    with pytest.raises(SyntheticError, match='least_shared'):
        RenderedPairs(apart, PLAIN)
