"""The same numbers as evo, an independent and widely used implementation."""

import numpy as np
import pytest

from kpvo_ros.evaluation.alignment import Alignment, align
from kpvo_ros.evaluation.trajectory import ErrorStats, ate, rotation_errors_deg, rpe, scale_error

pytest.importorskip('evo', reason='evo is the cross-check: pip install evo')
from evo.core import metrics
from evo.core.trajectory import PosePath3D
from evo.core.units import Unit

TOLERANCE = 1e-6


def evo_stats(metric, truth, estimate) -> dict:
    metric.process_data((PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(estimate))))
    return metric.get_all_statistics()


def assert_same(stats: ErrorStats, evo: dict) -> None:
    for name in ('rmse', 'mean', 'median', 'std', 'min', 'max'):
        assert getattr(stats, name) == pytest.approx(evo[name], abs=TOLERANCE), name


@pytest.fixture(params=range(4))
def pair(request, walk_of, noisy_of, pose_of):
    """Truth, and an estimate that is noisy, elsewhere, and 30 % too short."""
    walk = walk_of(request.param, count=120)
    estimate = pose_of(request.param) @ noisy_of(walk, request.param).poses
    estimate[:, :3, 3] *= 0.7
    return walk.poses, estimate


@pytest.mark.parametrize('mode', [Alignment.SE3, Alignment.SIM3])
def test_alignment_and_ate_agree(pair, mode):
    truth, estimate = pair
    similarity = align(truth, estimate, mode)
    path = PosePath3D(poses_se3=[pose.copy() for pose in estimate])
    R, t, scale = path.align(
        PosePath3D(poses_se3=list(truth)), correct_scale=mode is Alignment.SIM3
    )
    assert similarity.scale == pytest.approx(scale, abs=TOLERANCE)
    np.testing.assert_allclose(similarity.T_ref_est[:3, :3], R, atol=TOLERANCE)
    np.testing.assert_allclose(similarity.T_ref_est[:3, 3], t, atol=TOLERANCE)
    aligned = similarity.apply(estimate)
    assert_same(ate(truth, aligned), evo_stats(metrics.APE(), truth, path.poses_se3))
    angle = metrics.APE(metrics.PoseRelation.rotation_angle_deg)
    assert_same(
        ErrorStats.of(rotation_errors_deg(truth, aligned)),
        evo_stats(angle, truth, path.poses_se3),
    )


@pytest.mark.parametrize('delta', [1, 7])
def test_rpe_over_frames_agrees(pair, delta):
    truth, estimate = pair
    ours = rpe(truth, estimate, delta_frames=delta)
    for relation, stats in (
        (metrics.PoseRelation.translation_part, ours.translation_m),
        (metrics.PoseRelation.rotation_angle_deg, ours.rotation_deg),
    ):
        metric = metrics.RPE(relation, delta, Unit.frames, all_pairs=True)
        assert_same(stats, evo_stats(metric, truth, estimate))


def test_rpe_over_metres_agrees_where_both_choose_the_same_pairs(walk_of, noisy_of):
    walk = walk_of(9, count=100, step_m=0.5)  # equal steps: a pair exactly 5 m apart exists
    truth, estimate = walk.poses, noisy_of(walk).poses
    metric = metrics.RPE(
        metrics.PoseRelation.translation_part, 5.0, Unit.meters, 1e-6,
        all_pairs=True, pairs_from_reference=True,
    )  # fmt: skip
    assert_same(
        rpe(truth, estimate, delta_m=5.0).translation_m, evo_stats(metric, truth, estimate)
    )


def test_the_scale_error_is_the_inverse_of_evos_correction(pair):
    truth, estimate = pair
    path = PosePath3D(poses_se3=[pose.copy() for pose in estimate])
    _, _, scale = path.align(PosePath3D(poses_se3=list(truth)), correct_scale=True)
    assert scale_error(truth, estimate) == pytest.approx(1.0 / scale - 1.0, abs=TOLERANCE)
