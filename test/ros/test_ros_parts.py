"""The parts of the nodes that need no middleware."""

from __future__ import annotations

import math
from pathlib import Path
import struct
import threading
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from ros_stage import Scene, ns, wait_until
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image
from sensor_msgs_py import point_cloud2
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from kpvo_ros.bags.images import camera_from_info, decode_depth
from kpvo_ros.errors import RosError
from kpvo_ros.evaluation.files import read_trajectory
from kpvo_ros.geometry.camera import Camera, DistortionModel
from kpvo_ros.ros import cdr, convert
from kpvo_ros.ros.diagnostics import InputMonitor, input_status
from kpvo_ros.ros.stamp_buffer import StampBuffer
from kpvo_ros.ros.stamp_gate import Admission, StampGate
from kpvo_ros.ros.trajectory_log import TrajectoryLog
from kpvo_ros.ros.worker import LatestWorker
from kpvo_ros.types import BadFrame, Features, Frame

CAMERA = Camera(320, 240, 200.0, 200.0, 159.5, 119.5)
STAMP = st.integers(0, 2**31 * 10**9 - 1)


# ------------------------------------------------------------------------------- conversions


@settings(deadline=None, max_examples=50)
@given(STAMP)
def test_a_stamp_survives_the_header(stamp_ns: int) -> None:
    assert ns(Image(header=convert.header_of(stamp_ns, 'a'))) == stamp_ns


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_pose_survives_the_messages(seed: int) -> None:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    T[:3, 3] = rng.uniform(-1e3, 1e3, 3)
    pose = convert.pose_message(1, T, 'odom').pose
    np.testing.assert_allclose(convert.matrix_from_pose(pose), T, atol=1e-9)
    transform = convert.transform_message(1, T, 'a', 'b')
    assert (transform.header.frame_id, transform.child_frame_id) == ('a', 'b')
    np.testing.assert_allclose(convert.matrix_from_transform(transform.transform), T, atol=1e-9)


@pytest.mark.parametrize(
    ('x', 'w'), [(0.0, 0.0), (0.0, math.nan), (math.nan, 1.0), (math.inf, 1.0)]
)
def test_wheel_odometry_without_a_pose_is_none(x: float, w: float) -> None:
    message = Odometry()
    message.pose.pose.position.x, message.pose.pose.orientation.w = x, w
    assert convert.wheel_from_message(message) is None


def test_wheel_odometry_keeps_stamp_and_pose() -> None:
    message = Odometry(header=convert.header_of(12_000_000_034, 'odom'))
    message.pose.pose.position.y = 3.0
    message.pose.pose.orientation.w = 1.0
    wheel = convert.wheel_from_message(message)
    assert wheel is not None and wheel.stamp_ns == 12_000_000_034
    np.testing.assert_array_equal(wheel.T_odom_base[:3, 3], [0, 3, 0])


@pytest.mark.parametrize(
    ('dtype', 'size'), [(np.uint8, 32), (np.uint8, 61), (np.float32, 128), (np.float64, 8)]
)
def test_keypoints_read_back_with_the_standard_reader(
    rng: np.random.Generator, dtype: Any, size: int
) -> None:
    descriptor = (rng.random((7, size)) * 200).astype(dtype)
    features = Features(
        rng.uniform(0, 100, (7, 2)).astype(np.float32),
        rng.random(7).astype(np.float32),
        descriptor,
    )
    cloud = deserialize_message(
        serialize_message(convert.keypoints_message(5, 'camera', features)), convert.PointCloud2
    )
    assert len(cloud.data) == cloud.row_step == cloud.width * cloud.point_step
    points = point_cloud2.read_points(cloud, field_names=['u', 'v', 'score'])
    np.testing.assert_array_equal(points['u'], features.xy[:, 0])
    np.testing.assert_array_equal(points['v'], features.xy[:, 1])
    np.testing.assert_array_equal(points['score'], features.score)
    field = cloud.fields[3]
    kind = np.uint8 if dtype is np.uint8 else np.float32
    raw = np.frombuffer(cloud.data, np.uint8).reshape(7, cloud.point_step)[:, field.offset :]
    stored = raw[:, : size * np.dtype(kind).itemsize].copy().view(kind)
    assert field.count == size
    np.testing.assert_array_equal(stored, descriptor.astype(kind))


