"""Where the camera is, how fast it moves, and how well both are known.

One small state between frames: the newest pose, its velocity, and covariances. Prediction is
constant velocity, and only for as long as a short blackout lasts: an odometry that keeps flying
on old speed is worse than one that stops and says so.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.geometry import se3

COAST_S = 0.3  # how long a velocity is believed without a measurement
CRAWL = 0.2  # metres and radians a second that an unwatched camera may move with, at least
_BREATH = np.diag([1e-6] * 3 + [1e-7] * 3)  # (1 mm, 0.02 deg)^2: never claim zero


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
        self._left_ns: int | None = None  # when that pose was left, as far as is known

    def predict(self, stamp_ns: int) -> np.ndarray:
        """(4, 4) expected pose at `stamp_ns`: constant velocity, held after `COAST_S`."""
        if self.stamp_ns is None or not self.is_fresh(stamp_ns):
            return self.T_odom_camera
        dt = (stamp_ns - self.stamp_ns) * 1e-9
        return self.T_odom_camera @ se3.exp_se3(self.velocity * dt)

    def is_fresh(self, stamp_ns: int) -> bool:
        """Whether the last measured pose is so young that its velocity is still believed."""
        return self.measured_ns is not None and stamp_ns - self.measured_ns < COAST_S * 1e9

    def measure(
        self, stamp_ns: int, T_odom_camera: np.ndarray, covariance: np.ndarray, noise: np.ndarray
    ) -> None:
        """Take a measured pose.

        Args:
            stamp_ns: its time.
            T_odom_camera: (4, 4).
            covariance: (6, 6) local, of this pose since the start.
            noise: (6, 6) local, of this pose within the map; two of them make a velocity.
        """
        if self._left_ns is not None and stamp_ns > self._left_ns:
            dt = (stamp_ns - self._left_ns) * 1e-9
            T_prev_cur = se3.inverse(self._T_measured) @ T_odom_camera
            self.velocity = se3.log_se3(T_prev_cur) / dt
            self.velocity_covariance = 2.0 * (noise + _BREATH) / dt**2
        self.covariance = covariance + _BREATH
        self.T_odom_camera = self._T_measured = T_odom_camera
        self.stamp_ns = self.measured_ns = self._left_ns = stamp_ns

    def stand(self, stamp_ns: int) -> None:
        """The image has not changed: the pose is measured to be the last one.

        What moves it in the end may have been on its way unseen for a while, hence the speed is
        then taken over a moment, not over the last frame.
        """
        self.velocity = np.zeros(6)
        self.velocity_covariance = _BREATH
        self._T_measured = self.T_odom_camera
        self.stamp_ns = self.measured_ns = stamp_ns
        moment_ns = stamp_ns - int(COAST_S * 1e9)
        self._left_ns = moment_ns if self._left_ns is None else max(self._left_ns, moment_ns)

    def begin(self, stamp_ns: int) -> None:
        """A map begins at the held pose: its covariance is what has grown until now."""
        self._T_measured = self.T_odom_camera
        self.stamp_ns = self.measured_ns = self._left_ns = stamp_ns
        self.velocity = np.zeros(6)

    def move(self, T_new_old: np.ndarray) -> None:
        """Re-express the state in another odom frame: poses become T_new_old @ pose."""
        self.T_odom_camera = T_new_old @ self.T_odom_camera
        self._T_measured = T_new_old @ self._T_measured

    def adjust(self, T_odom_camera: np.ndarray) -> None:
        """Replace the newest pose by a better one of the same instant."""
        self.T_odom_camera = self._T_measured = T_odom_camera.copy()

    def coast(self, stamp_ns: int) -> None:
        """Let time pass without a measurement: predict, then hold; the covariance grows."""
        T = self.predict(stamp_ns)
        if self.stamp_ns is not None:
            dt = max(0.0, (stamp_ns - self.stamp_ns) * 1e-9)
            # The camera may by now move in any direction at the speed it had, at least crawl.
            speed = max(CRAWL, float(np.linalg.norm(self.velocity[:3])))
            turn = max(CRAWL, float(np.linalg.norm(self.velocity[3:])))
            self.covariance = grown(self.covariance, speed, turn, dt)
            if not self.is_fresh(stamp_ns):
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


def grown(covariance: np.ndarray, speed_m_s: float, turn_rad_s: float, dt_s: float) -> np.ndarray:
    """(6, 6) covariance of a held pose after `dt_s`: errors add up linearly, not in squares."""
    growth = np.array([speed_m_s] * 3 + [turn_rad_s] * 3) * dt_s
    return covariance + np.diag(growth**2 + 2.0 * growth * np.sqrt(np.diag(covariance)))
