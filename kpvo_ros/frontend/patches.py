"""Where exactly a point is: its first sight, as it should look now, laid over the new image.

Optical flow from image to image forgets where a point began; every step adds its error, and a
track on a depth edge slides along with it. Here the patch of the keyframe is bent as pose and
depth say it should look by now, then aligned with the new image by Lucas-Kanade (the feature
alignment of SVO, Forster 2014). That takes the drift out, and a point that has to move far for it
was not where the flow took it: a slid track.

The bent patches lie side by side in one picture, so that one call of OpenCV aligns them all.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import cv2
import numpy as np

from kpvo_ros.config.runtime import TrackingConfig
from kpvo_ros.frontend.brightness import match_values
from kpvo_ros.geometry.camera import Camera

_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.02)
_SPARE_PX = 2  # around a patch, for its gradient and for pixels between pixels
_REACH_PX = 4.0  # over which the bending of a patch is measured
_MAX_STRETCH = 3.0  # beyond, a patch shows other things than before, or too little
# Of points truly visible 88 in 100 are as like, of points hidden 3 in 100.
_MIN_LIKENESS = 0.8
_SPARSE = np.arange(-4.0, 5.0, 2.0, dtype=np.float32)  # pixels compared for brightness


@dataclasses.dataclass(frozen=True)
class FirstSights:
    """How points looked when they were first seen, and how that has been bent since.

    Attributes:
        images: grey keyframes (H, W) uint8.
        image: (N,) int which of them shows point n.
        xy: (N, 2) pixels there.
        warp: (N, 2, 2) d pixel now / d pixel there, see `patch_warp`; NaN where unknown.
    """

    images: Sequence[np.ndarray]
    image: np.ndarray
    xy: np.ndarray
    warp: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, chosen: np.ndarray) -> FirstSights:
        return FirstSights(self.images, self.image[chosen], self.xy[chosen], self.warp[chosen])


class PatchRefiner:
    """Aligns points with their first sights."""

    def __init__(self, config: TrackingConfig) -> None:
        self._window = (config.flow_refine_px, config.flow_refine_px)
        self._max_move_px = config.patch_max_move_px
        self._half = config.flow_refine_px // 2 + _SPARE_PX
        self._tile = 2 * self._half + 1

    def refine(
        self, first: FirstSights, gray: np.ndarray, xy_guess: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Align points with what they looked like at first.

        Args:
            first: N first sights.
            gray: (H, W) uint8 the new image.
            xy_guess: (N, 2) pixels there, good to a pixel or two.

        Returns:
            (N, 2) float32 refined pixels, and (N,) bool whether each point looks as it should near
            its guess. A point whose patch cannot be bent (NaN, or stretched too far) keeps
            its guess and counts as good.
        """
        xy = np.array(xy_guess, np.float32)
        ok = np.ones(len(xy), bool)
        usable = np.flatnonzero(_is_modest(first.warp))
        if len(usable):
            _, moved, good = self._place(first[usable], gray, xy[usable], self._max_move_px)
            ok[usable] = good
            xy[usable[good]] = moved[good]
        return xy, ok

    def find_again(
        self,
        first: FirstSights,
        gray: np.ndarray,
        xy_expected: np.ndarray,
        reach_px: float = 3.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find points that nobody followed where they should be by the pose of the image.

        Nothing vouches for such a point but its looks, so these are compared as well: what got
        hidden, or cannot be bent, is not found.

        Args:
            first: N first sights.
            gray: (H, W) uint8 the new image.
            xy_expected: (N, 2) pixels there, NaN for nowhere.
            reach_px: how far from there they may be; beyond some pixels fewer are found.

        Returns:
            (N, 2) float32 pixels, and (N,) bool which points were found.
        """
        xy = np.array(xy_expected, np.float32)
        ok = np.zeros(len(xy), bool)
        usable = np.flatnonzero(_is_modest(first.warp) & _is_inside(xy, gray.shape))
        if len(usable):
            patches, moved, good = self._place(first[usable], gray, xy[usable], reach_px)
            good &= _is_inside(moved, gray.shape)
            if good.any():
                likeness = self._likeness(patches[good], gray, moved[good])
                good[good] = likeness > _MIN_LIKENESS
            ok[usable] = good
            xy[usable[good]] = moved[good]
        return xy, ok

    def _place(
        self, first: FirstSights, gray: np.ndarray, xy: np.ndarray, reach_px: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bent patches, where they fit, and whether that is within reach of `xy`."""
        patches = self._bend(first, gray, xy)
        moved, found = self._align(patches, gray, xy)
        return patches, moved, found & (np.linalg.norm(moved - xy, axis=1) < reach_px)

    def _bend(self, first: FirstSights, gray: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """(N, S, S) uint8 first sights as they should look in the new image."""
        side = self._tile
        patches = np.empty((len(xy), side, side), np.uint8)
        offsets = np.arange(-self._half, self._half + 1, dtype=np.float32)
        unwarp = _inverse(first.warp)
        for index in np.unique(first.image):
            mine = np.flatnonzero(first.image == index)
            image, there = first.images[index], first.xy[mine]
            before = _sample(image, there, unwarp[mine], _SPARSE)
            table = match_values(before, _sample(gray, xy[mine], _straight(len(mine)), _SPARSE))
            bent = cv2.LUT(_sample(image, there, unwarp[mine], offsets), table)
            patches[mine] = bent.reshape(-1, side, side)
        return patches

    def _align(
        self, patches: np.ndarray, gray: np.ndarray, xy: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lucas-Kanade from the middles of the patches to the new image."""
        sheet, middle = _lay_out(patches, gray.shape)
        below, right = sheet.shape[0] - gray.shape[0], sheet.shape[1] - gray.shape[1]
        if below or right:  # OpenCV wants images of one size
            gray = cv2.copyMakeBorder(gray, 0, below, 0, right, cv2.BORDER_REPLICATE)
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            sheet,
            gray,
            middle,
            xy.copy(),  # OpenCV writes into it
            winSize=self._window,
            maxLevel=0,
            criteria=_STOP,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
        )
        return moved, found[:, 0] > 0

    def _likeness(self, patches: np.ndarray, gray: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """(N,) correlation, -1..1, of the patches with what the image shows at `xy`."""
        offsets = np.arange(-self._half + _SPARE_PX, self._half - _SPARE_PX + 1, dtype=np.float32)
        core = patches[:, _SPARE_PX:-_SPARE_PX, _SPARE_PX:-_SPARE_PX].reshape(len(xy), -1)
        shown = _sample(gray, xy, _straight(len(xy)), offsets)
        a, b = (p - p.mean(axis=1, keepdims=True) for p in (core, shown))
        power = np.einsum('np,np->n', a, a) * np.einsum('np,np->n', b, b)
        return np.einsum('np,np->n', a, b) / np.sqrt(power + 1e-6)


def patch_warp(
    camera: Camera,
    ray: np.ndarray,
    rho: np.ndarray,
    tilt: np.ndarray,
    T_camera_keyframe: np.ndarray,
) -> np.ndarray:
    """How patches around points change from their keyframes to a camera.

    Each point is taken to lie on a small plane; inverse depth is linear in the image of one.

    Args:
        camera: intrinsics of both images.
        ray: (N, 2) points on the plane z = 1 of their keyframes.
        rho: (N,) inverse depth there.
        tilt: (N, 2) how `rho` grows with `ray`; zero for a plane that faced its keyframe.
        T_camera_keyframe: (N, 4, 4) or (4, 4) pose of each point's keyframe in the camera.

    Returns:
        (N, 2, 2) d pixel in the image / d pixel in the keyframe, NaN behind the camera.
    """
    rotation, position = T_camera_keyframe[..., :3, :3], T_camera_keyframe[..., :3, 3]
    step = _REACH_PX / camera.fx
    here, before = np.empty((2, len(ray), 2, 2))
    for axis in range(2):
        ends = []
        for sign in (-1.0, 1.0):
            moved = np.concatenate([ray, np.ones((len(ray), 1))], axis=1)
            moved[:, axis] += sign * step
            near = np.maximum(rho + sign * step * tilt[:, axis], 0.0)
            seen = (rotation @ moved[..., None])[..., 0] + near[:, None] * position
            ends.append((camera.project(seen), camera.project(moved)))
        here[..., axis] = ends[1][0] - ends[0][0]
        before[..., axis] = ends[1][1] - ends[0][1]
    return here @ _inverse(before)


def _sample(
    image: np.ndarray, xy: np.ndarray, matrix: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """(N, K * K) uint8 pixels of an image on K x K grids about `xy`, shaped by (N, 2, 2)."""
    dx, dy = (grid.ravel() for grid in np.meshgrid(offsets, offsets))
    basis = np.stack([dx, dy, np.ones_like(dx)])
    rows = np.concatenate([matrix, xy[..., None]], axis=2).astype(np.float32)  # (N, 2, 3)
    return cv2.remap(
        image,
        rows[:, 0] @ basis,
        rows[:, 1] @ basis,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def _lay_out(patches: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Patches side by side in a picture of at least `shape`, and the pixels of their middles."""
    count, side, _ = patches.shape
    columns = max(1, shape[1] // side)
    rows = -(-count // columns)
    sheet = np.zeros((max(shape[0], rows * side), max(shape[1], columns * side)), np.uint8)
    full = np.zeros((rows * columns, side, side), np.uint8)
    full[:count] = patches
    grid = full.reshape(rows, columns, side, side).transpose(0, 2, 1, 3)
    sheet[: rows * side, : columns * side] = grid.reshape(rows * side, columns * side)
    place = np.stack([np.arange(count) % columns, np.arange(count) // columns], axis=1)
    return sheet, (place * side + side // 2).astype(np.float32)


def _is_modest(warp: np.ndarray) -> np.ndarray:
    """(N,) bool whether both singular values of (N, 2, 2) lie between 1 / limit and limit."""
    square = np.einsum('nij,nij->n', warp, warp)
    det = warp[:, 0, 0] * warp[:, 1, 1] - warp[:, 0, 1] * warp[:, 1, 0]
    root = np.sqrt(np.maximum(square**2 / 4.0 - det**2, 0.0))
    with np.errstate(invalid='ignore'):
        largest = np.sqrt(square / 2.0 + root)
        return (det > 0) & (largest < _MAX_STRETCH) & (det > largest / _MAX_STRETCH)


def _straight(count: int) -> np.ndarray:
    """(N, 2, 2) that bend nothing."""
    return np.broadcast_to(np.eye(2), (count, 2, 2))


def _is_inside(xy: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(N,) bool whether (N, 2) pixels lie in a picture; False for NaN."""
    return np.all((xy >= 0) & (xy <= (shape[1] - 1, shape[0] - 1)), axis=1)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Of (N, 2, 2); ten times as fast as numpy's, and NaN instead of an exception."""
    a, b, c, d = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1]
    with np.errstate(invalid='ignore', divide='ignore'):
        adjugate = np.stack([d, -b, -c, a], axis=1).reshape(-1, 2, 2)
        return adjugate / (a * d - b * c)[:, None, None]
