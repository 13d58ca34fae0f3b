"""The keypoint network as an extractor. The only module of the front end that needs torch.

It leaves torch's threads as it finds them: they belong to the program.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from kpvo_ros.config.frontend import FrontendConfig
from kpvo_ros.errors import FrontendError
from kpvo_ros.frontend.gray import to_gray
from kpvo_ros.frontend.models import resolve_model
from kpvo_ros.nets.detection import detect, sample_descriptors, textured
from kpvo_ros.nets.keypoint import KIND, MIN_SIDE_PX, KeypointNet, load_keypoint_net
from kpvo_ros.nets.precision import profits_from_bfloat16
from kpvo_ros.types import Features


class LearnedExtractor:
    """Keypoints, 64-d descriptors and an image descriptor of a `KeypointNet`.

    Args:
        config: parameters.
        network: trained; the weights that `config` names by default.

    Raises:
        FrontendError: there are no such weights.
        NetworkError: the file is not that of a keypoint network, or has the wrong hash.
    """

    def __init__(self, config: FrontendConfig, network: KeypointNet | None = None) -> None:
        self.name = config.extractor
        if network is None:
            model = resolve_model(config.weights_path or config.extractor, KIND)
            network = load_keypoint_net(model.path, model.sha256)
        coarse = config.precision == 'bfloat16' or (
            config.precision == 'auto' and profits_from_bfloat16(torch.device('cpu'))
        )
        self._network = network.fused(torch.bfloat16 if coarse else torch.float32)
        self._config = config

    def extract(self, image: np.ndarray, ignore: np.ndarray | None = None) -> Features:
        """See `Extractor.extract`; the image descriptor is there even without keypoints."""
        gray = to_gray(image)
        if ignore is not None and ignore.shape != gray.shape:
            raise FrontendError(f'mask {ignore.shape} is not of the size of image {gray.shape}')
        if min(gray.shape) < MIN_SIDE_PX:
            return self._no_features()
        small = _shrunk(gray, self._config.max_side_px)
        if min(small.shape) < MIN_SIDE_PX:  # a ribbon
            return self._no_features()
        with torch.inference_mode():
            return self._look(small, gray.shape, ignore)

    def _look(
        self, gray: np.ndarray, shape: tuple[int, ...], ignore: np.ndarray | None
    ) -> Features:
        """Features in pixels of the original image of `shape`."""
        image = torch.from_numpy(gray)[None, None].float() / 255.0
        maps = self._network(image)
        allowed = textured(image)
        scale = np.array([shape[1] / gray.shape[1], shape[0] / gray.shape[0]])
        if ignore is not None:
            allowed &= _everywhere_allowed(ignore, gray.shape)
        [(xy, score)] = detect(
            maps.logits,
            self._config.max_keypoints,
            cell_px=max(1, round(self._config.grid_cell_px / scale[0])),
            allowed=allowed,
        )
        descriptor = sample_descriptors(maps.descriptor, xy[None])[0]
        pixels = ((xy.numpy() + 0.5) * scale - 0.5).astype(np.float32)
        return Features(
            pixels, score.numpy(), descriptor.numpy(), maps.image_descriptor[0].numpy()
        )

    def _no_features(self) -> Features:
        size = self._network.config.descriptor_size
        return Features(
            np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, size), np.float32)
        )


def _shrunk(gray: np.ndarray, max_side_px: int) -> np.ndarray:
    """The image, smaller when a side is longer than allowed."""
    factor = max_side_px / max(gray.shape)
    if factor >= 1.0:
        return gray
    height, width = (max(1, round(side * factor)) for side in gray.shape)
    return cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA)


def _everywhere_allowed(ignore: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """(1, H, W) bool: pixels of a smaller image that show nothing ignored."""
    if ignore.shape == shape:
        return torch.from_numpy(~ignore)[None]
    share = cv2.resize(ignore.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(share == 0.0)[None]
