"""Keypoints and descriptors behind one interface, spread evenly over the image.

`load_extractor` is the only way to get one, so that callers never learn which method runs.
The learned one is in `frontend.learned`; the methods here are OpenCV's: ORB (Rublee 2011), AKAZE
(Alcantarilla 2013), SIFT (Lowe 2004; descriptors are returned as RootSIFT, Arandjelovic 2012, so
that cosine similarity applies).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import cv2
import numpy as np

from kpvo_ros.config.frontend import FrontendConfig
from kpvo_ros.errors import FrontendError
from kpvo_ros.frontend.gray import to_gray
from kpvo_ros.frontend.mask import allowed
from kpvo_ros.frontend.models import SUFFIX
from kpvo_ros.frontend.spread import spread_evenly
from kpvo_ros.types import Features

LEARNED = 'kpvo'
_MIN_SIDE_PX = 16  # of an image; no detector looks closer to the border, some crash on less


class Extractor(Protocol):
    """Turns an image into `Features`."""

    name: str

    def extract(self, image: np.ndarray, ignore: np.ndarray | None = None) -> Features:
        """Detect and describe.

        Args:
            image: (H, W) or (H, W, 3) RGB uint8.
            ignore: (H, W) bool, True where no keypoint may lie (see `frontend.mask`); None
                allows the whole image.

        Returns:
            At most `max_keypoints` features; none on an image without texture.

        Raises:
            FrontendError: the array is not such an image, or the mask not of its size.
        """
        ...


def load_extractor(config: FrontendConfig) -> Extractor:
    """The extractor that `config.extractor` names: a method, or the path of weights.

    Raises:
        FrontendError: there is no such method, or it is not installed.
        NetworkError: the weights cannot be used.
    """
    if config.extractor in _DETECTORS:
        return OpenCvExtractor(config)
    if config.extractor != LEARNED and not config.extractor.endswith(SUFFIX):
        raise FrontendError(
            f'frontend.extractor {config.extractor!r} is unknown; give one of '
            f'{", ".join([*_DETECTORS, LEARNED])} or the path of a {SUFFIX} file'
        )
    # Late, so that a robot with classical keypoints need not have torch.
    try:
        from kpvo_ros.frontend.learned import LearnedExtractor
    except ModuleNotFoundError as error:
        raise FrontendError(
            f'frontend.extractor {config.extractor!r} needs {error.name}; install it (pip install '
            'torch safetensors) or give orb'
        ) from None
    return LearnedExtractor(config)


class OpenCvExtractor:
    """ORB, AKAZE or SIFT with even coverage.

    More than the wanted number is detected, then the weaker of crowded cells are dropped, and only
    the survivors are described: description is the expensive half.
    """

    def __init__(self, config: FrontendConfig) -> None:
        self.name = config.extractor
        self._max_keypoints = config.max_keypoints
        self._cell_px = config.grid_cell_px
        self._detector = _DETECTORS[config.extractor](2 * config.max_keypoints)
        self._is_binary = config.extractor != 'sift'
        self._empty: np.ndarray = np.zeros((0, self._detector.descriptorSize()), self._dtype)

    def extract(self, image: np.ndarray, ignore: np.ndarray | None = None) -> Features:
        """See `Extractor.extract`."""
        gray = to_gray(image)
        keypoints = self._detect(gray, ignore) if min(gray.shape) >= _MIN_SIDE_PX else ()
        if not keypoints:
            return self._no_features()
        xy = np.array([k.pt for k in keypoints], np.float32)
        score = np.array([k.response for k in keypoints], np.float32)
        kept = spread_evenly(xy, score, gray.shape, self._cell_px, self._max_keypoints)
        keypoints, descriptor = self._detector.compute(gray, [keypoints[i] for i in kept])
        if descriptor is None or not len(keypoints):
            return self._no_features()
        xy = np.array([k.pt for k in keypoints], np.float32)
        score = np.array([k.response for k in keypoints], np.float32)
        return Features(xy, score, self._normalised(descriptor))

    def _detect(self, gray: np.ndarray, ignore: np.ndarray | None) -> Sequence[cv2.KeyPoint]:
        """Keypoints where they are allowed; the detector itself looks away elsewhere.

        So as many are found as in an unmasked image, and no texture is cut at the mask's edge.
        """
        if ignore is None:
            return self._detector.detect(gray, None)
        if ignore.shape != gray.shape:
            raise FrontendError(f'mask {ignore.shape} is not of the size of image {gray.shape}')
        keypoints = self._detector.detect(gray, np.where(ignore, np.uint8(0), np.uint8(255)))
        if not keypoints:
            return ()
        # On the upper levels of a pyramid the detector's mask is a coarse one.
        kept = allowed(np.array([k.pt for k in keypoints]), ignore)
        return [keypoint for keypoint, keep in zip(keypoints, kept, strict=True) if keep]

    @property
    def _dtype(self) -> type:
        return np.uint8 if self._is_binary else np.float32

    def _normalised(self, descriptor: np.ndarray) -> np.ndarray:
        if self._is_binary:
            return descriptor
        l1 = np.maximum(np.abs(descriptor).sum(1, keepdims=True), 1e-9)
        return np.sqrt(descriptor / l1).astype(np.float32)

    def _no_features(self) -> Features:
        return Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), self._empty)


def _orb(count: int) -> cv2.Feature2D:
    # A low threshold lets dim cells speak; the spread keeps the strong ones elsewhere.
    return cv2.ORB.create(nfeatures=count, scaleFactor=1.2, nlevels=8, fastThreshold=10)


def _akaze(count: int) -> cv2.Feature2D:
    if not hasattr(cv2, 'AKAZE'):
        raise FrontendError(
            f'akaze is not in OpenCV {cv2.__version__}: use frontend.extractor=orb or sift, '
            'or install opencv below 5'
        )
    return cv2.AKAZE.create(threshold=0.0003)


def _sift(count: int) -> cv2.Feature2D:
    # SIFT finds all before it drops the weak ones: dropping none costs nothing and serves cells
    # that have nothing strong.
    return cv2.SIFT.create(contrastThreshold=0.02)


_DETECTORS: dict[str, Callable[[int], cv2.Feature2D]] = {
    'orb': _orb,
    'akaze': _akaze,
    'sift': _sift,
}
