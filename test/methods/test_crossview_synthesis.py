"""Rebuilding a view from a neighbour: planes in closed form are the truth."""

from __future__ import annotations

import dataclasses
import math

from crossview_plane import CONFIG, HEIGHT, PLAIN, WIDTH, colours, cost, matrix, motion, plane
import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.sampling import pixel_grid
from kpvo_ros.geometry.warp import exp_se3_torch
from kpvo_ros.methods.crossview.view_synthesis import (
    Neighbour,
    View,
    consistency_loss,
    rebuild,
    scale_loss,
    view_synthesis_loss,
)


def moved(neighbour: Neighbour, *xi: float) -> Neighbour:
    """The neighbour with a disturbed motion; xi in m and rad."""
    step = exp_se3_torch(torch.tensor([xi], dtype=torch.float64))
    return neighbour._replace(T_1_0=step @ neighbour.T_1_0)


def test_the_truth_costs_nothing() -> None:
    view, neighbour = plane(motion())
    loss = view_synthesis_loss(view, [neighbour], CONFIG)
    assert float(loss.total) == pytest.approx(0.0, abs=1e-9)
    assert 0.5 < float(loss.parts['seen']) < 1.0  # part of the view has left the picture
    assert 0.4 < float(loss.parts['counted']) <= float(loss.parts['seen'])


@pytest.mark.parametrize('factor', [0.9, 0.97, 1.03, 1.1])
def test_depth_of_either_view_too_near_or_too_far_costs_more(factor: float) -> None:
    view, neighbour = plane(motion())
    near = view._replace(depth=factor * view.depth)
    parts = view_synthesis_loss(near, [neighbour], CONFIG).parts
    assert float(parts['photometric']) > 2e-5  # 1e-16 at the truth
    assert float(parts['consistency']) > 0.3 * abs(math.log(factor)) / 2
    other = neighbour._replace(view=neighbour.view._replace(depth=factor * neighbour.view.depth))
    # Only the depths disagree: |f - 1| / (f + 1) everywhere.
    expected = abs(factor - 1.0) / (factor + 1.0)
    parts = view_synthesis_loss(view, [other], CONFIG).parts
    assert float(parts['consistency']) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('axis', range(6))
@pytest.mark.parametrize('sign', [-1.0, 1.0])
def test_every_wrong_motion_costs_more_the_more_it_is_wrong(axis: int, sign: float) -> None:
    view, neighbour = plane(motion())
    costs = []
    for size in (0.0, 0.01, 0.03):
        xi = [0.0] * 6
        xi[axis] = sign * size
        costs.append(cost(view, moved(neighbour, *xi)))
    assert costs[0] < 1e-9
    assert costs[1] > 1e-4
    assert costs[2] > 2.0 * costs[1]


def test_a_scene_twice_as_large_looks_the_same_but_for_its_known_length() -> None:
    view, neighbour = plane(motion())
    T = neighbour.T_1_0.clone()
    T[:, :3, 3] *= 2.0
    large = neighbour._replace(
        view=neighbour.view._replace(depth=2.0 * neighbour.view.depth), T_1_0=T
    )
    parts = view_synthesis_loss(view._replace(depth=2.0 * view.depth), [large], CONFIG).parts
    assert float(parts['photometric'] + parts['consistency']) == pytest.approx(0.0, abs=1e-9)
    assert float(parts['scale']) == pytest.approx(math.log(2.0), abs=2e-3)


def test_descent_on_depth_alone_returns_to_the_truth(torch_generator: torch.Generator) -> None:
    view, neighbour = plane(motion())
    seen = rebuild(view, neighbour).valid
    x, y = pixel_grid(HEIGHT, WIDTH, dtype=torch.float64).unbind(dim=-1)
    wrong = 0.1 * torch.sin(0.3 * x) * torch.cos(0.25 * y)
    log_depth = (view.depth.log() + wrong).requires_grad_()
    before = float(wrong[seen[0, 0]].abs().mean())
    optimizer = torch.optim.Adam([log_depth], lr=0.01)
    for step in range(150):
        optimizer.param_groups[0]['lr'] = 0.01 * (1.0 - step / 150)
        optimizer.zero_grad()
        guess = view._replace(depth=log_depth.exp())
        view_synthesis_loss(guess, [neighbour], CONFIG).total.backward()
        optimizer.step()
    error = (log_depth.detach() - view.depth.log())[seen].abs().mean()
    assert float(error) < 0.05 * before


