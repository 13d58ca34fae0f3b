"""Bags of every storage, whole, damaged and cut off."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap

from bags_helpers import CAMERA, image_of, pose_of
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.typesys import Stores, get_typestore

from kpvo_ros.bags.images import decode_image
from kpvo_ros.bags.reader import Bag
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.errors import BagError

STORAGES = ['mcap', 'sqlite3']
N = 12


def _record(path, storage, n=N):
    with BagWriter(path, storage) as writer:
        for i in range(n):
            writer.write_image('/camera/image_raw', i * 10**8, image_of(i), 'cam')
            writer.write_camera_info('/camera/camera_info', i * 10**8, CAMERA, 'cam')
    return path


def _storage_file(path):
    return next(f for f in path.iterdir() if f.suffix in ('.mcap', '.db3'))


def _images(bag):
    return [decode_image(msg) for _, _, msg in bag.messages({'/camera/image_raw'})]


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('bare', [False, True])
def test_bags_open_as_folder_and_as_bare_file(tmp_path, storage, bare):
    path = _record(tmp_path / 'bag', storage)
    with Bag(_storage_file(path) if bare else path) as bag:
        assert {name: info.count for name, info in bag.topics.items()} == {
            '/camera/camera_info': N,
            '/camera/image_raw': N,
        }
        assert bag.topics['/camera/image_raw'].msgtype == 'sensor_msgs/msg/Image'
        assert (bag.start_ns, bag.end_ns) == (0, (N - 1) * 10**8)
        assert bag.notes == ()
        for i, image in enumerate(_images(bag)):
            np.testing.assert_array_equal(image, image_of(i))


def test_raw_messages_are_the_bytes_that_were_written(tmp_path):
    store = get_typestore(Stores.ROS2_JAZZY)
    text = store.types['std_msgs/msg/String'](data='hello')
    data = bytes(store.serialize_cdr(text, 'std_msgs/msg/String'))
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_raw('/talk', 'std_msgs/msg/String', 5, data)
    with Bag(tmp_path / 'bag') as bag:
        (raw,) = bag.raw_messages()
    assert tuple(raw) == ('/talk', 'std_msgs/msg/String', 5, data)


def test_reading_twice_gives_the_same(tmp_path):
    with Bag(_record(tmp_path / 'bag', 'mcap')) as bag:
        first = [raw.recorded_ns for raw in bag.raw_messages()]
        assert [raw.recorded_ns for raw in bag.raw_messages()] == first
        assert list(bag.raw_messages({'/absent'})) == []


def _record_ros1(path, n=N):
    store = get_typestore(Stores.ROS1_NOETIC)
    kinds = store.types
    with Writer1(path) as writer:
        connection = writer.add_connection(
            '/camera/image_raw', 'sensor_msgs/msg/Image', typestore=store
        )
        for i in range(n):
            stamp = kinds['builtin_interfaces/msg/Time'](sec=i, nanosec=7)
            header = kinds['std_msgs/msg/Header'](seq=i, stamp=stamp, frame_id='/cam')
            image = image_of(i)
            msg = kinds['sensor_msgs/msg/Image'](
                header, *image.shape[:2], 'rgb8', 0, image.shape[1] * 3, image.reshape(-1)
            )
            data = store.serialize_ros1(msg, 'sensor_msgs/msg/Image')
            writer.write(connection, i * 10**9, data)
    return path


def test_ros1_bags_are_read(tmp_path):
    with Bag(_record_ros1(tmp_path / 'old.bag')) as bag:
        assert bag.is_ros1
        assert bag.topics['/camera/image_raw'].msgtype == 'sensor_msgs/msg/Image'
        for i, image in enumerate(_images(bag)):
            np.testing.assert_array_equal(image, image_of(i))


def test_a_cut_off_ros1_bag_says_how_to_mend_it(tmp_path):
    path = _record_ros1(tmp_path / 'old.bag')
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(BagError, match='rosbag reindex'):
        Bag(path)


@pytest.mark.parametrize('storage', STORAGES)
def test_an_empty_bag_is_refused_in_one_line(tmp_path, storage):
    with BagWriter(tmp_path / 'bag', storage):
        pass
    with pytest.raises(BagError, match='no messages'):
        Bag(tmp_path / 'bag')


def test_a_missing_bag_is_refused(tmp_path):
    with pytest.raises(BagError, match='does not exist'):
        Bag(tmp_path / 'none.mcap')


@pytest.mark.parametrize('name', ['x.mcap', 'x.db3', 'x.bag', 'x.txt'])
@pytest.mark.parametrize('content', [b'', b'not a bag at all, just text\n' * 50])
def test_a_file_that_is_no_bag_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BagError) as caught:
        Bag(tmp_path / name)
    assert '\n' not in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_without_a_bag_is_refused(tmp_path):
    with pytest.raises(BagError, match='not a bag'):
        Bag(tmp_path)


@pytest.mark.parametrize('storage', STORAGES)
def test_a_bag_that_lost_its_metadata_is_read_with_a_note(tmp_path, storage):
    path = _record(tmp_path / 'bag', storage)
    (path / 'metadata.yaml').unlink()
    with Bag(path) as bag:
        assert len(_images(bag)) == N
        assert any('cut off' in note for note in bag.notes)


@pytest.mark.parametrize('storage', STORAGES)
def test_damaged_metadata_does_not_lose_the_recording(tmp_path, storage):
    path = _record(tmp_path / 'bag', storage)
    (path / 'metadata.yaml').write_text('rosbag2_bagfile_information: [broken')
    with Bag(path) as bag:
        assert len(_images(bag)) == N


def _big_recording(path, storage):
    """Several chunks or pages: 40 images of 150 kB."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (40, 200, 250, 3), dtype=np.uint8)
    with BagWriter(path, storage) as writer:
        for i, image in enumerate(images):
            writer.write_image('/camera/image_raw', i * 10**8, image, 'cam')
    return images


