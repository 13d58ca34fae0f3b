"""Point clouds between messages and numpy.

Same names and call signatures as ROS 2's sensor_msgs_py.point_cloud2.
"""

from __future__ import annotations

import array
from collections.abc import Iterable
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured, unstructured_to_structured
from sensor_msgs.msg import PointCloud2, PointField

if TYPE_CHECKING:
    from std_msgs.msg import Header

_UNNAMED = 'unnamed_field'
_ELEMENTS: dict[int, np.dtype] = {
    PointField.INT8: np.dtype(np.int8),
    PointField.UINT8: np.dtype(np.uint8),
    PointField.INT16: np.dtype(np.int16),
    PointField.UINT16: np.dtype(np.uint16),
    PointField.INT32: np.dtype(np.int32),
    PointField.UINT32: np.dtype(np.uint32),
    PointField.FLOAT32: np.dtype(np.float32),
    PointField.FLOAT64: np.dtype(np.float64),
}


def dtype_from_fields(fields: Iterable[PointField], point_step: int | None = None) -> np.dtype:
    """The structured type of one point; fields of several values become name_0, name_1..."""
    names, offsets, formats = [], [], []
    for number, field in enumerate(fields):
        element = _ELEMENTS[field.datatype]
        name = field.name or f'{_UNNAMED}_{number}'
        if field.count < 1:
            raise AssertionError(f'field "{name}" has count 0')
        for index in range(field.count):
            names.append(name if field.count == 1 else f'{name}_{index}')
            offsets.append(field.offset + index * element.itemsize)
            formats.append(element.str)
    layout: Any = {'names': names, 'formats': formats, 'offsets': offsets}
    if point_step is not None:
        layout['itemsize'] = point_step
    return np.dtype(layout)


def read_points(
    cloud: PointCloud2,
    field_names: list[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable | None = None,
    reshape_organized_cloud: bool = False,
) -> np.ndarray:
    """The points as a structured array.

    Args:
        cloud: the message.
        field_names: only these fields.
        skip_nans: leave out points with a NaN in any of the read fields.
        uvs: only the points of these indices, or of these (column, row) pairs.
        reshape_organized_cloud: (height, width) instead of one row of points.
    """
    if not isinstance(cloud, PointCloud2):
        raise AssertionError(f'not a PointCloud2: {type(cloud).__name__}')
    points = np.ndarray(
        shape=(cloud.width * cloud.height,),
        dtype=dtype_from_fields(cloud.fields, point_step=cloud.point_step),
        buffer=_packed(cloud),
    )
    if field_names is not None:
        missing = [name for name in field_names if name not in (points.dtype.names or ())]
        if missing:
            raise AssertionError(f'the cloud has no field {missing}')
        points = points[list(field_names)]
    if sys.byteorder != ('big' if cloud.is_bigendian else 'little'):
        points = points.byteswap()
    if skip_nans and not cloud.is_dense:
        finite = np.ones(len(points), bool)
        for name in points.dtype.names or ():
            finite &= ~np.isnan(points[name])
        points = points[finite]
    if uvs is not None:
        points = points[_indices(uvs, cloud.width)]
    if reshape_organized_cloud and cloud.height > 1:
        points = points.reshape(cloud.height, cloud.width)
    return points


def read_points_numpy(
    cloud: PointCloud2,
    field_names: list[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable | None = None,
    reshape_organized_cloud: bool = False,
) -> np.ndarray:
    """The points as (N, fields); all fields must have one type."""
    types = {
        field.datatype
        for field in cloud.fields
        if field_names is None or field.name in field_names
    }
    if len(types) > 1:
        raise AssertionError('the fields have different types: use read_points')
    return structured_to_unstructured(
        read_points(cloud, field_names, skip_nans, uvs, reshape_organized_cloud)
    )


def read_points_list(
    cloud: PointCloud2,
    field_names: list[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable | None = None,
) -> list[tuple]:
    """The points as a list of tuples."""
    return read_points(cloud, field_names, skip_nans, uvs).tolist()


def create_cloud(
    header: Header,
    fields: Iterable[PointField],
    points: Iterable,
    point_step: int | None = None,
) -> PointCloud2:
    """A cloud of points given as (N, fields), (H, W, fields), or a structured array."""
    fields = list(fields)
    dtype = dtype_from_fields(fields, point_step=point_step)
    structured = _structured(points, dtype)
    height, width = structured.shape if structured.ndim == 2 else (1, len(structured))
    data = array.array('B')
    data.frombytes(np.ascontiguousarray(structured).tobytes())
    return PointCloud2(
        header=header,
        height=height,
        width=width,
        is_dense=False,
        is_bigendian=sys.byteorder != 'little',
        fields=fields,
        point_step=dtype.itemsize,
        row_step=dtype.itemsize * width,
        data=data,
    )


def create_cloud_xyz32(header: Header, points: Iterable) -> PointCloud2:
    """A cloud of float32 x, y, z."""
    fields = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate('xyz')
    ]
    return create_cloud(header, fields, points)


def _structured(points: Iterable, dtype: np.dtype) -> np.ndarray:
    """The points as an array of `dtype`."""
    names = dtype.names or ()
    values = np.asarray(points)
    if values.dtype.names is not None:
        if values.dtype.names != names:
            raise AssertionError(f'the array has {values.dtype.names}, the fields are {names}')
        return values.astype(dtype)
    if values.size == 0:
        values = np.zeros((0, len(names)))
    if values.shape[-1] != len(names):
        raise AssertionError(f'{values.shape[-1]} values per point for {len(names)} fields')
    return unstructured_to_structured(values, dtype)


def _packed(cloud: PointCloud2) -> bytes | memoryview:
    """The data without the padding at the end of rows."""
    row_bytes = cloud.width * cloud.point_step
    if cloud.row_step in (0, row_bytes) or cloud.height <= 1:
        return memoryview(cloud.data)
    rows = np.frombuffer(cloud.data, np.uint8).reshape(cloud.height, cloud.row_step)
    return np.ascontiguousarray(rows[:, :row_bytes]).tobytes()


def _indices(uvs: Iterable, width: int) -> np.ndarray:
    wanted = np.asarray(list(uvs) if not isinstance(uvs, np.ndarray) else uvs)
    if wanted.ndim == 2:
        return wanted[:, 1] * width + wanted[:, 0]
    return wanted.astype(int)
