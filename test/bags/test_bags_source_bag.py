"""A bag as a source: intrinsics, depth, odometry, truth, extrinsics, and all that goes wrong."""

import logging

from bags_helpers import CAMERA, INTRINSICS, depth_of, image_of, pose_of
import numpy as np
import pytest

from kpvo_ros.bags.messages import MessageFactory
from kpvo_ros.bags.source import SourceKind
from kpvo_ros.bags.sources import open_source
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import BadFrame, Frame, WheelOdometry

IMAGE, INFO, DEPTH = '/camera/image_raw', '/camera/camera_info', '/camera/depth'
MS = 1_000_000
START = 10**9
T_BASE_CAMERA = np.array([[0, 0, 1, 0.1], [-1, 0, 0, 0], [0, -1, 0, 0.3], [0, 0, 0, 1.0]])


@pytest.fixture
def writer(tmp_path):
    with BagWriter(tmp_path / 'bag') as open_writer:
        yield open_writer


def _write_frames(writer, n=5, *, info=True, stamps=None):
    for i in range(n):
        stamp = START + i * 100 * MS if stamps is None else stamps[i]
        if info:
            writer.write_camera_info(INFO, stamp, CAMERA, 'cam')
        writer.write_image(IMAGE, stamp, image_of(i), 'cam')


def _open(writer, **options):
    writer.close()
    return open_source(writer.path, **options)


def test_images_come_with_stamp_frame_and_intrinsics(writer):
    _write_frames(writer)
    with _open(writer) as source:
        info = source.info
        records = list(source.records())
    assert (info.kind, info.n_frames, info.camera) == (SourceKind.BAG, 5, CAMERA)
    assert (info.has_depth, info.has_ground_truth) == (False, False)
    for i, frame in enumerate(records):
        assert (frame.stamp_ns, frame.frame_id) == (START + i * 100 * MS, 'cam')
        assert frame.camera == CAMERA
        np.testing.assert_array_equal(frame.image, image_of(i))


def test_images_before_the_first_camera_info_use_it(writer):
    for i in range(4):
        writer.write_image(IMAGE, START + i * 100 * MS, image_of(i), 'cam')
    writer.write_camera_info(INFO, START + 500 * MS, CAMERA, 'cam')
    records = list(_open(writer).records())
    assert [record.camera for record in records] == [CAMERA] * 4


def test_a_bag_without_camera_info_asks_for_intrinsics(writer, tmp_path):
    _write_frames(writer, info=False)
    with pytest.raises(BagError, match='--intrinsics'):
        _open(writer)
    (tmp_path / 'camera.yaml').write_text(INTRINSICS)
    source = open_source(writer.path, intrinsics=tmp_path / 'camera.yaml')
    assert all(isinstance(record, Frame) for record in source.records())


def test_given_intrinsics_win_over_recorded_ones(writer, tmp_path):
    _write_frames(writer)
    (tmp_path / 'camera.yaml').write_text(INTRINSICS.replace('30.0', '44.0'))
    source = _open(writer, intrinsics=tmp_path / 'camera.yaml')
    assert {record.camera.fx for record in source.records()} == {44.0}


def _write_info(writer, stamp_ns, **changes):
    msg = MessageFactory().camera_info(stamp_ns, 'cam', CAMERA)
    for name, value in changes.items():
        setattr(msg, name, value)
    writer.write(INFO, stamp_ns, msg)


@pytest.mark.parametrize(
    ('k', 'reason'), [(np.zeros(9), 'uncalibrated'), (np.full(9, np.nan), 'NaN')]
)
def test_intrinsics_that_are_never_usable_are_refused(writer, k, reason):
    writer.write_image(IMAGE, START, image_of(0), 'cam')
    _write_info(writer, START, k=k)
    with pytest.raises(BagError, match=f'{reason}.*--intrinsics'):
        _open(writer)


def test_intrinsics_that_break_on_the_way_make_bad_frames_until_they_mend(writer):
    for i, k in enumerate([CAMERA.K.ravel(), np.full(9, np.nan), CAMERA.K.ravel()]):
        _write_info(writer, START + i * 100 * MS, k=k)
        writer.write_image(IMAGE, START + i * 100 * MS + 1, image_of(i), 'cam')
    records = list(_open(writer).records())
    assert [type(record) for record in records] == [Frame, BadFrame, Frame]
    assert 'NaN' in records[1].reason


def test_a_resolution_change_with_new_intrinsics_is_followed(writer):
    half = Camera(16, 12, 15.0, 15.5, 7.5, 5.5)
    _write_frames(writer, 2)
    writer.write_image(IMAGE, START + 300 * MS, image_of(0)[::2, ::2].copy(), 'cam')
    writer.write_camera_info(INFO, START + 400 * MS, half, 'cam')
    writer.write_image(IMAGE, START + 400 * MS + 1, image_of(0)[::2, ::2].copy(), 'cam')
    records = list(_open(writer).records())
    assert [type(record) for record in records] == [Frame, Frame, BadFrame, Frame]
    assert '16x12' in records[2].reason
    assert '32x24' in records[2].reason
    assert records[3].camera == half


