"""Epipolar geometry and triangulation against OpenCV, closed forms and a general optimiser."""

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry import epipolar, se3
from kpvo_ros.geometry.camera import Camera

CAMERA0 = Camera(640, 480, 400.0, 410.0, 318.3, 241.2)
CAMERA1 = Camera(800, 600, 500.0, 505.0, 402.0, 297.0)
T_1_0 = se3.exp_se3([0.5, 0.1, 0.05, 0.02, -0.05, 0.03])


def two_views(count=200, seed=0):
    """Points in camera 0, and their pixels in both views."""
    points = np.random.default_rng(seed).uniform([-3, -2, 4], [3, 2, 20], (count, 3))
    return points, CAMERA0.project(points), CAMERA1.project(se3.transform(T_1_0, points))


def rays_of(points):
    return points / points[:, 2:], se3.transform(T_1_0, points)


def test_true_pairs_satisfy_both_constraints():
    points, xy0, xy1 = two_views()
    rays0, rays1 = rays_of(points)
    E = epipolar.essential(T_1_0)
    np.testing.assert_allclose(np.einsum('ni,ij,nj->n', rays1, E, rays0), 0, atol=1e-12)
    F = epipolar.fundamental(T_1_0, CAMERA0.K, CAMERA1.K)
    np.testing.assert_allclose(epipolar.epipolar_distance(F, xy0, xy1), 0, atol=1e-9)
    np.testing.assert_allclose(epipolar.sampson_distance(F, xy0, xy1), 0, atol=1e-9)


def test_fundamental_is_the_one_opencv_finds():
    _, xy0, xy1 = two_views()
    F = epipolar.fundamental(T_1_0, CAMERA0.K, CAMERA1.K)
    found, _ = cv2.findFundamentalMat(xy0, xy1, cv2.FM_8POINT)
    np.testing.assert_allclose(F / F[2, 2], found / found[2, 2], rtol=1e-4)


def test_a_pixel_moved_off_its_line_has_that_distance():
    _, xy0, xy1 = two_views()
    F = epipolar.fundamental(T_1_0, CAMERA0.K, CAMERA1.K)
    lines = cv2.computeCorrespondEpilines(xy0[:, None], 1, F)[:, 0]  # unit normals
    moved = xy1 + 3.0 * lines[:, :2]
    np.testing.assert_allclose(epipolar.epipolar_distance(F, xy0, moved), 3.0, atol=1e-6)


def test_sampson_distance_is_opencvs():
    _, xy0, xy1 = two_views(50)
    xy1 = xy1 + np.random.default_rng(1).normal(0, 2, xy1.shape)
    F = epipolar.fundamental(T_1_0, CAMERA0.K, CAMERA1.K)
    homogeneous = [np.column_stack([xy, np.ones(50)])[:, :, None] for xy in (xy0, xy1)]
    expected = [cv2.sampsonDistance(a, b, F) for a, b in zip(*homogeneous, strict=True)]
    np.testing.assert_allclose(epipolar.sampson_distance(F, xy0, xy1) ** 2, expected, rtol=1e-9)


def test_distances_of_no_pairs_are_none_and_at_the_epipole_nan():
    F = epipolar.fundamental(T_1_0, CAMERA0.K, CAMERA1.K)
    assert epipolar.sampson_distance(F, np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)
    assert np.isnan(epipolar.epipolar_distance(np.zeros((3, 3)), [[1, 2]], [[3, 4]])).all()


def test_homography_of_a_plane_maps_its_points():
    normal, distance = np.array([0.1, -0.2, 0.97]), 6.0
    normal = normal / np.linalg.norm(normal)
    rays = CAMERA0.unproject(np.random.default_rng(2).uniform(50, 400, (30, 2)))
    points = rays * (distance / (rays @ normal))[:, None]
    xy0, xy1 = CAMERA0.project(points), CAMERA1.project(se3.transform(T_1_0, points))
    H = epipolar.homography_from_plane(T_1_0, normal, distance, CAMERA0.K, CAMERA1.K)
    mapped = cv2.perspectiveTransform(xy0[:, None], H)[:, 0]
    np.testing.assert_allclose(mapped, xy1, atol=1e-8)
    assert H[2, 2] == 1.0


