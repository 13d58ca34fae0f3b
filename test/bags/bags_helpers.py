"""Small recordings, made by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Features, OdometryEstimate, Status

WIDTH, HEIGHT = 32, 24
CAMERA = Camera(WIDTH, HEIGHT, 30.0, 31.0, 15.5, 11.5)
INTRINSICS = (
    f'width: {WIDTH}\nheight: {HEIGHT}\nfx: 30.0\nfy: 31.0\ncx: 15.5\ncy: 11.5\n'
    'distortion_model: none\ndistortion: [0, 0, 0, 0]\n'
)


def image_of(index: int, channels: int = 3) -> np.ndarray:
    """A smooth image that differs with the index; (H, W, 3) RGB or (H, W)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    red, green, blue = 4 * x + index, 6 * y + index, 3 * x + 2 * y + 5 * index
    rgb = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    return rgb if channels == 3 else rgb[:, :, 1].copy()


def depth_of(index: int) -> np.ndarray:
    """Whole millimetres with a hole; (H, W) float32 metres."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    depth = ((1000 + 13 * x + 7 * y + 100 * index) / 1000.0).astype(np.float32)
    depth[:3, :4] = np.nan
    return depth


def pose_of(index: int) -> np.ndarray:
    """A pose that moves and turns with the index."""
    angle = 0.05 * index
    T = np.eye(4)
    T[:3, :3] = [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 1],
    ]
    T[:3, 3] = [0.1 * index, 0.02 * index, 1.0]
    return T


def answer(
    index: int, status: Status = Status.TRACKING, pose: np.ndarray | None = None
) -> OdometryEstimate:
    """What an odometry might say about frame `index`, by default with the pose `pose_of` it."""
    T_odom_camera = pose_of(index) if pose is None else pose
    nothing = Features(np.zeros((0, 2)), np.zeros(0), np.zeros((0, 32), np.uint8))
    return OdometryEstimate(
        stamp_ns=1_700_000_000_123_456_789 + index * 50_000_000,
        T_odom_base=T_odom_camera,
        T_odom_camera=T_odom_camera,
        covariance=np.eye(6),
        twist=np.zeros(6),
        twist_covariance=np.eye(6),
        status=status,
        reason='',
        features=nothing,
        inliers=0,
        scale=1.0,
        scale_sigma=0.0,
        is_keyframe=False,
        map_id=0,
        stage_ms={'solve': 1.0},
    )


def save_image(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = rgb if rgb.ndim == 2 else rgb[:, :, ::-1]
    assert cv2.imwrite(str(path), stored)


def tum_line(stamp: str, T: np.ndarray) -> str:
    """A TUM line of a pose that turns about z only."""
    half = 0.5 * np.arctan2(T[1, 0], T[0, 0])
    x, y, z = T[:3, 3]
    return f'{stamp} {x:.9f} {y:.9f} {z:.9f} 0 0 {np.sin(half):.12f} {np.cos(half):.12f}\n'


def image_message(data, encoding, width=WIDTH, height=HEIGHT, step=None, big=0):
    """A stand-in for sensor_msgs/Image; `data` is an array whose bytes are sent."""
    data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    if step is None:
        step = len(data) // height if height else 0
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=big, step=step, data=data
    )


def compressed_message(data, label='rgb8; jpeg compressed bgr8'):
    return SimpleNamespace(format=label, data=np.frombuffer(bytes(data), np.uint8))


def info_message(**changes):
    """A stand-in for a ROS 2 CameraInfo of CAMERA."""
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    fields = {
        'width': WIDTH,
        'height': HEIGHT,
        'distortion_model': 'plumb_bob',
        'd': [0.0] * 5,
        'k': [30.0, 0.0, 15.5, 0.0, 31.0, 11.5, 0.0, 0.0, 1.0],
        'p': [28.0, 0.0, 15.0, 0.0, 0.0, 29.0, 11.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        'binning_x': 0,
        'binning_y': 0,
        'roi': roi,
    }
    return SimpleNamespace(**{**fields, **changes})
