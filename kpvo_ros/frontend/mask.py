"""Where an image must not be looked at: the robot's own body, what the user masks, a lens's rim.

Masks are (H, W) bool with True for "ignore", the sense of the `mask` topic (non-zero = ignore).
None stands for a mask that ignores nothing, so that the common camera pays nothing.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from kpvo_ros.config.runtime import FrontendConfig
from kpvo_ros.errors import FrontendError
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.types import Frame

_ASPECT_TOLERANCE = 0.01  # relative; a thumbnail's size is rounded to whole pixels


class IgnoredRegion:
    """Joins what is ignored in every image with the mask of a single one.

    Args:
        config: `roi`, `body_mask_path` and `max_angle_deg` are used.

    Raises:
        FrontendError: the region is empty, or the picture of the body cannot be read.
    """

    def __init__(self, config: FrontendConfig) -> None:
        left, top, right, bottom = config.roi
        if not (left < right and top < bottom):
            raise FrontendError(
                f'frontend.roi {list(config.roi)} is empty; give left top right bottom, 0 0 1 1 '
                'is the whole image'
            )
        self._roi = config.roi
        self._path = config.body_mask_path
        self._body = _read_body(config.body_mask_path) if config.body_mask_path else None
        self._max_angle_rad = float(np.deg2rad(config.max_angle_deg))
        self._known: tuple[tuple[int, int], Camera | None] | None = None
        self._static: np.ndarray | None = None

    def of(self, frame: Frame) -> np.ndarray | None:
        """(H, W) bool, True = ignore, for a frame; None when nothing is ignored.

        Raises:
            FrontendError: the picture of the body has another aspect ratio than the image, the
                frame's mask has another size, or the parameters leave nothing of the image.
        """
        return self.of_image(frame.gray.shape, frame.camera, frame.mask)

    def of_image(
        self, shape: tuple[int, ...], camera: Camera | None = None, mask: np.ndarray | None = None
    ) -> np.ndarray | None:
        """The same for an image of `shape` (H, W, ...), of which the camera may be unknown.

        The answer is read only: it may be the mask itself, or shared by many images.
        """
        size = (shape[0], shape[1])
        if mask is not None and mask.shape != size:
            raise FrontendError(
                f'mask is {mask.shape[1]}x{mask.shape[0]} but the image is {size[1]}x{size[0]}; '
                'publish it in the size of the image'
            )
        if self._known != (size, camera):
            self._static = self._make_static(size, camera)
            self._known = (size, camera)
        if mask is None or not mask.any():
            return self._static
        return mask if self._static is None else self._static | mask

    def _make_static(self, size: tuple[int, int], camera: Camera | None) -> np.ndarray | None:
        ignore = _outside(self._roi, size)
        if self._body is not None:
            ignore |= _fitted(self._body, size, self._path)
        if camera is not None:
            ignore |= _beyond(camera, self._max_angle_rad)
        if ignore.all():
            raise FrontendError(
                'frontend.roi, body_mask_path and max_angle_deg leave nothing of the image; is '
                'the mask inverted? (non-zero = ignore)'
            )
        return ignore if ignore.any() else None


def allowed(xy: np.ndarray, ignore: np.ndarray | None) -> np.ndarray:
    """Which pixels may be used: those on the image that are not ignored.

    Args:
        xy: (N, 2) pixels; NaN and places outside the image are not allowed.
        ignore: (H, W) bool, True = ignore; None allows everything, wherever it is.

    Returns:
        (N,) bool.
    """
    if ignore is None:
        return np.ones(len(xy), bool)
    height, width = ignore.shape
    nearest = np.floor(np.nan_to_num(xy, nan=-1.0, posinf=-1.0, neginf=-1.0) + 0.5)
    inside = ((nearest >= 0) & (nearest < (width, height))).all(axis=1)
    column, row = np.where(inside[:, None], nearest, 0.0).astype(np.intp).T
    return inside & ~ignore[row, column]


def _outside(roi: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels whose centre lies outside a region given in shares of the image."""
    left, top, right, bottom = roi
    row, column = ((np.arange(count) + 0.5) / count for count in size)
    used_rows = (row >= top) & (row <= bottom)
    used_columns = (column >= left) & (column <= right)
    return ~(used_rows[:, None] & used_columns)


def _read_body(path: str) -> np.ndarray:
    """(H, W) bool of a picture, True where any colour is not zero; transparency says nothing."""
    try:
        data = np.frombuffer(Path(path).expanduser().read_bytes(), np.uint8)
    except OSError as error:
        raise FrontendError(
            f'frontend.body_mask_path {path!r} cannot be read ({error.strerror}); give the path '
            'of a PNG, or leave it empty'
        ) from None
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if picture is None:
        raise FrontendError(
            f'frontend.body_mask_path {path!r} is not an image; save the mask as a PNG'
        )
    picture = np.atleast_3d(picture)[..., :3]
    return np.logical_or.reduce(picture != 0, axis=2)


def _fitted(body: np.ndarray, size: tuple[int, int], path: str) -> np.ndarray:
    """The picture of the body in the size (height, width) of an image."""
    height, width = size
    if abs(body.shape[1] * height / (body.shape[0] * width) - 1.0) > _ASPECT_TOLERANCE:
        raise FrontendError(
            f'frontend.body_mask_path {path!r} is {body.shape[1]}x{body.shape[0]}, not of the '
            f'shape of the image {width}x{height}; draw it on an image of this camera'
        )
    # Where several pixels become one, a single one of the body spoils it.
    method = cv2.INTER_AREA if width < body.shape[1] else cv2.INTER_NEAREST
    return cv2.resize(body.astype(np.float32), (width, height), interpolation=method) > 0


def _beyond(camera: Camera, max_angle_rad: float) -> np.ndarray:
    """(H, W) bool: pixels that look further off the axis, or nowhere at all."""
    limit = np.cos(max_angle_rad)
    if (camera.rays(_rim(camera))[:, 2] >= limit).all():  # what the rim does not see, nobody does
        return np.zeros((camera.height, camera.width), bool)
    return ~(camera.rays(camera.pixel_centers())[..., 2] >= limit)


def _rim(camera: Camera) -> np.ndarray:
    """(N, 2) outermost pixels."""
    right, bottom = camera.width - 1.0, camera.height - 1.0
    x, y = np.arange(camera.width, dtype=np.float64), np.arange(camera.height, dtype=np.float64)
    edges = [(x, np.zeros_like(x)), (x, np.full_like(x, bottom))]
    edges += [(np.zeros_like(y), y), (np.full_like(y, right), y)]
    return np.concatenate([np.column_stack(edge) for edge in edges])
