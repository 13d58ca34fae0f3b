"""Rendered walks: what they show, where they lead, and the files they are kept in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.se3 import T_BASE_OPTICAL, from_rt
from kpvo_ros.geometry.warp import warp_by_depth
from kpvo_ros.synthetic import walk_bank
from kpvo_ros.synthetic.builder import Skin, WorldBuilder
from kpvo_ros.synthetic.correspondence import from_depth
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.texture import TextureAtlas
from kpvo_ros.synthetic.trajectory import CameraPath
from kpvo_ros.synthetic.walk_bank import WalkBank, WalkSize, load_or_render, load_part, render_part
from kpvo_ros.synthetic.walks import choose_walk, covisible_share
from kpvo_ros.synthetic.world_choice import SceneWorld

SIZE = WalkSize(width_px=64, height_px=48, views=4, per_part=2)
INDOORS_M, OUTDOORS_M = (0.04, 0.35), (0.3, 1.5)
SHAKEN = 1.3  # longest step of a walk over its mean


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts 0 (a room) and 1 (a street) of seed 1."""
    folder = tmp_path_factory.mktemp('bank')
    load_or_render(folder, 4, seed=1, size=SIZE)
    return folder


@pytest.fixture(scope='module')
def bank(folder: Path) -> WalkBank:
    return load_or_render(folder, 4, seed=1, size=SIZE)


def camera_tensor(focal_px: float, height: int, width: int) -> torch.Tensor:
    K = torch.tensor([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]])
    return K[None]


def test_the_next_view_rebuilds_a_view_by_depth_and_pose_and_worse_by_another(
    bank: WalkBank,
) -> None:
    T = bank.T_first_camera
    for walk in range(len(bank)):
        T_1_0 = torch.linalg.inv(T[walk, 1:]) @ T[walk, :-1]
        images = bank.images[walk].float() / 255
        depth = bank.depth_m[walk].float()
        K = bank.K[walk].expand(len(T_1_0), 3, 3)
        to1, _ = from_depth(depth[:-1], depth[1:], T_1_0, K)
        seen = to1.visible[:, None]
        off = T_1_0.clone()
        off[:, 0, 3] += 0.1 * float(depth.nanmedian())  # about 5 px
        right, wrong = (
            (warp_by_depth(images[1:], depth[:-1, None], K, K, way).image - images[:-1])
            .abs()
            .mean(dim=1, keepdim=True)[seen]
            for way in (T_1_0, off)
        )
        assert float(seen.float().mean()) > 0.4
        assert float(right.mean()) < 0.6 * float(wrong.mean())


