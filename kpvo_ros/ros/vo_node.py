"""vo_node: images in, odometry, TF and keypoints out.

`process` is the whole node: messages to a frame, one step of the odometry, estimate to messages.
Topics, services and frames are listed in the README of the package.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
import sys
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry as OdometryMessage
import numpy as np
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.errors import RosError
from kpvo_ros.frontend.depth_map import DepthSource
from kpvo_ros.frontend.depth_source import load_depth_source
from kpvo_ros.frontend.process import use_threads
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.extrinsics import extrinsics_from
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.odometry.planar import project_to_plane
from kpvo_ros.ros import convert
from kpvo_ros.ros.camera_mount import CameraMount
from kpvo_ros.ros.depth_publisher import DepthPublisher
from kpvo_ros.ros.diagnostics import odometry_status
from kpvo_ros.ros.image_input import subscribe
from kpvo_ros.ros.imu_input import ImuInput
from kpvo_ros.ros.node_base import ImageNode, Phase
from kpvo_ros.ros.runner import run
from kpvo_ros.ros.stamp_buffer import StampBuffer
from kpvo_ros.ros.trajectory_log import TrajectoryLog
from kpvo_ros.ros.vo_publisher import VoPublisher
from kpvo_ros.types import BadFrame, Frame, OdometryEstimate, Status

USAGE = (
    'vo_node takes only ROS arguments, for example:\n'
    '  vo_node --ros-args -r image:=/camera/image_raw -r camera_info:=/camera/camera_info '
    '--params-file vo.yaml'
)
_WHEEL_QUEUE = 200


class VoNode(ImageNode):
    """Visual odometry as a managed node."""

    live_parameters = (
        *ImageNode.live_parameters,
        'node.publish_tf',
        'node.publish_map_tf',
        'node.two_d_mode',
        'node.publish_depth',
        'node.cloud_range_m',
        'node.depth_tolerance_s',
        'node.depth_wait_s',
        'node.trajectory_path',
    )

    def __init__(self, **node_options: Any) -> None:
        super().__init__('vo_node', VoConfig(), **node_options)
        self._lock = threading.Lock()  # held during a step; services wait for its end
        self._odometry: Odometry | None = None
        self._start_pose: np.ndarray | None = None
        self._mount: CameraMount | None = None
        self._publisher: VoPublisher | None = None
        self._depth_source: DepthSource | None = None
        self._depth_publisher: DepthPublisher | None = None
        self._last_estimate: OdometryEstimate | None = None
        self._last_status: DiagnosticStatus | None = None
        self._depths = StampBuffer()
        self._wheels: deque[OdometryMessage] = deque(maxlen=_WHEEL_QUEUE)
        self._imu: ImuInput | None = None
        self._trajectory = TrajectoryLog()
        self._extra_subscriptions: list[Subscription] = []
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(Trigger, '~/save_trajectory', self._on_save_trajectory)

    # -------------------------------------------------------------------------- the algorithm

    def process(self, message: Any, stamp_ns: int, camera: Camera | None) -> None:
        """One image: to a frame, through the odometry, out as messages."""
        assert camera is not None and self._publisher is not None
        config: VoConfig = self.parameters.record
        frame = self._frame(message, stamp_ns, camera, config)
        with self._lock:
            odometry = self._ready_odometry(config, message.header.frame_id)
            if odometry is None:
                self.monitor.count('waiting', 'no transform base <- camera yet')
                return
            self._offer_motion(odometry)
            started_s = time.perf_counter()
            if isinstance(frame, BadFrame):
                self.count_bad(frame.reason)
                estimate = odometry.skip(frame)
            else:
                estimate = odometry.step(frame)
                self.monitor.count('processed')
            if config.node.two_d_mode:
                estimate = project_to_plane(estimate)
            step_ms = (time.perf_counter() - started_s) * 1e3
            self._remember(estimate)
            self._publisher.publish_pose(estimate, config)  # what a robot steers by goes first
        self._last_status = odometry_status(self.get_name(), estimate, step_ms)
        self._publisher.publish_rest(frame, estimate, self._last_status, config)

    def _frame(
        self, message: Any, stamp_ns: int, camera: Camera, config: VoConfig
    ) -> Frame | BadFrame:
        depth = None
        if config.scale.source == 'depth':
            tolerance_ns = int(config.node.depth_tolerance_s * 1e9)
            depth = self._depths.take(stamp_ns, tolerance_ns, config.node.depth_wait_s)
            if depth is None:
                self._warn_no_depth(config.node.depth_tolerance_s)
        mask = self.mask_of(stamp_ns, (camera.height, camera.width))
        return convert.frame_from_messages(
            message, camera, depth, config.frames.camera_frame, mask
        )

    def _ready_odometry(self, config: VoConfig, frame_id: str) -> Odometry | None:
        """The odometry; made when the pose of the camera on the robot is known."""
        if self._odometry is None and self._mount is not None:
            T_base_camera = self._mount.find(config.frames.camera_frame or frame_id)
            if T_base_camera is not None:
                self._odometry = Odometry(
                    config,
                    T_base_camera,
                    depth_source=self._depth_source,
                    depth_listener=self._depth_publisher,
                )
                self._odometry.reset(self._start_pose)
                self._mount.close()
                self._mount = None
        return self._odometry

    def _offer_motion(self, odometry: Odometry) -> None:
        while self._wheels:
            wheel = convert.wheel_from_message(self._wheels.popleft())
            if wheel is not None:
                odometry.offer_wheel(wheel)
        for gyro in self._imu.take() if self._imu is not None else ():
            odometry.offer_gyro(gyro)

    def _remember(self, estimate: OdometryEstimate) -> None:
        before, self._last_estimate = self._last_estimate, estimate
        if estimate.has_pose:
            self._trajectory.append(estimate.stamp_ns, estimate.T_odom_camera)
        if before is not None and before.status is not estimate.status:
            change = f'{before.status.value} -> {estimate.status.value} {estimate.reason}'
            if estimate.status is Status.LOST:
                self.get_logger().warning(change)
            else:
                self.get_logger().info(change)

    def on_time_jump(self) -> None:
        """Depth, wheel and IMU messages of the old time are worthless."""
        self._depths.clear()
        self._wheels.clear()
        if self._imu is not None:
            self._imu.clear()
        self._trajectory.begin_segment()

    # ----------------------------------------------------------------------------- life cycle

    def load(self, config: Any) -> None:
        """Check that the configuration can work; the odometry waits for the camera's pose."""
        use_threads(config.frontend.threads)
        self._depth_source = load_depth_source(config.depth)
        extrinsics = extrinsics_from(config.frames)
        Odometry(config, extrinsics, depth_source=self._depth_source).close()
        use_threads(config.frontend.threads)  # of torch too, should an extractor have loaded it
        self._publisher = VoPublisher(self, config)
        if self._depth_source is not None:
            self._depth_publisher = DepthPublisher(self)
        self._mount = CameraMount(self, config.frames)

    def unload(self) -> None:
        """Forget the map, keep the trajectory that was recorded."""
        with self._lock:  # a step that takes longer than the node waits for is not disturbed
            if self._odometry is not None:
                self._odometry.close()
                self._odometry = None
            self._depth_source = self._depth_publisher = None
        self._start_pose = None
        self._last_estimate = None
        self._last_status = None
        self._trajectory.begin_segment()
        if self._mount is not None:
            self._mount.close()
            self._mount = None
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None

    def begin(self) -> None:
        """Subscribe to what the source of metres and the prediction need."""
        self._depths.close(False)
        config: VoConfig = self.parameters.record
        source = config.scale.source
        if source == 'depth':
            is_raw = config.node.image_transport == 'raw'
            kind, topic = (
                (Image, 'depth') if is_raw else (CompressedImage, 'depth/compressedDepth')
            )
            self._extra_subscriptions.append(subscribe(self, kind, topic, self._depths.add))
        if source == 'wheel' or config.prediction.wheel:
            self._extra_subscriptions.append(
                subscribe(self, OdometryMessage, 'wheel_odom', self._on_wheel, depth=50)
            )
        if config.prediction.gyro:
            self._imu = ImuInput(self, config.frames)
        self._extra_subscriptions.append(
            self.create_subscription(
                PoseWithCovarianceStamped, 'initialpose', self._on_initial_pose, 1
            )
        )

    def interrupt(self) -> None:
        """Do not wait for depth any longer."""
        self._depths.close()

    def end(self) -> None:
        """Unsubscribe."""
        for subscription in self._extra_subscriptions:
            self.destroy_subscription(subscription)
        self._extra_subscriptions.clear()
        self._depths.clear()
        self._wheels.clear()
        if self._imu is not None:
            self._imu.close()
            self._imu = None

    def statuses(self) -> Iterable[DiagnosticStatus]:
        """State of the odometry."""
        return [] if self._last_status is None else [self._last_status]

    # ------------------------------------------------------------------------ services, topics

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.phase is Phase.UNCONFIGURED:
            response.success = False
            response.message = 'the node is unconfigured; configure it first'
            return response
        self._reset(None)
        response.success, response.message = True, 'map forgotten, pose at the origin'
        return response

    def _on_save_trajectory(
        self, _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        path = Path(self.parameters.record.node.trajectory_path)
        try:
            written = self._trajectory.save(path)
        except RosError as error:
            response.success, response.message = False, str(error)
        else:
            names = ', '.join(str(name.absolute()) for name in written)
            response.success = True
            response.message = f'{len(self._trajectory)} poses of the camera written to {names}'
        return response

    def _on_wheel(self, message: OdometryMessage) -> None:
        self._wheels.append(message)

    def _on_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        odom_frame = self.parameters.record.frames.odom_frame
        if message.header.frame_id not in ('', odom_frame):
            self.get_logger().warning(
                f'initialpose is given in {message.header.frame_id!r}; this node knows only '
                f'{odom_frame!r}: set the fixed frame of RViz to it'
            )
            return
        T_odom_base = convert.matrix_from_pose(message.pose.pose)
        if T_odom_base is None:
            self.get_logger().warning(
                'initialpose is not a pose (NaN or zero quaternion): ignored'
            )
            return
        self._reset(T_odom_base)
        self.get_logger().info('pose set by initialpose')

    def _reset(self, T_odom_base: np.ndarray | None) -> None:
        with self._lock:
            self._start_pose = T_odom_base
            self._trajectory.begin_segment()
            if self._odometry is not None:
                self._odometry.reset(T_odom_base)

    def _warn_no_depth(self, tolerance_s: float) -> None:
        name = self.resolve_topic_name('depth')
        self.get_logger().warning(
            f'no depth on {name} within {tolerance_s:.3f} s of the image '
            f'({self.count_publishers(name)} publishers); remap depth or raise '
            'node.depth_tolerance_s',
            throttle_duration_sec=5.0,
        )


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the executable."""
    return run(VoNode, args, USAGE)


if __name__ == '__main__':
    sys.exit(main())
