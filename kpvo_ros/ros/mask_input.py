"""The `mask` topic: what of each image is to be ignored, e.g. people found by a segmentation.

A mask carries the stamp of its image. One that does not come in time is replaced by the nearest
one that is not too old: things move little between frames, and a hole where a person stands is
worse than one a step beside her.
"""

from __future__ import annotations

from collections import Counter

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from kpvo_ros.config.runtime import NodeConfig
from kpvo_ros.errors import BagError
from kpvo_ros.ros import convert
from kpvo_ros.ros.diagnostics import OK, WARN, status_message
from kpvo_ros.ros.image_input import subscribe
from kpvo_ros.ros.stamp_buffer import StampBuffer

_SAME_NS = 5_000_000  # stamps that differ by less are of one image
_WARN_EVERY_S = 5.0


class MaskInput:
    """Masks by the stamp of their image.

    Args:
        node: who subscribes to `mask`.

    Attributes:
        counts: images by what was done: 'own' mask, 'older' mask of another image, 'none' at all,
            or 'bad' mask that could not be used.
    """

    def __init__(self, node: Node) -> None:
        self.counts: Counter[str] = Counter(own=0, older=0, none=0, bad=0)
        self._node = node
        self._messages = StampBuffer()
        self._subscription: Subscription | None = None
        self._last = ''
        self._last_reason = ''

    def open(self) -> None:
        """Subscribe."""
        self._messages.close(False)
        self._subscription = subscribe(self._node, Image, 'mask', self._messages.add)

    def interrupt(self) -> None:
        """Do not wait for a mask any longer."""
        self._messages.close()

    def close(self) -> None:
        """Unsubscribe and forget."""
        self.interrupt()
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        self._messages.clear()

    def forget(self) -> None:
        """Forget masks of another time."""
        self._messages.clear()

    def take(self, stamp_ns: int, size: tuple[int, ...], config: NodeConfig) -> np.ndarray | None:
        """(H, W) bool, True = ignore, for the image of a stamp; None without a usable mask.

        Args:
            stamp_ns: stamp of the image.
            size: its height and width.
            config: how long to wait, and how old a mask may be.
        """
        age_ns = int(config.mask_max_age_s * 1e9)
        fallback = self._messages.nearest(stamp_ns, max(age_ns, _SAME_NS))
        # Nobody who sends no masks at all is waited for.
        wait_s = 0.0 if fallback is None else config.mask_wait_s
        found = self._messages.take(stamp_ns, _SAME_NS, wait_s)
        if found is not None:
            return self._use(found, size, 'own')
        fallback = self._messages.nearest(stamp_ns, age_ns)
        if fallback is not None:
            return self._use(fallback, size, 'older')
        self._note('none', self._nothing(config.mask_max_age_s))
        return None

    def status(self) -> DiagnosticStatus:
        """Counts, and a warning as long as images go without their mask."""
        message = {'': 'no image yet', 'own': 'masks arrive', 'older': 'masks come too late'}
        values = {key: str(count) for key, count in self.counts.items()}
        return status_message(
            f'{self._node.get_name()}: mask',
            OK if self._last in ('', 'own', 'older') else WARN,
            message.get(self._last, self._last_reason),
            {**values, 'last_reason': self._last_reason},
        )

    def _use(self, message: Image, size: tuple[int, ...], kind: str) -> np.ndarray | None:
        try:
            mask = convert.mask_from_message(message)
        except BagError as error:
            self._note('bad', f'mask not used: {error}')
            return None
        if mask.shape != size[:2]:
            self._note(
                'bad',
                f'mask not used: it is {mask.shape[1]}x{mask.shape[0]} but the image is '
                f'{size[1]}x{size[0]}; publish it in the size of the image',
            )
            return None
        self._note(kind)
        return mask

    def _nothing(self, max_age_s: float) -> str:
        name = self._node.resolve_topic_name('mask')
        return (
            f'no mask on {name} within {max_age_s:g} s of the image '
            f'({self._node.count_publishers(name)} publishers); remap mask or raise '
            'node.mask_max_age_s'
        )

    def _note(self, kind: str, reason: str = '') -> None:
        self._last = kind
        self.counts[kind] += 1
        if reason:
            self._last_reason = reason
            self._node.get_logger().warning(reason, throttle_duration_sec=_WARN_EVERY_S)
