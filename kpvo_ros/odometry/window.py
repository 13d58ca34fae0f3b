"""Bundle adjustment over the window: keyframe poses and inverse depths together.

Every point is one scalar on the ray of its anchor keyframe, so the Schur complement over points
needs scalar divisions only, and the whole normal matrix is a few BLAS calls on dense arrays
(window of 8, 500 points: about 10 ms). The two oldest keyframes are held fixed: they carry what
was learned before and, without depth, the unit of the map. Levenberg-Marquardt with Cauchy
weights (Triggs 1999; inverse depth after Civera 2008).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.local_map import LocalMap

FIXED = 2  # oldest keyframes of the window that do not move
MIN_SIGHTS = 30  # fewer residuals than this adjust nothing
MAX_DAMPING = 1e6


@dataclasses.dataclass
class _State:
    T_odom_keyframe: np.ndarray  # (K, 4, 4)
    rho: np.ndarray  # (N,)


@dataclasses.dataclass(frozen=True)
class _Sights:
    """All sights of the window, sorted by point."""

    point: np.ndarray  # (M,) row in the arrays of the problem
    anchor: np.ndarray  # (M,) keyframe of first sight
    keyframe: np.ndarray  # (M,) keyframe of this sight
    ray0: np.ndarray  # (M, 3) in the anchor
    ray: np.ndarray  # (M, 2) measured


def adjust(local_map: LocalMap, window: int, sigma_ray: float, iterations: int = 6) -> bool:
    """Improve the newest `window` keyframes and their points in place.

    Args:
        local_map: the map; poses, inverse depths and their variances are replaced.
        window: number of keyframes, the two oldest of which stay.
        sigma_ray: standard deviation of a sight on the plane z = 1.
        iterations: at most so many steps.

    Returns:
        Whether anything was adjusted.
    """
    first = max(0, len(local_map.T_odom_keyframe) - window)
    used, sights = _collect(local_map, first)
    if len(sights.point) < MIN_SIGHTS or len(local_map.T_odom_keyframe) - first <= FIXED:
        return False
    state = _State(local_map.T_odom_keyframe[first:].copy(), local_map.rho[used].copy())
    problem = _Problem(
        sights, local_map.sensor_rho[used], local_map.sensor_information[used], sigma_ray
    )
    state, information = problem.minimise(state, iterations)
    local_map.T_odom_keyframe[first:] = state.T_odom_keyframe
    local_map.rho[used] = state.rho
    local_map.variance[used] = 1.0 / information
    return True


def _collect(local_map: LocalMap, first: int) -> tuple[np.ndarray, _Sights]:
    """Points anchored and seen again inside the window, and their sights."""
    point, keyframe, ray = [], [], []
    for row in range(first, len(local_map.sights)):
        sights = local_map.sights[row]
        usable = local_map.has_depth[sights.point]
        anchor = local_map.anchor[sights.point]
        usable &= (anchor >= first) & (anchor < row)
        point.append(sights.point[usable])
        ray.append(sights.ray[usable])
        keyframe.append(np.full(int(usable.sum()), row - first))
    all_points = np.concatenate(point)
    order = np.argsort(all_points, kind='stable')
    used, row_of = np.unique(all_points, return_inverse=True)
    ray0 = np.concatenate([local_map.ray[all_points], np.ones((len(all_points), 1))], 1)
    return used, _Sights(
        row_of[order],
        local_map.anchor[all_points][order] - first,
        np.concatenate(keyframe)[order],
        ray0[order],
        np.concatenate(ray)[order],
    )


class _Problem:
    """Residuals, weights and normal equations."""

    def __init__(
        self,
        sights: _Sights,
        sensor_rho: np.ndarray,
        sensor_information: np.ndarray,
        sigma_ray: float,
    ) -> None:
        self._sights = sights
        self._sensor_rho, self._sensor_information = sensor_rho, sensor_information
        self._sigma = sigma_ray
        self._starts = np.flatnonzero(np.diff(sights.point, prepend=-1))

    def minimise(self, state: _State, iterations: int) -> tuple[_State, np.ndarray]:
        """Levenberg-Marquardt; returns the state and the (N,) information of the rhos."""
        damping = 1e-4
        cost = self._cost(state)
        information = np.ones_like(state.rho)
        for _ in range(iterations):
            equations = self._linearise(state)
            information = equations.rho_information
            while damping < MAX_DAMPING:
                trial = equations.step(state, damping)
                trial_cost = self._cost(trial)
                if trial_cost < cost:
                    break
                damping *= 10.0
            else:
                break
            gain, state, cost = cost - trial_cost, trial, trial_cost
            damping = max(damping / 10.0, 1e-8)
            if gain < 1e-3 * cost:
                break
        return state, information

    def _predict(self, state: _State) -> tuple[np.ndarray, np.ndarray]:
        """T_keyframe_anchor (M, 4, 4) and points times rho (M, 3) in the seeing keyframe."""
        s = self._sights
        T_inverse = se3.inverse(state.T_odom_keyframe)
        T = T_inverse[s.keyframe] @ state.T_odom_keyframe[s.anchor]
        q = np.einsum('mij,mj->mi', T[:, :3, :3], s.ray0)
        return T, q + state.rho[s.point, None] * T[:, :3, 3]

    def _cost(self, state: _State) -> float:
        if (state.rho <= 0).any():
            return np.inf
        _, q = self._predict(state)
        if (q[:, 2] <= 0).any():
            return np.inf
        e2 = (((q[:, :2] / q[:, 2:] - self._sights.ray) / self._sigma) ** 2).sum(1)
        sensor = self._sensor_information * (state.rho - self._sensor_rho) ** 2
        return float(np.log1p(e2).sum() + sensor.sum())

    def _linearise(self, state: _State) -> _Equations:
        s = self._sights
        T, q = self._predict(state)
        u = q[:, :2] / q[:, 2:]
        e = (u - s.ray) / self._sigma
        root = np.sqrt(1.0 / (1.0 + (e**2).sum(1)))  # of the Cauchy weight
        P = np.zeros((len(q), 2, 3))  # d u / d q, weighted
        P[:, 0, 0] = P[:, 1, 1] = 1.0
        P[:, :, 2] = -u
        P *= (root / (q[:, 2] * self._sigma))[:, None, None]
        rho = state.rho[s.point]
        of_keyframe = np.concatenate([-rho[:, None, None] * P, P @ _hat(q)], 2)  # (M, 2, 6)
        PR = P @ T[:, :3, :3]
        of_anchor = np.concatenate([rho[:, None, None] * PR, -PR @ _hat(s.ray0)], 2)
        of_rho = np.einsum('mij,mj->mi', P, T[:, :3, 3])  # (M, 2)
        count = 6 * len(state.T_odom_keyframe)
        J = np.zeros((len(q), 2, count))
        rows = np.arange(len(q))[:, None, None]
        axis = np.arange(2)[None, :, None]
        columns = np.arange(6)[None, None, :]
        J[rows, axis, 6 * s.keyframe[:, None, None] + columns] = of_keyframe
        J[rows, axis, 6 * s.anchor[:, None, None] + columns] = of_anchor
        J = J[:, :, 6 * FIXED :]
        e = e * root[:, None]
        coupling = np.add.reduceat(np.einsum('mi,mic->mc', of_rho, J), self._starts)
        off = state.rho - self._sensor_rho
        flat = J.reshape(-1, J.shape[2])
        return _Equations(
            pose=flat.T @ flat,
            pose_gradient=flat.T @ e.ravel(),
            coupling=coupling,
            rho_information=np.add.reduceat((of_rho**2).sum(1), self._starts)
            + self._sensor_information,
            rho_gradient=np.add.reduceat((of_rho * e).sum(1), self._starts)
            + self._sensor_information * off,
        )


@dataclasses.dataclass(frozen=True)
class _Equations:
    """Normal equations with the points' block diagonal."""

    pose: np.ndarray  # (6F, 6F)
    pose_gradient: np.ndarray  # (6F,)
    coupling: np.ndarray  # (N, 6F)
    rho_information: np.ndarray  # (N,)
    rho_gradient: np.ndarray  # (N,)

    def step(self, state: _State, damping: float) -> _State:
        """The state after one damped Gauss-Newton step."""
        information = self.rho_information * (1.0 + damping) + 1e-12
        scaled = self.coupling / information[:, None]
        S = self.pose - self.coupling.T @ scaled
        S[np.diag_indices_from(S)] += damping * np.diag(self.pose) + 1e-9
        g = self.pose_gradient - scaled.T @ self.rho_gradient
        step_pose = -np.linalg.solve(S, g)
        step_rho = -(self.rho_gradient + self.coupling @ step_pose) / information
        T = state.T_odom_keyframe.copy()
        T[FIXED:] = T[FIXED:] @ se3.exp_se3(step_pose.reshape(-1, 6))
        return _State(T, state.rho + step_rho)


def _hat(v: np.ndarray) -> np.ndarray:
    """(M, 3, 3) cross product matrices."""
    H = np.zeros((len(v), 3, 3))
    H[:, 0, 1], H[:, 0, 2], H[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    H[:, 1, 0], H[:, 2, 0], H[:, 2, 1] = v[:, 2], -v[:, 1], v[:, 0]
    return H
