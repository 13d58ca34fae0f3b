"""The camera against OpenCV's projection, undistortion, resizing and rectification."""

import dataclasses
import pickle
import subprocess
import sys

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry.camera import Camera, DistortionModel

EXACT_PX = 1e-8
NONE = Camera(640, 480, 400.0, 410.0, 318.3, 241.2)
LENSES = {
    'none': (DistortionModel.NONE, ()),
    'barrel': (DistortionModel.PLUMB_BOB, (-0.28, 0.07, 1e-4, 2e-4, 0.01)),
    'strong_barrel': (DistortionModel.PLUMB_BOB, (-0.37, 0.20, 1e-3, -5e-4, -0.06)),
    'pincushion': (DistortionModel.PLUMB_BOB, (0.2, 0.05, -1e-3, 1e-3, 0.0)),
    'rational': (DistortionModel.RATIONAL, (3.0, 0.5, 1e-4, 2e-4, 0.01, 3.3, 1.2, 0.1)),
    'fisheye': (DistortionModel.EQUIDISTANT, (-0.02, 0.01, -0.003, 0.0005)),
    'pure_equidistant': (DistortionModel.EQUIDISTANT, (0.0, 0.0, 0.0, 0.0)),
}
CAMERAS = {
    name: dataclasses.replace(NONE, model=model, distortion=distortion)
    for name, (model, distortion) in LENSES.items()
}
DISTORTED = [name for name in CAMERAS if name != 'none']


@pytest.fixture(params=CAMERAS.values(), ids=CAMERAS.keys())
def camera(request):
    return request.param


def cloud(count=500, seed=0):
    """Points up to 37 degrees off axis, 1 to 9 metres away."""
    rng = np.random.default_rng(seed)
    directions = np.column_stack([rng.uniform(-0.53, 0.53, (count, 2)), np.ones(count)])
    return directions * rng.uniform(1, 9, (count, 1))


def opencv_projection(camera, points):
    no_motion, K = np.zeros(3), np.array(camera.K)
    coefficients = np.array(camera.distortion or (0.0,) * 5)
    if camera.model is DistortionModel.EQUIDISTANT:
        xy, _ = cv2.fisheye.projectPoints(points[:, None], no_motion, no_motion, K, coefficients)
    else:
        xy, _ = cv2.projectPoints(points, no_motion, no_motion, K, coefficients)
    return xy[:, 0]


def test_projection_is_opencvs(camera):
    points = cloud()
    np.testing.assert_allclose(
        camera.project(points), opencv_projection(camera, points), atol=EXACT_PX
    )


def test_unprojection_undoes_opencvs_projection(camera):
    points = cloud()
    seen = camera.unproject(opencv_projection(camera, points))
    np.testing.assert_allclose(seen, points / points[:, 2:], atol=1e-9)


def test_undistorted_pixels_are_opencvs(camera):
    xy, K = opencv_projection(camera, cloud()), np.array(camera.K)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)
    coefficients = np.array(camera.distortion or (0.0,) * 5)
    if camera.model is DistortionModel.EQUIDISTANT:
        expected = cv2.fisheye.undistortPoints(
            xy[:, None], K, coefficients, P=K, criteria=criteria
        )[:, 0]
    else:
        # OpenCV stops after few iterations; its answer is good to a fraction of a pixel.
        expected = cv2.undistortPoints(xy[:, None], K, coefficients, P=K)[:, 0]
    np.testing.assert_allclose(camera.undistort(xy), expected, atol=0.2)
    assert np.median(np.abs(camera.undistort(xy) - expected)) < 1e-3


def test_distort_undoes_undistort_and_ideal_pixels_are_the_pinholes(camera):
    points = cloud()
    xy = camera.project(points)
    ideal = camera.undistort(xy)
    np.testing.assert_allclose(ideal, NONE.project(points), atol=1e-6)
    np.testing.assert_allclose(camera.distort(ideal), xy, atol=EXACT_PX)


def test_rays_are_unit_vectors_towards_the_points(camera):
    points = cloud()
    rays = camera.rays(camera.project(points))
    expected = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(rays, expected, atol=1e-9)


