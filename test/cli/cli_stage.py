"""A textured wall that a camera slides along, as a bag, with everything that can go wrong."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path

import cv2
import numpy as np

from kpvo_ros.bags.messages import MessageFactory
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import T_BASE_OPTICAL

CAMERA = Camera(160, 120, 120.0, 120.0, 79.5, 59.5)
DISTANCE_M = 2.0
STEP_PX = 2  # shift of the picture from frame to frame
STEP_M = STEP_PX * DISTANCE_M / CAMERA.fx
START_NS, PERIOD_NS = 1_700_000_000_000_000_000, 50_000_000
IMAGE, INFO, DEPTH, TRUTH = '/camera/image_raw', '/camera/camera_info', '/camera/depth', '/gt'
N_FRAMES = 20


def wall(seed: int = 3) -> np.ndarray:
    """Noise of several sizes, as wide as the way is long; (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    shape = (CAMERA.height, CAMERA.width + STEP_PX * 400)
    picture = np.zeros(shape, np.float32)
    for cell in (4, 8, 16):
        coarse = rng.random((shape[0] // cell + 1, shape[1] // cell + 1)).astype(np.float32)
        picture += cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.repeat(picture[:, :, None], 3, axis=2)


WALL = wall()


@dataclasses.dataclass
class Shot:
    """One frame before it is written; a test may change anything."""

    index: int
    stamp_ns: int
    image: np.ndarray
    depth_m: np.ndarray | None
    camera: Camera | None
    encoding: str = 'rgb8'

    @classmethod
    def at(cls, index: int) -> Shot:
        left = index * STEP_PX
        image = np.ascontiguousarray(WALL[:, left : left + CAMERA.width])
        depth_m = np.full(image.shape[:2], DISTANCE_M, np.float32)
        return cls(index, START_NS + index * PERIOD_NS, image, depth_m, CAMERA)


def write_bag(
    path: Path,
    frames: int = N_FRAMES,
    change: Callable[[Shot], Shot | None] = lambda shot: shot,
    truth: bool = True,
) -> Path:
    """Write a bag; `change` may spoil a shot, or return None to leave it out."""
    with BagWriter(path) as bag:
        bag.write_static_transforms(START_NS, [('base_link', 'camera', T_BASE_OPTICAL)])
        for index in range(frames):
            shot = change(Shot.at(index))
            if shot is None:
                continue
            if shot.camera is not None:
                bag.write_camera_info(INFO, shot.stamp_ns, shot.camera, 'camera')
            if shot.encoding == 'rgb8':
                bag.write_image(IMAGE, shot.stamp_ns, shot.image, 'camera')
            else:
                write_raw_image(bag, shot)
            if shot.depth_m is not None:
                bag.write_depth(DEPTH, shot.stamp_ns, shot.depth_m, 'camera')
            if truth:
                T_world_camera = np.eye(4)
                T_world_camera[0, 3] = index * STEP_M
                stamp_ns = START_NS + index * PERIOD_NS
                bag.write_odometry('/ground_truth', stamp_ns, T_world_camera, 'world', 'camera')
    return path


def write_raw_image(bag: BagWriter, shot: Shot, keep_bytes: int | None = None) -> None:
    """An image message whose encoding or length is a lie."""
    message = MessageFactory().image(shot.stamp_ns, 'camera', shot.image, 'rgb8')
    data = message.data if keep_bytes is None else message.data[:keep_bytes]
    bag.write(
        IMAGE, shot.stamp_ns, dataclasses.replace(message, encoding=shot.encoding, data=data)
    )


def write_camera_info(bag: BagWriter, stamp_ns: int, focal: float) -> None:
    """A camera_info with any focal length, also one that no camera has."""
    message = MessageFactory().camera_info(stamp_ns, 'camera', CAMERA)
    K = np.array([focal, 0.0, 79.5, 0.0, focal, 59.5, 0.0, 0.0, 1.0])
    bag.write(INFO, stamp_ns, dataclasses.replace(message, k=K))
