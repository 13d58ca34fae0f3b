"""Does the odometry keep going? What it answered frame by frame, and whether its pose ever jumped.

Accuracy is measured elsewhere (`metrics.py`). Here counts what a robot notices: frames without a
measurement, how long they last, how often a new map was begun, and steps of the published pose
that the camera never made.

A frame is *measured* when its pose comes from that very frame (`types.Status` TRACKING, DEGRADED),
*filled* when a pose was found for it afterwards, *held* when the pose was predicted or kept. A
frame is *visible* when its image shows something; nobody can track a black one.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from kpvo_ros.errors import EvaluationError
from kpvo_ros.evaluation.association import associate
from kpvo_ros.geometry import se3
from kpvo_ros.types import Status, Trajectory

RECOVERY_S = 2.0  # how long after a loss a jump counts as one at recovery
MEASURED = (Status.TRACKING, Status.DEGRADED)


@dataclasses.dataclass(frozen=True)
class Answers:
    """What was published for every frame, at its time.

    Attributes:
        stamps_ns: (N,) int64, increasing.
        poses: (N, 4, 4) `T_odom_camera`.
        status: N of them.
        visible: (N,) bool, whether the image shows something.
        map_id: (N,) int64, a higher number after every restart; a number that comes back says
            that the new map was joined to that old one.
    """

    stamps_ns: np.ndarray
    poses: np.ndarray
    status: tuple[Status, ...]
    visible: np.ndarray
    map_id: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.stamps_ns)
        lengths = {len(self.poses), len(self.status), len(self.visible), len(self.map_id)}
        if count == 0 or lengths != {count}:
            raise EvaluationError(f'{count} stamps need as many poses and states, got {lengths}')

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def measured(self) -> np.ndarray:
        """(N,) bool."""
        return np.array([status in MEASURED for status in self.status])

    @property
    def begun(self) -> np.ndarray:
        """(N,) bool, from the first measured frame on."""
        return np.logical_or.accumulate(self.measured)

    @property
    def in_main_map(self) -> np.ndarray:
        """(N,) bool, measured in the map that carried most frames; the first of equals."""
        piece = self._piece[self.measured]
        if len(piece) == 0:
            return np.zeros(len(self), bool)
        return self.measured & (self._piece == np.bincount(piece).argmax())

    @property
    def maps(self) -> int:
        """How many maps carried measured frames."""
        return len(np.unique(self._piece[self.measured]))

    def filled(self, told: Trajectory) -> Answers:
        """The same with the poses that frames got after their time.

        Args:
            told: all poses that were told in the end, such as those of the trajectory file. The
                filled ones belong to the map that is measured in next: they waited for it.
        """
        row = np.searchsorted(told.stamps_ns, self.stamps_ns).clip(max=len(told) - 1)
        late = (told.stamps_ns[row] == self.stamps_ns) & ~self.measured
        later = np.where(self.measured, np.arange(len(self)), len(self) - 1)
        map_id = self.map_id[np.minimum.accumulate(later[::-1])[::-1]]
        return Answers(
            stamps_ns=self.stamps_ns,
            poses=np.where(late[:, None, None], told.poses[row], self.poses),
            status=tuple(
                Status.TRACKING if is_late else status
                for is_late, status in zip(late, self.status, strict=True)
            ),
            visible=self.visible,
            map_id=np.where(late, map_id, self.map_id),
        )

    @property
    def _piece(self) -> np.ndarray:
        """(N,) number of the map: every restart makes another one, unless it is joined again."""
        piece = np.zeros(len(self), np.int64)
        latest: dict[int, int] = {}
        for row, number in enumerate(self.map_id.tolist()):
            if number not in latest or (row and number > self.map_id[row - 1]):
                latest[number] = 1 + max(latest.values(), default=-1)
            piece[row] = latest[number]
        return piece


@dataclasses.dataclass(frozen=True)
class Continuity:
    """How completely the frames were answered; percentages are None without such frames.

    Attributes:
        frames: offered, unreadable ones included.
        visible: of them show something.
        answered_percent: of all: measured, filled, or held after the first measured one.
        tracked_percent: of the visible: measured.
        completed_percent: of the visible: measured or filled.
        main_map_percent: of the visible: measured or filled in one and the same map.
        first_tracked: frames before the first measured one, None when there is none.
        lost_frames: not measured after the first measured one.
        longest_lost_s: from the first frame of the longest such stretch to the end of it.
        maps: how many maps carried measured frames.
    """

    frames: int
    visible: int
    answered_percent: float
    tracked_percent: float | None
    completed_percent: float | None
    main_map_percent: float | None
    first_tracked: int | None
    lost_frames: int
    longest_lost_s: float
    maps: int


@dataclasses.dataclass(frozen=True)
class Jumps:
    """Steps of the published pose that the camera did not make; None without such frames.

    Attributes:
        largest_m: of all pairs of frames in a row.
        largest_deg: the same for the rotation.
        recovery_m: within `RECOVERY_S` after frames that were not measured.
    """

    largest_m: float | None
    largest_deg: float | None
    recovery_m: float | None


def continuity(
    answers: Answers, told: Trajectory | None = None, unreadable: int = 0
) -> Continuity:
    """Count.

    Args:
        answers: what was published.
        told: all poses that were told in the end, such as those of the trajectory file; None for
            no others than the measured ones.
        unreadable: frames that were offered beside, but could not be decoded.
    """
    measured, visible = answers.measured, answers.visible
    final = answers if told is None else answers.filled(told)
    answered = (final.measured | answers.begun) & np.isfinite(final.poses).all(axis=(1, 2))
    frames = len(answers) + unreadable
    return Continuity(
        frames=frames,
        visible=int(visible.sum()),
        answered_percent=100.0 * float(answered.sum()) / frames,
        tracked_percent=_percent(measured, visible),
        completed_percent=_percent(final.measured, visible),
        main_map_percent=_percent(final.in_main_map, visible),
        first_tracked=int(measured.argmax()) if measured.any() else None,
        lost_frames=int((answers.begun & ~measured).sum()),
        longest_lost_s=_longest_lost_s(answers),
        maps=answers.maps,
    )


def jumps(answers: Answers, truth: Trajectory, scale: float = 1.0) -> Jumps:
    """Compare every step of the published pose with the step of the camera.

    Steps are compared in the axes of the camera before the step, so that no fit of the
    trajectories is needed and a heading that has drifted is no jump. Where a frame of the pair was
    not measured, a pose that stands still is no jump either: it lags.

    Args:
        answers: what was published; frames before the first measured one are left out. Poses of a
            recording that were told late are best filled in before.
        truth: poses of the camera, in their own frame.
        scale: metres per unit of the estimate.
    """
    pairs = associate(truth.stamps_ns, answers.stamps_ns)
    usable = answers.begun & np.isfinite(answers.poses).all(axis=(1, 2))
    keep = usable[pairs.estimate]
    index = pairs.estimate[keep]
    step = _steps(answers.poses[index])
    true_step = _steps(truth.poses[pairs.reference[keep]])
    if len(step) == 0:
        return Jumps(None, None, None)
    moved, true_moved = scale * step[:, :3, 3], true_step[:, :3, 3]
    jump_m = np.linalg.norm(moved - true_moved, axis=1)
    jump_deg = _degrees(se3.inverse(true_step) @ step)
    measured = answers.measured[index]
    lags = ~(measured[1:] & measured[:-1])
    jump_m[lags] = np.minimum(jump_m, np.linalg.norm(moved, axis=1))[lags]
    jump_deg[lags] = np.minimum(jump_deg, _degrees(step))[lags]
    recovering = measured[1:] & _follows_loss(answers.stamps_ns[index], measured)
    return Jumps(
        largest_m=float(jump_m.max()),
        largest_deg=float(jump_deg.max()),
        recovery_m=float(jump_m[recovering].max()) if recovering.any() else None,
    )


def standstill_drift(poses: np.ndarray) -> tuple[float, float]:
    """(metres, degrees) by which the poses of a camera that never moved leave the first one.

    Args:
        poses: (N, 4, 4).

    Raises:
        EvaluationError: there are none.
    """
    if len(poses) == 0:
        raise EvaluationError('no pose, no drift: the odometry measured nothing')
    away = se3.inverse(poses[0]) @ poses
    return float(np.linalg.norm(away[:, :3, 3], axis=1).max()), float(_degrees(away).max())


# ------------------------------------------------------------------------------------ private


def _percent(wanted: np.ndarray, of: np.ndarray) -> float | None:
    return 100.0 * float((wanted & of).sum() / of.sum()) if of.any() else None


def _longest_lost_s(answers: Answers) -> float:
    """0 when every frame after the first measured one is measured."""
    lost = np.concatenate([[False], answers.begun & ~answers.measured, [False]])
    first = np.flatnonzero(lost[1:] & ~lost[:-1])
    after = np.flatnonzero(lost[:-1] & ~lost[1:])  # the frame that ends the stretch
    last = np.minimum(after, len(answers) - 1)
    lengths_ns = answers.stamps_ns[last] - answers.stamps_ns[first]
    return float(lengths_ns.max()) * 1e-9 if len(lengths_ns) else 0.0


def _steps(poses: np.ndarray) -> np.ndarray:
    """(N - 1, 4, 4) motion from each pose to the next, in the axes of the first of both."""
    return se3.inverse(poses[:-1]) @ poses[1:]


def _degrees(T: np.ndarray) -> np.ndarray:
    return np.rad2deg(se3.rotation_angle_rad(T[:, :3, :3]))


def _follows_loss(stamps_ns: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(N - 1,) bool: the later frame of each pair comes soon after one that was not measured."""
    never = np.iinfo(np.int64).min // 2
    last_lost_ns = np.maximum.accumulate(np.where(measured, never, stamps_ns))
    return stamps_ns[1:] - last_lost_ns[:-1] <= RECOVERY_S * 1e9
