"""Textures from outside on rendered things."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.coverings import covered, load_textures
from kpvo_ros.synthetic.object_bank import BankSize, render_bank
from kpvo_ros.synthetic.objects import KINDS, SURFACES
from kpvo_ros.synthetic.texture import material_pictures, standard_atlas

SIZE = BankSize(objects=2, views=3, restyled=1, size_px=48)
STACKS = tuple(kind for kind in KINDS if kind.name in ('box_stack', 'prism'))


def colours(atlas):
    """{name: mean RGB 0..255} of the pictures of an atlas, from their coarsest level."""
    rows = atlas.table.view(len(atlas.names), -1, 12)[:, -1, :3]
    return {name: row.float() for name, row in zip(atlas.names, rows, strict=True)}


def test_half_of_the_materials_become_textures_and_nothing_else(small_atlas):
    red = torch.zeros(2, 3, 16, 16)
    red[:, 0] = 1.0
    atlas = covered(small_atlas, red, np.random.default_rng(1))
    before, after = colours(small_atlas), colours(atlas)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed <= set(SURFACES)
    assert len(changed) == round(len(SURFACES) / 2)
    for name in changed:
        assert after[name].tolist() == pytest.approx([255.0, 0.0, 0.0], abs=1)


def test_a_texture_still_tiles_when_it_is_enlarged(small_atlas):
    """A wave of two periods has no step at the border; resizing it alone would make one."""
    place = np.arange(24) / 24 * 4 * np.pi
    wave = torch.from_numpy(0.5 + 0.4 * np.sin(place + 1.0)).float()
    texture = wave.expand(1, 3, 24, 24)
    atlas = covered(small_atlas, texture, np.random.default_rng(1))
    name = next(n for n in SURFACES if not torch.equal(colours(atlas)[n], colours(small_atlas)[n]))
    rows = atlas.table.view(len(atlas.names), -1, 12)[atlas[name]]
    picture = rows[: atlas.size**2, 0].view(atlas.size, atlas.size).float() / 255
    fine = (np.arange(atlas.size) + 0.5) / atlas.size * 24 - 0.5  # pixel centres of the wave
    expected = 0.5 + 0.4 * np.sin(fine / 24 * 4 * np.pi + 1.0)
    np.testing.assert_allclose(picture[0].numpy(), expected, atol=0.02)


def test_covered_things_keep_their_shape_and_change_their_look():
    textures = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain, changed = (
        render_bank(np.random.default_rng(4), SIZE, kinds=STACKS, textures=t)
        for t in (None, textures)
    )
    again = render_bank(np.random.default_rng(4), SIZE, kinds=STACKS, textures=textures)
    assert torch.equal(changed.rgba, again.rgba)
    assert not torch.equal(changed.rgba, plain.rgba)
    for bank in (plain, changed):
        assert bank.rgba.shape == (6, 4, 48, 48)
        assert ((bank.rgba[:, 3] == 255).sum(dim=(1, 2)) > 40).all()


def test_white_textures_make_covered_things_lighter_than_black_ones():
    light = []
    for value in (0.02, 1.0):
        textures = torch.full((1, 3, 8, 8), value)
        bank = render_bank(np.random.default_rng(6), SIZE, kinds=STACKS, textures=textures)
        lit = bank.rgba[:, :3].float().amax(dim=1)[bank.rgba[:, 3] == 255]
        light.append(float((lit < 20).float().mean()))
    assert light[0] > light[1] + 0.1, 'share of black pixels'


@pytest.mark.parametrize('shape', [(0, 3, 8, 8), (2, 1, 8, 8), (3, 8, 8)])
def test_what_is_no_batch_of_textures_is_refused(small_atlas, shape):
    with pytest.raises(SyntheticError, match=r'must be \(T, 3, S, S\)'):
        covered(small_atlas, torch.zeros(shape), np.random.default_rng(1))


def test_textures_of_a_folder_are_read_in_order(tmp_path: Path):
    for number, value in enumerate((10, 200)):
        picture = np.full((16, 16, 3), (value, 0, 30), np.uint8)  # blue, green, red
        cv2.imwrite(str(tmp_path / f'texture_{number:03d}.png'), picture)
    (tmp_path / 'notes.txt').write_text('not a picture')
    textures = load_textures(tmp_path)
    assert textures.shape == (2, 3, 16, 16)
    expected = torch.tensor([[30, 0, 10], [30, 0, 200]]) / 255
    torch.testing.assert_close(textures.mean(dim=(2, 3)), expected)


def test_a_folder_without_readable_pictures_is_refused(tmp_path: Path):
    with pytest.raises(SyntheticError, match='no pictures'):
        load_textures(tmp_path)
    (tmp_path / 'broken.png').write_bytes(b'nothing')
    with pytest.raises(SyntheticError, match='not a readable image'):
        load_textures(tmp_path)


def test_other_pictures_are_put_under_known_names_only():
    atlas = standard_atlas(0, 128)
    black = np.zeros((128, 128, 3), np.uint8)
    changed = colours(atlas.replaced({'brick': black}))
    assert changed['brick'].tolist() == [0, 0, 0]
    assert torch.equal(changed['plaster'], colours(atlas)['plaster'])
    assert colours(atlas)['brick'].sum() > 100, 'the atlas itself stays as it is'
    with pytest.raises(SyntheticError, match="no texture 'marble'"):
        atlas.replaced({'marble': black})
    with pytest.raises(SyntheticError, match='resize it'):
        atlas.replaced({'brick': black[:64]})


def test_materials_are_pictures_without_letters_and_whole_things():
    pictures = material_pictures(1, 32)
    assert {'brick', 'grass', 'wood', 'fabric'} <= set(pictures)
    assert not any(name.startswith(('poster', 'landmark', 'shop', 'door')) for name in pictures)
    assert all(p.shape == (32, 32, 3) and p.dtype == np.uint8 for p in pictures.values())
