"""Robust solvers: the true answer among outliers, honest covariance, no answer from rubbish."""

import dataclasses

import cv2
import numpy as np
import pytest
from scipy.optimize import least_squares

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry import epipolar, se3, solve
from kpvo_ros.geometry.camera import Camera, DistortionModel

CAMERA = Camera(640, 480, 400.0, 410.0, 318.0, 241.0)
T_CAMERA_WORLD = se3.exp_se3([0.5, 0.1, 0.05, 0.3, -0.2, 0.1])


def scene(count, seed=0):
    """Pixels all over the picture and the world points they show, 2 to 15 metres away."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform([0, 0], [639, 479], (count, 2))
    local = CAMERA.unproject(xy) * rng.uniform(2, 15, (count, 1))
    return rng, xy, se3.transform(se3.inverse(T_CAMERA_WORLD), local)


def spoil(rng, xy, fraction):
    """Moves a fraction of the pixels anywhere; returns them and which are still true."""
    bad = rng.random(len(xy)) < fraction
    return np.where(bad[:, None], rng.uniform([0, 0], [639, 479], xy.shape), xy), ~bad


def pose_error(result):
    return se3.log_se3(T_CAMERA_WORLD @ result.T_world_camera)


def test_pnp_finds_the_pose_among_seventy_percent_outliers():
    rng, xy, points = scene(200)
    xy, true = spoil(rng, xy, 0.7)
    result = solve.estimate_pnp(xy, points, CAMERA, threshold_px=2.0)
    np.testing.assert_allclose(pose_error(result), 0, atol=1e-9)
    assert result.inliers[true].all() and result.inliers[~true].mean() < 0.05
    assert result.count == result.inliers.sum() and result.rmse_px < 1.0


def test_pnp_agrees_with_opencv_on_the_half_pixel():
    rng, xy, points = scene(100)
    xy = xy + rng.normal(0, 0.3, xy.shape)
    result = solve.estimate_pnp(xy, points, CAMERA)
    _, w, t = cv2.solvePnP(points, xy, np.array(CAMERA.K), None, flags=cv2.SOLVEPNP_ITERATIVE)
    expected = se3.from_rt(cv2.Rodrigues(w)[0], t[:, 0])
    # Half a pixel would turn the camera by 0.5 / 400 rad.
    np.testing.assert_allclose(result.T_camera_world, expected, atol=4e-4)


@pytest.mark.parametrize('seed', [0, 7])
def test_the_same_seed_gives_the_same_answer(seed):
    rng, xy, points = scene(150)
    xy, _ = spoil(rng, xy + rng.normal(0, 1, xy.shape), 0.5)
    first, second = (solve.estimate_pnp(xy, points, CAMERA, seed=seed) for _ in range(2))
    np.testing.assert_array_equal(first.T_camera_world, second.T_camera_world)
    np.testing.assert_array_equal(first.inliers, second.inliers)


@pytest.mark.parametrize('count', [0, 1, 2])
def test_too_few_pairs_give_no_pose(count):
    _, xy, points = scene(5)
    xy, points = xy[:count], points[:count]
    assert solve.estimate_pnp(xy, points, CAMERA) is None
    assert solve.refine_pnp(xy, points, CAMERA, np.eye(4)) is None


def test_rows_of_nan_are_outliers_and_all_nan_gives_no_pose():
    _, xy, points = scene(50)
    xy[:5], points[5:10] = np.nan, np.nan
    for result in (
        solve.estimate_pnp(xy, points, CAMERA),
        solve.refine_pnp(xy, points, CAMERA, T_CAMERA_WORLD),
    ):
        np.testing.assert_allclose(pose_error(result), 0, atol=1e-8)
        np.testing.assert_array_equal(result.inliers, [False] * 10 + [True] * 40)
    assert solve.estimate_pnp(np.full((9, 2), np.nan), points[:9], CAMERA) is None


def test_points_of_one_place_do_not_make_a_pose_certain():
    xy = np.full((20, 2), 300.0)
    points = np.tile(CAMERA.unproject([300.0, 300.0]) * 5.0, (20, 1))
    result = solve.refine_pnp(xy, points, CAMERA, np.eye(4))
    deviations = np.sqrt(np.linalg.eigvalsh(result.covariance))
    assert np.isfinite(result.covariance).all() and deviations[-1] > 1.0


def test_a_guess_competes_with_the_samples():
    rng, xy, points = scene(300)
    xy, true = spoil(rng, xy, 0.97)  # hopeless for one minimal sample
    result = solve.estimate_pnp(
        xy, points, CAMERA, T_camera_world=T_CAMERA_WORLD, max_iterations=1
    )
    np.testing.assert_allclose(pose_error(result), 0, atol=1e-6)
    assert result.inliers[true].all()


@pytest.mark.parametrize('count', [30, 200])
@pytest.mark.parametrize('method', ['estimate', 'refine'])
def test_pnp_covariance_is_the_scatter_of_repeated_estimates(method, count):
    rng, xy, points = scene(count, seed=count)
    errors, predicted = [], []
    for trial in range(150):
        noisy = xy + rng.normal(0, 0.5, xy.shape)
        if method == 'estimate':
            result = solve.estimate_pnp(noisy, points, CAMERA, threshold_px=2.0, seed=trial)
        else:
            start = se3.exp_se3(rng.normal(0, 0.02, 6)) @ T_CAMERA_WORLD
            result = solve.refine_pnp(noisy, points, CAMERA, start)
        errors.append(pose_error(result))
        predicted.append(result.covariance)
    errors, predicted = np.array(errors), np.mean(predicted, axis=0)
    scatter = np.sqrt(np.diag(errors.T @ errors / len(errors)))
    ratio = np.sqrt(np.diag(predicted)) / scatter
    assert (ratio > 1 / 1.5).all() and (ratio < 1.5).all()
    normalised = np.einsum('ni,ij,nj->n', errors, np.linalg.inv(predicted), errors).mean() / 6
    assert 1 / 1.5 < normalised < 1.5  # correlations, too


def test_covariance_grows_when_support_shrinks_and_is_never_zero():
    _, xy, points = scene(400)
    spread = []
    for count in (400, 40, 6, 4):
        covariance = solve.refine_pnp(
            xy[:count], points[:count], CAMERA, T_CAMERA_WORLD
        ).covariance
        np.testing.assert_array_equal(covariance, covariance.T)
        spread.append(np.sqrt(np.linalg.eigvalsh(covariance)).max())
    assert spread[0] > 1e-6
    assert (np.diff(spread) > 0).all()


def test_refinement_from_afar_reaches_scipys_least_squares_answer():
    rng, xy, points = scene(60)
    xy = xy + rng.normal(0, 0.5, xy.shape)
    start = se3.exp_se3([0.3, -0.2, 0.4, 0.1, -0.1, 0.15]) @ T_CAMERA_WORLD
    result = solve.refine_pnp(xy, points, CAMERA, start, loss=solve.Loss.SQUARED, iterations=50)

    def error(xi):
        T = se3.exp_se3(xi) @ T_CAMERA_WORLD
        return (CAMERA.project(se3.transform(T, points)) - xy).ravel()

    best = se3.exp_se3(least_squares(error, np.zeros(6)).x) @ T_CAMERA_WORLD
    np.testing.assert_allclose(result.T_camera_world, best, atol=1e-6)


@pytest.mark.parametrize('loss', [solve.Loss.HUBER, solve.Loss.CAUCHY])
def test_robust_losses_reach_scipys_robust_answer(loss):
    rng, xy, points = scene(80)
    xy, _ = spoil(rng, xy + rng.normal(0, 0.5, xy.shape), 0.1)
    # scipy's loss works on single coordinates, ours on pixels; so give it the pixel's distance.

    def distance(xi):
        T = se3.exp_se3(xi) @ T_CAMERA_WORLD
        return np.linalg.norm(CAMERA.project(se3.transform(T, points)) - xy, axis=1)

    best = least_squares(distance, np.zeros(6), loss=loss.value, f_scale=1.0, xtol=1e-12).x
    result = solve.refine_pnp(xy, points, CAMERA, T_CAMERA_WORLD, loss=loss, iterations=100)
    reached = se3.log_se3(result.T_camera_world @ se3.inverse(T_CAMERA_WORLD))
    np.testing.assert_allclose(reached, best, atol=2e-4)


def test_an_outlier_moves_the_robust_pose_far_less_than_the_squared_one():
    rng, xy, points = scene(60)
    xy = xy + rng.normal(0, 0.3, xy.shape)
    xy[0] += 200.0
    error = {
        loss: np.abs(
            pose_error(solve.refine_pnp(xy, points, CAMERA, T_CAMERA_WORLD, loss=loss))
        ).max()
        for loss in solve.Loss
    }
    assert error[solve.Loss.CAUCHY] < 0.1 * error[solve.Loss.SQUARED]
    assert error[solve.Loss.HUBER] < 0.2 * error[solve.Loss.SQUARED]


def test_points_with_known_larger_noise_count_less():
    rng, xy, points = scene(100)
    sigma = np.where(np.arange(100) < 50, 1.0, 8.0)
    plain, weighted = [], []
    for _ in range(30):
        noisy = xy + rng.normal(0, 0.3, xy.shape) * sigma[:, None]
        options = {'loss': solve.Loss.SQUARED, 'threshold_px': 20.0}
        plain.append(
            pose_error(solve.refine_pnp(noisy, points, CAMERA, T_CAMERA_WORLD, **options))
        )
        result = solve.refine_pnp(noisy, points, CAMERA, T_CAMERA_WORLD, sigma_px=sigma, **options)
        weighted.append(pose_error(result))
    assert np.linalg.norm(weighted) < 0.5 * np.linalg.norm(plain)


def test_points_behind_the_start_do_not_break_the_refinement():
    _, xy, points = scene(50)
    points[:5] = se3.transform(se3.inverse(T_CAMERA_WORLD), [[0.1, 0.1, -3.0]] * 5)
    result = solve.refine_pnp(xy, points, CAMERA, T_CAMERA_WORLD)
    np.testing.assert_allclose(pose_error(result), 0, atol=1e-8)
    assert not result.inliers[:5].any()


@pytest.mark.parametrize('angle', [0.0, 0.1])
def test_essential_finds_motion_among_outliers(angle):
    rng, xy0, _ = scene(300)
    other = Camera(800, 600, 500.0, 505.0, 402.0, 297.0)
    T_1_0 = se3.exp_se3([0.6, -0.1, 0.2, angle, -angle, 0.05])
    points = CAMERA.unproject(xy0) * rng.uniform(3, 15, (300, 1))
    xy1, true = spoil(rng, other.project(se3.transform(T_1_0, points)), 0.4)
    xy1[0] = np.nan
    result = solve.estimate_essential(xy0, xy1, CAMERA, other, seed=1)
    expected = T_1_0.copy()
    expected[:3, 3] /= np.linalg.norm(T_1_0[:3, 3])
    # A few outliers lie on their epipolar lines by chance and pull a little.
    np.testing.assert_allclose(result.T_1_0, expected, atol=2e-3)
    assert result.inliers[true][1:].all() and not result.inliers[0]
    assert result.count < true.sum() + 20


def test_homography_finds_the_plane_among_outliers():
    rng, xy0, _ = scene(200)
    T_1_0 = se3.exp_se3([0.3, 0.1, -0.1, 0.02, 0.05, -0.04])
    H = epipolar.homography_from_plane(T_1_0, [0.0, -0.1, 0.995], 5.0, CAMERA.K, CAMERA.K)
    xy1, true = spoil(rng, cv2.perspectiveTransform(xy0[:, None], H)[:, 0], 0.5)
    result = solve.estimate_homography(xy0, xy1)
    np.testing.assert_allclose(result.H_1_0, H, atol=1e-5)
    assert result.inliers[true].all() and result.count < true.sum() + 10


@pytest.mark.parametrize('count', [0, 3])
def test_too_few_pairs_give_no_motion_and_no_homography(count):
    _, xy, _ = scene(10)
    xy = xy[:count]
    assert solve.estimate_essential(xy, xy, CAMERA, CAMERA) is None
    assert solve.estimate_homography(xy, xy) is None


def test_a_homography_of_pixels_on_a_line_is_none_or_finite():
    line = np.column_stack([np.arange(20.0), np.arange(20.0)])
    result = solve.estimate_homography(line, line)
    assert result is None or np.isfinite(result.H_1_0).all()


def test_shapes_and_thresholds_that_make_no_sense_are_refused():
    _, xy, points = scene(10)
    with pytest.raises(GeometryError, match=r'\(9, 2\)'):
        solve.estimate_pnp(xy[:9], points, CAMERA)
    with pytest.raises(GeometryError, match='pixels'):
        solve.estimate_essential(xy, xy[:9], CAMERA, CAMERA)
    with pytest.raises(GeometryError, match='pixels'):
        solve.estimate_homography(points, points)
    with pytest.raises(GeometryError, match='threshold_px 0'):
        solve.estimate_pnp(xy, points, CAMERA, threshold_px=0)
    with pytest.raises(GeometryError, match='positive'):
        solve.refine_pnp(xy, points, CAMERA, np.eye(4), loss_scale_px=-1.0)
    with pytest.raises(GeometryError, match='NaN'):
        solve.refine_pnp(xy, points, CAMERA, np.full((4, 4), np.nan))


FISHEYE = Camera(
    640, 480, 200.0, 202.0, 318.0, 241.0, DistortionModel.EQUIDISTANT, (-0.02, 0.01, -0.003, 5e-4)
)
BARREL = Camera(
    640, 480, 400.0, 410.0, 318.0, 241.0, DistortionModel.PLUMB_BOB, (-0.28, 0.07, 1e-4, 2e-4, 0.0)
)
LENSES = {
    'pinhole': CAMERA,
    'barrel': BARREL,
    'barrel with k3': dataclasses.replace(BARREL, distortion=(-0.28, 0.07, 1e-4, 2e-4, 0.01)),
    'rational': dataclasses.replace(
        BARREL,
        model=DistortionModel.RATIONAL,
        distortion=(3.0, 0.5, 1e-4, 2e-4, 0.01, 3.3, 1.2, 0.1),
    ),
    'fisheye': FISHEYE,
}


def lens_scene(camera, count, seed=0):
    """As `scene`, through a lens and up to 75 degrees off the axis."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform([0, 0], [639, 479], (count, 2))
    ray = camera.rays(xy)
    near = ray[:, 2] > np.cos(np.deg2rad(75.0))
    local = ray[near] * rng.uniform(2, 15, (near.sum(), 1))
    return rng, xy[near], se3.transform(se3.inverse(T_CAMERA_WORLD), local)


