"""Where metres come from: five sources behind one interface, so that no caller asks which.

A monocular map has an arbitrary unit. At every keyframe a source says by which factor the map
must be stretched to be metric; the pipeline stretches it about the camera, so no pose jumps.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from kpvo_ros.config.runtime import ScaleConfig
from kpvo_ros.errors import OdometryError
from kpvo_ros.odometry.depth_unit import DepthUnit
from kpvo_ros.odometry.ground import GroundPlane
from kpvo_ros.odometry.wheel import WheelLog
from kpvo_ros.types import Frame, WheelOdometry

FLOOR_MEMORY = 12.0  # camera heights of way after which the floor has been measured anew
MAX_STEP = 0.03  # relative change a keyframe may bring once the scale is known
NO_CHANGE = 1e-3  # relative, of a learned unit: so little is not worth a stretch


class ScaleSource(Protocol):
    """What the pipeline asks of a source of metres.

    Attributes:
        needs_depth: map points take their depth from depth images; no map without one.
        promises_metres: the user asked for metric poses.
        is_metric: the map is metric now.
        problem: why it is not, or why the scale could not be measured lately; '' when all is well.
        relative_sigma: standard deviation of the scale, relative.
    """

    needs_depth: bool
    promises_metres: bool
    is_metric: bool
    problem: str
    relative_sigma: float

    def offer_wheel(self, wheel: WheelOdometry) -> None:
        """Take a pose of the wheel odometry."""

    def restart(self) -> None:
        """A new map begins; its unit is unknown again."""

    def factor(self, frame: Frame, T_odom_camera: np.ndarray) -> float:
        """By how much to stretch the map with this frame; `stretch` says that it was done."""

    def stretch(self, factor: float, about: np.ndarray) -> None:
        """The map was stretched about a point (3,) of it."""

    def move(self, T_new_old: np.ndarray) -> None:
        """The map lies elsewhere in its frame now; T_new_old is (4, 4)."""


class NoScale:
    """Poses in an arbitrary unit."""

    needs_depth = False
    promises_metres = False
    is_metric = False
    problem = ''
    relative_sigma = 0.0

    def offer_wheel(self, wheel: WheelOdometry) -> None:
        """Not used."""

    def restart(self) -> None:
        """Nothing to forget."""

    def factor(self, frame: Frame, T_odom_camera: np.ndarray) -> float:
        """Never stretches."""
        return 1.0

    def stretch(self, factor: float, about: np.ndarray) -> None:
        """Nothing is kept in map units."""

    def move(self, T_new_old: np.ndarray) -> None:
        """Nothing is kept in map coordinates."""


class DepthScale(NoScale):
    """Depth images make the map metric from its first point on."""

    needs_depth = True
    promises_metres = True
    is_metric = True

    def __init__(self, config: ScaleConfig) -> None:
        self.relative_sigma = config.depth_bias_sigma


class CameraHeightScale(NoScale):
    """The camera's height over the floor is known; the floor is measured in map units."""

    promises_metres = True

    def __init__(self, config: ScaleConfig) -> None:
        if config.camera_height_m <= 0:
            raise OdometryError(
                'scale.source=camera_height needs scale.camera_height_m > 0: '
                'measure from the floor to the lens'
            )
        self._height_m = config.camera_height_m
        self._pitch_rad = float(np.deg2rad(config.camera_pitch_deg))
        self.restart()

    def restart(self) -> None:
        """See `ScaleSource.restart`."""
        self._ground = GroundPlane(self._pitch_rad)
        self.is_metric = False
        self.problem = 'scale unknown until the floor is seen'
        self.relative_sigma = 1.0

    def factor(self, frame: Frame, T_odom_camera: np.ndarray) -> float:
        """See `ScaleSource.factor`."""
        problem = self._ground.update(frame.gray, T_odom_camera, frame.camera)
        if problem is not None:
            self.problem = problem
        if problem != '':
            return 1.0
        factor = _bounded(self._height_m / self._ground.height, self.relative_sigma)
        self.relative_sigma = self._ground.relative_sigma
        self.is_metric = True
        return factor

    def stretch(self, factor: float, about: np.ndarray) -> None:
        """See `ScaleSource.stretch`."""
        self._ground.stretch(factor, about)

    def move(self, T_new_old: np.ndarray) -> None:
        """See `ScaleSource.move`."""
        self._ground.move(T_new_old)


