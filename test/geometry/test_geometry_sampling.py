"""The pixel convention: identity and shifts are exact, OpenCV agrees in between."""

import cv2
import numpy as np
import pytest
import torch

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry import sampling

SIZES = [(1, 1), (2, 3), (64, 256), (48, 61), (480, 640)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_sampling_at_the_grid_returns_the_image(height, width, generator):
    image = torch.rand(2, 3, height, width, generator=generator, dtype=torch.float64)
    grid = sampling.pixel_grid(height, width, dtype=torch.float64).expand(2, -1, -1, -1)
    torch.testing.assert_close(sampling.sample(image, grid), image, atol=1e-12, rtol=0)


@pytest.mark.parametrize(('height', 'width'), [(64, 256), (128, 512)])
def test_identity_is_bit_exact_in_single_precision_for_powers_of_two(height, width, generator):
    image = torch.rand(1, 3, height, width, generator=generator)
    grid = sampling.pixel_grid(height, width)[None]
    assert torch.equal(sampling.sample(image, grid), image)
    assert torch.equal(
        sampling.sample(image, grid[:, :, :-1] + torch.tensor([1.0, 0.0])), image[..., 1:]
    )


def test_identity_in_single_precision_is_true_to_the_rounding_of_coordinates(generator):
    image = torch.rand(1, 3, 480, 640, generator=generator)  # white noise, the worst case
    error = (sampling.sample(image, sampling.pixel_grid(480, 640)[None]) - image).abs().max()
    assert error < 640 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize('padding', ['border', 'zeros', 'reflection'])
def test_a_shift_by_one_pixel_is_exact_whatever_the_padding(padding, generator):
    image = torch.rand(1, 2, 37, 53, generator=generator, dtype=torch.float64)
    grid = sampling.pixel_grid(37, 53, dtype=torch.float64)[None]
    right = sampling.sample(image, grid[:, :, :-1] + torch.tensor([1.0, 0.0]), padding=padding)
    down = sampling.sample(image, grid[:, :-1] + torch.tensor([0.0, 1.0]), padding=padding)
    torch.testing.assert_close(right, image[..., 1:], atol=1e-12, rtol=0)
    torch.testing.assert_close(down, image[..., 1:, :], atol=1e-12, rtol=0)


def test_values_between_pixels_are_opencvs(generator):
    image = torch.rand(40, 50, generator=generator)
    xy = torch.rand(1, 200, 2, generator=generator) * torch.tensor([48.0, 38.0])
    xy = (xy * 32).round() / 32  # OpenCV interpolates in steps of 1/32
    x, y = xy[0, :, :1].numpy(), xy[0, :, 1:].numpy()
    expected = cv2.remap(image.numpy(), x, y, cv2.INTER_LINEAR)[:, 0]
    values = sampling.sample(image[None, None], xy)[0, 0]
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-5)


def test_leading_dimensions_of_the_pixels_are_kept(generator):
    image = torch.rand(2, 5, 8, 8, generator=generator)
    for shape in [(2, 7), (2, 3, 4), (2, 3, 4, 5), (2, 0)]:
        assert sampling.sample(image, torch.zeros(*shape, 2)).shape == (2, 5, *shape[1:])


@pytest.mark.parametrize(
    ('image', 'xy'),
    [
        ((3, 8, 8), (1, 4, 2)),
        ((2, 3, 8, 8), (1, 4, 2)),
        ((1, 3, 8, 8), (1, 4, 3)),
        ((1, 3, 8, 8), (2,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(image, xy):
    with pytest.raises(GeometryError, match='sample needs'):
        sampling.sample(torch.zeros(image), torch.zeros(xy))


def test_outside_reads_the_border_or_zero():
    image = torch.ones(1, 1, 4, 4)
    far = torch.tensor([[[-50.0, 2.0], [2.0, 99.0], [float('nan'), 0.0]]])
    assert torch.equal(sampling.sample(image, far), torch.ones(1, 1, 3))
    assert torch.equal(sampling.sample(image, far[:, :2], padding='zeros'), torch.zeros(1, 1, 2))


def test_outer_edges_of_the_picture_are_minus_one_and_one():
    edges = torch.tensor([[-0.5, -0.5], [639.5, 479.5], [319.5, 239.5]])
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(sampling.normalize_pixels(edges, 480, 640), expected)
    torch.testing.assert_close(sampling.denormalize_pixels(expected, 480, 640), edges)


def test_inside_counts_outer_pixel_centres_and_not_nan():
    xy = torch.tensor([[0.0, 0.0], [7.0, 3.0], [7.1, 3.0], [-0.1, 1.0], [float('nan'), 1.0]])
    assert sampling.inside(xy, 4, 8).tolist() == [True, True, False, False, False]
    assert sampling.inside(xy, 4, 8, border_px=1.0).tolist() == [False] * 5
    assert sampling.inside(xy, 4, 8, border_px=-0.5).tolist() == [True] * 4 + [False]


def test_resize_keeps_a_linear_ramp_on_its_line():
    ramp = torch.arange(64, dtype=torch.float64).expand(1, 1, 8, 64)
    half = sampling.resize(ramp, 4, 32)
    expected = (torch.arange(32, dtype=torch.float64) + 0.5) * 2 - 0.5
    torch.testing.assert_close(half[0, 0, 0, 2:-2], expected[2:-2])
    assert sampling.resize(ramp, 8, 64) is ramp


def test_resize_of_labels_invents_no_new_ones(generator):
    labels = torch.randint(0, 5, (1, 1, 33, 47), generator=generator).float() * 10
    small = sampling.resize_nearest(labels, 11, 13)
    assert small.shape == (1, 1, 11, 13)
    assert set(small.unique().tolist()) <= set(labels.unique().tolist())
    assert sampling.resize_nearest(labels, 33, 47) is labels


def test_sampling_has_the_right_gradient(generator):
    image = torch.rand(1, 2, 5, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    xy = torch.tensor(
        [[[1.3, 2.6], [3.2, 0.7], [2.5, 3.4]]], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(sampling.sample, (image, xy))
