"""Colours: texture placement, filtering, light, shadows, fog, moving things, batches."""

import time

import cv2
import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import inverse, transform
from kpvo_ros.synthetic.builder import Skin
from kpvo_ros.synthetic.indoor import make_room
from kpvo_ros.synthetic.lighting import Lamp, Lighting
from kpvo_ros.synthetic.render import encode, render
from kpvo_ros.synthetic.streets import make_street
from kpvo_ros.synthetic.world import Motion, MotionKind

WHITE = Skin('white')
EVEN = Lighting(None, sky=(1, 1, 1), bounce=(1, 1, 1), fog=(0, 0, 0), zenith=(0, 0, 0), cloud=0.0)
DARK = Lighting(None, sky=(0, 0, 0), bounce=(0, 0, 0), fog=(0, 0, 0), cloud=0.0)
SUN = Lighting((1.0, 0.0, 1.0), sun=(1, 1, 1), sky=(0, 0, 0), bounce=(0, 0, 0), cloud=0.0)


def radiance(world, pose, camera, **options):
    return render(world, pose, camera, **options).radiance[0].numpy()


@pytest.mark.parametrize(
    'pose',
    [
        {'x': -3.0},
        {'x': 3.0, 'yaw': np.pi},
        {'y': -3.0, 'yaw': np.pi / 2},
        {'y': 3.0, 'yaw': -np.pi / 2},
    ],
    ids=['-x', '+x', '-y', '+y'],
)
def test_picture_stands_upright_and_unmirrored_on_every_side(builder, look, pose):
    builder.box((0, 0, 0), (2, 2, 2), Skin('quarters', None))
    camera = Camera(64, 64, 60.0, 60.0, 31.5, 31.5)
    image = radiance(builder.build(EVEN), look(**pose), camera)
    np.testing.assert_allclose(image[20, 20], [1, 0, 0], atol=0.01)
    np.testing.assert_allclose(image[20, 43], [0, 1, 0], atol=0.01)
    np.testing.assert_allclose(image[43, 20], [0, 0, 1], atol=0.01)
    np.testing.assert_allclose(image[43, 43], [1, 1, 1], atol=0.01)


def test_picture_on_top_is_read_from_the_side_of_negative_y(builder, look):
    builder.box((0, 0, 0), (2, 2, 2), Skin('quarters', None))
    camera = Camera(64, 64, 60.0, 60.0, 31.5, 31.5)
    image = radiance(builder.build(EVEN), look(0, -0.01, 3, np.pi / 2, np.pi / 2), camera)
    np.testing.assert_allclose(image[20, 20], [1, 0, 0], atol=0.01)
    np.testing.assert_allclose(image[20, 43], [0, 1, 0], atol=0.01)


def test_even_light_shows_the_colour_of_the_picture_itself(builder, camera, look):
    builder.box((3, 0, 0), (1, 50, 50), Skin('white', 2.0, (0.5, 0.25, 1.0)))
    image = radiance(builder.build(EVEN), look(), camera)
    np.testing.assert_allclose(image, np.broadcast_to([0.5, 0.25, 1.0], image.shape), atol=2e-3)


@pytest.mark.parametrize('distance', [1.5, 3.0, 6.0, 12.0, 25.0])
def test_mip_levels_do_not_shift_the_picture(builder, look, distance):
    """The centroid of a spot projects to the same place however coarse the level."""
    camera = Camera(160, 120, 150.0, 150.0, 80.37, 60.81)
    builder.box((distance + 0.5, 0, 0), (1, 2, 2), Skin('spot', None))
    light = radiance(builder.build(EVEN), look(), camera)[..., 0]
    light = np.where(light > light.max() * 0.02, light, 0)
    seen = render(builder.build(EVEN), look(), camera).object_id[0].numpy() >= 0
    light = light * seen
    rows, columns = np.mgrid[0:120, 0:160]
    centroid = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
    np.testing.assert_allclose(centroid, camera.project([0, 0, distance]), atol=0.1)


