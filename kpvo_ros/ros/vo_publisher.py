"""Everything vo_node says about one frame."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from tf2_ros import TransformBroadcaster

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.frontend.drawing import draw_features
from kpvo_ros.ros import convert
from kpvo_ros.ros.node_base import SENSOR_QOS, ImageNode
from kpvo_ros.types import BadFrame, Frame, OdometryEstimate


class VoPublisher:
    """The outputs of vo_node; topics nobody listens to cost nothing.

    Args:
        node: owner of the publishers.
        config: frame names, and whether the debug image exists at all.
    """

    def __init__(self, node: ImageNode, config: VoConfig) -> None:
        self._node = node
        self._frames = config.frames
        self._broadcaster: TransformBroadcaster | None = None
        self._odom = node.publish_on(OdometryMessage, 'odom')
        self._camera_pose = node.publish_on(PoseStamped, '~/camera_pose')
        self._status = node.publish_on(DiagnosticArray, '~/status')
        self._keypoints = node.publish_on(PointCloud2, 'keypoints', SENSOR_QOS)
        self._depth = node.publish_on(Image, 'depth/image', SENSOR_QOS)
        self._depth_info = node.publish_on(CameraInfo, 'depth/camera_info', SENSOR_QOS)
        self._debug: Publisher | None = None
        if config.node.publish_debug_image:
            self._debug = node.publish_on(Image, 'debug_image', SENSOR_QOS)

    def publish_pose(self, estimate: OdometryEstimate, config: VoConfig) -> None:
        """Publish odometry and TF; `config` as it is at this moment."""
        frames = self._frames
        self._odom.publish(
            convert.odometry_message(estimate, frames.odom_frame, frames.base_frame)
        )
        if config.node.publish_tf:
            self._broadcast(estimate, config.node.publish_map_tf)

    def publish_rest(
        self,
        frame: Frame | BadFrame,
        estimate: OdometryEstimate,
        status: DiagnosticStatus,
        config: VoConfig,
    ) -> None:
        """Publish what nobody steers by: camera pose, status, keypoints, pictures."""
        frames, stamp_ns = self._frames, estimate.stamp_ns
        if self._is_wanted(self._camera_pose) and estimate.has_pose:
            self._camera_pose.publish(
                convert.pose_message(stamp_ns, estimate.T_odom_camera, frames.odom_frame)
            )
        if self._is_wanted(self._status):
            header = convert.header_of(stamp_ns, frames.odom_frame)
            self._status.publish(DiagnosticArray(header=header, status=[status]))
        if isinstance(frame, Frame):
            self._publish_image_outputs(frame, estimate, config)

    def close(self) -> None:
        """Destroy what the node base does not: the TF publisher."""
        if self._broadcaster is not None:
            self._node.destroy_publisher(self._broadcaster.pub_tf)
            self._broadcaster = None

    def _broadcast(self, estimate: OdometryEstimate, with_map: bool) -> None:
        """Base in odom and, when there is one, the correction of odom in the map (REP-105)."""
        if self._broadcaster is None:  # no /tf publisher at all where an EKF owns the transform
            self._broadcaster = TransformBroadcaster(self._node)
        frames, stamp_ns = self._frames, estimate.stamp_ns
        edges = [(estimate.T_odom_base, frames.odom_frame, frames.base_frame)]
        if with_map and estimate.T_map_odom is not None:
            edges.append((estimate.T_map_odom, frames.map_frame, frames.odom_frame))
        self._broadcaster.sendTransform(
            [convert.transform_message(stamp_ns, *edge) for edge in edges]
        )

    def _publish_image_outputs(
        self, frame: Frame, estimate: OdometryEstimate, config: VoConfig
    ) -> None:
        stamp_ns, frame_id = frame.stamp_ns, frame.frame_id
        if self._is_wanted(self._keypoints):
            self._keypoints.publish(
                convert.keypoints_message(stamp_ns, frame_id, estimate.features)
            )
        if config.node.publish_depth and frame.depth_m is not None:
            if self._is_wanted(self._depth):
                self._depth.publish(convert.depth_message(frame))
            if self._is_wanted(self._depth_info):
                self._depth_info.publish(
                    convert.camera_info_message(stamp_ns, frame_id, frame.camera)
                )
        if self._debug is not None and self._is_wanted(self._debug):
            text = f'{estimate.status.value} {estimate.inliers} {estimate.reason}'
            picture = draw_features(frame.image, estimate.features, text)
            self._debug.publish(convert.image_message(stamp_ns, frame_id, picture, 'rgb8'))

    @staticmethod
    def _is_wanted(publisher: Publisher) -> bool:
        return publisher.get_subscription_count() > 0
