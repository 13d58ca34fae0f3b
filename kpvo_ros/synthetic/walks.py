"""A robot's video in a few frames: where the camera stands, and what it sees there.

The views of a walk follow the path of a world like every n-th frame of a video: steps of one
length, the head held to one side, small turns between the views and now and then a large one. A
walk is drawn again when it faces a wall or when successive views have little in common, which
small renderings of the depth decide.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.sampling import inside, sample
from kpvo_ros.geometry.se3 import T_BASE_OPTICAL, from_rt, rpy_to_matrix
from kpvo_ros.geometry.warp import backproject, project, transform
from kpvo_ros.synthetic.exposure import expose
from kpvo_ros.synthetic.render import render
from kpvo_ros.synthetic.world_choice import SceneWorld, relit

_FOCAL = (0.6, 1.1)  # in widths
_OFF_CENTRE = 0.03  # of the principal point, in widths
_INDOORS_M, _OUTDOORS_M = (0.04, 0.35), (0.3, 1.5)  # length of a step
_STEP_S = (0.1, 0.4)  # between two views: how far moving things get
_START_S = 12.0
_SIDEWAYS_RAD = np.deg2rad(40.0)
_TURN_RAD, _SHARP_RAD = np.deg2rad(1.5), np.deg2rad(10.0)  # between two views
_SHARP_SHARE = 0.1
_HELD_RAD, _SHAKEN_RAD = np.deg2rad(3.0), np.deg2rad(0.7)  # pitch and roll of walk and view
_HEIGHT = 0.1  # change of the camera's height
_BACKWARDS = 0.12  # share of the walks
_SMALL_PX = 48  # width of the renderings that decide
_MEDIAN_M, _NEAR_M, _NEAR_SHARE = 0.8, 0.3, 0.1
_SHARED = 0.55  # of successive views
_TRIES = 12
_FAR_M = 1000.0  # where the sky is, for visibility
_BEHIND = 1.1  # seen is what lies at most a tenth behind what the other view sees there
Rng = np.random.Generator


class Walk(NamedTuple):
    """L views of one walk.

    Attributes:
        images: (L, 3, H, W) uint8 RGB.
        depth_m: (L, H, W) float32 along the optical axis, NaN for the sky.
        T_first_camera: (L, 4, 4) float64 poses of the optical frames in that of the first view.
        K: (3, 3) float64 pinhole matrix.
    """

    images: Tensor
    depth_m: Tensor
    T_first_camera: np.ndarray
    K: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class WalkPlan:
    """Where and when the views of a walk are taken.

    Attributes:
        T_world_camera: (L, 4, 4) float64 poses of the optical frames.
        time_s: (L,) instants, which decide where moving things are.
        camera: of all views.
    """

    T_world_camera: np.ndarray
    time_s: np.ndarray
    camera: Camera


def render_walk(scene: SceneWorld, size_wh: tuple[int, int], views: int, rng: Rng) -> Walk:
    """One walk through a world in one light.

    Args:
        scene: the world and where one may stand.
        size_wh: of the pictures.
        views: number L of views.
        rng: of all draws.

    Raises:
        SyntheticError: the world's path does not suit it, see `choose_walk`.
    """
    plan = choose_walk(scene, size_wh, views, rng)
    shots = render(relit(scene, rng), plan.T_world_camera, plan.camera, time_s=plan.time_s)
    T_first_camera = np.linalg.inv(plan.T_world_camera[0]) @ plan.T_world_camera
    return Walk(expose(shots.radiance), shots.depth_m, T_first_camera, plan.camera.K)


def choose_walk(scene: SceneWorld, size_wh: tuple[int, int], views: int, rng: Rng) -> WalkPlan:
    """Draw walks until one keeps off the walls and its views overlap.

    Raises:
        SyntheticError: none of a dozen walks does.
    """
    best, most = None, 0.0
    for _ in range(_TRIES):
        plan = _draw(scene, size_wh, views, rng)
        shared = _least_shared(scene, plan)
        if shared >= _SHARED:
            return plan
        if shared > most:
            best, most = plan, shared
    if best is None:
        raise SyntheticError('every walk through this world faces a wall: use another seed')
    return best


def covisible_share(depth0: Tensor, depth1: Tensor, K: Tensor, T_1_0: Tensor) -> Tensor:
    """How much of view 0 is in view 1 as well, not hidden there; sky counts as very far.

    Args:
        depth0: (B, 1, H, W) metres, NaN for the sky.
        depth1: (B, 1, H, W) of the other view.
        K: (B, 3, 3) pinhole matrix of both.
        T_1_0: (B, 4, 4) pose of camera 0 in camera 1.

    Returns:
        (B,) shares 0..1 of the pixels of view 0.
    """
    depth0, depth1 = (torch.nan_to_num(depth, nan=_FAR_M) for depth in (depth0, depth1))
    points1 = transform(T_1_0, backproject(depth0, K))
    xy, z = project(points1, K), points1[..., 2]
    met = sample(depth1, xy, mode='nearest')[:, 0]
    height, width = depth1.shape[-2:]
    seen = (z > 0) & inside(xy, height, width, border_px=-0.5) & (z < _BEHIND * met)
    return seen.float().mean(dim=(1, 2))


def _draw(scene: SceneWorld, size_wh: tuple[int, int], views: int, rng: Rng) -> WalkPlan:
    along, stamps_ns = _arc(scene)
    low, high = _INDOORS_M if scene.night is None else _OUTDOORS_M
    step = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    steps = step * rng.uniform(0.8, 1.2, views - 1)
    places = np.concatenate([[0.0], np.cumsum(steps)])
    places *= min(1.0, along[-1] / places[-1])  # a path may be shorter than the walk
    places += rng.uniform(0.0, along[-1] - places[-1])
    if rng.random() < _BACKWARDS:
        places = places[::-1]
    poses = scene.path.camera_at(np.interp(places, along, stamps_ns))
    T_head = np.linalg.inv(T_BASE_OPTICAL)  # of a head that looks along x, z up
    turned = poses @ T_head @ from_rt(_held(views, rng), np.zeros((views, 3))) @ T_BASE_OPTICAL
    turned[:, 2, 3] += scene.path.camera_height_m * rng.uniform(-_HEIGHT, _HEIGHT)
    instants = np.arange(views) * rng.uniform(*_STEP_S) + rng.uniform(0.0, _START_S)
    return WalkPlan(turned, instants, _camera(size_wh, rng))


def _arc(scene: SceneWorld) -> tuple[np.ndarray, np.ndarray]:
    """Way gone in metres and instants where it grows: stops are left out."""
    xy = scene.path.T_world_base[:, :2, 3]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    moving = np.concatenate([[True], np.diff(along) > 1e-4])
    return along[moving], scene.path.stamps_ns[moving].astype(np.float64)


def _held(views: int, rng: Rng) -> np.ndarray:
    """(L, 3, 3) how the head is turned against the direction of the path."""
    yaw = np.clip(rng.normal(0.0, 0.4 * _SIDEWAYS_RAD), -_SIDEWAYS_RAD, _SIDEWAYS_RAD)
    turns = rng.normal(0.0, _TURN_RAD, views)
    sharp = rng.random(views) < _SHARP_SHARE
    turns += sharp * rng.uniform(-_SHARP_RAD, _SHARP_RAD, views)
    roll, pitch = rng.normal(0.0, _HELD_RAD, (2, 1)) + rng.normal(0.0, _SHAKEN_RAD, (2, views))
    angles = zip(roll, pitch, yaw + np.cumsum(turns), strict=True)
    return np.stack([rpy_to_matrix(*map(float, rpy)) for rpy in angles])


def _camera(size_wh: tuple[int, int], rng: Rng) -> Camera:
    width, height = size_wh
    focal = width * float(rng.uniform(*_FOCAL))
    off_x, off_y = (width * _OFF_CENTRE * rng.uniform(-1.0, 1.0, 2)).tolist()
    middle = (width - 1) / 2 + off_x, (height - 1) / 2 + off_y
    return Camera(width, height, focal, focal * float(rng.uniform(0.98, 1.02)), *middle)


def _least_shared(scene: SceneWorld, plan: WalkPlan) -> float:
    """Smallest share of successive views that both see; 0 for a walk along a wall."""
    camera = plan.camera
    small = camera.resized(_SMALL_PX, round(_SMALL_PX * camera.height / camera.width))
    shots = render(
        scene.world, plan.T_world_camera, small, time_s=plan.time_s, shadows=False, antialias=False
    )
    far = torch.nan_to_num(shots.depth_m, nan=_FAR_M)
    near = (far < _NEAR_M).float().mean(dim=(1, 2)).amax()
    if bool(far.flatten(1).median(dim=1).values.amin() < _MEDIAN_M) or bool(near > _NEAR_SHARE):
        return 0.0
    depth = far[:, None]
    T = torch.from_numpy(plan.T_world_camera).to(far.device)
    T_1_0 = (torch.linalg.inv(T[1:]) @ T[:-1]).float()
    K = torch.tensor(small.K, dtype=torch.float32, device=far.device).expand(len(T_1_0), 3, 3)
    there = covisible_share(depth[:-1], depth[1:], K, T_1_0)
    back = covisible_share(depth[1:], depth[:-1], K, torch.linalg.inv(T_1_0))
    return float(torch.minimum(there, back).amin())
