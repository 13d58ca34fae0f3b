"""Messages to records and records to messages; nothing is computed here.

Frames and conventions are those of REP-103/105: odometry poses in the odom frame, twists in the
body frame, covariances in the order x y z rx ry rz. Every output carries the stamp of the image
it came from. Pixel keypoints travel as a PointCloud2 with the fields u, v, score and descriptor:
no x y z, so that no costmap takes pixels for metres.
"""

from __future__ import annotations

import array
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseStamped, Quaternion, Transform, TransformStamped
from nav_msgs.msg import Odometry
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, PointCloud2, PointField
from std_msgs.msg import Header

from kpvo_ros.bags import images
from kpvo_ros.errors import BagError, GeometryError
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import BadFrame, Features, Frame, Gyro, OdometryEstimate, WheelOdometry

_MASK_ENCODINGS = ('mono8', '8uc1')
_POINT_TYPES = {np.dtype(np.uint8): PointField.UINT8, np.dtype(np.float32): PointField.FLOAT32}


# ------------------------------------------------------------------------- messages to records


def frame_from_messages(
    image: Image | CompressedImage,
    camera: Camera,
    depth: Image | CompressedImage | None = None,
    camera_frame: str = '',
    mask: np.ndarray | None = None,
) -> Frame | BadFrame:
    """One image with its intrinsics, and its depth when there is one.

    Args:
        image: raw or compressed image.
        camera: intrinsics of that image.
        depth: depth registered to the image, any encoding of `bags.images.decode_depth`.
        camera_frame: name of the optical frame; '' takes it from the image header.
        mask: (H, W) bool, True where the image is to be ignored.

    Returns:
        The frame, or a `BadFrame` whose reason says what is wrong with the messages.
    """
    stamp_ns = images.stamp_ns_of(image.header)
    try:
        pixels = image_from_message(image)
        depth_m = None if depth is None else images.decode_depth(depth)
    except BagError as error:
        return BadFrame(stamp_ns, str(error))
    height, width = pixels.shape[:2]
    if (width, height) != (camera.width, camera.height):
        return BadFrame(
            stamp_ns,
            f'image is {width}x{height} but camera_info says {camera.width}x{camera.height}; '
            'remap camera_info to the one of this image',
        )
    if depth_m is not None and depth_m.shape != (height, width):
        return BadFrame(
            stamp_ns,
            f'depth is {depth_m.shape[1]}x{depth_m.shape[0]} but the image is {width}x{height}; '
            'use depth that is registered to the image',
        )
    return Frame(stamp_ns, pixels, camera, camera_frame or image.header.frame_id, depth_m, mask)


def image_from_message(image: Image | CompressedImage) -> np.ndarray:
    """(H, W, 3) RGB or (H, W) grey, uint8.

    Raises:
        BagError: the message holds no such image.
    """
    if isinstance(image, CompressedImage):
        return images.decode_compressed(image)
    return images.decode_image(image)


def mask_from_message(message: Image) -> np.ndarray:
    """(H, W) bool, True where a mono8 or 8UC1 image is not zero.

    Raises:
        BagError: the message holds no such image.
    """
    if message.encoding.lower() not in _MASK_ENCODINGS:
        raise BagError(
            f'mask encoding {message.encoding[:40]!r} is not supported: use mono8 or 8UC1'
        )
    return images.decode_image(message).astype(bool)


def wheel_from_message(odometry: Odometry) -> WheelOdometry | None:
    """The pose of a wheel odometry; None when it is not a pose (NaN, zero quaternion)."""
    T = matrix_from_pose(odometry.pose.pose)
    return None if T is None else WheelOdometry(images.stamp_ns_of(odometry.header), T)


def gyro_from_message(imu: Imu, R_base_imu: np.ndarray) -> Gyro | None:
    """The gyro of an IMU in axes of the base; None when it shows NaN.

    Args:
        imu: rates in axes of its own frame (sensor_msgs/Imu), rad/s.
        R_base_imu: (3, 3) rotation from those axes into those of the base.
    """
    rate = imu.angular_velocity
    angular_velocity = R_base_imu @ np.array([rate.x, rate.y, rate.z])
    if not np.isfinite(angular_velocity).all():
        return None
    return Gyro(images.stamp_ns_of(imu.header), angular_velocity)


