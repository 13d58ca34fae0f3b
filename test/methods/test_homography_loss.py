"""Labels follow the warp, losses are smallest at the answer, movable things are unlearned."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
import torch.nn.functional as F

from kpvo_ros.geometry.sampling import pixel_grid
from kpvo_ros.methods.homography.loss import (
    HomographyLossConfig,
    descriptor_loss,
    homography_loss,
    place_loss,
    score_loss,
)
from kpvo_ros.methods.homography.targets import (
    CELL_PX,
    NONE,
    ScoreTarget,
    Views,
    both_views,
    find_candidates,
    judge,
    merge,
    pixel_of,
    to_cells,
)
from kpvo_ros.methods.homography.teacher import salience, teach
from kpvo_ros.nets.keypoint import KeypointMaps
from kpvo_ros.synthetic.correspondence import Correspondence, Pairs

SIZE = 64
SHIFT = (8.0, 4.0)  # content moves so far right and down from image 0 to image 1
POINTS = ((20.0, 20.0), (36.0, 28.0), (22.0, 44.0))  # in image 0


def shifted_pairs() -> Pairs:
    """A pair under a pure shift; the images are empty, which the losses do not look at."""
    grid = pixel_grid(SIZE, SIZE)[None]
    ways = []
    for sign in (1.0, -1.0):
        there = grid + sign * torch.tensor(SHIFT)
        seen = ((there >= 0) & (there <= SIZE - 1)).all(-1)
        ways.append(Correspondence(there, seen))
    empty, still = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    return Pairs(empty, empty, ways[0], ways[1], still, still)


def bumps(points: list[tuple[float, float]], height: float = 12.0) -> Tensor:
    """(1, H, W) logits with a peak at each point."""
    grid = pixel_grid(SIZE, SIZE)
    squared = torch.stack([((grid - torch.tensor(p)) ** 2).sum(-1) for p in points])
    return (height - 1.5 * squared).amax(0).clamp(min=-8.0)[None]


def moved(points: tuple[tuple[float, float], ...], by: float = 1.0) -> list[tuple[float, float]]:
    return [(x + by * SHIFT[0], y + by * SHIFT[1]) for x, y in points]


def telling_descriptors() -> Tensor:
    """(2, D, 8, 8): a smooth code of the place in image 0's coordinates, for both views."""
    codes = []
    for sign in (0.0, 1.0):
        cell = 8.0 * pixel_grid(8, 8) + 3.5 - sign * torch.tensor(SHIFT)
        waves = [f(cell * k / 40.0) for k in (1, 2, 3) for f in (torch.sin, torch.cos)]
        codes.append(torch.cat(waves, dim=-1).permute(2, 0, 1))
    return F.normalize(torch.stack(codes), dim=1)


def agreeing() -> tuple[Views, Tensor, Tensor]:
    logits = torch.cat([bumps(list(POINTS)), bumps(moved(POINTS))])
    return both_views(shifted_pairs()), logits, telling_descriptors()


@pytest.mark.parametrize('offset', [(0, 0), (3, 5)])
def test_a_pixel_is_found_again_from_its_cell_and_class(offset: tuple[int, int]) -> None:
    number = torch.arange(SIZE * SIZE).reshape(1, SIZE, SIZE)
    cells = to_cells(number, offset)
    for label in (0, 9, 63):
        labels = torch.full(cells.shape[:2], label)
        assert torch.equal(pixel_of(labels, (SIZE, SIZE), offset), cells[..., label])


def test_candidates_are_the_planted_peaks_at_their_sub_pixel_place() -> None:
    truth = [(20.3, 20.0), (36.0, 27.6)]
    logits = bumps(truth)
    found = find_candidates(torch.cat([logits, logits]), (0, 0))
    sure = found.peak[0] & (found.confidence[0] > 0.9)
    places = sorted(found.place[0][sure].tolist())
    assert len(places) == 2
    for place, point in zip(places, truth, strict=True):
        assert math.dist(place, point) < 0.1