@pytest.mark.parametrize('camera', LENSES.values(), ids=LENSES)
def test_pnp_takes_the_pixels_of_the_picture_of_any_lens(camera):
    rng, xy, points = lens_scene(camera, 300)
    xy, true = spoil(rng, xy, 0.5)
    result = solve.estimate_pnp(xy, points, camera, threshold_px=2.0, as_stored=True)
    np.testing.assert_allclose(pose_error(result), 0, atol=1e-7)
    assert result.inliers[true].all() and result.inliers[~true].mean() < 0.05


def test_the_threshold_of_pnp_counts_pixels_of_the_picture_also_at_the_rim_of_a_fisheye():
    rng, xy, points = lens_scene(FISHEYE, 600)
    noisy = xy + rng.normal(0, 0.7, xy.shape)
    result = solve.estimate_pnp(noisy, points, FISHEYE, threshold_px=2.0, as_stored=True)
    error_px = FISHEYE.project(se3.transform(result.T_camera_world, points)) - noisy
    expected = np.linalg.norm(error_px, axis=1) < 2.0
    assert (result.inliers == expected).mean() > 0.99  # the lens is taken as straight over 2 px
    at_rim = FISHEYE.rays(xy)[:, 2] < np.cos(np.deg2rad(60.0))
    assert result.inliers[at_rim].mean() > 0.95  # 2 px are 2.9 sigma of a Rayleigh distribution
    ideal = solve.estimate_pnp(FISHEYE.undistort(noisy), points, FISHEYE, threshold_px=2.0)
    assert ideal.inliers[at_rim].mean() < 0.7, 'what ideal pixels make of it'


