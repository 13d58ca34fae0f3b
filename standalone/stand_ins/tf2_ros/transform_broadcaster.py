"""Sends transforms of moving frames on /tf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from geometry_msgs.msg import TransformStamped
from rclpy.qos import QoSProfile
from tf2_msgs.msg import TFMessage

if TYPE_CHECKING:
    from rclpy.node import Node


class TransformBroadcaster:
    """Publishes transforms as they come."""

    def __init__(self, node: Node, qos: QoSProfile | int | None = None):
        self.pub_tf = node.create_publisher(TFMessage, '/tf', qos or QoSProfile(depth=100))

    def sendTransform(self, transform: TransformStamped | Iterable[TransformStamped]) -> None:
        """Sends one transform or several in one message."""
        one = isinstance(transform, TransformStamped)
        self.pub_tf.publish(TFMessage(transforms=[transform] if one else list(transform)))
