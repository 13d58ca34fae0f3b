"""Homographies of a moving camera: what they keep, what they refuse, and what the views show."""

import cv2
import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.homography import (
    HomographyLimits,
    map_points,
    overlap_share,
    random_homographies,
    two_views,
    warp_by_homography,
)

SIZE = (120, 160)
STILL = HomographyLimits(
    tilt_deg=0, roll_deg=0, any_roll_share=0, scale=1, translation=0, overlap=0.9
)


def outline(size_hw: tuple[int, int]) -> np.ndarray:
    height, width = size_hw
    corners = [[0, 0], [width, 0], [width, height], [0, height]]
    return np.array(corners, np.float32) - 0.5


def smooth_photo(height: int, width: int) -> torch.Tensor:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 7) * np.cos(y / 9), np.sin((x + y) / 11), np.cos(x / 13 - y / 8)]
    return torch.from_numpy(0.5 + 0.4 * np.stack(waves)).float()[None]


def translation(x: float, y: float) -> torch.Tensor:
    return torch.tensor([[[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]]])


def test_a_thousand_draws_keep_the_overlap_that_polygon_clipping_measures(torch_generator) -> None:
    limits = HomographyLimits(overlap=0.5)
    H = random_homographies(1000, SIZE, torch_generator, limits).double().numpy()
    frame, area = outline(SIZE), float(SIZE[0] * SIZE[1])
    for one in H:
        quad = cv2.perspectiveTransform(frame[None], one)[0]
        common, _ = cv2.intersectConvexConvex(quad, frame)
        assert common / min(cv2.contourArea(quad), area) >= 0.5 - 1e-4


def test_no_pixel_of_either_view_lies_near_the_horizon(torch_generator) -> None:
    H = random_homographies(1000, SIZE, torch_generator).double().numpy()
    corners = np.hstack([outline(SIZE), np.ones((4, 1))])
    depth0 = np.einsum('nk,ck->nc', H[:, 2], corners)
    depth1 = 1 / np.einsum('nk,ck->nc', np.linalg.inv(H)[:, 2], corners)
    depth = np.hstack([depth0, depth1])
    assert depth.min() > 0
    assert (depth.min(axis=1) / depth.max(axis=1)).min() > 0.1


def test_tilt_roll_and_scale_stay_within_their_limits(torch_generator) -> None:
    turned = HomographyLimits(
        tilt_deg=0, roll_deg=30, any_roll_share=0, scale=1, translation=0, overlap=0.1
    )
    H = random_homographies(1000, SIZE, torch_generator, turned).double().numpy()
    roll_deg = np.degrees(np.arctan2(H[:, 1, 0], H[:, 0, 0]))
    assert 25 < np.abs(roll_deg).max() <= 30.001
    assert np.median(np.abs(roll_deg)) < 15  # small turns are the most likely
    zoomed = HomographyLimits(
        tilt_deg=0, roll_deg=0, any_roll_share=0, scale=2, translation=0, overlap=0.1
    )
    H = random_homographies(1000, SIZE, torch_generator, zoomed).double().numpy()
    scale = np.sqrt(np.linalg.det(H))
    assert 0.5 - 1e-6 <= scale.min() < 0.55
    assert 1.8 < scale.max() <= 2 + 1e-6


def test_a_camera_that_may_not_move_sees_the_same(torch_generator) -> None:
    H = random_homographies(20, SIZE, torch_generator, STILL)
    torch.testing.assert_close(H, torch.eye(3).expand(20, 3, 3), atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_homographies() -> None:
    first, again, other = (
        random_homographies(8, SIZE, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_limits_that_no_draw_meets_end_at_the_identity_and_not_in_a_loop(torch_generator) -> None:
    wild = HomographyLimits(tilt_deg=75, roll_deg=180, any_roll_share=1, overlap=0.9999, scale=6)
    H = random_homographies(50, SIZE, torch_generator, wild)
    assert (overlap_share(H.double(), SIZE) >= 0.999).all()


def test_a_translation_moves_points_by_exactly_that_much() -> None:
    xy = torch.tensor([[[0.0, 0.0], [10.0, 20.0], [159.0, 119.0]]])
    moved = map_points(translation(7.0, -3.0), xy)
    torch.testing.assert_close(moved, xy + torch.tensor([7.0, -3.0]), atol=1e-5, rtol=0)


def test_a_translation_moves_the_picture_with_its_points() -> None:
    photo = smooth_photo(*SIZE)
    moved, valid = warp_by_homography(photo, translation(7.0, -3.0))
    torch.testing.assert_close(moved[..., :-3, 7:], photo[..., 3:, :-7], atol=1e-4, rtol=0)
    assert valid[0, :117, 7:].all()
    assert not valid[0, :, :7].any()
    assert not valid[0, 117:].any()


def test_a_view_and_its_way_back_recover_the_photo(torch_generator) -> None:
    photo = smooth_photo(*SIZE)
    limits = HomographyLimits(tilt_deg=25, scale=1.2, translation=0.1)
    for H in random_homographies(10, SIZE, torch_generator, limits):
        view, valid = warp_by_homography(photo, H[None])
        back, inside = warp_by_homography(view, torch.linalg.inv(H)[None])
        shown, _ = warp_by_homography(valid[:, None].float(), torch.linalg.inv(H)[None], None)
        sure = inside & (shown[:, 0] > 0.999)
        assert sure.float().mean() > 0.4
        assert ((back - photo).abs().amax(1)[sure]).mean() < 0.01


def test_a_view_shows_at_the_mapped_points_what_the_photo_shows(torch_generator) -> None:
    photo = smooth_photo(*SIZE)
    H = random_homographies(1, SIZE, torch_generator)
    view, valid = warp_by_homography(photo, H)
    wanted = cv2.warpPerspective(
        photo[0].permute(1, 2, 0).numpy(), H[0].double().numpy(), SIZE[::-1]
    )
    difference = np.abs(view[0].permute(1, 2, 0).numpy() - wanted).max(axis=2)
    assert np.median(difference[valid[0].numpy()]) < 0.01


def test_a_shrunk_view_has_no_jagged_edges() -> None:
    checks = torch.from_numpy(np.indices((128, 128)).sum(0) % 2).float()[None, None]
    H = torch.diag(torch.tensor([0.26, 0.26, 1.0]))[None]
    view, valid = warp_by_homography(checks, H)
    # A camera far away sees grey; without smoothing it is black here and white there.
    assert view[0, 0][valid[0]].std() < 0.1


def test_what_surrounds_the_crop_comes_into_the_second_view() -> None:
    source = smooth_photo(160, 200)
    image0, image1, valid1 = two_views(source, translation(12.0, 9.0), SIZE)
    torch.testing.assert_close(image0, source[..., 20:140, 20:180])
    torch.testing.assert_close(image1, source[..., 11:131, 8:168], atol=1e-4, rtol=0)
    assert valid1.all()


def test_photos_smaller_than_the_views_are_refused() -> None:
    with pytest.raises(SyntheticError, match='cannot cut 160x120 from 100x100'):
        two_views(torch.zeros(1, 3, 100, 100), torch.eye(3)[None], SIZE)


@pytest.mark.parametrize(
    'wrong',
    [{'tilt_deg': 80}, {'overlap': 1.0}, {'scale': 0.5}, {'focal': (2.0, 1.0)}],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(SyntheticError):
        HomographyLimits(**wrong)


def test_no_homographies_are_an_empty_batch(torch_generator) -> None:
    assert random_homographies(0, SIZE, torch_generator).shape == (0, 3, 3)
