"""Video files with intrinsics."""

import cv2
import numpy as np
import pytest

from kpvo_ros.bags.source import SourceKind
from kpvo_ros.bags.sources import open_source
from kpvo_ros.errors import BagError
from kpvo_ros.types import BadFrame, Frame

WIDTH, HEIGHT, FPS, N = 64, 48, 20.0, 15
INTRINSICS = f'{{width: {WIDTH}, height: {HEIGHT}, fx: 60, fy: 60, cx: 31.5, cy: 23.5}}'


@pytest.fixture
def video(tmp_path):
    """Frames of one colour, brighter from frame to frame; red is the strongest."""
    path = tmp_path / 'clip.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip('this OpenCV cannot write videos')
    for i in range(N):
        writer.write(np.full((HEIGHT, WIDTH, 3), (10, 50, 100 + 10 * i), np.uint8))  # BGR
    writer.release()
    return path


@pytest.fixture
def intrinsics(tmp_path):
    path = tmp_path / 'camera.yaml'
    path.write_text(INTRINSICS)
    return path


def test_videos_give_rgb_images_at_the_rate_of_the_file(video, intrinsics):
    with open_source(video, intrinsics=intrinsics) as source:
        info = source.info
        records = list(source.records())
        assert source.ground_truth() is None
        assert source.extrinsics() is None
    assert (info.kind, info.n_frames, info.name) == (SourceKind.VIDEO, N, 'clip')
    assert len(records) == N
    for i, frame in enumerate(records):
        expected = [100 + 10 * i, 50, 10]
        assert np.abs(frame.image.reshape(-1, 3).mean(axis=0) - expected).max() < 6
        assert frame.camera.fx == 60.0
    np.testing.assert_allclose(np.diff([frame.stamp_ns for frame in records]), 1e9 / FPS, atol=10)


def test_a_part_of_a_video_can_be_taken(video, intrinsics):
    source = open_source(video, intrinsics=intrinsics, stride=3, start_s=0.1, duration_s=0.4)
    reds = [round(float(frame.image[..., 0].mean()) / 10) - 10 for frame in source.records()]
    assert reds == [2, 5, 8]


def test_videos_can_be_read_again(video, intrinsics):
    source = open_source(video, intrinsics=intrinsics)
    assert len(list(source.records())) == len(list(source.records())) == N


def test_videos_of_another_size_than_their_intrinsics_are_bad_frames(video, intrinsics):
    intrinsics.write_text(INTRINSICS.replace('64', '128'))
    records = list(open_source(video, intrinsics=intrinsics).records())
    assert len(records) == N
    assert all(isinstance(record, BadFrame) for record in records)


def test_a_video_asks_for_intrinsics(video):
    with pytest.raises(BagError, match='--intrinsics'):
        open_source(video)


def test_a_file_that_is_no_video_is_refused(tmp_path, intrinsics):
    (tmp_path / 'clip.mp4').write_bytes(b'not a video' * 100)
    with pytest.raises(BagError, match='video'):
        open_source(tmp_path / 'clip.mp4', intrinsics=intrinsics)


def test_a_cut_off_video_gives_its_first_frames(video, intrinsics):
    content = video.read_bytes()
    video.write_bytes(content[: len(content) * 4 // 5])
    records = list(open_source(video, intrinsics=intrinsics).records())
    assert 0 < len(records) < N
    assert all(isinstance(record, Frame) for record in records)
