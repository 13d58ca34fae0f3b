"""Correspondences against closed forms: shifted planes, known occlusion, ways there and back."""

import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.sampling import pixel_grid
from kpvo_ros.synthetic.correspondence import (
    Correspondence,
    Layer,
    Pairs,
    consistent,
    from_depth,
    from_homography,
    hidden,
    join,
    merge,
)

SIZE = (40, 60)
PX = 1e-3
K = torch.tensor([[[50.0, 0, 29.5], [0, 50.0, 19.5], [0, 0, 1]]])


def shift(x, y):
    H = torch.eye(3)[None].repeat(1, 1, 1)
    H[0, :2, 2] = torch.tensor([x, y])
    return H


def moved_right(metres):
    """T_1_0 of a camera that moved to the right: points shift to the left."""
    T = torch.eye(4)[None].repeat(1, 1, 1)
    T[0, 0, 3] = -metres
    return T


def test_a_homography_sends_each_pixel_where_cv2_sends_it():
    cv2 = pytest.importorskip('cv2')
    H = torch.tensor([[[1.1, 0.2, -5.0], [-0.1, 0.9, 4.0], [1e-3, -5e-4, 1.0]]])
    to1, to0 = from_homography(H, SIZE)
    grid = pixel_grid(*SIZE).numpy().astype(np.float64).reshape(1, -1, 2)
    for way, matrix in ((to1, H[0].numpy()), (to0, np.linalg.inv(H[0].numpy()))):
        expected = cv2.perspectiveTransform(grid, matrix.astype(np.float64)).reshape(*SIZE, 2)
        np.testing.assert_allclose(way.xy_in_other[0].numpy(), expected, atol=PX)


def test_a_shift_hides_exactly_the_columns_that_leave_the_image():
    to1, to0 = from_homography(shift(7.0, 0.0), SIZE)
    assert to1.visible[0, :, :-7].all() and not to1.visible[0, :, -7:].any()
    assert to0.visible[0, :, 7:].all() and not to0.visible[0, :, :7].any()


def test_coordinates_beyond_the_horizon_are_finite_and_not_visible():
    H = torch.eye(3)[None].repeat(1, 1, 1)
    H[0, 2, 0] = -1 / 30  # the horizon is column 30
    to1, _ = from_homography(H, SIZE)
    assert to1.xy_in_other.isfinite().all()
    assert not to1.visible[0, :, 31:].any()


def test_depth_of_a_frontal_plane_shifts_pixels_by_the_disparity():
    depth = torch.full((1, *SIZE), 4.0)
    to1, to0 = from_depth(depth, depth, moved_right(0.4), K)
    grid = pixel_grid(*SIZE)
    disparity = 50.0 * 0.4 / 4.0
    expected = grid - torch.tensor([disparity, 0.0])
    torch.testing.assert_close(to1.xy_in_other[0], expected, atol=PX, rtol=0)
    assert to1.visible[0, :, 5:].all() and not to1.visible[0, :, :5].any()
    assert to0.visible[0, :, :-5].all() and not to0.visible[0, :, -5:].any()


def test_the_strip_behind_a_nearer_plane_is_occluded():
    """A wall at 8 m, before it a board at 2 m over the columns 20..39 of view 0."""
    depth0 = torch.full((1, *SIZE), 8.0)
    depth0[..., 20:40] = 2.0
    depth1 = torch.full((1, *SIZE), 8.0)
    depth1[..., 10:30] = 2.0  # disparity of the board: 50 * 0.4 / 2 = 10, of the wall 2.5
    to1, to0 = from_depth(depth0, depth1, moved_right(0.4), K)
    seen = to1.visible[0].all(dim=0)
    none = ~to1.visible[0].any(dim=0)
    # Wall columns 12.5..32.5 land behind the board at 10..29; of them 13..19 are seen in view 0.
    assert none[14:20].all()
    assert seen[4:12].all() and seen[21:39].all() and seen[43:].all()
    # In view 1 the wall at 30..37 was behind the board of view 0.
    assert not to0.visible[0][:, 30:37].any() and to0.visible[0][:, 39:56].all()


