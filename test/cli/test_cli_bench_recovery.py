"""kpvo bench features, part recovery: truth by hand, and ways that know it, lie, or are blind."""

from __future__ import annotations

import contextlib
import json

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.cli import (
    bench_features_recovery,
    bench_features_recovery_views,
    bench_features_recovery_worlds,
)
from kpvo_ros.cli.bench import BenchOptions
from kpvo_ros.cli.bench_features_predictions import Predictor
from kpvo_ros.cli.bench_features_recovery import is_near, measure_recovery
from kpvo_ros.cli.bench_features_recovery_views import (
    Queries,
    Trial,
    best_view,
    points_of,
    recorded_trial,
    shown_by,
)
from kpvo_ros.cli.bench_features_recovery_worlds import displaced, draw_queries
from kpvo_ros.cli.bench_features_ways import BUDGET, load_ways
from kpvo_ros.cli.tracking_truth import Clip
from kpvo_ros.errors import KpvoError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Features

CAMERA = Camera(320, 240, 260.0, 260.0, 159.5, 119.5)
SIZE = (CAMERA.width, CAMERA.height)
WALL_M = 4.0
STEP_M = WALL_M / 260.0  # moves the picture of the wall by a pixel


def at(x=0.0, y=0.0, z=0.0, yaw_deg=0.0):
    """(4, 4) a camera there that looks along z, turned to the right."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('y', yaw_deg, degrees=True).as_matrix()
    T[:3, 3] = (x, y, z)
    return T


def numbered(index):
    """A picture that carries nothing but its number."""
    return np.full(SIZE[::-1], index, np.uint8)


def before_a_wall(*poses):
    """Views of the plane z = 4 m as a clip."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    rays = np.stack([(x - 159.5) / 260.0, (y - 119.5) / 260.0, np.ones(x.shape)], axis=-1)
    depths_m = []
    for pose in poses:
        depth_m = (WALL_M - pose[2, 3]) / (rays @ pose[2, :3])
        depths_m.append(np.where(depth_m > 0, depth_m, np.nan))
    return Clip(
        'wall', [numbered(i) for i in range(len(poses))], depths_m, np.stack(poses), CAMERA
    )


# --------------------------------------------------------------------------------------- views


def test_what_a_view_shows_of_another_is_the_overlap_of_their_pictures():
    clip = before_a_wall(at(), at(x=80 * STEP_M), at(x=9.0), at(z=-2.0))
    looks = [points_of(clip, i, stride_px=4) for i in range(4)]
    assert shown_by(clip, 1, looks[1], clip.poses[1]) == 1.0
    assert shown_by(clip, 0, looks[1], clip.poses[1]) == pytest.approx(0.75, abs=0.02)
    assert shown_by(clip, 2, looks[0], clip.poses[0]) == 0.0
    # 6 m away a picture shows 1.5 times as much in each direction as 4 m away
    assert shown_by(clip, 0, looks[3], clip.poses[3]) == pytest.approx(1 / 2.25, abs=0.03)


def test_what_is_hidden_or_unknown_is_not_shown():
    clip = before_a_wall(at(), at())
    wall = points_of(clip, 1, stride_px=4)
    clip.depths_m[0][:, :160] = 1.5  # something stands before the left half of the first view
    assert shown_by(clip, 0, wall, clip.poses[1]) == pytest.approx(0.5, abs=0.02)
    wall[::2] = np.nan
    assert shown_by(clip, 1, wall, clip.poses[1]) == pytest.approx(0.5, abs=0.01)
    assert shown_by(clip, 1, np.full((9, 3), np.nan), clip.poses[1]) == 0.0


def test_the_best_view_is_neither_far_nor_turned_away():
    look = points_of(before_a_wall(at()), 0, stride_px=4)
    clip = before_a_wall(at(x=1.0), at(x=0.2), at(z=-3.5), at(yaw_deg=61.0))
    share, distance_m = best_view(clip, look, at())
    assert distance_m == pytest.approx(0.2) and 0.9 < share < 1.0
    far, turned = before_a_wall(at(z=-3.5)), before_a_wall(at(yaw_deg=61.0))
    assert shown_by(far, 0, look, at()) == 1.0
    assert best_view(far, look, at())[0] == best_view(turned, look, at())[0] == 0.0


