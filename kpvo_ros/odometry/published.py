"""What the world is told: a pose that never jumps (REP-105), though the map may.

While a pose is measured from frame to frame, the told one is the map's. When tracking was lost and
found again, the adjustment moved the newest keyframes, or a stored keyframe was recognised, the
map's pose steps. The told pose takes every motion of the camera at once, but walks over the rest
of the way at a limited speed; until it has arrived, its covariance contains what is missing.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.motion import CRAWL, VAGUE, MotionState, grown
from kpvo_ros.odometry.prediction import Prediction, Reckoning

_ARRIVED = 1e-9  # metres and radians


class Published:
    """The told pose of the camera.

    Args:
        T_odom_camera: (4, 4) start.
        speed_m_s: how fast a correction of the position is walked over.
        speed_rad_s: how fast one of the rotation.
        prediction: wheels that carry the pose while the map has no metres; None without.

    Attributes:
        T_odom_camera: (4, 4) newest told pose.
        covariance: (6, 6) local.
        velocity: (6,) body velocity of the camera.
        velocity_covariance: (6, 6).
        in_metres: whether a pose in metres was told, that wheels can carry on.
    """

    def __init__(
        self,
        T_odom_camera: np.ndarray,
        speed_m_s: float,
        speed_rad_s: float,
        prediction: Prediction | None = None,
    ) -> None:
        self._prediction = prediction
        self._speed = speed_m_s, speed_rad_s
        self._stamp_ns: int | None = None
        self._reckoning: Reckoning | None = None
        self.in_metres = False
        start = MotionState(T_odom_camera)
        self.T_odom_camera = T_odom_camera
        self.covariance = start.covariance
        self.velocity = start.velocity
        self.velocity_covariance = start.velocity_covariance

    def follow(self, motion: MotionState, T_before: np.ndarray) -> None:
        """Take the motion of the camera since the last frame, and some of what is missing.

        Args:
            motion: the state in the map.
            T_before: (4, 4) pose of the last frame in the map as the map is now.
        """
        assert motion.stamp_ns is not None
        T_told = self.T_odom_camera @ se3.inverse(T_before) @ motion.T_odom_camera
        missing = se3.log_se3(se3.inverse(T_told) @ motion.T_odom_camera)
        last_ns = motion.stamp_ns if self._stamp_ns is None else self._stamp_ns
        share = self._share(missing, (motion.stamp_ns - last_ns) * 1e-9)
        self.T_odom_camera = (
            motion.T_odom_camera if share == 1.0 else T_told @ se3.exp_se3(share * missing)
        )
        left = (1.0 - share) * missing
        self.covariance = motion.covariance + np.outer(left, left)
        self._copy_velocity(motion)

    def jump(self, motion: MotionState) -> None:
        """Be where the map's pose is; for the first pose that is told."""
        self.T_odom_camera = motion.T_odom_camera
        self.covariance = motion.covariance
        self._copy_velocity(motion)

    def hold(self, motion: MotionState) -> bool:
        """The map tells nothing of the camera's way in metres: stay, and doubt more and more.

        Returns:
            Whether wheels carried the pose on instead.
        """
        assert motion.stamp_ns is not None
        last_ns = motion.stamp_ns if self._stamp_ns is None else self._stamp_ns
        if self._carry(last_ns, motion.stamp_ns):
            return True
        dt_s = (motion.stamp_ns - last_ns) * 1e-9
        self.covariance = grown(self.covariance, CRAWL, CRAWL, dt_s)
        self.velocity, self.velocity_covariance = np.zeros(6), np.eye(6)
        self._stamp_ns = motion.stamp_ns
        return False

    def _carry(self, last_ns: int, stamp_ns: int) -> bool:
        if self._prediction is None or not self.in_metres:
            return False
        reckoning = self._reckoning
        if reckoning is None:
            reckoning = Reckoning(last_ns, self.T_odom_camera, self.covariance)
        if not reckoning.advance(self._prediction, stamp_ns):
            self._reckoning = None
            return False
        T_prev_cur = se3.inverse(self.T_odom_camera) @ reckoning.T_odom_camera
        self._reckoning = reckoning
        self.T_odom_camera, self.covariance = reckoning.T_odom_camera, reckoning.covariance
        if stamp_ns > last_ns:
            self.velocity = se3.log_se3(T_prev_cur) * 1e9 / (stamp_ns - last_ns)
            self.velocity_covariance = VAGUE
        self._stamp_ns = stamp_ns
        return True

    def _copy_velocity(self, motion: MotionState) -> None:
        self.velocity = motion.velocity
        self.velocity_covariance = motion.velocity_covariance
        self._stamp_ns = motion.stamp_ns
        self._reckoning = None

    def _share(self, missing: np.ndarray, dt_s: float) -> float:
        """How much of the missing way is gone within `dt_s`."""
        share = 1.0
        for part, speed in zip((missing[:3], missing[3:]), self._speed, strict=True):
            length = float(np.linalg.norm(part))
            if length > max(_ARRIVED, speed * dt_s):
                share = min(share, speed * dt_s / length)
        return share