def test_minified_texture_has_the_mean_brightness_of_the_texture(builder, look):
    camera = Camera(32, 32, 30.0, 30.0, 15.5, 15.5)
    builder.box((80, 0, 0), (1, 500, 500), Skin('quarters', 0.5))
    image = radiance(builder.build(EVEN), look(), camera)
    np.testing.assert_allclose(image.mean(axis=(0, 1)), [0.5, 0.5, 0.5], atol=0.02)
    assert image.std(axis=(0, 1)).max() < 0.02


def test_edge_pixel_shows_the_share_of_it_that_is_covered(builder, look):
    camera = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
    shares = []
    for shift in np.linspace(0, 1, 9)[:-1]:
        b = type(builder)(builder.atlas, np.random.default_rng(0))
        edge_px = 40.0 + shift
        b.box((5.5, 10 - (edge_px - camera.cx) * 5 / camera.fx, 0), (1, 20, 20), WHITE)
        world = b.build(EVEN.with_fog(0.0))
        sky = radiance(world, look(), camera)[24, 10:60]
        shares.append((edge_px, sky))
    for edge_px, row in shares:
        covered = np.clip(edge_px - (np.arange(10, 60) - 0.5), 0, 1)
        # The box lies to the left (+y) of the edge, white on the grey horizon.
        actual = (row[:, 0] - row[-1, 0]) / (row[0, 0] - row[-1, 0])
        assert np.abs(actual - covered).max() < 0.2
        assert abs(actual.sum() - covered.sum()) < 0.15


def test_sun_follows_lamberts_law(builder, camera, look):
    builder.box((0, 0, -0.5), (200, 200, 1), WHITE)
    image = radiance(builder.build(SUN), look(0, 0, 2, pitch=1.2), camera)
    np.testing.assert_allclose(image, np.cos(np.pi / 4), atol=1e-3)


def test_shadow_of_a_wall_ends_where_the_sun_says(builder, look):
    builder.box((0, 0, -0.5), (200, 200, 1), WHITE, casts_shadow=False)
    builder.box((0, 0, 1), (0.2, 6, 2), WHITE)  # 2 m high: the shadow reaches x = -0.1 - 2
    camera = Camera(200, 200, 200.0, 200.0, 99.5, 99.5)
    image = radiance(builder.build(SUN), look(-1.6, 0, 6, 0, np.pi / 2), camera)[..., 0]
    x = -1.6 - (np.arange(200) - 99.5) * 6 / 200  # rows look along -x from the top
    ground = image[:, 100]
    lit = (x < -2.1 - 0.04) & (x > -4)
    dark = (x > -2.1 + 0.04) & (x < -0.15)
    np.testing.assert_allclose(ground[lit], np.cos(np.pi / 4), atol=1e-3)
    np.testing.assert_allclose(ground[dark], 0, atol=1e-6)
    unshaded = radiance(builder.build(SUN), look(-1.6, 0, 6, 0, np.pi / 2), camera, shadows=False)[
        ..., 0
    ]
    np.testing.assert_allclose(unshaded[:, 100][dark], np.cos(np.pi / 4), atol=1e-3)


def test_lamp_falls_off_with_the_square_and_throws_a_central_shadow(builder, look):
    builder.box((0, 0, -0.5), (200, 200, 1), WHITE, casts_shadow=False)
    builder.box((0, 0, 1.5), (1, 1, 0.02), WHITE)  # shadow: 1 m at 1.51 of 3 m, 2.01 wide
    lamp = Lamp((0, 0, 3.0), (9.0, 9.0, 9.0))
    world = builder.build(Lighting(None, sky=(0, 0, 0), bounce=(0, 0, 0), lamps=(lamp,)))
    camera = Camera(201, 201, 100.0, 100.0, 100.0, 100.0)
    image = radiance(world, look(0, 0, 1.4, 0, np.pi / 2), camera)[..., 0]
    y = (np.arange(201) - 100.0) * 1.4 / 100
    reach = 0.5 * 3 / (3 - 1.51)
    expected = 9 / (9 + y**2 + 0.04) * 3 / np.sqrt(9 + y**2)
    inside, outside = np.abs(y) < reach - 0.03, np.abs(y) > reach + 0.03
    np.testing.assert_allclose(image[100][inside], 0, atol=1e-6)
    np.testing.assert_allclose(image[100][outside], expected[outside], rtol=3e-3)


