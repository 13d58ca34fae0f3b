"""kpvo bench frontend, part drift: flow from frame to frame, and what first sights mend of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kpvo_ros.cli.tracking_score import Score
from kpvo_ros.cli.tracking_truth import Clip, keypoints, starts
from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.frontend.flow import FlowTracker
from kpvo_ros.frontend.patches import FirstSights, PatchRefiner, patch_warp
from kpvo_ros.odometry.surface import tilt_of

_DEPTH_SIGMA = 0.05  # relative, of the points whose patches are bent
_WAYS = (  # name, how often a point is aligned with its first sight, is that one bent
    ('flow from frame to frame', 0, False),
    ('and first sight as it was', 1, False),
    ('and first sight, bent', 1, True),
    ('and first sight, bent, every 5th', 5, True),
)


def drift(clips: Sequence[Clip], steps: Sequence[int], seed: int) -> dict[int, dict[str, Score]]:
    """Follow the keypoints of a keyframe through the frames after it.

    First sights are bent by the true pose of the frame before and by a depth good to 5 %.

    Args:
        clips: pictures with truth.
        steps: after how many frames to look.
        seed: of the noise of depth.

    Returns:
        Per step and way.
    """
    scores: dict[int, dict[str, Score]] = {
        step: {name: Score() for name, _, _ in _WAYS} for step in steps
    }
    for clip, first in starts(clips, max(steps)):
        truths = {step: clip.follow(first, first + step, keypoints(clip, first)) for step in steps}
        for name, every, is_bent in _WAYS:
            chain = Chain(clip, first, every, is_bent, np.random.default_rng(seed))
            for step in range(1, max(steps) + 1):
                chain.advance()
                if step in truths:
                    scores[step][name].add(chain.xy, chain.alive, *truths[step])
                    scores[step][name].spend(chain.time.seconds, chain.time.points)
    return scores


class Chain:
    """Keypoints on their way through the frames after a keyframe.

    Args:
        clip: pictures with truth.
        first: index of the keyframe.
        every: after how many frames points are aligned with their first sight, 0 for never.
        is_bent: whether the first sights are bent for that.
        rng: noise of depth.

    Attributes:
        xy: (N, 2) where the points are.
        alive: (N,) bool which of them still are.
        time: processor time spent.
    """

    def __init__(
        self, clip: Clip, first: int, every: int, is_bent: bool, rng: np.random.Generator
    ) -> None:
        self._clip, self._first, self._every, self._is_bent = clip, first, every, is_bent
        self._flow, self._refiner = FlowTracker(TrackingConfig()), PatchRefiner(TrackingConfig())
        self._start = keypoints(clip, first)
        self._ray = clip.camera.unproject(self._start.astype(float))[:, :2]
        noise = np.exp(rng.normal(0.0, _DEPTH_SIGMA, len(self._start)))
        self._rho = noise / clip.depth(first, self._start)
        self._tilt = tilt_of(self._ray, self._rho, _DEPTH_SIGMA * self._rho)
        self._step = 0
        self.xy = self._start.copy()
        self.alive = np.ones(len(self.xy), bool)
        self.time = Score()

    def advance(self) -> None:
        """To the next frame."""
        alive = np.flatnonzero(self.alive)
        self._step += 1
        now = self._clip.grays[self._first + self._step]
        before = self._clip.grays[self._first + self._step - 1]
        refines = self._every and self._step % self._every == 0
        xy, kept = self.time.timed(len(alive), self._flow.track, before, now, self.xy[alive])
        if refines:
            xy, aligned = self.time.timed(0, self._refine, alive, now, xy)
            kept = kept & aligned
        self.xy[alive], self.alive[alive] = xy, kept

    def _refine(
        self, alive: np.ndarray, now: np.ndarray, xy: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        warp = np.broadcast_to(np.eye(2), (len(alive), 2, 2))
        if self._is_bent:
            motion = self._clip.motion(self._first, self._first + self._step - 1)
            warp = patch_warp(
                self._clip.camera,
                self._ray[alive],
                self._rho[alive],
                self._tilt[alive],
                motion,
            )
        which = np.zeros(len(alive), np.int64)
        keyframe = self._clip.grays[self._first]
        sights = FirstSights([keyframe], which, self._start[alive], warp)
        return self._refiner.refine(sights, now, xy)
