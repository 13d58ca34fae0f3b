"""An estimate reduced to the floor: x, y and yaw, for robots that cannot leave it.

The pose keeps the heading (yaw of roll-pitch-yaw, fixed axes, REP-103) and loses height, roll and
pitch. Covariances follow to first order. What the floor fixes gets a small variance, never zero:
filters that read the message invert the matrix.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.types import OdometryEstimate

FIXED_VARIANCE = 1e-6  # m^2 and rad^2 of z, roll, pitch; a millimetre and a milliradian
_MAX_TILT_GAIN = 10.0  # yaw is ill defined for a base standing on its nose


def project_to_plane(estimate: OdometryEstimate) -> OdometryEstimate:
    """`estimate` with pose, twist and covariances on the plane z = 0 of the odom frame.

    The camera pose moves along with the base, so that the extrinsics stay what they are. The base
    stays on the floor of the map frame as well.
    """
    T_odom_base = planar_pose(estimate.T_odom_base)
    T_base_camera = se3.inverse(estimate.T_odom_base) @ estimate.T_odom_camera
    covariance = planar_covariance(estimate.covariance, estimate.T_odom_base)
    twist, twist_covariance = planar_twist(
        estimate.twist, estimate.twist_covariance, estimate.T_odom_base
    )
    return dataclasses.replace(
        estimate,
        T_odom_base=T_odom_base,
        T_odom_camera=T_odom_base @ T_base_camera,
        T_map_odom=_planar_map(estimate, T_odom_base),
        covariance=covariance,
        twist=twist,
        twist_covariance=twist_covariance,
    )


def planar_pose(T: np.ndarray) -> np.ndarray:
    """The (4, 4) pose with the x, y and yaw of `T`."""
    R = se3.rpy_to_matrix(0.0, 0.0, se3.yaw_of(T))
    return se3.from_rt(R, [T[0, 3], T[1, 3], 0.0])


def planar_covariance(covariance: np.ndarray, T: np.ndarray) -> np.ndarray:
    """(6, 6) covariance of `planar_pose(T)`, both in ROS's convention (x y z rx ry rz, odom axes).

    A small turn about the odom axes changes yaw by
    rz + tan(pitch) (rx cos(yaw) + ry sin(yaw)).
    """
    pitch = math.asin(float(np.clip(-T[2, 0], -1.0, 1.0)))
    yaw = se3.yaw_of(T)
    gain = float(np.clip(math.tan(pitch), -_MAX_TILT_GAIN, _MAX_TILT_GAIN))
    J = np.zeros((3, 6))  # (x, y, yaw) from the full perturbation
    J[0, 0] = J[1, 1] = J[2, 5] = 1.0
    J[2, 3:5] = gain * math.cos(yaw), gain * math.sin(yaw)
    return _fill(J @ covariance @ J.T)


def planar_twist(
    twist: np.ndarray, covariance: np.ndarray, T: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Twist (6,) of the base in the axes of the planar base, and its (6, 6) covariance.

    The velocity is turned from the tilted base axes into the level ones before z is dropped.
    """
    R_level_base = planar_pose(T)[:3, :3].T @ T[:3, :3]
    J = np.zeros((3, 6))  # (vx, vy, wz)
    J[:2, :3] = R_level_base[:2]
    J[2, 3:] = R_level_base[2]
    planar = np.zeros(6)
    planar[[0, 1, 5]] = J @ twist
    return planar, _fill(J @ covariance @ J.T)


def _planar_map(estimate: OdometryEstimate, T_odom_planar: np.ndarray) -> np.ndarray | None:
    """(4, 4) T_map_odom that puts the planar base where the base is in the map, seen from above.

    The part of a correction that lifts or tilts odom moves a base far from its origin sideways, so
    flattening the correction alone would put it somewhere else.
    """
    if estimate.T_map_odom is None:
        return None
    T_map_base = planar_pose(estimate.T_map_odom @ estimate.T_odom_base)
    return T_map_base @ se3.inverse(T_odom_planar)


def _fill(planar: np.ndarray) -> np.ndarray:
    """(6, 6) matrix of a (3, 3) one over x, y, yaw."""
    full = FIXED_VARIANCE * np.eye(6)
    full[np.ix_([0, 1, 5], [0, 1, 5])] = planar
    return full
