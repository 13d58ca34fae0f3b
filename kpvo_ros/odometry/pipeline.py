"""Keyframe visual odometry: one camera in, the pose of the robot out.

`Odometry.step` reads as the algorithm; every step is a method below it and every tool a module
beside it. Live nodes and offline replay call the same object with the same records.

The pose of a frame is answered as soon as it is solved. What the frame means for the map is worked
out by a thread of its own until the next frame comes, which waits for it (`mapping.Mapping`).

Sources: keyframe structure after PTAM (Klein 2007) and ORB-SLAM (Mur-Artal 2015), inverse depth
after Civera 2008, optical-flow front end after VINS-Mono (Qin 2018), alignment with first sights
after SVO (Forster 2014).
"""

from __future__ import annotations

from collections.abc import Callable
import logging

import cv2
import numpy as np

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.errors import FrontendError, OdometryError
from kpvo_ros.frontend.depth_map import DepthSource
from kpvo_ros.frontend.depth_source import load_depth_source
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.frontend.mask import IgnoredRegion, allowed
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.carrier import Carrier
from kpvo_ros.odometry.depth_looker import DepthListener, DepthLooker
from kpvo_ros.odometry.doubt import doubt, far_fetched
from kpvo_ros.odometry.estimate import EstimateBuilder
from kpvo_ros.odometry.local_map import NO_SIGHTS, Sights
from kpvo_ros.odometry.locating import locate, support
from kpvo_ros.odometry.mapping import Mapping
from kpvo_ros.odometry.motion import WHEELS, Led
from kpvo_ros.odometry.places import features_of
from kpvo_ros.odometry.prediction import Prediction
from kpvo_ros.odometry.published import Published
from kpvo_ros.odometry.refusal import emptiness, misfit
from kpvo_ros.odometry.scale import scale_memory
from kpvo_ros.odometry.standstill import Rest
from kpvo_ros.odometry.starting import Progress, start
from kpvo_ros.odometry.stopwatch import Stopwatch
from kpvo_ros.odometry.tracking import Followed, Pose, Tracker
from kpvo_ros.odometry.waiting import WaitingFrame
from kpvo_ros.types import BadFrame, Frame, Gyro, OdometryEstimate, Status, WheelOdometry

# Of `stage_ms`. The last four are those of the frame before, worked on after its answer; `wait`
# is how long this frame had to wait for them.
STAGES = (
    'decode', 'wait', 'track', 'start', 'solve', 'search', 'adjust', 'scale', 'keyframe', 'places',
)  # fmt: skip
_TIME_JUMP_NS = 1_000_000_000  # further back than this is another run, not a late frame
# Factor of a pose's covariance when its points have been measured by a sensor: those that are
# triangulated share their errors. By the consistency test of `kpvo bench odometry`.
_DEPTH_NOISE = 0.45
_log = logging.getLogger(__name__)