def test_no_keypoints_are_an_empty_cloud_with_the_same_fields() -> None:
    features = Features(
        np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 32), np.uint8)
    )
    cloud = convert.keypoints_message(5, 'camera', features)
    assert (cloud.width, len(cloud.data), cloud.point_step) == (0, 0, 44)
    assert [f.name for f in cloud.fields] == ['u', 'v', 'score', 'descriptor']


def test_depth_and_intrinsics_read_back(rng: np.random.Generator) -> None:
    depth_m = rng.uniform(0.3, 5, (240, 320)).astype(np.float32)
    depth_m[:10] = np.nan
    frame = Frame(9, np.zeros((240, 320), np.uint8), CAMERA, 'cam', depth_m)
    message = convert.depth_message(frame)
    np.testing.assert_array_equal(decode_depth(message), depth_m)
    for camera in (
        CAMERA,
        Camera(64, 48, 50, 51, 30, 20, DistortionModel.EQUIDISTANT, (0.1,) * 4),
    ):
        assert camera_from_info(convert.camera_info_message(9, 'cam', camera)) == camera


def test_an_image_and_intrinsics_of_different_size_are_a_bad_frame(scene: Scene) -> None:
    answer = convert.frame_from_messages(scene.image(3), CAMERA.resized(640, 480))
    assert isinstance(answer, BadFrame)
    assert answer.stamp_ns == scene.stamp_ns(3)
    assert '320x240' in answer.reason and '640x480' in answer.reason


def test_a_frame_takes_its_name_from_the_header_unless_told(scene: Scene) -> None:
    for told, name in (('', 'camera'), ('left', 'left')):
        frame = convert.frame_from_messages(scene.image(0), CAMERA, scene.depth(0), told)
        assert isinstance(frame, Frame) and frame.frame_id == name
        assert frame.depth_m is not None and frame.depth_m.dtype == np.float32


# ------------------------------------------------------------------------- serialised messages


@settings(deadline=None, max_examples=50)
@given(STAMP, st.integers(-(10**18), 10**18), st.binary(max_size=40))
def test_a_shifted_message_differs_from_the_original_only_in_its_stamp(
    stamp_ns: int, offset_ns: int, data: bytes
) -> None:
    if not 0 <= stamp_ns + offset_ns < 2**31 * 10**9:
        offset_ns = -stamp_ns
    message = Image(header=convert.header_of(stamp_ns, 'camera'), encoding='mono8', data=data)
    shifted = cdr.with_shifted_stamps(serialize_message(message), Image, offset_ns)
    message.header = convert.header_of(stamp_ns + offset_ns, 'camera')
    assert deserialize_message(shifted, Image) == message
    assert cdr.stamp_ns_in(shifted) == stamp_ns + offset_ns


def test_every_transform_of_a_tf_message_is_shifted() -> None:
    headers = [convert.header_of(stamp_ns, 'odom') for stamp_ns in (5, 10**9)]
    message = TFMessage(transforms=[TransformStamped(header=h) for h in headers])
    shifted = cdr.with_shifted_stamps(serialize_message(message), TFMessage, 7)
    stamps = [ns(t) for t in deserialize_message(shifted, TFMessage).transforms]
    assert stamps == [12, 10**9 + 7]


def test_messages_without_stamps_come_back_unchanged() -> None:
    data = serialize_message(String(data='hello'))
    assert cdr.with_shifted_stamps(data, String, 7) == data


