"""Starts ROS 2 nodes as processes of their own, as launch would, and never leaves one behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
from pathlib import Path
import signal
import subprocess
import sys
from typing import NamedTuple, TextIO

from kpvo_ros.errors import RosError

_PATIENCE_S = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


class RosProcess(NamedTuple):
    """A running node.

    Attributes:
        name: for messages and the name of its log.
        process: the process, leader of its own group.
        log: file of its output.
        file: the open log.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    file: TextIO


class RosProcesses:
    """Processes that end with this object; a context manager.

    Args:
        log_dir: where each writes its output; made when missing.
        environment: variables of the processes.

    Raises:
        RosError: the folder cannot be made.
    """

    def __init__(self, log_dir: Path, environment: Mapping[str, str]) -> None:
        self.log_dir = log_dir
        self._environment = dict(environment)
        self._running: list[RosProcess] = []
        try:
            log_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RosError(
                f'{log_dir}: cannot be made ({error.strerror}); choose another --out'
            ) from None

    def start(self, name: str, module: str, arguments: Sequence[str]) -> RosProcess:
        """Start `python -m module arguments...`."""
        log = self.log_dir / f'{name}.log'
        file = log.open('w', encoding='utf-8')
        process = subprocess.Popen(
            [sys.executable, '-m', module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=self._environment,
            start_new_session=True,  # Ctrl-C reaches this program first, which ends them in order
        )
        running = RosProcess(name, process, log, file)
        self._running.append(running)
        return running

    def require_alive(self, *wanted: RosProcess) -> None:
        """Check that none has ended.

        Raises:
            RosError: one has, with its last words.
        """
        for running in wanted:
            code = running.process.poll()
            if code is not None:
                raise RosError(
                    f'{running.name} ended with code {code} ({last_line(running.log)}); '
                    f'see {running.log}'
                )

    def stop(self, running: RosProcess) -> int:
        """End a process, gently first; returns its exit code."""
        for number, patience_s in _PATIENCE_S:
            if running.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    running.process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.process.wait(patience_s)
        running.file.close()
        return running.process.returncode

    def __enter__(self) -> RosProcesses:
        """Return the object itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End what still runs, the last started first."""
        for running in reversed(self._running):
            self.stop(running)


def last_line(log: Path) -> str:
    """The last words in a log, '' for none."""
    lines = [line for line in _lines(log) if line.strip()]
    return lines[-1].strip() if lines else 'no output'


def _lines(log: Path) -> Iterator[str]:
    with log.open(encoding='utf-8', errors='replace') as file:
        yield from file
