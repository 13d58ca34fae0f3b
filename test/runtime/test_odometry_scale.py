"""Sources of metres: the floor, the wheels, and what they say when they cannot tell."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from runtime_world import World, make_rectangle
from scipy.spatial.transform import Rotation

from kpvo_ros.config.runtime import ScaleConfig
from kpvo_ros.errors import OdometryError
from kpvo_ros.geometry import se3
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.ground import GroundPlane
from kpvo_ros.odometry.scale import MAX_STEP, load_scale
from kpvo_ros.odometry.strip_alignment import StripAlignment
from kpvo_ros.odometry.wheel import MIN_WAY_M, WheelLog
from kpvo_ros.types import Frame, WheelOdometry

CAMERA = Camera(320, 240, 230.0, 230.0, 159.5, 119.5)
HEIGHT_M = 0.6
PITCH_RAD = 0.25
SECOND_NS = 1_000_000_000


# --------------------------------------------------------------------------------- the floor


def camera_pose(x: float, pitch_rad: float = PITCH_RAD) -> np.ndarray:
    """T_world_camera of a camera that looks along x and down, over the floor z = 0."""
    T = np.eye(4)
    turn = Rotation.from_euler('y', pitch_rad).as_matrix()
    T[:3, :3] = turn @ se3.T_BASE_OPTICAL[:3, :3]
    T[:3, 3] = (x, 0.0, HEIGHT_M)
    return T


@pytest.fixture(scope='module')
def floor() -> World:
    rng = np.random.default_rng(8)
    return World([make_rectangle(rng, (-1, -4, 0), (12, 0, 0), (0, 8, 0))])


@pytest.fixture(scope='module')
def wall() -> World:
    """A floor nobody can see and a wall that fills the strip ahead."""
    rng = np.random.default_rng(9)
    return World([make_rectangle(rng, (2.5, -6, -6), (0, 12, 0), (0, 0, 12))])


def look(
    world: World, ground: GroundPlane, steps: np.ndarray, unit: float = 1.0
) -> list[str | None]:
    """Drive along x; the map counts `unit` times metres."""
    answers = []
    for x in steps:
        T = camera_pose(x)
        image, _ = world.film(T, CAMERA)
        T[:3, 3] *= unit
        answers.append(ground.update(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), T, CAMERA))
    return answers


@pytest.mark.parametrize('unit', [1.0, 0.2, 7.0])
def test_the_height_over_a_floor_is_measured_in_any_unit(floor: World, unit: float) -> None:
    ground = GroundPlane(PITCH_RAD)
    answers = look(floor, ground, np.arange(0.0, 3.0, 0.1), unit)
    assert answers[0] is None and answers.count('') >= 5
    assert ground.height == pytest.approx(HEIGHT_M * unit, rel=0.01)
    assert 0 < ground.relative_sigma < 0.05
    assert ground.m is not None
    normal = ground.m / np.linalg.norm(ground.m)
    expected = camera_pose(0)[:3, :3].T @ [0, 0, -1.0]
    assert np.rad2deg(np.arccos(normal @ expected)) < 1.0


def test_a_pitch_that_is_a_little_wrong_is_corrected(floor: World) -> None:
    ground = GroundPlane(PITCH_RAD + np.deg2rad(2.0))
    look(floor, ground, np.arange(0.0, 4.0, 0.1))
    assert ground.height == pytest.approx(HEIGHT_M, rel=0.02)


def test_a_wall_is_not_taken_for_the_floor(wall: World) -> None:
    ground = GroundPlane(PITCH_RAD)
    answers = look(wall, ground, np.arange(0.0, 0.8, 0.05))
    assert '' not in answers
    assert any(answer and 'floor' in answer for answer in answers)
    assert ground.m is None


def test_a_wall_does_not_move_a_known_floor(floor: World, wall: World) -> None:
    ground = GroundPlane(PITCH_RAD)
    look(floor, ground, np.arange(0.0, 2.0, 0.1))
    known, sigma = ground.height, ground.relative_sigma
    look(wall, ground, np.arange(0.0, 1.5, 0.1))
    assert ground.height == pytest.approx(known, rel=0.02)
    assert ground.relative_sigma >= sigma


def test_a_floor_without_texture_is_not_measured() -> None:
    rng = np.random.default_rng(8)
    plain = World([make_rectangle(rng, (-1, -4, 0), (12, 0, 0), (0, 8, 0), 'plain')])
    ground = GroundPlane(PITCH_RAD)
    assert '' not in look(plain, ground, np.arange(0.0, 1.0, 0.1))


def test_a_camera_at_rest_waits(floor: World) -> None:
    ground = GroundPlane(PITCH_RAD)
    look(floor, ground, np.arange(0.0, 1.0, 0.1))
    assert look(floor, ground, np.full(5, 0.9)) == [None] * 5


def test_heights_are_tried_near_one_that_fitted_too_early_until_it_no_longer_fits(
    floor: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    correlation = StripAlignment.correlation

    def counted(self: StripAlignment, m: np.ndarray) -> float:
        tried[-1] += 1
        return correlation(self, m)

    monkeypatch.setattr(StripAlignment, 'correlation', counted)
    monkeypatch.setattr('kpvo_ros.odometry.ground.FIRST_BASELINE', 0.4)  # the first is too early
    ground = GroundPlane(PITCH_RAD)
    answers = []
    for x in (0.0, 0.1, 0.15, 0.3):
        tried.append(0)
        answers += look(floor, ground, np.array([x]))
    assert answers == [None, None, None, '']
    assert tried[1] > 60 > 30 > tried[2] > 0  # one more each, of the fit itself
    assert ground.height == pytest.approx(HEIGHT_M, rel=0.03)

    lost = GroundPlane(PITCH_RAD)
    look(floor, lost, np.array([0.0, 0.1]))
    lost.stretch(40.0, np.zeros(3))  # nobody's doing: the hint is far from the truth now
    lost._hint = 1000.0
    tried.append(0)
    assert look(floor, lost, np.array([0.15]), 40.0)[0] != ''
    tried.append(0)
    look(floor, lost, np.array([0.25]), 40.0)
    assert tried[-1] > 50  # everywhere again


def test_stretching_the_map_stretches_the_height(floor: World) -> None:
    ground = GroundPlane(PITCH_RAD)
    look(floor, ground, np.arange(0.0, 2.0, 0.1))
    height, sigma = ground.height, ground.relative_sigma
    ground.stretch(2.5, np.zeros(3))
    assert ground.height == pytest.approx(2.5 * height)
    assert ground.relative_sigma == pytest.approx(sigma)


def test_a_floor_is_measured_across_a_map_that_is_stretched_and_moved(floor: World) -> None:
    """The view that waits for its partner stayed behind in the old coordinates once."""
    ground = GroundPlane(PITCH_RAD)
    look(floor, ground, np.arange(0.0, 1.0, 0.1))
    T_new_old = se3.from_rt(Rotation.from_euler('z', 40, degrees=True).as_matrix(), [3.0, -1, 0])
    ground.stretch(2.0, np.array([5.0, 1.0, 0.0]))
    ground.move(T_new_old)
    answers = []
    for x in np.arange(1.0, 2.0, 0.1):
        T = camera_pose(x)
        image, _ = floor.film(T, CAMERA)
        T[:3, 3] = np.array([5.0, 1.0, 0.0]) + 2.0 * (T[:3, 3] - [5.0, 1.0, 0.0])
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        answers.append(ground.update(gray, T_new_old @ T, CAMERA))
    assert set(answers) == {None, ''}
    assert ground.height == pytest.approx(2.0 * HEIGHT_M, rel=0.02)


def test_a_first_fit_from_nearby_is_made_better_from_the_same_view(floor: World) -> None:
    """Ten centimetres tell a height to some percent, forty to less than one."""
    ground = GroundPlane(PITCH_RAD)
    sigmas = []
    for x in np.arange(0.0, 0.5, 0.05):
        look(floor, ground, np.array([x]))
        if ground.m is not None:
            sigmas.append(ground.relative_sigma)
    assert len(set(sigmas)) >= 3 and sigmas == sorted(sigmas, reverse=True)
    assert ground.height == pytest.approx(HEIGHT_M, rel=0.01)


# -------------------------------------------------------------------------------- the wheels


def at(x: float) -> np.ndarray:
    return se3.from_rt(np.eye(3), [x, 0.0, 0.0])


def drive(log: WheelLog, wheel_x: np.ndarray, camera_x: np.ndarray) -> None:
    for row, (wheel, camera) in enumerate(zip(wheel_x, camera_x, strict=True)):
        log.add(WheelOdometry(row * SECOND_NS, at(wheel)))
        log.pair(row * SECOND_NS, at(camera))


def test_the_ratio_is_metres_per_map_unit() -> None:
    log = WheelLog()
    drive(log, np.arange(10) * 0.3, np.arange(10) * 0.1)
    ratio, sigma = log.ratio()
    assert ratio == pytest.approx(3.0)
    assert 0 < sigma < 0.05


def test_the_spread_follows_the_scatter(rng: np.random.Generator) -> None:
    way = np.cumsum(np.full(25, 0.3))
    sigmas = []
    for noise in (0.0, 0.03, 0.15):
        log = WheelLog()
        drive(log, way, way + rng.normal(0, noise, 25).cumsum() * 0.1)
        sigmas.append(log.ratio()[1])
    assert sigmas == sorted(sigmas)
    assert sigmas[-1] > sigmas[0]


def test_no_ratio_before_the_wheels_have_moved() -> None:
    log = WheelLog()
    assert log.ratio() == (None, 1.0)
    drive(log, np.array([0.0, MIN_WAY_M / 2]), np.array([0.0, 1.0]))
    assert log.ratio() == (None, 1.0)


def test_a_camera_that_sees_no_motion_gives_no_ratio() -> None:
    log = WheelLog()
    drive(log, np.arange(5) * 0.3, np.zeros(5))  # wheels that slip on the spot
    assert log.ratio() == (None, 1.0)


def test_short_steps_are_saved_up() -> None:
    log = WheelLog()
    drive(log, np.arange(100) * 0.005, np.arange(100) * 0.01)
    assert log.ratio()[0] == pytest.approx(0.5)


def test_wheel_poses_are_interpolated() -> None:
    log = WheelLog()
    for row in range(20):
        log.add(WheelOdometry(row * 100_000_000, at(row * 0.1)))
    for stamp_ns in (130_000_000, 1_270_000_000):
        assert log.pair(stamp_ns, at(stamp_ns * 2e-9)) == ''
    assert log.ratio()[0] == pytest.approx(0.5)


@pytest.mark.parametrize('stamp_ns', [-1, 250_000_000, 900_000_000])
def test_before_after_and_in_a_hole_of_the_log_there_is_no_step(stamp_ns: int) -> None:
    log = WheelLog()
    assert 'wheel' in log.pair(stamp_ns, at(0))  # empty
    for stamp in (0, 100_000_000, 400_000_000, 500_000_000):
        log.add(WheelOdometry(stamp, at(stamp * 1e-9)))
    assert 'wheel' in log.pair(stamp_ns, at(0))


def test_a_wheel_message_that_lags_a_little_stands_in() -> None:
    log = WheelLog()
    log.add(WheelOdometry(0, at(0)))
    log.add(WheelOdometry(100_000_000, at(0.1)))
    assert log.pair(130_000_000, at(0)) == ''


def test_wheels_whose_time_goes_back_start_a_new_log() -> None:
    log = WheelLog()
    drive(log, np.arange(5) * 0.3, np.arange(5) * 0.1)
    log.add(WheelOdometry(0, at(100.0)))
    assert log.pair(0, at(0.5)) == ''  # the first of a new pair: no leap of 100 m is counted
    assert log.ratio()[0] == pytest.approx(3.0)


def test_a_repeated_wheel_stamp_is_left_out() -> None:
    log = WheelLog()
    log.add(WheelOdometry(0, at(0.0)))
    log.add(WheelOdometry(0, at(50.0)))
    log.pair(0, at(0.0))
    log.add(WheelOdometry(SECOND_NS, at(1.0)))
    log.pair(SECOND_NS, at(1.0))
    assert log.ratio()[0] == pytest.approx(1.0)


def test_after_stretching_the_map_the_ratio_is_one() -> None:
    log = WheelLog()
    drive(log, np.arange(10) * 0.3, np.arange(10) * 0.1)
    log.stretch(3.0, at(0.9)[:3, 3])
    assert log.ratio()[0] == pytest.approx(1.0)


def test_a_step_across_a_stretching_of_the_map_is_not_mixed_up() -> None:
    """The map is stretched about the newest camera: the next step counts in the new unit."""
    log = WheelLog()
    drive(log, np.arange(10) * 0.3, np.arange(10) * 0.1)
    log.stretch(3.0, at(0.9)[:3, 3])
    log.add(WheelOdometry(10 * SECOND_NS, at(3.0)))
    log.pair(10 * SECOND_NS, at(0.9 + 0.3))
    assert log.ratio()[0] == pytest.approx(1.0)


def test_a_step_begun_before_the_map_was_stretched_and_moved_counts_in_the_new_unit() -> None:
    """The last camera position stayed behind in the old coordinates once."""
    log = WheelLog()
    drive(log, np.arange(10) * 0.3, np.arange(10) * 0.1)
    log.stretch(3.0, at(7.0)[:3, 3])
    log.move(at(4.0))
    log.add(WheelOdometry(10 * SECOND_NS, at(3.0)))
    log.pair(10 * SECOND_NS, at(4.0 + 7.0 + 3.0 * (1.0 - 7.0)))
    assert log.ratio()[0] == pytest.approx(1.0)


# ------------------------------------------------------------------------------- the sources


def frame(stamp_ns: int) -> Frame:
    return Frame(stamp_ns, np.zeros((240, 320), np.uint8), CAMERA)


def test_camera_height_without_a_height_names_the_parameter() -> None:
    with pytest.raises(OdometryError, match=r'scale\.camera_height_m') as caught:
        load_scale(ScaleConfig(source='camera_height'))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('source', 'promises', 'metric', 'depth'),
    [
        ('none', False, False, False),
        ('depth', True, True, True),
        ('camera_height', True, False, False),
        ('wheel', True, False, False),
    ],
)
def test_every_source_says_what_it_needs_and_promises(
    source: str, promises: bool, metric: bool, depth: bool
) -> None:
    scale = load_scale(ScaleConfig(source=source, camera_height_m=1.0))
    assert (scale.promises_metres, scale.is_metric, scale.needs_depth) == (promises, metric, depth)
    assert bool(scale.problem) == (promises and not metric)
    if not metric and promises:
        assert scale.relative_sigma == 1.0
    scale.offer_wheel(WheelOdometry(0, np.eye(4)))
    scale.restart()


@pytest.mark.parametrize('source', ['none', 'depth'])
def test_sources_that_know_or_do_not_care_never_stretch(source: str) -> None:
    scale = load_scale(ScaleConfig(source=source))
    assert scale.factor(frame(0), at(1.0)) == 1.0


def test_the_first_factor_of_the_wheels_is_whole_and_later_ones_gentle() -> None:
    scale = load_scale(ScaleConfig(source='wheel'))
    factors: list[float] = []
    camera_x = 0.0
    for row in range(12):
        if row:
            camera_x += 0.05 * float(np.prod(factors))  # the map is 6 times too small
        scale.offer_wheel(WheelOdometry(row * SECOND_NS, at(0.3 * row)))
        factors.append(scale.factor(frame(row * SECOND_NS), at(camera_x)))
        scale.stretch(factors[-1], at(camera_x)[:3, 3])
    assert factors[0] == 1.0
    assert factors[1] == pytest.approx(6.0)
    assert all(abs(factor - 1) <= MAX_STEP + 1e-12 for factor in factors[2:])
    assert scale.is_metric and scale.problem == '' and scale.relative_sigma < 0.2


def test_a_new_map_has_an_unknown_unit_again() -> None:
    scale = load_scale(ScaleConfig(source='wheel'))
    for row in range(5):
        scale.offer_wheel(WheelOdometry(row * SECOND_NS, at(0.3 * row)))
        scale.factor(frame(row * SECOND_NS), at(0.1 * row))
    assert scale.is_metric
    scale.restart()
    assert not scale.is_metric and scale.problem and scale.relative_sigma == 1.0
    assert scale.factor(frame(5 * SECOND_NS), at(77.0)) == 1.0


def test_wheels_that_fall_silent_are_named(floor: World) -> None:
    scale = load_scale(ScaleConfig(source='wheel'))
    scale.factor(frame(0), at(0))
    assert 'wheel' in scale.problem


def test_the_camera_height_stretches_the_map_to_metres(floor: World) -> None:
    scale = load_scale(
        ScaleConfig(
            source='camera_height',
            camera_height_m=HEIGHT_M,
            camera_pitch_deg=float(np.rad2deg(PITCH_RAD)),
        )
    )
    unit = 0.25  # of the map; what the source finds out
    camera_x = 0.0
    for row in range(20):
        T = camera_pose(0.1 * row)
        image, _ = floor.film(T, CAMERA)
        if row:
            camera_x += 0.1 * unit
        T[:3, 3] = (camera_x, 0.0, 0.0)
        factor = scale.factor(Frame(row, image, CAMERA), T)
        scale.stretch(factor, T[:3, 3])
        unit *= factor
    assert scale.is_metric and scale.problem == ''
    assert unit == pytest.approx(1.0, abs=0.015)
    assert 0 < scale.relative_sigma < 0.05