def test_big_endian_stamps_are_understood() -> None:
    data = b'\x00\x00\x00\x00' + struct.pack('>iI', 3, 4) + b'rest'
    assert cdr.stamp_ns_in(data) == 3_000_000_004
    assert cdr.stamp_ns_in(cdr.with_shifted_stamps(data, Image, 1)) == 3_000_000_005


def test_a_message_cut_off_in_its_stamp_is_refused() -> None:
    with pytest.raises(RosError, match='cut off'):
        cdr.stamp_ns_in(b'\x00\x01\x00\x00\x01')


@pytest.mark.parametrize('name', ['no_such_msgs/msg/Thing', 'sensor_msgs/msg/Thing', '', 'Image'])
def test_an_unknown_message_type_is_named(name: str) -> None:
    with pytest.raises(RosError, match='not installed'):
        cdr.message_class(name)
    assert cdr.message_class('sensor_msgs/msg/Image') is Image


# ------------------------------------------------------------------------------ stamps, depth


def test_stamps_must_grow_and_a_jump_back_is_a_new_beginning() -> None:
    gate = StampGate()
    second = 10**9
    for stamp_ns, expected in (
        (100 * second, Admission.NEW),
        (100 * second, Admission.REPEATED),
        (100 * second - 1, Admission.REPEATED),
        (99 * second, Admission.REPEATED),
        (101 * second, Admission.NEW),
        (99 * second, Admission.JUMPED_BACK),
        (99 * second + 1, Admission.NEW),
    ):
        assert gate.admit(stamp_ns) is expected
    gate.forget()
    assert gate.admit(1) is Admission.NEW


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 20 * 10**9), max_size=40))
def test_admitted_stamps_grow_between_jumps(stamps: list[int]) -> None:
    gate, last = StampGate(), None
    for stamp_ns in stamps:
        admission = gate.admit(stamp_ns)
        if admission is Admission.NEW and last is not None:
            assert stamp_ns > last
        if admission is not Admission.REPEATED:
            last = stamp_ns


def test_depth_is_paired_by_the_nearest_stamp_within_the_tolerance(scene: Scene) -> None:
    buffer = StampBuffer()
    for stamp_ns in (1000, 1100, 5000):
        buffer.add(scene.depth(0, stamp_ns))
    assert ns(buffer.take(1060, 100, 0.0)) == 1100
    assert buffer.take(3000, 100, 60.0) is None  # a later one is there: no reason to wait
    buffer.clear()
    assert buffer.take(1060, 100, 0.0) is None


def test_waiting_for_depth_ends_with_its_arrival_or_at_close(scene: Scene) -> None:
    for end in (lambda b: b.add(scene.depth(0, 1000)), lambda b: b.close()):
        buffer = StampBuffer()
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda b=buffer, f=found: f.append(b.take(1000, 10, 30.0))
        )
        thread.start()
        end(buffer)
        thread.join(5.0)
        assert not thread.is_alive()
        assert len(found) == 1


# ---------------------------------------------------------------------------------- the worker


def test_the_worker_takes_the_newest_and_counts_the_rest() -> None:
    taken: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        taken.append(item)
        begun.set()
        assert go.wait(10.0)

    worker = LatestWorker[int](handle, lambda error: None)
    worker.offer(-1)  # not started: thrown away
    worker.start()
    assert worker.offer(0) == 0
    assert begun.wait(10.0)
    assert [worker.offer(i) for i in (1, 2, 3)] == [0, 1, 1]
    go.set()
    wait_until(lambda: len(taken) == 2, 'the newest item')
    assert worker.stop()
    assert taken == [0, 3]
    assert worker.dropped == 2
    worker.offer(4)
    assert taken == [0, 3]


