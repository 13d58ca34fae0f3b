"""The generators: determinism, contents, free way for the camera, landmarks, bad requests."""

import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import T_BASE_OPTICAL, from_rt, inverse, rpy_to_matrix, transform
from kpvo_ros.synthetic import trajectory
from kpvo_ros.synthetic.builder import Skin, WorldBuilder
from kpvo_ros.synthetic.indoor import make_corridor, make_room
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.streets import make_loop_street, make_street
from kpvo_ros.synthetic.world import Motion, MotionKind

GENERATORS = {
    'room': (make_room, lambda seed: trajectory.walk_room(seed, fps=5)),
    'corridor': (make_corridor, lambda seed: trajectory.walk_corridor(seed, fps=5)),
    'street': (make_street, lambda seed: trajectory.drive(seed, fps=5)),
    'loop': (make_loop_street, lambda seed: trajectory.loop(seed, fps=5)),
}


def worlds(name, seed, atlas, **options):
    return GENERATORS[name][0](seed, atlas=atlas, **options)


@pytest.mark.parametrize('name', GENERATORS)
def test_same_seed_builds_the_same_world_and_another_seed_another(name, small_atlas):
    first, again, other = (worlds(name, seed, small_atlas) for seed in (4, 4, 5))
    for field in ('shape', 'T_world_prim', 'half_size', 'texture', 'uv_offset', 'tint'):
        assert torch.equal(getattr(first, field), getattr(again, field))
    assert first.landmarks == again.landmarks
    assert len(first) != len(other) or not torch.equal(first.T_world_prim, other.T_world_prim)


@pytest.mark.parametrize('name', GENERATORS)
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_camera_path_of_the_world_runs_through_free_air(name, seed, small_atlas):
    """In the unit frame of each primitive the camera stays well outside the unit cube."""
    world = worlds(name, seed, small_atlas)
    path = GENERATORS[name][1](seed)
    centres = path.T_world_camera[:, :3, 3]
    for pose, half in zip(world.T_world_prim.numpy(), world.half_size.numpy(), strict=True):
        local = transform(inverse(pose), centres)
        gap = np.maximum(np.abs(local) - half, 0)
        assert np.linalg.norm(gap, axis=1).min() > 0.25


@pytest.mark.parametrize('name', GENERATORS)
def test_number_of_objects_follows_the_request(name, small_atlas):
    counts = [
        int(worlds(name, 0, small_atlas, n_objects=count).object_id.max()) + 1
        for count in (30, 60, 120)
    ]
    assert counts[1] - counts[0] >= 20
    assert counts[2] - counts[1] >= 40
    assert counts[1] >= 60


@pytest.mark.parametrize('name', GENERATORS)
def test_landmarks_are_seen_where_they_are_said_to_be(name, small_atlas):
    world = worlds(name, 1, small_atlas, n_objects=60)
    camera = Camera(32, 32, 60.0, 60.0, 15.5, 15.5)
    assert len(world.landmarks) >= 4
    assert len({panel.class_name for panel in world.landmarks}) >= 4
    for panel in world.landmarks:
        normal = np.array(panel.normal)
        eye = np.array(panel.position) + 0.3 * normal
        yaw = np.arctan2(-normal[1], -normal[0])
        pose = from_rt(rpy_to_matrix(0, 0, yaw), eye) @ T_BASE_OPTICAL
        shot = render(world, pose, camera)
        if shot.object_id[0, 15, 15] == panel.object_id:
            assert float(shot.depth_m[0, 15, 15]) == pytest.approx(0.3, abs=1e-4)
    seen = [
        int(
            render(
                world,
                from_rt(
                    rpy_to_matrix(0, 0, np.arctan2(-p.normal[1], -p.normal[0])),
                    np.array(p.position) + 0.3 * np.array(p.normal),
                )
                @ T_BASE_OPTICAL,
                camera,
            ).object_id[0, 15, 15]
        )
        == p.object_id
        for p in world.landmarks
    ]
    assert np.mean(seen) > 0.6  # furniture may stand before some


@pytest.mark.parametrize('name', GENERATORS)
def test_views_along_the_path_are_full_of_texture(name, small_atlas):
    world = worlds(name, 2, small_atlas)
    path = GENERATORS[name][1](2)
    camera = Camera(160, 120, 115.0, 115.0, 79.5, 59.5)
    poses = path.T_world_camera[:: max(1, len(path) // 4)]
    shot = render(world, poses, camera)
    image = shot.image.float()
    assert (image.std(dim=(1, 2)) > 15).all()
    assert torch.isfinite(shot.depth_m).float().mean() > 0.6
    assert torch.isfinite(shot.radiance).all()
    assert (shot.radiance >= 0).all()


def test_moving_objects_are_added_on_request(small_atlas):
    still = make_street(0, atlas=small_atlas)
    busy = make_street(0, n_moving=4, atlas=small_atlas)
    assert not still.motions
    assert len(busy.motions) == 4
    moved = busy.poses_at(torch.tensor([0.0, 2.0]))
    distance = (moved[1, :, :3, 3] - moved[0, :, :3, 3]).norm(dim=-1)
    assert (distance[busy.motion_index >= 0] > 0.01).all()
    assert (distance[busy.motion_index < 0] == 0).all()


@pytest.mark.parametrize(
    'call',
    [
        lambda: make_room(0, size_m=(2, 2, 2)),
        lambda: make_corridor(0, length_m=2),
        lambda: make_street(0, length_m=5),
        lambda: make_loop_street(0, length_m=50),
        lambda: Motion(MotionKind.CIRCLE, period_s=0.0),
        lambda: Lighting(sun_direction=(0, 0, 0)),
        lambda: Lighting(fog_per_m=-1),
    ],
)
def test_impossible_requests_are_refused_with_one_line(call):
    with pytest.raises(SyntheticError) as caught:
        call()
    assert '\n' not in str(caught.value)


def test_builder_refuses_flat_sizes_unknown_textures_and_an_empty_world(plain_atlas):
    b = WorldBuilder(plain_atlas, np.random.default_rng(0))
    with pytest.raises(SyntheticError, match='at least one primitive'):
        b.build(Lighting())
    with pytest.raises(SyntheticError, match='three positive'):
        b.box((0, 0, 0), (1, 1, 0), Skin('white'))
    with pytest.raises(SyntheticError, match='marble'):
        b.box((0, 0, 0), (1, 1, 1), Skin('marble'))
