"""Pairs of views of whole rendered worlds, kept in a bank and cut for use.

Photos under a homography have no depth; here everything does: wide baselines, surfaces seen at a
slant, occlusion of everything by everything, another time of day in the second view, and things
that moved in between (seed 000, [0013], [0021]). Rendering takes about half a second a pair, so a
bank is made once; each use cuts another window from it.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.sampling import inside
from kpvo_ros.synthetic.correspondence import (
    Correspondence,
    Layer,
    Pairs,
    consistent,
    from_depth,
    merge,
)
from kpvo_ros.synthetic.exposure import expose
from kpvo_ros.synthetic.render import Render, render
from kpvo_ros.synthetic.viewpoints import Viewpoints, choose_viewpoints
from kpvo_ros.synthetic.world import World
from kpvo_ros.synthetic.world_choice import SceneWorld, make_scene_world, relit

_STEPS = 32  # coordinates are kept in steps of 1 / 32 pixel
_FAR = 2**15 - 1
_VISIBLE, _MOVABLE = 1, 2
_FOCAL = (0.65, 1.1)  # in widths
_RESTYLED = 0.65  # share of the pairs in different light
Rng = np.random.Generator


@dataclasses.dataclass(frozen=True, eq=False)
class SceneBank:
    """N rendered pairs with their truth, on one device.

    Attributes:
        image0, image1: (N, 3, S, S) uint8 RGB.
        xy0, xy1: (N, S, S, 2) int16, where each pixel of image0 (image1) lies in the other image,
            1 / 32 pixel.
        flags0, flags1: (N, S, S) uint8, 1 for visible in the other image, 2 for movable.
        restyled: (N,) bool: the two views were taken in different light.
    """

    image0: Tensor
    image1: Tensor
    xy0: Tensor
    xy1: Tensor
    flags0: Tensor
    flags1: Tensor
    restyled: Tensor

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.image0)

    @property
    def size_px(self) -> int:
        """Side S of the images."""
        return self.image0.shape[-1]

    def to(self, device: torch.device | str) -> SceneBank:
        """The same bank on another device."""
        return SceneBank(**{name: value.to(device) for name, value in self._tensors().items()})

    def save(self, path: Path) -> None:
        """Keep the bank in a safetensors file, to be read again by `load`."""
        tensors = {name: value.contiguous().cpu() for name, value in self._tensors().items()}
        save_file(tensors, str(path), {'kind': 'scene_bank'})

    @classmethod
    def load(cls, path: Path) -> SceneBank:
        """Read what `save` wrote.

        Raises:
            SyntheticError: the file is not a scene bank.
        """
        try:
            with safe_open(str(path), framework='pt') as file:
                return cls(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, TypeError) as error:
            raise SyntheticError(f'{path} is not a scene bank ({error}): delete it') from error

    def cut(
        self,
        count: int,
        size_hw: tuple[int, int],
        generator: torch.Generator,
        *,
        restyled: bool = True,
    ) -> Pairs:
        """Random windows of random pairs, either view first, half of them mirrored.

        Args:
            count: how many.
            size_hw: of the windows.
            generator: of the draws.
            restyled: also pairs whose views differ in light.

        Raises:
            SyntheticError: the windows are larger than the images, or no pair is left.
        """
        height, width = size_hw
        if max(size_hw) > self.size_px:
            raise SyntheticError(
                f'windows of {width} x {height} do not fit into scenes of {self.size_px} px: '
                'render larger scenes'
            )
        allowed = (~self.restyled | restyled).nonzero()[:, 0].cpu()
        if not len(allowed):
            raise SyntheticError(f'none of {len(self)} scene pairs has the same light twice')
        draw = torch.rand(count, 7, generator=generator, device=generator.device).cpu()
        room = torch.tensor([self.size_px - width + 1, self.size_px - height + 1])
        corners = (draw[:, :4] * room.repeat(2)).long()
        rows = allowed[(draw[:, 4] * len(allowed)).long().clamp(max=len(allowed) - 1)]
        swap, mirror = draw[:, 5] < 0.5, draw[:, 6] < 0.5
        cuts = [
            self._cut(int(rows[k]), corners[k].tolist(), size_hw, bool(swap[k]), bool(mirror[k]))
            for k in range(count)
        ]
        image0, image1, xy0, xy1, visible0, visible1, movable0, movable1 = (
            torch.stack(column) for column in zip(*cuts, strict=True)
        )
        to1, to0 = Correspondence(xy0, visible0), Correspondence(xy1, visible1)
        return Pairs(image0, image1, to1, to0, movable0, movable1)

    def _cut(
        self, row: int, corners: list[int], size_hw: tuple[int, int], swap: bool, mirror: bool
    ) -> tuple[Tensor, ...]:
        sides = (corners[:2], corners[2:])
        names = ('image0', 'xy0', 'flags0'), ('image1', 'xy1', 'flags1')
        order = (1, 0) if swap else (0, 1)
        out = []
        for side in order:
            image, xy, flags = (getattr(self, name)[row] for name in names[side])
            left, top = sides[side]
            window = (slice(top, top + size_hw[0]), slice(left, left + size_hw[1]))
            place = xy[window].float() / _STEPS - xy.new_tensor(sides[1 - side]).float()
            visible = (flags[window] & _VISIBLE > 0) & inside(place, *size_hw)
            movable = flags[window] & _MOVABLE > 0
            picture = image[:, window[0], window[1]].float() / 255
            if mirror:
                picture, visible, movable = (x.flip(-1) for x in (picture, visible, movable))
                place = place.flip(1) * place.new_tensor([-1, 1])
                place += place.new_tensor([size_hw[1] - 1, 0])
            out.append((picture, place, visible, movable))
        return tuple(value for pair in zip(*out, strict=True) for value in pair)

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def render_scenes(
    rng: Rng,
    count: int = 150,
    *,
    size_px: int = 320,
    pairs_per_world: int = 10,
    device: torch.device | str = 'cpu',
    progress: Callable[[int, int], None] | None = None,
) -> SceneBank:
    """Render a bank of scene pairs.

    Args:
        rng: worlds, viewpoints, light.
        count: number N of pairs.
        size_px: side S of the images.
        pairs_per_world: pairs after which another world is built.
        device: where to render and keep them.
        progress: called with the number of pairs done and their total.

    Raises:
        SyntheticError: there is nothing to render.
    """
    if count < 1 or size_px < 64 or pairs_per_world < 1:
        raise SyntheticError(
            f'{count} scene pairs of {size_px} px, {pairs_per_world} a world: '
            'use at least 1, 64, 1'
        )
    rows: list[dict[str, Tensor]] = []
    while len(rows) < count:
        scene = make_scene_world(rng, len(rows) // pairs_per_world, device)
        for _ in range(min(pairs_per_world, count - len(rows))):
            focal = float(rng.uniform(*_FOCAL)) * size_px
            middle = (size_px - 1) / 2
            camera = Camera(size_px, size_px, focal, focal, middle, middle)
            restyled = bool(rng.random() < _RESTYLED)
            row = _row(render_pair(scene, camera, rng, restyled=restyled))
            rows.append({**row, 'restyled': torch.tensor(restyled, device=device)})
            if progress is not None:
                progress(len(rows), count)
    return SceneBank(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def render_pair(scene: SceneWorld, camera: Camera, rng: Rng, *, restyled: bool = True) -> Pairs:
    """One pair of views of a world with the truth, the second in another light if restyled."""
    spots = choose_viewpoints(scene, camera, rng)
    world0 = relit(scene, rng)
    world1 = relit(scene, rng) if restyled else world0
    shots = [
        render(world, pose, camera, time_s=time_s)
        for world, pose, time_s in (
            (world0, spots.T_world_camera0, spots.time0_s),
            (world1, spots.T_world_camera1, spots.time1_s),
        )
    ]
    to1, to0, moved0, moved1 = scene_truth(world0, camera, spots, shots[0], shots[1])
    image0, image1 = (expose(shot.radiance).float() / 255 for shot in shots)
    return Pairs(image0, image1, to1, to0, moved0, moved1)


def scene_truth(
    world: World, camera: Camera, spots: Viewpoints, shot0: Render, shot1: Render
) -> tuple[Correspondence, Correspondence, Tensor, Tensor]:
    """Correspondences of two renderings, and which pixels of either show something that moved.

    What stands still is one layer, everything that moves a layer of its own: its points go along
    with it between the two times.
    """
    device = shot0.depth_m.device
    K = torch.tensor(camera.K, dtype=torch.float32, device=device)[None]
    poses = (
        torch.from_numpy(T).to(device) for T in (spots.T_world_camera0, spots.T_world_camera1)
    )
    T_world_0, T_world_1 = poses
    times = torch.tensor([spots.time0_s, spots.time1_s], dtype=torch.float64, device=device)
    motion0, motion1 = (_motion_of(world, shot.object_id) for shot in (shot0, shot1))
    layers = []
    for number in range(-1, len(world.motions)):
        masks = (motion0 == number, motion1 == number)
        if number >= 0 and not bool(masks[0].any() | masks[1].any()):
            continue
        moved = torch.eye(4, dtype=torch.float64, device=device)
        if number >= 0:
            there = world.motions[number].displacement(times)
            moved = there[1] @ torch.linalg.inv(there[0])
        T_1_0 = (torch.linalg.inv(T_world_1) @ moved @ T_world_0).float()[None]
        layers.append(Layer(*masks, *from_depth(shot0.depth_m, shot1.depth_m, T_1_0, K)))
    to1, to0 = merge(layers)
    return consistent(to1, to0), consistent(to0, to1), motion0 >= 0, motion1 >= 0


def _motion_of(world: World, object_id: Tensor) -> Tensor:
    """(B, H, W) int64 number of the motion each pixel takes part in, -1 for none."""
    table = torch.full((int(world.object_id.max()) + 2,), -1, device=object_id.device)
    table[world.object_id] = world.motion_index
    return table[object_id]  # the sky, -1, reads the last entry


def _row(pairs: Pairs) -> dict[str, Tensor]:
    """One pair as it is kept."""
    row = {}
    sides = ((pairs.image0, pairs.to1, pairs.movable0), (pairs.image1, pairs.to0, pairs.movable1))
    for name, (image, way, movable) in zip('01', sides, strict=True):
        row[f'image{name}'] = (255 * image[0]).round().to(torch.uint8)
        steps = (way.xy_in_other[0] * _STEPS).round()
        row[f'xy{name}'] = steps.clamp(-_FAR, _FAR).to(torch.int16)
        flags = _VISIBLE * way.visible[0].long() + _MOVABLE * movable[0].long()
        row[f'flags{name}'] = flags.to(torch.uint8)
    return row
