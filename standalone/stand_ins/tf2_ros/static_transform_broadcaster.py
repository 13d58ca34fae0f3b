"""Sends transforms that never change on /tf_static; late listeners get them too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

if TYPE_CHECKING:
    from rclpy.node import Node


class StaticTransformBroadcaster:
    """Publishes, latched, everything it was ever given: the newest per child frame."""

    def __init__(self, node: Node, qos: QoSProfile | int | None = None):
        latched = QoSProfile(
            depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST
        )
        self.pub_tf = node.create_publisher(TFMessage, '/tf_static', qos or latched)
        self._newest: dict[str, TransformStamped] = {}

    def sendTransform(self, transform: TransformStamped | Iterable[TransformStamped]) -> None:
        """Adds or replaces transforms and sends the whole set."""
        several = [transform] if isinstance(transform, TransformStamped) else transform
        for each in several:
            self._newest[each.child_frame_id] = each
        self.pub_tf.publish(TFMessage(transforms=list(self._newest.values())))
