"""Bundle adjustment over the window: keyframe poses and inverse depths together.

Every point is one scalar on the ray of its anchor keyframe, so the Schur complement over points
needs scalar divisions only, and the whole normal matrix is a few BLAS calls on dense arrays
(window of 8, 1000 points: a few ms a step). The two oldest keyframes are held fixed: they carry
what was learned before and, without depth, the unit of the map. Levenberg-Marquardt with Cauchy
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
KNOWN_SIGMA = 0.2  # relative sigma of an inverse depth, below which a point counts as measured
MIN_RHO = 1e-3  # of the typical inverse depth; further away is as good as infinitely far


@dataclasses.dataclass
class _State:
    T_odom_keyframe: np.ndarray  # (K, 4, 4)
    rho: np.ndarray  # (N,)
    min_rho: float  # no point is further than its inverse


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
    keyframes = len(local_map.T_odom_keyframe)
    fixed = max(FIXED, keyframes - (window - FIXED))
    used, sights = _collect(local_map, fixed)
    if len(sights.point) < MIN_SIGHTS or keyframes <= fixed:
        return False
    known = local_map.has_depth[used]
    typical = local_map.typical_rho(used)
    rho = np.where(known, local_map.rho[used], typical)
    prior_rho, prior_information = _prior(local_map, used, known, typical)
    problem = _Problem(sights, prior_rho, prior_information, sigma_ray, keyframes, fixed)
    state = _State(local_map.T_odom_keyframe.copy(), rho, MIN_RHO * typical)
    state, information = problem.minimise(state, iterations)
    local_map.T_odom_keyframe = state.T_odom_keyframe
    known |= 1.0 / information < (KNOWN_SIGMA * state.rho) ** 2
    local_map.rho[used[known]] = state.rho[known]
    local_map.variance[used[known]] = 1.0 / information[known]
    return True


def _prior(
    local_map: LocalMap, used: np.ndarray, known: np.ndarray, typical: float
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depths known beforehand, and their information.

    From depth readings; a point that nothing is known of is about as far as the others.
    """
    rho = np.where(known, local_map.sensor_rho[used], typical)
    return rho, np.where(known, local_map.sensor_information[used], typical**-2)


def _collect(local_map: LocalMap, fixed: int) -> tuple[np.ndarray, _Sights]:
    """Points that a free keyframe sees again, and all their sights."""
    point, keyframe, ray = [], [], []
    moves = np.zeros(len(local_map), bool)
    for row, sights in enumerate(local_map.sights):
        again = local_map.anchor[sights.point] < row
        point.append(sights.point[again])
        ray.append(sights.ray[again])
        keyframe.append(np.full(int(again.sum()), row))
        if row >= fixed:
            moves[point[-1]] = True
    all_points = np.concatenate(point)
    chosen = np.flatnonzero(moves[all_points])
    chosen = chosen[np.argsort(all_points[chosen], kind='stable')]
    all_points = all_points[chosen]
    used, row_of = np.unique(all_points, return_inverse=True)
    return used, _Sights(
        row_of,
        local_map.anchor[all_points],
        np.concatenate(keyframe)[chosen],
        np.concatenate([local_map.ray[all_points], np.ones((len(all_points), 1))], 1),
        np.concatenate(ray)[chosen],
    )