def matrix_from_pose(pose: Pose) -> np.ndarray | None:
    """(4, 4) matrix of a pose message; None when it is not a rigid pose."""
    p, q = pose.position, pose.orientation
    return _matrix((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def matrix_from_transform(transform: Transform) -> np.ndarray | None:
    """(4, 4) matrix of a transform message; None when it is not a rigid transform."""
    t, q = transform.translation, transform.rotation
    return _matrix((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))


# ------------------------------------------------------------------------- records to messages


def header_of(stamp_ns: int, frame_id: str) -> Header:
    """Header with an integer stamp."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


def odometry_message(estimate: OdometryEstimate, odom_frame: str, base_frame: str) -> Odometry:
    """Pose in `odom_frame`, twist in `base_frame`, both with covariance."""
    message = Odometry(header=header_of(estimate.stamp_ns, odom_frame), child_frame_id=base_frame)
    message.pose.pose = _pose(estimate.T_odom_base)
    message.pose.covariance = np.ascontiguousarray(estimate.covariance, np.float64).ravel()
    linear, angular = message.twist.twist.linear, message.twist.twist.angular
    linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, estimate.twist)
    message.twist.covariance = np.ascontiguousarray(estimate.twist_covariance, np.float64).ravel()
    return message


def transform_message(
    stamp_ns: int, T_parent_child: np.ndarray, parent: str, child: str
) -> TransformStamped:
    """One transform for tf2."""
    message = TransformStamped(header=header_of(stamp_ns, parent), child_frame_id=child)
    translation = message.transform.translation
    translation.x, translation.y, translation.z = map(float, T_parent_child[:3, 3])
    message.transform.rotation = _quaternion(T_parent_child)
    return message


def pose_message(stamp_ns: int, T: np.ndarray, frame_id: str) -> PoseStamped:
    """One pose in `frame_id`."""
    return PoseStamped(header=header_of(stamp_ns, frame_id), pose=_pose(T))


def keypoints_message(stamp_ns: int, frame_id: str, features: Features) -> PointCloud2:
    """Keypoints with fields u, v, score (float32) and descriptor (D uint8 or float32)."""
    descriptor = features.descriptor
    if descriptor.dtype not in _POINT_TYPES:
        descriptor = descriptor.astype(np.float32)
    size = descriptor.shape[1] if descriptor.ndim == 2 else 0
    points = np.zeros(len(features), _point_dtype(descriptor.dtype, size))
    points['u'], points['v'] = features.xy[:, 0], features.xy[:, 1]
    points['score'] = features.score
    fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate(('u', 'v', 'score'))
    ]
    if size:
        points['descriptor'] = descriptor
        kind = _POINT_TYPES[descriptor.dtype]
        fields.append(PointField(name='descriptor', offset=12, datatype=kind, count=size))
    return _cloud(header_of(stamp_ns, frame_id), points, fields)


def image_descriptor_message(stamp_ns: int, frame_id: str, descriptor: np.ndarray) -> PointCloud2:
    """The (G,) descriptor of a whole image: one point with the field descriptor (G float32).

    A cloud and not a Float32MultiArray, which has no stamp to find the image again by.
    """
    values = np.asarray(descriptor, np.float32)
    point = np.zeros(1, np.dtype([('descriptor', '<f4', values.shape)]))
    point['descriptor'] = values
    field = PointField(name='descriptor', offset=0, datatype=PointField.FLOAT32, count=values.size)
    return _cloud(header_of(stamp_ns, frame_id), point, [field])


def points_message(stamp_ns: int, frame_id: str, points: np.ndarray) -> PointCloud2:
    """An organised cloud of (H, W, 3) float32 points, NaN where there is none: x, y, z."""
    height, width = points.shape[:2]
    fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate('xyz')
    ]
    cloud = _cloud(header_of(stamp_ns, frame_id), np.ascontiguousarray(points, '<f4'), fields)
    cloud.height, cloud.width, cloud.is_dense = height, width, False
    cloud.point_step, cloud.row_step = 12, 12 * width
    return cloud


def image_message(stamp_ns: int, frame_id: str, pixels: np.ndarray, encoding: str) -> Image:
    """An image as it lies in memory: rgb8, mono8 or 32FC1."""
    height, width = pixels.shape[:2]
    return Image(
        header=header_of(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=pixels.itemsize * int(np.prod(pixels.shape[1:])),
        data=byte_array(pixels),
    )


def depth_message(frame: Frame) -> Image:
    """Depth of a frame, 32FC1 metres, NaN where unknown (REP-117/118)."""
    assert frame.depth_m is not None
    depth_m = np.asarray(frame.depth_m, np.float32)
    return image_message(frame.stamp_ns, frame.frame_id, depth_m, '32FC1')


def camera_info_message(stamp_ns: int, frame_id: str, camera: Camera) -> CameraInfo:
    """Intrinsics of an image of that stamp and frame."""
    fields = images.camera_info_fields(camera)
    fields['d'] = fields['d'].tolist()
    return CameraInfo(header=header_of(stamp_ns, frame_id), **fields)


def byte_array(values: np.ndarray) -> array.array:
    """Bytes of an array in the one type that rclpy takes without looking at each of them."""
    data = array.array('B')
    if values.size:
        data.frombytes(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
    return data


def _cloud(header: Header, points: np.ndarray, fields: list[PointField]) -> PointCloud2:
    """An unorganised cloud of (N,) structured points."""
    return PointCloud2(
        header=header,
        height=1,
        width=len(points),
        fields=fields,
        is_bigendian=False,
        point_step=points.itemsize,
        row_step=points.itemsize * len(points),
        data=byte_array(points),
        is_dense=True,
    )


def _point_dtype(descriptor: np.dtype[Any], size: int) -> np.dtype[Any]:
    names, formats, offsets = ['u', 'v', 'score'], ['<f4'] * 3, [0, 4, 8]
    if size:
        names.append('descriptor')
        formats.append((descriptor, (size,)))  # type: ignore[arg-type]
        offsets.append(12)
    used = 12 + size * descriptor.itemsize
    padded = -(-used // 4) * 4  # keep the floats of the next point aligned
    return np.dtype(
        {'names': names, 'formats': formats, 'offsets': offsets, 'itemsize': padded}  # type: ignore[call-overload]
    )


def _pose(T: np.ndarray) -> Pose:
    pose = Pose(orientation=_quaternion(T))
    pose.position.x, pose.position.y, pose.position.z = map(float, T[:3, 3])
    return pose


def _quaternion(T: np.ndarray) -> Quaternion:
    x, y, z, w = map(float, se3.quat_xyzw_from_matrix(T[:3, :3]))
    return Quaternion(x=x, y=y, z=z, w=w)


def _matrix(
    translation: tuple[float, float, float], quat_xyzw: tuple[float, float, float, float]
) -> np.ndarray | None:
    try:
        R = se3.matrix_from_quat_xyzw(quat_xyzw)
    except GeometryError:
        return None
    return se3.from_rt(R, translation) if np.isfinite(translation).all() else None
