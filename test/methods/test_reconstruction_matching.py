"""Method B's road from descriptors to a feature map: keypoints, matches, splat."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
import torch.nn.functional as F

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.sampling import pixel_grid, sample
from kpvo_ros.methods.reconstruction.keypoints import grid_keypoints, sparse_keypoints
from kpvo_ros.methods.reconstruction.matching import from_other, match, splat


def unit(*shape: int, generator: torch.Generator) -> Tensor:
    return F.normalize(torch.randn(shape, generator=generator), dim=-1)


def all_valid(descriptor: Tensor) -> Tensor:
    return torch.ones(descriptor.shape[:2], dtype=torch.bool)


def bumps(places: list[tuple[float, float]], height: int = 64, width: int = 64) -> Tensor:
    """(1, H, W) logits with a peak at each place (x, y) and nothing between."""
    grid = pixel_grid(height, width)
    logits = torch.full((height, width), -12.0)
    for place in places:
        near = (grid - torch.tensor(place)).square().sum(-1)
        logits = torch.maximum(logits, 4.0 - near)
    return logits[None]


# ----------------------------------------------------------------------------------- matching


def test_equal_images_match_themselves(torch_generator: torch.Generator) -> None:
    code = unit(2, 40, 32, generator=torch_generator)
    pairs = match(code, code, all_valid(code), all_valid(code), 0.02)
    assert torch.equal(pairs.nearest, torch.arange(40).expand(2, -1))
    torch.testing.assert_close(pairs.share, torch.eye(40).expand(2, -1, -1), rtol=0, atol=1e-3)
    assert bool((pairs.mutual > 0.999).all())


def test_matches_follow_a_permutation(torch_generator: torch.Generator) -> None:
    code = unit(1, 30, 32, generator=torch_generator)
    order = torch.randperm(30, generator=torch_generator)
    pairs = match(code, code[:, order], all_valid(code), all_valid(code), 0.02)
    assert torch.equal(order[pairs.nearest[0]], torch.arange(30))


def test_what_does_not_exist_is_matched_by_nobody(torch_generator: torch.Generator) -> None:
    code = unit(1, 10, 16, generator=torch_generator)
    valid = all_valid(code)
    valid[:, 4:] = False
    pairs = match(code, code, valid, valid, 0.05)
    assert float(pairs.share[:, :, 4:].abs().max()) == 0.0
    assert float(pairs.mutual[:, 4:].abs().max()) == 0.0
    torch.testing.assert_close(pairs.share[0, :4].sum(-1), torch.ones(4))
    assert pairs.valid.tolist() == valid.tolist()


def test_nothing_to_match_gives_zeros_and_finite_gradients(
    torch_generator: torch.Generator,
) -> None:
    code = unit(1, 6, 16, generator=torch_generator).requires_grad_()
    nothing = torch.zeros(1, 6, dtype=torch.bool)
    for valid_b, valid_a in ((all_valid(code), nothing), (nothing, all_valid(code))):
        pairs = match(code, code, valid_b, valid_a, 0.05)
        carried = from_other(pairs, code, hard=True)
        assert float(carried.detach().abs().max()) == 0.0
        (gradient,) = torch.autograd.grad(carried.sum() + pairs.mutual.sum(), code)
        assert torch.isfinite(gradient).all()
        assert not pairs.valid.any()


def test_a_hard_match_carries_one_descriptor_with_the_gradient_of_the_mean(
    torch_generator: torch.Generator,
) -> None:
    code_b = unit(1, 8, 16, generator=torch_generator).requires_grad_()
    code_a = unit(1, 9, 16, generator=torch_generator)
    pairs = match(code_b, code_a, all_valid(code_b), all_valid(code_a), 0.3)
    hard, soft = (from_other(pairs, code_a, hard=flag) for flag in (True, False))
    nearest = (code_b.detach()[0] @ code_a[0].T).argmax(1)
    torch.testing.assert_close(hard.detach()[0], code_a[0][nearest])
    assert not torch.allclose(hard, soft, atol=1e-3)
    target = torch.randn(hard.shape, generator=torch_generator)
    gradients = [torch.autograd.grad((x * target).sum(), code_b, retain_graph=True)[0]
                 for x in (hard, soft)]  # fmt: skip
    torch.testing.assert_close(*gradients)


def test_masks_that_do_not_fit_are_refused(torch_generator: torch.Generator) -> None:
    code = unit(1, 8, 16, generator=torch_generator)
    with pytest.raises(GeometryError, match='do not fit'):
        match(code, code, all_valid(code)[:, :3], all_valid(code), 0.1)


# -------------------------------------------------------------------------------------- splat


def test_splatting_is_the_transpose_of_sampling(torch_generator: torch.Generator) -> None:
    """<splat(v), m> = <v, sample(m)> for places inside the map, by the definition of both."""
    values = torch.randn((2, 25, 3), generator=torch_generator, dtype=torch.float64)
    field = torch.randn((2, 3, 8, 12), generator=torch_generator, dtype=torch.float64)
    xy = torch.rand((2, 25, 2), generator=torch_generator, dtype=torch.float64)
    cells = xy * torch.tensor([11.0, 7.0])
    pixels = 4 * cells + 1.5
    drawn = splat(values, torch.ones(2, 25, dtype=torch.float64), pixels, (8, 12), 4)
    read = sample(field, cells).transpose(1, 2)
    torch.testing.assert_close((drawn[:, :3] * field).sum(), (values * read).sum())
    torch.testing.assert_close(drawn[:, 3].sum(), torch.tensor(50.0, dtype=torch.float64))


def test_a_descriptor_on_the_centre_of_a_cell_stays_in_it() -> None:
    drawn = splat(torch.tensor([[[5.0]]]), torch.tensor([[2.0]]), torch.tensor([[[9.5, 5.5]]]),
                  (4, 4), 4)  # fmt: skip
    expected = torch.zeros(1, 2, 4, 4)
    expected[0, :, 1, 2] = torch.tensor([10.0, 2.0])
    torch.testing.assert_close(drawn, expected)


def test_what_lies_outside_the_map_is_lost() -> None:
    xy = torch.tensor([[[-40.0, 3.0], [3.0, 400.0]]])
    drawn = splat(torch.ones(1, 2, 1), torch.ones(1, 2), xy, (4, 4), 4)
    assert float(drawn.abs().max()) == 0.0


def test_splatting_has_the_gradients_of_its_values_weights_and_places(
    torch_generator: torch.Generator,
) -> None:
    values = torch.randn((1, 5, 2), generator=torch_generator, dtype=torch.float64)
    weight = torch.rand((1, 5), generator=torch_generator, dtype=torch.float64) + 0.1
    # Away from the centres of cells, where a linear share has a bend.
    xy = torch.rand((1, 5, 2), generator=torch_generator, dtype=torch.float64) * 1.5 + 6.0
    inputs = [x.requires_grad_() for x in (values, weight, xy)]
    assert torch.autograd.gradcheck(lambda v, w, p: splat(v, w, p, (4, 4), 4), inputs)


# ---------------------------------------------------------------------------------- keypoints


def test_keypoints_lie_between_pixels_where_the_peaks_do() -> None:
    places = [(12.3, 20.0), (40.0, 41.7), (50.25, 13.6)]
    found = sparse_keypoints(bumps(places), 64, 8)
    xy = found.xy[found.valid]
    assert len(xy) == len(places)
    distance = torch.cdist(torch.tensor(places), xy).amin(1)
    assert float(distance.max()) < 0.12


def test_a_cell_holds_one_keypoint_so_that_they_are_spread_evenly() -> None:
    crowd = [(18.0, 18.0), (22.0, 18.0), (18.0, 22.0), (22.0, 22.0), (44.0, 44.0)]
    found = sparse_keypoints(bumps(crowd), 3, 16)
    cells = torch.div(found.xy[found.valid], 16, rounding_mode='floor').tolist()
    assert sorted(cells) == [[1.0, 1.0], [2.0, 2.0]]


def test_a_likelier_keypoint_weighs_more_and_the_mean_weight_is_one() -> None:
    logits = bumps([(12.0, 12.0)]) - 3.0
    logits = torch.maximum(logits, bumps([(44.0, 44.0)]))
    found = sparse_keypoints(logits, 64, 8)
    rows = zip(found.xy[found.valid].round().tolist(), found.weight[found.valid], strict=True)
    weights = {tuple(xy): float(weight) for xy, weight in rows}
    assert weights[(44.0, 44.0)] > 1.05 * weights[(12.0, 12.0)]
    assert sum(weights.values()) / 2 == pytest.approx(1.0, abs=1e-5)


def test_scores_and_places_carry_a_gradient_to_the_logits() -> None:
    logits = bumps([(12.3, 20.0), (40.0, 41.7)]).requires_grad_()
    found = sparse_keypoints(logits, 64, 8)
    for value in (found.weight[found.valid][0], found.xy[found.valid].sum()):
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert bool((gradient != 0).any())


@pytest.mark.parametrize('level', [-20.0, 0.0, 5.0])
def test_a_flat_map_has_no_keypoint(level: float) -> None:
    found = sparse_keypoints(torch.full((2, 64, 64), level), 32, 8)
    assert not found.valid.any()
    assert float(found.weight.abs().max()) == 0.0
    assert torch.isfinite(found.xy).all()


def test_the_dense_variant_takes_every_nth_pixel() -> None:
    found = grid_keypoints(torch.zeros(2, 1), (24, 16), 8, (3, 5))
    expected = [[3.0, 5.0], [11.0, 5.0], [3.0, 13.0], [11.0, 13.0], [3.0, 21.0], [11.0, 21.0]]
    assert found.xy[1].tolist() == expected
    assert bool(found.valid.all())
