"""Crops and pairs of photos in memory."""

import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.photo_set import PhotoSet


def numbered(count: int, height: int = 60, width: int = 80, first: int = 0) -> list[np.ndarray]:
    """Photos of one brightness each, which tells them apart."""
    return [np.full((height, width, 3), first + i, np.uint8) for i in range(count)]


def coordinates() -> np.ndarray:
    """A photo whose red is the column and whose green is the row."""
    y, x = np.mgrid[:100, :200]
    return np.stack([x, y, np.zeros_like(x)], axis=-1).astype(np.uint8)


def test_crops_are_parts_of_the_photo_at_random_scales_half_mirrored(torch_generator) -> None:
    crops = PhotoSet([[coordinates()]]).crops(200, (50, 60), torch_generator) * 255
    assert crops.shape == (200, 3, 50, 60)
    across = (crops[:, 0, :, -5] - crops[:, 0, :, 4]).mean(1) / 51  # columns per pixel
    down = (crops[:, 1, -5] - crops[:, 1, 4]).mean(1) / 41
    assert ((across.abs() - down).abs() < 0.08).all()  # one scale both ways
    assert 0.98 < float(down.min()) < 1.1
    assert 1.8 < float(down.max()) < 2.05
    assert 60 < int((across < 0).sum()) < 140


def test_a_photo_smaller_than_the_crop_is_enlarged_whole(torch_generator) -> None:
    photo = np.zeros((20, 30, 3), np.uint8)
    photo[:, :15] = 250
    crop = PhotoSet([[photo]]).crops(1, (40, 60), torch_generator)[0]
    assert crop.shape == (3, 40, 60)
    assert abs(float(crop.mean()) - 0.5 * 250 / 255) < 0.01


def test_all_photos_are_drawn_and_the_seed_decides_which() -> None:
    photos = PhotoSet([numbered(10)])
    first, again = (
        photos.crops(200, (8, 8), torch.Generator().manual_seed(5))[:, 0, 0, 0] for _ in range(2)
    )
    assert torch.equal(first, again)
    assert sorted({round(float(v) * 255) for v in first}) == list(range(10))


def test_pairs_stay_in_their_recording_and_within_the_gap(torch_generator) -> None:
    photos = PhotoSet([numbered(20), numbered(5), numbered(9), numbered(2)], [1, 0, 1, 1])
    assert photos.sequences == [range(0, 20), range(25, 34), range(34, 36)]
    pairs = photos.pairs(3000, 4, torch_generator).numpy()
    gap = pairs[:, 1] - pairs[:, 0]
    assert set(np.abs(gap)) == {1, 2, 3, 4}
    assert (gap > 0).any()
    assert (gap < 0).any()
    owner = np.searchsorted([0, 20, 25, 34, 36], pairs, side='right')
    assert (owner[:, 0] == owner[:, 1]).all()
    assert not (owner == 2).any()
    assert set(pairs.ravel()) == {*range(20), *range(25, 36)}


def test_both_photos_of_a_pair_are_cut_alike(torch_generator) -> None:
    photo = coordinates()
    brighter = photo + np.array([0, 0, 80], np.uint8)
    photos = PhotoSet([[photo, brighter]], [True])
    view0, view1 = photos.pair_crops(torch.tensor([[0, 1]] * 6), (40, 40), torch_generator)
    torch.testing.assert_close(view0[:, :2], view1[:, :2])
    torch.testing.assert_close(view1[:, 2] - view0[:, 2], torch.full((6, 40, 40), 80 / 255))


def test_loose_photos_have_no_pairs(torch_generator) -> None:
    with pytest.raises(SyntheticError, match='no pairs'):
        PhotoSet([numbered(5)]).pairs(2, 3, torch_generator)


def test_a_set_without_photos_or_of_another_type_is_refused() -> None:
    with pytest.raises(SyntheticError, match='at least one photo'):
        PhotoSet([[]])
    with pytest.raises(SyntheticError, match='float64'):
        PhotoSet([[np.zeros((4, 4, 3))]])
