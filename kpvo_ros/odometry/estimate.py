"""From the camera's motion state to what the robot is told about its base."""

from __future__ import annotations

import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.motion import MotionState
from kpvo_ros.types import BadFrame, Features, OdometryEstimate, Status


class EstimateBuilder:
    """Knows where the camera sits on the robot.

    Covariances are turned from local camera perturbations into ROS's order and axes
    (x y z rx ry rz in the parent frame; nav_msgs/Odometry), the twist into base axes.
    """

    def __init__(self, T_base_camera: np.ndarray) -> None:
        self._T_base_camera = T_base_camera
        self._T_camera_base = se3.inverse(T_base_camera)

    def lost(self, motion: MotionState, bad: BadFrame, scale_sigma: float) -> OdometryEstimate:
        """The answer to a frame that was ignored: the present state, without a pose."""
        nothing = Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 0)))
        return self.build(
            motion,
            bad.stamp_ns,
            status=Status.LOST,
            reason=bad.reason,
            features=nothing,
            inliers=0,
            scale_sigma=scale_sigma,
            is_keyframe=False,
            stage_ms={},
        )

    def build(
        self,
        motion: MotionState,
        stamp_ns: int,
        *,
        status: Status,
        reason: str,
        features: Features,
        inliers: int,
        scale_sigma: float,
        is_keyframe: bool,
        stage_ms: dict[str, float],
    ) -> OdometryEstimate:
        """Assemble the answer for one frame.

        Args:
            motion: state after the frame.
            stamp_ns: stamp of the frame.
            status: of the tracking.
            reason: of the status.
            features: keypoints of the frame.
            inliers: how many support the pose.
            scale_sigma: relative standard deviation of the metric scale.
            is_keyframe: whether the frame joined the map.
            stage_ms: wall time per stage.
        """
        T_odom_base = motion.T_odom_camera @ self._T_camera_base
        local = se3.transport_covariance(motion.covariance, self._T_base_camera)
        covariance = se3.local_to_ros_covariance(local, T_odom_base)
        # A wrong scale stretches the whole way from the start.
        way = T_odom_base[:3, 3]
        covariance[:3, :3] += scale_sigma**2 * np.outer(way, way)
        twist = se3.adjoint(self._T_base_camera) @ motion.velocity
        twist_covariance = se3.transport_covariance(
            motion.velocity_covariance, self._T_base_camera
        )
        return OdometryEstimate(
            stamp_ns=stamp_ns,
            T_odom_base=T_odom_base,
            T_odom_camera=motion.T_odom_camera,
            covariance=covariance,
            twist=twist,
            twist_covariance=twist_covariance,
            status=status,
            reason=reason,
            features=features,
            inliers=inliers,
            scale=1.0,
            scale_sigma=scale_sigma,
            is_keyframe=is_keyframe,
            stage_ms=stage_ms,
        )
