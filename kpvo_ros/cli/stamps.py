"""What the stamps of a topic tell: rate, gaps, jumps back, and how far they are from recording."""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from kpvo_ros.bags.images import stamp_ns_of
from kpvo_ros.cli.findings import Finding, Level
from kpvo_ros.errors import BagError

if TYPE_CHECKING:
    from kpvo_ros.bags.reader import Bag

_GAP_PERIODS = 3.0  # a pause this many periods long is a gap
_MAX_OFFSET_S = 1.0


@dataclasses.dataclass(frozen=True)
class Stamps:
    """The stamps of one topic in order of recording.

    Attributes:
        stamps_ns: (N,) int64 header stamps of the readable messages; recording times for types
            without a header.
        recorded_ns: (N,) int64 when they were recorded.
        has_header: whether the messages carry stamps of their own.
        damaged: messages that cannot be read.
    """

    stamps_ns: np.ndarray
    recorded_ns: np.ndarray
    has_header: bool
    damaged: int

    @classmethod
    def of_topic(cls, bag: Bag, topic: str) -> Stamps:
        """Read a topic through."""
        stamps: list[int] = []
        recorded: list[int] = []
        has_header, damaged = True, 0
        for raw in bag.raw_messages({topic}):
            try:
                header = getattr(bag.deserialize(raw), 'header', None)
            except BagError:
                damaged += 1
                continue
            has_header = has_header and header is not None
            stamps.append(raw.recorded_ns if header is None else stamp_ns_of(header))
            recorded.append(raw.recorded_ns)
        return cls(np.array(stamps, np.int64), np.array(recorded, np.int64), has_header, damaged)

    @property
    def period_s(self) -> float:
        """Median time between two messages, 0 for less than two."""
        return float(np.median(np.diff(self.stamps_ns))) * 1e-9 if len(self.stamps_ns) > 1 else 0.0

    @property
    def rate_text(self) -> str:
        """The rate in words."""
        return f'{1 / self.period_s:.1f} Hz' if self.period_s > 0 else 'no rate'

    def findings(self, topic: str) -> Iterator[Finding]:
        """What is wrong with the stamps of a sensor."""
        if self.damaged:
            advice = 'they are counted and left out'
            yield Finding(Level.WARN, topic, f'{self.damaged} unreadable messages', advice)
        if not self.has_header or len(self.stamps_ns) < 2:
            return
        if not self.stamps_ns.any():
            advice = 'recording time is used; set the stamps in the driver'
            yield Finding(Level.WARN, topic, 'all stamps are zero', advice)
            return
        yield from self._order(topic)
        yield from self._gaps(topic)
        offset_s = float(np.median(self.recorded_ns - self.stamps_ns)) * 1e-9
        if abs(offset_s) > _MAX_OFFSET_S:
            said = f'stamps are {offset_s:.1f} s older than the time of recording'
            advice = 'play with use_sim_time, or synchronise the clocks'
            yield Finding(Level.WARN, topic, said, advice)

    def _order(self, topic: str) -> Iterator[Finding]:
        steps = np.diff(self.stamps_ns)
        if repeated := int((steps == 0).sum()):
            yield Finding(
                Level.WARN, topic, f'{repeated} repeated stamps', 'those images are left out'
            )
        if back := int((steps < 0).sum()):
            said = f'{back} jump(s) back, the longest {-steps.min() * 1e-9:.2f} s'
            advice = 'a looped or merged bag? the odometry starts anew after a jump of 1 s'
            yield Finding(Level.WARN, topic, said, advice)

    def _gaps(self, topic: str) -> Iterator[Finding]:
        steps_s = np.diff(self.stamps_ns) * 1e-9
        gaps = (
            steps_s[steps_s > _GAP_PERIODS * self.period_s] if self.period_s > 0 else steps_s[:0]
        )
        if len(gaps):
            said = f'{len(gaps)} gap(s), the longest {gaps.max():.2f} s'
            yield Finding(Level.WARN, topic, said, 'images were lost: record with a faster disk')
