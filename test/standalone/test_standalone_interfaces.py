"""The interface packages speak the same wire language as every ROS 2."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: run `make setup`')

from geometry_msgs.msg import TransformStamped
import rclpy
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

# The public definition of vision_msgs 4, field by field.
VISION = {
    'Point2D': 'float64 x\nfloat64 y',
    'Pose2D': 'vision_msgs/Point2D position\nfloat64 theta',
    'BoundingBox2D': 'vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y',
    'ObjectHypothesis': 'string class_id\nfloat64 score',
    'ObjectHypothesisWithPose': (
        'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose'
    ),
    'Detection2D': (
        'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
        'vision_msgs/BoundingBox2D bbox\nstring id'
    ),
    'Detection2DArray': 'std_msgs/Header header\nvision_msgs/Detection2D[] detections',
}


@pytest.fixture(scope='module')
def typestore():
    """Rosbags' own table of types: it shares no code with rosidl."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, text in VISION.items():
        store.register(get_types_from_msg(text, f'vision_msgs/msg/{name}'))
    return store


def hash_on_the_wire(context, message_type) -> str:
    """The type hash that other participants see."""
    node = rclpy.create_node('type_hash', context=context)
    node.create_publisher(message_type, '/type_hash', 1)
    try:
        (endpoint,) = node.get_publishers_info_by_topic('/type_hash')
        return str(endpoint.topic_type_hash)
    finally:
        node.destroy_node()


@pytest.mark.parametrize(
    'message_type', [TFMessage, Detection2DArray, Detection2D, ObjectHypothesisWithPose]
)
def test_the_type_hash_equals_the_one_of_the_public_definition(
    message_type, ros_context, typestore
):
    package = message_type.__module__.split('.')[0]
    expected = typestore.hash_rihs01(f'{package}/msg/{message_type.__name__}')

    assert expected in hash_on_the_wire(ros_context, message_type)


def test_a_transform_survives_being_read_by_another_implementation(typestore, rng):
    transform = TransformStamped(child_frame_id='base_link')
    transform.header.frame_id = 'odom'
    transform.header.stamp.sec, transform.header.stamp.nanosec = 12, 345_678_901
    x, y, z = (float(value) for value in rng.normal(size=3))
    transform.transform.translation.x = x
    transform.transform.translation.y = y
    transform.transform.translation.z = z

    raw = serialize_message(TFMessage(transforms=[transform, transform]))
    read = typestore.deserialize_cdr(raw, 'tf2_msgs/msg/TFMessage')

    assert len(read.transforms) == 2
    assert read.transforms[1].child_frame_id == 'base_link'
    assert read.transforms[1].header.stamp.nanosec == 345_678_901
    shift = read.transforms[1].transform.translation
    np.testing.assert_array_equal([shift.x, shift.y, shift.z], [x, y, z])


def test_a_detection_written_by_another_implementation_is_read(typestore):
    types = typestore.types
    header = types['std_msgs/msg/Header'](
        stamp=types['builtin_interfaces/msg/Time'](sec=1, nanosec=2), frame_id='camera'
    )
    box = types['vision_msgs/msg/BoundingBox2D'](
        center=types['vision_msgs/msg/Pose2D'](
            position=types['vision_msgs/msg/Point2D'](x=10.5, y=20.25), theta=0.1
        ),
        size_x=30.0,
        size_y=40.0,
    )
    detection = types['vision_msgs/msg/Detection2D'](
        header=header, results=[], bbox=box, id='sign 7'
    )
    array = types['vision_msgs/msg/Detection2DArray'](header=header, detections=[detection])

    raw = bytes(typestore.serialize_cdr(array, array.__msgtype__))
    read = deserialize_message(raw, Detection2DArray)

    assert read.header.frame_id == 'camera'
    assert read.detections[0].id == 'sign 7'
    assert read.detections[0].bbox.center.position.x == 10.5
    assert read.detections[0].bbox.size_y == 40.0
    assert read.detections[0].results == []
