"""Alignment of point sets and planes among outliers."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.errors import GeometryError
from kpvo_ros.geometry import fit, se3


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.float64, 6, elements=st.floats(-1.7, 1.7)),
    st.floats(0.01, 100.0),
    st.integers(3, 40),
)
def test_umeyama_undoes_any_similarity(xi, scale, count):
    source = np.random.default_rng(count).normal(size=(count, 3)) + [5, -3, 2]
    T = se3.exp_se3(xi)
    target = scale * source @ T[:3, :3].T + T[:3, 3]
    found_scale, R, t = fit.umeyama(source, target)
    assert found_scale == pytest.approx(scale, rel=1e-9)
    np.testing.assert_allclose(R, T[:3, :3], atol=1e-7)
    np.testing.assert_allclose(found_scale * source @ R.T + t, target, atol=1e-7 * max(scale, 1))


def test_rigid_alignment_keeps_scale_one_and_is_scipys():
    rng = np.random.default_rng(0)
    source = rng.normal(size=(50, 3))
    target = 2.0 * source @ se3.exp_so3([0.3, -1.0, 2.0]).T + rng.normal(0, 0.1, (50, 3)) + 7.0
    scale, R, t = fit.umeyama(source, target, with_scale=False)
    expected, _ = Rotation.align_vectors(target - target.mean(0), source - source.mean(0))
    assert scale == 1.0
    np.testing.assert_allclose(R, expected.as_matrix(), atol=1e-9)
    np.testing.assert_allclose(t, target.mean(0) - R @ source.mean(0), atol=1e-12)


def test_a_mirrored_set_is_met_by_a_rotation_not_a_mirror():
    source = np.random.default_rng(1).normal(size=(30, 3))
    _, R, _ = fit.umeyama(source, source * [1, 1, -1])
    assert se3.is_rotation(R)


def test_points_on_a_plane_suffice():
    source = np.random.default_rng(2).normal(size=(10, 3)) * [1, 1, 0]
    R_true = se3.exp_so3([0.5, 0.4, -0.3])
    scale, R, _ = fit.umeyama(source, 3 * source @ R_true.T)
    assert scale == pytest.approx(3.0)
    np.testing.assert_allclose(R, R_true, atol=1e-12)


LINE = np.linspace(0, 10, 20)[:, None] * [1.0, 2.0, -0.5] + [3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    'points', [LINE, np.ones((20, 3)), LINE[:2], np.zeros((0, 3)), np.full((5, 3), np.nan)]
)
def test_degenerate_sets_are_refused(points):
    with pytest.raises(GeometryError):
        fit.umeyama(points, points)


def test_sets_of_different_size_are_refused_with_their_shapes():
    with pytest.raises(GeometryError, match=r'\(20, 3\), \(19, 3\)'):
        fit.umeyama(LINE, LINE[:19])


# A road as a camera 1.65 m above sees it: optical axes, y down.
DOWN = np.array([0.03, 0.999, -0.04]) / np.linalg.norm([0.03, 0.999, -0.04])


def road(count=200, outliers=150, noise=0.01, seed=0, height=1.65):
    rng = np.random.default_rng(seed)
    basis = np.linalg.svd(DOWN[None])[2][1:]
    flat = rng.uniform(-8, 8, (count, 2)) @ basis + [0, 0, 0]
    ground = flat + (height + rng.normal(0, noise, (count, 1))) * DOWN
    clutter = rng.uniform([-8, -6, 2], [8, 1.0, 20], (outliers, 3))
    return np.vstack([ground, clutter])


def test_the_road_is_found_among_clutter():
    points = road()
    plane = fit.fit_plane_ransac(points, 0.05, normal_prior=[0, 1, 0])
    assert np.arccos(plane.normal @ DOWN) < 0.003
    assert plane.offset == pytest.approx(1.65, abs=0.005)
    assert plane.inliers[:200].mean() > 0.98 and plane.inliers[200:].mean() < 0.1
    assert plane.count == plane.inliers.sum() and plane.rmse == pytest.approx(0.01, rel=0.3)


def test_offset_sigma_is_the_scatter_of_repeated_fits():
    planes = [
        fit.fit_plane_ransac(road(60, 0, seed=seed), 0.1, seed=seed, normal_prior=[0, 1, 0])
        for seed in range(200)
    ]
    scatter = np.std([plane.offset for plane in planes])
    sigma = np.mean([plane.offset_sigma for plane in planes])
    assert 1 / 1.3 < sigma / scatter < 1.3


def test_the_prior_keeps_a_larger_wall_from_being_the_road():
    rng = np.random.default_rng(3)
    wall = np.column_stack([np.full(400, 3.0), rng.uniform(-5, 1, 400), rng.uniform(2, 20, 400)])
    points = np.vstack([road(100, 0), wall])
    free = fit.fit_plane_ransac(points, 0.05)
    guided = fit.fit_plane_ransac(points, 0.05, normal_prior=[0, 1, 0])
    assert abs(free.normal[0]) > 0.99
    assert guided.normal @ DOWN > 0.999 and guided.offset == pytest.approx(1.65, abs=0.01)


def test_without_a_prior_the_normal_points_away_from_the_origin():
    plane = fit.fit_plane_ransac(-road(100, 0), 0.05)
    assert plane.offset > 0 and plane.normal @ -DOWN > 0.999


def test_far_points_may_have_a_larger_threshold_and_weigh_less():
    rng = np.random.default_rng(4)
    points = road(400, 0, noise=0.0)
    sigma = 0.002 * np.linalg.norm(points, axis=1) ** 2
    points = points + rng.normal(0, 1, (400, 1)) * sigma[:, None] * DOWN
    plane = fit.fit_plane_ransac(points, 3 * sigma, normal_prior=[0, 1, 0])
    assert plane.offset == pytest.approx(1.65, abs=0.01)
    assert plane.inliers.mean() > 0.95


def test_the_same_seed_gives_the_same_plane():
    first, second = (fit.fit_plane_ransac(road(), 0.05, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.normal, second.normal)
    assert first.offset == second.offset


@pytest.mark.parametrize(
    'points',
    [
        np.zeros((0, 3)),
        np.full((50, 3), np.nan),
        road(9, 0),
        np.random.default_rng(5).uniform(-50, 50, (60, 3)),
        np.ones((50, 3)),
        np.linspace(0, 9, 50)[:, None] * [1.0, 2.0, 3.0],
    ],
)
def test_no_plane_is_none(points):
    assert fit.fit_plane_ransac(points, 0.01) is None


def test_rows_of_nan_are_outliers():
    points = road(100, 20)
    points[::10] = np.nan
    plane = fit.fit_plane_ransac(points, 0.05, normal_prior=[0, 1, 0])
    assert not plane.inliers[::10].any() and plane.offset == pytest.approx(1.65, abs=0.01)


def test_impossible_arguments_are_refused():
    with pytest.raises(GeometryError, match=r'\(5, 2\)'):
        fit.fit_plane_ransac(np.zeros((5, 2)), 0.1)
    with pytest.raises(GeometryError, match='threshold'):
        fit.fit_plane_ransac(road(), 0.0)
    with pytest.raises(GeometryError, match='normal_prior'):
        fit.fit_plane_ransac(road(), 0.1, normal_prior=[0, 0, 0])