def test_a_walk_goes_by_small_steps_from_its_first_view(bank: WalkBank) -> None:
    torch.testing.assert_close(bank.T_first_camera[:, 0], torch.eye(4).expand(4, 4, 4))
    steps = bank.T_first_camera[:, :, :3, 3].diff(dim=1).norm(dim=-1)  # (4, 3)
    for walk, (low, high) in enumerate([INDOORS_M, INDOORS_M, OUTDOORS_M, OUTDOORS_M]):
        assert float(steps[walk].min()) > low / SHAKEN and float(steps[walk].max()) < high * SHAKEN
    R = bank.T_first_camera[..., :3, :3]
    between = R[:, :-1].transpose(-1, -2) @ R[:, 1:]
    cosine = (between.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    assert float(torch.rad2deg(cosine.clamp(max=1).acos()).max()) < 25.0
    torch.testing.assert_close(R @ R.transpose(-1, -2), torch.eye(3).expand_as(R))


def test_cameras_are_held_upright_and_off_the_walls(bank: WalkBank) -> None:
    far = torch.nan_to_num(bank.depth_m.float(), nan=1000.0).flatten(2)
    assert float(far.median(dim=-1).values.min()) > 0.7
    focal = bank.K[:, 0, 0] / SIZE.width_px
    assert float(focal.min()) > 0.59 and float(focal.max()) < 1.11
    # Below the horizon of a street there is ground, above it the sky or houses farther away.
    street = bank.depth_m[2:].float()
    assert float(street[..., -1, :].nanmedian()) < float(street[..., 20, :].nanmedian())


def test_a_part_is_the_same_every_time_and_other_parts_show_other_walks(bank: WalkBank) -> None:
    again = render_part(1, 0, SIZE)
    assert torch.equal(again.images, bank.images[:2])
    assert torch.equal(again.T_first_camera, bank.T_first_camera[:2])
    torch.testing.assert_close(again.depth_m, bank.depth_m[:2], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(bank.images[0], bank.images[1])
    assert not torch.equal(bank.K[0], bank.K[2])


def test_what_a_folder_holds_is_not_rendered_again(
    folder: Path, bank: WalkBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **keywords: object) -> None:
        raise AssertionError('rendered')

    monkeypatch.setattr(walk_bank, 'render_part', never)
    told: list[int] = []
    three = load_or_render(folder, 3, seed=1, size=SIZE, progress=lambda n, _: told.append(n))
    assert len(three) == 3 and not told
    assert torch.equal(three.images, bank.images[:3])
    second = load_or_render(folder, 2, seed=1, first_part=1, size=SIZE)
    assert torch.equal(second.images, bank.images[2:])
    with pytest.raises(AssertionError, match='rendered'):
        load_or_render(folder, 5, seed=1, size=SIZE)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ['walks_64x48_0000.safetensors', 'walks_64x48_0001.safetensors']


def test_files_that_are_no_such_part_are_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    whole = SIZE.part_path(folder, 0)
    broken = SIZE.part_path(tmp_path, 0)
    broken.write_bytes(whole.read_bytes()[:-5])
    with pytest.raises(SyntheticError, match='no bank of walks'):
        load_or_render(tmp_path, 1, seed=1, size=SIZE)
    broken.write_bytes(whole.read_bytes())
    with pytest.raises(SyntheticError, match='delete it or choose another folder'):
        load_or_render(tmp_path, 1, seed=2, size=SIZE)
    with pytest.raises(SyntheticError, match='delete it or choose another folder'):
        load_part(whole, 1, 1, SIZE)
    with pytest.raises(SyntheticError, match='not those of'):
        load_part(whole, 1, 0, dataclasses.replace(SIZE, views=3))


@pytest.mark.parametrize(('walks', 'first'), [(0, 0), (1, -1)])
def test_no_walks_are_refused(tmp_path: Path, walks: int, first: int) -> None:
    with pytest.raises(SyntheticError, match='at least'):
        load_or_render(tmp_path, walks, first_part=first, size=SIZE)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, bank: WalkBank) -> None:
    (tmp_path / 'file').write_text('in the way', encoding='utf-8')
    with pytest.raises(SyntheticError, match='choose another folder'):
        bank.save(tmp_path / 'file' / 'walks.safetensors', {})


def test_sizes_without_a_pair_are_refused() -> None:
    for change in ({'views': 1}, {'width_px': 8}, {'per_part': 0}):
        with pytest.raises(SyntheticError, match='at least'):
            dataclasses.replace(SIZE, **change)


def test_the_share_seen_of_a_wall_is_what_is_left_after_a_sideways_step() -> None:
    height, width, focal_px, depth_m, step_m = 24, 40, 30.0, 3.0, 0.5
    K, wall = camera_tensor(focal_px, height, width), torch.full((1, 1, height, width), depth_m)
    T_1_0 = torch.eye(4)[None].clone()
    T_1_0[:, 0, 3] = step_m
    expected = 1 - focal_px * step_m / depth_m / width  # 5 of 40 columns leave
    assert float(covisible_share(wall, wall, K, T_1_0)) == pytest.approx(expected, abs=0.5 / width)
    assert float(covisible_share(wall, wall, K, torch.eye(4)[None])) == 1.0


def test_what_stands_before_it_or_behind_the_camera_is_not_shared() -> None:
    K, wall = camera_tensor(30.0, 24, 40), torch.full((1, 1, 24, 40), 3.0)
    screen = wall.clone()
    screen[..., :10] = 1.0
    assert float(covisible_share(wall, screen, K, torch.eye(4)[None])) == pytest.approx(0.75)
    back = torch.eye(4)[None].clone()
    back[:, 0, 0] = back[:, 2, 2] = -1.0  # turned round
    assert float(covisible_share(wall, wall, K, back)) == 0.0


def test_the_sky_is_shared_under_rotation_and_however_far_one_walks() -> None:
    K, sky = camera_tensor(30.0, 24, 40), torch.full((1, 1, 24, 40), torch.nan)
    T_1_0 = torch.eye(4)[None].clone()
    T_1_0[:, 0, 3] = 2.0
    assert float(covisible_share(sky, sky, K, T_1_0)) == 1.0


def test_a_path_along_a_wall_gives_no_walk(plain_atlas: TextureAtlas) -> None:
    """A camera that looks at a wall half a metre away and steps sideways."""
    builder = WorldBuilder(plain_atlas, np.random.default_rng(0))
    builder.box((1.0, 0.0, 0.0), (1.0, 60.0, 60.0), Skin('smooth'))
    aside = np.stack([np.zeros(20), np.arange(20) * 0.5, np.zeros(20)], axis=1)
    T_world_base = from_rt(np.broadcast_to(np.eye(3), (20, 3, 3)), aside)
    path = CameraPath(np.arange(20) * 200_000_000, T_world_base, T_BASE_OPTICAL)
    scene = SceneWorld(builder.build(Lighting.overcast()), None, path, (1.0, 3.0))
    with pytest.raises(SyntheticError, match='use another seed'):
        choose_walk(scene, (64, 48), 3, np.random.default_rng(0))
