"""Keyframe poses held together by odometry steps and loops: where drift is spread out.

GTSAM (Dellaert and Kaess 2017) does the least squares; this module keeps the graph small and owns
the one place where orders of covariances change: GTSAM's Pose3 puts rotation before translation,
everything else here the other way round. Both disturb on the right, T = T_mean exp(xi).

A graph never grows beyond the keyframes its owner keeps: `drop` merges the two steps at a keyframe
into one and hands its loops over to the neighbour, so that what they said about the path stays.
"""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np

from kpvo_ros.errors import OdometryError
from kpvo_ros.geometry import se3
from kpvo_ros.odometry.gtsam_version import check_gtsam

with contextlib.suppress(ImportError):  # check_gtsam tells, when a graph is made
    import gtsam

_ROTATION_FIRST = [3, 4, 5, 0, 1, 2]
_LOOP_KERNEL = 3.0  # sigmas beyond which a loop that contradicts the others loses weight
_ANCHOR_SIGMA = 1e-6  # of the first keyframe, which defines the map
_ITERATIONS = 30


@dataclasses.dataclass(frozen=True)
class _Relation:
    """The pose of keyframe `new` in `old`, and its local covariance."""

    old: int
    new: int
    T_old_new: np.ndarray
    covariance: np.ndarray


class PoseGraph:
    """A chain of keyframes with loops.

    The map frame is the odom frame as it was at the first keyframe.

    Raises:
        OdometryError: GTSAM is missing, or too old for the installed numpy.
    """

    def __init__(self) -> None:
        check_gtsam(np.__version__)
        self._order: list[int] = []  # ids along the path
        self._T_map: dict[int, np.ndarray] = {}  # T_map_camera
        self._steps: dict[int, _Relation] = {}  # by the id of the later keyframe
        self._loops: dict[int, _Relation] = {}  # likewise: one per keyframe
        self._T_odom_newest = np.eye(4)

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, keyframe: int) -> bool:
        return keyframe in self._T_map

    @property
    def loops(self) -> int:
        """Number of loops."""
        return len(self._loops)

    def pose(self, keyframe: int) -> np.ndarray:
        """(4, 4) T_map_camera of a keyframe.

        Raises:
            OdometryError: it is not in the graph.
        """
        self._require(keyframe)
        return self._T_map[keyframe]

    def add_keyframe(
        self, keyframe: int, T_odom_camera: np.ndarray, relative_covariance: np.ndarray
    ) -> None:
        """Append the newest keyframe.

        Args:
            keyframe: its id, a new one.
            T_odom_camera: (4, 4) its pose as the odometry has it.
            relative_covariance: (6, 6) local, of its pose relative to the keyframe before; not
                used for the first.

        Raises:
            OdometryError: the id is known, or the covariance is not one.
        """
        if keyframe in self:
            raise OdometryError(f'keyframe {keyframe} is in the pose graph: give new ones new ids')
        if self._order:
            _check_covariance(relative_covariance)
            previous = self._order[-1]
            T_step = se3.inverse(self._T_odom_newest) @ T_odom_camera
            self._steps[keyframe] = _Relation(previous, keyframe, T_step, relative_covariance)
            self._T_map[keyframe] = self._T_map[previous] @ T_step
        else:
            self._T_map[keyframe] = T_odom_camera
        self._order.append(keyframe)
        self._T_odom_newest = T_odom_camera

    def add_loop(
        self, id_old: int, id_new: int, T_old_new: np.ndarray, covariance: np.ndarray
    ) -> None:
        """Say where a keyframe is relative to an old one; replaces its earlier loop.

        Args:
            id_old: the recognised keyframe.
            id_new: the one that recognised it.
            T_old_new: (4, 4) pose of the new one in the old one.
            covariance: (6, 6) local, of that.

        Raises:
            OdometryError: one of them is not in the graph, or the covariance is not one.
        """
        self._require(id_old)
        self._require(id_new)
        _check_covariance(covariance)
        if id_old == id_new:
            raise OdometryError(f'keyframe {id_old} cannot close a loop with itself')
        self._loops[id_new] = _Relation(id_old, id_new, T_old_new, covariance)

    def optimise(self) -> dict[int, np.ndarray]:
        """Spread the contradictions over the path.

        Returns:
            {id: T_map_camera (4, 4)} of all keyframes.
        """
        if self._loops:
            # A robust kernel cannot tell drift from falsehood before the loops were closed once:
            # first all are believed, then those that the others contradict lose weight.
            values = self._solve(self._initial_values(), is_robust=False)
            if len(self._loops) > 1:
                values = self._solve(values, is_robust=True)
            T = np.stack([values.atPose3(key).matrix() for key in self._order])
            T[:, :3, :3] = se3.nearest_rotation(T[:, :3, :3])  # rounding adds up
            self._T_map = dict(zip(self._order, T, strict=True))
        return dict(self._T_map)

    def correction(self) -> np.ndarray:
        """(4, 4) T_map_odom at the newest keyframe; the identity in an empty graph."""
        if not self._order:
            return np.eye(4)
        return self._T_map[self._order[-1]] @ se3.inverse(self._T_odom_newest)

    def drop(self, keyframe: int) -> None:
        """Forget a keyframe, but not what was measured through it.

        Its two steps become one, its loops go to the keyframe before it (after it, if it was the
        first); of loops that would end at the same newer keyframe one stays.

        Raises:
            OdometryError: it is not in the graph, or it is the newest, from which the path goes
                on.
        """
        self._require(keyframe)
        row = self._order.index(keyframe)
        if row == len(self._order) - 1:
            raise OdometryError(f'keyframe {keyframe} is the newest: drop it after the next one')
        after = self._steps.pop(self._order[row + 1])
        before = self._steps.pop(keyframe, None)
        if before is None:
            heir, covariance = after.new, _inverted(after)
        else:
            heir, covariance = before.old, before.covariance
            self._steps[after.new] = _chain(before, after)
        # Loops move as the map is now, not as the odometry once said: they must not begin to pull.
        T_heir_keyframe = se3.inverse(self._T_map[heir]) @ self._T_map[keyframe]
        self._hand_over(_Relation(heir, keyframe, T_heir_keyframe, covariance))
        del self._T_map[keyframe], self._order[row]

    def _hand_over(self, to_dropped: _Relation) -> None:
        """Loops of a keyframe become loops of its heir; `to_dropped` leads from heir to it."""
        heir, dropped = to_dropped.old, to_dropped.new
        own = self._loops.pop(dropped, None)
        if own is not None and own.old != heir and heir not in self._loops:
            back = _Relation(
                dropped, heir, se3.inverse(to_dropped.T_old_new), _inverted(to_dropped)
            )
            self._loops[heir] = _chain(own, back)
        for new, loop in list(self._loops.items()):
            if loop.old == dropped and new == heir:
                del self._loops[new]
            elif loop.old == dropped:
                self._loops[new] = _chain(to_dropped, loop)

    def _solve(self, values: gtsam.Values, is_robust: bool) -> gtsam.Values:
        graph = gtsam.NonlinearFactorGraph()
        anchor = gtsam.noiseModel.Isotropic.Sigma(6, _ANCHOR_SIGMA)
        first = self._order[0]
        graph.add(gtsam.PriorFactorPose3(first, gtsam.Pose3(self._T_map[first]), anchor))
        for step in self._steps.values():
            graph.add(_factor(step, _noise(step.covariance)))
        for loop in self._loops.values():
            noise = _noise(loop.covariance)
            if is_robust:
                kernel = gtsam.noiseModel.mEstimator.Cauchy.Create(_LOOP_KERNEL)
                noise = gtsam.noiseModel.Robust.Create(kernel, noise)
            graph.add(_factor(loop, noise))
        parameters = gtsam.LevenbergMarquardtParams()
        parameters.setMaxIterations(_ITERATIONS)
        return gtsam.LevenbergMarquardtOptimizer(graph, values, parameters).optimize()

    def _initial_values(self) -> gtsam.Values:
        values = gtsam.Values()
        for keyframe in self._order:
            values.insert(keyframe, gtsam.Pose3(self._T_map[keyframe]))
        return values

    def _require(self, keyframe: int) -> None:
        if keyframe not in self:
            raise OdometryError(f'keyframe {keyframe} is not in the pose graph: add it first')