@pytest.mark.parametrize('with_metadata', [True, False])
@pytest.mark.parametrize('keep', [0.35, 0.6, 0.95])
@pytest.mark.parametrize('storage', STORAGES)
def test_the_readable_part_of_a_truncated_bag_is_kept(tmp_path, storage, keep, with_metadata):
    path = tmp_path / 'bag'
    images = _big_recording(path, storage)
    file = _storage_file(path)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    if not with_metadata:
        (path / 'metadata.yaml').unlink()
    with Bag(path) as bag:
        kept = _images(bag)
        assert any('cut off' in note for note in bag.notes)
    assert len(kept) >= int(keep * 40) - 8  # at most one chunk of 1 MB is lost
    for image, original in zip(kept, images, strict=False):
        np.testing.assert_array_equal(image, original)


def test_an_mcap_without_any_index_is_read_when_cut_off(tmp_path):
    """Recorders can leave chunks and their indexes out: messages follow each other plainly."""
    path = _record(tmp_path / 'bag', 'mcap', n=4)
    file = _storage_file(path)
    content = file.read_bytes()
    # The single chunk of this small bag starts after the header: unwrap its records.
    at = 8
    at += 9 + int.from_bytes(content[at + 1 : at + 9], 'little')
    assert content[at] == 0x06
    size = int.from_bytes(content[at + 9 + 16 : at + 9 + 24], 'little')
    start = at + 9 + 40
    plain = content[:at] + content[start : start + size]
    lone = tmp_path / 'plain.mcap'
    lone.write_bytes(plain[:-1000])
    with Bag(lone) as bag:
        images = _images(bag)
    assert len(images) == 3
    np.testing.assert_array_equal(images[2], image_of(2))


def test_zeros_after_a_power_cut_end_the_recording(tmp_path):
    path = tmp_path / 'bag'
    _big_recording(path, 'mcap')
    file = _storage_file(path)
    content = file.read_bytes()
    half = len(content) // 2
    file.write_bytes(content[:half] + bytes(len(content) - half))
    with Bag(path) as bag:
        assert 10 <= len(_images(bag)) <= 22  # the image on the edge may be half black


