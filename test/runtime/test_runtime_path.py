"""The odometry end to end on a known path: pose, speed, covariance, scale, choice of methods."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from runtime_world import (
    CAMERA_HEIGHT_M,
    START_NS,
    T_BASE_CAMERA,
    Film,
    World,
    best_scale,
    config,
    from_first_pose,
    make_room,
    poses_of,
    position_errors_m,
    run,
    shoot,
    sideways_walk,
    statuses,
    turn_errors_deg,
)
from scipy.spatial.transform import Rotation

from kpvo_ros.evaluation.alignment import Alignment, align
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import OdometryEstimate, WheelOdometry

NEEDS_AKAZE = pytest.mark.skipif(not hasattr(cv2, 'AKAZE'), reason='this OpenCV has no AKAZE')


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt((errors**2).mean()))


def true_twists(truth: np.ndarray) -> np.ndarray:
    """(N - 1, 6) of the base in base axes, for frames from the second on."""
    return se3.log_se3(se3.inverse(truth[:-1]) @ truth[1:]) / 0.05


# --------------------------------------------------------------------------------- with depth


def test_a_known_path_is_recovered_with_depth(walk: Film, walked: list[OdometryEstimate]) -> None:
    assert statuses(walked) == 'T' * len(walk.frames)
    assert rms(position_errors_m(walked, walk.T_odom_base)) < 0.01 * walk.path_m
    assert turn_errors_deg(walked, walk.T_odom_base).max() < 0.5


def test_odom_starts_at_the_base(walked: list[OdometryEstimate]) -> None:
    np.testing.assert_allclose(walked[0].T_odom_base, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(walked[0].T_odom_camera, T_BASE_CAMERA, atol=1e-12)


def test_the_camera_stays_where_it_is_mounted(walked: list[OdometryEstimate]) -> None:
    for one in walked:
        mounted = se3.inverse(one.T_odom_base) @ one.T_odom_camera
        np.testing.assert_allclose(mounted, T_BASE_CAMERA, atol=1e-9)


def test_stamps_come_out_as_they_went_in(walk: Film, walked: list[OdometryEstimate]) -> None:
    assert [one.stamp_ns for one in walked] == [frame.stamp_ns for frame in walk.frames]


def test_an_estimate_carries_what_is_published_with_it(walked: list[OdometryEstimate]) -> None:
    last = walked[-1]
    features = last.features
    assert len(features) == len(features.score) == len(features.descriptor) >= last.inliers > 50
    assert last.scale == 1.0 and 0 < last.scale_sigma < 0.1
    assert walked[0].is_keyframe and 1 < sum(one.is_keyframe for one in walked) < len(walked) / 2
    assert {'track', 'solve'} <= last.stage_ms.keys()
    assert all(ms >= 0 for ms in last.stage_ms.values())


def test_two_runs_give_the_same_numbers(walk: Film, walked: list[OdometryEstimate]) -> None:
    again = run(walk.frames[:50])
    for one, two in zip(walked, again, strict=False):
        np.testing.assert_array_equal(one.T_odom_base, two.T_odom_base)
        np.testing.assert_array_equal(one.covariance, two.covariance)
        np.testing.assert_array_equal(one.features.xy, two.features.xy)


def test_a_grey_camera_gives_the_same_path(walk: Film, walked: list[OdometryEstimate]) -> None:
    gray = [dataclasses.replace(frame, image=frame.gray) for frame in walk.frames[:20]]
    np.testing.assert_array_equal(poses_of(run(gray)), poses_of(walked[:20]))


def test_thirty_percent_of_the_frames_may_get_lost(walk: Film) -> None:
    kept = np.flatnonzero(np.random.default_rng(1).random(len(walk.frames)) > 0.3)
    estimates = run([walk.frames[row] for row in kept])
    assert statuses(estimates) == 'T' * len(kept)
    assert position_errors_m(estimates, walk.T_odom_base[kept]).max() < 0.01 * walk.path_m


def test_frames_without_their_depth_image_are_tracked_all_the_same(walk: Film) -> None:
    frames = [
        dataclasses.replace(frame, depth_m=None) if row % 3 else frame
        for row, frame in enumerate(walk.frames[:40])
    ]
    estimates = run(frames)
    assert statuses(estimates) == 'T' * 40
    assert position_errors_m(estimates, walk.T_odom_base[:40]).max() < 0.02


@pytest.mark.parametrize(
    ('words', 'share'),
    [
        (('tracking.method=flow',), 0.01),
        (('tracking.method=hybrid',), 0.01),
        # Keypoints of a corner detector are whole pixels of their level: good to a few percent.
        (('tracking.method=descriptor',), 0.08),
        (('tracking.method=descriptor', 'frontend.extractor=sift'), 0.05),
        (('frontend.extractor=sift',), 0.01),
        pytest.param(('frontend.extractor=akaze',), 0.01, marks=NEEDS_AKAZE),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, tuple) else None,
)
def test_every_method_finds_the_path(walk: Film, words: tuple[str, ...], share: float) -> None:
    estimates = run(walk.frames[:60], *words)
    assert statuses(estimates).count('T') >= 58
    assert rms(position_errors_m(estimates, walk.T_odom_base[:60])) < share * walk.path_m


# ------------------------------------------------------------------------- twist, covariance


def test_the_twist_is_that_of_the_base(walk: Film, walked: list[OdometryEstimate]) -> None:
    twists = np.array([one.twist for one in walked[1:]])
    wanted = true_twists(walk.T_odom_base)
    assert np.abs(wanted[:, 0]).mean() > 0.3  # the test would say nothing at rest
    np.testing.assert_allclose(twists.mean(0), wanted.mean(0), atol=0.02)
    np.testing.assert_allclose(twists, wanted, atol=0.25)


def test_a_turn_to_the_left_is_positive_and_does_not_move_the_base(turn: Film) -> None:
    estimates = run(turn.frames)
    assert statuses(estimates) == 'T' * len(turn.frames)
    twist = np.mean([one.twist for one in estimates[5:]], axis=0)
    np.testing.assert_allclose(twist[5], 2.4 / 59 / 0.05, rtol=0.01)
    np.testing.assert_allclose(twist[:5], 0.0, atol=0.03)
    assert position_errors_m(estimates, turn.T_odom_base).max() < 0.05
    assert turn_errors_deg(estimates, turn.T_odom_base).max() < 1.0


def test_covariances_are_positive_definite_and_never_constant(
    walked: list[OdometryEstimate],
) -> None:
    for one in walked:
        for matrix in (one.covariance, one.twist_covariance):
            np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
            assert np.linalg.eigvalsh(matrix).min() > 0
    assert len({float(np.trace(one.covariance)) for one in walked}) > len(walked) / 2


def test_the_covariance_grows_with_the_way(walked: list[OdometryEstimate]) -> None:
    first, middle, last = (np.trace(walked[row].covariance) for row in (1, 40, 79))
    assert first < middle < last


@pytest.mark.parametrize('seed', [5, 6, 7])
def test_the_error_lies_within_what_the_covariance_admits(seed: int) -> None:
    """Position and rotation, along the way; room 5 has few near points but those of its floor."""
    film = shoot(make_room(np.random.default_rng(seed)), sideways_walk(80))
    # 95 % of chi square with three degrees of freedom
    assert max(mean_surprise(film, run(film.frames))) < 7.8


def mean_surprise(film: Film, estimates: list[OdometryEstimate]) -> tuple[float, float]:
    """Squared Mahalanobis distances from the truth: position, and rotation in odom axes."""
    off = poses_of(estimates)[:, :3, 3] - film.T_odom_base[:, :3, 3]
    R = poses_of(estimates)[:, :3, :3] @ np.swapaxes(film.T_odom_base[:, :3, :3], 1, 2)
    turn = Rotation.from_matrix(R).as_rotvec()
    covariance = np.array([one.covariance for one in estimates])
    position = np.einsum('ni,nij,nj->n', off, np.linalg.inv(covariance[:, :3, :3]), off)
    rotation = np.einsum('ni,nij,nj->n', turn, np.linalg.inv(covariance[:, 3:, 3:]), turn)
    return float(position.mean()), float(rotation.mean())


def test_a_pause_does_not_drift(room: World) -> None:
    path = sideways_walk(30)
    path = np.concatenate([path[:15], np.repeat(path[15:16], 30, axis=0), path[15:]])
    film = shoot(room, path)
    estimates = run(film.frames)
    assert statuses(estimates) == 'T' * len(path)
    still = slice(23, 46)  # at rest since frame 15, and sure of it after 0.3 s
    np.testing.assert_array_equal(
        poses_of(estimates)[still], np.tile(estimates[23].T_odom_base, (23, 1, 1))
    )
    np.testing.assert_array_equal([one.twist for one in estimates[still]], 0.0)
    assert rms(position_errors_m(estimates, film.T_odom_base)) < 0.01 * film.path_m


# ------------------------------------------------------------------------------ without depth


def test_the_shape_of_the_path_is_recovered_without_a_scale(walk: Film) -> None:
    estimates = run(walk.frames, 'scale.source=none')
    begun = statuses(estimates).index('T')
    assert begun <= 25 and statuses(estimates[begun:]) == 'T' * (80 - begun)
    # The camera's: the base hangs on it by a bar of known length, and no unit is known.
    poses = np.stack([one.T_odom_camera for one in estimates[begun:]])
    truth = walk.T_odom_base[begun:] @ T_BASE_CAMERA
    fit = align(truth, poses, Alignment.SIM3)
    errors = (fit.apply(poses) - truth)[:, :3, 3]
    assert rms(np.linalg.norm(errors, axis=1)) < 0.005 * walk.path_m
    assert abs(fit.scale - 1.0) > 0.05  # nobody told it: metres here would be suspicious
    assert estimates[-1].covariance[0, 0] > 0


def test_the_camera_does_not_move_before_the_map_starts(walk: Film) -> None:
    estimates = run(walk.frames[:30], 'scale.source=none')
    begun = statuses(estimates).index('T')
    assert begun >= 3 and not estimates[0].has_pose
    for one in estimates[:begun]:
        np.testing.assert_allclose(one.T_odom_camera[:3, 3], T_BASE_CAMERA[:3, 3], atol=1e-12)
        assert one.reason and se3.rotation_angle_rad(one.T_odom_base[:3, :3]) < np.deg2rad(3.0)
    # A robot takes no leap when its map begins: the odom frame is put where it stands.
    step = estimates[begun].T_odom_base - estimates[begun - 1].T_odom_base
    np.testing.assert_allclose(step, 0.0, atol=1e-9)


def test_a_camera_that_only_turns_makes_no_false_points(room: World) -> None:
    on_axis = T_BASE_CAMERA.copy()
    on_axis[:2, 3] = 0.0  # the base turns about the vertical through the camera
    path = np.tile(np.eye(4), (45, 1, 1))
    path[:, :3, :3] = se3.exp_so3(np.outer(np.linspace(0.0, 1.8, 45), [0.0, 0.0, 1.0]))
    path[:, :2, 3] = (3.0, 3.0)
    film = shoot(room, path, T_base_camera=on_axis)
    mono = run(film.frames, 'scale.source=none', T_base_camera=on_axis)
    assert statuses(mono) == 'S' + 'D' * (len(mono) - 1)
    assert all('turning' in one.reason for one in mono[1:])
    # No point has a depth, the rotation is known all the same, and the camera stays.
    assert not any(one.features.score.any() for one in mono)
    assert turn_errors_deg(mono, film.T_odom_base).max() < 0.5
    places = np.stack([one.T_odom_camera[:3, 3] for one in mono])
    np.testing.assert_allclose(places, np.tile(on_axis[:3, 3], (45, 1)), atol=1e-12)
    with_depth = run(film.frames, T_base_camera=on_axis)
    assert statuses(with_depth) == 'T' * len(path)
    assert position_errors_m(with_depth, film.T_odom_base).max() < 0.03
    assert turn_errors_deg(with_depth, film.T_odom_base).max() < 0.5


def test_the_height_of_the_camera_gives_metres(walk: Film) -> None:
    estimates = run(
        walk.frames,
        'scale.source=camera_height',
        f'scale.camera_height_m={CAMERA_HEIGHT_M}',
        'scale.camera_pitch_deg=5.7',
    )
    poses, truth = from_first_pose(estimates, walk.T_odom_base)
    assert len(poses) >= 40
    assert abs(best_scale(poses, truth) - 1.0) < 0.03
    assert rms(np.linalg.norm((poses - truth)[:, :3, 3], axis=1)) < 0.01 * walk.path_m


def test_wheels_give_metres(walk: Film) -> None:
    odometry = Odometry(config('scale.source=wheel'), T_BASE_CAMERA)
    estimates = []
    for frame, T_odom_base in zip(walk.frames, walk.T_odom_base, strict=True):
        odometry.offer_wheel(WheelOdometry(frame.stamp_ns, T_odom_base))
        estimates.append(odometry.step(frame))
    odometry.close()
    poses, truth = from_first_pose(estimates, walk.T_odom_base)
    assert len(poses) >= 40
    assert abs(best_scale(poses, truth) - 1.0) < 0.06
    assert 0 < estimates[-1].scale_sigma < 0.2


def test_nothing_moves_before_promised_metres_are_known(walk: Film) -> None:
    estimates = run(walk.frames[:40], 'scale.source=wheel')  # wheels that never say a word
    # While nothing shows parallax, the turn of the camera is measured; nothing else ever is.
    assert statuses(estimates).count('S') >= 37 and statuses(estimates).endswith('S' * 37)
    places = np.stack([one.T_odom_camera[:3, 3] for one in estimates])
    np.testing.assert_allclose(places, np.tile(T_BASE_CAMERA[:3, 3], (40, 1)), atol=1e-12)
    assert 'wheel' in estimates[-1].reason
    traces = [np.trace(one.covariance) for one in estimates]
    assert traces == sorted(traces) and traces[-1] > traces[0]


def test_the_first_stamp_may_be_any_number(walk: Film, walked: list[OdometryEstimate]) -> None:
    early = [
        dataclasses.replace(frame, stamp_ns=frame.stamp_ns - START_NS) for frame in walk.frames
    ]
    estimates = run(early[:10])
    assert estimates[0].stamp_ns == 0
    np.testing.assert_array_equal(poses_of(estimates), poses_of(walked[:10]))
