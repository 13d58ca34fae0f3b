"""The records handed from room to room.

All are frozen; arrays inside are treated as read-only. Names follow docs/conventions.md:
`T_a_b` is the 4x4 pose of frame b in frame a (it maps coordinates of b into a), units stand in
the name, time is one integer in nanoseconds, pixels are in OpenCV's sense (the centre of the
top left pixel is (0, 0)).
"""

from __future__ import annotations

import dataclasses
import enum
import functools

import cv2
import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.geometry.camera import Camera


class Status(enum.Enum):
    """How far the newest pose can be trusted."""

    STARTING = 'starting'  # no map yet: the pose is held at the start
    TRACKING = 'tracking'  # pose measured, enough support
    DEGRADED = 'degraded'  # pose measured with little support, or by the wheels alone
    LOST = 'lost'  # no measurement: pose predicted for a moment, then held; covariance grows


@dataclasses.dataclass(frozen=True)
class Frame:
    """One image of the camera with everything that was recorded at the same instant.

    Attributes:
        stamp_ns: time of the image, nanoseconds.
        image: (H, W, 3) uint8 RGB, or (H, W) uint8 for a grey camera.
        camera: intrinsics of `image` as stored (distorted or not).
        frame_id: name of the optical frame (z forward, x right, y down; REP-103).
        depth_m: (H, W) float32 metres along the optical axis, NaN where unknown; None without
            a depth sensor.
        mask: (H, W) bool, True where this very image is to be ignored; None where nothing is.
    """

    stamp_ns: int
    image: np.ndarray
    camera: Camera
    frame_id: str = 'camera_optical_frame'
    depth_m: np.ndarray | None = None
    mask: np.ndarray | None = None

    @functools.cached_property
    def gray(self) -> np.ndarray:
        """(H, W) uint8 luminance; computed once."""
        if self.image.ndim == 2:
            return self.image
        return cv2.cvtColor(self.image, cv2.COLOR_RGB2GRAY)


@dataclasses.dataclass(frozen=True)
class BadFrame:
    """An image that could not be used. A value, so that nobody has to catch it."""

    stamp_ns: int
    reason: str


@dataclasses.dataclass(frozen=True)
class WheelOdometry:
    """A pose of the base from another odometry (wheels, legs), in its own drifting frame."""

    stamp_ns: int
    T_odom_base: np.ndarray  # (4, 4)


@dataclasses.dataclass(frozen=True)
class Gyro:
    """How fast the base turns, in its own axes, whatever those of the IMU are."""

    stamp_ns: int
    angular_velocity: np.ndarray  # (3,) radians a second


@dataclasses.dataclass(frozen=True)
class Features:
    """Keypoints of one image; N may be zero.

    Attributes:
        xy: (N, 2) float32 pixels of the image as stored (distorted).
        score: (N,) float32, higher is better.
        descriptor: (N, D) uint8 (binary, Hamming) or float32 (unit norm, cosine).
        image_descriptor: (G,) float32 unit vector of the whole image, None without a model for it.
    """

    xy: np.ndarray
    score: np.ndarray
    descriptor: np.ndarray
    image_descriptor: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.xy)


@dataclasses.dataclass(frozen=True)
class Matches:
    """Pairs of indices into two `Features`; M may be zero.

    Attributes:
        index0: (M,) int64 into the first.
        index1: (M,) int64 into the second.
        score: (M,) float32 in 0..1, higher is better.
    """

    index0: np.ndarray
    index1: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.index0)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Poses over time.

    Attributes:
        stamps_ns: (N,) int64, strictly increasing.
        poses: (N, 4, 4) float64, `T_world_body` of each stamp.
    """

    stamps_ns: np.ndarray
    poses: np.ndarray

    def __post_init__(self) -> None:
        if self.poses.shape != (len(self.stamps_ns), 4, 4):
            raise EvaluationError(
                f'a trajectory of {len(self.stamps_ns)} stamps needs poses '
                f'({len(self.stamps_ns)}, 4, 4), got {self.poses.shape}'
            )
        if len(self.stamps_ns) > 1 and not (np.diff(self.stamps_ns) > 0).all():
            raise EvaluationError('stamps of a trajectory must strictly increase: sort the file')

    def __len__(self) -> int:
        return len(self.stamps_ns)


@dataclasses.dataclass(frozen=True)
class OdometryEstimate:
    """What one step of the odometry has to say about one frame.

    Attributes:
        stamp_ns: stamp of the image.
        T_odom_base: (4, 4) pose of the robot base in the odom frame.
        T_odom_camera: (4, 4) pose of the optical frame in the odom frame.
        covariance: (6, 6) of T_odom_base, order x y z rx ry rz, odom axes (ROS convention).
        twist: (6,) velocity vx vy vz wx wy wz of the base in base axes, m/s and rad/s.
        twist_covariance: (6, 6) of `twist`.
        status: see `Status`.
        reason: one line that explains the status; '' for TRACKING, or that the camera stands.
        features: the keypoints the step worked with (already computed, free to publish).
        inliers: how many of them support the pose.
        scale: metres per map unit; 1.0 when the map is metric.
        scale_sigma: relative standard deviation of `scale`.
        is_keyframe: whether the frame was added to the map.
        map_id: counts the maps that were begun; poses of two maps are joined by a held pose only.
        stage_ms: wall time of each named stage of the step, milliseconds.
        T_map_odom: (4, 4) correction by loop closure, None without.
    """

    stamp_ns: int
    T_odom_base: np.ndarray
    T_odom_camera: np.ndarray
    covariance: np.ndarray
    twist: np.ndarray
    twist_covariance: np.ndarray
    status: Status
    reason: str
    features: Features
    inliers: int
    scale: float
    scale_sigma: float
    is_keyframe: bool
    map_id: int
    stage_ms: dict[str, float]
    T_map_odom: np.ndarray | None = None

    @property
    def has_pose(self) -> bool:
        """Whether the pose was measured for this very frame, by camera or wheels, not held."""
        return self.status in (Status.TRACKING, Status.DEGRADED)
