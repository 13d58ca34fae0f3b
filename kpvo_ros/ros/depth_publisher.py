"""What vo_node says about learned depth; in the thread of the network, so that no pose waits."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from kpvo_ros.config.runtime import VoNodeConfig
from kpvo_ros.frontend.depth_map import LearnedDepth
from kpvo_ros.ros import convert
from kpvo_ros.ros.node_base import SENSOR_QOS, ImageNode


class DepthPublisher:
    """Depth image, its camera_info and its cloud, with stamp and frame of the camera's image.

    They are as small as the network's picture and have no distortion; a costmap likes both.
    Topics nobody listens to cost nothing.

    Args:
        node: owner of the publishers and of the parameters.
    """

    def __init__(self, node: ImageNode) -> None:
        self._node = node
        self._image = node.publish_on(Image, '~/depth/image', SENSOR_QOS)
        self._info = node.publish_on(CameraInfo, '~/depth/camera_info', SENSOR_QOS)
        self._points = node.publish_on(PointCloud2, '~/depth/points', SENSOR_QOS)

    def is_wanted(self) -> bool:
        """Whether anybody listens."""
        if not (self._node.is_active and self._config.publish_depth):
            return False
        publishers = self._image, self._info, self._points
        return any(publisher.get_subscription_count() for publisher in publishers)

    def take(self, depth: LearnedDepth) -> None:
        """Publish what is listened to."""
        stamp_ns, frame_id = depth.stamp_ns, depth.frame_id
        if self._image.get_subscription_count():
            self._image.publish(convert.image_message(stamp_ns, frame_id, depth.depth_m, '32FC1'))
        if self._info.get_subscription_count():
            self._info.publish(convert.camera_info_message(stamp_ns, frame_id, depth.camera))
        if self._points.get_subscription_count():
            points = depth.points(self._config.cloud_range_m)
            self._points.publish(convert.points_message(stamp_ns, frame_id, points))

    @property
    def _config(self) -> VoNodeConfig:
        config: VoNodeConfig = self._node.parameters.record.node
        return config
