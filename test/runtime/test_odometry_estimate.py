"""What is told about the base: axes of covariance and twist, the way a wrong scale stretches."""

from __future__ import annotations

import numpy as np
from points_world import pose
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.estimate import EstimateBuilder
from kpvo_ros.odometry.motion import MotionState
from kpvo_ros.odometry.published import Published
from kpvo_ros.odometry.stopwatch import Stopwatch
from kpvo_ros.odometry.waiting import WaitingFrame
from kpvo_ros.types import BadFrame, Features, OdometryEstimate, Status

NOTHING = Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 32)))
T_BASE_CAMERA = se3.from_rt(
    Rotation.from_euler('xyz', [0.1, 0.2, 0.3]).as_matrix() @ se3.T_BASE_OPTICAL[:3, :3],
    [0.3, -0.1, 0.8],
)


def told(motion: MotionState) -> Published:
    """The world is told just what the map says."""
    told = Published(motion.T_odom_camera, 1.0, 1.0)
    told.jump(motion)
    return told


def estimate_of(
    motion: MotionState, scale_sigma: float = 0.0, builder: EstimateBuilder | None = None
) -> OdometryEstimate:
    builder = builder or EstimateBuilder(T_BASE_CAMERA, np.inf)
    return builder.build(
        told(motion),
        7,
        status=Status.TRACKING,
        reason='',
        features=NOTHING,
        inliers=12,
        scale_sigma=scale_sigma,
        is_keyframe=True,
        map_id=3,
        stage_ms={'solve': 1.0},
    )


def test_the_base_is_where_the_camera_says_it_is() -> None:
    T_odom_base = pose(3.0, -2.0, 0.5, (0.1, -0.3, 1.2))
    estimate = estimate_of(MotionState(T_odom_base @ T_BASE_CAMERA))
    np.testing.assert_allclose(estimate.T_odom_base, T_odom_base, atol=1e-12)
    np.testing.assert_allclose(estimate.T_odom_camera, T_odom_base @ T_BASE_CAMERA, atol=1e-12)
    assert (estimate.stamp_ns, estimate.inliers, estimate.map_id) == (7, 12, 3)
    assert estimate.is_keyframe and estimate.T_map_odom is None
    assert estimate.has_pose


def test_the_twist_is_the_body_velocity_of_the_base() -> None:
    """Against finite differences of a base on an arc, seen through its camera."""
    twist = np.array([0.8, 0.1, -0.05, 0.1, -0.2, 0.6])
    dt = 1e-4

    def base(t: float) -> np.ndarray:
        return pose(1.0, 2.0, 0.0, (0.2, 0.1, 0.4)) @ se3.exp_se3(twist * t)

    motion = MotionState(base(0.0) @ T_BASE_CAMERA)
    motion.begin(0)
    motion.measure(int(dt * 1e9), base(dt) @ T_BASE_CAMERA, *[1e-9 * np.eye(6)] * 2)
    estimate = estimate_of(motion)
    np.testing.assert_allclose(estimate.twist, twist, atol=1e-6)
    linear = base(dt)[:3, :3].T @ (base(dt)[:3, 3] - base(0)[:3, 3]) / dt
    np.testing.assert_allclose(estimate.twist[:3], linear, atol=1e-3)


def test_the_covariance_is_that_of_samples_of_the_base_in_odom_axes(
    rng: np.random.Generator,
) -> None:
    """ROS: position in odom axes, rotation as a small turn about odom axes."""
    motion = MotionState(pose(3.0, -2.0, 0.5, (0.4, -0.3, 1.2)) @ T_BASE_CAMERA)
    A = rng.normal(size=(6, 6)) * 0.01
    motion.covariance = A @ A.T + 1e-6 * np.eye(6)
    estimate = estimate_of(motion)
    xi = rng.multivariate_normal(np.zeros(6), motion.covariance, 40000)
    T = motion.T_odom_camera @ se3.exp_se3(xi) @ se3.inverse(T_BASE_CAMERA)
    turn = (
        Rotation.from_matrix(T[:, :3, :3])
        * Rotation.from_matrix(estimate.T_odom_base[:3, :3]).inv()
    )
    samples = np.column_stack([T[:, :3, 3] - estimate.T_odom_base[:3, 3], turn.as_rotvec()])
    scale = np.abs(estimate.covariance).max()
    np.testing.assert_allclose(np.cov(samples.T), estimate.covariance, atol=0.03 * scale)


