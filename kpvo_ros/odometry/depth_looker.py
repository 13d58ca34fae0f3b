"""Has a network look at keyframes, in a thread of its own that nobody waits for.

A robot takes each depth when it is there, and a keyframe that comes while two are in work is left
out. A replay takes it a fixed number of frames later and waits for it then: so no clock decides
what comes out, and the map learns of a depth about when a robot's map would.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
import dataclasses
import logging
from typing import Protocol

from kpvo_ros.config.runtime import DepthConfig
from kpvo_ros.frontend.depth_map import DepthSource, LearnedDepth
from kpvo_ros.frontend.process import give_way
from kpvo_ros.types import Frame

WAIT_FRAMES = 2  # of a replay, after a keyframe, until its depth is taken
_MOST = 2  # keyframes at once, one in work and one that waits
_KEPT = 8  # whose depth is kept while no frame is located
_log = logging.getLogger(__name__)


class DepthListener(Protocol):
    """Somebody who wants every depth as soon as it is there."""

    def is_wanted(self) -> bool:
        """Whether anybody listens at this moment."""
        ...

    def take(self, depth: LearnedDepth) -> None:
        """Called in the thread of the network."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class _Look:
    """Work on a keyframe, and the call of `DepthLooker.take` that waits for it in a replay."""

    work: Future[LearnedDepth]
    due: int


class DepthLooker:
    """Looks at keyframes.

    Args:
        source: the network; None looks at nothing.
        config: parameters.
        listener: told every depth; None for nobody.
        waits: of a replay, see above.
    """

    def __init__(
        self,
        source: DepthSource | None,
        config: DepthConfig,
        listener: DepthListener | None = None,
        *,
        waits: bool = False,
    ) -> None:
        self._source = source
        self._config = config
        self._waits = waits
        self._listener = listener
        self._worker = ThreadPoolExecutor(1, thread_name_prefix='depth', initializer=give_way)
        self._looks: deque[_Look] = deque(maxlen=_KEPT)
        self._between: Future[LearnedDepth] | None = None
        self._before: Frame | None = None
        self._newest_ns: int | None = None
        self._takes = 0

    @property
    def sees(self) -> bool:
        """Whether there is a network at all."""
        return self._source is not None

    def look(self, frame: Frame) -> None:
        """Begin to look at a keyframe; `take` gives what was seen."""
        if self._source is None:
            return
        before, self._before = self._before, frame
        busy = [look for look in self._looks if not look.work.done()]
        if len(busy) >= _MOST:
            if not self._waits:
                return
            busy[0].work.result()
        self._looks.append(_Look(self._submit(frame, before), self._takes + WAIT_FRAMES))

    def look_between(self, frame: Frame) -> None:
        """Look at a frame that is no keyframe, for the listener alone, when there is time."""
        if self._source is None or self._listener is None or not self._config.rate_hz:
            return
        is_busy = self._between is not None and not self._between.done()
        if is_busy or any(not look.work.done() for look in self._looks):
            return
        if self._newest_ns is not None:
            wait_ns = 1e9 / self._config.rate_hz
            if 0 <= frame.stamp_ns - self._newest_ns < wait_ns:
                return
        if self._listener.is_wanted():
            self._between = self._submit(frame, self._before)

    def take(self) -> list[LearnedDepth]:
        """What was seen in keyframes, each given once; called once a frame.

        An error of the network reaches the caller of a replay. A robot goes on without that depth.
        """
        self._takes += 1
        ready = [look for look in self._looks if self._is_ready(look)]
        for look in ready:
            self._looks.remove(look)
        return [look.work.result() for look in ready if self._went_well(look.work)]

    def forget(self) -> None:
        """What is in work belongs to a map that is gone."""
        for look in self._looks:
            look.work.cancel()
        self._looks.clear()
        self._before = None

    def close(self) -> None:
        """End the thread after the work at hand; may be repeated."""
        self._worker.shutdown(cancel_futures=True)

    def _went_well(self, work: Future[LearnedDepth]) -> bool:
        error = None if self._waits else work.exception()
        if error is not None:
            _log.error('a keyframe has no learned depth: %s: %s', type(error).__name__, error)
        return error is None

    def _is_ready(self, look: _Look) -> bool:
        return self._takes >= look.due if self._waits else look.work.done()

    def _submit(self, frame: Frame, before: Frame | None) -> Future[LearnedDepth]:
        self._newest_ns = frame.stamp_ns
        return self._worker.submit(self._see, frame, before)

    def _see(self, frame: Frame, before: Frame | None) -> LearnedDepth:
        assert self._source is not None
        depth = self._source.look(frame, before).trusted(self._config.max_sigma)
        if self._listener is not None and self._listener.is_wanted():
            try:
                self._listener.take(depth)
            except Exception:  # the map has its depth all the same
                _log.exception('a learned depth could not be passed on')
        return depth
