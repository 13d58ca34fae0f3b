"""Pairs of rendered worlds: colours, ways back, things that moved, and windows of the bank."""

import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.sampling import pixel_grid, sample
from kpvo_ros.synthetic.builder import Skin, WorldBuilder
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.scene_pairs import SceneBank, render_scenes, scene_truth
from kpvo_ros.synthetic.viewpoints import Viewpoints
from kpvo_ros.synthetic.world import Motion, MotionKind

WINDOW = (96, 96)


@pytest.fixture(scope='module')
def bank():
    return render_scenes(np.random.default_rng(3), 8, size_px=128, pairs_per_world=4)


def test_colours_agree_where_the_light_is_the_same(bank):
    generator = torch.Generator().manual_seed(0)
    pairs = bank.cut(12, WINDOW, generator, restyled=False)
    error = (sample(pairs.image1, pairs.to1.xy_in_other) - pairs.image0).abs().mean(dim=1)
    wrong = (sample(pairs.image1, pairs.to1.xy_in_other + 5) - pairs.image0).abs().mean(dim=1)
    seen = pairs.to1.visible
    assert int(seen.sum()) > 10000
    assert float(error[seen].median()) < 0.5 * float(wrong[seen].median())


def test_the_way_there_and_back_ends_where_it_began(bank):
    pairs = bank.cut(12, WINDOW, torch.Generator().manual_seed(1))
    back = sample(pairs.to0.xy_in_other.permute(0, 3, 1, 2), pairs.to1.xy_in_other)
    around = sample(pairs.to0.visible[:, None].float(), pairs.to1.xy_in_other)[:, 0]
    both = pairs.to1.visible & (around > 0.999)
    miss = (back.permute(0, 2, 3, 1) - pixel_grid(*WINDOW)).norm(dim=-1)[both]
    assert int(both.sum()) > 10000
    assert float((miss < 0.5).float().mean()) > 0.99


def test_views_share_something_but_not_everything(bank):
    shares = torch.minimum(
        *((flags & 1).float().mean(dim=(1, 2)) for flags in (bank.flags0, bank.flags1))
    )
    assert float(shares.min()) > 0.1 and float(shares.median()) > 0.3
    assert float(shares.max()) < 0.92


def test_windows_lie_where_their_coordinates_say(bank):
    """A window as large as the image is the stored pair itself, up to order and mirror."""
    side = bank.size_px
    pairs = bank.cut(6, (side, side), torch.Generator().manual_seed(2))
    stored = torch.cat([bank.image0, bank.image1]).float() / 255
    for image in pairs.image0:
        same = (stored - image).abs().amax(dim=(1, 2, 3)) == 0
        mirrored = (stored.flip(-1) - image).abs().amax(dim=(1, 2, 3)) == 0
        assert int((same | mirrored).sum()) >= 1


def test_the_same_generator_cuts_the_same_windows(bank):
    one, two = (bank.cut(4, WINDOW, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one.image0, two.image0)
    assert torch.equal(one.to1.xy_in_other, two.to1.xy_in_other)


def test_a_saved_bank_comes_back_equal(bank, tmp_path):
    bank.save(tmp_path / 'scenes.safetensors')
    again = SceneBank.load(tmp_path / 'scenes.safetensors')
    assert torch.equal(again.xy0, bank.xy0) and torch.equal(again.flags1, bank.flags1)
    with pytest.raises(SyntheticError, match='not a scene bank'):
        SceneBank.load(tmp_path / 'nothing')


def test_windows_larger_than_the_scenes_are_refused(bank):
    with pytest.raises(SyntheticError, match='do not fit'):
        bank.cut(1, (200, 200), torch.Generator())


def test_an_empty_bank_is_not_rendered():
    with pytest.raises(SyntheticError, match='at least'):
        render_scenes(np.random.default_rng(0), 0)


def test_points_on_a_moving_thing_go_with_it(plain_atlas, look):
    """A board that moves 0.5 m to the left before a wall, seen by a camera at rest."""
    b = WorldBuilder(plain_atlas, np.random.default_rng(0))
    b.box((9, 0, 0), (1, 30, 30), Skin('smooth'))
    motion = b.move(Motion(MotionKind.LINEAR, vector=(0.0, 0.25, 0.0)))
    b.box((4.5, 0, 0), (1, 2, 2), Skin('quarters', None), motion=motion)
    world = b.build(Lighting.overcast())
    camera = Camera(96, 96, 80.0, 80.0, 47.5, 47.5)
    spots = Viewpoints(look(), look(), 0.0, 2.0, 1.0)
    shots = [render(world, look(), camera, time_s=t) for t in (0.0, 2.0)]
    to1, to0, moved0, moved1 = scene_truth(world, camera, spots, *shots)
    # Front face at 4 m: 2 m are 40 px around the middle; 0.5 m to the left are 10 px.
    assert moved0[0, 48, 30:66].all() and not moved0[0, 48, :26].any()
    expected = torch.tensor([47.0 - 10.0, 48.0])
    torch.testing.assert_close(to1.xy_in_other[0, 48, 47], expected, atol=1e-3, rtol=0)
    assert to1.visible[0, 48, 32:64].all()
    still = torch.tensor([10.0, 48.0])
    torch.testing.assert_close(to1.xy_in_other[0, 48, 10], still, atol=1e-3, rtol=0)
    assert not to1.visible[0, 48, 19:26].any()  # wall that the board covers afterwards
    assert not to0.visible[0, 48, 60:66].any() and not moved1[0, 48, 60:].any()
