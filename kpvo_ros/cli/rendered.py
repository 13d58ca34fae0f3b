"""Rendered recordings, kept on disk so that they are rendered once.

A recording lies in a folder of its own with a manifest that is written last. It is used again
only when the manifest names the same recipe and the same renderer.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import hashlib
import json
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

import numpy as np

from kpvo_ros.bags.convert import convert
from kpvo_ros.bags.source import Record, SourceInfo, SourceKind
from kpvo_ros.cli.common import progress_bar
from kpvo_ros.errors import SyntheticError
from kpvo_ros.types import Trajectory

if TYPE_CHECKING:
    from kpvo_ros.synthetic.recording import SyntheticSequence

_MANIFEST = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to render.

    Attributes:
        preset: name of a synthetic sequence.
        seed: of world, path and noise.
        fps: frames a second, None for the preset's own.
        frames: only so many, None for all.
    """

    preset: str
    seed: int = 0
    fps: float | None = None
    frames: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        rate = '' if self.fps is None else f'_{self.fps:g}hz'
        count = '' if self.frames is None else f'_{self.frames}'
        return f'{self.preset}_seed{self.seed}{rate}{count}'


class RenderedSource:
    """A synthetic sequence as a recorded one; a `bags.source.Source`."""

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
        for rendered in self._sequence.frames():
            yield rendered.frame

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
    bag, manifest = home / 'bag', home / _MANIFEST
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


def _sequence(recipe: Recipe) -> SyntheticSequence:
    from kpvo_ros.synthetic.sequence import sequence

    made = sequence(recipe.preset, recipe.seed, fps=recipe.fps)
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