def test_the_covariance_of_the_twist_is_that_of_samples(rng: np.random.Generator) -> None:
    motion = MotionState(np.eye(4))
    A = rng.normal(size=(6, 6)) * 0.1
    motion.velocity_covariance = A @ A.T
    estimate = estimate_of(motion)
    # A rigid body: the velocity of the base from that of the camera, by hand.
    v = rng.multivariate_normal(np.zeros(6), motion.velocity_covariance, 40000)
    R, t = T_BASE_CAMERA[:3, :3], T_BASE_CAMERA[:3, 3]
    w = v[:, 3:] @ R.T
    linear = v[:, :3] @ R.T + np.cross(t, w)
    measured = np.cov(np.column_stack([linear, w]).T)
    scale = np.abs(measured).max()
    np.testing.assert_allclose(estimate.twist_covariance, measured, atol=0.03 * scale)


def estimates_along(
    places: list[tuple[float, float]], scale_sigma: float
) -> list[OdometryEstimate]:
    builder = EstimateBuilder(T_BASE_CAMERA, np.inf)
    motions = [MotionState(pose(x, y, 0.0) @ T_BASE_CAMERA) for x, y in places]
    return [estimate_of(motion, scale_sigma, builder) for motion in motions]


def test_a_doubtful_scale_is_doubt_along_the_way_from_the_start() -> None:
    places = [(0.0, 0.0), (1.5, 2.0), (3.0, 4.0)]
    sure, doubtful = (estimates_along(places, sigma)[-1] for sigma in (0.0, 0.1))
    extra = doubtful.covariance - sure.covariance
    along = np.array([0.6, 0.8, 0.0])
    np.testing.assert_allclose(extra[:3, :3], 0.25 * np.outer(along, along), atol=1e-12)
    np.testing.assert_array_equal(extra[3:], 0.0)
    assert doubtful.scale_sigma == 0.1


def test_back_at_the_start_a_constant_error_of_the_scale_is_gone() -> None:
    places = [(0.0, 0.0), (3.0, 4.0), (5.0, -2.0), (0.0, 0.0)]
    sure, doubtful = (estimates_along(places, sigma) for sigma in (0.0, 0.1))
    np.testing.assert_allclose(doubtful[-1].covariance, sure[-1].covariance, atol=1e-12)
    assert doubtful[2].covariance[0, 0] > sure[2].covariance[0, 0] + 0.1


def test_a_new_run_knows_its_start(rng: np.random.Generator) -> None:
    builder = EstimateBuilder(T_BASE_CAMERA, np.inf)
    estimate_of(MotionState(T_BASE_CAMERA), 0.1, builder)
    builder.restart()
    far = MotionState(pose(50.0, 0.0, 0.0) @ T_BASE_CAMERA)
    assert estimate_of(far, 0.1, builder).covariance[0, 0] < 1.0


def test_an_ignored_frame_is_answered_with_the_present_state() -> None:
    motion = MotionState(pose(1.0, 0.0, 0.0) @ T_BASE_CAMERA)
    estimate = EstimateBuilder(T_BASE_CAMERA, np.inf).lost(
        told(motion), BadFrame(9, 'late'), 0.01, 2
    )
    assert (estimate.stamp_ns, estimate.status, estimate.reason) == (9, Status.LOST, 'late')
    assert not estimate.has_pose and len(estimate.features) == 0 and estimate.map_id == 2
    np.testing.assert_allclose(estimate.T_odom_base, pose(1.0, 0.0, 0.0), atol=1e-12)


def test_a_pose_told_late_is_that_of_the_waiting_frame() -> None:
    T_odom_base = pose(3.0, -2.0, 0.5, (0.1, -0.3, 1.2))
    frame = WaitingFrame(5, None, T_odom_base @ T_BASE_CAMERA, 1e-4 * np.eye(6))
    estimate = EstimateBuilder(T_BASE_CAMERA, np.inf).late(frame, 0.02, 4)
    assert (estimate.stamp_ns, estimate.map_id, estimate.scale_sigma) == (5, 4, 0.02)
    assert estimate.has_pose and 'late' in estimate.reason
    np.testing.assert_allclose(estimate.T_odom_base, T_odom_base, atol=1e-12)
    # Isotropic rotation of the camera moves the base by its lever; the rotation itself stays.
    np.testing.assert_allclose(estimate.covariance[3:, 3:], 1e-4 * np.eye(3), atol=1e-12)
    assert (np.diag(estimate.covariance[:3, :3]) > 1e-4).all()


def test_a_stage_entered_twice_adds_up_and_survives_an_error() -> None:
    watch = Stopwatch()
    with watch.stage('a'):
        pass
    first = watch.stage_ms['a']
    with pytest.raises(RuntimeError), watch.stage('a'):
        raise RuntimeError
    assert watch.stage_ms['a'] >= first >= 0
    assert list(watch.stage_ms) == ['a']