class _Problem:
    """Residuals, weights and normal equations."""

    def __init__(
        self,
        sights: _Sights,
        prior_rho: np.ndarray,
        prior_information: np.ndarray,
        sigma_ray: float,
        keyframes: int,
        fixed: int,
    ) -> None:
        self._sights = sights
        self._prior_rho, self._prior_information = prior_rho, prior_information
        self._sigma = sigma_ray
        self._starts = np.flatnonzero(np.diff(sights.point, prepend=-1))
        self._size, self._fixed = 6 * keyframes, fixed
        pair = sights.keyframe * keyframes + sights.anchor
        self._pairs = [
            (int(one) // keyframes, int(one) % keyframes, np.flatnonzero(pair == one))
            for one in np.unique(pair)
        ]

    def minimise(self, state: _State, iterations: int) -> tuple[_State, np.ndarray]:
        """Levenberg-Marquardt; returns the state and the (N,) information of the rhos."""
        damping = 1e-4
        cost = self._cost(state)
        information = np.ones_like(state.rho)
        for _ in range(iterations):
            equations = self._linearise(state)
            information = equations.rho_information
            while damping < MAX_DAMPING:
                trial = equations.step(state, damping, self._fixed)
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
        _, q = self._predict(state)
        if (q[:, 2] <= 0).any():
            return np.inf
        e2 = (((q[:, :2] / q[:, 2:] - self._sights.ray) / self._sigma) ** 2).sum(1)
        sensor = self._prior_information * (state.rho - self._prior_rho) ** 2
        return float(np.log1p(e2).sum() + sensor.sum())

    def _linearise(self, state: _State) -> _Equations:
        s = self._sights
        T, q = self._predict(state)
        u = q[:, :2] / q[:, 2:]
        e = (u - s.ray) / self._sigma
        root = np.sqrt(1.0 / (1.0 + (e**2).sum(1)))  # of the Cauchy weight
        scale = root / self._sigma
        rho = state.rho[s.point]
        P = _projection_slope(u, scale / q[:, 2])  # (M, 2, 3) d u / d q
        PR = np.einsum('mij,mjk->mik', P, T[:, :3, :3])
        of_rho = np.einsum('mij,mj->mi', P, T[:, :3, 3])  # (M, 2)
        of_keyframe = np.concatenate(
            [-rho[:, None, None] * P, _turn_slope(u) * scale[:, None, None]], 2
        )
        of_anchor = np.concatenate([rho[:, None, None] * PR, -_times_hat(PR, s.ray0)], 2)
        e = e * root[:, None]
        pose, gradient = self._pose_equations(of_keyframe, of_anchor, e)
        off = state.rho - self._prior_rho
        free = slice(6 * self._fixed, None)
        return _Equations(
            pose=pose[free, free],
            pose_gradient=gradient[free],
            coupling=self._coupling(of_rho, of_keyframe, of_anchor)[:, free],
            rho_information=np.add.reduceat((of_rho**2).sum(1), self._starts)
            + self._prior_information,
            rho_gradient=np.add.reduceat((of_rho * e).sum(1), self._starts)
            + self._prior_information * off,
        )

    def _pose_equations(
        self, of_keyframe: np.ndarray, of_anchor: np.ndarray, e: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix (6K, 6K) and gradient (6K,), summed per pair of keyframes."""
        pose, gradient = np.zeros((self._size, self._size)), np.zeros(self._size)
        rows = np.concatenate([of_keyframe, of_anchor], 2)  # (M, 2, 12)
        for keyframe, anchor, chosen in self._pairs:
            J = rows[chosen].reshape(-1, 12)
            index = np.r_[6 * keyframe : 6 * keyframe + 6, 6 * anchor : 6 * anchor + 6]
            pose[np.ix_(index, index)] += J.T @ J
            gradient[index] += J.T @ e[chosen].ravel()
        return pose, gradient

    def _coupling(
        self, of_rho: np.ndarray, of_keyframe: np.ndarray, of_anchor: np.ndarray
    ) -> np.ndarray:
        """(N, 6K) between every inverse depth and the poses that see it."""
        s = self._sights
        coupling = np.zeros((len(self._starts), self._size // 6, 6))
        # A point is seen once per keyframe: plain assignment; its anchor collects all sights.
        coupling[s.point, s.keyframe] = np.einsum('mi,mic->mc', of_rho, of_keyframe)
        at_anchor = np.add.reduceat(np.einsum('mi,mic->mc', of_rho, of_anchor), self._starts)
        coupling[np.arange(len(self._starts)), s.anchor[self._starts]] = at_anchor
        return coupling.reshape(len(self._starts), -1)


@dataclasses.dataclass(frozen=True)
class _Equations:
    """Normal equations with the points' block diagonal."""

    pose: np.ndarray  # (6F, 6F)
    pose_gradient: np.ndarray  # (6F,)
    coupling: np.ndarray  # (N, 6F)
    rho_information: np.ndarray  # (N,)
    rho_gradient: np.ndarray  # (N,)

    def step(self, state: _State, damping: float, fixed: int) -> _State:
        """The state after one damped Gauss-Newton step."""
        information = self.rho_information * (1.0 + damping) + 1e-12
        scaled = self.coupling / information[:, None]
        S = self.pose - self.coupling.T @ scaled
        S[np.diag_indices_from(S)] += damping * np.diag(self.pose) + 1e-9
        g = self.pose_gradient - scaled.T @ self.rho_gradient
        step_pose = -np.linalg.solve(S, g)
        step_rho = -(self.rho_gradient + self.coupling @ step_pose) / information
        T = state.T_odom_keyframe.copy()
        T[fixed:] = T[fixed:] @ se3.exp_se3(step_pose.reshape(-1, 6))
        return _State(T, np.maximum(state.rho + step_rho, state.min_rho), state.min_rho)


def _projection_slope(u: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(M, 2, 3) slope of the projection, [1 0 -u; 0 1 -v] times `scale`."""
    P = np.zeros((len(u), 2, 3))
    P[:, 0, 0] = P[:, 1, 1] = 1.0
    P[:, :, 2] = -u
    return P * scale[:, None, None]


def _turn_slope(u: np.ndarray) -> np.ndarray:
    """(M, 2, 3) slope of a sight when the camera turns: [1 0 -u; 0 1 -v] [u v 1]x."""
    a, b = u[:, 0], u[:, 1]
    rows = np.array([[a * b, -(1 + a * a), b], [1 + b * b, -a * b, -a]])
    return rows.transpose(2, 0, 1)


def _times_hat(A: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(M, 2, 3) A [v]x for A (M, 2, 3) and v (M, 3)."""
    return np.cross(A, v[:, None, :])
