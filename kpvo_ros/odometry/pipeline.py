"""Keyframe visual odometry: one camera in, the pose of the robot out.

`Odometry.step` reads as the algorithm; every step is a method below it and every tool a module
beside it. Live nodes and offline replay call the same object with the same records.

Sources: keyframe structure after PTAM (Klein 2007) and ORB-SLAM (Mur-Artal 2015), inverse depth
after Civera 2008, optical-flow front end after VINS-Mono (Qin 2018).
"""

from __future__ import annotations

import copy
import logging

import cv2
import numpy as np

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.errors import OdometryError
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.bootstrap import relative_pose
from kpvo_ros.odometry.estimate import EstimateBuilder
from kpvo_ros.odometry.keyframes import KeyframePolicy
from kpvo_ros.odometry.local_map import NO_SIGHTS, Sights
from kpvo_ros.odometry.mapper import Mapper
from kpvo_ros.odometry.motion import MotionState
from kpvo_ros.odometry.scale import load_scale
from kpvo_ros.odometry.stopwatch import Stopwatch
from kpvo_ros.odometry.tracking import Pose, Tracker
from kpvo_ros.types import BadFrame, Features, Frame, OdometryEstimate, Status, WheelOdometry

STAGES = ('decode', 'track', 'start', 'solve', 'search', 'scale', 'keyframe')  # of `stage_ms`
_TIME_JUMP_NS = 1_000_000_000  # further back than this is another run, not a late frame
_MIN_CONTRAST = 3.0  # grey levels of standard deviation; below, the image shows nothing
_log = logging.getLogger(__name__)


