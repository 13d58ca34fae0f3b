"""The rendered recordings of one bench run.

They are rendered once per seed and kept. Those of a drawn seed are removed when the next seed is
drawn, so that worlds nobody will ask for again do not fill the disk.
"""

from __future__ import annotations

from pathlib import Path
import shutil

from kpvo_ros.bags.source import Source
from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli.bench import BenchOptions
from kpvo_ros.cli.rendered import Recipe, rendered_bag
from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.config.schema import with_words
from kpvo_ros.errors import CommandError

_QUICK_S, _QUICK_AFTER_S = 5.0, 2.5
_DRAWN = 'drawn'  # marks the folder of a seed nobody asked for


class Worlds:
    """Renders what a part of the bench asks for.

    Args:
        options: of the bench.

    Raises:
        CommandError: the folder cannot be written.
    """

    def __init__(self, options: BenchOptions) -> None:
        self._options = options
        rendered = options.work_dir / 'rendered'
        self._folder = rendered / f'seed_{options.seed}'
        try:
            if options.seed_is_drawn:
                for mark in rendered.glob(f'seed_*/{_DRAWN}'):
                    shutil.rmtree(mark.parent)
            self._folder.mkdir(parents=True, exist_ok=True)
            if options.seed_is_drawn:
                (self._folder / _DRAWN).touch()
        except OSError as error:
            raise CommandError(
                f'{rendered}: cannot be written ({error.strerror}); choose another --work'
            ) from None

    def bag(
        self,
        preset: str,
        *,
        world: int = 0,
        frames: int | None = None,
        fps: float | None = None,
        size: int = 1,
    ) -> Path:
        """A recording; rendered now unless it is there.

        Args:
            preset: name of a synthetic sequence.
            world: another number is another world of the same seed.
            frames: only the first, None for all.
            fps: frames a second, None for those of the preset.
            size: of the image, as a multiple of that of the preset.
        """
        if self._options.quick:
            quick = _quick_frames(preset, fps)
            frames = min(frames or quick, quick)
        recipe = Recipe(preset, self._options.seed + world, fps, frames, size)
        return rendered_bag(self._folder, recipe)

    def source(self, preset: str, *, world: int = 0, frames: int | None = None) -> Source:
        """The same, opened."""
        return open_source(self.bag(preset, world=world, frames=frames))


def configuration(words: tuple[str, ...], source: Source, seed: int) -> VoConfig:
    """Parameters of a run.

    Args:
        words: `key=value`; `{height}` becomes the height of the recording's camera.
        source: the recording.
        seed: of the odometry.
    """
    extrinsics = source.extrinsics()
    height = '' if extrinsics is None else f'{extrinsics[2, 3]:.4f}'
    filled = [word.format(height=height) for word in words]
    return with_words(VoConfig(), [*filled, f'seed={seed}'])


# ------------------------------------------------------------------------------------ private


def _quick_frames(preset: str, fps: float | None) -> int:
    """A few seconds, and where the picture goes dark, until it is bright again."""
    from kpvo_ros.synthetic.sequence import PRESETS

    made = PRESETS[preset]
    ends_s = [end + _QUICK_AFTER_S for _, end in made.effects.blackouts_s]
    return round(max([_QUICK_S, *ends_s]) * (fps or made.fps))