def test_descent_on_the_motion_alone_returns_to_the_truth() -> None:
    view, neighbour = plane(motion())
    start = torch.tensor([[0.05, -0.04, 0.06, -0.03, 0.02, 0.03]], dtype=torch.float64)
    xi = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([xi], lr=0.01)
    for step in range(200):
        optimizer.param_groups[0]['lr'] = 0.01 * (1.0 - step / 200)
        optimizer.zero_grad()
        guess = neighbour._replace(T_1_0=exp_se3_torch(xi) @ neighbour.T_1_0)
        view_synthesis_loss(view, [guess], CONFIG).total.backward()
        optimizer.step()
    assert float(xi.detach().norm()) < 0.02 * float(start.norm())


def test_gradients_agree_with_differences(torch_generator: torch.Generator) -> None:
    view, neighbour = plane(motion(), (8, 10))
    xi = torch.tensor([[0.02, -0.01, 0.03, 0.011, -0.013, 0.017]], dtype=torch.float64)
    noise = torch.rand((2, 1, 1, 8, 10), generator=torch_generator, dtype=torch.float64)
    depth0 = view.depth * (1.0 + 0.05 * noise[0])
    depth1 = neighbour.view.depth * (1.0 + 0.05 * noise[1])

    def total(depth0: Tensor, depth1: Tensor, xi: Tensor) -> Tensor:
        other = neighbour.view._replace(depth=depth1)
        guess = Neighbour(other, exp_se3_torch(xi) @ neighbour.T_1_0, neighbour.length_m)
        config = dataclasses.replace(PLAIN, smoothness_weight=0.1)
        return view_synthesis_loss(view._replace(depth=depth0), [guess], config).total

    inputs = (depth0.requires_grad_(), depth1.requires_grad_(), xi.requires_grad_())
    assert torch.autograd.gradcheck(total, inputs, eps=1e-7, atol=1e-5)


def test_the_mask_is_one_minus_the_difference_of_the_depths_in_closed_form() -> None:
    K, still = matrix(), torch.eye(4, dtype=torch.float64)[None]
    depth = torch.full((1, 1, HEIGHT, WIDTH), 2.0, dtype=torch.float64)
    dark = torch.full((1, 3, HEIGHT, WIDTH), 0.2, dtype=torch.float64)
    view = View(dark, depth, K)
    neighbour = Neighbour(View(dark + 0.4, 1.5 * depth, K), still)
    rebuilt = rebuild(view, neighbour)
    torch.testing.assert_close(rebuilt.difference, torch.full_like(depth, 0.2))  # 1 / 5
    assert float(consistency_loss([rebuilt])) == pytest.approx(0.2)
    plain = float(view_synthesis_loss(view, [neighbour], PLAIN).parts['photometric'])
    # Luminance term of SSIM and the difference of 0.4.
    assert plain == pytest.approx(0.85 * (1 - 0.2401 / 0.4001) / 2 + 0.15 * 0.4)
    config = dataclasses.replace(PLAIN, downweight_moving=True)
    masked = view_synthesis_loss(view, [neighbour], config).parts['photometric']
    assert float(masked) == pytest.approx(0.8 * plain)


def test_a_wall_hidden_by_a_card_disagrees_by_a_third_and_nothing_else_does() -> None:
    wall_m, card_m, half_m, shift_m = 4.0, 2.0, 0.4, 0.5
    K, T = matrix(), motion((0.0, 0.0, 0.0), (-shift_m, 0.0, 0.0))  # the camera goes right
    ray_x = (pixel_grid(HEIGHT, WIDTH, dtype=torch.float64)[..., 0] - K[0, 0, 2]) / K[0, 0, 0]
    views = []
    for camera_x in (0.0, shift_m):
        card = (card_m * ray_x + camera_x).abs() < half_m
        depth = torch.where(card, card_m, wall_m).double()[None, None]
        views.append(View(colours(pixel_grid(HEIGHT, WIDTH, dtype=torch.float64)), depth, K))
    rebuilt = rebuild(views[0], Neighbour(views[1], T))
    # Where the line from the second camera to a point of the wall meets the card's plane.
    passes_x = shift_m + (wall_m * ray_x - shift_m) * card_m / wall_m
    is_wall = views[0].depth[0, 0] == wall_m
    edge_m = card_m * 1.01 / float(K[0, 0, 0])  # a pixel of view 1, which blends both depths
    hidden = is_wall & (passes_x.abs() < half_m - edge_m)
    free = is_wall & (passes_x.abs() > half_m + edge_m)
    inner_card = (card_m * ray_x).abs() < half_m - edge_m
    assert hidden.any()
    assert rebuilt.valid[0, 0][hidden].all()
    expected = torch.full_like(rebuilt.difference[0, 0][hidden], 1 / 3)
    torch.testing.assert_close(rebuilt.difference[0, 0][hidden], expected)
    assert float(rebuilt.difference[0, 0][free | inner_card].max()) < 1e-9


