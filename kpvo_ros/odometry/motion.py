"""Where the camera is, how fast it moves, and how well both are known.

One small state between frames: the newest pose, its velocity, and covariances. Prediction is
constant velocity, and only for as long as a short blackout lasts: an odometry that keeps flying
on old speed is worse than one that stops and says so.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.geometry import se3

COAST_S = 0.3  # how long a velocity is believed without a measurement
_BREATH = np.diag([1e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5])  # (1 cm, 0.2 deg)^2: never claim zero


class MotionState:
    """Pose and velocity of the camera in the odom frame.

    Covariances are local: T = T_mean exp(xi), xi = (x y z rx ry rz) in camera axes.

    Attributes:
        T_odom_camera: (4, 4) newest pose.
        covariance: (6, 6) of that pose, accumulated since the start.
        velocity: (6,) body velocity of the camera, metres and radians a second.
        velocity_covariance: (6, 6) of it.
        stamp_ns: time of the newest pose, None before the first.
        measured_ns: time of the newest measured pose, None before the first.
    """

    def __init__(self, T_odom_camera: np.ndarray) -> None:
        self.T_odom_camera = T_odom_camera
        self.covariance = _BREATH.copy()
        self.velocity = np.zeros(6)
        self.velocity_covariance = np.eye(6)
        self.stamp_ns: int | None = None
        self.measured_ns: int | None = None
        self._T_measured = T_odom_camera
        self._T_reference, self._reference_covariance = T_odom_camera, self.covariance

    def predict(self, stamp_ns: int) -> np.ndarray:
        """(4, 4) expected pose at `stamp_ns`: constant velocity, held after `COAST_S`."""
        if self.stamp_ns is None or not self._believes_velocity(stamp_ns):
            return self.T_odom_camera
        dt = (stamp_ns - self.stamp_ns) * 1e-9
        return self.T_odom_camera @ se3.exp_se3(self.velocity * dt)

    def measure(
        self, stamp_ns: int, T_odom_camera: np.ndarray, measurement_covariance: np.ndarray
    ) -> None:
        """Take a measured pose.

        Args:
            stamp_ns: its time.
            T_odom_camera: (4, 4).
            measurement_covariance: (6, 6) local, of this pose relative to the map.
        """
        if self.measured_ns is not None and stamp_ns > self.measured_ns:
            dt = (stamp_ns - self.measured_ns) * 1e-9
            T_prev_cur = se3.inverse(self._T_measured) @ T_odom_camera
            self.velocity = se3.log_se3(T_prev_cur) / dt
            self.velocity_covariance = 2.0 * (measurement_covariance + 1e-2 * _BREATH) / dt**2
        # The map was made from the reference keyframe, so its uncertainty is inherited.
        T_camera_reference = se3.inverse(T_odom_camera) @ self._T_reference
        inherited = se3.transport_covariance(self._reference_covariance, T_camera_reference)
        self.covariance = inherited + measurement_covariance + 1e-2 * _BREATH
        self.T_odom_camera = self._T_measured = T_odom_camera
        self.stamp_ns = self.measured_ns = stamp_ns

    def begin(self, stamp_ns: int) -> None:
        """A map begins at the held pose: its covariance is what has grown until now."""
        self._T_measured = self.T_odom_camera
        self.stamp_ns = self.measured_ns = stamp_ns
        self.velocity = np.zeros(6)
        self.set_reference()

    def move(self, T_new_old: np.ndarray) -> None:
        """Re-express the state in another odom frame: poses become T_new_old @ pose."""
        self.T_odom_camera = T_new_old @ self.T_odom_camera
        self._T_measured = T_new_old @ self._T_measured
        self._T_reference = T_new_old @ self._T_reference

    def adjust(self, T_odom_camera: np.ndarray) -> None:
        """Replace the newest pose by a better one of the same instant."""
        self.T_odom_camera = self._T_measured = T_odom_camera

    def set_reference(self) -> None:
        """The newest pose became a keyframe: later poses inherit its covariance."""
        self._T_reference, self._reference_covariance = self.T_odom_camera, self.covariance

    def coast(self, stamp_ns: int) -> None:
        """Let time pass without a measurement: predict, then hold; the covariance grows."""
        T = self.predict(stamp_ns)
        if self.stamp_ns is not None:
            dt = max(0.0, (stamp_ns - self.stamp_ns) * 1e-9)
            # The camera may by now move in any direction at the speed it had, at least crawl.
            speed = max(0.2, float(np.linalg.norm(self.velocity[:3])))
            turn = max(0.2, float(np.linalg.norm(self.velocity[3:])))
            growth = np.array([speed] * 3 + [turn] * 3) * dt
            self.covariance = (
                self.covariance + np.diag(growth**2) + 2 * np.diag(growth) @ _root(self.covariance)
            )
            if not self._believes_velocity(stamp_ns):
                self.velocity = np.zeros(6)
            self.velocity_covariance = self.velocity_covariance + np.diag(
                np.array([speed] * 3 + [turn] * 3) ** 2 * min(1.0, 4 * dt)
            )
        self.T_odom_camera, self.stamp_ns = T, stamp_ns

    def rescale(self, factor: float) -> None:
        """Lengths became `factor` times longer (about the present position)."""
        self.velocity[:3] *= factor

    def implied_speed(self, stamp_ns: int, T_odom_camera: np.ndarray) -> tuple[float, float]:
        """(metres a second, radians a second) a pose would need since the last measured one."""
        if self.measured_ns is None or stamp_ns <= self.measured_ns:
            return 0.0, 0.0
        dt = (stamp_ns - self.measured_ns) * 1e-9
        T = se3.inverse(self._T_measured) @ T_odom_camera
        return float(np.linalg.norm(T[:3, 3])) / dt, float(se3.rotation_angle_rad(T[:3, :3])) / dt

    def _believes_velocity(self, stamp_ns: int) -> bool:
        return self.measured_ns is not None and stamp_ns - self.measured_ns < COAST_S * 1e9


def _root(covariance: np.ndarray) -> np.ndarray:
    """Diagonal of standard deviations: errors of a held pose add up linearly, not in squares."""
    return np.diag(np.sqrt(np.diag(covariance)))
