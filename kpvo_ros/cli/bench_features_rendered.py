"""kpvo bench features: rendered views of one street in many lights and weathers, with truth.

They take a minute to render, so they are kept on disk as long as the renderer stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import hashlib
from pathlib import Path
import re
from typing import TYPE_CHECKING
import zipfile

import cv2
import numpy as np

from kpvo_ros.cli.tracking_truth import Clip
from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    from kpvo_ros.synthetic.lighting import Lighting
    from kpvo_ros.synthetic.recording import SyntheticSequence

UNCHANGED = 'unchanged'
PAINTED = ('rain', 'snow')  # the renderer knows light and fog, these are painted into its image
STYLES = ('another sun', 'overcast', 'fog', 'night', *PAINTED)
_FOG_PER_M = 0.05
_FIRST, _EVERY, _GAP = 40, 45, 6  # frames; the path begins at rest
_LAP_FPS = 2.0
_ROOM = Path(__file__).resolve().parent.parent / 'synthetic'
_MADE_BY = ('sequence', 'weather')
_IMPORTED = re.compile(r'from kpvo_ros\.synthetic(?:\.| import )(\w+)')


@dataclasses.dataclass(frozen=True, eq=False)
class StyledPairs:
    """Pairs of views, the second one in every style.

    Attributes:
        clip: both views of each pair with depth and poses, at 2 i and 2 i + 1, unchanged.
        styled: the second views in each style, (H, W, 3) uint8.
    """

    clip: Clip
    images: list[np.ndarray]
    styled: dict[str, list[np.ndarray]]


def styled_pairs(folder: Path, seed: int, pairs: int) -> StyledPairs:
    """Pairs of views along a street.

    Args:
        folder: where rendered views are kept.
        seed: of the street and of the weather.
        pairs: how many.

    Raises:
        CommandError: they cannot be written.
    """
    from kpvo_ros.synthetic.recording import CAMERA

    camera = CAMERA.resized(2 * CAMERA.width, 2 * CAMERA.height)
    content = _kept(folder / f'styles_seed{seed}_{pairs}.npz', lambda: _render_pairs(seed, pairs))
    images = list(content['images'])
    grays = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    clip = Clip('street', grays, list(content['depths_m']), content['poses'], camera)
    return StyledPairs(clip, images, {style: list(content[style]) for style in STYLES})


def two_laps(folder: Path, seed: int, images: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Views of a first lap by day and of a second one, between them, under clouds.

    Args:
        folder: where rendered views are kept.
        seed: of the street.
        images: of each lap.

    Returns:
        2 * `images` views (H, W, 3) uint8 and their poses (2 * `images`, 4, 4).

    Raises:
        CommandError: they cannot be written.
    """
    content = _kept(folder / f'laps_seed{seed}_{images}.npz', lambda: _render_laps(seed, images))
    return list(content['images']), content['poses']


# ------------------------------------------------------------------------------------ private

_Content = dict[str, np.ndarray]


def _kept(path: Path, render: Callable[[], _Content]) -> _Content:
    """What lies at the path when this very renderer made it; else rendered now and kept."""
    digest = _renderer_digest()
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file['renderer']) == digest:
                return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    content = render()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('wb') as file:
            np.savez(file, renderer=np.array(digest), **content)  # type: ignore[arg-type]
    except OSError as error:
        raise CommandError(
            f'{path}: cannot be written ({error.strerror}); choose another --work'
        ) from None
    return content


def _renderer_digest() -> str:
    """Changes when anything does that the views are made of."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(_sources(_ROOM, set(_MADE_BY))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _sources(room: Path, wanted: set[str]) -> set[Path]:
    """Files of these modules of a room and of all that they import from it."""
    found: set[Path] = set()
    while wanted:
        name = wanted.pop()
        file = room / f'{name}.py'
        for path in {file} if file.is_file() else set((room / name).rglob('*.py')):
            if path not in found:
                found.add(path)
                wanted.update(_IMPORTED.findall(path.read_text(encoding='utf-8')))
    return found


def _render_pairs(seed: int, pairs: int) -> _Content:
    from kpvo_ros.synthetic.recording import CAMERA
    from kpvo_ros.synthetic.sequence import sequence

    camera = CAMERA.resized(2 * CAMERA.width, 2 * CAMERA.height)
    street = sequence('street', seed, camera=camera)
    night = sequence('street_night', seed, camera=camera)  # the same street, its lamps lit
    indices = [_FIRST + _EVERY * i + k * _GAP for i in range(pairs) for k in (0, 1)]
    shots = [street.frame(i % len(street)) for i in indices]
    depths_m = [shot.frame.depth_m for shot in shots if shot.frame.depth_m is not None]
    content = {
        'images': np.stack([shot.frame.image for shot in shots]),
        'depths_m': np.stack(depths_m),
        'poses': np.stack([shot.T_world_camera for shot in shots]),
    }
    seconds = [i % len(street) for i in indices[1::2]]
    for style, light in _lights(street).items():
        content[style] = _views(_relit(street, light), seconds)
    content['night'] = _views(night, seconds)
    for style in PAINTED:
        content[style] = _painted(style, content['images'][1::2], content['depths_m'][1::2], seed)
    return content


def _lights(street: SyntheticSequence) -> dict[str, Lighting]:
    from kpvo_ros.synthetic.lighting import Lighting

    return {
        'another sun': Lighting.day(azimuth_rad=-2.2, elevation_rad=0.4),
        'overcast': Lighting.overcast(),
        'fog': Lighting.overcast(fog_per_m=_FOG_PER_M),
    }


def _relit(street: SyntheticSequence, light: Lighting) -> SyntheticSequence:
    return dataclasses.replace(street, world=street.world.with_lighting(light))


def _views(street: SyntheticSequence, indices: list[int]) -> np.ndarray:
    return np.stack([street.frame(i).frame.image for i in indices])


def _painted(style: str, images: np.ndarray, depths_m: np.ndarray, seed: int) -> np.ndarray:
    """(N, H, W, 3) uint8 in rain or snow."""
    import torch

    from kpvo_ros.synthetic.weather import add_rain, add_snow, scene_of

    generator = torch.Generator().manual_seed(seed)
    dry = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    horizon_px = torch.full((len(images),), 0.5 * images.shape[1])  # the camera looks ahead
    scene = scene_of(dry, horizon_px, torch.from_numpy(depths_m)[:, None])
    wet = (add_rain if style == 'rain' else add_snow)(dry, generator, scene).clamp(0.0, 1.0)
    return (255.0 * wet).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _render_laps(seed: int, images: int) -> _Content:
    from kpvo_ros.synthetic.lighting import Lighting
    from kpvo_ros.synthetic.sequence import sequence

    lap = sequence('loop_200m', seed, fps=_LAP_FPS)
    at = np.linspace(2, len(lap) - 3, 2 * images).round().astype(int)
    first, second = at[::2].tolist(), at[1::2].tolist()
    poses = lap.path.T_world_camera
    cloudy = _relit(lap, Lighting.overcast())
    return {
        'images': np.concatenate([_views(lap, first), _views(cloudy, second)]),
        'poses': np.concatenate([poses[first], poses[second]]),
    }
