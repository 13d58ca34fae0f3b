"""What learned depths tell the map: its unit, and the depths of points that have none yet.

A learned depth is good for what nobody has measured. It gives a point one reading and no more, for
the errors of the same surface in the next keyframe are the same errors; from then on sights make
it better, as they do with any reading. And it is compared with the points that sights alone have
measured, which tells how many metres a map unit has.
"""

from __future__ import annotations

import numpy as np

from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.frontend.depth_map import LearnedDepth
from kpvo_ros.odometry.depth import read_learned
from kpvo_ros.odometry.depth_looker import DepthLooker
from kpvo_ros.odometry.depth_unit import DepthUnit
from kpvo_ros.odometry.inverse_depth import fuse_readings
from kpvo_ros.odometry.local_map import LocalMap
from kpvo_ros.types import Frame

MEASURED_SIGMA = 0.15  # relative, of an inverse depth that sights have measured well
_OWN_SHARE = 0.2  # of the information on a point that may come from a learned reading


class LearnedDepths:
    """Learned depths of one map.

    Args:
        config: parameters.
        looker: looks at keyframes.

    Attributes:
        unit: metres per map unit, as learned depths see it.
    """

    def __init__(self, config: VoConfig, looker: DepthLooker) -> None:
        self._config = config
        self._looker = looker
        self.unit = DepthUnit(config.depth.bias_sigma)

    def look(self, frame: Frame) -> None:
        """A keyframe is made."""
        self._looker.look(frame)

    def restart(self) -> None:
        """A map begins, in a unit of its own."""
        self.unit.forget()

    def forget(self) -> None:
        """The map is gone."""
        self._looker.forget()

    def stretch(self, factor: float) -> None:
        """The map was stretched."""
        self.unit.stretch(factor)

    def fold_in(self, local_map: LocalMap) -> None:
        """Tell the map what was seen in its keyframes since the last call."""
        for depth in self._looker.take():
            rows = np.flatnonzero(local_map.stamp_ns == depth.stamp_ns)
            if len(rows):
                self._fold_in(local_map, int(rows[0]), depth)

    def _fold_in(self, local_map: LocalMap, row: int, depth: LearnedDepth) -> None:
        sights = local_map.sights[row]
        config = self._config
        depth_m, sigma = read_learned(depth, sights.ray, config.scale, config.depth.bias_sigma)
        self.unit.add(depth_ratios(local_map, row, depth_m))
        if self.unit.metres is not None:
            fill(local_map, row, depth_m / self.unit.metres, sigma)


def depth_ratios(local_map: LocalMap, row: int, depth_m: np.ndarray) -> np.ndarray:
    """(M,) learned over measured depths of the points of a keyframe that are measured well.

    Args:
        local_map: the map.
        row: of the keyframe.
        depth_m: (N,) learned at its sights, NaN where unknown.
    """
    sights = local_map.sights[row]
    rho, variance = local_map.seen_from(sights.point, local_map.T_odom_keyframe[row])
    # A depth that was learned in the first place would prove itself right.
    learned = local_map.sensor_information[sights.point] * local_map.is_learned[sights.point]
    with np.errstate(invalid='ignore'):
        measured = (rho > 0) & (np.sqrt(variance) < MEASURED_SIGMA * rho)
        measured &= learned * local_map.variance[sights.point] < _OWN_SHARE
    measured &= np.isfinite(depth_m)
    return depth_m[measured] * rho[measured]


def fill(local_map: LocalMap, row: int, depth: np.ndarray, sigma: np.ndarray) -> None:
    """Give points a reading that had none and are not yet known better.

    Args:
        local_map: the map; also its `sensor_rho`, `sensor_information` and `is_learned`.
        row: of the keyframe.
        depth: (N,) at its sights in map units, NaN where unknown.
        sigma: (N,) relative standard deviations.
    """
    sights = local_map.sights[row]
    T_odom_camera = local_map.T_odom_keyframe[row]
    rho, variance = local_map.seen_from(sights.point, T_odom_camera)
    is_new = local_map.sensor_information[sights.point] == 0.0
    is_new &= np.isfinite(depth) & ~(np.sqrt(variance) < sigma * rho)
    sights = sights[is_new]
    fuse_readings(local_map, sights, depth[is_new], T_odom_camera, sigma[is_new])
    local_map.is_learned[sights.point] = local_map.sensor_information[sights.point] > 0.0