def test_a_fisheye_pose_from_pixels_of_the_picture_is_nearer_and_its_covariance_right():
    errors = {True: [], False: []}
    squared = []
    for seed in range(40):
        rng, xy, points = lens_scene(FISHEYE, 200, seed)
        noisy = xy + rng.normal(0, 0.7, xy.shape)
        ideal = FISHEYE.undistort(noisy)
        slope = FISHEYE.distort_jacobian(noisy)
        for weighs in errors:
            result = solve.refine_pnp(
                ideal,
                points,
                FISHEYE,
                T_CAMERA_WORLD,
                slope=slope if weighs else None,
                loss=solve.Loss.SQUARED,
                threshold_px=3.0,
            )
            errors[weighs].append(pose_error(result))
            if weighs:
                e = se3.log_se3(se3.inverse(result.T_world_camera) @ se3.inverse(T_CAMERA_WORLD))
                squared.append(e @ np.linalg.solve(result.covariance, e))
    rms = {weighs: np.sqrt(np.square(e).mean()) for weighs, e in errors.items()}
    assert rms[True] < 0.7 * rms[False]
    # The mean of 40 draws of chi-square with 6 degrees of freedom, 99.9 % of the time.
    assert 4.3 < np.mean(squared) < 7.9


def test_pixels_no_ray_comes_from_are_outliers_of_pnp():
    _, xy, points = lens_scene(FISHEYE, 100)
    xy[:5] = [[np.nan, 1.0], [1e5, 1e5], [-1e5, 0.0], [1.0, np.nan], [np.nan, np.nan]]
    result = solve.estimate_pnp(xy, points, FISHEYE, as_stored=True)
    np.testing.assert_allclose(pose_error(result), 0, atol=1e-7)
    assert not result.inliers[:5].any()
    assert solve.estimate_pnp(xy[:5], points[:5], FISHEYE, as_stored=True) is None
