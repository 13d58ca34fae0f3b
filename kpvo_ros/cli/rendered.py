"""Rendered recordings, kept on disk so that they are rendered once.

A recording lies in a folder of its own with a manifest that is written last. It is used again
only when the manifest names the same recipe and the same renderer.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
from pathlib import Path
import shutil
import signal
import threading
from typing import TYPE_CHECKING

import numpy as np

from kpvo_ros.bags.convert import convert
from kpvo_ros.bags.source import Record, SourceInfo, SourceKind
from kpvo_ros.cli.common import progress_bar
from kpvo_ros.errors import SyntheticError
from kpvo_ros.types import Frame, Trajectory

if TYPE_CHECKING:
    from kpvo_ros.synthetic.recording import SyntheticSequence

_MANIFEST = 'manifest.json'
_MAX_WORKERS = 8
_ENDING = (signal.SIGINT, signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to render.

    Attributes:
        preset: name of a synthetic sequence.
        seed: of world, path and noise.
        fps: frames a second, None for the preset's own.
        frames: only so many, None for all.
        size: width and height of the image as multiples of those of the preset.
    """

    preset: str
    seed: int = 0
    fps: float | None = None
    frames: int | None = None
    size: int = 1

    @property
    def name(self) -> str:
        """Name of its folder."""
        rate = '' if self.fps is None else f'_{self.fps:g}hz'
        count = '' if self.frames is None else f'_{self.frames}'
        size = '' if self.size == 1 else f'_{self.size}x'
        return f'{self.preset}_seed{self.seed}{rate}{count}{size}'


class RenderedSource:
    """A synthetic sequence as a recorded one; a `bags.source.Source`.

    Frames are rendered in one process per core with one thread each: pictures this small gain
    little from threads, and threads that wait for each other stall on a busy machine.
    """

    def __init__(self, sequence: SyntheticSequence) -> None:
        self._sequence = sequence

    @property
    def info(self) -> SourceInfo:
        """All is known beforehand."""
        return SourceInfo(
            name=self._sequence.name,
            kind=SourceKind.RENDERED,
            n_frames=len(self._sequence),
            camera=self._sequence.camera,
            has_depth=True,
            has_ground_truth=True,
        )

    def records(self) -> Iterator[Record]:
        """Render frame after frame."""
        workers = max(1, min(_MAX_WORKERS, len(os.sched_getaffinity(0))))
        with contextlib.ExitStack() as stack:
            with _held_signals():  # an end that comes now would leave half a pool behind
                context = multiprocessing.get_context('spawn')
                pool = stack.enter_context(context.Pool(workers, _begin_work, (self._sequence,)))
            yield from pool.imap(_render_one, range(len(self._sequence)))

    def ground_truth(self) -> Trajectory:
        """The path of the optical frame."""
        return self._sequence.ground_truth

    def extrinsics(self) -> np.ndarray:
        """Where the camera sits on its carrier."""
        return self._sequence.path.T_base_camera

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> RenderedSource:
        """Return the source itself."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing is held."""


def rendered_bag(folder: Path, recipe: Recipe) -> Path:
    """A rosbag2 of the recipe with depth, camera_info, tf_static and ground truth.

    Args:
        folder: where recordings are kept.
        recipe: what is wanted.

    Returns:
        The bag; rendered now, with a progress bar, unless it lies there already.

    Raises:
        SyntheticError: the recipe names no preset, or the folder cannot be written.
    """
    home = folder / recipe.name
    bag, manifest = home / recipe.preset, home / _MANIFEST
    wanted = {'recipe': dataclasses.asdict(recipe), 'renderer': _renderer_digest()}
    if bag.is_dir() and _read(manifest) == wanted:
        return bag
    try:
        if home.exists():
            shutil.rmtree(home)
        home.mkdir(parents=True)
        with (
            RenderedSource(_sequence(recipe)) as source,
            progress_bar(f'rendering {recipe.name}') as progress,
        ):
            convert(source, bag, progress=progress)
        manifest.write_text(json.dumps(wanted, indent=2) + '\n', encoding='utf-8')
    except OSError as error:
        raise SyntheticError(
            f'{home}: cannot be written ({error.strerror}); choose another folder'
        ) from None
    return bag


_worker_sequence: SyntheticSequence | None = None  # of this worker process


@contextlib.contextmanager
def _held_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM act after the block; processes started in it do not see Ctrl-C.

    Both ways are needed: a mask is inherited, but does not hold back what another thread receives.
    """
    if threading.current_thread() is not threading.main_thread():  # Python handles signals there
        yield
        return
    received: list[int] = []
    handlers = {n: signal.signal(n, lambda number, _: received.append(number)) for n in _ENDING}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def _begin_work(sequence: SyntheticSequence) -> None:
    import torch

    global _worker_sequence
    _worker_sequence = sequence
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who waits
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _render_one(index: int) -> Frame:
    assert _worker_sequence is not None
    return _worker_sequence.frame(index).frame


def _sequence(recipe: Recipe) -> SyntheticSequence:
    from kpvo_ros.synthetic.recording import CAMERA
    from kpvo_ros.synthetic.sequence import sequence

    camera = CAMERA.resized(recipe.size * CAMERA.width, recipe.size * CAMERA.height)
    made = sequence(recipe.preset, recipe.seed, fps=recipe.fps, camera=camera)
    return made if recipe.frames is None else made.shortened(recipe.frames)


def _renderer_digest() -> str:
    """Changes when the renderer, or what writes the bag, does."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for room in ('synthetic', 'geometry'):
        for path in sorted((package / room).rglob('*.py')):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _read(manifest: Path) -> object:
    try:
        return json.loads(manifest.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
