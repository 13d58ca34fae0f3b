"""The depth and odometry network at work: any image of any camera in, metres out. Needs torch.

The picture is shrunk to about 256x192, where the network was trained. The answer stays that small:
it is what the network knows, and what a costmap wants. Torch's threads are left as they are found:
they belong to the program.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kpvo_ros.config.runtime import DepthConfig
from kpvo_ros.frontend.depth_map import LearnedDepth, picture_of, seen_by
from kpvo_ros.frontend.models import resolve_model
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.nets.depth_vo import KIND, DepthVoNet, load_depth_vo_net
from kpvo_ros.nets.precision import profits_from_bfloat16
from kpvo_ros.types import Frame

NAME = 'depth_vo'  # of the shipped weights in the manifest
_AREA_PX = 256 * 192  # of the picture that the network sees, about


class DepthModel:
    """A `frontend.depth_map.DepthSource` made of a `DepthVoNet`.

    Args:
        config: parameters.
        network: trained; the weights that `config` names by default.

    Raises:
        FrontendError: there are no such weights.
        NetworkError: the file is not that of such a network, or has the wrong hash.
    """

    def __init__(self, config: DepthConfig, network: DepthVoNet | None = None) -> None:
        if network is None:
            model = resolve_model(config.weights_path or NAME, KIND)
            network = load_depth_vo_net(model.path, model.sha256)
        coarse = config.precision == 'bfloat16' or (
            config.precision == 'auto' and profits_from_bfloat16(torch.device('cpu'))
        )
        self._network = network.fused(torch.bfloat16 if coarse else torch.float32)

    def look(self, frame: Frame, before: Frame | None = None) -> LearnedDepth:
        """See `DepthSource.look`."""
        other = frame if before is None else before
        width, height = network_size(frame.camera, self._network.config.patch_px)
        is_gray = frame.image.ndim == 2 or other.image.ndim == 2
        pictures = (picture_of(one, width, height, is_gray=is_gray) for one in (other, frame))
        camera0, camera1 = (seen_by(one.camera, width, height) for one in (other, frame))
        with torch.inference_mode():
            seen = self._network(*map(_tensor, pictures), _matrix(camera0), _matrix(camera1))
        T_camera_before = seen.T_1_0[0].double().numpy()
        return LearnedDepth(
            stamp_ns=frame.stamp_ns,
            frame_id=frame.frame_id,
            camera=camera1,
            depth_m=seen.depth1[0, 0].numpy(),
            sigma=seen.log_sigma1[0, 0].exp().numpy(),
            T_before_camera=np.eye(4) if before is None else _inverse(T_camera_before),
        )


def network_size(camera: Camera, patch_px: int) -> tuple[int, int]:
    """Width and height that the network sees of an image: whole patches, nearly its shape."""
    factor = np.sqrt(_AREA_PX / (camera.width * camera.height)) / patch_px
    width, height = (max(1, round(side * factor)) for side in (camera.width, camera.height))
    return patch_px * width, patch_px * height


def _tensor(picture: np.ndarray) -> Tensor:
    """(1, 1 or 3, H, W) in 0..1."""
    pixels = torch.from_numpy(picture).float() / 255.0
    return (pixels[None] if picture.ndim == 2 else pixels.permute(2, 0, 1))[None]


def _matrix(camera: Camera) -> Tensor:
    """(1, 3, 3)."""
    return torch.tensor(camera.K[None], dtype=torch.float32)


def _inverse(T: np.ndarray) -> np.ndarray:
    """Of a rigid motion that was rounded to single precision."""
    return se3.inverse(se3.from_rt(se3.nearest_rotation(T[:3, :3]), T[:3, 3]))