class Odometry:
    """Visual odometry of one camera.

    Args:
        config: all parameters.
        T_base_camera: (4, 4) pose of the optical frame in the robot base; the odom frame starts
            as the base frame.
        tells_late: whether the caller takes `take_late` and writes those poses where they
            belong, as a recording can. A robot cannot: for it the odom frame begins when the map
            and its unit become known, or, if a pose was told before (the camera stood or turned),
            the told pose walks over to the measured one. A recording waits for learned depth.
        depth_source: of learned depth; None takes the one that the configuration names, if any.
        depth_listener: told every learned depth, in the thread of the network.

    Raises:
        OdometryError: the configuration cannot work, e.g. camera height without a height.
        FrontendError: a mask or the weights of the configuration cannot be used.
    """

    def __init__(
        self,
        config: VoConfig,
        T_base_camera: np.ndarray = se3.T_BASE_OPTICAL,
        *,
        tells_late: bool = False,
        depth_source: DepthSource | None = None,
        depth_listener: DepthListener | None = None,
    ) -> None:
        if T_base_camera.shape != (4, 4) or not se3.is_rotation(T_base_camera[:3, :3]):
            raise OdometryError('T_base_camera is not a 4x4 rigid transform; check the extrinsics')
        cv2.setNumThreads(config.frontend.threads)
        self._config = config
        self._T_base_camera = T_base_camera
        self._tells_late = tells_late
        self._extractor = load_extractor(config.frontend)
        self._region = IgnoredRegion(config.frontend)
        self._builder = EstimateBuilder(T_base_camera, scale_memory(config.scale))
        self._tracker = Tracker(config.tracking, config.seed)
        self._prediction = Prediction(config.prediction, T_base_camera)
        source = depth_source or load_depth_source(config.depth)
        self._looker = DepthLooker(source, config.depth, depth_listener, waits=tells_late)
        self._carrier = Carrier(source, config)
        self._begin(np.eye(4))

    def close(self) -> None:
        """Wait for the threads and end them; the object is of no use afterwards."""
        self._mapping.close()
        self._looker.close()

    def reset(self, T_odom_base: np.ndarray | None = None) -> None:
        """Forget everything and start again.

        Args:
            T_odom_base: (4, 4) pose of the base to start from, the origin by default.
        """
        self._mapping.close()
        self._begin(np.eye(4) if T_odom_base is None else T_odom_base)

    def _begin(self, T_odom_base: np.ndarray) -> None:
        speed = self._config.tracking.correction_m_s, self._config.tracking.correction_rad_s
        self._told = Published(T_odom_base @ self._T_base_camera, *speed, self._prediction)
        tools = self._tracker, self._extractor, self._prediction, self._looker
        self._mapping = Mapping(self._config, *tools, self._told, self._tells_late)
        self._builder.restart()
        self._carrier.forget()
        self._late: list[OdometryEstimate] = []
        self._last_stamp_ns: int | None = None
        self._camera: Camera | None = None
        self._gray: np.ndarray | None = None  # last image that could be used and showed a motion
        self._rest = Rest()
        self._inliers = 0
        self._is_blind = False  # the last image gave no pose, though there has been a map
        self._lost_since_ns: int | None = None
        self._due: tuple[Frame, bool] | None = None  # located frame that the map has to take
        self._status, self._reason = Status.STARTING, 'waiting for the first image'

    def step(self, frame: Frame) -> OdometryEstimate:
        """Estimate the pose of one frame. Never raises on what a camera can deliver."""
        watch = Stopwatch()
        self._mapping.finish_work(watch)
        if (problem := self._refuse(frame)) is not None:
            return self._skip(BadFrame(frame.stamp_ns, problem), watch)
        with watch.stage('track'):
            followed = self._follow(frame)
        was_moving = bool(self._mapping.motion.velocity.any())
        stands = followed.stands and self._rest.lasts(frame.stamp_ns, followed.sights, was_moving)
        is_keyframe = False
        if stands:
            self._stand(frame)
        elif not self._mapping.has_map:
            with watch.stage('start'):
                first = self._gray is None
                is_keyframe = self._start(frame, None if first else followed.sights)
        else:
            is_keyframe = self._take(frame, *self._locate(frame, followed.sights, watch), watch)
        if not stands:  # at rest, the image in which the camera came to rest stays
            self._gray = frame.gray
            if is_keyframe or not followed.stands:  # a keyframe gives the points new numbers
                seen = NO_SIGHTS if is_keyframe else self._mapping.sights
                self._rest.begin(frame.stamp_ns, seen)
        if self._mapping.motion.measured_ns == frame.stamp_ns:
            self._carrier.leave(frame)
        if not is_keyframe:
            self._looker.look_between(frame)
        self._last_stamp_ns = frame.stamp_ns
        return self._estimate(frame.stamp_ns, watch, is_keyframe)

    def skip(self, bad: BadFrame) -> OdometryEstimate:
        """Answer for a frame that could not be used: the pose is predicted briefly, then held.

        A frame that is not newer than the last one changes nothing; its answer has no pose.
        """
        watch = Stopwatch()
        self._mapping.finish_work(watch)
        return self._skip(bad, watch)

    def take_late(self) -> list[OdometryEstimate]:
        """Estimates of earlier frames that could not be told in time, each given once.

        Without depth the first frames wait for parallax and for the unit of the map. Their answer
        was STARTING; these are their poses, oldest first. For recordings: a robot has moved on.
        """
        late, self._late = self._late, []
        return late

    def offer_wheel(self, wheel: WheelOdometry) -> None:
        """Tell the odometry what the wheels say; for scale.source=wheel and prediction.wheel."""
        self._mapping.finish_work(Stopwatch())
        self._mapping.scale.offer_wheel(wheel)
        self._prediction.offer_wheel(wheel)

    def offer_gyro(self, gyro: Gyro) -> None:
        """Tell the odometry how fast the base turns; used with prediction.gyro."""
        self._prediction.offer_gyro(gyro)

    # ------------------------------------------------------------------ steps, in order of use

    def _refuse(self, frame: Frame) -> str | None:
        """Why the frame cannot be used, None when it can. Adapts to a new run or camera."""
        last = self._last_stamp_ns
        if last is not None and frame.stamp_ns <= last:
            if last - frame.stamp_ns <= _TIME_JUMP_NS:
                return 'stamp is not newer than the last one: frame ignored'
            jump_s = (last - frame.stamp_ns) * 1e-9
            _log.warning('time jumped back %.1f s (looped bag?): new map at the held pose', jump_s)
            self.reset(self._told.T_odom_camera @ se3.inverse(self._T_base_camera))
        if (problem := misfit(frame, self._mapping.scale.needs_depth)) is not None:
            return problem
        try:
            ignore = self._region.of(frame)
        except FrontendError as error:
            return str(error)
        if self._camera is not None and frame.camera != self._camera:
            _log.warning('the camera or its resolution changed: new map at the present pose')
            self._forget_map()
        self._camera, self._mapping.ignore = frame.camera, ignore
        return emptiness(frame.gray)

    def _follow(self, frame: Frame) -> Followed:
        """The last sights found again, unless they are hidden."""
        mapping = self._mapping
        if self._gray is None or self._config.tracking.method == 'descriptor':
            return Followed(NO_SIGHTS, False)
        T_guess = mapping.motion.predict(frame.stamp_ns) if mapping.has_map else None
        found = self._tracker.follow(
            self._gray, frame.gray, mapping.sights, mapping.map, frame.camera, T_guess
        )
        return Followed(found.sights[allowed(found.sights.xy, mapping.ignore)], found.stands)

    def _stand(self, frame: Frame) -> None:
        """Nothing has moved since the last image that is kept: nor have pose, map and tracks."""
        motion = self._mapping.motion
        motion.stand(frame.stamp_ns)
        if self._mapping.is_hidden:
            self._told.hold(motion)
        else:
            self._told.follow(motion, motion.T_odom_camera)
            self._tell_late()
        self._status, self._reason = Status.TRACKING, 'standing still'
        self._inliers, self._is_blind, self._lost_since_ns = len(self._mapping.sights), False, None

    def _start(self, frame: Frame, sights: Sights | None) -> bool:
        """No map yet. Returns whether the frame was kept as a view."""
        mapping = self._mapping
        T_before = mapping.motion.T_odom_camera
        begun = start(mapping, self._tracker, self._config, frame, sights)
        if begun.progress is Progress.MAP:
            self._accept_start(frame)
        elif begun.progress is Progress.TURNED:
            self._told.follow(mapping.motion, T_before)
            self._tell_late()
            self._status, self._reason = Status.DEGRADED, begun.reason
            self._inliers, self._is_blind = len(mapping.sights), False
        else:
            self._miss(frame.stamp_ns, begun.reason, frame)
        return begun.is_keyframe

    def _accept_start(self, frame: Frame) -> None:
        mapping = self._mapping
        self._inliers = int(mapping.map.has_depth[mapping.sights.point].sum())
        self._tell(frame.stamp_ns, mapping.motion.T_odom_camera, is_firm=True)
        self._due = frame, False

    def _locate(
        self, frame: Frame, sights: Sights, watch: Stopwatch
    ) -> tuple[Pose | None, Sights]:
        tools = self._mapping, self._tracker, self._config.tracking
        return locate(*tools, frame, sights, watch, is_blind=self._is_blind)

    def _take(self, frame: Frame, pose: Pose | None, sights: Sights, watch: Stopwatch) -> bool:
        """Accept or refuse the pose, see to the map. Returns whether the frame joins it."""
        problem = doubt(self._mapping, frame.stamp_ns, pose, self._config.tracking)
        if pose is None or problem:
            return self._lose(frame, problem, watch)
        mapping, motion = self._mapping, self._mapping.motion
        T_before = motion.T_odom_camera
        if self._is_blind:
            T_before = motion.feel_back(frame.stamp_ns, pose.T_odom_camera)
        mapping.strike(sights, pose.inlier)
        mapping.sights, self._inliers = sights[pose.inlier], pose.inliers
        noise = pose.covariance * (_DEPTH_NOISE if mapping.scale.needs_depth else 1.0)
        covariance = mapping.map.pose_covariance(mapping.sights.point, pose.T_odom_camera, noise)
        motion.measure(frame.stamp_ns, pose.T_odom_camera, covariance, noise)
        self._tell(frame.stamp_ns, T_before, pose.is_firm)
        is_keyframe = mapping.policy.wants(mapping.sights, frame.camera.width)
        self._due = frame, is_keyframe
        return is_keyframe

    def _lose(self, frame: Frame, problem: str, watch: Stopwatch) -> bool:
        """No pose in the map: look among remembered places; after a while start a new map."""
        mapping = self._mapping
        if not mapping.is_hidden:
            with watch.stage('search'):
                found = mapping.recognise(frame)
            limits, motion = self._config.tracking, mapping.motion
            if found and not far_fetched(motion, frame.stamp_ns, found.T_odom_camera, limits):
                T_before = motion.feel_back(frame.stamp_ns, found.T_odom_camera)
                mapping.begin_from_place(frame, found)
                self._inliers = len(found.xy)
                self._tell(frame.stamp_ns, T_before, is_firm=True)
                return True
        self._miss(frame.stamp_ns, problem, frame)
        mapping.sights = NO_SIGHTS
        lost_ns = 0 if self._lost_since_ns is None else frame.stamp_ns - self._lost_since_ns
        if lost_ns > self._config.keyframes.restart_after_s * 1e9:
            _log.warning('lost for %.1f s: new map at the held pose', lost_ns * 1e-9)
            self._forget_map()
            return self._start(frame, None)
        return False

    def _miss(self, stamp_ns: int, problem: str, frame: Frame | None = None) -> None:
        """Let the time of a frame pass without a measurement; without an image, if it was bad."""
        mapping, motion = self._mapping, self._mapping.motion
        T_before = motion.coast(stamp_ns, self._leader(frame))
        if self._lost_since_ns is None:
            self._lost_since_ns = stamp_ns
        if mapping.is_hidden:
            is_carried = self._told.hold(motion)
        else:
            is_carried = motion.led_by != ''
            self._told.follow(motion, T_before)
        self._is_blind = mapping.map_id >= 0
        self._status = Status.LOST if self._is_blind else Status.STARTING
        self._inliers, self._reason = 0, problem
        if self._is_blind and is_carried:
            leader = motion.led_by or WHEELS
            self._status, self._reason = Status.DEGRADED, f'{problem}: position from {leader}'

    def _leader(self, frame: Frame | None) -> Callable[[], Led | None] | None:
        """Asks the network how the camera has moved; None where that would help nobody."""
        mapping = self._mapping
        if frame is None or mapping.map_id < 0 or mapping.is_hidden:
            return None
        return lambda: self._carrier.carry(frame, mapping.metres)

    def _tell(self, stamp_ns: int, T_before: np.ndarray, is_firm: bool) -> None:
        """Status and told pose after a measured one."""
        mapping, motion = self._mapping, self._mapping.motion
        self._lost_since_ns, self._is_blind = None, False
        if mapping.is_hidden:
            self._status, self._reason = Status.STARTING, mapping.scale.problem
            if self._told.hold(motion):
                self._status = Status.DEGRADED
                self._reason += ': position from the wheels'
            pose = motion.T_odom_camera, motion.covariance
            mapping.waiting.add(WaitingFrame(stamp_ns, None, *pose))
            return
        self._told.in_metres = mapping.scale.promises_metres
        self._told.follow(motion, T_before)
        self._tell_late()
        mapping.waiting.forget()
        self._status, self._reason = support(self._inliers, is_firm, self._config.tracking)

    def _tell_late(self) -> None:
        """The frames that waited have their poses now."""
        if not self._tells_late:
            return
        mapping = self._mapping
        sigma, map_id = mapping.scale.relative_sigma, max(0, mapping.map_id)
        self._late += [
            self._builder.late(frame, sigma, map_id) for frame in mapping.waiting.take_located()
        ]

    # ------------------------------------------------------------------------------- helpers

    def _forget_map(self) -> None:
        """No map; the pose stays where it was last told."""
        self._mapping.forget()
        self._gray, self._inliers = None, 0
        self._lost_since_ns = self._due = None

    def _skip(self, bad: BadFrame, watch: Stopwatch) -> OdometryEstimate:
        if self._last_stamp_ns is not None and bad.stamp_ns <= self._last_stamp_ns:
            sigma = self._mapping.scale.relative_sigma
            return self._builder.lost(self._told, bad, sigma, self._mapping.map_id)
        self._miss(bad.stamp_ns, bad.reason)
        self._last_stamp_ns = bad.stamp_ns
        return self._estimate(bad.stamp_ns, watch, False)

    def _estimate(self, stamp_ns: int, watch: Stopwatch, is_keyframe: bool) -> OdometryEstimate:
        """The answer; from here on the map works on its own."""
        mapping = self._mapping
        estimate = self._builder.build(
            self._told,
            stamp_ns,
            status=self._status,
            reason=self._reason,
            features=features_of(mapping.map, mapping.sights),
            inliers=self._inliers,
            scale_sigma=mapping.scale.relative_sigma,
            is_keyframe=is_keyframe,
            map_id=max(0, mapping.map_id),
            stage_ms=watch.stage_ms,
            T_map_odom=mapping.T_map_odom,
        )
        if self._due is not None:
            mapping.begin_work(*self._due)
            self._due = None
        return estimate
