"""kpvo bench frontend: the truth it judges by, and that it can tell good ways from bad ones."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from scipy import ndimage

from kpvo_ros.bags.source import SourceInfo, SourceKind
from kpvo_ros.cli import bench_frontend
from kpvo_ros.cli.bench_frontend_drift import drift
from kpvo_ros.cli.bench_frontend_flow import flow
from kpvo_ros.cli.bench_frontend_light import light
from kpvo_ros.cli.bench_frontend_match import near_prediction
from kpvo_ros.cli.main import main
from kpvo_ros.cli.tracking_score import Score
from kpvo_ros.cli.tracking_truth import Clip, read_clip
from kpvo_ros.errors import CommandError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Frame, Trajectory

CAMERA = Camera(200, 150, 180.0, 180.0, 99.5, 74.5)
K = np.array([[180.0, 0.0, 99.5], [0.0, 180.0, 74.5], [0.0, 0.0, 1.0]])
WALL_M, STEP_M = 4.0, np.array([0.02, 0.0, 0.06])


def wall_clip(frames: int, rng: np.random.Generator) -> Clip:
    """A camera that goes ahead and aside before a wall; every picture is a warped first one."""
    noise = sum(
        ndimage.gaussian_filter(rng.normal(size=(150, 200)), s) * s for s in (1.2, 2.5, 6.0)
    )
    first = np.clip(128.0 + 45.0 * noise / noise.std(), 0, 255).astype(np.float32)
    grays, depths, poses = [], [], []
    for index in range(frames):
        T = np.eye(4)
        T[:3, 3] = index * STEP_M
        # n' x = d is the wall seen from the first camera
        H = K @ (np.eye(3) - np.outer(T[:3, 3], [0, 0, 1]) / WALL_M) @ np.linalg.inv(K)
        picture = cv2.warpPerspective(
            first, H, (200, 150), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
        )
        grays.append(np.clip(np.rint(picture), 0, 255).astype(np.uint8))
        depths.append(np.full((150, 200), WALL_M - T[2, 3], np.float32))
        poses.append(T)
    return Clip('wall', grays, depths, np.array(poses), CAMERA)


@pytest.fixture
def clip(rng: np.random.Generator) -> Clip:
    return wall_clip(8, rng)


# --------------------------------------------------------------------------------------- truth


def test_the_truth_follows_the_homography_of_the_wall(clip, rng):
    xy0 = rng.uniform((20, 20), (180, 130), (60, 2))
    xy1, visible = clip.follow(0, 5, xy0)
    t = 5 * STEP_M
    H = K @ (np.eye(3) - np.outer(t, [0, 0, 1]) / WALL_M) @ np.linalg.inv(K)
    expected = cv2.perspectiveTransform(xy0[None], H)[0]
    inside = ((expected > 3) & (expected < (196, 146))).all(1)
    np.testing.assert_array_equal(visible, inside)
    np.testing.assert_allclose(xy1, expected, atol=1e-4)


def test_what_is_hidden_is_not_visible(clip):
    clip.depths_m[5][40:110, 60:140] = 1.0  # somebody stands there
    xy0 = np.array([[100.0, 75.0], [40.0, 75.0]])
    _, visible = clip.follow(0, 5, xy0)
    assert visible.tolist() == [False, True]


def test_what_lies_behind_the_camera_is_not_visible(clip):
    poses = clip.poses.copy()
    poses[5, 2, 3] = 9.0  # gone through the wall
    gone = Clip('gone', clip.grays, clip.depths_m, poses, CAMERA)
    xy1, visible = gone.follow(0, 5, np.array([[100.0, 75.0]]))
    assert not visible.any() and np.isnan(xy1).all()


def test_depth_between_pixels_is_that_of_the_plane_and_edges_have_none(clip):
    x = np.arange(200)
    clip.depths_m[0][:] = 1.0 / (0.2 + 0.001 * x)  # a slanted wall
    clip.depths_m[0][:, 150:] = 1.5
    depth = clip.depth(0, np.array([[30.25, 60.5], [149.5, 60.0], [170.0, 60.0]]))
    np.testing.assert_allclose(depth, [1.0 / (0.2 + 0.03025), np.nan, 1.5], rtol=1e-6)
    clip.depths_m[0][60, 30] = np.nan
    assert np.isnan(clip.depth(0, np.array([[30.25, 60.5]]))).all()


class Recording:
    """As much of a `Source` as a clip is read from."""

    info = SourceInfo('wall', SourceKind.FRAMES, None, CAMERA, True, True)

    def __init__(self, clip: Clip, has_truth: bool = True) -> None:
        self._clip, self._has_truth = clip, has_truth

    def records(self):
        for index, (gray, depth) in enumerate(
            zip(self._clip.grays, self._clip.depths_m, strict=True)
        ):
            yield Frame(index * 50_000_000, gray, CAMERA, depth_m=depth)

    def ground_truth(self):
        stamps_ns = np.arange(len(self._clip)) * 50_000_000
        return Trajectory(stamps_ns, self._clip.poses) if self._has_truth else None


def test_a_clip_is_a_piece_of_a_recording(clip):
    piece = read_clip(Recording(clip), 2, 4)
    assert len(piece) == 4 and piece.camera == CAMERA
    np.testing.assert_array_equal(piece.poses, clip.poses[2:6])
    np.testing.assert_array_equal(piece.grays[1], clip.grays[3])


def test_a_recording_without_truth_is_refused(clip):
    with pytest.raises(CommandError, match='ground truth'):
        read_clip(Recording(clip, has_truth=False), 0, 4)
    with pytest.raises(CommandError, match='from frame 100'):
        read_clip(Recording(clip), 100, 4)


# --------------------------------------------------------------------------------------- score


def test_a_score_counts_what_is_visible_and_kept():
    score = Score()
    truth = np.zeros((5, 2))
    xy = np.array([[0.3, 0.4], [0.0, 1.5], [9.0, 0.0], [0.0, 0.1], [50.0, 0.0]])
    kept = np.array([True, True, True, False, True])
    score.add(xy, kept, truth, np.array([True, True, True, True, False]))
    score.spend(0.002, 5)
    numbers = score.numbers()
    assert numbers['visible'] == 4
    assert numbers['kept_percent'] == pytest.approx(75.0)
    assert numbers['median_px'] == pytest.approx(1.5)
    assert numbers['within_1px_percent'] == pytest.approx(100.0 / 3)
    assert numbers['within_2px_percent'] == pytest.approx(200.0 / 3)
    assert numbers['found_percent'] == pytest.approx(25.0)
    assert numbers['cpu_ms_per_1000'] == pytest.approx(400.0)


def test_a_score_of_nothing_is_no_number():
    assert 'median_px' not in Score().numbers()


# --------------------------------------------------------------------------------------- parts


def test_the_flow_of_the_package_finds_the_wall_again(clip):
    scores = flow([clip], 2, seed=0)
    numbers = scores['FlowTracker'].numbers()
    assert numbers['found_percent'] > 90.0 and numbers['median_px'] < 0.1
    assert scores['two levels, guess good to 3 px'].numbers()['found_percent'] > 90.0


def test_bent_first_sights_take_the_drift_out(rng):
    scores = drift([wall_clip(16, rng)], (1, 15), seed=0)
    chain = scores[15]['flow from frame to frame'].numbers()
    bent = scores[15]['and first sight, bent'].numbers()
    assert bent['median_px'] < 0.5 * chain['median_px']
    assert bent['found_percent'] >= chain['found_percent'] - 5.0
    assert scores[1]['flow from frame to frame'].numbers()['median_px'] < 0.1


def test_a_dark_picture_is_borne_with_help_only(clip):
    scores = light([clip], 1)['light x 0.35']
    assert scores['histogram (FlowTracker)'].numbers()['found_percent'] > 90.0
    assert scores['as they are'].numbers()['found_percent'] < 10.0


def test_first_sights_sharpen_matches(clip):
    scores = near_prediction([clip], 5, seed=0)
    rough, sharp = scores['orb'].numbers(), scores['orb, then first sight'].numbers()
    assert sharp['median_px'] < 0.5 * rough['median_px']
    assert 'sift' in scores
    assert scores['first sight, compared (find_again)'].numbers()['within_1px_percent'] > 90.0


def test_the_command_writes_the_parts_asked_for(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_frontend, '_rendered', lambda options, size: [clip])
    path = tmp_path / 'frontend.json'
    words = ['bench', 'frontend', '--quick', '--only', 'drift', '--json', str(path)]
    assert main([*words, '--work', str(tmp_path)]) == 0
    assert 'from keyframe, after 5 frames' in capsys.readouterr().out
    numbers = json.loads(path.read_text())['numbers']
    assert set(numbers) == {'from keyframe, after 1 frame', 'from keyframe, after 5 frames'}
    assert main(['bench', 'frontend', '--only', 'nonsense']) == 1
    assert 'drift' in capsys.readouterr().err