@pytest.mark.parametrize(('work_s', 'dropped'), [(0.02, 0), (0.05, 3)])
def test_an_item_waits_behind_another_only_where_work_usually_keeps_up(
    work_s: float, dropped: int
) -> None:
    now_s, taken = [0.0], []
    begun, go = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        if item == 5:
            begun.set()
            assert go.wait(10.0)
        now_s[0] += work_s
        taken.append(item)

    worker = LatestWorker[int](handle, lambda error: None, clock=lambda: now_s[0])
    worker.start()
    for item in range(5):
        now_s[0] = item * 0.033
        assert worker.offer(item) == 0
        wait_until(lambda n=item: len(taken) == n + 1, 'the item')
        wait_until(lambda n=item: len(worker._works_s) == n + 1, 'the duration')
    worker.offer(5)
    assert begun.wait(10.0)
    drops = []
    for item in range(6, 11):
        now_s[0] = item * 0.033
        drops.append(worker.offer(item))
    assert sum(drops[:-1]) == dropped
    assert drops[-1] == 1  # four may wait, and no more
    go.set()
    wait_until(lambda: taken[-1] == 10, 'the last item')
    assert worker.stop()
    assert taken == [*range(6), *range(7 + dropped, 11)]


def test_the_worker_survives_errors_of_the_work_and_of_the_reporter() -> None:
    errors: list[Exception] = []
    done: list[int] = []

    def handle(item: int) -> None:
        if item < 2:
            raise ValueError(item)
        done.append(item)

    def report(error: Exception) -> None:
        errors.append(error)
        raise RuntimeError('the reporter fails too')

    worker = LatestWorker[int](handle, report)
    worker.start()
    for item in range(2):
        worker.offer(item)
        wait_until(lambda n=item: len(errors) > n, 'the error')
    worker.offer(2)
    wait_until(lambda: done == [2], 'the good item')
    assert worker.stop()


def test_the_worker_can_be_started_again() -> None:
    done: list[int] = []
    worker = LatestWorker[int](done.append, lambda error: None)
    for item in range(3):
        worker.start()
        worker.start()
        worker.offer(item)
        wait_until(lambda n=item: len(done) > n, 'the item')
        assert worker.stop()
    assert done == [0, 1, 2]


# ------------------------------------------------------------------- trajectory and diagnostics


def moved(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def test_a_trajectory_with_a_time_jump_becomes_two_files_and_none_is_replaced(
    tmp_path: Path,
) -> None:
    log = TrajectoryLog()
    with pytest.raises(RosError, match='nothing to save'):
        log.save(tmp_path / 'a.txt')
    for stamp_ns in (10, 20, 5, 6, 7):
        log.append(stamp_ns, moved(stamp_ns))
    (tmp_path / 'a.txt').write_text('mine')
    written = log.save(tmp_path / 'a.txt')
    assert [path.name for path in written] == ['a-1.txt', 'a-2.txt']
    assert (tmp_path / 'a.txt').read_text() == 'mine'
    assert [read_trajectory(path).stamps_ns.tolist() for path in written] == [[10, 20], [5, 6, 7]]
    np.testing.assert_array_equal(read_trajectory(written[0]).poses[:, 0, 3], [10, 20])
    assert len(list(tmp_path.iterdir())) == 3, 'no half-written file is left'


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    log = TrajectoryLog()
    log.append(1, np.eye(4))
    with pytest.raises(RosError, match=r'node\.trajectory_path'):
        log.save(tmp_path / 'no' / 'a.txt')


def test_input_diagnostics_tell_waiting_silence_and_old_stamps_apart() -> None:
    monitor = InputMonitor()
    assert input_status('vo', monitor, None, 5.0).level == DiagnosticStatus.WARN
    monitor.started_s -= 10.0
    assert input_status('vo', monitor, None, 5.0).level == DiagnosticStatus.ERROR
    monitor.count('received')
    assert input_status('vo', monitor, 0.05, 5.0).level == DiagnosticStatus.OK
    old = input_status('vo', monitor, 3600.0, 5.0)
    assert old.level == DiagnosticStatus.WARN and 'use_sim_time' in old.message
