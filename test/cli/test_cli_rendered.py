"""Rendered recordings: the same as rendering by hand, and rendered only when they must be."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli import rendered
from kpvo_ros.cli.rendered import Recipe, rendered_bag
from kpvo_ros.errors import SyntheticError
from kpvo_ros.types import Frame

pytest.importorskip('torch', reason='rendering needs torch')
RECIPE = Recipe('room', seed=3, frames=3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('rendered')
    rendered_bag(folder, RECIPE)
    return folder


def test_the_bag_holds_what_the_renderer_gives(folder):
    from kpvo_ros.synthetic.sequence import sequence

    made = sequence('room', 3)
    with open_source(rendered_bag(folder, RECIPE)) as source:
        frames = [record for record in source.records() if isinstance(record, Frame)]
        truth, extrinsics = source.ground_truth(), source.extrinsics()
    assert len(frames) == 3
    expected = made.frame(1).frame
    # A worker has one thread, this process several: sums may differ in their last bit.
    difference = np.abs(frames[1].image.astype(int) - expected.image.astype(int))
    assert difference.max() <= 1 and difference.mean() < 0.01
    np.testing.assert_allclose(frames[1].depth_m, expected.depth_m, rtol=1e-5)
    assert frames[1].stamp_ns == expected.stamp_ns
    np.testing.assert_allclose(truth.poses[:3], made.ground_truth.poses[:3], atol=1e-9)
    np.testing.assert_allclose(extrinsics, made.path.T_base_camera, atol=1e-9)


def test_a_second_request_renders_nothing(folder, monkeypatch):
    before = (folder / RECIPE.name / 'manifest.json').stat().st_mtime_ns

    def fail(*_):
        raise AssertionError('rendered again')

    monkeypatch.setattr(rendered, 'convert', fail)
    rendered_bag(folder, RECIPE)
    assert (folder / RECIPE.name / 'manifest.json').stat().st_mtime_ns == before


@pytest.mark.parametrize('spoil', ['renderer', 'missing', 'damaged'])
def test_another_renderer_or_an_unfinished_bag_is_rendered_again(tmp_path, monkeypatch, spoil):
    asked = []

    def convert(source, path, progress):
        asked.append(source.info.n_frames)
        path.mkdir()

    monkeypatch.setattr(rendered, 'convert', convert)
    rendered_bag(tmp_path, RECIPE)
    manifest = tmp_path / RECIPE.name / 'manifest.json'
    content = json.loads(manifest.read_text())
    if spoil == 'missing':
        manifest.unlink()
    else:
        other = json.dumps({**content, 'renderer': 'older'})
        manifest.write_text('{' if spoil == 'damaged' else other)
    rendered_bag(tmp_path, RECIPE)
    rendered_bag(tmp_path, RECIPE)
    assert asked == [3, 3]
    assert json.loads(manifest.read_text()) == content


def test_an_unknown_preset_and_a_folder_below_a_file_are_refused_in_one_line(tmp_path):
    with pytest.raises(SyntheticError, match='no synthetic sequence'):
        rendered_bag(tmp_path, Recipe('atlantis'))
    (tmp_path / 'file').write_text('')
    with pytest.raises(SyntheticError, match='choose another folder'):
        rendered_bag(tmp_path / 'file', RECIPE)


def test_recipes_that_differ_have_folders_that_differ():
    recipes = [
        Recipe('a'),
        Recipe('a', 1),
        Recipe('a', fps=5.0),
        Recipe('a', frames=5),
        Recipe('a', size=2),
    ]
    assert len({recipe.name for recipe in recipes}) == 5


def test_a_larger_picture_shows_the_same_view():
    from kpvo_ros.synthetic.recording import CAMERA

    small, large = (rendered._sequence(Recipe('room', frames=2, size=size)) for size in (1, 2))
    assert (large.camera.width, large.camera.height) == (2 * CAMERA.width, 2 * CAMERA.height)
    assert large.camera.fov_deg() == pytest.approx(small.camera.fov_deg())
    np.testing.assert_array_equal(large.path.T_world_camera, small.path.T_world_camera)