def test_rows_in_a_write_ahead_log_are_not_lost(tmp_path):
    path = _record(tmp_path / 'bag', 'sqlite3')
    file = _storage_file(path)
    (path / 'metadata.yaml').unlink()
    live = sqlite3.connect(file)
    live.execute('PRAGMA journal_mode=WAL')
    live.execute('PRAGMA wal_autocheckpoint=0')
    live.execute('INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, 9000000000, '
                 'data FROM messages WHERE topic_id=1 LIMIT 1')  # fmt: skip
    live.commit()
    crashed = tmp_path / 'crashed'
    shutil.copytree(path, crashed)  # what a power cut leaves: the log is not merged
    live.close()
    with Bag(_storage_file(crashed)) as bag:
        assert len(_images(bag)) == N + 1


@pytest.mark.parametrize('storage', STORAGES)
def test_a_killed_recorder_leaves_what_it_wrote_before_the_last_second(tmp_path, storage):
    script = f"""
        import sys, time, numpy as np
        from kpvo_ros.bags.writer import BagWriter
        writer = BagWriter({str(tmp_path / 'bag')!r}, {storage!r})
        for i in range(100000):
            writer.write_image('/camera/image_raw', i, np.full((8, 8), i, np.uint8), 'cam')
            if i == 100:
                writer.flush()
                print('flushed', flush=True)
            time.sleep(0.001)
    """
    process = subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == 'flushed\n'
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with Bag(tmp_path / 'bag') as bag:
        images = _images(bag)
    assert len(images) >= 101
    assert (images[100] == 100).all()


def test_a_damaged_message_is_skipped_and_the_rest_read(tmp_path, caplog):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_image('/camera/image_raw', 0, image_of(0), 'cam')
        writer.write_raw('/camera/image_raw', 'sensor_msgs/msg/Image', 1, b'\0\1\0\0broken')
        writer.write_image('/camera/image_raw', 2, image_of(2), 'cam')
    with Bag(tmp_path / 'bag') as bag:
        assert len(_images(bag)) == 2
    assert 'skipped' in caplog.text


@pytest.mark.parametrize('suffix', ['.mcap', '.db3', '.bag'])
def test_random_bytes_as_a_bag_are_refused(tmp_path, suffix):
    heads = {
        '.mcap': b'\x89MCAP0\r\n',
        '.db3': b'SQLite format 3\0',
        '.bag': b'#ROSBAG V2.0\n',
    }
    path = tmp_path / f'fuzz{suffix}'

    @settings(deadline=None, max_examples=25)
    @given(head=st.booleans(), data=st.binary(max_size=400))
    def check(head, data):
        path.write_bytes((heads[suffix] if head else b'') + data)
        with pytest.raises(BagError):
            Bag(path)

    check()


@pytest.mark.parametrize('storage', STORAGES)
def test_flipped_bytes_never_raise_anything_but_a_bag_error(tmp_path, storage):
    path = _record(tmp_path / 'bag', storage, n=3)
    file = _storage_file(path)
    content = file.read_bytes()
    broken = tmp_path / f'broken{file.suffix}'

    @settings(deadline=None, max_examples=25)
    @given(
        flips=st.lists(
            st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8
        ),
        cut=st.integers(1, len(content)),
    )
    def check(flips, cut):
        damaged = bytearray(content)
        for at, value in flips:
            damaged[at] = value
        broken.write_bytes(damaged[:cut])
        try:
            with Bag(broken) as bag:
                list(bag.messages())
        except BagError as error:
            assert '\n' not in str(error)

    check()


def test_poses_survive_the_recording(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        writer.write_odometry('/odom', 3, pose_of(4), 'odom', 'base_link')
    with Bag(tmp_path / 'bag') as bag:
        ((_, recorded_ns, msg),) = bag.messages()
    assert recorded_ns == 3
    p, q = msg.pose.pose.position, msg.pose.pose.orientation
    np.testing.assert_allclose([p.x, p.y, p.z], pose_of(4)[:3, 3])
    np.testing.assert_allclose([q.x, q.y, q.z, q.w], [0, 0, np.sin(0.1), np.cos(0.1)], atol=1e-15)