class Odometry:
    """Visual odometry of one camera.

    Args:
        config: all parameters.
        T_base_camera: (4, 4) pose of the optical frame in the robot base; the odom frame starts
            as the base frame.

    Raises:
        OdometryError: the configuration cannot work, e.g. camera height without a height.
    """

    def __init__(self, config: VoConfig, T_base_camera: np.ndarray = se3.T_BASE_OPTICAL) -> None:
        if T_base_camera.shape != (4, 4) or not se3.is_rotation(T_base_camera[:3, :3]):
            raise OdometryError('T_base_camera is not a 4x4 rigid transform; check the extrinsics')
        cv2.setNumThreads(config.frontend.threads)
        self._config = config
        self._T_base_camera = T_base_camera
        self._extractor = load_extractor(config.frontend)
        self._builder = EstimateBuilder(T_base_camera)
        self._tracker = Tracker(config.tracking, config.seed)
        self.reset()

    def reset(self, T_odom_base: np.ndarray | None = None) -> None:
        """Forget everything and start again.

        Args:
            T_odom_base: (4, 4) pose of the base to start from, the origin by default.
        """
        start = np.eye(4) if T_odom_base is None else T_odom_base
        self._motion = MotionState(start @ self._T_base_camera)  # of the camera in the map
        self._published = (
            self._motion
        )  # what the world is told; another one until metres are known
        self._scale = load_scale(self._config.scale)
        self._last_stamp_ns: int | None = None
        self._camera: Camera | None = None
        self._gray: np.ndarray | None = None  # last image that could be used
        self._status, self._reason = Status.STARTING, 'waiting for the first image'
        self._forget_map()

    def step(self, frame: Frame) -> OdometryEstimate:
        """Estimate the pose of one frame. Never raises on what a camera can deliver."""
        watch = Stopwatch()
        if (problem := self._refuse(frame)) is not None:
            return self.skip(BadFrame(frame.stamp_ns, problem))
        with watch.stage('track'):
            sights = self._follow(frame)
        if not self._has_map:
            with watch.stage('start'):
                is_keyframe = self._start(frame, sights)
        else:
            pose, sights = self._locate(frame, sights, watch)
            is_keyframe = self._take(frame, pose, sights, watch)
        self._gray, self._last_stamp_ns = frame.gray, frame.stamp_ns
        return self._estimate(frame.stamp_ns, watch, is_keyframe)

    def skip(self, bad: BadFrame) -> OdometryEstimate:
        """Answer for a frame that could not be used: the pose is predicted briefly, then held.

        A frame that is not newer than the last one changes nothing; its answer has no pose.
        """
        watch = Stopwatch()
        if self._last_stamp_ns is not None and bad.stamp_ns <= self._last_stamp_ns:
            return self._builder.lost(self._published, bad, self._scale.relative_sigma)
        self._miss(bad.stamp_ns, bad.reason)
        self._last_stamp_ns = bad.stamp_ns
        return self._estimate(bad.stamp_ns, watch, False)

    def offer_wheel(self, wheel: WheelOdometry) -> None:
        """Tell the odometry what the wheels say; used with scale.source=wheel."""
        self._scale.offer_wheel(wheel)

    # ------------------------------------------------------------------ steps, in order of use

    def _refuse(self, frame: Frame) -> str | None:
        """Why the frame cannot be used, None when it can. Adapts to a new run or camera."""
        last = self._last_stamp_ns
        if last is not None and frame.stamp_ns <= last:
            if last - frame.stamp_ns <= _TIME_JUMP_NS:
                return 'stamp is not newer than the last one: frame ignored'
            jump_s = (last - frame.stamp_ns) * 1e-9
            _log.warning('time jumped back %.1f s (looped bag?): new map at the held pose', jump_s)
            self.reset(self._published.T_odom_camera @ se3.inverse(self._T_base_camera))
        if frame.gray.shape != (frame.camera.height, frame.camera.width):
            return f'image {frame.gray.shape} does not match its camera_info: frame ignored'
        depth_m = frame.depth_m if self._scale.needs_depth else None
        if depth_m is not None and depth_m.shape != frame.gray.shape:
            return f'depth image {depth_m.shape} is not that of the image {frame.gray.shape}'
        if self._camera is not None and frame.camera != self._camera:
            _log.warning('the camera or its resolution changed: new map at the present pose')
            self._forget_map()
        self._camera = frame.camera
        if float(frame.gray[::4, ::4].std()) < _MIN_CONTRAST:
            return 'image without contrast (dark, covered or overexposed?)'
        return None

    def _follow(self, frame: Frame) -> Sights:
        if self._gray is None or self._config.tracking.method == 'descriptor':
            return NO_SIGHTS
        return self._tracker.follow(self._gray, frame.gray, self._sights, frame.camera)

    def _start(self, frame: Frame, sights: Sights) -> bool:
        """Make the first map: from depth at once, else when the parallax suffices."""
        if self._scale.needs_depth:
            return self._start_from_depth(frame)
        if self._config.tracking.method == 'descriptor' and self._gray is not None:
            everything = np.arange(len(self._mapper.map))
            features = self._extract(frame)
            sights = self._tracker.search(features, self._mapper.map, frame.camera, everything)
        if self._gray is None or len(sights) < self._config.tracking.degraded_inliers:
            T_odom_camera = self._motion.T_odom_camera
            self._sights = self._mapper.begin(frame, self._extract(frame), T_odom_camera)
            self._miss(frame.stamp_ns, 'first view of the map')
            return True
        self._sights = sights
        T_camera_keyframe = relative_pose(
            sights, self._mapper.map, frame.camera, self._config.keyframes, self._config.seed
        )
        if T_camera_keyframe is None:
            self._miss(frame.stamp_ns, 'waiting for parallax: move the camera sideways')
            return False
        return self._start_from_two_views(frame, T_camera_keyframe)

    def _start_from_depth(self, frame: Frame) -> bool:
        if frame.depth_m is None:
            self._miss(frame.stamp_ns, 'no depth image yet (scale.source=depth)')
            return False
        sights = self._mapper.begin(frame, self._extract(frame), self._motion.T_odom_camera)
        known = int(self._mapper.map.has_depth[sights.point].sum())
        if known < self._config.tracking.min_inliers:
            self._miss(frame.stamp_ns, f'only {known} keypoints with depth')
            return False
        self._accept_start(frame, sights)
        return True

    def _start_from_two_views(self, frame: Frame, T_camera_keyframe: np.ndarray) -> bool:
        """Place the present camera where the pose was held, so that nothing jumps."""
        local_map = self._mapper.map
        T_now = self._motion.T_odom_camera
        local_map.T_odom_keyframe = (T_now @ T_camera_keyframe)[None]
        self._mapper.measure(frame, self._sights, T_now)
        if local_map.has_depth[self._sights.point].sum() < self._config.tracking.min_inliers:
            self._forget_map()
            self._miss(frame.stamp_ns, 'two views gave too few points: starting anew')
            return False
        # Any unit will do; with this one the numbers stay of order one.
        median_depth = float(np.median(1.0 / local_map.rho[local_map.has_depth]))
        local_map.rescale(1.0 / median_depth, T_now[:3, 3])
        sights = self._mapper.add_keyframe(frame, self._extract(frame), self._sights, T_now)
        self._accept_start(frame, sights)
        return True

    def _accept_start(self, frame: Frame, sights: Sights) -> None:
        self._has_map = True
        self._motion.begin(frame.stamp_ns)
        self._scale.restart()
        if self._scale.promises_metres and not self._scale.is_metric:
            # Until the unit is known nothing moves for the world outside.
            self._published = copy.copy(self._motion)
        self._policy.begin(sights)
        self._sights = sights
        self._inliers = int(self._mapper.map.has_depth[sights.point].sum())
        self._correct_scale(frame)
        self._judge(frame)

    def _locate(
        self, frame: Frame, sights: Sights, watch: Stopwatch
    ) -> tuple[Pose | None, Sights]:
        """Pose from the followed points; when they are too few, from descriptors."""
        local_map, camera = self._mapper.map, frame.camera
        T_guess = self._motion.predict(frame.stamp_ns)
        with watch.stage('solve'):
            pose = self._tracker.solve(sights, local_map, camera, T_guess)
        wanted = self._config.tracking.degraded_inliers
        if self._config.tracking.method == 'flow' or (pose and pose.inliers >= wanted):
            return pose, sights
        with watch.stage('search'):
            everything = np.arange(len(local_map))
            found = self._tracker.search(self._extract(frame), local_map, camera, everything)
            searched = self._tracker.solve(found, local_map, camera, T_guess)
        if searched and (pose is None or searched.inliers > pose.inliers):
            return searched, found
        return pose, sights

    def _take(self, frame: Frame, pose: Pose | None, sights: Sights, watch: Stopwatch) -> bool:
        """Accept or refuse the pose, make a keyframe when due. Returns whether one was made."""
        problem = self._doubt(frame, pose)
        if pose is None or problem:
            return self._lose(frame, problem)
        contradicts = self._mapper.map.has_depth[sights.point] & ~pose.inlier
        self._mapper.strike(sights, ~contradicts)
        self._motion.measure(frame.stamp_ns, pose.T_odom_camera, pose.covariance)
        self._sights, self._inliers = sights[~contradicts], pose.inliers
        with watch.stage('scale'):
            self._correct_scale(frame)
        self._judge(frame)
        with watch.stage('keyframe'):
            if not self._policy.wants(self._sights, frame.camera.width):
                self._mapper.measure_new(frame, self._sights, self._motion.T_odom_camera)
                return False
            self._make_keyframe(frame)
        return True

    def _make_keyframe(self, frame: Frame) -> None:
        self._sights = self._mapper.add_keyframe(
            frame, self._extract(frame), self._sights, self._motion.T_odom_camera
        )
        self._motion.adjust(self._mapper.map.T_odom_keyframe[-1])
        self._motion.set_reference()
        self._policy.begin(self._sights)

    def _doubt(self, frame: Frame, pose: Pose | None) -> str:
        """Why the pose cannot be believed, '' when it can."""
        if pose is None:
            return 'too few points of the map found in the image'
        speed, turn = self._motion.implied_speed(frame.stamp_ns, pose.T_odom_camera)
        limits = self._config.tracking
        if self._scale.is_metric and speed > limits.max_speed_m_s:
            return f'pose implies {speed:.1f} m/s, more than tracking.max_speed_m_s'
        if turn > limits.max_turn_rad_s:
            return f'pose implies {turn:.1f} rad/s, more than tracking.max_turn_rad_s'
        return ''

    def _lose(self, frame: Frame, problem: str) -> bool:
        """No pose from this frame: hold, and after a while start a new map there."""
        self._miss(frame.stamp_ns, problem)
        self._sights = NO_SIGHTS
        lost_ns = frame.stamp_ns - (self._motion.measured_ns or frame.stamp_ns)
        if lost_ns > self._config.keyframes.restart_after_s * 1e9:
            _log.warning('lost for %.1f s: new map at the held pose', lost_ns * 1e-9)
            self._forget_map()
            return self._start(frame, NO_SIGHTS)
        return False

    def _miss(self, stamp_ns: int, problem: str) -> None:
        """Let the time of a frame pass without a measurement."""
        self._motion.coast(stamp_ns)
        if self._published is not self._motion:
            self._published.coast(stamp_ns)
        never_measured = self._motion.measured_ns is None
        self._status = Status.STARTING if never_measured else Status.LOST
        self._inliers, self._reason = 0, problem

    def _judge(self, frame: Frame) -> None:
        """Status after a measured pose."""
        self._status, self._reason = Status.TRACKING, ''
        if self._inliers < self._config.tracking.degraded_inliers:
            self._status = Status.DEGRADED
            self._reason = f'only {self._inliers} points support the pose'
        if self._published is not self._motion:
            self._published.coast(frame.stamp_ns)
            self._status, self._reason = Status.STARTING, self._scale.problem

    def _correct_scale(self, frame: Frame) -> None:
        """Stretch the map about the camera, so that the pose does not jump."""
        factor = self._scale.factor(frame, self._motion.T_odom_camera)
        if factor != 1.0:
            self._mapper.map.rescale(factor, self._motion.T_odom_camera[:3, 3])
            self._motion.rescale(factor)
        if self._scale.is_metric and self._published is not self._motion:
            T_new_old = self._published.T_odom_camera @ se3.inverse(self._motion.T_odom_camera)
            self._mapper.map.move(T_new_old)
            self._motion.move(T_new_old)
            self._published = self._motion

    # ------------------------------------------------------------------------------- helpers

    def _forget_map(self) -> None:
        """No map; the pose stays where it was last published."""
        self._motion = self._published
        self._mapper = Mapper(self._config, self._tracker, self._scale.needs_depth)
        self._policy = KeyframePolicy(self._config.keyframes)
        self._has_map = False
        self._gray = None
        self._sights, self._inliers = NO_SIGHTS, 0
        self._extracted: tuple[int, Features] | None = None

    def _extract(self, frame: Frame) -> Features:
        """Keypoints of the frame; computed at most once."""
        if self._extracted is None or self._extracted[0] != frame.stamp_ns:
            self._extracted = (frame.stamp_ns, self._extractor.extract(frame.gray))
        return self._extracted[1]

    def _estimate(self, stamp_ns: int, watch: Stopwatch, is_keyframe: bool) -> OdometryEstimate:
        sights, local_map = self._sights, self._mapper.map
        support = local_map.has_depth[sights.point].astype(np.float32)
        features = Features(sights.xy, support, local_map.descriptor[sights.point])
        return self._builder.build(
            self._published,
            stamp_ns,
            status=self._status,
            reason=self._reason,
            features=features,
            inliers=self._inliers,
            scale_sigma=self._scale.relative_sigma,
            is_keyframe=is_keyframe,
            stage_ms=watch.stage_ms,
        )
