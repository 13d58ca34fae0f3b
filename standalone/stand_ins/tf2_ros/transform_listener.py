"""Fills a buffer from /tf and /tf_static."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from tf2_ros.buffer import Buffer

if TYPE_CHECKING:
    from rclpy.node import Node

_AUTHORITY = 'default_authority'


class TransformListener:
    """Subscribes to both transform topics for as long as it lives."""

    def __init__(
        self,
        buffer: Buffer,
        node: Node,
        *,
        spin_thread: bool = False,
        qos: QoSProfile | int | None = None,
        static_qos: QoSProfile | int | None = None,
        static_only: bool = False,
    ):
        """`spin_thread`: run the node's callbacks in a thread of its own."""
        self.buffer = buffer
        self.node = node
        self.group = ReentrantCallbackGroup()
        self.tf_sub = None
        if not static_only:
            self.tf_sub = node.create_subscription(
                TFMessage, '/tf', self.callback, qos or _moving_qos(), callback_group=self.group
            )
        self.tf_static_sub = node.create_subscription(
            TFMessage,
            '/tf_static',
            self.static_callback,
            static_qos or _static_qos(),
            callback_group=self.group,
        )
        self.executor: SingleThreadedExecutor | None = None
        if spin_thread:
            self.executor = SingleThreadedExecutor(context=node.context)
            self.executor.add_node(node)
            self.dedicated_listener_thread = Thread(target=self.executor.spin, daemon=True)
            self.dedicated_listener_thread.start()

    def unregister(self) -> None:
        """Ends both subscriptions."""
        if self.executor is not None:
            self.executor.shutdown()
            self.dedicated_listener_thread.join(timeout=5.0)
            self.executor = None
        for name in ('tf_sub', 'tf_static_sub'):
            if getattr(self, name) is not None:
                self.node.destroy_subscription(getattr(self, name))
                setattr(self, name, None)

    def callback(self, data: TFMessage) -> None:
        """Takes moving transforms."""
        for transform in data.transforms:
            self.buffer.set_transform(transform, _AUTHORITY)

    def static_callback(self, data: TFMessage) -> None:
        """Takes static transforms."""
        for transform in data.transforms:
            self.buffer.set_transform_static(transform, _AUTHORITY)


def _moving_qos() -> QoSProfile:
    return QoSProfile(
        depth=100, durability=DurabilityPolicy.VOLATILE, history=HistoryPolicy.KEEP_LAST
    )


def _static_qos() -> QoSProfile:
    return QoSProfile(
        depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST
    )
