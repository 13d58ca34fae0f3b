"""Pairs of recordings, of which nothing is known, and mixtures of pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.methods.crossview.frame_data import (
    MakePairs,
    RecordedPairs,
    joined,
    mixed,
    unknown_pairs,
)
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.synthetic.photo_set import PhotoSet

SIZE_HW = (32, 48)


def recording(frames: int = 6) -> PhotoSet:
    """Frame i has the colour 20 i everywhere."""
    images = [np.full((40, 60, 3), 20 * i, dtype=np.uint8) for i in range(frames)]
    return PhotoSet([images], [True])


def plain(value: float) -> FramePairs:
    image = torch.full((1, 3, *SIZE_HW), value)
    return unknown_pairs(image, image)


def test_frames_of_a_pair_are_neighbours_of_which_nothing_is_known(
    torch_generator: torch.Generator,
) -> None:
    pairs = RecordedPairs(recording(), 2, SIZE_HW).make(40, torch_generator).check()
    assert pairs.image0.shape == (40, 3, *SIZE_HW)
    number0, number1 = (
        (255 * image[:, 0, 0, 0] / 20).round() for image in (pairs.image0, pairs.image1)
    )
    gaps = (number0 - number1).abs()
    assert set(gaps.tolist()) == {1.0, 2.0}
    assert {1, -1} == set((number0 - number1).sign().tolist())
    for value in pairs[2:]:
        assert torch.isnan(value).all()


def test_the_same_generator_makes_the_same_pairs() -> None:
    maker = RecordedPairs(recording(), 2, SIZE_HW)
    one, same, other = (maker.make(8, torch.Generator().manual_seed(s)).image0 for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_loose_photos_make_no_pairs(torch_generator: torch.Generator) -> None:
    photos = PhotoSet([[np.zeros((40, 60, 3), dtype=np.uint8)] * 3])
    with pytest.raises(SyntheticError, match=r'frames\.txt'):
        RecordedPairs(photos, 2, SIZE_HW).make(2, torch_generator)


def of_colour(value: float) -> MakePairs:
    """A maker of pairs of one colour that must not be asked for nothing."""

    def make(count: int, generator: torch.Generator) -> FramePairs:
        assert count > 0
        return joined([plain(value)] * count)

    return make


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_a_mixture_has_its_shares(share: float, torch_generator: torch.Generator) -> None:
    make = mixed(of_colour(0.0), of_colour(1.0), share)
    batches = [make(10, torch_generator) for _ in range(60)]
    colour: Tensor = torch.cat([batch.check().image0[:, 0, 0, 0] for batch in batches])
    assert len(colour) == 600
    assert float(colour.mean()) == pytest.approx(share, abs=0.06)


def test_joined_pairs_keep_their_order() -> None:
    pairs = joined([plain(0.1), plain(0.2), plain(0.3)]).check()
    torch.testing.assert_close(pairs.image1[:, 0, 0, 0], torch.tensor([0.1, 0.2, 0.3]))
