"""What all image nodes share: life cycle, newest-frame worker, diagnostics, quiet errors.

configure loads models and checks parameters, activate subscribes and starts the worker, after
deactivate nothing is published. The executor thread only stores the newest image; the algorithm
runs in the worker thread, and a camera that is too fast costs counted frames, not latency.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
import enum
import traceback
from typing import Any, ClassVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import (
    LifecycleNode,
    LifecyclePublisher,
    LifecycleState,
    TransitionCallbackReturn,
)
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.timer import Timer
from std_srvs.srv import Trigger

from kpvo_ros.bags.images import stamp_ns_of
from kpvo_ros.errors import BagError, KpvoError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.ros.convert import header_of
from kpvo_ros.ros.diagnostics import InputMonitor, input_status
from kpvo_ros.ros.image_input import ImageInput
from kpvo_ros.ros.mask_input import MaskInput
from kpvo_ros.ros.parameters import Parameters
from kpvo_ros.ros.stamp_gate import Admission, StampGate
from kpvo_ros.ros.worker import LatestWorker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
RELIABLE_QOS = QoSProfile(depth=10)  # Nav2 listens reliably; best effort would be silence
SENSOR_QOS = qos_profile_sensor_data

_WATCH_PERIOD_S = 1.0
_WARN_EVERY_S = 5.0
_FIRST_INFO_WAIT_S = 0.1


class Phase(enum.Enum):
    """Where the node is in its life."""

    UNCONFIGURED = 'unconfigured'
    INACTIVE = 'inactive'
    ACTIVE = 'active'
    PAUSED = 'paused'  # active, but images are left alone


class ImageNode(LifecycleNode, abc.ABC):
    """A managed node that works on the newest image.

    A child sets the class attributes and defines `load`, `unload` and `process`.

    Args:
        name: node name unless remapped.
        defaults: configuration record with a `node` section.
        node_options: passed to rclpy (context, namespace, cli_args...).
    """

    needs_camera_info: ClassVar[bool] = True
    live_parameters: ClassVar[tuple[str, ...]] = (
        'node.no_data_warning_s',
        'node.mask_wait_s',
        'node.mask_max_age_s',
    )

    def __init__(self, name: str, defaults: Any, **node_options: Any) -> None:
        super().__init__(
            name, automatically_declare_parameters_from_overrides=True, **node_options
        )
        self.parameters: Parameters[Any] = Parameters(
            self, defaults, self.live_parameters, fixed=('node.autostart',)
        )
        self.monitor = InputMonitor()
        self.phase = Phase.UNCONFIGURED
        self._gate = StampGate()
        self._worker: LatestWorker[Any] = LatestWorker(
            self._work, self._on_error, f'{name} worker'
        )
        self._input: ImageInput | None = None
        self._masks: MaskInput | None = None
        self._outputs: list[LifecyclePublisher] = []
        self._timers_active: list[Timer] = []
        self.create_service(Trigger, '~/pause', self._on_pause)
        self.create_service(Trigger, '~/resume', self._on_resume)

    # ---------------------------------------------------------------- what a child defines

    @abc.abstractmethod
    def load(self, config: Any) -> None:
        """Load models and create publishers with `publish_on`; may raise KpvoError."""

    def unload(self) -> None:
        """Let go of what `load` made, if it did; publishers are destroyed by the base."""

    def begin(self) -> None:
        """Create what exists only while active."""

    def end(self) -> None:
        """Destroy what `begin` created; the worker has ended."""

    def interrupt(self) -> None:
        """End waits inside `process`, so that the worker can stop."""

    @abc.abstractmethod
    def process(self, message: Any, stamp_ns: int, camera: Camera | None) -> None:
        """Work on one image (worker thread)."""

    def on_time_jump(self) -> None:
        """Forget what was stamped in the future (worker thread)."""

    def statuses(self) -> Iterable[DiagnosticStatus]:
        """Diagnostics besides the input's."""
        return ()

    # ------------------------------------------------------------------ what a child may use

    def publish_on(
        self, message_type: type, topic: str, qos: QoSProfile = RELIABLE_QOS
    ) -> LifecyclePublisher:
        """A publisher that is silent while the node is not active."""
        publisher = self.create_lifecycle_publisher(message_type, topic, qos)
        self._outputs.append(publisher)
        return publisher

    def count_bad(self, reason: str) -> None:
        """Count an image that cannot be used and say why, now and then."""
        self.monitor.count('bad', reason)
        self.get_logger().warning(f'image not used: {reason}', throttle_duration_sec=_WARN_EVERY_S)

    def mask_of(self, stamp_ns: int, size: tuple[int, ...]) -> np.ndarray | None:
        """(H, W) bool, True = ignore, of an image of that size; None without a mask."""
        if self._masks is None:
            return None
        return self._masks.take(stamp_ns, size, self.parameters.record.node)

    @property
    def is_active(self) -> bool:
        """Whether images are worked on."""
        return self.phase is Phase.ACTIVE

    # ------------------------------------------------------------------------- life cycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check parameters, load models, create publishers."""
        for problem in self.parameters.problems:
            self.get_logger().error(problem)
        if self.parameters.problems:
            return FAILURE
        config = self.parameters.record
        if not self._guarded('configure', lambda: self._set_up(config)):
            self._tear_down()
            return FAILURE
        self.parameters.lock(True)
        self.phase = Phase.INACTIVE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start to work."""
        result = super().on_activate(state)  # publishers first: the worker uses them
        self._gate.forget()
        if not self._guarded('activate', self._start):
            self._stop()
            super().on_deactivate(state)
            return FAILURE
        self.phase = Phase.ACTIVE
        self.get_logger().info(f'active: images from {self._image_input.topic}')
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop to work; what was learned is kept for the next activate."""
        self._stop()
        self.phase = Phase.INACTIVE
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of everything `configure` made."""
        result = super().on_cleanup(state)
        self._tear_down()
        return result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, from any state."""
        self._stop()
        result = super().on_shutdown(state)
        self._tear_down()
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        self._stop()
        self._tear_down()
        return SUCCESS

    def destroy_node(self) -> None:
        """End all threads before rclpy's handles go."""
        self._stop()
        self.unload()
        super().destroy_node()

    # ---------------------------------------------------------------------------- private

    @property
    def _image_input(self) -> ImageInput:
        assert self._input is not None, 'used before configure'
        return self._input

    def _set_up(self, config: Any) -> None:
        self._input = ImageInput(
            self, config.node.image_transport, self._on_image, self.needs_camera_info
        )
        self._masks = MaskInput(self) if config.node.use_mask else None
        self._diagnostics = self.publish_on(DiagnosticArray, '/diagnostics')
        self.load(config)

    def _tear_down(self) -> None:
        self.unload()
        for publisher in self._outputs:
            self.destroy_lifecycle_publisher(publisher)
        self._outputs.clear()
        self.parameters.lock(False)
        self._gate.forget()
        self.phase = Phase.UNCONFIGURED

    def _start(self) -> None:
        config = self.parameters.record.node
        self.monitor.restart()
        self._worker.start()
        self.begin()
        if self._masks is not None:
            self._masks.open()
        # Steady time: these must run when simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        for period_s, callback in (
            (config.diagnostics_period_s, self._publish_diagnostics),
            (_WATCH_PERIOD_S, self._watch),
        ):
            self._timers_active.append(self.create_timer(period_s, callback, clock=steady))
        self._image_input.open()

    def _stop(self) -> None:
        if self._input is not None:
            self._input.close()
        self.interrupt()
        if self._masks is not None:
            self._masks.interrupt()
        if not self._worker.stop():
            self.get_logger().error('the last image is still in work after 5 s')
        self.end()
        if self._masks is not None:
            self._masks.close()
        for timer in self._timers_active:
            self.destroy_timer(timer)
        self._timers_active.clear()

    def _guarded(self, what: str, action: Callable[[], None]) -> bool:
        """Run a transition; every failure becomes one line (rclpy would swallow it)."""
        try:
            action()
        except KpvoError as error:
            self.get_logger().error(f'cannot {what}: {error}')
            return False
        except Exception as error:
            self.get_logger().error(f'cannot {what}: {type(error).__name__}: {error}')
            self.get_logger().debug(traceback.format_exc())
            return False
        return True

    def _on_image(self, message: Any) -> None:
        self.monitor.count('received')
        if self.is_active:
            for _ in range(self._worker.offer(message)):
                self.monitor.count('dropped')

    def _work(self, message: Any) -> None:
        stamp_ns = stamp_ns_of(message.header)
        try:
            camera = (
                self._image_input.camera(_FIRST_INFO_WAIT_S) if self.needs_camera_info else None
            )
        except BagError as error:
            self.count_bad(str(error))
            return
        if camera is None and self.needs_camera_info:
            self.monitor.count('waiting', 'no camera_info')
            self.get_logger().warning(
                self._image_input.missing_camera_info(), throttle_duration_sec=_WARN_EVERY_S
            )
            return
        if self._admit(stamp_ns):
            try:
                self.process(message, stamp_ns, camera)
            except KpvoError as error:  # e.g. parameters that do not fit this image
                self.count_bad(str(error))

    def _admit(self, stamp_ns: int) -> bool:
        before_ns = self._gate.last_ns
        admission = self._gate.admit(stamp_ns)
        if admission is Admission.REPEATED:
            assert before_ns is not None
            self.monitor.count('repeated', 'stamp not later than the one before')
            self.get_logger().warning(
                f'image left out: its stamp is {(before_ns - stamp_ns) / 1e9:.3f} s before the '
                'last one; check the driver (stamps must grow)',
                throttle_duration_sec=_WARN_EVERY_S,
            )
            return False
        if admission is Admission.JUMPED_BACK:
            assert before_ns is not None
            self.get_logger().warning(
                f'time jumped back by {(before_ns - stamp_ns) / 1e9:.3f} s (a looped bag?); '
                'the state starts again from the pose held'
            )
            if self._masks is not None:
                self._masks.forget()
            self.on_time_jump()
        return True

    def _on_error(self, error: Exception) -> None:
        if not self.context.ok():
            return  # the middleware went away under the worker: the process is ending
        self.monitor.count('errors', f'{type(error).__name__}: {error}')
        self.get_logger().error(
            f'image lost by an error of the program ({type(error).__name__}: {error}); '
            'please report it, the log level debug shows where',
            throttle_duration_sec=_WARN_EVERY_S,
        )
        self.get_logger().debug(''.join(traceback.format_exception(error)))

    def _watch(self) -> None:
        limit_s = self.parameters.record.node.no_data_warning_s
        silence_s = self.monitor.silence_s
        if self.is_active and silence_s > limit_s:
            self.get_logger().warning(
                f'no image for {silence_s:.0f} s: {self._image_input.silence_cause()}',
                throttle_duration_sec=max(limit_s, _WARN_EVERY_S),
            )

    def _publish_diagnostics(self) -> None:
        now_ns = self.get_clock().now().nanoseconds
        last_ns = self._gate.last_ns
        age_s = None if last_ns is None else (now_ns - last_ns) / 1e9
        silent_after_s = self.parameters.record.node.no_data_warning_s
        name = self.get_name()
        first = input_status(name, self.monitor, age_s, silent_after_s)
        if self.phase is Phase.PAUSED:
            first.message = 'paused; call ~/resume'
        masks = [] if self._masks is None else [self._masks.status()]
        status = [first, *masks, *self.statuses()]
        self._diagnostics.publish(DiagnosticArray(header=header_of(now_ns, ''), status=status))

    def _on_pause(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._change_phase(response, Phase.ACTIVE, Phase.PAUSED)

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._change_phase(response, Phase.PAUSED, Phase.ACTIVE)

    def _change_phase(
        self, response: Trigger.Response, source: Phase, target: Phase
    ) -> Trigger.Response:
        if self.phase in (source, target):
            self.phase = target
            self._worker.clear()
            self.monitor.restart()
            response.success, response.message = True, target.value
        else:
            response.success = False
            response.message = f'the node is {self.phase.value}; activate it first'
        return response
