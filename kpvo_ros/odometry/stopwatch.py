"""Wall time of named stages."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import time


class Stopwatch:
    """Collects milliseconds per stage; a stage entered twice adds up."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a with statement under `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = (time.perf_counter() - start) * 1e3
            self.stage_ms[name] = self.stage_ms.get(name, 0.0) + elapsed
