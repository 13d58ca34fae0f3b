"""The contract of sensor_msgs_py.point_cloud2, asked of whichever is installed."""

from __future__ import annotations

import array
import struct

import numpy as np
import pytest

pytest.importorskip('sensor_msgs', reason='ROS 2 is not installed: run `make setup`')
pytest.importorskip('sensor_msgs_py')

from sensor_msgs.msg import PointCloud2, PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header


def field(name: str, offset: int, datatype: int, count: int = 1) -> PointField:
    """One field of a point."""
    return PointField(name=name, offset=offset, datatype=datatype, count=count)


PIXEL_FIELDS = [
    field('u', 0, PointField.FLOAT32),
    field('v', 4, PointField.FLOAT32),
    field('score', 8, PointField.FLOAT32),
    field('octave', 12, PointField.UINT8),
]


def test_xyz_points_are_little_endian_floats_in_order():
    cloud = point_cloud2.create_cloud_xyz32(Header(frame_id='map'), [[1, 2, 3], [4, 5, 6]])

    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, 2, 12, 24)
    assert cloud.header.frame_id == 'map'
    assert [entry.name for entry in cloud.fields] == ['x', 'y', 'z']
    assert struct.unpack('<6f', bytes(cloud.data)) == (1, 2, 3, 4, 5, 6)


def test_mixed_fields_survive_the_round_trip():
    points = [(1.5, 2.5, 0.25, 3), (4.0, 5.0, 0.75, 255)]

    cloud = point_cloud2.create_cloud(Header(), PIXEL_FIELDS, points)
    read = point_cloud2.read_points(cloud)

    assert cloud.point_step == 13
    assert read.dtype.names == ('u', 'v', 'score', 'octave')
    assert read.tolist() == points
    assert point_cloud2.read_points_list(cloud) == points


def test_only_the_named_fields_are_read():
    cloud = point_cloud2.create_cloud(Header(), PIXEL_FIELDS, [(1, 2, 3, 4)])

    assert point_cloud2.read_points(cloud, field_names=['u', 'octave']).tolist() == [(1, 4)]
    numbers = point_cloud2.read_points_numpy(cloud, field_names=['u', 'v', 'score'])
    np.testing.assert_array_equal(numbers, [[1, 2, 3]])


def test_points_with_nan_are_skipped_on_request():
    cloud = point_cloud2.create_cloud_xyz32(Header(), [[1, 2, 3], [np.nan, 0, 0], [7, 8, 9]])

    assert len(point_cloud2.read_points(cloud)) == 3
    kept = point_cloud2.read_points_numpy(cloud, skip_nans=True)
    np.testing.assert_array_equal(kept, [[1, 2, 3], [7, 8, 9]])


def test_an_organised_cloud_keeps_its_rows(rng):
    depth = rng.uniform(size=(3, 4, 3)).astype(np.float32)
    fields = [field(name, 4 * at, PointField.FLOAT32) for at, name in enumerate('xyz')]

    cloud = point_cloud2.create_cloud(Header(), fields, depth)
    read = point_cloud2.read_points(cloud, reshape_organized_cloud=True)

    assert (cloud.height, cloud.width) == (3, 4)
    assert read.shape == (3, 4)
    np.testing.assert_array_equal(read['y'], depth[:, :, 1])


def test_fields_with_several_values_get_numbered_names():
    fields = [field('id', 0, PointField.UINT8), field('d', 1, PointField.INT16, count=2)]

    cloud = point_cloud2.create_cloud(Header(), fields, [(1, -2, 3)])

    assert cloud.point_step == 5
    assert point_cloud2.read_points(cloud).dtype.names == ('id', 'd_0', 'd_1')
    assert point_cloud2.read_points(cloud).tolist() == [(1, -2, 3)]


def test_unused_bytes_between_points_are_stepped_over():
    fields = [field('x', 4, PointField.FLOAT32)]
    cloud = PointCloud2(height=1, width=2, fields=fields, point_step=12, row_step=24)
    cloud.data = array.array('B', struct.pack('<4xf4x4xf4x', 1.25, -2.5))

    assert point_cloud2.read_points(cloud)['x'].tolist() == [1.25, -2.5]


def test_big_endian_clouds_are_read():
    fields = [field('x', 0, PointField.FLOAT32)]
    cloud = PointCloud2(
        height=1, width=2, fields=fields, point_step=4, row_step=8, is_bigendian=True
    )
    cloud.data = array.array('B', struct.pack('>2f', 1.25, -2.5))

    assert point_cloud2.read_points(cloud)['x'].tolist() == [1.25, -2.5]


def test_chosen_points_are_read_by_index():
    cloud = point_cloud2.create_cloud_xyz32(Header(), [[1, 2, 3], [4, 5, 6], [7, 8, 9]])

    chosen = point_cloud2.read_points(cloud, uvs=np.array([2, 0]))

    assert chosen['x'].tolist() == [7, 1]


def test_an_empty_cloud_is_a_cloud():
    cloud = point_cloud2.create_cloud_xyz32(Header(), np.zeros((0, 3), np.float32))

    assert (cloud.width, len(cloud.data)) == (0, 0)
    assert len(point_cloud2.read_points(cloud)) == 0


@pytest.mark.parametrize(
    'misuse',
    [
        lambda: point_cloud2.read_points('not a cloud'),
        lambda: point_cloud2.read_points(
            point_cloud2.create_cloud_xyz32(Header(), [[1, 2, 3]]), field_names=['colour']
        ),
        lambda: point_cloud2.read_points_numpy(
            point_cloud2.create_cloud(Header(), PIXEL_FIELDS, [(1, 2, 3, 4)])
        ),
    ],
    ids=['no cloud', 'no such field', 'mixed types as one array'],
)
def test_misuse_is_refused(misuse):
    with pytest.raises(AssertionError):
        misuse()
