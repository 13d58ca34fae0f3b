"""Where the camera sits on the robot, from parameters."""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import FramesConfig
from kpvo_ros.geometry import se3


def extrinsics_from(frames: FramesConfig) -> np.ndarray:
    """`T_base_camera` (4, 4): pose of the optical frame in the base frame.

    `frames.extrinsics_rpy_rad` turns the camera *body* (x forward, as one measures it on a
    robot); the fixed turn from body to optical axes (REP-103) is added here. All zeros is a
    camera in the origin of the base that looks along its x axis.
    """
    R_base_body = se3.rpy_to_matrix(*frames.extrinsics_rpy_rad)
    return se3.from_rt(R_base_body, frames.extrinsics_xyz_m) @ se3.T_BASE_OPTICAL