def test_the_mask_gives_depths_no_reason_to_disagree() -> None:
    view, neighbour = plane(motion())
    depth1 = neighbour.view.depth.clone().requires_grad_()
    guess = moved(neighbour, 0.05, 0, 0, 0, 0, 0)
    guess = guess._replace(view=guess.view._replace(depth=depth1))
    config = dataclasses.replace(CONFIG, consistency_weight=0.0)
    view_synthesis_loss(view, [guess], config).total.backward()
    assert depth1.grad is not None
    assert not depth1.grad.any()


def test_standing_still_teaches_no_colours_whatever_the_guess() -> None:
    view, _ = plane(motion())
    depth = view.depth.clone().requires_grad_()
    guess = Neighbour(view, motion())
    loss = view_synthesis_loss(view._replace(depth=depth), [guess], CONFIG)
    assert float(loss.parts['photometric']) == 0.0
    assert float(loss.parts['counted']) == 0.0
    free = dataclasses.replace(CONFIG, ignore_static=False)
    assert float(view_synthesis_loss(view, [guess], free).parts['photometric']) > 0.01


def test_a_thing_that_moves_with_the_camera_is_ignored() -> None:
    view, neighbour = plane(motion())
    images = [view.image.clone(), neighbour.view.image.clone()]
    pattern = torch.rand((3, 9, 11), generator=torch.Generator().manual_seed(0)).double()
    for image in images:
        image[0, :, 7:16, 10:21] = pattern
    view = view._replace(image=images[0])
    neighbour = neighbour._replace(view=neighbour.view._replace(image=images[1]))
    free = dataclasses.replace(CONFIG, ignore_static=False)
    with_it = view_synthesis_loss(view, [neighbour], free).parts
    without = view_synthesis_loss(view, [neighbour], CONFIG).parts
    assert float(without['photometric']) < 0.25 * float(with_it['photometric'])
    # All of its inner pixels are out, of 9 x 11 those with a whole window.
    left_out = float(with_it['counted'] - without['counted']) * HEIGHT * WIDTH
    assert left_out >= 7 * 9


def test_a_pixel_counts_in_the_neighbour_that_shows_it_best() -> None:
    view, neighbour = plane(motion())
    wrong = neighbour._replace(view=neighbour.view._replace(image=neighbour.view.image.flip(-1)))
    assert cost(view, neighbour, wrong) == pytest.approx(0.0, abs=1e-9)
    assert cost(view, wrong, neighbour) == pytest.approx(0.0, abs=1e-9)
    both = dataclasses.replace(CONFIG, best_neighbour=False, ignore_static=False)
    mean = 0.5 * cost(view, wrong, config=dataclasses.replace(CONFIG, ignore_static=False))
    assert cost(view, neighbour, wrong, config=both) == pytest.approx(mean)


def test_two_neighbours_together_see_more() -> None:
    view, left = plane(motion((0.0, 8.0, 0.0), (0.1, 0.0, 0.0)))
    _, right = plane(motion((0.0, -8.0, 0.0), (0.1, 0.0, 0.0)))
    seen = [
        float(view_synthesis_loss(view, neighbours, CONFIG).parts['seen'])
        for neighbours in ([left], [right], [left, right])
    ]
    assert seen[2] > max(seen[:2])
    assert seen[2] > 0.95


