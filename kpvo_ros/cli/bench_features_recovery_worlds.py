"""kpvo bench features: rendered places to be recognised, seen from elsewhere and in other light.

A first pass through a room and around a block of houses is the map. The queries are displaced
from it by 0.3 to 3 m and turned by up to 60 degrees, at random; each is seen in the light of the
map and in another light or weather. They take a minute or two to render, so they are kept on disk
as long as neither the renderer nor this file changes.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
import zipfile

import cv2
import numpy as np

from kpvo_ros.cli.bench_features_data import evenly
from kpvo_ros.cli.bench_features_recovery_views import (
    BINS_M,
    MAX_TURN_DEG,
    Queries,
    Trial,
    best_view,
    points_of,
)
from kpvo_ros.cli.tracking_truth import Clip
from kpvo_ros.errors import CommandError
from kpvo_ros.geometry import se3

if TYPE_CHECKING:
    from kpvo_ros.synthetic.recording import SyntheticSequence
    from kpvo_ros.synthetic.weather import WeatherLimits
    from kpvo_ros.synthetic.world import World

_VIEWS = {'room': 36, 'loop_200m': 80}  # of the map: some 0.4 and 2.5 m apart
_STRANGE = {'room': 'corridor', 'loop_200m': 'street'}  # where strange images are from
_STRANGE_COUNT = 20
_OTHER_ATLAS = 1  # painted with the same asphalt to the pixel, a strange road would not be strange
_NEAREST_M = 0.3  # that a query is displaced
_SHARE = 0.25  # of a query that a view of the map must show as well
_DRAWS = 40  # for each query; a room is too small to fill every bin
_IN_THE_WAY = (0.3, 0.05)  # a share of the image nearer than that: the camera stands in something
_SMALL = 4  # what a query would show is looked up at a fourth of its size
_FPS = 5.0  # of the path the views are taken from
_PACKAGE = Path(__file__).resolve().parent.parent


class Draw(NamedTuple):
    """Where queries are taken: poses (Q, 4, 4), median depths (Q,), distances (Q,)."""

    poses: np.ndarray
    depth_m: np.ndarray
    distance_m: np.ndarray


def rendered_trials(folder: Path, seed: int, per_bin: int) -> Iterator[Trial]:
    """A room, and a lap around a block.

    Args:
        folder: where rendered views are kept.
        seed: of the worlds and of the queries.
        per_bin: queries of each distance in each light, as far as there are any.

    Raises:
        CommandError: the folder cannot be written.
    """
    for preset in _VIEWS:
        path = folder / f'recovery_{preset}_seed{seed}_{per_bin}.npz'
        yield _trial(preset, _kept(path, preset, seed, per_bin))


def draw_queries(mapped: Clip, world: World, per_bin: int, rng: np.random.Generator) -> Draw:
    """Places around those of a map from which something of it is seen.

    Args:
        mapped: views of the world.
        world: to look at.
        per_bin: how many of each distance.
        rng: source of the draws.
    """
    from kpvo_ros.synthetic.render import render

    width, height = mapped.camera.width // _SMALL, mapped.camera.height // _SMALL
    camera = mapped.camera.resized(width, height)
    lowest = (_NEAREST_M, *BINS_M)
    kept: list[list[tuple[np.ndarray, float, float]]] = [[] for _ in BINS_M]
    for turn in range(_DRAWS * per_bin * len(BINS_M)):
        wanted = turn % len(BINS_M)
        if len(kept[wanted]) == per_bin:
            continue
        near = mapped.poses[int(rng.integers(len(mapped)))]
        T = displaced(near, rng.uniform(lowest[wanted], BINS_M[wanted]), rng)
        depth_m = render(world, T, camera, shadows=False, antialias=False).depth_m[0].numpy()
        if (depth_m < _IN_THE_WAY[0]).mean() > _IN_THE_WAY[1]:
            continue
        look = Clip('', [], [depth_m], T[None], camera)
        share, distance_m = best_view(mapped, points_of(look, 0, 1), T)
        # Another view may show more of it than the one it was displaced from.
        found = int(np.searchsorted(BINS_M, distance_m))
        if share >= _SHARE and distance_m >= _NEAREST_M and len(kept[found]) < per_bin:
            kept[found].append((T, float(np.nanmedian(depth_m)), distance_m))
    rows = list(itertools.chain.from_iterable(kept))
    if not rows:
        raise CommandError('recovery: nothing of this world is seen from elsewhere; try --seed')
    poses, depths_m, distances_m = zip(*rows, strict=True)
    return Draw(np.stack(poses), np.array(depths_m), np.array(distances_m))


def displaced(
    T_world_camera: np.ndarray, distance_m: float, rng: np.random.Generator
) -> np.ndarray:
    """(4, 4) a camera at that distance from another one, roughly level, and turned."""
    course, turn = rng.uniform(-np.pi, np.pi), rng.uniform(-1.0, 1.0) * np.radians(MAX_TURN_DEG)
    lift = rng.uniform(-0.15, 0.15)
    level = np.sqrt(1.0 - lift**2)
    way = distance_m * np.array([level * np.cos(course), level * np.sin(course), lift])
    pitch, roll = np.radians(rng.normal(0.0, 3.0, 2))
    R = se3.rpy_to_matrix(0.0, 0.0, turn) @ T_world_camera[:3, :3]
    return se3.from_rt(R @ se3.exp_so3((pitch, 0.0, roll)), T_world_camera[:3, 3] + way)


# ------------------------------------------------------------------------------------ private

_Content = dict[str, np.ndarray]


def _trial(preset: str, content: _Content) -> Trial:
    from kpvo_ros.synthetic.recording import CAMERA

    grays, depths_m = list(content['grays']), list(content['depths_m'])
    truth = Draw(*(content[f'query_{name}'] for name in Draw._fields))
    queries = {
        name: Queries(list(content[lit]), *truth)
        for name, lit in ((preset, 'same_light'), (f'{preset}, other light', 'other_light'))
    }
    return Trial(
        Clip(preset, grays, depths_m, content['poses'], CAMERA), queries, list(content['strange'])
    )


def _kept(path: Path, preset: str, seed: int, per_bin: int) -> _Content:
    """What lies at the path when it was made by this very code; else made now and kept."""
    digest = _digest()
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file['made_by']) == digest:
                return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass
    content = _render(preset, seed, per_bin)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, made_by=np.array(digest), **content)  # type: ignore[arg-type]
    except OSError as error:
        raise CommandError(
            f'{path}: cannot be written ({error.strerror}); choose another --work'
        ) from None
    return content


def _digest() -> str:
    """Changes when the renderer, the worlds, or the choice of the queries do."""
    digest = hashlib.sha256()
    own = [Path(__file__), Path(__file__).with_name('bench_features_recovery_views.py')]
    for path in (*own, *sorted((_PACKAGE / 'synthetic').rglob('*.py'))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _render(preset: str, seed: int, per_bin: int) -> _Content:
    from kpvo_ros.synthetic.sequence import sequence

    place = sequence(preset, seed, fps=_FPS)
    shots = [place.frame(i) for i in evenly(len(place), _VIEWS[preset])]
    poses = np.stack([shot.T_world_camera for shot in shots])
    grays = [shot.frame.gray for shot in shots]
    depths_m = [shot.frame.depth_m for shot in shots if shot.frame.depth_m is not None]
    mapped = Clip(preset, grays, depths_m, poses, place.camera)
    draw = draw_queries(mapped, place.world, per_bin, np.random.default_rng(seed))
    return {
        'grays': np.stack(grays),
        'depths_m': np.stack(depths_m),
        'poses': poses,
        'strange': _strange(preset, seed + 1),
        'same_light': _pictures([_Style(place.world)], place, draw.poses),
        'other_light': _pictures(_styles(place), place, draw.poses),
        **{f'query_{name}': value for name, value in draw._asdict().items()},
    }


def _strange(preset: str, seed: int) -> np.ndarray:
    """(N, H, W) uint8 along a place of that kind, painted differently."""
    from kpvo_ros.synthetic.indoor import make_corridor
    from kpvo_ros.synthetic.sequence import sequence
    from kpvo_ros.synthetic.streets import make_street
    from kpvo_ros.synthetic.texture import standard_atlas

    atlas = standard_atlas(_OTHER_ATLAS)
    if _STRANGE[preset] == 'corridor':
        world = make_corridor(seed, atlas=atlas)
    else:
        world = make_street(seed, atlas=atlas)
    other = dataclasses.replace(sequence(_STRANGE[preset], seed, fps=_FPS), world=world)
    return np.stack([other.frame(i).frame.gray for i in evenly(len(other), _STRANGE_COUNT)])


class _Style(NamedTuple):
    """A world in some light, and what weather paints into its picture."""

    world: World
    weather: WeatherLimits | None = None
    auto_exposure: float = 0.0


def _styles(place: SyntheticSequence) -> list[_Style]:
    """Other light than that of the map; the queries take turns."""
    from kpvo_ros.synthetic.lighting import Lighting
    from kpvo_ros.synthetic.weather import WeatherLimits

    def lit(light: Lighting, weather: WeatherLimits | None = None) -> _Style:
        return _Style(place.world.with_lighting(light), weather, 0.6)

    own = place.world.lighting
    if own.sun_direction is None:  # indoors
        brighter = tuple((2.5 * own.sky[i], 2.5 * own.bounce[i]) for i in range(3))
        sky, bounce = zip(*brighter, strict=True)
        return [
            lit(dataclasses.replace(own, lamps=own.lamps[1:2])),
            lit(dataclasses.replace(own, lamps=(), sky=sky, bounce=bounce)),
            lit(own, WeatherLimits(dusk=1.0)),
        ]
    overcast = Lighting.overcast()
    return [
        lit(Lighting.day(azimuth_rad=-2.2, elevation_rad=0.4)),
        lit(overcast),
        lit(Lighting.overcast(fog_per_m=0.03)),
        lit(overcast, WeatherLimits(rain=1.0)),
        lit(overcast, WeatherLimits(snow=1.0)),
        lit(own, WeatherLimits(night=1.0)),
    ]


def _pictures(styles: list[_Style], place: SyntheticSequence, poses: np.ndarray) -> np.ndarray:
    """(N, H, W) uint8 from each pose, the styles taking turns."""
    import torch

    from kpvo_ros.synthetic.effects import develop
    from kpvo_ros.synthetic.photometric import StyleLimits, restyle
    from kpvo_ros.synthetic.render import render

    generator = torch.Generator().manual_seed(place.seed)
    pictures = []
    for style, pose in zip(itertools.cycle(styles), poses, strict=False):
        shot = render(style.world, pose, place.camera)
        effects = dataclasses.replace(place.effects, auto_exposure=style.auto_exposure)
        image = develop(shot.radiance, effects, torch.zeros(1), generator)
        if style.weather is not None:
            clean = image.permute(0, 3, 1, 2).float() / 255.0
            limits = StyleLimits(weather=style.weather)
            painted = restyle(clean, generator, limits, depth_m=shot.depth_m)
            image = (255.0 * painted).round().to(torch.uint8).permute(0, 2, 3, 1)
        pictures.append(cv2.cvtColor(image[0].numpy(), cv2.COLOR_RGB2GRAY))
    return np.stack(pictures)
