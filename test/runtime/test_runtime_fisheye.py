"""The odometry behind a fisheye that sees more than half of the world.

The films come from the package's renderer, which knows every lens up to 90 degrees off the axis.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.config.schema import with_words
from kpvo_ros.evaluation.alignment import Alignment, align
from kpvo_ros.frontend.mask import IgnoredRegion, allowed
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera, DistortionModel
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import Frame, OdometryEstimate, Status

FISHEYE = Camera(
    240, 180, 71.0, 71.5, 118.7, 90.3, DistortionModel.EQUIDISTANT, (-0.02, 0.01, -0.003, 5e-4)
)
FRAMES = 50


@dataclasses.dataclass(frozen=True)
class FisheyeFilm:
    """Frames with depth, and where the camera really was."""

    frames: list[Frame]
    T_world_camera: np.ndarray


@pytest.fixture(scope='module')
def film() -> FisheyeFilm:
    """Two and a half seconds of a walk through a room."""
    torch = pytest.importorskip('torch')
    torch.set_num_threads(1)
    from kpvo_ros.synthetic.sequence import sequence

    recording = sequence('room', 2, camera=FISHEYE)
    items = (item.frame for item, _ in zip(recording.frames(), range(FRAMES), strict=False))
    return FisheyeFilm(list(items), recording.ground_truth.poses[:FRAMES])


def run(film: FisheyeFilm, *words: str) -> list[OdometryEstimate]:
    config = with_words(VoConfig(), ['frontend.threads=1', 'frontend.max_keypoints=500', *words])
    odometry = Odometry(config, np.eye(4))
    return [odometry.step(frame) for frame in film.frames]


def path_of(T: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1).sum())


def test_the_film_shows_each_point_where_the_lens_puts_it(film: FisheyeFilm) -> None:
    """Depth of one view, carried into another, meets the depth there, out to the rim."""
    first, last = film.frames[0], film.frames[15]
    xy = FISHEYE.pixel_centers()[::3, ::3].reshape(-1, 2).astype(int)
    assert first.depth_m is not None and last.depth_m is not None
    points = FISHEYE.unproject(xy) * first.depth_m[xy[:, 1], xy[:, 0], None]
    T_last_first = se3.inverse(film.T_world_camera[15]) @ film.T_world_camera[0]
    seen = se3.transform(T_last_first, points)
    pixel = FISHEYE.project(seen)
    usable = (seen[:, 2] > 0) & FISHEYE.contains(pixel)
    at_rim = FISHEYE.rays(pixel)[:, 2] < np.cos(np.deg2rad(65.0))
    column, row = np.rint(pixel[usable]).astype(int).T
    there = FISHEYE.unproject(np.column_stack([column, row])) * last.depth_m[row, column, None]
    range_m = np.linalg.norm(seen[usable], axis=1)
    agrees = np.abs(np.linalg.norm(there, axis=1) / range_m - 1) < 0.03
    assert FISHEYE.fov_deg()[0] > 180
    assert agrees.mean() > 0.85 and agrees[at_rim[usable]].mean() > 0.85
    assert at_rim[usable].sum() > 100


def test_a_fisheye_with_depth_is_followed_in_metres(film: FisheyeFilm) -> None:
    estimates = run(film, 'scale.source=depth')
    assert all(one.status is Status.TRACKING for one in estimates)
    T = np.stack([one.T_odom_camera for one in estimates])
    truth = se3.inverse(film.T_world_camera[0]) @ film.T_world_camera
    off = np.linalg.norm(T[:, :3, 3] - truth[:, :3, 3], axis=1)
    assert np.sqrt((off**2).mean()) < 0.02 * path_of(truth)
    turned = np.linalg.norm(se3.log_se3(se3.inverse(truth) @ T)[:, 3:], axis=1)
    assert np.rad2deg(turned).max() < 1.0


def test_a_fisheye_alone_is_followed_up_to_scale(film: FisheyeFilm) -> None:
    estimates = run(film)
    started = slice(FRAMES // 2, None)  # two views with parallax come first
    assert all(one.has_pose for one in estimates[started])
    found = np.stack([one.T_odom_camera for one in estimates[started]])
    truth = film.T_world_camera[started]
    off = align(truth, found, Alignment.SIM3).apply(found)[:, :3, 3] - truth[:, :3, 3]
    assert np.sqrt((off**2).sum(1).mean()) < 0.03 * path_of(truth)


def test_nothing_is_followed_beyond_the_widest_angle(film: FisheyeFilm) -> None:
    words = ('scale.source=depth', 'frontend.max_angle_deg=50')
    ignore = IgnoredRegion(with_words(VoConfig(), words).frontend).of(film.frames[0])
    for one in run(dataclasses.replace(film, frames=film.frames[:20]), *words):
        assert len(one.features) > 50
        assert allowed(one.features.xy, ignore).all()
        angle = np.arccos(FISHEYE.rays(one.features.xy)[:, 2])
        assert np.rad2deg(angle.max()) < 51.0


def test_a_mask_is_obeyed_from_the_frame_on_that_has_it(film: FisheyeFilm) -> None:
    mask = np.zeros((FISHEYE.height, FISHEYE.width), bool)
    mask[:, : FISHEYE.width // 2] = True
    frames = [
        dataclasses.replace(frame, mask=mask if index >= 10 else None)
        for index, frame in enumerate(film.frames[:30])
    ]
    estimates = run(dataclasses.replace(film, frames=frames), 'scale.source=depth')
    left = [(one.features.xy[:, 0] < FISHEYE.width // 2 - 0.5).sum() for one in estimates]
    assert min(left[:10]) > 20
    assert max(left[10:]) == 0
    assert all(one.has_pose for one in estimates)