@pytest.mark.parametrize(
    'T_1_0',
    [motion(shift_m=(50.0, 0.0, 0.0)), motion(shift_m=(0.0, 0.0, -9.0)), motion((0, 90, 0))],
    ids=['far aside', 'behind', 'looking away'],
)
def test_nothing_in_view_gives_no_weight_and_finite_gradients(T_1_0: Tensor) -> None:
    view, neighbour = plane(motion())
    inputs = [x.clone().requires_grad_() for x in (view.depth, neighbour.view.depth, T_1_0)]
    other = neighbour.view._replace(depth=inputs[1])
    away = Neighbour(other, inputs[2], None)
    loss = view_synthesis_loss(view._replace(depth=inputs[0]), [away], CONFIG)
    loss.total.backward()
    assert float(loss.total.detach()) == 0.0
    assert float(loss.parts['seen']) == 0.0
    for tensor in inputs:
        assert tensor.grad is not None
        assert not tensor.grad.any()


def test_unknown_depths_take_no_part() -> None:
    view, neighbour = plane(motion())
    depth0, depth1 = view.depth.clone(), neighbour.view.depth.clone()
    depth0[..., 5, 5:9] = torch.tensor([math.nan, math.inf, 0.0, -1.0])
    depth1[..., 12, 12] = math.nan
    depth0.requires_grad_()
    guess = neighbour._replace(view=neighbour.view._replace(depth=depth1))
    loss = view_synthesis_loss(view._replace(depth=depth0), [guess], CONFIG)
    loss.total.backward()
    assert float(loss.total.detach()) == pytest.approx(0.0, abs=1e-9)
    assert depth0.grad is not None
    assert torch.isfinite(depth0.grad).all()
    whole = view_synthesis_loss(view, [neighbour], CONFIG)
    missing = float(whole.parts['seen'] - loss.parts['seen']) * HEIGHT * WIDTH
    assert 4 < missing < 4 + 9.5  # four unknown here, up to nine that look at the one there


def test_a_wrong_length_costs_its_logarithm_and_standing_still_is_a_length() -> None:
    T = torch.eye(4, dtype=torch.float64).repeat(4, 1, 1)
    T[:2, 0, 3] = 0.6
    T.requires_grad_()

    def of(*lengths: float) -> float:
        return float(scale_loss(T, torch.tensor(lengths, dtype=torch.float64)).detach())

    nan = math.nan
    assert of(0.6, nan, nan, nan) == pytest.approx(0.0, abs=1e-12)
    assert of(0.3, nan, nan, nan) == pytest.approx(math.log(2), abs=1e-3)
    assert of(1.2, nan, nan, nan) == pytest.approx(math.log(2), abs=1e-3)
    assert of(0.3, 0.6, nan, nan) == pytest.approx(math.log(2) / 2, abs=1e-3)
    assert of(nan, nan, 0.0, 0.0) == 0.0
    assert of(nan, -1.0, math.inf, nan) == 0.0
    loss = scale_loss(T, torch.tensor([0.3, nan, 0.5, 0.0])) + scale_loss(T, None)
    loss.backward()
    assert T.grad is not None
    assert torch.isfinite(T.grad).all()
    assert T.grad[0, 0, 3] > 0


def test_a_batch_costs_the_mean_of_its_images_when_all_is_seen() -> None:
    K, still = matrix(), torch.eye(4, dtype=torch.float64)[None]
    depth = torch.full((1, 1, HEIGHT, WIDTH), 2.0, dtype=torch.float64)
    gray = torch.full((1, 3, HEIGHT, WIDTH), 0.3, dtype=torch.float64)
    view = View(gray, depth, K)
    others = [View(gray + 0.1, depth, K), View(gray + 0.3, 1.2 * depth, K)]
    alone = [cost(view, Neighbour(other, still), config=PLAIN) for other in others]
    pair = View(*(torch.cat([x, x]) for x in view))
    other = View(*(torch.cat([a, b]) for a, b in zip(*others, strict=True)))
    together = cost(pair, Neighbour(other, torch.cat([still, still])), config=PLAIN)
    assert together == pytest.approx(sum(alone) / 2)


def test_mistakes_are_named() -> None:
    view, neighbour = plane(motion())
    with pytest.raises(GeometryError, match='neighbour'):
        view_synthesis_loss(view, [])
    small = neighbour._replace(view=neighbour.view._replace(image=view.image[..., 2:]))
    with pytest.raises(GeometryError, match=r'\(1, 3, 24, 30\)'):
        view_synthesis_loss(view, [small])
    with pytest.raises(GeometryError, match=r'\(1, 3, 4\)'):
        view_synthesis_loss(view, [neighbour._replace(T_1_0=neighbour.T_1_0[:, :3])])
