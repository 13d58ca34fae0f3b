"""Motion by a network while no point of the map is found."""

from __future__ import annotations

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from runtime_world import T_BASE_CAMERA, Film, config
from true_depth import TrueDepth, blurred

from kpvo_ros.geometry import se3
from kpvo_ros.odometry.carrier import Carrier, equally_sharp
from kpvo_ros.odometry.motion import COAST_S, LEARNED, Led, MotionState
from kpvo_ros.types import Frame

SECOND_NS = 1_000_000_000
LEFT = 20  # the last located frame


def motion_of(film: Film, row: int, start: int = LEFT) -> np.ndarray:
    """(4, 4) true motion of the camera between two frames."""
    T_odom_camera = film.T_odom_base @ T_BASE_CAMERA
    return se3.inverse(T_odom_camera[start]) @ T_odom_camera[row]


def errors(T: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """(Metres, radians)."""
    off = se3.log_se3(se3.inverse(truth) @ T)
    return float(np.linalg.norm(off[:3])), float(np.linalg.norm(off[3:]))


def carry_on(carrier: Carrier, film: Film, rows: range, metres: float = 1.0) -> list[Led]:
    led = [carrier.carry(blurred(film.frames[row]), metres) for row in rows]
    assert all(one is not None for one in led)
    return [one for one in led if one is not None]


def test_the_way_of_a_blurred_camera_is_told_within_what_it_says(walk: Film) -> None:
    source = TrueDepth(walk)
    carrier = Carrier(source, config())
    carrier.leave(walk.frames[LEFT])
    rows = range(LEFT + 1, LEFT + 22)
    led = carry_on(carrier, walk, rows)
    for row, one in zip(rows, led, strict=True):
        way, turn = errors(one.T_left_cur, motion_of(walk, row))
        assert way < 3.0 * np.linalg.norm(one.sigma[:3]) and turn < 3.0 * one.sigma[3]
    way, _ = errors(led[-1].T_left_cur, motion_of(walk, rows[-1]))
    assert way < 0.15 * np.linalg.norm(motion_of(walk, rows[-1])[:3, 3])
    # One step after the other leads to the same place.
    T = np.eye(4)
    for one in led:
        T = T @ one.T_prev_cur
        np.testing.assert_allclose(T, one.T_left_cur, atol=1e-9)
        assert one.dt_s == pytest.approx(0.05)
    sigmas = np.array([one.sigma for one in led])
    assert (sigmas[-1] > 2.0 * sigmas[0]).all(), 'the further, the less is known'
    seen = [beside for _, beside in source.pairs]
    assert seen == [walk.frames[row].stamp_ns for row in rows], 'one look for each image'


def test_when_little_of_the_anchor_is_left_the_newest_image_replaces_it(walk: Film) -> None:
    source = TrueDepth(walk)
    carrier = Carrier(source, config())
    carrier.leave(walk.frames[LEFT])
    carry_on(carrier, walk, range(LEFT + 1, LEFT + 40))
    anchors = [anchor for anchor, _ in source.pairs]  # the depth that is asked for is its own
    assert 2 <= len(set(anchors)) < 10 and anchors == sorted(anchors)


def test_the_images_make_a_rough_motion_better(walk: Film) -> None:
    row = LEFT + 6
    rough = TrueDepth(walk, shift_noise=0.4, turn_noise_rad=0.03)
    guess = se3.inverse(rough.look(walk.frames[LEFT], walk.frames[row]).T_before_camera)
    carrier = Carrier(rough, config())
    carrier.leave(walk.frames[LEFT])
    [led] = carry_on(carrier, walk, range(row, row + 1))
    truth = motion_of(walk, row)
    assert errors(led.T_left_cur, truth)[1] < 0.5 * errors(guess, truth)[1]
    assert errors(led.T_left_cur, truth)[0] < 0.05


def test_in_a_map_of_another_unit_the_way_is_told_in_that_unit(walk: Film) -> None:
    row, led = LEFT + 5, []
    for metres in (1.0, 4.0):
        carrier = Carrier(TrueDepth(walk), config())
        carrier.leave(walk.frames[LEFT])
        led += carry_on(carrier, walk, range(row, row + 1), metres)
    np.testing.assert_allclose(4.0 * led[1].T_left_cur[:3, 3], led[0].T_left_cur[:3, 3])
    np.testing.assert_allclose(led[1].T_left_cur[:3, :3], led[0].T_left_cur[:3, :3])
    np.testing.assert_allclose(led[1].sigma * [4, 4, 4, 1, 1, 1], led[0].sigma)


def test_asked_again_about_the_same_image_it_has_not_moved(walk: Film) -> None:
    source = TrueDepth(walk)
    carrier = Carrier(source, config())
    carrier.leave(walk.frames[LEFT])
    frame = blurred(walk.frames[LEFT + 1])
    first, again = carrier.carry(frame, 1.0), carrier.carry(frame, 1.0)
    assert first is not None and again is not None and len(source.pairs) == 1
    np.testing.assert_allclose(again.T_prev_cur, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(again.T_left_cur, first.T_left_cur)
    np.testing.assert_array_equal(again.sigma, first.sigma)
    assert again.dt_s == 0.0


class Wrong(TrueDepth):
    """Tells a motion that the images deny."""

    def look(self, frame: Frame, before: Frame | None = None):  # type: ignore[no-untyped-def]
        turned = se3.from_rt(se3.exp_so3(np.array([0.0, 0.5, 0.0])), [0.4, 0.0, 0.0])
        return dataclasses.replace(super().look(frame, before), T_before_camera=turned)


def test_a_network_that_is_lost_itself_carries_nothing(walk: Film) -> None:
    frame = blurred(walk.frames[LEFT + 1])
    unsure = TrueDepth(walk, sigma=1.0)
    broken = TrueDepth(walk, turn_noise_rad=float('nan'))
    for source in (unsure, broken, Wrong(walk), None):
        carrier = Carrier(source, config())
        carrier.leave(walk.frames[LEFT])
        assert carrier.carry(frame, 1.0) is None


@pytest.mark.parametrize(
    'word', ['depth.carry=false', 'tracking.max_speed_m_s=0.01', 'tracking.max_turn_rad_s=0.01']
)
def test_a_robot_that_cannot_or_shall_not_is_not_carried(walk: Film, word: str) -> None:
    carrier = Carrier(TrueDepth(walk), config(word))
    carrier.leave(walk.frames[LEFT])
    assert carrier.carry(blurred(walk.frames[LEFT + 3]), 1.0) is None


def test_without_a_unit_or_a_located_image_there_is_nothing_to_go_by(walk: Film) -> None:
    source = TrueDepth(walk)
    carrier = Carrier(source, config())
    assert carrier.carry(walk.frames[1], 1.0) is None
    carrier.leave(walk.frames[LEFT])
    assert carrier.carry(blurred(walk.frames[LEFT + 1]), None) is None
    carrier.forget()
    assert carrier.carry(blurred(walk.frames[LEFT + 1]), 1.0) is None
    assert source.pairs == []


def test_the_sharper_image_is_blurred_until_they_are_alike(walk: Film) -> None:
    sharp = walk.frames[0].gray.astype(np.float32)
    soft = cv2.GaussianBlur(sharp, (0, 0), 5.0)
    for pair in ((sharp, soft), (soft, sharp)):
        one, two = equally_sharp(*pair)
        off = np.abs(one - two).mean()
        assert off < 0.3 * np.abs(sharp - soft).mean()
    one, two = equally_sharp(sharp, sharp)
    np.testing.assert_array_equal(one, two)


# ------------------------------------------------------------------------ the state between


def led(x: float, dt_s: float, way_x: float | None = None) -> Led:
    T, T_way = (se3.from_rt(np.eye(3), [v, 0, 0]) for v in (x, x if way_x is None else way_x))
    return Led(T, dt_s, T_way, np.full(6, 0.05))


def measured() -> MotionState:
    motion = MotionState(np.eye(4))
    for row in range(3):
        T = se3.from_rt(np.eye(3), [0.1 * row, 0, 0])
        motion.measure(row * SECOND_NS // 10, T, 1e-4 * np.eye(6), 1e-6 * np.eye(6))
    return motion


def test_a_led_pose_goes_the_way_that_was_seen_with_a_larger_covariance() -> None:
    motion = measured()
    T_before = motion.coast(3 * SECOND_NS // 10, lambda: led(0.3, 0.1))
    assert T_before[0, 3] == pytest.approx(0.2)
    assert motion.T_odom_camera[0, 3] == pytest.approx(0.5)
    assert motion.led_by == LEARNED and motion.velocity[0] == pytest.approx(3.0)
    np.testing.assert_allclose(np.diag(motion.covariance)[:3], 1e-4 + 0.05**2, rtol=0.1)
    assert motion.doubt is None, 'within the moment of a blackout it forbids nothing'


def test_later_the_doubt_is_what_the_leader_says() -> None:
    motion = measured()
    late_ns = 2 * SECOND_NS // 10 + int(COAST_S * 1e9) + 1
    motion.coast(late_ns, lambda: led(0.3, 0.3))
    assert motion.doubt is not None
    np.testing.assert_allclose(np.diag(motion.doubt), 0.05**2, rtol=0.01)
    assert motion.predict(late_ns + SECOND_NS // 10)[0, 3] == pytest.approx(0.6)
    motion.coast(late_ns + SECOND_NS // 10, lambda: None)
    assert motion.led_by == '' and motion.doubt is None


def test_what_was_guessed_in_a_gap_is_forgotten_when_the_way_is_seen() -> None:
    motion = measured()
    stamps = itertools.count(3 * SECOND_NS // 10, SECOND_NS // 10)
    motion.coast(next(stamps))
    motion.coast(next(stamps), lambda: None)
    assert motion.T_odom_camera[0, 3] > 0.35, 'it coasted'
    T_before = motion.coast(next(stamps), lambda: led(0.15, 0.3))
    assert motion.T_odom_camera[0, 3] == pytest.approx(0.35)
    # The told pose does not leap back: it is walked over.
    np.testing.assert_array_equal(T_before, motion.T_odom_camera)


def test_a_map_that_is_moved_or_forgotten_meanwhile_is_led_on_from_where_it_is() -> None:
    motion = measured()
    motion.coast(3 * SECOND_NS // 10, lambda: led(0.1, 0.1))
    T_new = se3.from_rt(se3.exp_so3(np.array([0, 0, np.pi / 2])), [5.0, 0.0, 0.0])
    motion.place(T_new)
    motion.coast(4 * SECOND_NS // 10, lambda: led(0.1, 0.1, 0.2))
    np.testing.assert_allclose(motion.T_odom_camera[:3, 3], [5.0, 0.1, 0.0], atol=1e-12)


def test_a_measured_pose_ends_it() -> None:
    motion = measured()
    motion.coast(SECOND_NS, lambda: led(0.1, 0.8))
    motion.measure(SECOND_NS + 1, np.eye(4), 1e-4 * np.eye(6), 1e-6 * np.eye(6))
    assert motion.led_by == '' and motion.doubt is None
