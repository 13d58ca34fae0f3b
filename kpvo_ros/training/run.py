"""The result folder of a training run, and the line that says how it goes.

    config.yaml request.json  what was asked for, by which commands: command.txt
    log.txt metrics.jsonl     what happened; a crash loses at most one line
    checkpoint.safetensors    where to go on from
    weights.safetensors       the best weights by the held-out metric; last.safetensors the newest
    curve.png                 loss and held-out metrics over training time

An earlier run in the folder is moved to `<path>.1`, never overwritten; `latest` beside the folder
points to the newest run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
from pathlib import Path
import shlex
from typing import Any, TextIO

from kpvo_ros.training import TrainingError

CHECKPOINT = 'checkpoint.safetensors'
CONFIG = 'config.yaml'
_METRICS = 'metrics.jsonl'
_REQUEST = 'request.json'


class Run:
    """The files of one run.

    Args:
        path: the folder.
        resume: go on in it; else it is begun, and an earlier run in it moved aside.
        writes: False for the processes of a team that only compute.

    Attributes:
        path: the folder.
        moved_to: where an earlier run of this name went, None when there was none.

    Raises:
        TrainingError: the folder cannot be made, or holds nothing to go on with.
    """

    def __init__(self, path: Path, *, resume: bool = False, writes: bool = True) -> None:
        self.path = path
        self.moved_to: Path | None = None
        self._writes = writes
        if resume and not self.checkpoint.is_file():
            raise TrainingError(f'{path}: holds no checkpoint; start without --resume')
        if writes:
            with self._writing():
                if not resume:
                    self.moved_to = _move_aside(path)
                path.mkdir(parents=True, exist_ok=True)
                _link_latest(path)

    @property
    def checkpoint(self) -> Path:
        """The state to go on from."""
        return self.path / CHECKPOINT

    @property
    def best_weights(self) -> Path:
        """The best weights so far."""
        return self.path / 'weights.safetensors'

    @property
    def last_weights(self) -> Path:
        """The newest weights."""
        return self.path / 'last.safetensors'

    @property
    def curve(self) -> Path:
        """The plot of the run."""
        return self.path / 'curve.png'

    def describe(self, config_yaml: str, command: list[str]) -> None:
        """Keep the full configuration and the command; of a resumed run every command."""
        if self._writes:
            with self._writing():
                (self.path / CONFIG).write_text(config_yaml, encoding='utf-8')
                with (self.path / 'command.txt').open('a', encoding='utf-8') as file:
                    file.write(shlex.join(command) + '\n')

    def remember(self, request: Mapping[str, Any]) -> None:
        """Keep what a resumed run need not be told again."""
        if self._writes:
            text = json.dumps(dict(request), indent=2) + '\n'
            with self._writing():
                (self.path / _REQUEST).write_text(text, encoding='utf-8')

    def log(self, text: str) -> None:
        """One line into log.txt."""
        self._append('log.txt', text)

    def record(self, row: Mapping[str, Any]) -> None:
        """One line into metrics.jsonl."""
        self._append(_METRICS, json.dumps(dict(row)))

    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a torn last one is left out."""
        rows = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.path / _METRICS).read_text(encoding='utf-8').splitlines():
                with contextlib.suppress(ValueError):
                    rows.append(json.loads(line))
        return rows

    def forget_after(self, step: int) -> None:
        """Drop what was recorded after a checkpoint: the resumed run records it again."""
        if self._writes:
            kept = [json.dumps(row) for row in self.rows() if row.get('step', 0) <= step]
            beside = self.path / f'.{_METRICS}.part'
            with self._writing():
                beside.write_text(''.join(line + '\n' for line in kept), encoding='utf-8')
                beside.replace(self.path / _METRICS)

    def _append(self, name: str, line: str) -> None:
        if self._writes:
            with self._writing(), (self.path / name).open('a', encoding='utf-8') as file:
                file.write(line + '\n')

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f'{self.path}: cannot be written ({error.strerror}); free the disk or choose '
                'another --out'
            ) from None


def recall(path: Path) -> dict[str, Any]:
    """What `Run.remember` kept in a folder.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    try:
        kept = json.loads((path / _REQUEST).read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise TrainingError(
            f'{path / _REQUEST}: cannot be read ({error}); start without --resume'
        ) from None
    return dict(kept)


class ProgressLine:
    """One line on a terminal that is written over; in a file a new line each time.

    Args:
        stream: where to; None is silent.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._width = 0

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._stream is None:
            return
        if self._stream.isatty():
            self._stream.write('\r' + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + '\n')
        self._stream.flush()

    def keep(self, text: str) -> None:
        """Write a line that stays."""
        self.show(text)
        if self._stream is not None and self._stream.isatty():
            self._stream.write('\n')
            self._width = 0


def clock_text(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{rest:02}' if hours else f'{minutes}:{rest:02}'


def _move_aside(path: Path) -> Path | None:
    """Rename a folder that holds anything; returns its new place."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    number = 1
    while (aside := path.with_name(f'{path.name}.{number}')).exists():
        number += 1
    path.rename(aside)
    return aside


def _link_latest(path: Path) -> None:
    link = path.parent / 'latest'
    if path.name == link.name or (link.exists() and not link.is_symlink()):
        return  # somebody's own folder of that name stays what it is
    with contextlib.suppress(OSError):  # a file system without links does without
        beside = path.parent / f'.latest.{os.getpid()}'
        beside.symlink_to(path.name)
        beside.replace(link)