def test_a_plane_through_a_camera_has_no_homography():
    with pytest.raises(GeometryError, match='distance 0'):
        epipolar.homography_from_plane(T_1_0, [0, 0, 1], 0.0, CAMERA0.K, CAMERA1.K)
    edge_on = se3.from_rt(np.eye(3), [0, -2.0, 0])  # camera 1 stands in the plane y = 2
    with pytest.raises(GeometryError, match='edge on'):
        epipolar.homography_from_plane(edge_on, [0, 1, 0], 2.0, CAMERA0.K, CAMERA1.K)


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float64, 6, elements=st.floats(-0.5, 0.5)),
    st.floats(-0.3, 0.3),
    st.floats(-0.3, 0.3),
    st.floats(1.0, 50.0),
)
def test_any_point_before_both_cameras_is_found_from_its_rays(xi, x, y, depth):
    xi[:3] += [1.0, 0, 0]  # some baseline
    T = se3.exp_se3(xi)
    point = depth * np.array([[x, y, 1.0]])
    there = se3.transform(T, point)
    if there[0, 2] < 0.1 or epipolar.parallax_rad(point, there @ T[:3, :3])[0] < 1e-3:
        return
    found = epipolar.triangulate(5.0 * point, 0.1 * there, T)
    np.testing.assert_allclose(found, point, rtol=1e-6, atol=1e-6)


def test_triangulation_from_noisy_rays_is_the_least_squares_one():
    points, *_ = two_views(40)
    rng = np.random.default_rng(3)
    rays0, rays1 = rays_of(points)
    rays1 = rays1 / rays1[:, 2:]
    rays0[:, :2] += rng.normal(0, 1e-3, (40, 2))
    rays1[:, :2] += rng.normal(0, 1e-3, (40, 2))
    found = epipolar.triangulate(rays0, rays1, T_1_0)

    def error(point, i):
        there = se3.transform(T_1_0, point[None])[0]
        here = point[:2] / point[2] - rays0[i, :2]
        return np.r_[here, there[:2] / there[2] - rays1[i, :2]]

    for i in range(40):
        best = least_squares(error, points[i], args=(i,), xtol=1e-14, ftol=1e-14, gtol=1e-14).x
        np.testing.assert_allclose(found[i], best, rtol=1e-6)


def test_points_that_cannot_be_triangulated_are_nan():
    ahead = np.array([[0.0, 0.0, 1.0]])
    sideways = se3.from_rt(np.eye(3), [-1.0, 0, 0])  # camera 1 stands one metre to the right
    assert np.isnan(epipolar.triangulate(ahead, ahead, sideways)).all()  # parallel
    assert np.isnan(epipolar.triangulate(ahead, [[0.1, 0, 1.0]], sideways)).all()  # meet behind
    assert np.isnan(epipolar.triangulate(ahead, [[0.0, 0, -1.0]], sideways)).all()  # looks back
    assert np.isnan(epipolar.triangulate(np.full((1, 3), np.nan), ahead, sideways)).all()
    pure_rotation = se3.exp_se3([0, 0, 0, 0, 0.1, 0])
    rays1 = se3.transform(pure_rotation, ahead)
    assert np.isnan(epipolar.triangulate(ahead, rays1, pure_rotation)).all()
    assert epipolar.triangulate(np.zeros((0, 3)), np.zeros((0, 3)), sideways).shape == (0, 3)


def test_triangulation_is_not_drawn_nearer_by_noise():
    rng = np.random.default_rng(4)
    point = np.array([[0.3, 0.2, 8.0]])
    count = 20_000
    rays0, rays1 = (np.repeat(ray, count, axis=0) for ray in rays_of(point))
    rays1 = rays1 / rays1[:, 2:]
    rays0[:, :2] += rng.normal(0, 1e-3, (count, 2))
    rays1[:, :2] += rng.normal(0, 1e-3, (count, 2))
    inverse_depth = 1.0 / epipolar.triangulate(rays0, rays1, T_1_0)[:, 2]
    assert inverse_depth.mean() == pytest.approx(1 / 8.0, rel=0.005)