def test_repeated_and_matched_peaks_deserve_their_score_and_labels_follow_the_warp() -> None:
    views, logits, descriptor = agreeing()
    candidates = find_candidates(logits, (0, 0))
    target = judge(views, candidates, descriptor, 2.0, 0.25)
    for view, points in ((0, list(POINTS)), (1, moved(POINTS))):
        good = target.keypoint[view] > 0
        pixel = pixel_of(target.label, (SIZE, SIZE), (0, 0))[view][good]
        where = sorted((float(p % SIZE), float(p // SIZE)) for p in pixel)
        assert where == sorted(points)
    assert not bool(((target.keypoint > 0) & (target.none > 0)).any())


def test_a_peak_that_the_other_view_lacks_does_not() -> None:
    views, _, descriptor = agreeing()
    logits = torch.cat([bumps(list(POINTS)), bumps(moved(POINTS)[:2])])
    target = judge(views, find_candidates(logits, (0, 0)), descriptor, 2.0, 0.25)
    cell = int(POINTS[2][1] // CELL_PX * 8 + POINTS[2][0] // CELL_PX)
    assert target.keypoint[0, cell] == 0
    assert target.none[0, cell] == 1
    assert int(target.keypoint.sum()) == 4


def test_a_peak_that_matches_elsewhere_does_not() -> None:
    views, logits, descriptor = agreeing()
    descriptor = torch.cat([descriptor[:1], descriptor[1:].flip(3)])
    target = judge(views, find_candidates(logits, (0, 0)), descriptor, 2.0, 0.25)
    assert int(target.keypoint.sum()) < 6
    # Nor is it none: it was there, and its descriptor may still learn.
    for view, points in ((0, list(POINTS)), (1, moved(POINTS))):
        for x, y in points:
            assert target.none[view, int(y // CELL_PX * 8 + x // CELL_PX)] == 0.0


def test_peaks_on_things_that_move_become_less_attractive() -> None:
    views, logits, descriptor = agreeing()
    for view, points in ((0, list(POINTS)), (1, moved(POINTS))):
        x, y = (int(v) for v in points[0])
        views.movable[view, y, x] = True
    logits = logits.requires_grad_()
    candidates = find_candidates(logits, (0, 0))
    target = judge(views, candidates, descriptor, 2.0, 0.25)
    assert float(target.keypoint.sum()) == 2 * (len(POINTS) - 1)
    score_loss(candidates.log_share, target, 1.0).backward()
    x, y = (int(v) for v in POINTS[0])
    assert logits.grad is not None
    assert float(logits.grad[0, y, x]) > 0  # descending lowers the score


def test_nothing_is_known_of_a_peak_beyond_the_edge_of_the_other_view() -> None:
    views, logits, descriptor = agreeing()
    outside = (59.0, 28.0)  # goes to x = 67
    logits = torch.cat([bumps([*POINTS, outside]), logits[1:]])
    target = judge(views, find_candidates(logits, (0, 0)), descriptor, 2.0, 0.25)
    cell = int(outside[1] // CELL_PX * 8 + outside[0] // CELL_PX)
    assert target.keypoint[0, cell] == 0
    assert target.none[0, cell] == 0


def test_little_is_known_of_a_hidden_peak() -> None:
    views, logits, descriptor = agreeing()
    x, y = (int(v) for v in POINTS[0])
    views.visible[0, y, x] = False
    target = judge(views, find_candidates(logits, (0, 0)), descriptor, 2.0, 0.25)
    assert float(target.none[0, y // CELL_PX * 8 + x // CELL_PX]) == 0.25


def test_scores_cost_nothing_when_they_say_what_they_should() -> None:
    label = torch.tensor([[5, 0]])
    target = ScoreTarget(label, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    right, even = torch.full((1, 2, 65), -30.0), torch.zeros(1, 2, 65)
    right[0, 0, 5] = right[0, 1, NONE] = 30.0
    assert float(score_loss(right.log_softmax(-1), target, 1.0)) < 1e-6
    assert float(score_loss(even.log_softmax(-1), target, 1.0)) == pytest.approx(2 * math.log(65))


def test_an_image_in_which_nothing_deserves_a_keypoint_has_no_say() -> None:
    log_share = torch.zeros(2, 50, 65).log_softmax(-1).requires_grad_()
    keypoint, none = torch.zeros(2, 50), torch.ones(2, 50)
    keypoint[0, 0], none[0, 0] = 1.0, 0.0
    target = ScoreTarget(torch.zeros(2, 50, dtype=torch.int64), keypoint, none)
    score_loss(log_share, target, 1.0).backward()
    assert log_share.grad is not None
    assert float(log_share.grad[0].abs().sum()) == pytest.approx(2.0)
    assert float(log_share.grad[1].abs().sum()) == 0.0


def test_a_teacher_adds_keypoints_and_takes_none_away() -> None:
    def target(label: list[int], keypoint: list[float], none: list[float]) -> ScoreTarget:
        return ScoreTarget(torch.tensor([label]), torch.tensor([keypoint]), torch.tensor([none]))

    own = target([1, 2, 3, 4], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0])
    taught = target([5, 6, 7, 8], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0])
    both = merge(own, taught)
    assert both.label.tolist() == [[1, 2, 7, 8]]
    assert both.keypoint.tolist() == [[1.0, 1.0, 1.0, 0.0]]
    assert both.none.tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_places_cost_their_distance_and_are_pulled_together() -> None:
    views, logits, _ = agreeing()
    assert float(place_loss(views, find_candidates(logits, (0, 0)), 3.0)) < 0.02
    off = [(x + 0.4, y) for x, y in moved(POINTS)]
    shifted = torch.cat([logits[:1], bumps(off)]).requires_grad_()
    loss = place_loss(views, find_candidates(shifted, (0, 0)), 3.0)
    assert float(loss.detach()) == pytest.approx(0.4, abs=0.06)
    loss.backward()
    x, y = (int(v) for v in moved(POINTS)[0])
    assert shifted.grad is not None
    assert float(shifted.grad[1, y, x + 1]) > float(shifted.grad[1, y, x - 1])


def test_descriptors_that_tell_places_apart_cost_less(torch_generator: torch.Generator) -> None:
    views, logits, right = agreeing()
    candidates = find_candidates(logits, (0, 0))
    config = HomographyLossConfig(points=24, temperature=0.1)
    wrong = torch.cat([right[:1], right[1:].flip(2)])

    def cost(descriptor: Tensor) -> float:
        generator = torch.Generator().manual_seed(5)
        return float(descriptor_loss(views, candidates, descriptor, config, generator))

    same = F.normalize(torch.ones_like(right), dim=1)
    assert cost(right) < 0.6 * cost(same) < cost(wrong)


def test_a_batch_without_any_correspondence_has_a_finite_loss_and_gradient(
    torch_generator: torch.Generator,
) -> None:
    pairs = shifted_pairs()
    nothing = torch.zeros_like(pairs.to1.visible)
    pairs = Pairs(
        pairs.image0,
        pairs.image1,
        Correspondence(pairs.to1.xy_in_other, nothing),
        Correspondence(pairs.to0.xy_in_other, nothing),
        pairs.movable0,
        pairs.movable1,
    )
    logits = torch.randn((2, SIZE, SIZE), generator=torch_generator).requires_grad_()
    raw = torch.randn((2, 16, 8, 8), generator=torch_generator).requires_grad_()
    maps = KeypointMaps(logits, F.normalize(raw, dim=1), F.normalize(torch.ones(2, 8), dim=1))
    loss = homography_loss(both_views(pairs), maps, HomographyLossConfig(), 0.9, torch_generator)
    loss.total.backward()
    assert float(loss.parts['descriptor']) == 0.0
    assert float(loss.parts['place']) == 0.0
    assert torch.isfinite(loss.total)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert raw.grad is not None


def test_the_teacher_finds_the_corners_of_a_square_in_both_views() -> None:
    pairs = shifted_pairs()
    image0, image1 = (torch.full((1, 3, SIZE, SIZE), 0.2) for _ in range(2))
    image0[:, :, 18:38, 17:35] = 0.8
    image1[:, :, 22:42, 25:43] = 0.8
    views = both_views(Pairs(image0, image1, pairs.to1, pairs.to0, pairs.movable0, pairs.movable1))
    target = teach(views, (0, 0))
    pixel = pixel_of(target.label, (SIZE, SIZE), (0, 0))[0][target.keypoint[0] > 0]
    found = torch.stack([pixel % SIZE, pixel // SIZE], -1).float()
    for corner in ((17.0, 18.0), (34.0, 18.0), (17.0, 37.0), (34.0, 37.0)):
        assert float((found - torch.tensor(corner)).norm(dim=1).min()) <= 2.0


def test_the_teacher_looks_at_the_images_before_their_styles() -> None:
    pairs = shifted_pairs()
    dark = torch.zeros_like(pairs.image0)
    image0, image1 = (torch.full((1, 3, SIZE, SIZE), 0.2) for _ in range(2))
    image0[:, :, 18:38, 17:35] = 0.8
    image1[:, :, 22:42, 25:43] = 0.8
    night = dataclasses.replace(pairs, image0=dark, image1=dark, plain=(image0, image1))
    assert float(teach(both_views(night), (0, 0)).keypoint.sum()) >= 8
    assert torch.equal(both_views(night.swapped()).plain[0], image1[0])


def test_an_empty_image_teaches_nothing_but_none() -> None:
    target = teach(both_views(shifted_pairs()), (0, 0))
    assert float(target.keypoint.sum()) == 0.0
    assert float(target.none.mean()) == 1.0
    assert float(salience(torch.full((1, 3, SIZE, SIZE), 0.5)).abs().max()) < 1e-3


def test_the_teacher_stays_while_nothing_deserves_a_keypoint() -> None:
    views, logits, right = agreeing()
    vector = F.normalize(torch.ones(2, 8), dim=1)

    def teacher(logits: Tensor, progress: float, enough: float) -> float:
        config = HomographyLossConfig(enough_keypoints=enough)
        generator = torch.Generator().manual_seed(5)
        maps = KeypointMaps(logits, right, vector)
        return float(homography_loss(views, maps, config, progress, generator).parts['teacher'])

    flat = torch.full_like(logits, -8.0)
    assert teacher(flat, 1.0, 0.02) == 1.0
    assert teacher(logits, 0.0, 0.02) == 1.0
    assert teacher(logits, 1.0, 0.02) == HomographyLossConfig().teacher_stays < 1.0
    assert 0.25 < teacher(logits, 1.0, 0.2) < 1.0
