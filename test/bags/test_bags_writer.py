"""Writing bags: refusals, completeness, and what `ros2 bag play` needs to find."""

import logging
from types import SimpleNamespace

from bags_helpers import CAMERA, image_of, pose_of
import numpy as np
import pytest
import yaml

from kpvo_ros.bags.reader import Bag
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.errors import BagError

STORAGES = ['mcap', 'sqlite3']


@pytest.mark.parametrize('storage', STORAGES)
def test_metadata_is_what_jazzy_expects(tmp_path, storage):
    with BagWriter(tmp_path / 'bag', storage) as writer:
        writer.write_image('/image', 10, image_of(0), 'cam')
        writer.write_image('/image', 40, image_of(1), 'cam')
        writer.write_static_transforms(10, [('base_link', 'cam', np.eye(4))])
    document = yaml.safe_load((tmp_path / 'bag' / 'metadata.yaml').read_text())
    info = document['rosbag2_bagfile_information']
    assert info['version'] == 9
    assert info['storage_identifier'] == storage
    assert info['message_count'] == 3
    assert info['starting_time']['nanoseconds_since_epoch'] == 10
    assert info['duration']['nanoseconds'] == 30
    assert (tmp_path / 'bag' / info['relative_file_paths'][0]).is_file()
    topics = {
        t['topic_metadata']['name']: t['topic_metadata'] for t in info['topics_with_message_count']
    }
    assert topics['/image']['type'] == 'sensor_msgs/msg/Image'
    assert topics['/image']['serialization_format'] == 'cdr'
    assert topics['/image']['type_description_hash'].startswith('RIHS01_')
    (plain,) = topics['/image']['offered_qos_profiles']
    (latched,) = topics['/tf_static']['offered_qos_profiles']
    assert (plain['reliability'], plain['durability']) == ('reliable', 'volatile')
    assert (latched['reliability'], latched['durability']) == ('reliable', 'transient_local')


def test_an_existing_path_is_never_overwritten(tmp_path):
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'precious').write_text('x')
    with pytest.raises(BagError, match='exists already'):
        BagWriter(tmp_path / 'bag')
    assert (tmp_path / 'bag' / 'precious').read_text() == 'x'


def test_an_impossible_path_is_refused(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(BagError, match='cannot create'):
        BagWriter(tmp_path / 'file' / 'bag')


def test_unknown_storage_is_refused(tmp_path):
    with pytest.raises(BagError, match='mcap or sqlite3'):
        BagWriter(tmp_path / 'bag', 'zip')
    assert not (tmp_path / 'bag').exists()


@pytest.mark.parametrize('storage', STORAGES)
def test_an_exception_in_between_keeps_what_was_written(tmp_path, storage):
    with pytest.raises(KeyboardInterrupt), BagWriter(tmp_path / 'bag', storage) as writer:
        writer.write_image('/image', 10, image_of(0), 'cam')
        raise KeyboardInterrupt
    with Bag(tmp_path / 'bag') as bag:
        assert bag.topics['/image'].count == 1
        assert bag.notes == ()


def test_a_closed_bag_takes_nothing_more(tmp_path):
    writer = BagWriter(tmp_path / 'bag')
    writer.close()
    writer.close()
    with pytest.raises(BagError, match='closed'):
        writer.write_image('/image', 10, image_of(0), 'cam')


@pytest.mark.parametrize('recorded_ns', [-1, 2**63])
def test_times_a_bag_cannot_hold_are_refused(tmp_path, recorded_ns):
    with BagWriter(tmp_path / 'bag') as writer, pytest.raises(BagError, match='time'):
        writer.write_raw('/t', 'std_msgs/msg/String', recorded_ns, b'')


def test_unknown_types_need_their_definition(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        with pytest.raises(BagError, match=r'my_msgs/msg/Thing.*definition'):
            writer.write_raw('/thing', 'my_msgs/msg/Thing', 0, b'\0\1\0\0\7\0\0\0')
        writer.write_raw(
            '/thing', 'my_msgs/msg/Thing', 0, b'\0\1\0\0\7\0\0\0', definition='int32 value'
        )
    with Bag(tmp_path / 'bag') as bag:
        ((_, _, msg),) = bag.messages()
    assert msg.value == 7


@pytest.mark.parametrize('storage', STORAGES)
def test_recording_time_does_not_go_back_with_the_stamps(tmp_path, storage):
    stamps = [50, 20, 60]
    with BagWriter(tmp_path / 'bag', storage) as writer:
        for i, stamp in enumerate(stamps):
            writer.write_image('/image', stamp, image_of(i), 'cam')
    with Bag(tmp_path / 'bag') as bag:
        rows = [(time, msg.header.stamp.nanosec) for _, time, msg in bag.messages()]
    assert rows == [(50, 50), (50, 20), (60, 60)]


def test_stamps_before_1970_cannot_be_recorded(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer, pytest.raises(BagError, match='time'):
        writer.write_image('/image', -5, image_of(0), 'cam')


def test_what_rclpy_would_publish_is_what_lies_in_the_bag(tmp_path):
    """The bytes are read by the other implementation of CDR, where ROS 2 is installed."""
    serialization = pytest.importorskip('rclpy.serialization')
    messages = pytest.importorskip('sensor_msgs.msg')
    nav = pytest.importorskip('nav_msgs.msg')
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_image('/image', 3_000_000_004, image_of(2), 'cam')
        writer.write_camera_info('/camera_info', 3_000_000_004, CAMERA, 'cam')
        writer.write_odometry('/odom', 3_000_000_004, pose_of(2), 'odom', 'base_link')
    with Bag(tmp_path / 'bag') as bag:
        raw = {message.topic: message.data for message in bag.raw_messages()}
    image = serialization.deserialize_message(raw['/image'], messages.Image)
    assert (image.header.stamp.sec, image.header.stamp.nanosec) == (3, 4)
    assert (image.encoding, image.step, image.is_bigendian) == ('rgb8', 96, 0)
    np.testing.assert_array_equal(np.frombuffer(image.data, np.uint8), image_of(2).ravel())
    info = serialization.deserialize_message(raw['/camera_info'], messages.CameraInfo)
    np.testing.assert_array_equal(info.k, CAMERA.K.ravel())
    odometry = serialization.deserialize_message(raw['/odom'], nav.Odometry)
    assert odometry.child_frame_id == 'base_link'
    assert odometry.pose.pose.position.x == pytest.approx(0.2)


def test_a_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    writer = BagWriter(tmp_path / 'bag')
    writer.write_image('/image', 1, image_of(0), 'cam')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(writer, '_writer', SimpleNamespace(write=full, close=full))
    with pytest.raises(BagError, match='No space left'):
        writer.write_image('/image', 2, image_of(0), 'cam')
    with pytest.raises(BagError, match='No space left'):
        writer.close()


def test_writing_says_nothing_on_success(tmp_path, caplog):
    with caplog.at_level(logging.INFO), BagWriter(tmp_path / 'bag') as writer:
        writer.write_image('/image', 1, image_of(0), 'cam')
    assert caplog.text == ''