class WheelScale(NoScale):
    """Distances of a wheel odometry against the same distances in the map."""

    promises_metres = True

    def __init__(self) -> None:
        self._wheel = WheelLog()
        self.restart()

    def restart(self) -> None:
        """See `ScaleSource.restart`."""
        self._wheel.forget_pairs()
        self.is_metric = False
        self.problem = 'scale unknown until the wheels have moved'
        self.relative_sigma = 1.0

    def offer_wheel(self, wheel: WheelOdometry) -> None:
        """See `ScaleSource.offer_wheel`."""
        self._wheel.add(wheel)

    def factor(self, frame: Frame, T_odom_camera: np.ndarray) -> float:
        """See `ScaleSource.factor`."""
        self.problem = self._wheel.pair(frame.stamp_ns, T_odom_camera)
        ratio, sigma = self._wheel.ratio()
        if ratio is None:
            return 1.0
        factor = _bounded(ratio, self.relative_sigma)
        self.relative_sigma, self.is_metric = sigma, True
        return factor

    def stretch(self, factor: float, about: np.ndarray) -> None:
        """See `ScaleSource.stretch`."""
        self._wheel.stretch(factor, about)

    def move(self, T_new_old: np.ndarray) -> None:
        """See `ScaleSource.move`."""
        self._wheel.move(T_new_old)


class LearnedScale(NoScale):
    """The map's depths against those a network has learned.

    Args:
        unit: the comparison, kept by `learned_depths.LearnedDepths`, which also stretches it.
    """

    promises_metres = True

    def __init__(self, unit: DepthUnit) -> None:
        self._unit = unit
        self.restart()

    def restart(self) -> None:
        """See `ScaleSource.restart`."""
        self.is_metric = False
        self.problem = 'scale unknown until some keyframes have a learned depth'
        self.relative_sigma = 1.0

    def factor(self, frame: Frame, T_odom_camera: np.ndarray) -> float:
        """See `ScaleSource.factor`."""
        metres = self._unit.metres
        if metres is None or not self._unit.is_firm:
            return 1.0
        factor = _bounded(metres, self.relative_sigma)
        self.relative_sigma = self._unit.relative_sigma
        self.is_metric, self.problem = True, ''
        return factor if abs(factor - 1.0) > NO_CHANGE else 1.0


def load_scale(config: ScaleConfig, unit: DepthUnit | None = None) -> ScaleSource:
    """The source that `config.source` names.

    Args:
        config: parameters.
        unit: metres per map unit by learned depths, None without a network.

    Raises:
        OdometryError: something the source needs is not configured.
    """
    if config.source == 'depth':
        return DepthScale(config)
    if config.source == 'camera_height':
        return CameraHeightScale(config)
    if config.source == 'wheel':
        return WheelScale()
    if config.source == 'learned':
        if unit is None:
            raise OdometryError(
                'scale.source=learned needs a network: set depth.source=learned as well'
            )
        return LearnedScale(unit)
    return NoScale()


def scale_memory(config: ScaleConfig) -> float:
    """Way in metres over which an error of the unit lasts (see `scale_doubt`)."""
    if config.source == 'camera_height':
        return FLOOR_MEMORY * config.camera_height_m
    return math.inf  # a calibration is wrong for ever


def _bounded(factor: float, relative_sigma: float) -> float:
    """A unit is corrected as far as it was in doubt; when it is well known, drift is, gently."""
    limit = max(MAX_STEP, 2.0 * relative_sigma)
    return float(np.clip(factor, 1 - limit, 1 + limit)) if limit < 1.0 else float(factor)