def test_unknown_depth_is_not_visible_and_finite():
    depth = torch.full((1, *SIZE), 4.0)
    depth[0, 10, 10] = torch.nan
    depth[0, 11, 11] = 0.0
    to1, _ = from_depth(depth, depth, moved_right(0.0), K)
    assert to1.xy_in_other.isfinite().all()
    assert not to1.visible[0, 10, 10] and not to1.visible[0, 11, 11]
    assert to1.visible[0, 20, 20]


def test_depths_of_different_sizes_are_refused():
    with pytest.raises(SyntheticError, match='two alike'):
        from_depth(torch.ones(1, 4, 5), torch.ones(1, 5, 5), moved_right(0.0), K)


def board_layers():
    """A still background and a board that moves 10 px to the left before it."""
    everywhere = torch.ones(1, *SIZE, dtype=torch.bool)
    mask0, mask1 = ~everywhere, ~everywhere
    mask0[..., 10:30, 20:40] = True
    mask1[..., 10:30, 10:30] = True
    back = Layer(everywhere, everywhere, *from_homography(shift(0.0, 0.0), SIZE))
    return back, Layer(mask0, mask1, *from_homography(shift(-10.0, 0.0), SIZE))


def test_a_layer_hides_what_is_behind_it_in_either_view():
    to1, to0 = merge(board_layers())
    rows = slice(11, 28)
    # Background at 10..19 of view 0 is behind the board in view 1.
    assert not to1.visible[0, rows, 10:20].any()
    assert to1.visible[0, rows, 20:39].all()  # the board itself
    assert not to0.visible[0, rows, 30:40].any()  # background uncovered in view 1
    assert to1.visible[0, rows, 41:].all() and to1.visible[0, 31:].all()
    assert float(to1.xy_in_other[0, 20, 25, 0]) == pytest.approx(15.0, abs=PX)
    assert float(to1.xy_in_other[0, 20, 45, 0]) == pytest.approx(45.0, abs=PX)


def test_merging_one_layer_changes_nothing_inside():
    back, _ = board_layers()
    to1, to0 = merge([back])
    assert torch.equal(to1.visible, back.to1.visible)
    assert torch.equal(to0.xy_in_other, back.to0.xy_in_other)


def test_merging_nothing_is_refused():
    with pytest.raises(SyntheticError, match='background'):
        merge([])


def test_pixels_beside_a_border_between_owners_are_not_visible():
    owner = torch.zeros(1, *SIZE, dtype=torch.int64)
    owner[..., 30:] = 1
    half = pixel_grid(*SIZE)[None] + torch.tensor([0.5, 0.0])
    way = Correspondence(half, torch.ones(1, *SIZE, dtype=torch.bool))
    left = hidden(way, torch.zeros_like(owner), owner).visible[0].all(dim=0)
    assert left[:29].all() and not left[29:].any()


def test_pixels_that_do_not_come_home_are_dropped():
    to1, to0 = from_homography(shift(3.0, 1.0), SIZE)
    bent = Correspondence(to0.xy_in_other.clone(), to0.visible)
    bent.xy_in_other[0, 20, 20] += 5.0
    kept = consistent(to1, bent)
    assert not kept.visible[0, 19, 17]
    assert int(to1.visible.sum() - kept.visible.sum()) <= 9


def test_swapping_twice_and_joining_keep_every_pair():
    ways = from_homography(shift(2.0, 0.0), SIZE)
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    still = torch.zeros(1, *SIZE, dtype=torch.bool)
    pairs = Pairs(image, 1 - image, *ways, still, ~still)
    assert torch.equal(pairs.swapped().image0, 1 - image)
    assert torch.equal(pairs.swapped().to1.xy_in_other, ways[1].xy_in_other)
    both = join([pairs, pairs.swapped()])
    assert len(both) == 2
    assert torch.equal(both.image1[1], image[0]) and both.movable0[1].all()
