"""The gyro of a bag: found, turned into axes of the base, handed on between the images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bags_helpers import CAMERA, depth_of, image_of
import numpy as np
import pytest

from kpvo_ros.bags.convert import convert
from kpvo_ros.bags.sources import open_source
from kpvo_ros.bags.writer import BagWriter
from kpvo_ros.errors import BagError
from kpvo_ros.geometry import se3
from kpvo_ros.types import Frame, Gyro

IMAGE, INFO, DEPTH, IMU = '/camera/image_raw', '/camera/camera_info', '/camera/depth', '/imu/data'
MS = 1_000_000
START = 10**9
# The IMU stands on its side: what it calls x is the robot's z.
T_BASE_IMU = se3.from_rt([[0, 1, 0], [0, 0, 1], [1, 0, 0]], [0.1, 0.0, 0.2])


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[BagWriter]:
    with BagWriter(tmp_path / 'bag') as open_writer:
        yield open_writer


def write(writer: BagWriter, mount: bool = True) -> Path:
    """Three images, and a rate after each."""
    if mount:
        frames = [('base_link', 'cam', np.eye(4)), ('base_link', 'imu_link', T_BASE_IMU)]
        writer.write_static_transforms(START, frames)
    for i in range(3):
        writer.write_camera_info(INFO, START + 100 * i * MS, CAMERA, 'cam')
        writer.write_image(IMAGE, START + 100 * i * MS, image_of(i), 'cam')
        writer.write_gyro(IMU, START + (100 * i + 50) * MS, np.array([0.1 * i, 0, 0]), 'imu_link')
    return writer.path


def test_rates_come_between_the_images_in_axes_of_the_base(writer: BagWriter) -> None:
    path = write(writer)
    writer.close()
    records = list(open_source(path).records())
    assert [type(record) for record in records] == [Frame, Gyro] * 3
    last = records[-1]
    assert isinstance(last, Gyro) and last.stamp_ns == START + 250 * MS
    np.testing.assert_allclose(last.angular_velocity, [0, 0, 0.2], atol=1e-12)


def test_an_unknown_mount_is_taken_for_that_of_the_base_and_noted(writer: BagWriter) -> None:
    path = write(writer, mount=False)
    writer.close()
    source = open_source(path)
    last = list(source.records())[-1]
    assert isinstance(last, Gyro)
    np.testing.assert_allclose(last.angular_velocity, [0.2, 0, 0], atol=1e-12)
    assert any('imu_link' in note for note in source.info.notes)


def test_rates_that_are_no_numbers_are_left_out(writer: BagWriter) -> None:
    path = write(writer)
    writer.write_gyro(IMU, START + 300 * MS, np.array([0.0, np.nan, 0.0]), 'imu_link')
    writer.close()
    source = open_source(path)
    assert sum(isinstance(record, Gyro) for record in source.records()) == 3
    assert any('gyro left out' in note for note in source.info.notes)


def test_the_imu_can_be_named_and_an_accelerometer_is_not_guessed(writer: BagWriter) -> None:
    path = write(writer)
    for row in range(9):
        writer.write_gyro('/camera/accel/sample', START + row, np.ones(3), 'imu_link')
    writer.close()
    assert sum(isinstance(record, Gyro) for record in open_source(path).records()) == 3
    named = open_source(path, imu_topic='/camera/accel/sample')
    assert sum(isinstance(record, Gyro) for record in named.records()) == 9
    with pytest.raises(BagError, match='imu topic'):
        open_source(path, imu_topic=IMAGE)


def test_a_converted_bag_keeps_the_rates(writer: BagWriter, tmp_path: Path) -> None:
    path = write(writer)
    writer.close()
    convert(open_source(path), tmp_path / 'out')
    before = [r for r in open_source(path).records() if isinstance(r, Gyro)]
    after = [r for r in open_source(tmp_path / 'out').records() if isinstance(r, Gyro)]
    for one, other in zip(before, after, strict=True):
        assert one.stamp_ns == other.stamp_ns
        np.testing.assert_allclose(one.angular_velocity, other.angular_velocity, atol=1e-12)


def test_many_rates_take_no_image_away_from_a_late_depth_map(writer: BagWriter) -> None:
    """An IMU of 200 Hz once filled the queue in which images wait for depth."""
    writer.write_camera_info(INFO, START, CAMERA, 'cam')
    writer.write_image(IMAGE, START, image_of(0), 'cam')
    for row in range(80):
        writer.write_gyro(IMU, START + 5 * row * MS, np.zeros(3), 'cam')
    depth = writer._messages.depth(START, 'cam', depth_of(0), '32FC1')
    writer.write(DEPTH, START + 400 * MS, depth)
    writer.close()
    frames = [record for record in open_source(writer.path).records() if isinstance(record, Frame)]
    assert len(frames) == 1 and frames[0].depth_m is not None
