"""The map side of the odometry: all that a located frame means beyond its own pose.

One object owns the local map, the pose of the camera in it, the unit, the frames that wait for it,
and what is remembered of places left behind. `begin_work` hands a located frame to a thread of its
own, `finish_work` waits for it; between the two nobody else may touch the map. So the pose of a
frame is answered early, and yet the same frames give the same answers.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
import logging

import numpy as np

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.frontend.extractor import Extractor
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.depth_looker import DepthLooker
from kpvo_ros.odometry.keyframes import KeyframePolicy
from kpvo_ros.odometry.learned_depths import LearnedDepths
from kpvo_ros.odometry.local_map import NO_SIGHTS, LocalMap, Sights
from kpvo_ros.odometry.mapper import Mapper
from kpvo_ros.odometry.motion import MotionState
from kpvo_ros.odometry.places import Places, Recognised, unit_ratio
from kpvo_ros.odometry.prediction import Prediction
from kpvo_ros.odometry.published import Published
from kpvo_ros.odometry.scale import load_scale
from kpvo_ros.odometry.stopwatch import Stopwatch
from kpvo_ros.odometry.tracking import WIDE, Guess, Tracker
from kpvo_ros.odometry.waiting import Waiting
from kpvo_ros.types import Features, Frame

_RARE = 4  # frames between keyframes from which on the map may be adjusted a frame later
SPARE = np.diag([0.05**2] * 3 + [0.02**2] * 3)  # freedom of a camera that the wheels have led
_log = logging.getLogger(__name__)


class Mapping:
    """Owns the map.

    Args:
        config: all parameters.
        tracker: finds points and solves poses.
        extractor: of keypoints.
        prediction: wheels and gyro.
        looker: looks at keyframes with a network, if there is one.
        told: the pose the world knows; read only.
        tells_late: see `pipeline.Odometry`.

    Attributes (for the pipeline, between `finish_work` and `begin_work`):
        motion: pose of the camera in the map.
        sights: points of the map seen in the newest image.
        scale: source of metres.
        depths: what a network has told the map.
        policy: when to make keyframes.
        waiting: frames whose pose could not be told yet.
        has_map: whether poses can be solved.
        map_id: number of the map, -1 before the first; that of an old one once joined to it.
        ignore: (H, W) bool of the newest image, None where nothing is ignored.
        T_map_odom: (4, 4) correction by loop closure, None without.
    """

    def __init__(
        self,
        config: VoConfig,
        tracker: Tracker,
        extractor: Extractor,
        prediction: Prediction,
        looker: DepthLooker,
        told: Published,
        tells_late: bool,
    ) -> None:
        self._config = config
        self._tracker = tracker
        self._extractor = extractor
        self._told = told
        self._tells_late = tells_late
        self._worker = ThreadPoolExecutor(1, thread_name_prefix='mapping')
        self._work: Future[Stopwatch] | None = None
        self._extraction = ThreadPoolExecutor(1, thread_name_prefix='extraction')
        self._places = Places(config)
        self._typical_depth = 1.0
        self.motion = MotionState(told.T_odom_camera, prediction)
        self.depths = LearnedDepths(config, looker)
        self.scale = load_scale(config.scale, self.depths.unit if looker.sees else None)
        self.motion.in_metres = self.scale.is_metric
        self.waiting = Waiting()
        self.map_id = -1
        self._begun = 0  # maps
        self._home_id = 0  # of the map in which the remembered places lie
        self._is_adrift = False
        self._camera: Camera | None = None
        self._watch = Stopwatch()  # of the work at hand
        self.has_map = False
        self.forget()

    @property
    def map(self) -> LocalMap:
        """Keyframes and points."""
        return self._mapper.map

    @property
    def T_map_odom(self) -> np.ndarray | None:
        """(4, 4) correction by loop closure, None without."""
        return self._places.T_map_odom

    @property
    def is_hidden(self) -> bool:
        """Whether there is a map whose unit is unknown: nothing moves for the world outside."""
        return self.has_map and self.scale.promises_metres and not self.scale.is_metric

    @property
    def metres(self) -> float | None:
        """Per map unit as a network sees them, None when nobody knows."""
        return self.depths.unit.metres or (1.0 if self.scale.is_metric else None)

    def close(self) -> None:
        """End the threads."""
        self._worker.shutdown()
        self._extraction.shutdown()
        self._places.close()

    def forget(self) -> None:
        """No map; the pose stays where it was last told. Places are remembered."""
        if self.has_map:
            self._leave_all()
        self._places.discard_glances()
        self.depths.forget()
        self._is_adrift = self.map_id >= 0
        self.motion.place(self._told.T_odom_camera)
        self._mapper = Mapper(self._config, self._tracker, self.scale.needs_depth, self._leave)
        self.policy = KeyframePolicy(self._config.keyframes)
        self.has_map = False
        self.waiting.forget()
        self.sights = NO_SIGHTS
        self.ignore: np.ndarray | None = None
        self._extracted: tuple[int, Features] | None = None
        self._is_unsettled = False
        self._taken = 0  # located frames since the last keyframe

    def _leave(self, rows: np.ndarray) -> None:
        """Remember keyframes of the map, unless nobody knows where it lies."""
        if self._is_adrift or self.is_hidden or self._camera is None:
            return
        with self._watch.stage('places'):
            self._places.keep(self.map, rows, self._camera)

    def _leave_all(self) -> None:
        self._leave(np.arange(len(self.map.T_odom_keyframe)))

    def extract(self, frame: Frame) -> Features:
        """Keypoints of the frame; computed at most once."""
        if self._extracted is None or self._extracted[0] != frame.stamp_ns:
            features = self._extractor.extract(frame.gray, self.ignore)
            self._extracted = (frame.stamp_ns, features)
        return self._extracted[1]

    def guess(self, stamp_ns: int, sights: Sights, is_lost: bool) -> Guess:
        """Where the camera is expected, with the freedom that a moving one has within a frame."""
        T_odom_camera = self.motion.predict(stamp_ns)
        if is_lost:
            doubt = self.motion.doubt
            return Guess(T_odom_camera, WIDE if doubt is None else doubt + SPARE)
        step = np.linalg.norm((T_odom_camera - self.motion.T_odom_camera)[:3, 3])
        sigma = np.array([step + 0.1 / self.map.typical_rho(sights.point)] * 3 + [0.3] * 3)
        return Guess(T_odom_camera, np.diag(sigma**2))

    # ----------------------------------------------------------------------------- beginnings

    def begin_views(self, frame: Frame) -> None:
        """The frame becomes the first keyframe of a map without depths."""
        self.depths.look(frame)
        self.sights = self._mapper.begin(frame, self.extract(frame), self.motion)

    def begin_from_depth(self, frame: Frame) -> int:
        """The frame and its depth image become a map; returns how many points have depth."""
        self.sights = self._mapper.begin(frame, self.extract(frame), self.motion)
        known = int(self.map.has_depth[self.sights.point].sum())
        if known >= self._config.tracking.min_inliers:
            self.depths.look(frame)
            self._accept(frame)
        return known

    def begin_from_two_views(self, frame: Frame, T_camera_keyframe: np.ndarray) -> bool:
        """Measure the first depths between the first keyframe and this frame.

        Returns:
            Whether there were enough of them; if not, everything is forgotten.
        """
        local_map = self.map
        T_first = local_map.T_odom_keyframe[0]
        T_now = T_first @ se3.inverse(T_camera_keyframe)
        self._mapper.measure(frame, self.sights, T_now)
        if local_map.has_depth[self.sights.point].sum() < self._config.tracking.min_inliers:
            self.forget()
            return False
        # Any unit will do; that of the map before, if there was one, keeps the path in one piece.
        median_depth = float(np.median(1.0 / local_map.rho[local_map.has_depth]))
        factor = self._typical_depth / median_depth
        local_map.rescale(factor, T_first[:3, 3])
        self.motion.adjust(_stretched(T_now, factor, T_first[:3, 3]))
        if self._tells_late:  # a robot will not ask for them
            self._locate_waiting(frame.camera)
        self._add_keyframe(frame)
        self._settle_keyframe(frame.camera)
        self.motion.adjust(self.map.T_odom_keyframe[-1])
        self._accept(frame)
        return True

    def begin_from_place(self, frame: Frame, found: Recognised) -> None:
        """The frame, recognised, becomes a map at the place that was remembered."""
        self._leave_all()
        self._is_unsettled = False
        self._places.discard_glances()
        if self._is_adrift:  # the unit is that of the old map again
            self.depths.restart()
        self.depths.look(frame)
        self.motion.measure(frame.stamp_ns, found.T_odom_camera, found.covariance, found.noise)
        self.sights = self._mapper.begin(frame, self.extract(frame), self.motion)
        self.sights = self._mapper.add_known(found.xy, found.rho, self.sights, frame)
        self.has_map, self._is_adrift, self.map_id = True, False, self._home_id
        self.policy.begin(self.sights)
        self._glance(frame)

    def _accept(self, frame: Frame) -> None:
        self.has_map = True
        self.map_id, self._begun = self._begun, self._begun + 1
        if not self._is_adrift:
            self._home_id = self.map_id
        self.motion.begin(frame.stamp_ns)
        self.scale.restart()
        self.depths.restart()
        if not self.is_hidden:
            self._settle()
        self.policy.begin(self.sights)
        self._glance(frame)

    def _glance(self, frame: Frame) -> None:
        depth = 1.0 / self.map.typical_rho(self.sights.point)
        self._typical_depth = depth
        is_placed = not self._is_adrift and not self.is_hidden
        self._places.glance(frame, self.ignore, self.map, depth, is_placed=is_placed)

    def _settle(self) -> None:
        """The map and its unit are known: tell the pose for the first time."""
        if self._tells_late:
            self._told.jump(self.motion)
        else:  # the map is put where the robot was told to be, so that it takes no leap
            self._move(self._told.T_odom_camera @ se3.inverse(self.motion.T_odom_camera))

    def _locate_waiting(self, camera: Camera) -> None:
        """Poses of the views between the first and this one."""
        T_guess = self.map.T_odom_keyframe[0]
        for frame in self.waiting:
            if frame.sights is None:
                continue
            pose = self._tracker.solve(frame.sights, self.map, camera, Guess(T_guess, WIDE))
            frame.sights = None
            if pose is not None:
                frame.T_odom_camera = T_guess = pose.T_odom_camera
                frame.covariance = self.motion.covariance + pose.covariance

    # ------------------------------------------------------------- while no place is known

    def recognise(self, frame: Frame) -> Recognised | None:
        """Where a lost camera is, by what it remembers, the present map included."""
        self._leave_all()
        return self._places.recognise(frame, self.ignore, self.motion)

    # ----------------------------------------------- after the answer, in the mapping thread

    def strike(self, sights: Sights, inlier: np.ndarray) -> None:
        """Count contradictions in a row."""
        self._mapper.strike(sights, inlier)

    def begin_work(self, frame: Frame, is_keyframe: bool) -> None:
        """Take a located frame in, while others go on."""
        self._work = self._worker.submit(self._take, frame, is_keyframe)

    def finish_work(self, watch: Stopwatch) -> None:
        """Wait for the work on the last frame."""
        if self._work is not None:
            with watch.stage('wait'):
                done = self._work.result()
            watch.stage_ms.update(done.stage_ms)
            self._work = None
        self.motion.in_metres = self.scale.is_metric

    def _take(self, frame: Frame, is_keyframe: bool) -> Stopwatch:
        self._camera = frame.camera
        watch = self._watch = Stopwatch()
        self._taken += 1
        has_much_to_do = self._is_unsettled or (is_keyframe and self._taken >= _RARE)
        if self._is_unsettled:
            with watch.stage('adjust'):
                self._settle_keyframe(frame.camera)
                self._place_again(frame)
        with watch.stage('scale'):
            self.depths.fold_in(self.map)
            if not (has_much_to_do and self.scale.is_metric):  # the next frame will do
                self._correct_scale(frame)
        with watch.stage('keyframe'):
            if is_keyframe:
                self._make_keyframe(frame)
            else:
                self._mapper.measure_new(frame, self.sights, self.motion.T_odom_camera)
        if is_keyframe and self._is_adrift and not self.is_hidden:
            with watch.stage('places'):
                self._reconnect(frame)
        return watch

    def _correct_scale(self, frame: Frame) -> None:
        """Stretch the map about the camera, so that the pose does not jump."""
        was_hidden = self.is_hidden
        factor = self.scale.factor(frame, self.motion.T_odom_camera)
        if factor != 1.0:
            first = self.map.T_odom_keyframe[0]
            T_fixed = first if was_hidden and self._tells_late else self.motion.T_odom_camera
            self._stretch(factor, T_fixed[:3, 3].copy())
        if was_hidden and not self.is_hidden:
            self._settle()

    def _make_keyframe(self, frame: Frame) -> None:
        self._add_keyframe(frame)
        if self._taken < _RARE:
            self._settle_keyframe(frame.camera)
            self.motion.adjust(self.map.T_odom_keyframe[-1])
        self._taken = 0
        self.policy.begin(self.sights)
        self._glance(frame)

    def _add_keyframe(self, frame: Frame) -> None:
        self.depths.look(frame)
        features = self._extraction.submit(self.extract, frame)  # beside the search of old points
        self.sights = self._mapper.add_keyframe(
            frame, features.result, self.sights, self.motion, self.ignore
        )
        self._is_unsettled = True

    def _settle_keyframe(self, camera: Camera) -> None:
        """Adjust the map to the newest keyframe.

        It may be done one frame after the keyframe was made: both at once let that frame wait
        twice as long as a robot can afford. Where nearly every frame is a keyframe nothing would
        be gained, and the frame in between stands on a map that is worse (docs/results.md).
        """
        self._is_unsettled = False
        wrong = self._mapper.settle(camera.fx)
        self.sights = self.sights[~np.isin(self.sights.point, wrong)]

    def _place_again(self, frame: Frame) -> None:
        """The pose of a frame in the map that has been adjusted since it was solved."""
        guess = self.guess(frame.stamp_ns, self.sights, False)
        pose = self._tracker.solve(self.sights, self.map, frame.camera, guess)
        if pose is not None:
            self.motion.adjust(pose.T_odom_camera)

    def _reconnect(self, frame: Frame) -> None:
        """A map that was begun anew looks for the old one."""
        found = self._places.recognise(frame, self.ignore, self.motion)
        if found is None:
            return
        if not self.scale.promises_metres:
            ratio = unit_ratio(self.map, self.sights, self.motion.T_odom_camera, found)
            if ratio is None:
                return
            self._stretch(ratio, self.motion.T_odom_camera[:3, 3].copy())
        self._move(found.T_odom_camera @ se3.inverse(self.motion.T_odom_camera))
        self._is_adrift, self.map_id = False, self._home_id
        _log.info('the new map is joined to the old one')

    def _stretch(self, factor: float, about: np.ndarray) -> None:
        self.map.rescale(factor, about)
        self.waiting.rescale(factor, about)
        self.scale.stretch(factor, about)
        self.depths.stretch(factor)
        self.motion.adjust(_stretched(self.motion.T_odom_camera, factor, about))
        self.motion.rescale(factor)

    def _move(self, T_new_old: np.ndarray) -> None:
        self.map.move(T_new_old)
        self.waiting.move(T_new_old)
        self.scale.move(T_new_old)
        self.motion.move(T_new_old)


def _stretched(T: np.ndarray, factor: float, about: np.ndarray) -> np.ndarray:
    T = T.copy()
    T[:3, 3] = about + factor * (T[:3, 3] - about)
    return T
