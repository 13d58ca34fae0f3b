"""Carries the motion on where no point of the map is found, by what a network sees.

A blurred or nearly plain image still shows how it differs from the last one whose pose is known,
the anchor. The network tells motion and depth of the pair, and where the images have contrast
enough, aligning them makes the motion better (`direct_alignment`). That costs the time of the
network for each image, so it is asked only while the camera is lost. When little of the anchor is
left in view, the newest image becomes the anchor, and what was wrong so far stays wrong.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.frontend.depth_map import DepthSource, LearnedDepth, picture_of, seen_by
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.direct_alignment import Alignment, align
from kpvo_ros.odometry.motion import Led
from kpvo_ros.types import Frame

WAY_SIGMA = 0.3  # of a motion by the network, relative, and at least `LEAST_M`
TURN_SIGMA_RAD = np.deg2rad(3.0)
LEAST_M, LEAST_RAD = 0.03, np.deg2rad(0.5)  # of any: nobody knows where a blurred edge is
EXPLAINED = 0.5  # share of the pixels that two aligned images must explain of one another
WORN = 0.6  # below, a new anchor is taken as long as the old one still tells where it is
CONTRADICTED = 0.3  # below, images with contrast show that the motion is wrong
_BLURS_PX = 2.0 ** np.arange(-1.0, 4.5, 0.5)  # tried on a sharp image beside a blurred one
_SURE_SHARE = 0.3  # of the picture that must have a trusted depth; a network lost itself has none
_FAR_TURN_RAD = np.deg2rad(15.0)  # from the anchor, beyond which the newest image replaces it
_FAR_WAY = 0.3  # the same, of the median depth


@dataclasses.dataclass(frozen=True)
class _Anchor:
    """An image others are compared with.

    Attributes:
        frame: the image.
        T_left_anchor: (4, 4) its pose in the camera of the last measured pose, metres.
        sigma: (6,) standard deviations of that.
    """

    frame: Frame
    T_left_anchor: np.ndarray
    sigma: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Motion:
    """Motion between two images, metres.

    Attributes:
        T_anchor_cur: (4, 4).
        sigma: (6,) standard deviations, local.
        is_last: whether another anchor is needed from now on.
    """

    T_anchor_cur: np.ndarray
    sigma: np.ndarray
    is_last: bool


class Carrier:
    """Remembers the last located image and compares later ones with it.

    Args:
        source: the network; None carries nothing.
        config: parameters.
    """

    def __init__(self, source: DepthSource | None, config: VoConfig) -> None:
        self._source = source if config.depth.carry else None
        self._config = config
        self._anchor: _Anchor | None = None
        self._T_left_prev, self._sigma_prev = np.eye(4), np.zeros(6)
        self._prev_ns = 0

    def leave(self, frame: Frame) -> None:
        """The pose of this frame was measured."""
        if self._source is not None:
            self._anchor = _Anchor(frame, np.eye(4), np.zeros(6))
            self._T_left_prev, self._sigma_prev = np.eye(4), np.zeros(6)
            self._prev_ns = frame.stamp_ns

    def forget(self) -> None:
        """Another run begins."""
        self._anchor = None

    def carry(self, frame: Frame, metres: float | None) -> Led | None:
        """How the camera has moved since it was located.

        Args:
            frame: the present image, that could not be located.
            metres: per map unit; None when nobody knows.

        Returns:
            The motion in map units; None when the network cannot tell.
        """
        anchor = self._anchor
        if self._source is None or anchor is None or metres is None:
            return None
        if frame.stamp_ns <= self._prev_ns:  # asked again, with the map gone
            return _led(self._T_left_prev, self._T_left_prev, 0.0, self._sigma_prev, metres)
        motion = self._compare(anchor.frame, frame)
        if motion is None:
            return None
        T_left_cur = anchor.T_left_anchor @ motion.T_anchor_cur
        sigma = _added(anchor.sigma, motion)
        dt_s = (frame.stamp_ns - self._prev_ns) * 1e-9
        led = _led(self._T_left_prev, T_left_cur, dt_s, sigma, metres)
        self._T_left_prev, self._sigma_prev, self._prev_ns = T_left_cur, sigma, frame.stamp_ns
        if motion.is_last:
            self._anchor = _Anchor(frame, T_left_cur, sigma)
        return led

    def _compare(self, before: Frame, frame: Frame) -> _Motion | None:
        assert self._source is not None
        # The depth that is asked for is that of the image that was good.
        seen = self._source.look(before, frame).trusted(self._config.depth.max_sigma)
        known = np.isfinite(seen.depth_m)
        if known.mean() < _SURE_SHARE or not np.isfinite(seen.T_before_camera).all():
            return None
        motion = self._refined(seen, before, frame)
        if motion is None:
            return None
        dt_s = (frame.stamp_ns - before.stamp_ns) * 1e-9
        way = float(np.linalg.norm(motion.T_anchor_cur[:3, 3]))
        turn = float(se3.rotation_angle_rad(motion.T_anchor_cur))
        limits = self._config.tracking
        if way > limits.max_speed_m_s * dt_s or turn > limits.max_turn_rad_s * dt_s:
            return None
        is_far = turn > _FAR_TURN_RAD or way > _FAR_WAY * float(np.median(seen.depth_m[known]))
        return dataclasses.replace(motion, is_last=is_far or motion.is_last)

    def _refined(self, seen: LearnedDepth, before: Frame, frame: Frame) -> _Motion | None:
        """The motion, better where the images can tell; None where they deny it."""
        T_cur_anchor, sigma = seen.T_before_camera, _sigma_of(seen.T_before_camera)
        width, height = seen.camera.width, seen.camera.height
        if seen_by(frame.camera, width, height) != seen.camera:
            return _Motion(se3.inverse(T_cur_anchor), sigma, False)
        grays = [picture_of(one, width, height, is_gray=True) for one in (before, frame)]
        gray0, gray1 = equally_sharp(*(gray.astype(np.float32) for gray in grays))
        aligned = align(
            gray0, seen.depth_m, gray1, seen.camera.K, T_cur_anchor, depth_sigma=seen.sigma
        )
        share = aligned.inlier_share
        if share > EXPLAINED:
            T_cur_anchor, sigma = self._joined(T_cur_anchor, sigma, aligned)
        elif aligned.iterations and share < CONTRADICTED:
            return None
        return _Motion(se3.inverse(T_cur_anchor), sigma, EXPLAINED < share < WORN)

    def _joined(
        self, T_guess: np.ndarray, sigma: np.ndarray, aligned: Alignment
    ) -> tuple[np.ndarray, np.ndarray]:
        """T_cur_anchor by network and images together, and its sigma."""
        covariance = np.linalg.inv(aligned.information + np.diag(sigma**-2.0))
        step = se3.log_se3(se3.inverse(T_guess) @ aligned.T_1_0)
        T = T_guess @ se3.exp_se3(covariance @ aligned.information @ step)
        adjoint = se3.adjoint(T)  # to the axes of the present camera
        way, turn = np.sqrt(np.diag(adjoint @ covariance @ adjoint.T)).reshape(2, 3).max(1)
        # What all depths have in common no image shows.
        way += self._config.depth.bias_sigma * float(np.linalg.norm(T[:3, 3]))
        way, turn = float(np.hypot(way, LEAST_M)), float(np.hypot(turn, LEAST_RAD))
        return T, np.array([way] * 3 + [turn] * 3)


def equally_sharp(gray0: np.ndarray, gray1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two grey images (H, W) float32, the sharper one blurred until their slopes are as steep."""
    steep0, steep1 = _steepness(gray0), _steepness(gray1)
    sharp, wanted = (gray0, steep1) if steep0 > steep1 else (gray1, steep0)
    blurred = sharp
    for sigma_px in _BLURS_PX:
        more = cv2.GaussianBlur(sharp, (0, 0), float(sigma_px))
        if _steepness(more) < wanted:
            break
        blurred = more
    return (blurred, gray1) if steep0 > steep1 else (gray0, blurred)