def test_the_end_of_a_walk_is_asked_where_its_beginning_was(monkeypatch, tmp_path):
    # along the wall, then far away, then back to the start
    xs = [*np.linspace(0.0, 6.0, 70), *[50.0] * 10, *np.linspace(1.0, 0.0, 20)]
    clip = before_a_wall(*(at(x=x) for x in xs))
    monkeypatch.setattr(bench_features_recovery_views, 'open_source', contextlib.nullcontext)
    monkeypatch.setattr(bench_features_recovery_views, 'read_clip', lambda *_: clip)
    trial = recorded_trial(tmp_path)
    assert len(trial.mapped) == 35 and len(trial.strange) == 10
    queries = trial.queries['wall']
    assert [int(gray[0, 0]) for gray in queries.grays] == list(range(80, 100))
    np.testing.assert_allclose(queries.depth_m, WALL_M)
    assert queries.distance_m.max() < 2 * 6.0 / 69  # from one mapped view to the next


# -------------------------------------------------------------------------------------- worlds


def test_a_displaced_camera_keeps_its_distance_and_its_horizon():
    T = np.eye(4)
    T[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # looks along x, z is up
    T[:3, 3] = (3.0, 2.0, 1.5)
    rng = np.random.default_rng(0)
    others = np.stack([displaced(T, 1.7, rng) for _ in range(300)])
    np.testing.assert_allclose(np.linalg.norm(others[:, :3, 3] - T[:3, 3], axis=1), 1.7)
    assert np.abs(others[:, 2, 3] - 1.5).max() <= 0.15 * 1.7 + 1e-9
    np.testing.assert_allclose(np.linalg.det(others[:, :3, :3]), 1.0)
    gaze = others[:, :3, 2]
    yaw_deg = np.degrees(np.arctan2(gaze[:, 1], gaze[:, 0]))
    assert -62 < yaw_deg.min() < -50 and 50 < yaw_deg.max() < 62
    assert np.degrees(np.arcsin(np.abs(gaze[:, 2]))).max() < 15.0


def test_queries_of_a_room_see_the_map_from_the_distance_they_tell():
    pytest.importorskip('torch', reason='the renderer needs torch')
    from kpvo_ros.synthetic.sequence import sequence

    room = sequence('room', 4, fps=1.0, camera=CAMERA.resized(80, 60))
    shots = [room.frame(i) for i in range(0, len(room), 2)]
    poses = np.stack([shot.T_world_camera for shot in shots])
    depths_m = [shot.frame.depth_m for shot in shots]
    mapped = Clip('room', [shot.frame.gray for shot in shots], depths_m, poses, room.camera)
    draw, again = (draw_queries(mapped, room.world, 1, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(draw.poses, again.poses)
    assert 2 <= len(draw.poses) <= 4
    for pose, distance_m in zip(draw.poses, draw.distance_m, strict=True):
        gaps_m = np.linalg.norm(poses[:, :3, 3] - pose[:3, 3], axis=1)
        assert np.abs(gaps_m - distance_m).min() < 1e-9
        assert np.abs(pose[:2, 3]).max() < 4.5 and 0.0 < pose[2, 3] < 2.8  # inside of the room
    bins = np.digitize(draw.distance_m, (0.3, 0.7, 1.2, 2.0, 3.0))
    assert (np.diff(bins) > 0).all() and bins.min() >= 1 and bins.max() <= 4  # one of each


def test_rendered_places_are_kept_until_what_makes_them_changes(monkeypatch, tmp_path):
    worlds, rendered = bench_features_recovery_worlds, []

    def render(*asked):
        rendered.append(asked)
        return {'poses': np.eye(4)[None]}

    monkeypatch.setattr(worlds, '_render', render)
    path = tmp_path / 'deep' / 'room.npz'
    for _ in range(2):
        assert worlds._kept(path, 'room', 3, 10)['poses'].shape == (1, 4, 4)
    assert len(rendered) == 1
    path.write_bytes(path.read_bytes()[:80])
    worlds._kept(path, 'room', 3, 10)
    monkeypatch.setattr(worlds, '_digest', lambda: 'another')
    worlds._kept(path, 'room', 3, 10)
    assert rendered == [('room', 3, 10)] * 3
    with pytest.raises(KpvoError, match='--work'):
        worlds._kept(path / 'room.npz', 'room', 3, 10)


# ------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ('metres', 'degrees', 'depth_m', 'near'),
    [
        (0.24, 4.9, 0.0, True),
        (0.26, 1.0, 0.0, False),
        (0.74, 1.0, 10.0, True),
        (0.76, 1.0, 10.0, False),
        (0.10, 5.1, 10.0, False),
    ],
)
def test_an_answer_is_right_within_a_quarter_metre_and_a_share_of_the_depth(
    metres, degrees, depth_m, near
):
    assert is_near((metres, degrees), depth_m) == near


class Cloud:
    """A way that knows 500 points by name, in every numbered picture.

    Args:
        poses: of the pictures.
        lies: pictures that show what is seen one metre further right.
        blind: pictures in which nothing is found.
    """

    def __init__(self, poses, lies=(), blind=()):
        rng = np.random.default_rng(3)
        self._points = rng.uniform((-4.0, -2.0, 3.0), (4.0, 2.0, 5.0), (500, 3))
        self._names = rng.normal(size=(500, 32))
        self._names /= np.linalg.norm(self._names, axis=1, keepdims=True)
        self._poses, self._lies, self._blind = poses, lies, blind

    def seen(self, index):
        """Pixels, names and depths of what a picture shows."""
        pose = self._poses[index] @ at(x=1.0 if index in self._lies else 0.0)
        local = (self._points - pose[:3, 3]) @ pose[:3, :3]
        xy = local[:, :2] / local[:, 2:] * 260.0 + (159.5, 119.5)
        inside = ((xy >= 0) & (xy <= np.array(SIZE) - 1)).all(1) & (index not in self._blind)
        return xy[inside], self._names[inside], local[inside, 2]

    def depth(self, index, xy):
        """In place of `Clip.depth`, which would need pictures of the depth."""
        known, _, depth_m = self.seen(index)
        np.testing.assert_allclose(xy, known, atol=1e-4)
        return depth_m

    def extract(self, image):
        xy, names, _ = self.seen(int(image[0, 0]))
        score = np.ones(len(xy), np.float32)
        return Features(xy.astype(np.float32), score, names.astype(np.float32))


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """What a way answers for four queries, 10 to 13, before ten mapped views; 13 is strange."""
    poses = [at(x=0.3 * i - 1.5) for i in range(10)]
    poses += [at(x=0.45, y=0.2, yaw_deg=8.0), at(x=-1.0, z=0.5), at(x=1.0, z=-1.5), at()]
    blank = [np.full(SIZE[::-1], np.nan)] * 10
    grays = [numbered(i) for i in range(14)]
    mapped = Clip('wall', grays[:10], blank, np.stack(poses[:10]), CAMERA)
    told_m = np.array([0.5, 1.0, 1.6, 0.1])
    queries = Queries(grays[10:], np.stack(poses[10:]), np.full(4, WALL_M), told_m)
    trial = Trial(mapped, {'wall': queries}, [grays[13]])
    monkeypatch.setattr(bench_features_recovery, '_trials', lambda _: [trial])

    def measured(**errors):
        way = Cloud(poses, **errors)
        monkeypatch.setattr(Clip, 'depth', lambda _, index, xy: way.depth(index, xy))
        options = BenchOptions(None, tmp_path, quick=False, seed=0)
        tables, numbers = measure_recovery(options, [Predictor('cloud', way, tmp_path)])
        assert all(len(row) == len(table.header) for table in tables for row in table.rows)
        json.dumps(numbers, allow_nan=False)
        return numbers['ways']['cloud']

    return measured


def test_a_way_that_knows_the_points_recovers_every_pose(asked):
    found = asked()
    assert found['recovered_percent'] == found['recovered_percent_wall'] == 100.0
    assert max(metres for metres, _ in found['errors']['wall']) < 0.02
    assert found['recovered_percent_to_0.7m'] == found['recovered_percent_to_2.0m'] == 100.0
    assert found['recovered_percent_to_3.0m'] is None  # nobody was asked from there
    # an image that is called strange must not be answered: one wrong of five
    assert found['strange_answered'] == 1
    assert found['wrong_recall_percent'] == pytest.approx(20.0)


def test_an_answer_elsewhere_is_wrong_and_no_answer_is_neither(asked):
    found = asked(lies={11}, blind={12, 13})
    right, lie, *none = found['errors']['wall']
    assert right[0] < 0.02 and lie[0] == pytest.approx(1.0, abs=0.05)
    assert none == [None, None]
    assert found['recovered_percent'] == 25.0
    assert found['wrong_recall_percent'] == pytest.approx(20.0)
    assert found['recovered_percent_to_0.7m'] == 50.0
    assert found['recovered_percent_to_1.2m'] == 0.0


def test_opencv_is_asked_as_in_the_odometry_and_sift_only_once(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640)).astype(np.uint8)
    image = cv2.GaussianBlur(noise, None, 2.0)
    extractors = {
        name: bench_features_recovery._as_in_the_odometry(Predictor(name, way, tmp_path))
        for name, way in load_ways(('sift', 'rootsift', 'orb')).extractors.items()
    }
    assert extractors['rootsift'] is None
    lengths = np.linalg.norm(extractors['sift'].extract(image).descriptor, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    assert 0.8 * BUDGET < len(extractors['orb'].extract(image)) <= BUDGET
