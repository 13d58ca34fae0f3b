"""Where the camera is, how fast it moves, and how well both are known.

One small state between frames: the newest pose, its velocity, and covariances. Prediction is
constant velocity, and only for as long as a short blackout lasts: an odometry that keeps flying
on old speed is worse than one that stops and says so. Wheels and gyro, when given, know better.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.prediction import Felt, Prediction, Reckoning

COAST_S = 0.3  # how long a velocity is believed without a measurement
CRAWL = 0.2  # metres and radians a second that an unwatched camera may move with, at least
VAGUE = 0.01 * np.eye(6)  # of a velocity that was not measured: 0.1 m/s and rad/s
WHEELS, LEARNED = 'the wheels', 'learned motions'  # what may lead an unseen camera
_BREATH = np.diag([1e-6] * 3 + [1e-7] * 3)  # (1 mm, 0.02 deg)^2: never claim zero


@dataclasses.dataclass(frozen=True)
class Led:
    """How a camera that is not located has moved, as something else than wheels saw it.

    Attributes:
        T_prev_cur: (4, 4) motion since it was asked last, or since the last measured pose.
        dt_s: how long that took.
        T_left_cur: (4, 4) motion since the last measured pose.
        sigma: (6,) standard deviations of `T_left_cur`, local.
    """

    T_prev_cur: np.ndarray
    dt_s: float
    T_left_cur: np.ndarray
    sigma: np.ndarray


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
        in_metres: whether lengths are metres, so that the wheels speak of the same.
        led_by: what carries the pose while the camera sees nothing known; '' when nothing does.
        doubt: (6, 6) local, what the pose may be off since the last measured one, while it is
            carried; None when it is not, or when its velocity is still believed more.
    """

    def __init__(self, T_odom_camera: np.ndarray, prediction: Prediction | None = None) -> None:
        self._prediction = prediction
        self._reckoning: Reckoning | None = None
        self._stands = False
        self._T_astray = np.eye(4)  # guessed way since the last pose that was measured or led
        self._left_covariance: np.ndarray | None = None  # when the measured pose was left
        self.led_by = ''
        self.in_metres = False
        self.doubt: np.ndarray | None = None
        self.T_odom_camera = T_odom_camera
        self.covariance = _BREATH.copy()
        self.velocity = np.zeros(6)
        self.velocity_covariance = np.eye(6)
        self.stamp_ns: int | None = None
        self.measured_ns: int | None = None
        self._T_measured = T_odom_camera
        self._left_ns: int | None = None  # when that pose was left, as far as is known

    def predict(self, stamp_ns: int) -> np.ndarray:
        """(4, 4) expected pose at `stamp_ns`.

        As felt by wheels and gyro; without them constant velocity, held after `COAST_S` unless
        the last motion was led.
        """
        felt = self.feel(stamp_ns)
        if felt is not None:
            return self.T_odom_camera @ felt.T_prev_cur
        if self.stamp_ns is None:
            return self.T_odom_camera
        if not self.is_fresh(stamp_ns) and self.led_by != LEARNED:
            return self.T_odom_camera
        dt = (stamp_ns - self.stamp_ns) * 1e-9
        return self.T_odom_camera @ se3.exp_se3(self.velocity * dt)

    def feel(self, stamp_ns: int) -> Felt | None:
        """The motion from the newest pose on as wheels and gyro felt it, None without them."""
        if self._prediction is None or self.stamp_ns is None or self.measured_ns is None:
            return None
        velocity = self.velocity if self.is_fresh(stamp_ns) else np.zeros(6)
        return self._prediction.feel(self.stamp_ns, stamp_ns, velocity, in_metres=self.in_metres)

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
            self._compare(self._left_ns, stamp_ns, T_prev_cur)
            self.velocity = se3.log_se3(T_prev_cur) / dt
            self.velocity_covariance = 2.0 * (noise + _BREATH) / dt**2
        self.covariance = covariance + _BREATH
        self.T_odom_camera = self._T_measured = T_odom_camera
        self.stamp_ns = self.measured_ns = self._left_ns = stamp_ns
        self._land()

    def stand(self, stamp_ns: int) -> None:
        """The image has not changed: the pose is measured to be the last one.

        What moves it in the end may have been on its way unseen for a while, hence the speed is
        then taken over a moment, not over the last frame.
        """
        if self.stamp_ns is not None and self._stands and self._prediction is not None:
            self._prediction.rest(self.stamp_ns, stamp_ns)
            self._compare(self.stamp_ns, stamp_ns, np.eye(4))
        self._land()
        self._stands = True
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
        self._land()

    def place(self, T_odom_camera: np.ndarray) -> None:
        """Be elsewhere without having been measured there."""
        self.T_odom_camera = T_odom_camera
        self._reckoning = None

    def move(self, T_new_old: np.ndarray) -> None:
        """Re-express the state in another odom frame: poses become T_new_old @ pose."""
        self.place(T_new_old @ self.T_odom_camera)
        self._T_measured = T_new_old @ self._T_measured

    def adjust(self, T_odom_camera: np.ndarray) -> None:
        """Replace the newest pose by a better one of the same instant."""
        self.T_odom_camera = self._T_measured = T_odom_camera.copy()

    def coast(self, stamp_ns: int, lead: Callable[[], Led | None] | None = None) -> np.ndarray:
        """Let time pass without a measurement: the covariance grows.

        The wheels carry the pose; without them it is led, predicted for a moment, then held.

        Args:
            stamp_ns: the present.
            lead: asked, when the wheels are not there, how the camera has moved.

        Returns:
            (4, 4) the pose of before, as it is known now: a gap in the wheel odometry that ends
            tells what happened in it as well.
        """
        self._stands = False
        if self._left_covariance is None:
            self._left_covariance = self.covariance
        felt, T, T_before = self.feel(stamp_ns), self.predict(stamp_ns), self.T_odom_camera
        self.led_by = ''
        if self._carry(stamp_ns, felt):
            self._stray(T_before)
            T_step = np.eye(4) if felt is None else felt.T_prev_cur
            return self.T_odom_camera @ se3.inverse(T_step)
        led = None if lead is None else lead()
        if led is not None:
            return self._follow(stamp_ns, led)
        if self.stamp_ns is not None:
            dt = max(0.0, (stamp_ns - self.stamp_ns) * 1e-9)
            # The camera may by now move in any direction at the speed it had, at least crawl.
            speed = max(CRAWL, float(np.linalg.norm(self.velocity[:3])))
            turn = max(CRAWL, float(np.linalg.norm(self.velocity[3:])))
            if felt is not None and dt > 0.0:  # a gyro alone
                turn = float(np.linalg.norm(felt.growth[3:])) / dt
            self.covariance = grown(self.covariance, speed, turn, dt)
            if not self.is_fresh(stamp_ns):
                self.velocity = np.zeros(6)
            self.velocity_covariance = self.velocity_covariance + np.diag(
                np.array([speed] * 3 + [turn] * 3) ** 2 * min(1.0, 4 * dt)
            )
        self.T_odom_camera, self.stamp_ns = T, stamp_ns
        self._stray(T_before)
        return T_before

    def feel_back(self, stamp_ns: int, T_odom_camera: np.ndarray) -> np.ndarray:
        """(4, 4) where the camera was before, when it was not seen on the way to a measured pose.

        By the wheels. Without them nobody knows which part of the step it has just made: none.
        """
        felt = self.feel(stamp_ns)
        if felt is None or not felt.has_way:
            return T_odom_camera
        return T_odom_camera @ se3.inverse(felt.T_prev_cur)

    def _carry(self, stamp_ns: int, felt: Felt | None) -> bool:
        """Go on by the wheels; whether they were there."""
        self.doubt = None
        if self._prediction is None or self.stamp_ns is None or self.measured_ns is None:
            return False
        if not self.in_metres:
            return False
        dt_s = (stamp_ns - self.stamp_ns) * 1e-9
        here = Reckoning(self.stamp_ns, self.T_odom_camera, self.covariance)
        self._reckoning = self._reckoning or here
        if not self._reckoning.advance(self._prediction, stamp_ns):
            # A gap ends and the way from the last seen pose is known; a lost start does not.
            if not here.advance(self._prediction, stamp_ns):
                return False
            self._reckoning = here
        self.velocity, self.velocity_covariance = felt_velocity(felt, dt_s)
        self.T_odom_camera, self.doubt = self._reckoning.T_odom_camera, self._reckoning.doubt
        self.covariance = self._reckoning.covariance + _BREATH
        self.stamp_ns, self.led_by = stamp_ns, WHEELS
        return True

    def _follow(self, stamp_ns: int, led: Led) -> np.ndarray:
        """Go on by a motion that was seen; returns what `coast` does."""
        assert self._left_covariance is not None
        has_strayed = not np.array_equal(self._T_astray, np.eye(4))
        T_prev = self.T_odom_camera @ se3.inverse(self._T_astray)
        self.T_odom_camera, self._T_astray = T_prev @ led.T_prev_cur, np.eye(4)
        inherited = se3.transport_covariance(self._left_covariance, se3.inverse(led.T_left_cur))
        self.covariance = inherited + np.diag(led.sigma**2) + _BREATH
        if led.dt_s > 0.0:
            self.velocity = se3.log_se3(led.T_prev_cur) / led.dt_s
            self.velocity_covariance = np.diag(led.sigma**2) + VAGUE
        # What was seen is no reason yet to doubt a pose that a short blackout would allow.
        is_fresh = self.is_fresh(stamp_ns)
        self.doubt = None if is_fresh else np.diag(led.sigma**2) + _BREATH
        self.stamp_ns, self.led_by = stamp_ns, LEARNED
        # What it makes good of a guess is walked over, like any correction.
        return self.T_odom_camera if has_strayed else T_prev

    def _stray(self, T_before: np.ndarray) -> None:
        self._T_astray = self._T_astray @ se3.inverse(T_before) @ self.T_odom_camera

    def _land(self) -> None:
        """The pose is measured."""
        self._reckoning, self.doubt, self._stands = None, None, False
        self._T_astray, self._left_covariance, self.led_by = np.eye(4), None, ''

    def _compare(self, from_ns: int, to_ns: int, T_prev_cur: np.ndarray) -> None:
        if self._prediction is not None:
            self._prediction.judge(from_ns, to_ns, T_prev_cur, in_metres=self.in_metres)

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


def felt_velocity(felt: Felt | None, dt_s: float) -> tuple[np.ndarray, np.ndarray]:
    """(6,) body velocity of the camera and (6, 6) its covariance, by what was felt in `dt_s`."""
    if felt is None or dt_s <= 0.0:
        return np.zeros(6), np.eye(6)
    covariance = (felt.growth @ felt.growth.T + _BREATH) / dt_s**2
    return se3.log_se3(felt.T_prev_cur) / dt_s, covariance


def grown(covariance: np.ndarray, speed_m_s: float, turn_rad_s: float, dt_s: float) -> np.ndarray:
    """(6, 6) covariance of a held pose after `dt_s`: errors add up linearly, not in squares."""
    growth = np.array([speed_m_s] * 3 + [turn_rad_s] * 3) * dt_s
    return covariance + np.diag(growth**2 + 2.0 * growth * np.sqrt(np.diag(covariance)))