def _steepness(gray: np.ndarray) -> float:
    return float(np.hypot(*np.gradient(gray)).mean())


def _sigma_of(T: np.ndarray) -> np.ndarray:
    """(6,) of a motion as the network tells it."""
    way = LEAST_M + WAY_SIGMA * float(np.linalg.norm(T[:3, 3]))
    return np.array([way] * 3 + [TURN_SIGMA_RAD] * 3)


def _added(sigma: np.ndarray, motion: _Motion) -> np.ndarray:
    """(6,) after one more motion; errors of one network add up linearly, not in squares."""
    lever = float(np.linalg.norm(motion.T_anchor_cur[:3, 3])) * float(sigma[3:].max())
    return sigma + motion.sigma + np.array([lever] * 3 + [0.0] * 3)


def _led(
    T_left_prev: np.ndarray, T_left_cur: np.ndarray, dt_s: float, sigma: np.ndarray, metres: float
) -> Led:
    """In map units."""
    unit = np.array([1.0 / metres] * 3 + [1.0] * 3)
    T_prev_cur = se3.inverse(T_left_prev) @ T_left_cur
    return Led(_shrunk(T_prev_cur, metres), dt_s, _shrunk(T_left_cur, metres), sigma * unit)


def _shrunk(T: np.ndarray, metres: float) -> np.ndarray:
    return se3.from_rt(T[:3, :3], T[:3, 3] / metres)
