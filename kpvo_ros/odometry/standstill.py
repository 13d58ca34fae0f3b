"""Is the camera standing? Then its pose is the last one, exactly (zero-velocity update).

The sights are compared with those of the image in which the camera came to rest, not with the last
image: a crawl adds up until it is seen, and at rest neither tracks nor pose wander.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.odometry.local_map import NO_SIGHTS, Sights

STILL_MEDIAN_PX = 0.3  # median way of the tracks up to which nothing has moved
STILL_MOST_PX = 1.0  # the same for nine of ten tracks
MIN_KEPT = 0.6  # share of the tracks that must be found again; fewer is another picture
MIN_TRACKS = 15  # fewer prove nothing
REST_NS = 300_000_000  # nothing may have moved for so long before a moving camera is at rest


class Rest:
    """Tells a camera that has stopped from one that crawls.

    From one frame to the next a slow robot looks as if it stood. Were it believed, its pose would
    move by fits and starts, and its speed be nought or several times the true one.
    """

    def __init__(self) -> None:
        self._sights, self._since_ns = NO_SIGHTS, 0

    def begin(self, stamp_ns: int, sights: Sights) -> None:
        """The camera moves, or the points of the map have new numbers: look again from here."""
        self._sights, self._since_ns = sights, stamp_ns

    def lasts(self, stamp_ns: int, sights: Sights, was_moving: bool) -> bool:
        """Whether a camera that has not moved visibly since the last image stands.

        Args:
            stamp_ns: time of the image.
            sights: what it shows.
            was_moving: whether the camera has had a speed until now: then it may also be slow.
        """
        first, now = np.intersect1d(
            self._sights.point, sights.point, assume_unique=True, return_indices=True
        )[1:]
        if not is_standing(self._sights.xy[first], sights.xy[now], len(self._sights)):
            self.begin(stamp_ns, sights)
        return not was_moving or stamp_ns - self._since_ns >= REST_NS


def is_standing(xy0: np.ndarray, xy1: np.ndarray, count: int) -> bool:
    """Whether the tracks say that the camera has not moved.

    Args:
        xy0: (N, 2) pixels in the image of rest.
        xy1: (N, 2) pixels of the same points now.
        count: how many points were looked for.
    """
    if len(xy0) < max(MIN_TRACKS, MIN_KEPT * count):
        return False
    way = np.linalg.norm(xy1 - xy0, axis=1)
    median, most = np.percentile(way, (50, 90))
    return bool(median < STILL_MEDIAN_PX and most < STILL_MOST_PX)