def test_bad_images_are_values_with_their_stamp(writer):
    _write_frames(writer, 1)
    factory = MessageFactory()
    broken = {
        'unknown encoding': {'encoding': 'magic'},
        'cut off': {'data': np.zeros(5, np.uint8)},
        'no pixels': {'width': 0, 'height': 0},
        'absurd': {'width': 2**31, 'height': 2**31},
    }
    for i, changes in enumerate(broken.values(), start=1):
        msg = factory.image(START + i * MS, 'cam', image_of(i), 'rgb8')
        for name, value in changes.items():
            setattr(msg, name, value)
        writer.write(IMAGE, START + i * MS, msg)
    writer.write_raw(IMAGE, 'sensor_msgs/msg/Image', START + 9 * MS, b'\0\1\0\0garbage')
    records = list(_open(writer).records())
    assert [type(record) for record in records] == [Frame, *[BadFrame] * 5]
    assert [record.stamp_ns for record in records] == [START + i * MS for i in (0, 1, 2, 3, 4, 9)]
    assert all('\n' not in record.reason for record in records[1:])


def test_stamps_that_repeat_or_jump_back_are_passed_on(writer):
    stamps = [START, START, START + 5 * MS, START + 2 * MS, START + 9 * MS]
    _write_frames(writer, stamps=stamps)
    assert [record.stamp_ns for record in _open(writer).records()] == stamps


def test_images_without_stamp_take_the_time_of_recording(writer):
    factory = MessageFactory()
    writer.write_camera_info(INFO, START, CAMERA, 'cam')
    for i in range(3):
        writer.write(IMAGE, START + i, factory.image(0, 'cam', image_of(i), 'rgb8'))
    source = _open(writer)
    assert [record.stamp_ns for record in source.records()] == [START, START + 1, START + 2]
    assert any('without stamp' in note for note in source.info.notes)


@pytest.mark.parametrize('encoding', ['32FC1', '16UC1', 'compressedDepth'])
@pytest.mark.parametrize('delay_ms', [-15, 0, 15])
def test_depth_is_joined_by_stamp(writer, encoding, delay_ms):
    topic = f'{DEPTH}/compressedDepth' if encoding == 'compressedDepth' else DEPTH
    _write_frames(writer)
    for i in range(5):
        stamp = START + (100 * i + delay_ms) * MS
        writer.write_depth(topic, stamp, depth_of(i), 'cam', encoding)
    source = _open(writer)
    assert source.info.has_depth
    for i, frame in enumerate(source.records()):
        np.testing.assert_allclose(frame.depth_m, depth_of(i), atol=1e-6)


def test_depth_further_than_twenty_milliseconds_is_not_joined(writer):
    _write_frames(writer)
    for i in range(5):
        writer.write_depth(DEPTH, START + (100 * i + 25) * MS, depth_of(i), 'cam')
    assert [frame.depth_m for frame in _open(writer).records()] == [None] * 5


def test_depth_of_another_frame_is_used_only_when_named(writer):
    _write_frames(writer)
    for i in range(5):
        writer.write_depth(DEPTH, START + 100 * i * MS, depth_of(i), 'depth_optical')
    source = _open(writer)
    assert [frame.depth_m for frame in source.records()] == [None] * 5
    assert any('depth_optical' in note for note in source.info.notes)
    named = open_source(writer.path, depth_topic=DEPTH)
    assert all(frame.depth_m is not None for frame in named.records())


def test_depth_of_another_size_is_left_out_with_one_note(writer, caplog):
    _write_frames(writer)
    for i in range(5):
        writer.write_depth(DEPTH, START + 100 * i * MS, depth_of(i)[::2], 'cam')
    with caplog.at_level(logging.WARNING):
        assert [frame.depth_m for frame in _open(writer).records()] == [None] * 5
    assert caplog.text.count('depth is left out') == 1


@pytest.mark.parametrize('container', ['jpeg', 'png'])
def test_compressed_images_are_read(writer, container):
    for i in range(3):
        writer.write_camera_info(INFO, START + i, CAMERA, 'cam')
        writer.write_compressed_image(
            f'{IMAGE}/compressed', START + i, image_of(i), 'cam', container
        )
    for i, frame in enumerate(_open(writer, image_topic=IMAGE).records()):
        assert np.abs(frame.image.astype(int) - image_of(i)).mean() < 4


