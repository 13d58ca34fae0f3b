"""Rendered things: they stand on the ground, are seen from outside, and know their shape."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from kpvo_ros.cli import train_homography
from kpvo_ros.cli.train_inputs import Inputs
from kpvo_ros.errors import SyntheticError
from kpvo_ros.methods.homography.task import HomographyConfig
from kpvo_ros.synthetic.builder import WorldBuilder
from kpvo_ros.synthetic.content_folder import load_content
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.object_bank import BankSize, ObjectBank, render_bank
from kpvo_ros.synthetic.objects import KINDS, box_stack

SIZE = BankSize(objects=3, views=5, restyled=2, size_px=64)


@pytest.fixture(scope='module')
def bank():
    kinds = tuple(kind for kind in KINDS if kind.name in ('box_stack', 'car', 'sign_post'))
    return render_bank(np.random.default_rng(2), SIZE, kinds=kinds)


def points_in_object(bank, view):
    """(P, 3) points of the object's frame seen in a view, and their pixels (P, 2)."""
    inverse = bank.inverse_depth[view].double()
    solid = bank.rgba[view, 3] == 255
    row, column = solid.nonzero().unbind(1)
    z = 1 / inverse[row, column]
    centre, focal = (bank.size_px - 1) / 2, float(bank.focal_px[view])
    points = torch.stack([(column - centre) / focal * z, (row - centre) / focal * z, z], -1)
    T = bank.T_object_camera[view].double()
    return points @ T[:3, :3].T + T[:3, 3]


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.name)
def test_every_kind_reaches_the_ground_and_is_of_handy_size(kind, small_atlas):
    b = WorldBuilder(small_atlas, np.random.default_rng(5))
    kind.build(b, np.random.default_rng(5))
    world = b.build(Lighting.day())
    signs = np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3)
    T, half = world.T_world_prim.numpy(), world.half_size.numpy()
    corners = (signs * half[:, None]) @ T[:, :3, :3].transpose(0, 2, 1) + T[:, None, :3, 3]
    z = corners[..., 2]
    assert z.min() < 0.02 and 0.25 < z.max() < 8.0
    assert np.abs(corners[..., :2]).max() < 6.0