def test_fog_takes_light_by_the_law_of_beer(builder, camera, look):
    builder.box((10.5, 0, 0), (1, 100, 100), Skin('black'))
    light = Lighting(None, sky=(0.5, 0.49, 0.49), fog_per_m=0.05, fog=(1, 1, 1))
    image = radiance(builder.build(light), look(), camera)
    distance = np.linalg.norm(camera.unproject(camera.pixel_centers()), axis=-1) * 10
    expected = 1 - np.exp(-0.05 * distance)
    np.testing.assert_allclose(image[..., 0], expected, atol=1e-4)


def test_moving_thing_is_where_its_motion_puts_it(builder, camera, look):
    motion = builder.move(Motion(MotionKind.LINEAR, vector=(0.0, 0.5, 0.0)))
    turning = builder.move(Motion(MotionKind.CIRCLE, centre=(6.0, 0.0), period_s=8.0))
    number = builder.box((8, 0, 0.6), (0.02, 0.5, 0.5), WHITE, motion=motion)
    round_ = builder.box((6, 1, -0.8), (0.3, 0.3, 0.3), WHITE, motion=turning)
    still = builder.box((8, 2.5, -1.5), (0.5, 0.5, 0.5), WHITE)
    shot = render(
        builder.build(EVEN), np.stack([look()] * 2), camera, time_s=torch.tensor([0.0, 2.0])
    )
    ids = shot.object_id.numpy()
    columns = np.arange(96)[None]

    def column(index, name):
        return (columns * (ids[index] == name)).sum() / (ids[index] == name).sum()

    assert column(1, number) - column(0, number) == pytest.approx(-80 * 1.0 / 7.99, abs=0.6)
    np.testing.assert_array_equal(ids[0] == still, ids[1] == still)
    # A quarter of a turn brings it from y = 1 to x = 5, on the axis of the camera.
    assert column(1, round_) == pytest.approx(camera.cx, abs=0.6)
    assert np.nanmin(shot.depth_m[1].numpy()[ids[1] == round_]) == pytest.approx(4.85, abs=0.01)


