"""Keypoints from score maps, and descriptors at keypoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.frontend.spread import spread_evenly
from kpvo_ros.nets.detection import detect, sample_descriptors, textured

FLOOR = -20.0


def with_peaks(xy: np.ndarray, height: list[float], shape: tuple[int, int]) -> Tensor:
    """(1, H, W) logits of Gaussian likelihoods, sigma one pixel, at sub-pixel places."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    logits = np.full(shape, FLOOR)
    for (x, y), top in zip(xy, height, strict=True):
        logits = np.maximum(logits, top - ((columns - x) ** 2 + (rows - y) ** 2) / 2)
    return torch.from_numpy(logits).float()[None]


def single(logits: Tensor, **options: object) -> tuple[np.ndarray, np.ndarray]:
    [(xy, score)] = detect(logits, **{'count': 1000, **options})  # type: ignore[arg-type]
    return xy.numpy(), score.numpy()


def test_planted_peaks_are_found_to_a_tenth_of_a_pixel(rng: np.random.Generator) -> None:
    grid = np.stack(np.meshgrid(np.arange(10, 150, 12.0), np.arange(10, 110, 12.0)), -1)
    planted = grid.reshape(-1, 2) + rng.uniform(-0.5, 0.5, (grid.size // 2, 2))
    xy, score = single(with_peaks(planted, [3.0] * len(planted), (120, 160)))
    assert len(xy) == len(planted)
    distance = np.linalg.norm(xy[:, None] - planted, axis=2).min(1)
    assert distance.max() < 0.1
    assert (score > 3.0 - 0.25 - 1e-6).all()  # at most half a pixel off in x and y


def test_the_strongest_come_first_and_no_more_than_asked_for() -> None:
    planted = np.array([[20.0, 20.0], [60.0, 20.0], [20.0, 60.0], [60.0, 60.0]])
    xy, score = single(with_peaks(planted, [1.0, 4.0, 2.0, 3.0], (80, 80)), count=3)
    np.testing.assert_allclose(xy, planted[[1, 3, 2]], atol=1e-5)
    np.testing.assert_allclose(score, [4.0, 3.0, 2.0], atol=1e-5)


def test_a_weaker_neighbour_within_the_radius_is_no_keypoint() -> None:
    planted = np.array([[20.0, 20.0], [24.0, 20.0], [50.0, 20.0]])
    logits = with_peaks(planted, [3.0, 2.0, 1.0], (40, 80))
    np.testing.assert_allclose(single(logits, radius=2)[0][:, 0], [20, 24, 50], atol=0.6)
    np.testing.assert_allclose(single(logits, radius=4)[0][:, 0], [20, 50], atol=0.6)


@pytest.mark.parametrize('radius', [1, 2, 3, 5, 8])
def test_every_peak_is_the_largest_of_its_square(
    torch_generator: torch.Generator, radius: int
) -> None:
    logits = torch.randn(1, 60, 70, generator=torch_generator)
    xy, score = single(logits, radius=radius, threshold=-100.0, border=0)
    edge = max(radius, 2)  # nearer to it, neither square nor centroid is whole
    expected = {
        (x, y)
        for y in range(edge, 60 - edge)
        for x in range(edge, 70 - edge)
        if logits[0, y, x]
        >= logits[0, y - radius : y + radius + 1, x - radius : x + radius + 1].max()
    }
    values = {logits[0, y, x].item() for x, y in expected}
    assert len(xy) == len(expected) and set(score.tolist()) == values


def test_the_border_and_what_is_not_allowed_stay_empty(torch_generator: torch.Generator) -> None:
    logits = torch.randn(1, 64, 96, generator=torch_generator)
    xy, _ = single(logits, border=10)
    nearest = np.rint(xy)
    assert len(xy) and (nearest >= 8).all() and (nearest <= (87, 55)).all()
    allowed = torch.zeros(1, 64, 96, dtype=torch.bool)
    allowed[:, :, :48] = True
    xy, _ = single(logits, allowed=allowed)
    assert len(xy) and (xy[:, 0] < 48 + 2).all()
    assert len(single(logits, allowed=torch.zeros_like(allowed))[0]) == 0


def test_logits_at_or_below_the_threshold_are_no_keypoints() -> None:
    planted = np.array([[20.0, 20.0], [60.0, 20.0]])
    logits = with_peaks(planted, [1.0, 2.0], (40, 80))
    assert len(single(logits, threshold=0.5)[0]) == 2
    assert len(single(logits, threshold=1.0)[0]) == 1
    assert len(single(logits, threshold=2.0)[0]) == 0


def test_a_plateau_is_one_keypoint_and_not_as_many_as_it_has_pixels() -> None:
    logits = torch.full((1, 60, 60), FLOOR)
    logits[0, 20:22, 30:32] = 2.0
    assert len(single(logits)[0]) == 1
    np.testing.assert_allclose(single(logits)[0], [[30.5, 20.5]], atol=1e-3)


def test_a_map_without_peaks_has_no_keypoints() -> None:
    xy, score = single(torch.full((1, 48, 64), -30.0))
    assert xy.shape == (0, 2) and score.shape == (0,)
    xy, score = single(torch.full((1, 48, 64), -30.0), cell_px=16)
    assert xy.shape == (0, 2) and score.shape == (0,)


@pytest.mark.parametrize('size', [(1, 1), (3, 200), (8, 8)])
def test_a_map_within_its_border_has_no_keypoints(size: tuple[int, int]) -> None:
    assert len(single(torch.zeros(1, *size))[0]) == 0


def test_cells_are_served_in_turn_as_those_of_the_classical_front_end(
    torch_generator: torch.Generator,
) -> None:
    logits = torch.randn(1, 120, 160, generator=torch_generator)
    logits[:, :60, :80] += 10.0  # a quarter of the image outshines the rest
    everything, score = single(logits, threshold=-100.0)
    count = len(everything) // 2  # so many are looked at
    xy, _ = single(logits, threshold=-100.0, count=count, cell_px=20)
    chosen = spread_evenly(np.rint(everything), score, (120, 160), 20, count)
    # Cells are those of the pixel with the peak; the centroid may lie in the next one.
    same = {tuple(p) for p in xy.tolist()} & {tuple(p) for p in everything[chosen].tolist()}
    assert len(same) > 0.9 * count
    plain, _ = single(logits, threshold=-100.0, count=count)
    bright = [((p < (80, 60)).all(1)).mean() for p in (xy, plain)]
    assert bright[0] < bright[1]


def test_images_of_a_batch_do_not_meet(torch_generator: torch.Generator) -> None:
    logits = torch.randn(3, 40, 56, generator=torch_generator)
    together = detect(logits, 50, cell_px=16)
    for image, (xy, score) in zip(logits, together, strict=True):
        [(alone_xy, alone_score)] = detect(image[None], 50, cell_px=16)
        assert torch.equal(xy, alone_xy) and torch.equal(score, alone_score)


def test_what_does_not_fit_is_refused() -> None:
    logits = torch.zeros(1, 20, 30)
    with pytest.raises(NetworkError, match=r'\(B, H, W\)'):
        detect(logits[None], 10)
    with pytest.raises(NetworkError, match='at least 1'):
        detect(logits, 0)
    with pytest.raises(NetworkError, match='not of the shape'):
        detect(logits, 10, allowed=torch.ones(1, 20, 31, dtype=torch.bool))


def test_a_linear_map_is_sampled_exactly_up_to_its_length() -> None:
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(12.0), indexing='ij')
    # The centre of cell (i, j) is pixel (8 j + 3.5, 8 i + 3.5).
    x, y = 8 * columns + 3.5, 8 * rows + 3.5
    descriptor = torch.stack([0.02 * x, 0.5 - 0.01 * y, 1.0 + 0.01 * x - 0.02 * y])[None]
    xy = torch.tensor([[[3.5, 3.5], [40.25, 33.0], [91.5, 75.5], [17.0, 60.75]]])
    u, v = xy[0].T
    expected = torch.stack([0.02 * u, 0.5 - 0.01 * v, 1.0 + 0.01 * u - 0.02 * v], 1)
    expected = expected / expected.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(sample_descriptors(descriptor, xy)[0], expected, rtol=0, atol=1e-5)


def test_no_keypoints_have_no_descriptors() -> None:
    assert sample_descriptors(torch.ones(2, 5, 4, 4), torch.zeros(2, 0, 2)).shape == (2, 0, 5)


@pytest.mark.parametrize('shape', [(64, 96), (61, 77), (33, 32)])
@pytest.mark.parametrize('value', [0.0, 0.5, 1.0])
def test_a_flat_image_is_textured_nowhere_even_with_rounding_noise(
    torch_generator: torch.Generator, shape: tuple[int, int], value: float
) -> None:
    noise = torch.randint(0, 2, (1, 1, *shape), generator=torch_generator) / 255.0
    flat = torch.full((1, 1, *shape), value)
    for image in (flat, (flat - noise).clamp(min=0.0) if value else flat + noise):
        allowed = textured(image)
        assert allowed.shape == (1, *shape)
        assert not allowed.any()


def test_texture_is_seen_around_every_corner_and_not_far_from_it() -> None:
    for edge in range(24, 41):  # wherever it lies in the tiling
        image = torch.zeros(1, 1, 64, 80)
        image[..., edge:, edge:] = 0.1
        allowed = textured(image)[0]
        assert allowed[edge - 2 : edge + 3, edge - 2 : edge + 3].all()
        assert not allowed[: edge - 12].any() and not allowed[edge + 12 :, edge + 12 :].any()
