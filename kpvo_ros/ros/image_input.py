"""The subscriptions every image node has, and what to tell a user when nothing comes.

Best effort with a short queue, so that reliable and best effort publishers both match; every
subscription can be overridden with rclpy's `qos_overrides.<topic>.subscription.*` parameters
(also durability, for a latched camera_info).
"""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import (
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from kpvo_ros.bags.images import camera_from_info
from kpvo_ros.errors import BagError
from kpvo_ros.geometry.camera import Camera

_OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)


def subscribe(
    node: Node, message_type: type, topic: str, callback: Callable[[Any], None], depth: int = 5
) -> Subscription:
    """A sensor subscription of `node`; an incompatible publisher is named once in the log."""
    # A new profile each time: the overrides are written into it.
    qos = QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT
    )

    def on_incompatible(info: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(info.last_policy_kind)
        name = node.resolve_topic_name(topic)
        node.get_logger().warning(
            f'a publisher of {name} cannot be heard, its QoS {policy} does not fit; set the '
            f'parameter qos_overrides.{name}.subscription.{policy.split("_")[0].lower()}'
        )

    return node.create_subscription(
        message_type,
        topic,
        callback,
        qos,
        event_callbacks=SubscriptionEventCallbacks(incompatible_qos=on_incompatible),
        qos_overriding_options=QoSOverridingOptions(_OVERRIDABLE),
    )


class ImageInput:
    """Image and camera_info of one camera.

    Args:
        node: who subscribes.
        transport: 'raw' (topic image) or 'compressed' (topic image/compressed).
        on_image: called in the executor thread with each image message.
        with_camera_info: whether intrinsics are needed.
    """

    def __init__(
        self, node: Node, transport: str, on_image: Callable[[Any], None], with_camera_info: bool
    ) -> None:
        self._node = node
        self._type = Image if transport == 'raw' else CompressedImage
        self._topic = 'image' if transport == 'raw' else 'image/compressed'
        self._on_image = on_image
        self._with_camera_info = with_camera_info
        self._changed = threading.Condition()
        self._info: CameraInfo | None = None
        self._camera: Camera | BagError | None = None  # of `_info`, made when first needed
        self._subscriptions: list[Subscription] = []
        self._is_closed = True

    @property
    def topic(self) -> str:
        """Full name of the image topic after remapping."""
        return self._node.resolve_topic_name(self._topic)

    @property
    def camera_info_topic(self) -> str:
        """Full name of the camera_info topic after remapping."""
        return self._node.resolve_topic_name('camera_info')

    def open(self) -> None:
        """Subscribe."""
        self._is_closed = False
        if self._with_camera_info:
            self._subscriptions.append(
                subscribe(self._node, CameraInfo, 'camera_info', self._store_info)
            )
        self._subscriptions.append(subscribe(self._node, self._type, self._topic, self._on_image))

    def close(self) -> None:
        """Unsubscribe; the last camera_info is kept."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def camera(self, wait_s: float = 0.0) -> Camera | None:
        """Intrinsics of the latest camera_info; None when not even the first has come.

        Args:
            wait_s: how long to wait for the first one, which travels on another topic than its
                image and may be overtaken by it.

        Raises:
            BagError: the latest camera_info is not that of a calibrated camera.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._info is not None or self._is_closed, wait_s)
            if self._camera is None and self._info is not None:
                try:
                    self._camera = camera_from_info(self._info)
                except BagError as error:
                    self._camera = error
            camera = self._camera
        if isinstance(camera, BagError):
            raise camera
        return camera

    def missing_camera_info(self) -> str:
        """What to tell a user whose camera_info does not come."""
        name = self.camera_info_topic
        count = self._node.count_publishers(name)
        hint = (
            'check that it is published with the images'
            if count
            else f'remap it (-r camera_info:=/your/topic){self._candidates(CameraInfo)}'
        )
        return f'images come but no camera_info on {name} ({count} publishers); {hint}'

    def silence_cause(self) -> str:
        """The likely reason why no image comes, with what to do."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            short = self._topic
            return (
                f'nobody publishes {self.topic}; remap it (-r {short}:=/your/topic)'
                f'{self._candidates(self._type)}'
            )
        wanted = _type_name(self._type)
        kinds = {info.topic_type for info in publishers}
        if wanted not in kinds:
            return (
                f'{self.topic} carries {", ".join(sorted(kinds))}, not {wanted}; '
                'set node.image_transport'
            )
        return (
            f'{len(publishers)} publisher(s) of {self.topic} send nothing that arrives; check the '
            'driver, its QoS, and the shared-memory size of the middleware (fastdds.xml)'
        )

    def _store_info(self, message: CameraInfo) -> None:
        with self._changed:
            if self._info is None or not _same_intrinsics(self._info, message):
                self._camera = None
            self._info = message
            self._changed.notify_all()

    def _candidates(self, message_type: type) -> str:
        wanted = _type_name(message_type)
        names = [n for n, types in self._node.get_topic_names_and_types() if wanted in types]
        others = [name for name in names if self._is_published_elsewhere(name)]
        return f'; published here: {", ".join(others[:5])}' if others else ''

    def _is_published_elsewhere(self, name: str) -> bool:
        mine = self._node.get_name()
        publishers = self._node.get_publishers_info_by_topic(name)
        return any(publisher.node_name != mine for publisher in publishers)


def _type_name(message_type: type) -> str:
    return f'sensor_msgs/msg/{message_type.__name__}'


def _same_intrinsics(a: CameraInfo, b: CameraInfo) -> bool:
    names = ('width', 'height', 'distortion_model', 'd', 'binning_x', 'binning_y', 'roi')
    # NaN differs from itself: such a message is judged again, which is right.
    return bool((a.k == b.k).all()) and all(getattr(a, n) == getattr(b, n) for n in names)
