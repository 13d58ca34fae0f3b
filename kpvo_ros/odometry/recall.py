"""Is a new image taken where a stored keyframe saw its points, and from where exactly?

Descriptors propose pairs, PnP finds the pose most of them agree on, and a closer look at where
that pose expects the other points finds more, twice: after each look the pose is refined, every
point weighed by how well its depth is known. What follows is doubt, because a false place is worse
than none. Enough points must agree, and they must be a fair share of what should be visible from
there, everywhere in the image: two places that merely share a poster or a door fail that test.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial import cKDTree

from kpvo_ros.frontend.matcher import match
from kpvo_ros.geometry import se3, solve
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.resection import Resection, Sightings, resect
from kpvo_ros.types import Features, Matches

_SIGMA_PX = 1.0  # standard deviation of a matched keypoint; the detector's grid is coarser up high
_LOOKS_PX = (12.0, 4.0)  # how far from its expected place a point is looked for, look by look
_NEIGHBOURS = 8  # keypoints compared there
_MAX_HAMMING = 64  # bits that may differ; for float descriptors the distance below
_MAX_DISTANCE = 0.8
_MAX_SURPRISE = 2.5  # sigmas between a sight and its expected place
_MAX_BLUR = 4.0  # expected error, in sights, beyond which a point proves nothing
_CAUTION = 2.0  # factor of the covariance: points of one keyframe share errors
_CELLS = 6  # of the image, in each direction, that should all find some of their points
_CELL_POINTS = 3  # cells where fewer are expected are not asked


@dataclasses.dataclass(frozen=True)
class StoredKeyframe:
    """An image that can be recognised, with the points it saw.

    Attributes:
        id: unique, increasing.
        stamp_ns: time of the image.
        T_odom_camera: (4, 4) its pose.
        covariance: (6, 6) local, of that pose since the start.
        ray: (N, 2) points on the plane z = 1 of this camera.
        rho: (N,) inverse depth in this camera, 0 where unknown.
        variance: (N,) of `rho`, inf where unknown.
        descriptor: (N, D) as the extractor gave them.
        appearance: (G,) float32 unit vector of the whole image.
    """

    id: int
    stamp_ns: int
    T_odom_camera: np.ndarray
    covariance: np.ndarray
    ray: np.ndarray
    rho: np.ndarray
    variance: np.ndarray
    descriptor: np.ndarray
    appearance: np.ndarray

    @property
    def has_depth(self) -> np.ndarray:
        """(N,) bool: points that can support a pose."""
        return (self.rho > 0) & np.isfinite(self.variance)


@dataclasses.dataclass(frozen=True)
class Recall:
    """A stored keyframe was recognised.

    Attributes:
        keyframe_id: which.
        T_odom_camera: (4, 4) pose of the present camera in the frame of the stored poses.
        covariance: (6, 6) local, of that pose since the start: the keyframe's and the match's.
        T_keyframe_camera: (4, 4) the same relative to the keyframe.
        relative_covariance: (6, 6) local, of `T_keyframe_camera` alone.
        index_feature: (M,) rows of the features that support it.
        index_point: (M,) rows of the keyframe's points they are.
        depth: (M,) depth of these points in the present camera.
        support: 0 to 1; part of the points that should be visible from there and were found, times
            part of the image's cells where any of those expected were found.
    """

    keyframe_id: int
    T_odom_camera: np.ndarray
    covariance: np.ndarray
    T_keyframe_camera: np.ndarray
    relative_covariance: np.ndarray
    index_feature: np.ndarray
    index_point: np.ndarray
    depth: np.ndarray
    support: float

    @property
    def inliers(self) -> int:
        """Number of supporting points."""
        return len(self.index_feature)


@dataclasses.dataclass(frozen=True)
class Standards:
    """What a recall must show to be believed.

    Attributes:
        min_inliers: points that agree with the pose.
        min_support: see `Recall.support`; measured on rendered and real sequences, true recalls
            have 0.1 to 0.5, places that look alike up to 0.08.
        threshold_px: reprojection error up to which a pair joins the first consensus.
        match_ratio: best over second-best descriptor distance above which a pair is refused.
    """

    min_inliers: int = 25
    min_support: float = 0.1
    threshold_px: float = 4.0
    match_ratio: float = 0.85


def verify(
    keyframe: StoredKeyframe,
    features: Features,
    camera: Camera,
    standards: Standards,
    seed: int = 0,
) -> Recall | None:
    """Recognise a keyframe in an image, or not.

    Args:
        keyframe: the stored one.
        features: keypoints of the present image.
        camera: intrinsics of the present image; those of the keyframe do not matter.
        standards: what to ask for.
        seed: of the sampling.

    Returns:
        The recall, or None when it cannot be believed.
    """
    attempt = _Attempt(keyframe, features, camera, standards)
    if not attempt.is_worthwhile:
        return None
    T_keyframe_camera = attempt.guess(seed)
    return None if T_keyframe_camera is None else attempt.confirm(T_keyframe_camera)


class _Attempt:
    """One keyframe held against one image. Points are those of the keyframe that have depth."""

    def __init__(
        self, keyframe: StoredKeyframe, features: Features, camera: Camera, standards: Standards
    ) -> None:
        self._keyframe, self._features, self._camera = keyframe, features, camera
        self._standards = standards
        self._known = np.flatnonzero(keyframe.has_depth)
        self._descriptor = keyframe.descriptor[self._known]
        self._direction = np.column_stack([keyframe.ray[self._known], np.ones(len(self._known))])
        self._position = self._direction / keyframe.rho[self._known, None]

    @property
    def is_worthwhile(self) -> bool:
        """Whether there is enough on both sides."""
        return min(len(self._known), len(self._features)) >= self._standards.min_inliers

    def guess(self, seed: int) -> np.ndarray | None:
        """(4, 4) pose that most pairs of descriptors agree on; None when hardly any do."""
        pairs = match(self._descriptor, self._features.descriptor, self._standards.match_ratio)
        enough = self._standards.min_inliers // 2
        if len(pairs) < enough:
            return None
        found = solve.estimate_pnp(
            self._camera.undistort(self._features.xy[pairs.index1]),
            self._position[pairs.index0],
            self._camera,
            threshold_px=self._standards.threshold_px,
            seed=seed,
        )
        return found.T_world_camera if found is not None and found.count >= enough else None

    def confirm(self, T_keyframe_camera: np.ndarray) -> Recall | None:
        """Look for every point where the pose expects it, refine, look again, and judge."""
        tree = cKDTree(self._features.xy)
        for radius_px in _LOOKS_PX:
            visible, expected = self._expect(T_keyframe_camera)
            pairs = self._look(tree, visible, expected, radius_px)
            if len(pairs) < self._standards.min_inliers // 2:
                return None
            fit = resect(self._sightings(pairs), T_keyframe_camera, self._anywhere())
            T_keyframe_camera = fit.T_odom_camera
        return self._judge(fit, pairs, len(visible), expected)

    def _expect(self, T_keyframe_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (K,) in front of the camera and inside the image, and their pixels (K, 2)."""
        local = se3.transform(se3.inverse(T_keyframe_camera), self._position)
        with np.errstate(invalid='ignore', divide='ignore'):
            xy = self._camera.project(local)
        visible = np.flatnonzero((local[:, 2] > 0) & self._camera.contains(xy))
        return visible, xy[visible]

    def _look(
        self, tree: cKDTree, point: np.ndarray, expected: np.ndarray, radius_px: float
    ) -> Matches:
        """Each point's most similar keypoint near its expected pixel; no keypoint serves twice."""
        _, near = tree.query(expected, k=_NEIGHBOURS, distance_upper_bound=radius_px)
        distance = _distances(self._descriptor[point], self._features.descriptor, near)
        row = np.arange(len(point))
        best = distance.argmin(axis=1) if len(point) else row
        feature, distance = near[row, best], distance[row, best]
        good = np.isfinite(distance)
        row, feature, distance = row[good], feature[good], distance[good]
        order = np.argsort(distance, kind='stable')
        _, first = np.unique(feature[order], return_index=True)
        chosen = order[first]
        score = np.ones(len(chosen), np.float32)
        return Matches(point[row[chosen]], feature[chosen].astype(np.int64), score)

    def _sightings(self, pairs: Matches) -> Sightings:
        known, xy = self._known[pairs.index0], self._features.xy[pairs.index1]
        return Sightings(
            direction=self._direction[pairs.index0],
            origin=np.zeros((len(pairs), 3)),
            rho=self._keyframe.rho[known],
            variance=self._keyframe.variance[known],
            ray=self._camera.unproject(xy)[:, :2],
            sigma=_SIGMA_PX * self._camera.ray_sigma(xy),
        )

    def _anywhere(self) -> np.ndarray:
        """(6, 6) covariance that says next to nothing about the pose."""
        reach = 10.0 * float(np.median(self._position[:, 2]))
        return np.diag([reach**2] * 3 + [1.0] * 3)

    def _judge(
        self, fit: Resection, pairs: Matches, visible: int, expected: np.ndarray
    ) -> Recall | None:
        agrees = fit.surprise < _MAX_SURPRISE
        firm = agrees & (fit.blur < _MAX_BLUR)
        support = float(agrees.sum()) / visible * self._coverage(expected, pairs.index1[agrees])
        if firm.sum() < self._standards.min_inliers or support < self._standards.min_support:
            return None
        point, feature = pairs.index0[agrees], pairs.index1[agrees]
        keyframe, T_keyframe_camera = self._keyframe, fit.T_odom_camera
        covariance = _CAUTION * fit.covariance
        local = se3.transform(se3.inverse(T_keyframe_camera), self._position[point])
        return Recall(
            keyframe_id=keyframe.id,
            T_odom_camera=keyframe.T_odom_camera @ T_keyframe_camera,
            covariance=se3.compose_covariance(keyframe.covariance, covariance, T_keyframe_camera),
            T_keyframe_camera=T_keyframe_camera,
            relative_covariance=covariance,
            index_feature=feature,
            index_point=self._known[point],
            depth=local[:, 2],
            support=support,
        )

    def _coverage(self, expected: np.ndarray, feature: np.ndarray) -> float:
        """Part of the cells in which points are expected at (K, 2) pixels that found one."""
        asked = self._count(expected) >= _CELL_POINTS
        answered = self._count(self._features.xy[feature]) > 0
        return float((asked & answered).sum() / max(1, asked.sum()))

    def _count(self, xy: np.ndarray) -> np.ndarray:
        """How many of (K, 2) pixels lie in each cell of the image."""
        size = np.array([self._camera.width, self._camera.height])
        cell = np.clip(xy / size * _CELLS, 0, _CELLS - 1).astype(np.int64)
        return np.bincount(cell[:, 1] * _CELLS + cell[:, 0], minlength=_CELLS**2)


_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(
    axis=1, dtype=np.uint8
)


def _distances(descriptor: np.ndarray, others: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(M, k) float distances of (M, D) descriptors from the `others` that `index` (M, k) names.

    Infinite where the index is beyond the others, or the two are too different to be the same.
    """
    missing = index >= len(others)
    candidates = others[np.where(missing, 0, index)]
    if descriptor.dtype == np.uint8:
        distance = _BITS_SET[candidates ^ descriptor[:, None]].sum(axis=2, dtype=np.float64)
        missing |= distance > _MAX_HAMMING
    else:
        distance = np.linalg.norm(candidates - descriptor[:, None], axis=2).astype(np.float64)
        missing |= distance > _MAX_DISTANCE
    return np.where(missing, np.inf, distance)
