"""A node under test, a peer that talks to it over real DDS, and a scene with a known motion."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import gc
import threading
import time
from typing import Any

from builtin_interfaces.msg import Time
import cv2
import numpy as np
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
import rclpy.lifecycle
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

WAIT_S = 20.0
DEPTH_VO = {
    'scale__source': 'depth',
    'frames__tf_timeout_s': 0.0,
    'node__depth_wait_s': 1.0,
}  # answers at once
BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=50)
FRAME_NS = 33_333_333
START_NS = 1_700_000_000_000_000_000


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Poll until `condition()` is true; its value."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f'not within {timeout_s:g} s: {what}')


class Scene:
    """A textured wall 2 m away that a camera looking along base x passes sideways.

    The picture moves by `step_px` a frame, so the robot moves by step_px * depth / f to its
    right (base -y): a closed form for what the odometry has to find.
    """

    width, height, f = 320, 240, 200.0
    depth_m, step_px = 2.0, 3

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        noise = rng.integers(0, 256, (80, 500), dtype=np.uint8)
        wall = cv2.resize(noise, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
        self._wall = cv2.GaussianBlur(wall, (3, 3), 0)

    @property
    def step_m(self) -> float:
        return self.step_px * self.depth_m / self.f

    def pixels(self, index: int) -> np.ndarray:
        x = 20 + self.step_px * index
        return np.ascontiguousarray(self._wall[40 : 40 + self.height, x : x + self.width])

    @staticmethod
    def stamp_ns(index: float) -> int:
        return START_NS + round(index * FRAME_NS)

    def image(self, index: int, stamp_ns: int | None = None, frame_id: str = 'camera') -> Image:
        return self.message(self.pixels(index), 'mono8', self.at(index, stamp_ns), frame_id)

    def depth(self, index: int, stamp_ns: int | None = None) -> Image:
        depth_m = np.full((self.height, self.width), self.depth_m, np.float32)
        return self.message(depth_m, '32FC1', self.at(index, stamp_ns), 'camera')

    def mask(self, index: int, stamp_ns: int | None = None, left: int = 160) -> Image:
        """Everything left of a column is to be ignored."""
        pixels = np.zeros((self.height, self.width), np.uint8)
        pixels[:, :left] = 1
        return self.message(pixels, 'mono8', self.at(index, stamp_ns), 'camera')

    def info(self, index: int = 0, stamp_ns: int | None = None, **changes: Any) -> CameraInfo:
        message = CameraInfo(
            width=self.width,
            height=self.height,
            distortion_model='plumb_bob',
            d=[0.0] * 5,
            k=[self.f, 0.0, 159.5, 0.0, self.f, 119.5, 0.0, 0.0, 1.0],
        )
        message.header.stamp = stamp_message(self.at(index, stamp_ns))
        message.header.frame_id = 'camera'
        for name, value in changes.items():
            setattr(message, name, value)
        return message

    def at(self, index: int, stamp_ns: int | None) -> int:
        return self.stamp_ns(index) if stamp_ns is None else stamp_ns

    @staticmethod
    def message(pixels: np.ndarray, encoding: str, stamp_ns: int, frame_id: str) -> Image:
        message = Image(encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
        message.step = pixels.strides[0]
        message.data = pixels.tobytes()
        message.header.stamp = stamp_message(stamp_ns)
        message.header.frame_id = frame_id
        return message


def stamp_message(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def ns(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


class Peer:
    """The other side: publishes the scene, collects what comes back, calls services."""

    def __init__(self, node: Node, scene: Scene) -> None:
        self.node = node
        self.scene = scene
        self._publishers: dict[str, Any] = {}

    def collect(self, message_type: Any, topic: str, qos: QoSProfile = RELIABLE) -> list[Any]:
        """A list that fills; returns when a publisher is matched."""
        messages: list[Any] = []
        subscription = self.node.create_subscription(message_type, topic, messages.append, qos)
        wait_until(subscription.get_publisher_count, f'a publisher of {topic}')
        return messages

    def publisher(self, message_type: Any, topic: str, qos: QoSProfile = RELIABLE) -> Any:
        """A publisher that is matched; made once per topic."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(message_type, topic, qos)
        wait_until(self._publishers[topic].get_subscription_count, f'a listener on {topic}')
        return self._publishers[topic]

    def send(self, message: Any, topic: str, qos: QoSProfile = RELIABLE) -> None:
        self.publisher(type(message), topic, qos).publish(message)

    def show(
        self,
        index: int,
        stamp_ns: int | None = None,
        *,
        image: Image | None = None,
        with_depth: bool = True,
    ) -> None:
        """Publish depth, camera_info and image of one frame of the scene."""
        if with_depth:
            self.send(self.scene.depth(index, stamp_ns), 'depth')
        self.send(self.scene.info(index, stamp_ns), 'camera_info')
        self.send(image or self.scene.image(index, stamp_ns), 'image')

    def show_all(self, indices: Any, answers: list[Any], **options: Any) -> None:
        """Publish frames one by one, each after the answer to the one before."""
        for index in indices:
            count = len(answers)
            self.show(index, **options)
            wait_until(lambda count=count: len(answers) > count, f'an answer to frame {index}')

    def call(self, service: str, kind: Any = Trigger, request: Any = None) -> Any:
        """Response of a service."""
        client = self.node.create_client(kind, service)
        assert client.wait_for_service(WAIT_S), f'no service {service}'
        future = client.call_async(request or kind.Request())
        wait_until(future.done, f'an answer of {service}')
        return future.result()


class Stage:
    """Runs nodes in threads of one context."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.scene = Scene()
        self._running: list[tuple[Any, Any, threading.Thread]] = []
        self.peer = Peer(self.run(Node('peer', context=context)), self.scene)

    def run(self, node: Any) -> Any:
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(node)
        thread = threading.Thread(target=self._spin, args=(executor,), daemon=True)
        thread.start()
        self._running.append((node, executor, thread))
        return node

    def start(self, node_class: Any, *, active: bool = True, **parameters: Any) -> Any:
        """A node with parameters ('__' stands for '.'), configured and active unless told."""
        node = self.run(self.make(node_class, **parameters))
        if active:
            success = rclpy.lifecycle.TransitionCallbackReturn.SUCCESS
            assert node.trigger_configure() == success
            assert node.trigger_activate() == success
        return node

    def make(self, node_class: Any, **parameters: Any) -> Any:
        overrides = [
            Parameter(name.replace('__', '.'), value=value) for name, value in parameters.items()
        ]
        return node_class(context=self.context, parameter_overrides=overrides)

    def close(self) -> None:
        for node, executor, _ in reversed(self._running):
            executor.shutdown()
            node.destroy_node()
        for _, _, thread in self._running:
            thread.join(WAIT_S)
        self._running.clear()
        gc.collect()  # rcl keeps the /rosout publisher of a name until the last handle is gone

    @staticmethod
    def _spin(executor: Any) -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()
