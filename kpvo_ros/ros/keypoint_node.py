"""keypoint_node: images in, keypoints with descriptors out, for those who only want keypoints.

An extractor that describes whole images, for place recognition, has that published as well.
vo_node already publishes the keypoints it works with; do not run both on one camera.
"""

from __future__ import annotations

from collections.abc import Sequence
import sys
import time
from typing import Any

import numpy as np
from rclpy.publisher import Publisher
from sensor_msgs.msg import Image, PointCloud2

from kpvo_ros.config.runtime import KeypointConfig
from kpvo_ros.errors import BagError
from kpvo_ros.frontend.drawing import draw_features
from kpvo_ros.frontend.extractor import Extractor, load_extractor
from kpvo_ros.frontend.mask import IgnoredRegion
from kpvo_ros.frontend.process import use_threads
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.ros import convert
from kpvo_ros.ros.diagnostics import OK, DiagnosticStatus, package_version, status_message
from kpvo_ros.ros.node_base import SENSOR_QOS, ImageNode
from kpvo_ros.ros.runner import run

USAGE = (
    'keypoint_node takes only ROS arguments, for example:\n'
    '  keypoint_node --ros-args -r image:=/camera/image_raw -p frontend.extractor:=sift'
)


class KeypointNode(ImageNode):
    """Keypoints of every image as a managed node."""

    needs_camera_info = False

    def __init__(self, **node_options: Any) -> None:
        super().__init__('keypoint_node', KeypointConfig(), **node_options)
        self._extractor: Extractor | None = None
        self._ignored: IgnoredRegion | None = None
        self._place: Publisher | None = None
        self._debug: Publisher | None = None
        self._last: dict[str, str] = {}

    def load(self, config: Any) -> None:
        """Make the extractor and the publishers."""
        self._extractor = load_extractor(config.frontend)
        use_threads(config.frontend.threads)
        self._ignored = IgnoredRegion(config.frontend)
        self._keypoints = self.publish_on(PointCloud2, 'keypoints', SENSOR_QOS)
        # A look into the dark tells whether whole images are described, and warms a network up.
        dark: np.ndarray = np.zeros((64, 64), np.uint8)
        if self._extractor.extract(dark).image_descriptor is not None:
            self._place = self.publish_on(PointCloud2, 'image_descriptor', SENSOR_QOS)
        if config.node.publish_debug_image:
            self._debug = self.publish_on(Image, 'debug_image', SENSOR_QOS)

    def unload(self) -> None:
        """Forget the extractor."""
        self._extractor = None
        self._ignored = None
        self._place = None
        self._debug = None
        self._last = {}

    def process(self, message: Any, stamp_ns: int, camera: Camera | None) -> None:
        """One image: decode, extract, publish."""
        assert self._extractor is not None and self._ignored is not None
        frame_id = message.header.frame_id
        started_s = time.perf_counter()
        try:
            image = convert.image_from_message(message)
        except BagError as error:
            self.count_bad(str(error))
            return
        mask = self.mask_of(stamp_ns, image.shape)
        ignore = self._ignored.of_image(image.shape, mask=mask)
        features = self._extractor.extract(image, ignore)
        self.monitor.count('processed')
        step_ms = (time.perf_counter() - started_s) * 1e3
        self._last = {'keypoints': str(len(features)), 'step_ms': f'{step_ms:.2f}'}
        self._keypoints.publish(convert.keypoints_message(stamp_ns, frame_id, features))
        place = features.image_descriptor
        if self._place is not None and place is not None and self._place.get_subscription_count():
            self._place.publish(convert.image_descriptor_message(stamp_ns, frame_id, place))
        if self._debug is not None and self._debug.get_subscription_count():
            picture = draw_features(image, features, f'{len(features)} keypoints')
            self._debug.publish(convert.image_message(stamp_ns, frame_id, picture, 'rgb8'))

    def statuses(self) -> list[DiagnosticStatus]:
        """What was found in the last image."""
        name = '' if self._extractor is None else self._extractor.name
        values = {'extractor': name, **self._last, 'version': package_version()}
        message = f'{self._last["keypoints"]} keypoints' if self._last else 'no image yet'
        return [status_message(f'{self.get_name()}: keypoints', OK, message, values)]


def main(args: Sequence[str] | None = None) -> int:
    """Entry point of the executable."""
    return run(KeypointNode, args, USAGE)


if __name__ == '__main__':
    sys.exit(main())
