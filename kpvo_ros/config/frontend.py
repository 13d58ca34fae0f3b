"""Parameters of the front end: keypoints of one image."""

from __future__ import annotations

import dataclasses

from kpvo_ros.config.schema import parameter


@dataclasses.dataclass(frozen=True)
class FrontendConfig:
    """Keypoints of one image."""

    extractor: str = parameter(
        'orb',
        'Keypoint method: orb is fastest, sift matches best over large motion but costs 5 times '
        'more, kpvo is learned and needs torch.',
        choices=('orb', 'akaze', 'sift', 'kpvo'),
    )
    weights_path: str = parameter(
        '',
        'Weights (.safetensors) of extractor kpvo, for those of your own training; empty takes '
        'the ones that came with the package.',
    )
    precision: str = parameter(
        'auto',
        'Of extractor kpvo: auto computes in bfloat16 on a processor that multiplies it in '
        'hardware (AMX, AVX512-BF16), twice as fast there; float32 to compare computers.',
        choices=('auto', 'float32', 'bfloat16'),
    )
    max_side_px: int = parameter(
        1280,
        'Extractor kpvo shrinks images with a longer side; lower it on a slow computer.',
        low=64,
        high=8192,
    )
    max_keypoints: int = parameter(
        1000, 'Keypoints kept per image; lower it on a slow computer.', low=50, high=10000
    )
    grid_cell_px: int = parameter(
        20,
        'Keypoints are spread evenly over square cells of this size; larger keeps stronger ones.',
        low=8,
        high=512,
    )
    roi: tuple[float, ...] = parameter(
        (0.0, 0.0, 1.0, 1.0),
        'Left, top, right and bottom of the part of the image that is used, as shares of its '
        'width and height; cut off what shows the robot itself.',
        low=0.0,
        high=1.0,
    )
    body_mask_path: str = parameter(
        '',
        "PNG of the image's shape whose non-zero pixels are ignored, for a robot's body that is "
        'no rectangle; empty for none.',
    )
    max_angle_deg: float = parameter(
        75.0,
        'Pixels that look further off the optical axis than this are ignored; lower it when a '
        'fisheye is blurred or badly calibrated towards its rim.',
        low=5.0,
        high=85.0,
    )
    threads: int = parameter(
        2, 'Threads of OpenCV; set it to the cores you can spare.', low=1, high=64
    )