def test_the_principal_point_looks_straight_ahead(camera):
    center = [camera.cx, camera.cy]
    np.testing.assert_allclose(camera.unproject(center), [0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(camera.project([0, 0, 5.0]), center, atol=1e-12)


def test_any_leading_dimensions_are_kept_and_none_is_fine(camera):
    points = cloud(24).reshape(2, 3, 4, 3)
    xy = camera.project(points)
    assert xy.shape == (2, 3, 4, 2)
    assert camera.rays(xy).shape == points.shape
    np.testing.assert_array_equal(xy[1, 2, 3], camera.project(points[1, 2, 3]))
    empty = np.zeros((0, 2))
    assert camera.project(np.zeros((0, 3))).shape == (0, 2)
    assert camera.unproject(empty).shape == (0, 3)
    assert camera.undistort(empty).shape == camera.distort(empty).shape == (0, 2)


def test_inputs_are_never_changed(camera):
    points, xy = cloud(10), np.full((3, 2), 100.0)
    before = points.copy()
    camera.project(points)
    camera.undistort(xy)[:] = 0.0
    camera.distort(xy)[:] = 0.0
    np.testing.assert_array_equal(points, before)
    np.testing.assert_array_equal(xy, 100.0)


@pytest.mark.parametrize('name', ['none', 'barrel', 'rational'])
def test_points_behind_a_pinhole_have_no_pixel(name):
    points = [[0.1, 0.1, -1.0], [0.1, 0.1, 0.0], [np.nan, 0, 1], [0.1, 0.1, 1.0]]
    seen = np.isfinite(CAMERAS[name].project(points)).all(axis=1)
    np.testing.assert_array_equal(seen, [False, False, False, True])


def test_a_folded_lens_does_not_show_far_points_a_second_time():
    camera = dataclasses.replace(
        NONE, model=DistortionModel.PLUMB_BOB, distortion=(-0.3, 0, 0, 0, 0)
    )
    fold = 1 / np.sqrt(0.9)  # where r (1 - 0.3 r^2) stops growing
    inside, beyond = camera.project([[0.99 * fold, 0, 1], [1.01 * fold, 0, 1]])
    assert np.isfinite(inside).all() and np.isnan(beyond).all()
    edge_px = camera.cx + camera.fx * fold * (1 - 0.3 * fold**2)
    reached = camera.unproject([[edge_px - 1e-3, camera.cy], [edge_px + 1.0, camera.cy]])
    assert np.isfinite(reached[0]).all() and np.isnan(reached[1]).all()
    assert 0.95 * fold < reached[0, 0] <= fold


def test_fisheye_sees_beyond_ninety_degrees_but_no_plane_does():
    camera = Camera(400, 400, 100.0, 100.0, 199.5, 199.5, DistortionModel.EQUIDISTANT, (0,) * 4)
    angle = np.deg2rad(110)
    xy = camera.project([np.sin(angle), 0, np.cos(angle)])
    np.testing.assert_allclose(xy, [199.5 + 100 * angle, 199.5])
    np.testing.assert_allclose(camera.rays(xy), [np.sin(angle), 0, np.cos(angle)], atol=1e-12)
    assert np.isnan(camera.unproject(xy)).all()
    assert np.isnan(camera.undistort(xy)).all()
    assert np.isnan(camera.project([0.0, 0.0, -1.0])).all()
    assert np.isnan(camera.rays([199.5 + 100 * 3.2, 199.5])).all()  # beyond 180 degrees


@settings(deadline=None, max_examples=50)
@given(
    k1=st.floats(-0.4, 0.4),
    k2=st.floats(-0.1, 0.1),
    p1=st.floats(-2e-3, 2e-3),
    p2=st.floats(-2e-3, 2e-3),
    name=st.sampled_from([DistortionModel.PLUMB_BOB, DistortionModel.EQUIDISTANT]),
)
def test_every_pixel_a_lens_reaches_comes_back(k1, k2, p1, p2, name):
    if name is DistortionModel.PLUMB_BOB:
        distortion = (k1, k2, p1, p2, 0.0)
    else:
        distortion = (k1 / 4, k2 / 4, p1, p2)
    camera = dataclasses.replace(NONE, model=name, distortion=distortion)
    xy = camera.pixel_centers()[::40, ::40].reshape(-1, 2)
    back = camera.project(camera.rays(xy))
    reached = np.isfinite(back).all(axis=1)
    assert reached.mean() > 0.3
    np.testing.assert_allclose(back[reached], xy[reached], atol=1e-5)


def test_resized_intrinsics_follow_cv2_resize():
    y, x = np.mgrid[:48, :64].astype(np.float32)
    image = 0.01 * x - 0.02 * y  # linear, so that interpolation adds no error
    big = cv2.resize(image, (256, 192), interpolation=cv2.INTER_LINEAR)
    camera = Camera(64, 48, 50.0, 50.0, 31.0, 22.0)
    larger = camera.resized(256, 192)
    points = np.array([[0.1, 0.2, 1.0], [-0.3, 0.05, 1.0], [0.25, -0.3, 1.0]])
    old, new = camera.project(points), larger.project(points)
    value_old = cv2.remap(image, *_columns(old), cv2.INTER_LINEAR)
    value_new = cv2.remap(big, *_columns(new), cv2.INTER_LINEAR)
    np.testing.assert_allclose(value_new, value_old, atol=1e-3)
    np.testing.assert_allclose((new + 0.5) / 4, old + 0.5)
    assert larger.fov_deg() == pytest.approx(camera.fov_deg())
    assert larger.resized(64, 48) == camera


def _columns(xy):
    return xy[:, :1].astype(np.float32), xy[:, 1:].astype(np.float32)


def test_cropped_intrinsics_shift_with_the_corner(camera):
    part = camera.cropped(100, 50, 300, 200)
    points = cloud()
    np.testing.assert_allclose(part.project(points), camera.project(points) - [100, 50])
    assert (part.width, part.height) == (300, 200)


@pytest.mark.parametrize('name', DISTORTED)
def test_rectified_at_balance_zero_has_no_empty_pixel(name):
    camera = CAMERAS[name]
    target = camera.rectified(0.0)
    map_x, map_y = camera.undistort_maps(target)
    assert map_x.min() >= -0.5 - 1e-2 and map_x.max() <= camera.width - 0.5 + 1e-2
    assert map_y.min() >= -0.5 - 1e-2 and map_y.max() <= camera.height - 0.5 + 1e-2
    assert not target.is_distorted
    assert target.fx / target.fy == pytest.approx(camera.fx / camera.fy)


@pytest.mark.parametrize('name', DISTORTED)
def test_rectified_at_balance_one_keeps_every_pixel(name):
    camera = CAMERAS[name]
    target = camera.rectified(1.0)
    xy = camera.pixel_centers()[::10, ::10].reshape(-1, 2)
    rays = camera.rays(xy)
    seen = np.isfinite(rays).all(axis=1)
    assert seen.mean() > 0.9
    assert target.contains(target.project(rays[seen]), border_px=-0.6).all()
    assert target.fov_deg()[0] >= camera.rectified(0.0).fov_deg()[0]


def test_rectifying_a_very_wide_fisheye_stays_sensible():
    camera = Camera(800, 800, 230.0, 230.0, 399.5, 399.5, DistortionModel.EQUIDISTANT, (0,) * 4)
    for balance in (0.0, 0.5, 1.0):
        target = camera.rectified(balance)
        assert 90 < target.fov_deg()[0] < 141


def test_maps_are_opencvs_and_undo_the_distortion_of_a_picture():
    camera = CAMERAS['barrel']
    target = camera.rectified(0.0)
    map_x, map_y = camera.undistort_maps(target)
    size = (camera.width, camera.height)
    expected_x, expected_y = cv2.initUndistortRectifyMap(
        np.array(camera.K), np.array(camera.distortion), None, np.array(target.K), size, cv2.CV_32F
    )
    np.testing.assert_allclose(map_x, expected_x, atol=1e-3)
    np.testing.assert_allclose(map_y, expected_y, atol=1e-3)
    assert map_x.dtype == np.float32 and map_x.shape == (480, 640)


def test_pixels_nobody_sees_are_mapped_far_outside():
    narrow = CAMERAS['barrel']
    wide = Camera(64, 48, 5.0, 5.0, 31.5, 23.5)
    black = cv2.remap(
        np.full((480, 640), 255, np.uint8), *narrow.undistort_maps(wide), cv2.INTER_CUBIC
    )
    assert black[0, 0] == 0 and black[24, 32] == 255


def test_field_of_view_is_the_angle_between_the_outer_edges():
    camera = Camera(200, 100, 100.0, 100.0, 99.5, 49.5)
    assert camera.fov_deg() == pytest.approx((90.0, 2 * np.rad2deg(np.arctan(0.5))))
    fisheye = dataclasses.replace(camera, model=DistortionModel.EQUIDISTANT, distortion=(0,) * 4)
    assert fisheye.fov_deg() == pytest.approx((np.rad2deg(2.0), np.rad2deg(1.0)))


def test_contains_counts_outer_pixel_centres():
    xy = [[0, 0], [639, 479], [-0.1, 0], [639.1, 0], [np.nan, 5]]
    np.testing.assert_array_equal(NONE.contains(xy), [True, True, False, False, False])
    assert not NONE.contains([4, 4], border_px=5)


@pytest.mark.parametrize(
    ('name', 'model'),
    [
        ('plumb_bob', DistortionModel.PLUMB_BOB),
        ('RadTan', DistortionModel.PLUMB_BOB),
        ('radial-tangential', DistortionModel.PLUMB_BOB),
        ('', DistortionModel.NONE),
        ('pinhole', DistortionModel.NONE),
        ('rational_polynomial', DistortionModel.RATIONAL),
        ('equidistant', DistortionModel.EQUIDISTANT),
        ('fisheye', DistortionModel.EQUIDISTANT),
        ('Kannala Brandt', DistortionModel.EQUIDISTANT),
    ],
)
def test_names_of_models_are_understood_as_drivers_write_them(name, model):
    assert DistortionModel.parse(name) is model


def test_an_unknown_model_is_refused_by_name():
    with pytest.raises(GeometryError, match=r"'omni'.*plumb_bob"):
        DistortionModel.parse('omni')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'fx': 0.0}, 'fx=0'),
        ({'fy': -1.0}, 'fy=-1'),
        ({'cx': float('nan')}, 'cx=nan'),
        ({'fx': float('inf')}, 'fx=inf'),
        ({'width': 0}, '0x480'),
        ({'height': -3}, '640x-3'),
        ({'width': 1.5}, '1.5x480'),
        ({'width': float('inf')}, 'infx480'),
        ({'distortion': (0.1,)}, 'needs 0 coefficients, got 1'),
        ({'model': DistortionModel.PLUMB_BOB, 'distortion': (0.1, 0.2)}, 'needs 5'),
        ({'model': DistortionModel.PLUMB_BOB, 'distortion': (0.1,) * 8}, 'needs 5'),
        ({'model': DistortionModel.RATIONAL, 'distortion': (0.1,) * 5}, 'needs 8'),
        ({'model': DistortionModel.EQUIDISTANT, 'distortion': ()}, 'needs 4'),
        ({'model': DistortionModel.PLUMB_BOB, 'distortion': (np.nan,) * 5}, 'finite'),
    ],
)
def test_impossible_intrinsics_are_refused_in_one_line(change, message):
    with pytest.raises(GeometryError, match=message) as caught:
        dataclasses.replace(NONE, **change)
    assert '\n' not in str(caught.value)


