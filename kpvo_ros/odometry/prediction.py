"""What the robot feels of its own motion: wheels and gyro, between images and without them.

Between two images it says where to look for the points of the map, better than a constant velocity
does when the robot turns or brakes. While the camera sees nothing, it carries the pose on
(`Reckoning`). A sense that contradicts the camera is not believed until they agree again: wheels
slip, and a gyro may sit in other axes than it says.

The errors of both senses last: a wheel that is too small is so all the way. They therefore add up
linearly, each in its direction in the base, after Borenstein and Feng 1996 ("Measurement and
correction of systematic odometry errors in mobile robots").
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from kpvo_ros.config.runtime import PredictionConfig
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.gyro_log import GyroLog
from kpvo_ros.odometry.pose_log import PoseLog
from kpvo_ros.types import Gyro, WheelOdometry

CREEP_M_S = 0.003  # and radians: by which a reckoned pose may be off further after each second
GYRO_SHARE = 0.005  # of a turn, that a gyro gets wrong (scale, axes)
_STRIKES = 2  # contradictions in a row before a sense is not believed
_AGREE_M, _AGREE_RAD = 0.02, 0.02  # differences that contradict nothing
_AGREE_SHARE = 0.3  # of the motion, the same
_COMPARED_NS = 300_000_000  # over which motions are compared: a slow robot shows little in a frame
_LONGEST_NS = 500_000_000  # step that may take part
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Felt:
    """A motion of the camera as the body felt it.

    Attributes:
        T_prev_cur: (4, 4).
        growth: (6, 6) its error in axes of the camera after it, a column per lasting cause; the
            covariance is growth @ growth.T.
        has_way: whether the position was felt as well, not only the rotation.
    """

    T_prev_cur: np.ndarray
    growth: np.ndarray
    has_way: bool


class Prediction:
    """Wheels and gyro of one robot.

    Args:
        config: which of them are used, and how good they are.
        T_base_camera: (4, 4) pose of the optical frame in the base.
    """

    def __init__(self, config: PredictionConfig, T_base_camera: np.ndarray) -> None:
        self._config = config
        self._T_base_camera = T_base_camera
        self._T_camera_base = se3.inverse(T_base_camera)
        self._wheels = PoseLog()
        self._gyro = GyroLog(config.gyro_bias_sigma_rad_s)
        self._wheel_trust = _Trust('wheels', 'do they slip, or is prediction.wheel a wrong topic?')
        self._gyro_trust = _Trust('gyro', 'is its frame in TF, and its unit rad/s?')

    @property
    def gyro_bias_rad_s(self) -> np.ndarray:
        """(3,) learned at rest, in base axes."""
        return self._gyro.bias_rad_s

    @property
    def newest_wheel_ns(self) -> int | None:
        """Stamp of the newest wheel pose."""
        return self._wheels.newest_ns

    def offer_wheel(self, wheel: WheelOdometry) -> None:
        """Take a wheel pose; with prediction.wheel."""
        if self._config.wheel:
            self._wheels.add(wheel.stamp_ns, wheel.T_odom_base)

    def offer_gyro(self, gyro: Gyro) -> None:
        """Take a rate; with prediction.gyro."""
        if self._config.gyro:
            self._gyro.add(gyro.stamp_ns, gyro.angular_velocity)

    def rest(self, from_ns: int, to_ns: int) -> None:
        """The camera saw that nothing moved between two instants."""
        self._gyro.learn(from_ns, to_ns)

    def feel(
        self, from_ns: int, to_ns: int, velocity: np.ndarray, *, in_metres: bool
    ) -> Felt | None:
        """The motion of the camera between two instants; None when nothing was felt.

        Args:
            from_ns: the earlier.
            to_ns: the later.
            velocity: (6,) body velocity of the camera, whose way is taken where none is felt.
            in_metres: whether wheels and map have the same unit.
        """
        step = self._wheels.step(from_ns, to_ns) if in_metres and self._wheel_trust.holds else None
        R = self._gyro.turn(from_ns, to_ns) if self._gyro_trust.holds else None
        if step is None and R is None:
            return None
        dt_s = (to_ns - from_ns) * 1e-9
        has_way = step is not None
        if step is None:
            assert R is not None
            twist = se3.adjoint(self._T_base_camera) @ velocity * dt_s
            step = se3.exp_se3(np.concatenate([twist[:3], se3.log_so3(R)]))
        elif R is not None:
            step = se3.from_rt(R, step[:3, 3])
        sigma = self._sigma(step, dt_s, has_gyro=R is not None)
        growth = se3.adjoint(self._T_camera_base) @ np.diag(sigma)
        return Felt(self._T_camera_base @ step @ self._T_base_camera, growth, has_way)

    def judge(self, from_ns: int, to_ns: int, T_prev_cur: np.ndarray, *, in_metres: bool) -> None:
        """Compare what was felt with the motion (4, 4) of the camera that was measured."""
        if to_ns - from_ns > _LONGEST_NS:
            return
        seen = self._T_base_camera @ T_prev_cur @ self._T_camera_base
        step = self._wheels.step(from_ns, to_ns) if in_metres else None
        if step is not None:
            self._wheel_trust.compare(from_ns, to_ns, step, seen)
        R = self._gyro.turn(from_ns, to_ns)
        if R is not None:
            self._gyro_trust.compare(from_ns, to_ns, _turn_only(R), _turn_only(seen[:3, :3]))

    def _sigma(self, step: np.ndarray, dt_s: float, *, has_gyro: bool) -> np.ndarray:
        """(6,) standard deviations of a motion of the base, in its axes."""
        way = float(np.linalg.norm(step[:3, 3]))
        turn = float(se3.rotation_angle_rad(step[:3, :3]))
        config, creep = self._config, CREEP_M_S * dt_s
        if has_gyro:
            turned = self._gyro.bias_sigma_rad_s * dt_s + GYRO_SHARE * turn
        else:
            per_metre = np.deg2rad(config.wheel_turn_sigma_deg_m)
            turned = per_metre * way + config.wheel_turn_sigma * turn + creep
        return np.array([config.wheel_way_sigma * way + creep] * 3 + [turned] * 3)


class Reckoning:
    """A pose that nobody sees, carried on by what the body feels (dead reckoning).

    It rests on the newest wheel pose, not on the newest image: what was guessed because a message
    was late is forgotten when the message comes.

    Args:
        stamp_ns: when the pose was measured last.
        T_odom_camera: (4, 4) that pose.
        covariance: (6, 6) local, since the start.
    """

    def __init__(self, stamp_ns: int, T_odom_camera: np.ndarray, covariance: np.ndarray) -> None:
        self._stamp_ns = stamp_ns
        self._T_odom_camera = T_odom_camera
        self._inherited = covariance
        self._growth = np.zeros((6, 6))
        self.T_odom_camera = T_odom_camera
        self.covariance = covariance
        self.doubt = np.zeros((6, 6))

    def advance(self, prediction: Prediction, stamp_ns: int) -> bool:
        """Go on to an instant.

        Afterwards `T_odom_camera` is (4, 4) the pose there, `covariance` (6, 6) local since the
        start, and `doubt` (6, 6) what has grown since the last measured pose.

        Returns:
            Whether it could; if not, nothing has changed.
        """
        newest_ns = prediction.newest_wheel_ns
        middle_ns = self._stamp_ns if newest_ns is None else newest_ns
        middle_ns = int(np.clip(middle_ns, self._stamp_ns, max(self._stamp_ns, stamp_ns)))
        firm = _feel_way(prediction, self._stamp_ns, middle_ns)
        rest = _feel_way(prediction, middle_ns, stamp_ns)
        if firm is None or rest is None:
            return False
        self._stamp_ns = middle_ns
        self._T_odom_camera = self._T_odom_camera @ firm.T_prev_cur
        self._inherited, self._growth = _passed_on(self._inherited, self._growth, firm)
        inherited, growth = _passed_on(self._inherited, self._growth, rest)
        self.T_odom_camera = self._T_odom_camera @ rest.T_prev_cur
        self.doubt = growth @ growth.T
        self.covariance = inherited + self.doubt
        return True


class _Trust:
    """Whether a sense is believed."""

    def __init__(self, name: str, advice: str) -> None:
        self._name, self._advice = name, advice
        self._strikes = 0
        self._from_ns, self._to_ns = 0, 0
        self._felt, self._seen = np.eye(4), np.eye(4)

    @property
    def holds(self) -> bool:
        return self._strikes < _STRIKES

    def compare(self, from_ns: int, to_ns: int, step: np.ndarray, seen: np.ndarray) -> None:
        """Take a step (4, 4) as it was felt and as it was seen; judge when there are enough."""
        if from_ns != self._to_ns:
            self._begin(from_ns)
        self._felt, self._seen, self._to_ns = self._felt @ step, self._seen @ seen, to_ns
        if to_ns - self._from_ns < _COMPARED_NS:
            return
        self._strikes = 0 if _agree(self._felt, self._seen) else self._strikes + 1
        self._begin(to_ns)
        if self._strikes == _STRIKES:
            _log.warning(
                'the %s contradict the camera and are left out until they agree: %s',
                self._name,
                self._advice,
            )

    def _begin(self, stamp_ns: int) -> None:
        self._felt, self._seen = np.eye(4), np.eye(4)
        self._from_ns = self._to_ns = stamp_ns


def _feel_way(prediction: Prediction, from_ns: int, to_ns: int) -> Felt | None:
    felt = prediction.feel(from_ns, to_ns, np.zeros(6), in_metres=True)
    return felt if felt is not None and felt.has_way else None


def _passed_on(
    inherited: np.ndarray, growth: np.ndarray, felt: Felt
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance and lasting errors of a pose after a motion."""
    T_cur_prev = se3.inverse(felt.T_prev_cur)
    growth = se3.adjoint(T_cur_prev) @ growth + felt.growth
    return se3.transport_covariance(inherited, T_cur_prev), growth


def _agree(step: np.ndarray, seen: np.ndarray) -> bool:
    off = float(np.linalg.norm(step[:3, 3] - seen[:3, 3]))
    way = max(float(np.linalg.norm(step[:3, 3])), float(np.linalg.norm(seen[:3, 3])))
    turned_off = float(se3.rotation_angle_rad(step[:3, :3].T @ seen[:3, :3]))
    turn = max(float(se3.rotation_angle_rad(T[:3, :3])) for T in (step, seen))
    is_way_right = off < _AGREE_M + _AGREE_SHARE * way
    return is_way_right and turned_off < _AGREE_RAD + _AGREE_SHARE * turn


def _turn_only(R: np.ndarray) -> np.ndarray:
    return se3.from_rt(R, np.zeros(3))
