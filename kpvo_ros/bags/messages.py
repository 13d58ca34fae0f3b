"""ROS 2 messages from arrays and poses, and their CDR bytes, through rosbags' Jazzy type store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from kpvo_ros.bags.camera_info import camera_info_fields
from kpvo_ros.bags.depth_images import encode_compressed_depth, encode_depth
from kpvo_ros.bags.images import encode_compressed, encode_image
from kpvo_ros.errors import BagError
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.rosbag2 import Writer

_LATCHED_TOPICS = ('tf_static', 'robot_description')


class MessageFactory:
    """Builds, serialises and announces messages."""

    def __init__(self) -> None:
        self._store = get_typestore(Stores.ROS2_JAZZY)

    def image(self, stamp_ns: int, frame_id: str, image: np.ndarray, encoding: str) -> Any:
        """sensor_msgs/Image."""
        data, step = encode_image(image, encoding)
        return self._image(stamp_ns, frame_id, image.shape, encoding, data, step)

    def compressed_image(
        self, stamp_ns: int, frame_id: str, image: np.ndarray, container: str, quality: int
    ) -> Any:
        """sensor_msgs/CompressedImage as compressed_image_transport labels it."""
        raw, stored = ('mono8', 'mono8') if image.ndim == 2 else ('rgb8', 'bgr8')
        return self.make(
            'sensor_msgs/msg/CompressedImage',
            header=self._header(stamp_ns, frame_id),
            format=f'{raw}; {container} compressed {stored}',
            data=encode_compressed(image, container, quality),
        )

    def depth(self, stamp_ns: int, frame_id: str, depth_m: np.ndarray, encoding: str) -> Any:
        """sensor_msgs/Image, or CompressedImage for the encoding 'compressedDepth'."""
        if encoding != 'compressedDepth':
            data, step = encode_depth(depth_m, encoding)
            return self._image(stamp_ns, frame_id, depth_m.shape, encoding, data, step)
        data, label = encode_compressed_depth(depth_m)
        header = self._header(stamp_ns, frame_id)
        return self.make('sensor_msgs/msg/CompressedImage', header=header, format=label, data=data)

    def camera_info(self, stamp_ns: int, frame_id: str, camera: Camera) -> Any:
        """sensor_msgs/CameraInfo."""
        roi = self.make(
            'sensor_msgs/msg/RegionOfInterest',
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        )
        return self.make(
            'sensor_msgs/msg/CameraInfo',
            header=self._header(stamp_ns, frame_id),
            **camera_info_fields(camera),
            binning_x=0,
            binning_y=0,
            roi=roi,
        )

    def odometry(
        self, stamp_ns: int, frame_id: str, child_frame_id: str, T_parent_child: np.ndarray
    ) -> Any:
        """nav_msgs/Odometry whose twist and covariances are zero."""
        zero = self._vector('Vector3', np.zeros(3))
        pose = self.make(
            'geometry_msgs/msg/Pose',
            position=self._vector('Point', T_parent_child[:3, 3]),
            orientation=self._quaternion(T_parent_child),
        )
        twist = self.make('geometry_msgs/msg/Twist', linear=zero, angular=zero)
        unknown = np.zeros(36)
        return self.make(
            'nav_msgs/msg/Odometry',
            header=self._header(stamp_ns, frame_id),
            child_frame_id=child_frame_id,
            pose=self.make('geometry_msgs/msg/PoseWithCovariance', pose=pose, covariance=unknown),
            twist=self.make(
                'geometry_msgs/msg/TwistWithCovariance', twist=twist, covariance=unknown
            ),
        )

    def gyro(self, stamp_ns: int, frame_id: str, angular_velocity: np.ndarray) -> Any:
        """sensor_msgs/Imu with a gyro alone, whose covariance is not known."""
        absent = np.array([-1.0] + [0.0] * 8)
        return self.make(
            'sensor_msgs/msg/Imu',
            header=self._header(stamp_ns, frame_id),
            orientation=self._quaternion(np.eye(4)),
            orientation_covariance=absent,
            angular_velocity=self._vector('Vector3', angular_velocity),
            angular_velocity_covariance=np.zeros(9),
            linear_acceleration=self._vector('Vector3', np.zeros(3)),
            linear_acceleration_covariance=absent,
        )

    def transforms(self, stamp_ns: int, transforms: Sequence[tuple[str, str, np.ndarray]]) -> Any:
        """tf2_msgs/TFMessage of (parent, child, T_parent_child)."""
        stamped = [
            self.make(
                'geometry_msgs/msg/TransformStamped',
                header=self._header(stamp_ns, parent),
                child_frame_id=child,
                transform=self.make(
                    'geometry_msgs/msg/Transform',
                    translation=self._vector('Vector3', T_parent_child[:3, 3]),
                    rotation=self._quaternion(T_parent_child),
                ),
            )
            for parent, child, T_parent_child in transforms
        ]
        return self.make('tf2_msgs/msg/TFMessage', transforms=stamped)

    def make(self, msgtype: str, **fields: Any) -> Any:
        """Any message of the common interfaces from its fields, all of them."""
        return self._store.types[msgtype](**fields)

    def serialize(self, msg: Any) -> memoryview:
        """CDR bytes of a message."""
        return self._store.serialize_cdr(msg, msg.__msgtype__)

    def connect(
        self, writer: Writer, topic: str, msgtype: str, definition: str | None
    ) -> Connection:
        """Announce a topic to a bag, with the quality of service its replay shall offer.

        Raises:
            BagError: the type is unknown and no definition was given.
        """
        try:
            if definition is not None and msgtype not in self._store.fielddefs:
                self._store.register(get_types_from_msg(definition, msgtype))
            return writer.add_connection(
                topic, msgtype, typestore=self._store, offered_qos_profiles=[_qos_of(topic)]
            )
        except Exception as error:  # whatever a parser of message definitions raises
            raise BagError(
                f'cannot record {topic}: message type {msgtype!r} is unknown ({error}): '
                'give its definition'
            ) from None

    def _image(
        self,
        stamp_ns: int,
        frame_id: str,
        shape: tuple[int, ...],
        encoding: str,
        data: np.ndarray,
        step: int,
    ) -> Any:
        return self.make(
            'sensor_msgs/msg/Image',
            header=self._header(stamp_ns, frame_id),
            height=shape[0],
            width=shape[1],
            encoding=encoding,
            is_bigendian=int(not np.little_endian),
            step=step,
            data=data,
        )

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        sec, nanosec = divmod(int(stamp_ns), 1_000_000_000)
        stamp = self.make('builtin_interfaces/msg/Time', sec=sec, nanosec=nanosec)
        return self.make('std_msgs/msg/Header', stamp=stamp, frame_id=frame_id)

    def _vector(self, name: str, xyz: np.ndarray) -> Any:
        x, y, z = (float(v) for v in xyz)
        return self.make(f'geometry_msgs/msg/{name}', x=x, y=y, z=z)

    def _quaternion(self, T: np.ndarray) -> Any:
        x, y, z, w = (float(v) for v in se3.quat_xyzw_from_matrix(T[:3, :3]))
        return self.make('geometry_msgs/msg/Quaternion', x=x, y=y, z=z, w=w)


def _qos_of(topic: str) -> Qos:
    """Reliable, so that subscribers of both kinds match; latched where late joiners need it."""
    latched = topic.endswith(_LATCHED_TOPICS)
    forever = QosTime(0, 0)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )
