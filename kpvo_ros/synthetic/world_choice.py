"""Worlds for training pairs: rooms, corridors and streets by day, in fog and at night."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses

import numpy as np
import torch

from kpvo_ros.synthetic import trajectory as paths
from kpvo_ros.synthetic.indoor import make_corridor, make_room
from kpvo_ros.synthetic.lighting import Lighting
from kpvo_ros.synthetic.streets import make_loop_street, make_street
from kpvo_ros.synthetic.texture import TextureAtlas, standard_atlas
from kpvo_ros.synthetic.trajectory import CameraPath
from kpvo_ros.synthetic.world import World

_ATLASES = 3  # different sets of textures; each takes about two seconds to paint
_TEXTURE_SIDE = 256
_LOOP_M = 160.0
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True, eq=False)
class SceneWorld:
    """A world, where one may stand in it, and how far one sees.

    Attributes:
        world: in its own light.
        night: the same world lit by its lamps, None indoors.
        path: places where a camera may be.
        reach_m: usual distance of what is looked at, nearest and farthest.
    """

    world: World
    night: World | None
    path: CameraPath
    reach_m: tuple[float, float]


def make_scene_world(rng: Rng, turn: int, device: torch.device | str) -> SceneWorld:
    """The next world: rooms, streets, corridors and blocks of houses in turn."""
    seed = int(rng.integers(1 << 31))
    atlas = standard_atlas(turn % _ATLASES, _TEXTURE_SIDE)
    scene = _MAKERS[turn % len(_MAKERS)](seed, atlas)
    night = None if scene.night is None else scene.night.to(device)
    return dataclasses.replace(scene, world=scene.world.to(device), night=night)


def relit(scene: SceneWorld, rng: Rng) -> World:
    """The world in a random light; now and then also repainted, as by another season."""
    world = _indoors(scene, rng) if scene.night is None else _outdoors(scene, rng)
    if rng.random() < 0.3:
        change = torch.from_numpy(rng.uniform(0.7, 1.15, (len(world), 3))).to(world.tint)
        world = dataclasses.replace(world, tint=world.tint * change)
    return world


def _outdoors(scene: SceneWorld, rng: Rng) -> World:
    draw = rng.random()
    if scene.night is not None and draw < 0.15:
        return scene.night
    if draw < 0.35:
        return scene.world.with_lighting(Lighting.overcast(float(rng.uniform(0.0, 0.03))))
    azimuth, elevation = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.15, 1.3))
    return scene.world.with_lighting(Lighting.day(azimuth, elevation))


def _indoors(scene: SceneWorld, rng: Rng) -> World:
    """Some lamps off, others brighter, more or less daylight from everywhere."""
    if rng.random() < 0.35:
        return scene.world
    light = scene.world.lighting
    lamps = []
    for lamp in light.lamps:
        factor = float(rng.choice([0.02, 0.6, 1.0, 1.5]))
        red, green, blue = lamp.power
        warm = float(rng.uniform(0.8, 1.1))
        power = (red * factor, green * factor, blue * factor * warm)
        lamps.append(dataclasses.replace(lamp, power=power))
    level = float(rng.uniform(0.4, 1.8))
    (r, g, b), (x, y, z) = light.sky, light.bounce
    return scene.world.with_lighting(
        dataclasses.replace(
            light,
            lamps=tuple(lamps),
            sky=(r * level, g * level, b * level),
            bounce=(x * level, y * level, z * level),
        )
    )


def _room(seed: int, atlas: TextureAtlas) -> SceneWorld:
    world = make_room(seed, n_moving=2, atlas=atlas)
    return SceneWorld(world, None, paths.walk_room(seed, fps=5.0), (1.5, 5.0))


def _corridor(seed: int, atlas: TextureAtlas) -> SceneWorld:
    world = make_corridor(seed, atlas=atlas)
    return SceneWorld(world, None, paths.walk_corridor(seed, fps=5.0), (1.5, 6.0))


def _street(seed: int, atlas: TextureAtlas) -> SceneWorld:
    day, night = (
        make_street(seed, n_moving=8, lighting=light, atlas=atlas)
        for light in (Lighting.day(), Lighting.night(()))
    )
    return SceneWorld(day, night, paths.drive(seed, fps=5.0), (5.0, 18.0))


def _block(seed: int, atlas: TextureAtlas) -> SceneWorld:
    day, night = (
        make_loop_street(
            seed, n_objects=50, length_m=_LOOP_M, n_moving=4, lighting=light, atlas=atlas
        )
        for light in (Lighting.day(), Lighting.night(()))
    )
    return SceneWorld(day, night, paths.loop(seed, _LOOP_M, fps=5.0), (5.0, 18.0))


_MAKERS: tuple[Callable[[int, TextureAtlas], SceneWorld], ...] = (
    _room,
    _street,
    _corridor,
    _block,
)
