"""Training pairs of method A and the switches of its ablation."""

import dataclasses

import numpy as np
import pytest
import torch

from kpvo_ros.config.schema import specs_of
from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.sampling import sample
from kpvo_ros.methods.homography.data import HomographyDataConfig, PairMaker
from kpvo_ros.synthetic.object_bank import BankSize, render_bank
from kpvo_ros.synthetic.scene_pairs import render_scenes

SMALL = HomographyDataConfig(size_px=96, tilt_deg=30.0, scale=1.4)


@pytest.fixture(scope='module')
def bank():
    size = BankSize(objects=6, views=6, restyled=2, size_px=64)
    return render_bank(np.random.default_rng(0), size)


@pytest.fixture(scope='module')
def scenes():
    return render_scenes(np.random.default_rng(5), 3, size_px=96, pairs_per_world=3)


def photos(count, size_hw, generator):
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size_hw, mode='bicubic').clamp(0, 1)


def colour_error(pairs):
    return (sample(pairs.image1, pairs.to1.xy_in_other) - pairs.image0).abs().mean(dim=1)


def test_a_batch_has_the_promised_shapes_and_ranges(bank, scenes):
    maker = PairMaker(photos, SMALL, bank, scenes)
    pairs = maker.make(5, torch.Generator().manual_seed(0))
    assert len(pairs) == 5
    for image in (pairs.image0, pairs.image1):
        assert image.shape == (5, 3, 96, 96) and image.dtype == torch.float32
        assert float(image.min()) >= 0 and float(image.max()) <= 1
    for way, movable in ((pairs.to1, pairs.movable0), (pairs.to0, pairs.movable1)):
        assert way.xy_in_other.shape == (5, 96, 96, 2) and way.xy_in_other.isfinite().all()
        assert way.visible.shape == movable.shape == (5, 96, 96)
        assert way.visible.dtype == movable.dtype == torch.bool
    assert 0.1 < float(pairs.to1.visible.float().mean()) < 0.99


def test_before_styles_colours_agree_at_both_ends(bank):
    config = dataclasses.replace(SMALL, style=False)
    maker = PairMaker(photos, config, bank)
    pairs = maker.make_plain(8, torch.Generator().manual_seed(1))
    error = colour_error(pairs)[pairs.to1.visible]
    assert float(error.median()) < 0.01 and float(error.quantile(0.95)) < 0.12


def test_the_same_generator_makes_the_same_batch(bank, scenes):
    maker = PairMaker(photos, SMALL, bank, scenes)
    one, two = (maker.make(4, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(one.image0, two.image0) and torch.equal(one.image1, two.image1)
    assert torch.equal(one.to0.xy_in_other, two.to0.xy_in_other)
    other = maker.make(4, torch.Generator().manual_seed(10))
    assert not torch.equal(one.image0, other.image0)


def test_without_content_pairs_are_homographies_of_photos():
    config = dataclasses.replace(SMALL, content=False)
    maker = PairMaker(photos, config)
    pairs = maker.make_plain(4, torch.Generator().manual_seed(2))
    xy = pairs.to1.xy_in_other.double()
    for b in range(4):  # four corners fix the homography; all other pixels obey it
        H = through_corners(xy[b])
        grid = torch.stack(torch.meshgrid(*[torch.arange(96.0).double()] * 2, indexing='xy'), -1)
        mapped = torch.cat([grid, torch.ones(96, 96, 1).double()], -1) @ H.T
        near = (xy[b].abs() < 500).all(-1)
        miss = (mapped[..., :2] / mapped[..., 2:] - xy[b]).norm(dim=-1)[near]
        assert float(miss.max()) < 0.02
    assert not pairs.movable0.any()


def through_corners(xy):
    rows = []
    for x, y in ((0, 0), (95, 0), (0, 95), (95, 95)):
        u, v = xy[y, x].tolist()
        rows += [
            [x, y, 1, 0, 0, 0, -u * x, -u * y, -u],
            [0, 0, 0, x, y, 1, -v * x, -v * y, -v],
        ]
    return torch.linalg.svd(torch.tensor(rows, dtype=torch.float64))[2][-1].reshape(3, 3)


def test_style_changes_images_but_not_the_truth(bank):
    maker = PairMaker(photos, SMALL, bank)
    plain = maker.make_plain(4, torch.Generator().manual_seed(3))
    styled = maker.make(4, torch.Generator().manual_seed(3))
    assert torch.equal(plain.to1.xy_in_other, styled.to1.xy_in_other)
    assert torch.equal(plain.to1.visible, styled.to1.visible)
    assert not torch.equal(plain.image0, styled.image0)


def test_nothing_is_movable_unless_moving_is_on(bank, scenes):
    always = dataclasses.replace(SMALL, moving_share=1.0, objects=8, object_share=1.0)
    found = []
    for moving in (True, False):
        maker = PairMaker(photos, dataclasses.replace(always, moving=moving), bank, scenes)
        generator = torch.Generator().manual_seed(4)
        batches = [maker.make_plain(8, generator) for _ in range(3)]
        found.append(any(bool(p.movable0.any() | p.movable1.any()) for p in batches))
    assert found == [True, False]


def test_the_share_of_scenes_is_kept(bank, scenes):
    """Scenes are recognised by their pixels, which come from eight bits."""
    config = dataclasses.replace(SMALL, scenes=0.5)
    maker = PairMaker(photos, config, bank, scenes)
    generator = torch.Generator().manual_seed(0)
    pairs = [maker.make_plain(8, generator) for _ in range(5)]
    images = torch.cat([p.image0 for p in pairs]) * 255
    from_scenes = ((images - images.round()).abs() < 1e-3).all(dim=(1, 2, 3)).float().mean()
    assert 0.25 < float(from_scenes) < 0.75


def test_content_without_a_bank_is_refused():
    with pytest.raises(SyntheticError, match='bank of rendered things'):
        PairMaker(photos, SMALL)


def test_every_parameter_is_declared_with_its_sentence():
    specs = specs_of(HomographyDataConfig)
    assert {'content', 'style', 'moving', 'scenes'} <= {spec.name for spec in specs}
    assert all(spec.doc.endswith('.') for spec in specs)
