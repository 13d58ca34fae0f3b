"""Camera intrinsics as they are written down in the wild, turned into one `Camera`.

Every road into the package (CameraInfo messages, YAML files, data set calibration files) ends in
`build_camera`, so that the names of distortion models and the number of coefficients are
interpreted in one place. Intrinsics that cannot be meant (zero, NaN) raise `BagError`.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

from kpvo_ros.errors import BagError, GeometryError
from kpvo_ros.geometry.camera import Camera, DistortionModel

_MAX_SIDE = 1 << 16


def build_camera(
    width: int,
    height: int,
    fx_fy_cx_cy: Sequence[float],
    model_name: str,
    distortion: Sequence[float],
    where: str,
) -> Camera:
    """Make a `Camera` from numbers somebody wrote down.

    Coefficients missing at the end count as zero (plumb_bob is often written with four), zeros
    beyond the model's own are dropped, and a polynomial of nothing but zeros becomes
    `DistortionModel.NONE`, which is faster to work with.

    Args:
        width: image width, pixels.
        height: image height, pixels.
        fx_fy_cx_cy: focal lengths and principal point, pixels.
        model_name: name of the distortion model in any common spelling.
        distortion: its coefficients, in the model's order.
        where: what the numbers were read from, for the error message.

    Raises:
        BagError: the numbers are not those of a calibrated camera.
    """
    fx, fy, cx, cy = (float(v) for v in fx_fy_cx_cy)
    coefficients = [float(v) for v in distortion]
    if not all(math.isfinite(v) for v in [fx, fy, cx, cy, *coefficients]):
        raise BagError(f'{where} holds NaN or infinite intrinsics: calibrate the camera')
    if not (fx or fy):
        raise BagError(
            f'{where} is uncalibrated (focal length zero): calibrate the camera or pass intrinsics'
        )
    if max(width, height) > _MAX_SIDE:
        raise BagError(f'{where} claims an image of {width}x{height}: check width and height')
    try:
        model, coefficients = _fit_model(model_name, coefficients)
        return Camera(int(width), int(height), fx, fy, cx, cy, model, tuple(coefficients))
    except GeometryError as error:
        raise BagError(f'{where}: {error}') from None


def _fit_model(name: str, coefficients: list[float]) -> tuple[DistortionModel, list[float]]:
    """The model and exactly as many coefficients as it takes."""
    model = DistortionModel.parse(name)
    is_fisheye = model is DistortionModel.EQUIDISTANT and bool(coefficients)
    if not any(coefficients) and not is_fisheye:  # a fisheye without corrections still bends rays
        return DistortionModel.NONE, []
    last_used = max((i for i, v in enumerate(coefficients) if v != 0.0), default=0)
    if model is DistortionModel.PLUMB_BOB and last_used >= model.size:
        model = DistortionModel.RATIONAL  # OpenCV's one list of coefficients, cut where it ends
    count = model.size
    if last_used >= count:
        raise GeometryError(
            f'{last_used + 1} distortion coefficients are more than the {count} of '
            f'{model.value!r}: name the right distortion_model'
        )
    return model, (coefficients + [0.0] * count)[:count]