def test_wheel_odometry_comes_between_the_images(writer):
    for i in range(3):
        writer.write_camera_info(INFO, START + 100 * i * MS, CAMERA, 'cam')
        writer.write_image(IMAGE, START + 100 * i * MS, image_of(i), 'cam')
        writer.write_odometry(
            '/odom', START + (100 * i + 50) * MS, pose_of(i), 'odom', 'base_link'
        )
    records = list(_open(writer).records())
    assert [type(record) for record in records] == [Frame, WheelOdometry] * 3
    np.testing.assert_allclose(records[3].T_odom_base, pose_of(1), atol=1e-12)


def test_wheel_odometry_without_orientation_is_left_out(writer):
    _write_frames(writer, 2)
    msg = MessageFactory().odometry(START, 'odom', 'base_link', np.eye(4))
    msg.pose.pose.orientation.w = 0.0
    writer.write('/odom', START, msg)
    source = _open(writer)
    assert [type(record) for record in source.records()] == [Frame, Frame]
    assert any('wheel odometry left out' in note for note in source.info.notes)


def test_extrinsics_follow_the_static_tree(writer):
    _write_frames(writer, 1)
    mount, optical = np.eye(4), np.eye(4)
    mount[:3, 3] = [0.1, 0.0, 0.3]
    optical[:3, :3] = T_BASE_CAMERA[:3, :3]
    # The second transform is told the other way round, as some drivers do.
    writer.write_static_transforms(
        START,
        [('base_link', 'camera_link', mount), ('/cam', 'camera_link', np.linalg.inv(optical))],
    )
    np.testing.assert_allclose(_open(writer).extrinsics(), T_BASE_CAMERA, atol=1e-12)


def test_without_a_way_from_base_to_camera_there_are_no_extrinsics(writer):
    _write_frames(writer, 1)
    writer.write_static_transforms(START, [('base_link', 'laser', np.eye(4))])
    assert _open(writer).extrinsics() is None


def test_ground_truth_of_the_base_is_moved_to_the_camera(writer):
    _write_frames(writer, 3)
    writer.write_static_transforms(START, [('base_link', 'cam', T_BASE_CAMERA)])
    for i in range(3):
        stamp = START + 100 * i * MS
        writer.write_odometry('/ground_truth', stamp, pose_of(i), 'world', 'base_link')
    source = _open(writer)
    assert source.info.has_ground_truth
    truth = source.ground_truth()
    np.testing.assert_allclose(truth.poses[2], pose_of(2) @ T_BASE_CAMERA, atol=1e-12)
    assert not any(isinstance(record, WheelOdometry) for record in source.records())


def test_ground_truth_as_stamped_pose_belongs_to_the_base(writer):
    _write_frames(writer, 1)
    writer.write_static_transforms(START, [('base_link', 'cam', T_BASE_CAMERA)])
    factory = MessageFactory()
    odometry = factory.odometry(START, 'world', '', pose_of(3))
    stamped = factory.make(
        'geometry_msgs/msg/PoseStamped', header=odometry.header, pose=odometry.pose.pose
    )
    writer.write('/gt', START, stamped)
    truth = _open(writer).ground_truth()
    np.testing.assert_allclose(truth.poses[0], pose_of(3) @ T_BASE_CAMERA, atol=1e-12)


def test_ground_truth_of_an_unknown_body_is_left_out_with_a_note(writer):
    _write_frames(writer, 1)
    writer.write_odometry('/ground_truth', START, np.eye(4), 'world', 'vehicle')
    source = _open(writer)
    assert source.ground_truth() is None
    assert any("'vehicle'" in note for note in source.info.notes)


def test_repeated_and_unordered_ground_truth_is_sorted_out(writer):
    _write_frames(writer, 1)
    for i in (2, 0, 1, 1):
        writer.write_odometry('/ground_truth', START + i * MS, pose_of(i), 'world', 'cam')
    truth = _open(writer).ground_truth()
    np.testing.assert_array_equal(truth.stamps_ns, START + np.arange(3) * MS)
    np.testing.assert_allclose(truth.poses, [pose_of(i) for i in range(3)], atol=1e-12)


def test_stride_and_window_count_images_not_messages(writer):
    _write_frames(writer, 10)
    source = _open(writer, stride=2, start_s=0.2, duration_s=0.5)
    assert source.info.n_frames is None
    stamps = [(frame.stamp_ns - START) // MS for frame in source.records()]
    assert stamps == [200, 400, 600]


def test_a_bag_without_images_lists_its_topics(writer):
    writer.write_odometry('/odom', START, np.eye(4), 'odom', 'base_link')
    with pytest.raises(BagError, match=r'no image topic.*/odom'):
        _open(writer)


def test_a_pass_given_up_half_way_does_not_disturb_the_next(writer):
    _write_frames(writer, 5)
    source = _open(writer)
    next(iter(source.records()))
    assert len(list(source.records())) == 5
