"""When a frame becomes a keyframe: few old points left, or the image has moved on."""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import KeyframeConfig
from kpvo_ros.odometry.local_map import Sights


class KeyframePolicy:
    """Compares the present sights with those of the newest keyframe."""

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._xy = np.zeros((0, 2), np.float32)  # by map index; NaN where not seen
        self._count = 0

    def begin(self, sights: Sights) -> None:
        """A keyframe was made with these sights (indices are those of the map from now on)."""
        size = int(sights.point.max()) + 1 if len(sights) else 0
        self._xy = np.full((size, 2), np.nan, np.float32)
        self._xy[sights.point] = sights.xy
        self._count = len(sights)

    def wants(self, sights: Sights, image_width: int) -> bool:
        """Whether the frame with these sights should become a keyframe."""
        known = sights.point < len(self._xy)
        if known.sum() < self._config.min_tracked_ratio * self._count:
            return True
        moved = np.linalg.norm(sights.xy[known] - self._xy[sights.point[known]], axis=1)
        moved = moved[np.isfinite(moved)]
        farthest = self._config.max_flow_ratio * image_width
        return not len(moved) or bool(np.median(moved) > farthest)
