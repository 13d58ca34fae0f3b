"""From the camera's told pose to what the robot is told about its base."""

from __future__ import annotations

import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.published import Published
from kpvo_ros.odometry.scale_doubt import ScaleDoubt
from kpvo_ros.odometry.waiting import WaitingFrame
from kpvo_ros.types import BadFrame, Features, OdometryEstimate, Status

NO_FEATURES = Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 0)))


class EstimateBuilder:
    """Knows where the camera sits on the robot.

    Covariances are turned from local camera perturbations into ROS's order and axes
    (x y z rx ry rz in the parent frame; nav_msgs/Odometry), the twist into base axes.
    """

    def __init__(self, T_base_camera: np.ndarray, scale_memory_m: float) -> None:
        self._scale_memory_m = scale_memory_m
        self.restart()
        self._T_base_camera = T_base_camera
        self._T_camera_base = se3.inverse(T_base_camera)

    def restart(self) -> None:
        """A new run begins: its start is known exactly."""
        self._doubt = ScaleDoubt(self._scale_memory_m)

    def lost(
        self, told: Published, bad: BadFrame, scale_sigma: float, map_id: int
    ) -> OdometryEstimate:
        """The answer to a frame that was ignored: the present state, without a pose."""
        return self.build(
            told,
            bad.stamp_ns,
            status=Status.LOST,
            reason=bad.reason,
            features=NO_FEATURES,
            inliers=0,
            scale_sigma=scale_sigma,
            is_keyframe=False,
            map_id=max(0, map_id),
            stage_ms={},
        )

    def late(self, frame: WaitingFrame, scale_sigma: float, map_id: int) -> OdometryEstimate:
        """The answer to a frame that had to wait for the map; it must be located."""
        assert frame.T_odom_camera is not None and frame.covariance is not None
        told = Published(frame.T_odom_camera, 0.0, 0.0)
        told.covariance = frame.covariance
        return self.build(
            told,
            frame.stamp_ns,
            status=Status.TRACKING,
            reason='told late: the map was just being made',
            features=NO_FEATURES,
            inliers=0,
            scale_sigma=scale_sigma,
            is_keyframe=False,
            map_id=map_id,
            stage_ms={},
        )

    def build(
        self,
        told: Published,
        stamp_ns: int,
        *,
        status: Status,
        reason: str,
        features: Features,
        inliers: int,
        scale_sigma: float,
        is_keyframe: bool,
        map_id: int,
        stage_ms: dict[str, float],
        T_map_odom: np.ndarray | None = None,
    ) -> OdometryEstimate:
        """Assemble the answer for one frame.

        Args:
            told: pose after the frame.
            stamp_ns: stamp of the frame.
            status: of the tracking.
            reason: of the status.
            features: keypoints of the frame.
            inliers: how many support the pose.
            scale_sigma: relative standard deviation of the metric scale.
            is_keyframe: whether the frame joined the map.
            map_id: of the map the pose is measured in.
            stage_ms: wall time per stage.
            T_map_odom: (4, 4) correction by loop closure, None without.
        """
        T_odom_base = told.T_odom_camera @ self._T_camera_base
        local = se3.transport_covariance(told.covariance, self._T_base_camera)
        covariance = se3.local_to_ros_covariance(local, T_odom_base)
        covariance[:3, :3] += self._doubt.at(T_odom_base[:3, 3], scale_sigma)
        twist = se3.adjoint(self._T_base_camera) @ told.velocity
        twist_covariance = se3.transport_covariance(told.velocity_covariance, self._T_base_camera)
        return OdometryEstimate(
            stamp_ns=stamp_ns,
            T_odom_base=T_odom_base,
            T_odom_camera=told.T_odom_camera,
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
            map_id=map_id,
            stage_ms=stage_ms,
            T_map_odom=T_map_odom,
        )
