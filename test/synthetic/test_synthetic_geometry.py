"""Depth, normals and ids of the renderer against closed forms in float64."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.geometry.camera import Camera, DistortionModel
from kpvo_ros.geometry.se3 import T_BASE_OPTICAL, exp_so3, from_rt, inverse, transform
from kpvo_ros.synthetic.builder import Skin
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.view import View
from kpvo_ros.synthetic.world import Shape

WHITE = Skin('white')
EXACT = 2e-5  # relative, float32 rays
DAY = Lighting.day()


def depth_of(world, pose, camera, **options):
    return render(world, pose, camera, **options).depth_m[0].numpy().astype(np.float64)


def rays_of(camera):
    return camera.unproject(camera.pixel_centers())


def ray_plane_depth(camera, pose, normal, offset):
    """Depth (H, W) of the plane normal . x = offset, NaN behind the camera."""
    directions = rays_of(camera) @ pose[:3, :3].T
    with np.errstate(divide='ignore'):
        depth = (offset - pose[:3, 3] @ normal) / (directions @ normal)
    return np.where(depth > 0, depth, np.nan)


def quadric_depth(o, d, form):
    """Nearer root of (o + t d)^T form (o + t d) = 1 by the school formula, NaN without roots."""
    a, b = np.einsum('...i,ij,...j', d, form, d), np.einsum('i,ij,...j', o, form, d)
    disc = b * b - a * (o @ form @ o - 1)
    return np.where(disc > 0, (-b - np.sqrt(np.maximum(disc, 0))) / a, np.nan)


def assert_same_depth(actual, expected, border_share=0.02):
    """Equal where both see the thing; they may disagree only on few pixels along its outline."""
    both = np.isfinite(actual) & np.isfinite(expected)
    np.testing.assert_allclose(actual[both], expected[both], rtol=EXACT)
    disagree = np.isfinite(actual) != np.isfinite(expected)
    assert disagree.mean() <= border_share


def test_ground_depth_is_that_of_the_plane(builder, camera, look):
    builder.box((0, 0, -0.5), (500, 500, 1), WHITE)
    pose = look(3.0, -2.0, 1.5, yaw=0.4, pitch=0.35, roll=0.1)
    expected = ray_plane_depth(camera, pose, np.array([0, 0, 1.0]), 0.0)
    expected[expected > 150] = np.nan
    actual = depth_of(builder.build(DAY), pose, camera)
    actual[actual > 150] = np.nan
    assert np.isfinite(expected).mean() > 0.5
    assert_same_depth(actual, expected)


def test_frontal_box_fills_the_rectangle_its_face_projects_to(builder, camera, look):
    number = builder.box((6, 0, 0), (2, 3, 2), WHITE)
    shot = render(builder.build(DAY), look(), camera)
    pixels = camera.pixel_centers()
    left, top = camera.project([-1.5, -1.0, 5.0])
    right, bottom = camera.project([1.5, 1.0, 5.0])
    x, y = pixels[..., 0], pixels[..., 1]
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    assert inside.sum() > 500
    np.testing.assert_array_equal(shot.object_id[0].numpy() == number, inside)
    np.testing.assert_allclose(shot.depth_m[0].numpy()[inside], 5.0, rtol=EXACT)
    np.testing.assert_allclose(
        shot.normal[0].numpy()[inside], np.tile([0, 0, -1.0], (inside.sum(), 1)), atol=1e-5
    )
    assert np.isnan(shot.depth_m[0].numpy()[~inside]).all()
    assert np.isnan(shot.normal[0].numpy()[~inside]).all()
    assert (shot.object_id[0].numpy()[~inside] == -1).all()


@given(
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    size=st.tuples(*[st.floats(0.05, 4)] * 3),
    centre=st.tuples(st.floats(4, 40), st.floats(-3, 3), st.floats(-2, 2)),
)
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_turned_box_has_the_depth_of_its_nearest_visible_face(plain_atlas, turn, size, centre):
    from kpvo_ros.synthetic.builder import WorldBuilder

    camera = Camera(64, 48, 60.0, 60.0, 31.5, 23.5)
    b = WorldBuilder(plain_atlas, np.random.default_rng(0))
    T_world_box = from_rt(exp_so3(np.array(turn)), np.array(centre))
    b.box((0, 0, 0), size, WHITE, pose=T_world_box)
    half = np.array(size) / 2
    if np.linalg.norm(np.array(centre)) < np.linalg.norm(half) + 0.3:
        return
    T_box_camera = inverse(T_world_box) @ T_BASE_OPTICAL
    o, d = T_box_camera[:3, 3], rays_of(camera) @ T_box_camera[:3, :3].T
    expected = np.full(d.shape[:2], np.nan)
    for axis in range(3):
        for sign in (-1.0, 1.0):
            with np.errstate(divide='ignore', invalid='ignore'):
                t = (sign * half[axis] - o[axis]) / d[..., axis]
                place = o + t[..., None] * d
                others = [k for k in range(3) if k != axis]
                on_face = (np.abs(place[..., others]) <= half[others] * (1 + 1e-12)).all(-1)
            expected = np.fmin(expected, np.where(on_face & (t > 0.05), t, np.nan))
    assert_same_depth(depth_of(b.build(DAY), T_BASE_OPTICAL, camera, antialias=False), expected)


@pytest.mark.parametrize('distance', [3.0, 60.0])
def test_cylinder_wall_has_the_depth_of_the_quadric(builder, look, distance):
    camera = Camera(96, 64, 80.0 * distance / 3, 80.0 * distance / 3, 47.3, 31.1)
    builder.cylinder((distance, 0.2, 0), (1.0, 1.0, 50.0), WHITE)
    pose = look(yaw=0.2 / distance + 0.1 / distance, pitch=0.02)
    directions = rays_of(camera) @ pose[:3, :3].T
    form = np.diag([4.0, 4.0, 0.0])
    expected = quadric_depth(np.array([-distance, -0.2, 0.0]), directions, form)
    assert np.isfinite(expected).mean() > 0.1
    assert_same_depth(depth_of(builder.build(DAY), pose, camera), expected)


def test_cylinder_lid_is_flat_and_points_up(builder, camera, look):
    number = builder.cylinder((3, 0, 0), (2.0, 2.0, 1.0), WHITE)
    pose = look(0, 0, 3.0, pitch=0.75)
    shot = render(builder.build(DAY), pose, camera)
    world_normal = shot.normal[0].numpy() @ pose[:3, :3].T
    lid = (shot.object_id[0].numpy() == number) & (world_normal[..., 2] > 0.999)
    assert lid.sum() > 200
    expected = ray_plane_depth(camera, pose, np.array([0, 0, 1.0]), 0.5)
    np.testing.assert_allclose(shot.depth_m[0].numpy()[lid], expected[lid], rtol=EXACT)


def test_ellipsoid_has_the_depth_and_normal_of_the_quadric(builder, camera, look):
    builder.ellipsoid((5, 0.3, 0.1), (2.0, 3.0, 1.5), WHITE)
    form = np.diag(1 / np.array([1.0, 1.5, 0.75]) ** 2)
    pose = look(pitch=0.05, yaw=-0.1)
    o, d = np.array([-5, -0.3, -0.1]), rays_of(camera) @ pose[:3, :3].T
    expected = quadric_depth(o, d, form)
    shot = render(builder.build(DAY), pose, camera)
    actual = shot.depth_m[0].numpy().astype(np.float64)
    assert_same_depth(actual, expected)
    seen = np.isfinite(actual) & np.isfinite(expected)
    gradient = (o + expected[seen, None] * d[seen]) @ form
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    normal = shot.normal[0].numpy()[seen] @ pose[:3, :3].T
    assert np.median(np.abs(normal - gradient)) < 1e-5
    assert (np.abs(normal - gradient).max(axis=1) < 2e-2).mean() > 0.99  # the rim is steep


@pytest.mark.parametrize(
    ('model', 'coefficients'),
    [
        (DistortionModel.PLUMB_BOB, (-0.25, 0.06, 0.001, -0.002, 0.0)),
        (DistortionModel.EQUIDISTANT, (0.02, -0.01, 0.0, 0.0)),
    ],
)
def test_distorted_camera_sees_the_plane_along_its_own_rays(builder, look, model, coefficients):
    camera = Camera(90, 70, 60.0, 60.0, 44.0, 36.0, model, coefficients)
    builder.box((5, 0, 0), (2, 300, 300), WHITE)
    expected = ray_plane_depth(camera, look(), np.array([1.0, 0, 0]), 4.0)
    assert_same_depth(depth_of(builder.build(DAY), look(), camera), expected, border_share=0.0)


def test_pixels_beyond_ninety_degrees_are_black_without_depth(builder, look):
    camera = Camera(64, 64, 18.0, 18.0, 31.5, 31.5, DistortionModel.EQUIDISTANT, (0, 0, 0, 0))
    builder.box((0, 0, -1.5), (300, 300, 1), WHITE)
    shot = render(builder.build(DAY), look(), camera)
    blind = np.isnan(camera.unproject(camera.pixel_centers())).any(-1)
    assert 0.05 < blind.mean() < 0.5
    assert np.isnan(shot.depth_m[0].numpy()[blind]).all()
    assert (shot.image[0].numpy()[blind] == 0).all()


@pytest.mark.parametrize('size', [(17, 5), (33, 31), (1, 1)])
def test_sizes_that_are_no_multiple_of_a_tile_work(builder, look, size):
    camera = Camera(*size, 20.0, 20.0, size[0] / 2, size[1] / 2)
    builder.box((5, 0, 0), (2, 100, 100), WHITE)
    shot = render(builder.build(DAY), look(), camera)
    assert shot.radiance.shape == (1, size[1], size[0], 3)
    np.testing.assert_allclose(shot.depth_m[0].numpy(), 4.0, rtol=EXACT)


def test_nearer_thing_hides_the_farther_in_any_order(builder, camera, look):
    far = builder.box((9, 0, 0), (1, 8, 8), WHITE)
    near = builder.ellipsoid((4, 0, 0), (1, 1, 1), WHITE)
    middle = builder.cylinder((6, 0, 0), (1, 1, 8), WHITE)
    shot = render(builder.build(DAY), look(), camera)
    ids = shot.object_id[0].numpy()
    assert ids[31, 47] == near
    assert ids[60, 47] == middle
    assert ids[31, 70] == far


def test_what_is_behind_the_camera_is_not_drawn(builder, camera, look):
    builder.box((-5, 0, 0), (2, 2, 2), WHITE)
    assert np.isnan(depth_of(builder.build(DAY), look(), camera)).all()


def test_a_kilometre_from_the_origin_depth_is_as_exact(plain_atlas, camera, look):
    from kpvo_ros.synthetic.builder import WorldBuilder

    shots = []
    for shift in (0.0, 1000.0):
        b = WorldBuilder(plain_atlas, np.random.default_rng(0))
        b.box((6 + shift, shift, 0), (1, 1, 1), WHITE, yaw=0.5)
        b.cylinder((4 + shift, shift - 1, 0), (0.2, 0.2, 3), WHITE)
        shots.append(depth_of(b.build(DAY), look(shift, shift, 0), camera))
    np.testing.assert_allclose(shots[0], shots[1], rtol=EXACT)


def test_depth_reprojects_into_a_second_view(small_atlas, camera, look):
    from kpvo_ros.synthetic.indoor import make_room

    world = make_room(3, n_objects=20, atlas=small_atlas)
    T0, T1 = look(-2.5, -1.8, 1.4, yaw=0.6), look(-2.3, -1.9, 1.5, yaw=0.7, pitch=0.05)
    depth0, depth1 = depth_of(world, T0, camera), depth_of(world, T1, camera)
    points = transform(inverse(T1) @ T0, (rays_of(camera) * depth0[..., None]).reshape(-1, 3))
    xy = camera.project(points)
    near = np.round(xy)
    inside = camera.contains(near) & (np.abs(near - xy).max(-1) < 0.08)
    column, row = near[inside].astype(int).T
    error = np.abs(depth1[row, column] - points[inside, 2]) / points[inside, 2]
    assert inside.sum() > 80
    assert np.median(error) < 2e-3  # up to a twelfth of a pixel of slope


def test_culling_loses_nothing(small_atlas, camera, look, monkeypatch):
    from kpvo_ros.synthetic.streets import make_street

    world = make_street(5, n_objects=30, length_m=60, atlas=small_atlas)
    pose = look(8, -1.6, 1.5, yaw=0.5, pitch=0.1, roll=0.3)
    culled = render(world, pose, camera)
    everything = View.overlaps

    def all_tiles(self, grid):
        overlap, nearest = everything(self, grid)
        return overlap | True, nearest * 0

    monkeypatch.setattr(View, 'overlaps', all_tiles)
    monkeypatch.setattr(
        'kpvo_ros.synthetic.visibility._shadow_overlaps',
        lambda light, points, lit: light.view.world.casts_shadow.expand(
            *lit.shape[:2], len(world)
        ),
    )
    brute = render(world, pose, camera)
    np.testing.assert_array_equal(culled.depth_m.numpy(), brute.depth_m.numpy())
    np.testing.assert_array_equal(culled.object_id.numpy(), brute.object_id.numpy())
    np.testing.assert_allclose(culled.radiance.numpy(), brute.radiance.numpy(), atol=1e-5)


def test_shapes_are_numbered_as_the_ray_caster_expects():
    assert [int(shape) for shape in Shape] == [0, 1, 2]