@pytest.fixture
def ring():
    """Five cameras on an arc, points before them, rays to each."""
    rng = np.random.default_rng(5)
    T_world_cameras = se3.exp_se3(
        [[0.4 * i, 0.05 * i, 0.1, 0.01 * i, -0.04 * i, 0] for i in range(5)]
    )
    points = rng.uniform([-2, -2, 4], [3, 2, 10], (30, 3))
    rays = np.stack([se3.transform(se3.inverse(T), points) for T in T_world_cameras])
    return rng, T_world_cameras, points, rays


def test_many_views_find_the_points_exactly(ring):
    _, T, points, rays = ring
    np.testing.assert_allclose(epipolar.triangulate_views(T, rays), points, atol=1e-9)


def test_views_that_do_not_see_a_point_do_not_count(ring):
    rng, T, points, rays = ring
    seen = rng.random(rays.shape[:2]) < 0.6
    rays = np.where(seen[..., None], rays, rng.normal(size=rays.shape))
    found = epipolar.triangulate_views(T, rays, seen)
    enough = seen.sum(axis=0) >= 2
    np.testing.assert_allclose(found[enough], points[enough], atol=1e-9)
    assert np.isnan(found[~enough]).all()
    as_nan = np.where(seen[..., None], rays, np.nan)
    np.testing.assert_array_equal(epipolar.triangulate_views(T, as_nan), found)


def test_many_noisy_views_come_close_to_the_least_squares_point(ring):
    rng, T, points, rays = ring
    plane = rays[..., :2] / rays[..., 2:] + rng.normal(0, 1e-3, (*rays.shape[:2], 2))
    found = epipolar.triangulate_views(
        T, np.concatenate([plane, np.ones_like(plane[..., :1])], -1)
    )
    T_camera_world = se3.inverse(T)

    def error(point, i):
        local = np.array([se3.transform(pose, point[None])[0] for pose in T_camera_world])
        return (local[:, :2] / local[:, 2:] - plane[:, i]).ravel()

    best = np.array([least_squares(error, points[i], args=(i,)).x for i in range(len(points))])
    distance = np.linalg.norm(found - best, axis=1)
    scatter = np.linalg.norm(best - points, axis=1)
    assert np.median(distance) < 0.3 * np.median(scatter)


def test_points_behind_or_on_parallel_rays_are_nan_for_many_views(ring):
    _, T, _, rays = ring
    assert np.isnan(epipolar.triangulate_views(T, -rays)).all()
    ahead = np.zeros((2, 1, 3)) + [0, 0, 1.0]
    side_by_side = np.stack([np.eye(4), se3.from_rt(np.eye(3), [1.0, 0, 0])])
    assert np.isnan(epipolar.triangulate_views(side_by_side, ahead)).all()
    assert epipolar.triangulate_views(T, np.zeros((5, 0, 3))).shape == (0, 3)


@pytest.mark.parametrize('angle', [0.0, 1e-9, 1e-4, 0.5, np.pi / 2, 3.0])
def test_parallax_is_the_angle_even_when_tiny(angle):
    a, b = np.array([[2.0, 0, 0]]), 5 * np.array([[np.cos(angle), np.sin(angle), 0]])
    np.testing.assert_allclose(epipolar.parallax_rad(a, b), [angle], rtol=1e-9, atol=1e-16)


def test_reprojection_error_is_pixels_and_infinite_behind():
    points, xy0, _ = two_views(10)
    error = epipolar.reprojection_error(np.eye(4), points, xy0 + [3.0, 4.0], CAMERA0.K)
    np.testing.assert_allclose(error, 5.0)
    behind = epipolar.reprojection_error(np.eye(4), -points, xy0, CAMERA0.K)
    assert np.isinf(behind).all()
