"""One strip of the floor in two views, aligned by its grey values.

With two views of known relative pose, the plane vector m = n / h (see `ground`) predicts where
every floor pixel went; m is found by Gauss-Newton on the grey-value differences. Direct alignment
uses weak asphalt texture that yields no keypoint (the idea of plane-guided matching in Song &
Chandraker, CVPR 2014).
"""

from __future__ import annotations

import cv2
import numpy as np

from kpvo_ros.geometry.camera import Camera

MIN_PIXELS = 300  # fewer and the floor counts as not seen
MIN_CORRELATION = 0.7  # of the aligned strips; less and it is not (or not one) plane
CELLS = (6, 3)  # of the strip, along and across; each is floor or not
CELL_CORRELATION = 0.5  # above which a cell moves like the floor
PIXEL_CORRELATION = 30.0  # pixels that count as one independent measurement


class StripAlignment:
    """Grey values of the strip in the last view against where m puts them in the new view."""

    def __init__(
        self,
        last: np.ndarray,
        now: np.ndarray,
        T_now_last: np.ndarray,
        camera: Camera,
        xy: np.ndarray,
        rays: np.ndarray,
    ) -> None:
        self._now, self._camera = now, camera
        self._turned = rays @ T_now_last[:3, :3].T
        self._shift = T_now_last[:3, 3]
        self._rays = rays
        self._value = last[xy[:, 1], xy[:, 0]]

    def correlation(self, m: np.ndarray) -> float:
        """Correlation of the two strips, -1 when too little of the strip stays in view."""
        value, inside, _, _ = self._look_up(m)
        if inside.sum() < max(MIN_PIXELS, 0.3 * len(inside)):
            return -1.0
        return _correlation(value[inside], self._value[inside])

    def floor_pixels(self, m: np.ndarray) -> np.ndarray:
        """(N,) bool: pixels in cells of the strip that move like the floor `m` does."""
        value, inside, _, _ = self._look_up(m)
        cell = _cells(self._rays @ m, self._rays[:, 0], CELLS)
        cell[~inside] = -1
        floor = np.zeros(len(cell), bool)
        for one in range(CELLS[0] * CELLS[1]):
            chosen = np.flatnonzero(cell == one)
            if len(chosen) < 20:
                continue
            likeness = _correlation(value[chosen], self._value[chosen])
            floor[chosen] = likeness > CELL_CORRELATION
        return floor

    def fit(self, m: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Gauss-Newton from `m`: (m, information (3, 3)), None when the strips do not agree."""
        information = np.zeros((3, 3))
        for _ in range(12):
            value, inside, xy, p = self._look_up(m)
            if inside.sum() < MIN_PIXELS:
                return None
            residual = (value - self._value)[inside]
            slope = self._slope(xy[inside], p[inside]) @ self._shift
            jacobian = slope[:, None] * self._rays[inside]  # (N, 3) d value / d m
            sigma = 1.4826 * float(np.median(np.abs(residual))) + 1e-3
            weight = 1.0 / np.maximum(1.0, np.abs(residual) / (1.5 * sigma))
            information = (jacobian * weight[:, None]).T @ jacobian / sigma**2
            step = np.linalg.lstsq(
                information, (jacobian * weight[:, None]).T @ residual / sigma**2, rcond=None
            )[0]
            m = m - step
            if np.linalg.norm(step) < 1e-4 * np.linalg.norm(m):
                break
        if not np.isfinite(m).all() or self.correlation(m) < MIN_CORRELATION:
            return None
        return m, information / PIXEL_CORRELATION

    def _look_up(self, m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Grey values, (N,) bool inside the image, pixels (N, 2) and points (N, 3) / depth."""
        p = self._turned + (self._rays @ m)[:, None] * self._shift
        with np.errstate(invalid='ignore', divide='ignore'):
            xy = self._camera.project(p)
        inside = (p[:, 2] > 0) & self._camera.contains(xy, 2.0)
        value = _bilinear(self._now, np.where(inside[:, None], xy, 0.0))
        return value, inside, xy, p

    def _slope(self, xy: np.ndarray, p: np.ndarray) -> np.ndarray:
        """(N, 3) d value / d p through the lens-free projection."""
        half_x, half_y = np.array([0.5, 0.0]), np.array([0.0, 0.5])
        gx = _bilinear(self._now, xy + half_x) - _bilinear(self._now, xy - half_x)
        gy = _bilinear(self._now, xy + half_y) - _bilinear(self._now, xy - half_y)
        gx, gy = gx * self._camera.fx / p[:, 2], gy * self._camera.fy / p[:, 2]
        gz = -(gx * p[:, 0] + gy * p[:, 1]) / p[:, 2]
        return np.stack([gx, gy, gz], 1)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two sets of grey values; -1 where one of them is constant and shows nothing."""
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length > 0 else -1.0


def _cells(near: np.ndarray, side: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(N,) int cell of each pixel: `shape` bins of equal count by nearness, then by side."""
    rank = np.empty((2, len(near)), int)
    rank[0, np.argsort(near)] = np.arange(len(near))
    rank[1, np.argsort(side)] = np.arange(len(near))
    return (rank[0] * shape[0] // len(near)) * shape[1] + rank[1] * shape[1] // len(near)


def _bilinear(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """(N,) values of a float32 image at (N, 2) pixels."""
    x, y = (np.ascontiguousarray(xy[None, :, axis], np.float32) for axis in (0, 1))
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]


def flatten(gray: np.ndarray) -> np.ndarray:
    """Local mean and contrast removed: exposure and shading drop out."""
    image = gray.astype(np.float32)
    mean = cv2.GaussianBlur(image, (0, 0), 6.0)
    contrast = np.sqrt(cv2.GaussianBlur((image - mean) ** 2, (0, 0), 6.0)) + 2.0
    return (cv2.GaussianBlur(image, (0, 0), 1.0) - mean) / contrast