def test_the_same_seed_builds_the_same_shape_whatever_the_textures(small_atlas):
    worlds = []
    for atlas in (small_atlas, dataclasses.replace(small_atlas, table=small_atlas.table // 2)):
        rng = np.random.default_rng(9)
        b = WorldBuilder(atlas, rng)
        box_stack(b, rng)
        worlds.append(b.build(Lighting.day()))
    assert torch.equal(worlds[0].half_size, worlds[1].half_size)
    assert torch.equal(worlds[0].T_world_prim, worlds[1].T_world_prim)


def test_points_of_all_views_lie_on_one_body_above_the_ground(bank):
    for thing in range(bank.objects):
        heights = []
        for view in range(thing * bank.views, (thing + 1) * bank.views):
            points = points_in_object(bank, view)
            assert len(points) > 60
            assert float(points[:, 2].min()) > -0.05
            heights.append(float(points[:, 2].max()))
        assert max(heights) == pytest.approx(float(bank.height_m[thing]), rel=0.08)
        assert max(heights) - min(heights) < 0.15 * max(heights)


def test_the_foot_point_is_where_the_origin_projects(bank):
    for view in range(len(bank.rgba)):
        T = torch.linalg.inv(bank.T_object_camera[view].double())
        x, y, z = T[:3, 3]
        focal, centre = bank.focal_px[view], (bank.size_px - 1) / 2
        expected = torch.stack([x / z * focal + centre, y / z * focal + centre])
        torch.testing.assert_close(bank.foot_px[view].double(), expected, atol=1e-3, rtol=0)


def test_gravity_points_down_the_columns_of_every_view(bank):
    down = bank.T_object_camera[:, 2, :3]  # the object's z axis in camera coordinates
    assert (down[:, 0].abs() < 1e-5).all() and (down[:, 1] < 0).all()


def test_views_go_around_the_object_and_only_the_last_are_restyled(bank):
    angle = bank.azimuth_rad.reshape(bank.objects, bank.views).sort(dim=1).values
    gaps = torch.cat([angle.diff(dim=1), angle[:, :1] + 2 * np.pi - angle[:, -1:]], dim=1)
    assert float(gaps.max()) < np.deg2rad(140)
    flags = bank.restyled.reshape(bank.objects, bank.views)
    assert not flags[:, :3].any() and flags[:, 3:].all()


def test_colour_is_premultiplied_and_nothing_touches_the_border(bank):
    colour, alpha = bank.rgba[:, :3].int(), bank.rgba[:, 3:].int()
    assert (colour <= alpha + 2).all()
    for edge in (alpha[..., 0], alpha[..., -1], alpha[..., 0, :], alpha[..., -1, :]):
        assert int(edge.max()) == 0
    assert ((alpha > 0) & (alpha < 255)).any()  # soft outlines


def test_sunlit_things_throw_a_shadow_beside_themselves(bank):
    shadow = bank.shadow.float()
    assert float(shadow.max()) > 80
    covered = bank.rgba[:, 3] == 255
    assert float(shadow[covered].max()) == 0


def test_a_saved_bank_comes_back_equal(bank, tmp_path):
    bank.save(tmp_path / 'bank.safetensors')
    again = ObjectBank.load(tmp_path / 'bank.safetensors')
    assert again.views == bank.views
    for field in dataclasses.fields(bank):
        if field.name != 'views':
            assert torch.equal(getattr(again, field.name), getattr(bank, field.name)), field.name


def test_a_file_that_is_no_bank_is_refused(tmp_path):
    (tmp_path / 'x').write_bytes(b'nothing')
    with pytest.raises(SyntheticError, match='not an object bank'):
        ObjectBank.load(tmp_path / 'x')


def test_the_same_generator_renders_the_same_bank():
    size = BankSize(objects=1, views=2, restyled=0, size_px=32)
    one, two = (render_bank(np.random.default_rng(4), size) for _ in range(2))
    assert torch.equal(one.rgba, two.rgba) and torch.equal(one.inverse_depth, two.inverse_depth)


def test_impossible_sizes_are_refused():
    with pytest.raises(SyntheticError, match='cannot be rendered'):
        BankSize(views=4, restyled=3)


def write_view(path, transparent=False):
    image = np.zeros((50, 30, 4), np.uint8)
    if not transparent:
        image[5:45, 10:20] = (0, 0, 255, 255)  # BGRA: a red bar, 40 high
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def test_pictures_from_a_folder_stand_on_their_lowest_row(tmp_path):
    write_view(tmp_path / 'bar' / 'view_0.png')
    write_view(tmp_path / 'bar' / 'view_1.png')
    bank = load_content(tmp_path, SIZE)
    assert bank.objects == 1 and len(bank.rgba) == SIZE.views
    solid = bank.rgba[0, 3] == 255
    lowest = solid.any(dim=1).nonzero().max()
    assert float(bank.foot_px[0, 1]) == pytest.approx(float(lowest), abs=1.0)
    assert float(bank.foot_px[0, 0]) == pytest.approx(31.5, abs=1.0)
    assert (bank.rgba[0, 0][solid] == 255).all() and (bank.rgba[0, 2][solid] == 0).all()
    assert not bank.inverse_depth.any()


def test_banks_of_one_size_join_and_others_do_not(bank, tmp_path):
    write_view(tmp_path / 'bar' / 'view_0.png')
    joined = bank.joined(load_content(tmp_path, SIZE))
    assert joined.objects == 4 and len(joined.rgba) == 4 * SIZE.views
    other = load_content(tmp_path, BankSize(size_px=32))
    with pytest.raises(SyntheticError, match='do not join'):
        bank.joined(other)


@pytest.mark.parametrize('wrong', ['empty', 'transparent', 'opaque'])
def test_a_folder_without_usable_pictures_is_refused(tmp_path, wrong):
    if wrong == 'transparent':
        write_view(tmp_path / 'x' / 'view_0.png', transparent=True)
    if wrong == 'opaque':
        (tmp_path / 'x').mkdir()
        cv2.imwrite(str(tmp_path / 'x' / 'view_0.png'), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(SyntheticError, match=r'view_'):
        load_content(tmp_path, SIZE)


def test_training_places_things_of_a_folder_among_the_rendered_ones(tmp_path, bank):
    write_view(tmp_path / 'content' / 'bar' / 'view_0.png')
    size = BankSize()
    shared = tmp_path / 'bank'
    shared.mkdir()
    rendered = load_content(tmp_path / 'content', size)  # stands for one that was rendered before
    rendered.save(shared / 'objects_1.safetensors')
    inputs = Inputs([], shared, None, torch.device('cpu'), {}, lambda line: None)
    config = HomographyConfig(bank_objects=1, content=str(tmp_path / 'content'))
    assert train_homography._objects(config, inputs).objects == 2
    alone = dataclasses.replace(config, content='')
    assert train_homography._objects(alone, inputs).objects == 1