def test_what_drivers_send_for_no_distortion_is_accepted():
    for model in (DistortionModel.PLUMB_BOB, DistortionModel.RATIONAL):
        assert not dataclasses.replace(NONE, model=model, distortion=()).is_distorted
        assert not dataclasses.replace(NONE, model=model, distortion=(0,) * 14).is_distorted
    assert dataclasses.replace(NONE, distortion=(0.0,) * 5).distortion == ()
    four = dataclasses.replace(
        NONE, model=DistortionModel.PLUMB_BOB, distortion=np.array([0.1, 0.2, 0.3, 0.4])
    )
    assert four.distortion == (0.1, 0.2, 0.3, 0.4, 0.0)


def test_a_camera_of_a_matrix_is_the_same_and_a_skew_is_refused():
    flat = NONE.K.ravel().tolist()
    assert Camera.from_matrix(640, 480, flat) == NONE
    with pytest.raises(GeometryError, match='skew'):
        Camera.from_matrix(640, 480, [400, 2, 318, 0, 400, 240, 0, 0, 1])
    with pytest.raises(GeometryError, match='9 numbers'):
        Camera.from_matrix(640, 480, [400, 400])


@pytest.mark.parametrize(
    'crop', [(-1, 0, 10, 10), (0, 0, 641, 10), (635, 0, 10, 10), (0, 0, 0, 5)]
)
def test_a_crop_that_leaves_the_picture_is_refused(crop):
    with pytest.raises(GeometryError):
        NONE.cropped(*crop)