def test_oscillation_returns_after_its_period():
    motion = Motion(MotionKind.OSCILLATE, vector=(1, 2, 0), period_s=4.0)
    move = motion.displacement(torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(move[:, :3, 3], [[0, 0, 0], [1, 2, 0], [0, 0, 0]], atol=1e-12)


def test_batch_equals_single_views(small_atlas, camera, look):
    world = make_room(1, n_objects=20, n_moving=1, atlas=small_atlas)
    poses = np.stack([look(-2.5, -1, 1.4, yaw) for yaw in (0.0, 0.4, 2.5)])
    times = torch.tensor([0.0, 0.7, 3.0])
    batch = render(world, poses, camera, time_s=times)
    for index in range(3):
        one = render(world, poses[index], camera, time_s=float(times[index]))
        np.testing.assert_allclose(batch.depth_m[index], one.depth_m[0], rtol=1e-6)
        np.testing.assert_array_equal(batch.object_id[index], one.object_id[0])
        np.testing.assert_allclose(batch.radiance[index], one.radiance[0], atol=1e-4)
        np.testing.assert_allclose(batch.normal[index], one.normal[0], atol=1e-5)


def test_same_call_gives_the_same_bytes(small_atlas, camera, look):
    world = make_street(2, n_objects=20, length_m=50, atlas=small_atlas)
    shots = [render(world, look(8, -1.6, 1.5), camera) for _ in range(2)]
    assert torch.equal(shots[0].radiance, shots[1].radiance)
    again = make_street(2, n_objects=20, length_m=50, atlas=small_atlas)
    assert torch.equal(render(again, look(8, -1.6, 1.5), camera).radiance, shots[0].radiance)


def test_two_views_agree_on_the_colour_of_every_point(small_atlas, look):
    """Photometric consistency: warp the second view into the first by the true depth."""
    camera = Camera(160, 120, 115.0, 115.0, 79.5, 59.5)
    world = make_room(2, n_objects=25, atlas=small_atlas)
    T0, T1 = look(-2.6, -1.6, 1.4, yaw=0.5), look(-2.5, -1.65, 1.42, yaw=0.53)
    shot0, shot1 = render(world, T0, camera), render(world, T1, camera)
    points = camera.unproject(camera.pixel_centers()) * shot0.depth_m[0].numpy()[..., None]
    moved = transform(inverse(T1) @ T0, points)
    xy = camera.project(moved).astype(np.float32)
    warped = cv2.remap(encode(shot1.radiance)[0].numpy(), xy, None, cv2.INTER_LINEAR)
    depth1 = cv2.remap(shot1.depth_m[0].numpy(), xy, None, cv2.INTER_NEAREST)
    seen = camera.contains(xy, 1.0) & (np.abs(depth1 - moved[..., 2]) < 0.03)
    image0 = encode(shot0.radiance)[0].numpy()
    error = np.abs(warped.astype(float) - image0)[seen].mean(axis=-1)
    unaligned = np.abs(encode(shot1.radiance)[0].numpy().astype(float) - image0)[seen]
    assert seen.mean() > 0.7
    assert np.median(error) < 4.0
    assert error.mean() < 0.45 * unaligned.mean()


def test_sky_has_no_depth_but_clouds(small_atlas, camera, look):
    world = make_street(2, n_objects=10, length_m=50, atlas=small_atlas)
    shot = render(world, look(20, 0, 1.5, pitch=-1.3), camera)
    assert torch.isnan(shot.depth_m).float().mean() > 0.9
    assert shot.radiance.std() > 0.01


def test_night_is_darker_than_day_and_has_lit_places(small_atlas, camera, look):
    day = make_street(2, n_objects=60, length_m=60, atlas=small_atlas)
    night = make_street(
        2, n_objects=60, length_m=60, atlas=small_atlas, lighting=Lighting.night(())
    )
    pose = look(8, -1.6, 1.5)
    bright, dark = radiance(day, pose, camera), radiance(night, pose, camera)
    assert night.lighting.lamps
    assert dark.mean() < 0.75 * bright.mean()
    assert dark.max() > 20 * np.median(dark[:10])


def test_poses_of_wrong_shape_or_value_are_refused(builder, camera):
    builder.box((5, 0, 0), (1, 1, 1), WHITE)
    world = builder.build(EVEN)
    with pytest.raises(SyntheticError, match='finite'):
        render(world, np.eye(3), camera)
    with pytest.raises(SyntheticError, match='finite'):
        render(world, np.full((4, 4), np.nan), camera)


def test_darkness_is_black(builder, camera, look):
    builder.box((5, 0, 0), (1, 1, 1), WHITE)
    assert radiance(builder.build(DARK), look(), camera).max() < 1e-6


def test_sixty_objects_render_within_the_time_budget(small_atlas, look):
    """CPU time of one thread, best of five; a generous bound, docs/results.md has the number."""
    camera = Camera(320, 240, 230.0, 230.0, 159.5, 119.5)
    world = make_street(1, n_objects=60, atlas=small_atlas)
    pose = look(12, -1.6, 1.5)
    render(world, pose, camera)
    spent = []
    for _ in range(5):
        start = time.process_time()
        render(world, pose, camera)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.6
