"""Any recording to a bag and back."""

from bags_helpers import CAMERA, INTRINSICS, depth_of, image_of, pose_of, save_image, tum_line
import numpy as np
import pytest

from kpvo_ros.bags.convert import ConversionSummary, convert
from kpvo_ros.bags.reader import Bag
from kpvo_ros.bags.sources import open_source
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.errors import BagError
from kpvo_ros.types import BadFrame, Frame, WheelOdometry

N = 5


@pytest.fixture
def folder(tmp_path):
    """Our layout; depth in whole millimetres, one image missing."""
    root = tmp_path / 'recording'
    lines, poses = [], []
    for i in range(N):
        save_image(root / 'frames' / f'{i}.png', image_of(i))
        millimetres = np.nan_to_num(np.rint(depth_of(i) * 1000)).astype(np.uint16)
        save_image(root / 'depth' / f'{i}.png', millimetres)
        lines.append(f'{i}.000000007 frames/{i}.png')
        poses.append(tum_line(f'{i}.000000003', pose_of(i)))
    (root / 'frames' / '3.png').unlink()
    (root / 'frames.txt').write_text('\n'.join(lines))
    (root / 'poses_tum.txt').write_text(''.join(poses))
    (root / 'intrinsics.yaml').write_text(
        INTRINSICS.replace('none', 'radtan').replace('[0, 0', '[-0.1, 0.02')
    )
    return root


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compressed', [False, True])
def test_a_converted_recording_says_the_same(folder, tmp_path, storage, compressed):
    source = open_source(folder)
    summary = convert(source, tmp_path / 'out', storage, compressed)
    assert summary == ConversionSummary(frames=4, bad_frames=1, wheel_poses=0, truth_poses=N)
    originals = [record for record in source.records() if isinstance(record, Frame)]
    with open_source(tmp_path / 'out') as bag:
        copies = list(bag.records())
        truth = bag.ground_truth()
        assert bag.info.camera == source.info.camera
    assert len(copies) == len(originals)
    for copy, original in zip(copies, originals, strict=True):
        assert copy.stamp_ns == original.stamp_ns
        assert copy.camera == original.camera
        assert copy.frame_id == 'camera_optical_frame'
        np.testing.assert_allclose(copy.depth_m, original.depth_m, rtol=0, atol=0.001)
        if compressed:
            assert np.abs(copy.image.astype(int) - original.image).mean() < 4
        else:
            np.testing.assert_array_equal(copy.image, original.image)
    np.testing.assert_array_equal(truth.stamps_ns, source.ground_truth().stamps_ns)
    np.testing.assert_allclose(truth.poses, source.ground_truth().poses, atol=1e-12)


@pytest.mark.parametrize(
    ('compressed', 'image', 'depth'),
    [
        (False, '/camera/image_raw', '/camera/depth'),
        (True, '/camera/image_raw/compressed', '/camera/depth/compressedDepth'),
    ],
)
def test_topics_have_the_documented_names(folder, tmp_path, compressed, image, depth):
    convert(open_source(folder), tmp_path / 'out', compressed=compressed)
    with Bag(tmp_path / 'out') as bag:
        assert set(bag.topics) == {image, depth, '/camera/camera_info', '/ground_truth'}


def test_progress_counts_every_image(folder, tmp_path):
    calls = []
    convert(open_source(folder), tmp_path / 'out', progress=lambda *call: calls.append(call))
    assert calls == [(i + 1, N) for i in range(N)]


def _robot_bag(path, stamps):
    T_base_camera = np.array([[0, 0, 1, 0.1], [-1, 0, 0, 0], [0, -1, 0, 0.3], [0, 0, 0, 1.0]])
    with BagWriter(path) as writer:
        writer.write_static_transforms(stamps[0], [('base_link', 'cam', T_base_camera)])
        for i, stamp in enumerate(stamps):
            writer.write_camera_info('/c/camera_info', stamp, CAMERA, 'cam')
            writer.write_image('/c/image', stamp, image_of(i), 'cam')
            writer.write_odometry('/odom', stamp, pose_of(i), 'odom', 'base_link')
    return T_base_camera


def test_a_converted_bag_keeps_wheels_and_extrinsics(tmp_path):
    T_base_camera = _robot_bag(tmp_path / 'in', [10**9 * (i + 1) for i in range(3)])
    convert(open_source(tmp_path / 'in'), tmp_path / 'out', 'sqlite3')
    source = open_source(tmp_path / 'out')
    np.testing.assert_allclose(source.extrinsics(), T_base_camera, atol=1e-12)
    wheels = [record for record in source.records() if isinstance(record, WheelOdometry)]
    for i, wheel in enumerate(wheels):
        assert wheel.stamp_ns == 10**9 * (i + 1)
        np.testing.assert_allclose(wheel.T_odom_base, pose_of(i), atol=1e-12)
    assert len(wheels) == 3
    assert {r.frame_id for r in source.records() if isinstance(r, Frame)} == {'cam'}


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_stamps_that_repeat_or_jump_back_survive(tmp_path, storage):
    stamps = [50, 50, 90, 20, 30, 95]
    _robot_bag(tmp_path / 'in', stamps)
    convert(open_source(tmp_path / 'in'), tmp_path / 'out', storage)
    frames = [r for r in open_source(tmp_path / 'out').records() if isinstance(r, Frame)]
    assert [frame.stamp_ns for frame in frames] == stamps
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, image_of(i))


def test_a_source_without_readable_images_is_refused(folder, tmp_path):
    for image in (folder / 'frames').iterdir():
        image.write_bytes(b'junk')
    source = open_source(folder)
    assert all(isinstance(record, BadFrame) for record in source.records())
    with pytest.raises(BagError, match=r'no image.*PNG'):
        convert(source, tmp_path / 'out')


def test_an_existing_bag_is_not_overwritten(folder, tmp_path):
    convert(open_source(folder), tmp_path / 'out')
    with pytest.raises(BagError, match='exists already'):
        convert(open_source(folder), tmp_path / 'out')


def test_a_real_recording_survives_the_conversion(shared_data, tmp_path):
    source = open_source(shared_data / 'hololens_000', stride=40)
    summary = convert(source, tmp_path / 'out')
    assert summary.frames == 10
    with open_source(tmp_path / 'out') as bag:
        for copy, original in zip(bag.records(), source.records(), strict=True):
            assert (copy.stamp_ns, copy.camera) == (original.stamp_ns, original.camera)
            np.testing.assert_array_equal(copy.image, original.image)
            np.testing.assert_array_equal(copy.depth_m, original.depth_m)
