"""A network that never was: it tells depth and motion of a film, as wrong as it is asked to."""

from __future__ import annotations

import dataclasses
import threading
import time

import cv2
import numpy as np
from runtime_world import T_BASE_CAMERA, Film, config

from kpvo_ros.frontend.depth_map import LearnedDepth
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import Frame, OdometryEstimate

SIZE = (160, 112)  # width and height of the answers; not the shape of the image


@dataclasses.dataclass
class TrueDepth:
    """A `DepthSource` that knows the truth.

    Attributes:
        film: what is looked at; frames are known by their stamps.
        noise: relative standard deviation of the depth, in blots as networks make them.
        bias: factor of all depths and motions.
        shift_noise: relative standard deviation of the way between two images.
        turn_noise_rad: of each angle between them.
        sigma: what it says of itself.
        delay_s: how long it takes.
    """

    film: Film
    noise: float = 0.1
    bias: float = 1.0
    shift_noise: float = 0.1
    turn_noise_rad: float = 0.01
    sigma: float = 0.1
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        self._depth = {frame.stamp_ns: frame.depth_m for frame in self.film.frames}
        stamps = [frame.stamp_ns for frame in self.film.frames]
        self._pose = dict(zip(stamps, self.film.T_odom_base @ T_BASE_CAMERA, strict=True))
        self.threads: list[str] = []
        self.pairs: list[tuple[int, int | None]] = []

    def look(self, frame: Frame, before: Frame | None = None) -> LearnedDepth:
        """See `DepthSource.look`."""
        self.threads.append(threading.current_thread().name.partition('_')[0])
        self.pairs.append((frame.stamp_ns, None if before is None else before.stamp_ns))
        time.sleep(self.delay_s)
        truth = self._depth[frame.stamp_ns]
        assert truth is not None
        depth_m = cv2.resize(truth, SIZE, interpolation=cv2.INTER_NEAREST)
        rng = np.random.default_rng(frame.stamp_ns)
        blots = cv2.GaussianBlur(rng.normal(size=depth_m.shape).astype(np.float32), (0, 0), 6.0)
        depth_m = self.bias * depth_m * np.exp(self.noise * blots / blots.std())
        return LearnedDepth(
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            camera=frame.camera.resized(*SIZE),
            depth_m=depth_m.astype(np.float32),
            sigma=np.full(depth_m.shape, self.sigma, np.float32),
            T_before_camera=np.eye(4) if before is None else self._motion(frame, before, rng),
        )

    def _motion(self, frame: Frame, before: Frame, rng: np.random.Generator) -> np.ndarray:
        T = se3.inverse(self._pose[before.stamp_ns]) @ self._pose[frame.stamp_ns]
        T[:3, 3] *= self.bias * np.exp(self.shift_noise * rng.normal())
        T[:3, :3] = T[:3, :3] @ se3.exp_so3(self.turn_noise_rad * rng.normal(size=3))
        return T


def without_depth(film: Film) -> list[Frame]:
    """The frames as a plain camera gives them."""
    return [dataclasses.replace(frame, depth_m=None) for frame in film.frames]


def replay_with(
    source: TrueDepth | None, frames: list[Frame], *words: str
) -> list[OdometryEstimate]:
    """As a recording is treated, which waits for depth."""
    odometry = Odometry(config(*words), T_BASE_CAMERA, tells_late=True, depth_source=source)
    estimates = [odometry.step(frame) for frame in frames]
    odometry.close()
    return estimates


def shape_errors_m(estimates: list[OdometryEstimate], film: Film) -> np.ndarray:
    """(N,) of the camera's path, laid over the true one with the best scale."""
    rows = [row for row, one in enumerate(estimates) if one.has_pose]
    p = np.stack([estimates[row].T_odom_camera[:3, 3] for row in rows])
    q = (film.T_odom_base @ T_BASE_CAMERA)[rows, :3, 3]
    p, q = p - p.mean(0), q - q.mean(0)
    U, S, Vt = np.linalg.svd(q.T @ p)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    scale = (S * flip).sum() / (p**2).sum()
    return np.linalg.norm(q - scale * p @ ((U * flip) @ Vt).T, axis=1)


def blurred(frame: Frame, sigma_px: float = 12.0) -> Frame:
    """What a camera sends that is shaken."""
    image = cv2.GaussianBlur(frame.image, (0, 0), sigma_px)
    grain = np.random.default_rng(frame.stamp_ns).normal(0.0, 1.5, image.shape[:2])[..., None]
    image = np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)
    return dataclasses.replace(frame, image=image)
