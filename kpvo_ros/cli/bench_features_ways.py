"""kpvo bench features: the ways to extract keypoints that stand side by side.

The peers are OpenCV's, called as its users call them: the 1024 strongest responses of the image.
AKAZE and SIFT would stop short of that number on
many images, so their thresholds are lowered until the budget is used; that can only help them.
Everything else is what `frontend.load_extractor` gives for that name or path, as good as without
its even spread: on held-back photos the strongest match better (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import hashlib
from typing import Protocol

import cv2
import numpy as np

from kpvo_ros.config.frontend import FrontendConfig
from kpvo_ros.errors import KpvoError
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.frontend.gray import to_gray
from kpvo_ros.types import Features

BUDGET = 1024  # keypoints of an image
LEARNED = 'kpvo'  # the name of the shipped weights
_CELL_PX = 512  # of the even spread: of one cell the strongest keypoints count


class Way(Protocol):
    """Turns an image into at most `BUDGET` features."""

    def extract(self, image: np.ndarray) -> Features:
        """Detect and describe an image (H, W) or (H, W, 3) RGB uint8."""
        ...


class OpenCvWay:
    """A detector of OpenCV with its own descriptor.

    Args:
        detector: what detects and describes.
        root: descriptors become the square roots of their shares (RootSIFT).
    """

    def __init__(self, detector: cv2.Feature2D, root: bool = False) -> None:
        self._detector = detector
        self._root = root
        dtype = np.uint8 if detector.descriptorType() == cv2.CV_8U else np.float32
        self._none: np.ndarray = np.zeros((0, detector.descriptorSize()), dtype)

    def extract(self, image: np.ndarray) -> Features:
        """See `Way.extract`."""
        keypoints, descriptor = self._detector.detectAndCompute(to_gray(image), None)
        if descriptor is None or not len(keypoints):
            return Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), self._none)
        score = np.array([k.response for k in keypoints], np.float32)
        best = np.argsort(-score, kind='stable')[:BUDGET]
        xy = np.array([keypoints[i].pt for i in best], np.float32)
        return Features(xy, score[best], self._described(descriptor[best]))

    def _described(self, descriptor: np.ndarray) -> np.ndarray:
        if not self._root:
            return descriptor
        share = descriptor / np.maximum(descriptor.sum(1, keepdims=True), 1e-9)
        return np.sqrt(share).astype(np.float32)


PEERS: dict[str, Callable[[], Way]] = {
    'orb': lambda: OpenCvWay(cv2.ORB.create(nfeatures=BUDGET)),
    'akaze': lambda: OpenCvWay(cv2.AKAZE.create(threshold=0.0002)),
    'sift': lambda: OpenCvWay(_sift()),
    'rootsift': lambda: OpenCvWay(_sift(), root=True),
}
DEFAULT = (*PEERS, LEARNED)


@dataclasses.dataclass(frozen=True)
class Ways:
    """What can be measured, and what cannot.

    Attributes:
        extractors: by name.
        absent: why a way is left out, by name.
    """

    extractors: dict[str, Way]
    absent: dict[str, str]

    @property
    def learned(self) -> list[str]:
        """Names of those that are no peers."""
        return [name for name in self.extractors if name not in PEERS]


def load_ways(names: tuple[str, ...]) -> Ways:
    """The wanted ways.

    Args:
        names: peers, names of shipped weights, paths of weights; the default when empty.

    Raises:
        KpvoError: a way that was asked for by name cannot be had.
    """
    extractors: dict[str, Way] = {}
    absent: dict[str, str] = {}
    for name in names or DEFAULT:
        try:
            extractors[name] = PEERS[name]() if name in PEERS else _own(name)
        except (KpvoError, AttributeError) as error:  # OpenCV 5 has no AKAZE
            if names:
                raise
            absent[name] = str(error)
    return Ways(extractors, absent)


def fingerprint(way: Way, image: np.ndarray) -> str:
    """What a way finds in one image, as a digest; another one means the way has changed."""
    features = way.extract(image)
    digest = hashlib.sha256()
    for array in (features.xy, features.descriptor, features.image_descriptor):
        if array is not None:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------ private


def _sift() -> cv2.Feature2D:
    return cv2.SIFT.create(nfeatures=BUDGET, contrastThreshold=0.01)


def _own(name: str) -> Way:
    config = dataclasses.replace(
        FrontendConfig(), extractor=name, max_keypoints=BUDGET, grid_cell_px=_CELL_PX
    )
    return load_extractor(config)
