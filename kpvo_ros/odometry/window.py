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
    """All sights of the window, sorted by the pair of keyframes they connect."""

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
    all_keyframes = np.concatenate(keyframe)
    pair = all_keyframes[chosen] * len(local_map.sights) + local_map.anchor[all_points[chosen]]
    chosen = chosen[np.argsort(pair, kind='stable')]
    all_points = all_points[chosen]
    used, row_of = np.unique(all_points, return_inverse=True)
    return used, _Sights(
        row_of,
        local_map.anchor[all_points],
        all_keyframes[chosen],
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
        self._fixed, self._free = fixed, keyframes - fixed
        pair = sights.keyframe * keyframes + sights.anchor
        self._starts = np.flatnonzero(np.diff(pair, prepend=-1))
        self._ends = np.append(self._starts[1:], len(pair))
        self._pair = np.repeat(np.arange(len(self._starts)), self._ends - self._starts)
        self._pair_keyframe = sights.keyframe[self._starts]
        self._pair_anchor = sights.anchor[self._starts]
        self._anchor_of_point = np.zeros(len(prior_rho), np.int64)
        self._anchor_of_point[sights.point] = sights.anchor

    def minimise(self, state: _State, iterations: int) -> tuple[_State, np.ndarray]:
        """Levenberg-Marquardt; returns the state and the (N,) information of the rhos."""
        damping = 1e-4
        seen = self._look(state)
        information = np.ones_like(state.rho)
        for _ in range(iterations):
            equations = self._linearise(state, seen)
            information = equations.rho_information
            while damping < MAX_DAMPING:
                trial = equations.step(state, damping, self._fixed)
                trial_seen = self._look(trial)
                if trial_seen.cost < seen.cost:
                    break
                damping *= 10.0
            else:
                break
            gain = seen.cost - trial_seen.cost
            state, seen = trial, trial_seen
            damping = max(damping / 10.0, 1e-8)
            if gain < 1e-3 * seen.cost:
                break
        return state, information

    def _look(self, state: _State) -> _Seen:
        """Where the points should be seen, and the cost of that."""
        s = self._sights
        T_inverse = se3.inverse(state.T_odom_keyframe)
        T = T_inverse[self._pair_keyframe] @ state.T_odom_keyframe[self._pair_anchor]
        turned = np.empty((len(s.point), 3))
        for T_pair, start, end in zip(T, self._starts, self._ends, strict=True):
            np.matmul(s.ray0[start:end], T_pair[:3, :3].T, out=turned[start:end])
        p = turned.T + state.rho[s.point] * T[:, :3, 3].T[:, self._pair]
        if (p[2] <= 0).any():
            return _Seen(T, p[:2], p[2], p[:2], np.inf)
        u = p[:2] / p[2]
        e = (u - s.ray.T) / self._sigma
        sensor = self._prior_information * (state.rho - self._prior_rho) ** 2
        cost = np.log1p((e**2).sum(0)).sum() + sensor.sum()
        return _Seen(T, u, p[2], e, float(cost))

    def _linearise(self, state: _State, seen: _Seen) -> _Equations:
        e = seen.error
        root = np.sqrt(1.0 / (1.0 + (e**2).sum(0)))  # of the Cauchy weight
        slopes = self._slopes(state, seen, root / self._sigma)
        slopes.rows[:, :, 12] = (e * root).T
        pose, gradient = self._pose_equations(slopes.rows)
        e = slopes.rows[:, :, 12]
        off = state.rho - self._prior_rho
        return _Equations(
            pose=pose,
            pose_gradient=gradient,
            coupling=self._coupling(slopes),
            rho_information=self._per_point((slopes.of_rho**2).sum(0)) + self._prior_information,
            rho_gradient=self._per_point((slopes.of_rho * e.T).sum(0))
            + self._prior_information * off,
        )

    def _slopes(self, state: _State, seen: _Seen, scale: np.ndarray) -> _Slopes:
        """Derivatives of the weighted residuals; `scale` (M,) is their weight per ray."""
        ray0, rho = self._sights.ray0.T, state.rho[self._sights.point]
        T, u = seen.T, seen.u
        x, y = u
        near = scale / seen.depth
        pull = rho * near
        R, t = T[:, :3, :3].transpose(1, 2, 0)[:, :, self._pair], T[:, :3, 3].T[:, self._pair]
        rows = np.zeros((len(rho), 2, 13))
        rows[:, 0, 0] = rows[:, 1, 1] = -pull
        rows[:, 0, 2], rows[:, 1, 2] = x * pull, y * pull
        xy = x * y * scale
        rows[:, 0, 3], rows[:, 0, 4], rows[:, 0, 5] = xy, -(1 + x * x) * scale, y * scale
        rows[:, 1, 3], rows[:, 1, 4], rows[:, 1, 5] = (1 + y * y) * scale, -xy, -x * scale
        for axis in range(2):
            turned = near * (R[axis] - u[axis] * R[2])  # (3, M) d residual / d point in anchor
            rows[:, axis, 6:9] = (rho * turned).T
            rows[:, axis, 9] = turned[2] * ray0[1] - turned[1] * ray0[2]
            rows[:, axis, 10] = turned[0] * ray0[2] - turned[2] * ray0[0]
            rows[:, axis, 11] = turned[1] * ray0[0] - turned[0] * ray0[1]
        return _Slopes(rows, near * (t[:2] - u * t[2]))

    def _pose_equations(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix (6F, 6F) and gradient (6F,) of the free keyframes."""
        fixed, free = self._fixed, self._free
        pose, gradient = np.zeros((free, 6, free, 6)), np.zeros((free, 6))
        pairs = zip(
            self._pair_keyframe - fixed,
            self._pair_anchor - fixed,
            self._starts,
            self._ends,
            strict=True,
        )
        for keyframe, anchor, start, end in pairs:
            if keyframe < 0:
                continue
            J = rows[start:end].reshape(-1, 13)
            A = J.T @ J
            pose[keyframe, :, keyframe] += A[:6, :6]
            gradient[keyframe] += A[:6, 12]
            if anchor >= 0:
                pose[keyframe, :, anchor] += A[:6, 6:12]
                pose[anchor, :, keyframe] += A[6:12, :6]
                pose[anchor, :, anchor] += A[6:12, 6:12]
                gradient[anchor] += A[6:12, 12]
        return pose.reshape(6 * free, 6 * free), gradient.ravel()

    def _coupling(self, slopes: _Slopes) -> np.ndarray:
        """(N, 6F) between every inverse depth and the free poses that see it."""
        s = self._sights
        coupling = np.zeros((len(self._prior_rho), self._free, 6))
        # (M, 12) of the keyframe and of the anchor
        together = np.einsum('im,mic->mc', slopes.of_rho, slopes.rows[:, :, :12])
        # A point is seen once per keyframe: plain assignment; its anchor collects all sights.
        seen = s.keyframe >= self._fixed
        coupling[s.point[seen], s.keyframe[seen] - self._fixed] = together[seen, :6]
        begun = np.flatnonzero(self._anchor_of_point >= self._fixed)
        at_anchor = np.stack([self._per_point(column) for column in together[:, 6:].T], axis=1)
        coupling[begun, self._anchor_of_point[begun] - self._fixed] = at_anchor[begun]
        return coupling.reshape(len(self._prior_rho), -1)

    def _per_point(self, of_sight: np.ndarray) -> np.ndarray:
        """(N,) sums over the sights of each point."""
        return np.bincount(self._sights.point, of_sight, len(self._prior_rho))


@dataclasses.dataclass(frozen=True)
class _Seen:
    """Where a state expects the sights."""

    T: np.ndarray  # (P, 4, 4) T_keyframe_anchor of every pair
    u: np.ndarray  # (2, M) on the plane z = 1 of the keyframe
    depth: np.ndarray  # (M,) there, times rho
    error: np.ndarray  # (2, M) in sigmas
    cost: float  # of all, with the readings; infinite with a point behind its camera


@dataclasses.dataclass(frozen=True)
class _Slopes:
    """Derivatives of the weighted residuals (two per sight)."""

    rows: np.ndarray  # (M, 2, 13) with respect to keyframe and anchor; last the residual itself
    of_rho: np.ndarray  # (2, M)


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
