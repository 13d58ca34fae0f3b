"""Frames whose pose could not be told in time, to be told later: a recording loses nothing.

Without depth the first views wait for parallax, and the first poses for metres. A live robot is
told that the odometry is STARTING. Once the map stands, the poses of those frames can be computed,
and a replay writes them in their place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
import dataclasses

import numpy as np

from kpvo_ros.odometry.local_map import Sights

MAX_FRAMES = 600  # kept; older ones are given up


@dataclasses.dataclass
class WaitingFrame:
    """A frame without a told pose.

    Attributes:
        stamp_ns: its time.
        sights: points of the map seen in it, None once its pose is known.
        T_odom_camera: (4, 4) pose in the map, None as long as only sights are known.
        covariance: (6, 6) local, of that pose.
    """

    stamp_ns: int
    sights: Sights | None = None
    T_odom_camera: np.ndarray | None = None
    covariance: np.ndarray | None = None

    @property
    def is_located(self) -> bool:
        """Whether its pose is known."""
        return self.T_odom_camera is not None and self.covariance is not None


class Waiting:
    """The frames that wait, oldest first; they move with the map.

    Attributes:
        tried_px: how far the points had moved when two views were last tried, 0 for never.
    """

    def __init__(self) -> None:
        self.tried_px = 0.0
        self._frames: deque[WaitingFrame] = deque(maxlen=MAX_FRAMES)

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[WaitingFrame]:
        return iter(self._frames)

    def add(self, frame: WaitingFrame) -> None:
        """Keep a frame."""
        self._frames.append(frame)

    def take_located(self) -> list[WaitingFrame]:
        """Those whose pose is known; they wait no longer."""
        located = [frame for frame in self._frames if frame.is_located]
        others = [frame for frame in self._frames if not frame.is_located]
        self._frames = deque(others, maxlen=MAX_FRAMES)
        return located

    def forget(self) -> None:
        """The map that the frames belong to is gone."""
        self._frames.clear()
        self.tried_px = 0.0

    def rescale(self, factor: float, about: np.ndarray) -> None:
        """The map was stretched by `factor` about the position `about` (3,)."""
        for frame in self._frames:
            if frame.T_odom_camera is not None:
                T = frame.T_odom_camera.copy()
                T[:3, 3] = about + factor * (T[:3, 3] - about)
                frame.T_odom_camera = T

    def move(self, T_new_old: np.ndarray) -> None:
        """The map is expressed in another odom frame: poses become T_new_old @ pose."""
        for frame in self._frames:
            if frame.T_odom_camera is not None:
                frame.T_odom_camera = T_new_old @ frame.T_odom_camera