def to_gtsam_covariance(covariance: np.ndarray) -> np.ndarray:
    """(6, 6) in GTSAM's order rx ry rz x y z of one in our order x y z rx ry rz."""
    return covariance[np.ix_(_ROTATION_FIRST, _ROTATION_FIRST)]


def _noise(covariance: np.ndarray) -> gtsam.noiseModel.Base:
    return gtsam.noiseModel.Gaussian.Covariance(to_gtsam_covariance(covariance))


def _factor(relation: _Relation, noise: gtsam.noiseModel.Base) -> gtsam.BetweenFactorPose3:
    return gtsam.BetweenFactorPose3(
        relation.old, relation.new, gtsam.Pose3(relation.T_old_new), noise
    )


def _chain(first: _Relation, second: _Relation) -> _Relation:
    """One relation from two that meet."""
    covariance = se3.compose_covariance(first.covariance, second.covariance, second.T_old_new)
    return _Relation(first.old, second.new, first.T_old_new @ second.T_old_new, covariance)


def _inverted(relation: _Relation) -> np.ndarray:
    """Local covariance of the inverse of a relation's pose."""
    return se3.transport_covariance(relation.covariance, relation.T_old_new)


def _check_covariance(covariance: np.ndarray) -> None:
    is_good = np.shape(covariance) == (6, 6) and np.isfinite(covariance).all()
    if not (is_good and np.linalg.eigvalsh(covariance)[0] > 0):
        raise OdometryError(
            'a step of the pose graph has no positive definite (6, 6) covariance: give it noise'
        )