@pytest.mark.parametrize('balance', [-0.1, 1.1, float('nan')])
def test_a_balance_outside_its_range_is_refused(balance):
    with pytest.raises(GeometryError, match='balance'):
        NONE.rectified(balance)


def test_a_camera_is_a_value(camera):
    camera.project(cloud(3))  # fills what is computed once
    assert pickle.loads(pickle.dumps(camera)) == camera
    assert hash(camera) == hash(dataclasses.replace(camera))
    with pytest.raises(ValueError, match='read-only'):
        camera.K[0, 0] = 1.0


def test_numpy_rooms_do_not_pay_for_torch():
    code = (
        'import sys; import kpvo_ros.geometry.se3, kpvo_ros.geometry.camera, '
        'kpvo_ros.geometry.epipolar, kpvo_ros.geometry.solve; sys.exit("torch" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def lens_pixels(camera):
    """Pixels of the picture that look at most 75 degrees off the axis."""
    xy = np.random.default_rng(3).uniform([0, 0], [639, 479], (400, 2))
    return xy[camera.rays(xy)[:, 2] > np.cos(np.deg2rad(75.0))]


WIDE = Camera(640, 480, 190.0, 200.0, 318.3, 241.2, *LENSES['fisheye'])


@pytest.mark.parametrize('camera', [*CAMERAS.values(), WIDE], ids=[*CAMERAS, 'wide_fisheye'])
def test_the_derivative_of_rays_is_that_of_finite_differences(camera):
    xy, step = lens_pixels(camera), 1e-3
    assert len(xy) > 200
    differences = [
        (camera.unproject(xy + shift) - camera.unproject(xy - shift))[:, :2] / (2 * step)
        for shift in np.diag([step, step])
    ]
    expected = np.stack(differences, axis=-1)
    scale = np.abs(expected).max(axis=(1, 2))[:, None, None]
    np.testing.assert_allclose(camera.ray_jacobian(xy) / scale, expected / scale, atol=1e-5)
    area = np.abs(np.linalg.det(expected))
    np.testing.assert_allclose(camera.ray_sigma(xy), np.sqrt(area), rtol=1e-5)


def test_one_pixel_is_worth_the_same_everywhere_on_a_pinhole_and_more_at_the_rim_of_a_fisheye():
    np.testing.assert_allclose(NONE.ray_sigma([[0, 0], [600, 30]]), 1 / np.sqrt(400.0 * 410.0))
    f = 200.0
    fisheye = Camera(640, 480, f, f, 319.5, 239.5, DistortionModel.EQUIDISTANT, (0.0,) * 4)
    center, angle = np.array([319.5, 239.5]), np.deg2rad(70.0)
    at_rim = fisheye.ray_sigma(center + [f * angle, 0.0])
    # d tan(a) / da outwards, tan(a) / a around.
    expected = np.sqrt(np.tan(angle) / angle) / np.cos(angle) / f
    assert at_rim == pytest.approx(expected, rel=1e-9)
    assert fisheye.ray_sigma(center) == pytest.approx(1 / f)


def test_what_no_ray_reaches_has_no_pixel_size(camera):
    nowhere = np.array([[np.nan, 3.0], [3.0, np.nan]])
    for answer in (camera.ray_sigma, camera.ray_jacobian, camera.distort_jacobian):
        assert np.isnan(answer(nowhere)).all()
    assert camera.ray_sigma(np.zeros((0, 2))).shape == (0,)
    assert camera.ray_jacobian(np.zeros((4, 3, 2))).shape == (4, 3, 2, 2)
    beyond_the_fold = [[1e5, 1e5]]
    assert np.isnan(WIDE.ray_sigma(beyond_the_fold)).all()


def test_the_derivative_of_distort_is_that_of_finite_differences(camera):
    xy, step = lens_pixels(camera), 1e-4
    ideal = camera.undistort(xy)
    differences = [
        (camera.distort(ideal + shift) - camera.distort(ideal - shift)) / (2 * step)
        for shift in np.diag([step, step])
    ]
    np.testing.assert_allclose(
        camera.distort_jacobian(xy), np.stack(differences, axis=-1), atol=1e-6
    )


def test_beyond_ninety_degrees_a_pixel_has_no_size_on_the_plane():
    fisheye = Camera(640, 480, 150.0, 150.0, 319.5, 239.5, DistortionModel.EQUIDISTANT, (0.0,) * 4)
    sideways = [319.5 + 150.0 * np.deg2rad(91.0), 239.5]
    assert np.isfinite(fisheye.rays(sideways)).all()
    assert np.isnan(fisheye.ray_sigma(sideways)) and np.isnan(fisheye.ray_jacobian(sideways)).all()
