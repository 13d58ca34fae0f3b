"""Learned depth and the map: readings, the unit, who looks when."""

from __future__ import annotations

import dataclasses
import math
import threading

import numpy as np
from points_world import CAMERA, IMAGE, add_view, cloud, map_of, pose, sights_of
import pytest

from kpvo_ros.config.runtime import DepthConfig, ScaleConfig, VoConfig
from kpvo_ros.errors import OdometryError
from kpvo_ros.frontend.depth_map import LearnedDepth
from kpvo_ros.geometry.camera import Camera
from kpvo_ros.odometry.depth import read_learned
from kpvo_ros.odometry.depth_looker import WAIT_FRAMES, DepthLooker
from kpvo_ros.odometry.depth_unit import MIN_POINTS, DepthUnit
from kpvo_ros.odometry.learned_depths import LearnedDepths, depth_ratios, fill
from kpvo_ros.odometry.scale import MAX_STEP, load_scale
from kpvo_ros.types import Frame

SMALL = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)
SECOND_NS = 1_000_000_000


def learned(depth_m: np.ndarray, sigma: float = 0.1, stamp_ns: int = 0) -> LearnedDepth:
    spread = np.full(depth_m.shape, sigma, np.float32)
    return LearnedDepth(stamp_ns, 'lens', SMALL, depth_m.astype(np.float32), spread, np.eye(4))


def frame(stamp_ns: int) -> Frame:
    return Frame(stamp_ns, IMAGE, CAMERA)


# ------------------------------------------------------------------------------- readings


def test_a_reading_is_that_of_the_pixel_on_the_ray() -> None:
    depth_m = np.add.outer(0.02 * np.arange(48), 2.0 + 0.01 * np.arange(64))
    ray = (np.array([[10, 20], [40, 5], [62, 46]]) - (31.5, 23.5)) / 50.0
    found, sigma = read_learned(learned(depth_m), ray, ScaleConfig(), 0.05)
    np.testing.assert_allclose(found, [2.5, 2.5, 3.54], rtol=1e-6)
    assert (sigma >= math.hypot(0.1, 0.05) * 0.999).all() and (sigma < 0.12).all()


def test_edges_the_unknown_the_too_far_and_what_is_outside_have_no_reading() -> None:
    depth_m = np.full((48, 64), 2.0)
    depth_m[:, 30:] = 5.0
    depth_m[10, 10] = np.nan
    depth_m[40, :20] = 50.0
    xy = np.array([[29.0, 20.0], [30.0, 20.0], [10.0, 10.0], [5.0, 40.0], [70.0, 9.0], [9, -4]])
    ray = np.vstack([(xy - (31.5, 23.5)) / 50.0, [[np.nan, 0.0]]])
    found, _ = read_learned(learned(depth_m), ray, ScaleConfig(max_depth_m=20.0), 0.05)
    assert np.isnan(found).all()


# ------------------------------------------------------------------------------ the unit


def test_the_unit_is_the_median_of_keyframes_and_unknown_before_the_first() -> None:
    unit = DepthUnit(0.05)
    assert unit.metres is None and not unit.is_firm and unit.relative_sigma == 1.0
    assert not unit.add(np.full(MIN_POINTS - 1, 3.0)) and unit.metres is None
    for ratio in (3.0, 3.3, 30.0):  # one keyframe before a mirror
        assert unit.add(np.full(MIN_POINTS, ratio))
    assert unit.metres == pytest.approx(3.3) and unit.is_firm


def test_false_points_of_a_keyframe_do_not_move_the_unit(rng: np.random.Generator) -> None:
    ratios = 2.5 * np.exp(0.1 * rng.normal(size=400))
    ratios[:80] = 40.0
    unit = DepthUnit(0.05)
    unit.add(ratios)
    assert unit.metres == pytest.approx(2.5, rel=0.05)


def test_the_spread_of_keyframes_averages_out_and_what_they_share_does_not(
    rng: np.random.Generator,
) -> None:
    calm, wild = DepthUnit(0.05), DepthUnit(0.05)
    for noise in rng.normal(size=30):
        calm.add(np.full(MIN_POINTS, 2.0))
        wild.add(np.full(MIN_POINTS, 2.0 * math.exp(0.5 * noise)))
    assert calm.relative_sigma == pytest.approx(0.05)
    assert wild.relative_sigma == pytest.approx(math.hypot(0.5 / math.sqrt(30), 0.05), rel=0.5)


def test_after_stretching_the_map_a_unit_of_it_is_fewer_metres() -> None:
    unit = DepthUnit(0.05)
    for _ in range(3):
        unit.add(np.full(MIN_POINTS, 3.0))
    unit.stretch(3.0)
    assert unit.metres == pytest.approx(1.0)
    unit.forget()
    assert unit.metres is None


# ------------------------------------------------------------------------- scale.source


def test_the_learned_scale_is_whole_at_first_and_gentle_later() -> None:
    unit = DepthUnit(0.05)
    scale = load_scale(ScaleConfig(source='learned'), unit)
    assert scale.promises_metres and not scale.is_metric and not scale.needs_depth
    unit.add(np.full(MIN_POINTS, 6.0))
    assert scale.factor(frame(0), np.eye(4)) == 1.0 and scale.problem, 'one keyframe is too few'
    unit.add(np.full(MIN_POINTS, 6.0))
    factor = scale.factor(frame(1), np.eye(4))
    assert factor == pytest.approx(6.0) and scale.is_metric and not scale.problem
    assert scale.relative_sigma == pytest.approx(0.05)
    unit.stretch(factor)
    assert scale.factor(frame(2), np.eye(4)) == 1.0, 'nothing is left to be done'
    for _ in range(5):
        unit.add(np.full(MIN_POINTS, 1.5))
    assert 1.0 < scale.factor(frame(3), np.eye(4)) <= 1.0 + max(MAX_STEP, 2 * 0.1)
    scale.restart()
    assert not scale.is_metric and scale.relative_sigma == 1.0


def test_the_learned_scale_without_a_network_names_the_parameter() -> None:
    with pytest.raises(OdometryError, match=r'depth\.source=learned'):
        load_scale(ScaleConfig(source='learned'))


# ------------------------------------------------------------------------- the points


def test_points_without_depth_get_one_and_well_known_points_keep_theirs(
    rng: np.random.Generator,
) -> None:
    position = cloud(rng, 60)
    local_map = map_of(position, np.eye(4), with_depth=True)
    local_map.rho[:30], local_map.variance[:30] = 0.0, np.inf
    before = local_map.rho.copy()
    depth = 1.1 * position[:, 2]
    depth[:5] = np.nan
    fill(local_map, 0, depth, np.full(60, 0.2))
    assert not local_map.has_depth[:5].any() and local_map.has_depth[5:].all()
    np.testing.assert_allclose(1.0 / local_map.rho[5:30], depth[5:30])
    sigma = np.sqrt(local_map.variance[5:30]) / local_map.rho[5:30]
    np.testing.assert_allclose(sigma, 0.2)
    np.testing.assert_array_equal(local_map.rho[30:], before[30:])
    np.testing.assert_array_equal(local_map.is_learned, [False] * 5 + [True] * 25 + [False] * 30)


def test_a_second_look_at_the_same_points_changes_nothing(rng: np.random.Generator) -> None:
    """Its errors are those of the first: it must not make anything more certain."""
    position = cloud(rng, 40)
    local_map = map_of(position, np.eye(4))
    fill(local_map, 0, position[:, 2], np.full(40, 0.2))
    variance = local_map.variance.copy()
    row = add_view(local_map, pose(0.3, 0.0, 0.1))
    local_map.sights[row] = sights_of(np.arange(40), position, local_map.T_odom_keyframe[row])
    fill(local_map, row, position[:, 2] - 0.1, np.full(40, 0.1))
    np.testing.assert_array_equal(local_map.variance, variance)


def test_ratios_are_learned_over_measured_depths_seen_from_the_keyframe(
    rng: np.random.Generator,
) -> None:
    position = cloud(rng, 50)
    local_map = map_of(position, np.eye(4), with_depth=True)
    local_map.variance[:10] = (0.5 * local_map.rho[:10]) ** 2  # not measured well
    T = pose(0.2, -0.1, 0.5, (0.0, 0.1, 0.0))
    row = add_view(local_map, T)
    local_map.sights[row] = sights_of(np.arange(50), position, T)
    here = ((position - T[:3, 3]) @ T[:3, :3])[:, 2]
    ratios = depth_ratios(local_map, row, 2.5 * here)
    assert len(ratios) == 40
    np.testing.assert_allclose(ratios, 2.5)


def test_learned_depths_do_not_prove_themselves_right(rng: np.random.Generator) -> None:
    position = cloud(rng, 50)
    local_map = map_of(position, np.eye(4))
    fill(local_map, 0, 2.0 * position[:, 2], np.full(50, 0.1))
    assert len(depth_ratios(local_map, 0, 2.0 * position[:, 2])) == 0
    local_map.variance /= 50.0  # sights have measured them since
    assert len(depth_ratios(local_map, 0, 2.0 * position[:, 2])) == 50


class Known:
    """Sees a wall at some distance, or fails."""

    def __init__(self, depth_m: float = 4.0) -> None:
        self.depth_m = depth_m
        self.pairs: list[tuple[int, int | None]] = []
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None

    def look(self, frame: Frame, before: Frame | None = None) -> LearnedDepth:
        assert self.go.wait(20)
        self.pairs.append((frame.stamp_ns, None if before is None else before.stamp_ns))
        if self.error is not None:
            raise self.error
        return learned(np.full((48, 64), self.depth_m), stamp_ns=frame.stamp_ns)


def test_a_depth_fills_its_own_keyframe_in_the_unit_of_the_map(rng: np.random.Generator) -> None:
    position = cloud(rng, 100)
    position *= 2.0 / position[:, 2:]  # a wall two map units ahead, four metres
    local_map = map_of(position, np.eye(4), with_depth=True)
    local_map.rho[60:], local_map.variance[60:] = 0.0, np.inf
    looker = DepthLooker(Known(), DepthConfig(), waits=True)
    depths = LearnedDepths(VoConfig(), looker)
    depths.look(frame(int(local_map.stamp_ns[0])))
    depths.look(frame(17))  # a keyframe that has left the map meanwhile
    for _ in range(WAIT_FRAMES):
        assert depths.unit.metres is None
        depths.fold_in(local_map)
    assert depths.unit.metres == pytest.approx(2.0)
    inside = SMALL.contains(position[:, :2] / position[:, 2:] * 50.0 + (31.5, 23.5))
    assert inside[60:].sum() > 10
    np.testing.assert_array_equal(local_map.has_depth[60:], inside[60:])
    np.testing.assert_allclose(1.0 / local_map.rho[60:][inside[60:]], 2.0)
    looker.close()


# --------------------------------------------------------------------------- who looks when


def drain(looker: DepthLooker) -> None:
    """Wait until nothing is in work."""
    looker._worker.submit(int).result()


def test_each_keyframe_is_looked_at_beside_the_one_before_it() -> None:
    source = Known()
    looker = DepthLooker(source, DepthConfig(), waits=True)
    for stamp_ns in (1, 2, 3):
        looker.look(frame(stamp_ns))
        drain(looker)
    looker.forget()
    looker.look(frame(4))
    drain(looker)
    looker.close()
    assert source.pairs == [(1, None), (2, 1), (3, 2), (4, None)]


def test_a_replay_takes_a_depth_a_fixed_number_of_frames_later_however_long_it_took() -> None:
    for delay_s in (0.0, 0.1):
        source = Known()
        source.go.clear()
        threading.Timer(delay_s, source.go.set).start()
        looker = DepthLooker(source, DepthConfig(), waits=True)
        taken = []
        for stamp_ns in range(6):
            if stamp_ns in (0, 1, 3):
                looker.look(frame(stamp_ns))
            taken.append([depth.stamp_ns for depth in looker.take()])
        looker.close()
        assert taken == [[], [0], [1], [], [3], []]
        assert WAIT_FRAMES == 2


def test_live_nobody_waits_and_keyframes_that_come_too_fast_are_left_out() -> None:
    source = Known()
    source.go.clear()
    looker = DepthLooker(source, DepthConfig())
    for stamp_ns in range(10):
        looker.look(frame(stamp_ns))
        assert looker.take() == []
    source.go.set()
    taken: list[int] = []
    while len(taken) < 2:
        taken += [depth.stamp_ns for depth in looker.take()]
    looker.close()
    assert taken == [0, 1] and looker.take() == []


def test_what_was_in_work_for_a_map_that_is_gone_is_never_given() -> None:
    looker = DepthLooker(Known(), DepthConfig(), waits=True)
    looker.look(frame(0))
    looker.forget()
    assert [looker.take() for _ in range(4)] == [[]] * 4
    looker.close()


def test_an_error_of_the_network_ends_a_replay_and_not_a_robot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Known()
    source.error = RuntimeError('out of memory')
    for waits in (False, True):
        looker = DepthLooker(source, DepthConfig(), waits=waits)
        looker.look(frame(0))
        drain(looker)
        if waits:
            looker.take()
            with pytest.raises(RuntimeError, match='out of memory'):
                looker.take()
        else:
            assert looker.take() == []
            assert 'RuntimeError: out of memory' in caplog.text
        looker.close()


def test_without_a_network_nothing_is_looked_at_and_no_thread_is_begun() -> None:
    before = threading.active_count()
    looker = DepthLooker(None, DepthConfig())
    looker.look(frame(0))
    looker.look_between(frame(1))
    assert looker.take() == [] and not looker.sees
    assert threading.active_count() == before
    looker.close()


class Listener:
    """Collects depths as long as it wants to."""

    def __init__(self) -> None:
        self.wants = True
        self.stamps: list[int] = []

    def is_wanted(self) -> bool:
        return self.wants

    def take(self, depth: LearnedDepth) -> None:
        self.stamps.append(depth.stamp_ns)
        if depth.stamp_ns == 13:
            raise RuntimeError('the middleware went away')


def test_a_listener_hears_keyframes_at_once_and_others_at_its_rate() -> None:
    listener = Listener()
    looker = DepthLooker(Known(), DepthConfig(rate_hz=2.0), listener)
    looker.look(frame(0))
    for tenth in range(1, 21):
        drain(looker)
        looker.look_between(frame(tenth * SECOND_NS // 10))
    drain(looker)
    assert listener.stamps == [row * SECOND_NS // 2 for row in range(5)]
    listener.wants = False
    looker.look_between(frame(9 * SECOND_NS))
    looker.look(frame(10 * SECOND_NS))
    drain(looker)
    assert len(listener.stamps) == 5
    looker.close()


def test_a_listener_that_fails_takes_no_depth_from_the_map() -> None:
    looker = DepthLooker(Known(), DepthConfig(), Listener())
    looker.look(frame(13))
    drain(looker)
    assert [depth.stamp_ns for depth in looker.take()] == [13]
    looker.close()


def test_between_keyframes_nothing_is_looked_at_when_the_rate_is_zero_or_a_keyframe_waits() -> (
    None
):
    source = Known()
    silent = DepthLooker(source, DepthConfig(rate_hz=0.0), Listener())
    silent.look_between(frame(1))
    silent.close()
    assert source.pairs == []
    source.go.clear()
    looker = DepthLooker(source, DepthConfig(rate_hz=2.0), Listener())
    looker.look(frame(0))
    looker.look_between(frame(SECOND_NS))
    source.go.set()
    drain(looker)
    looker.close()
    assert [pair[0] for pair in source.pairs] == [0]


def test_depths_that_the_network_itself_doubts_are_not_given() -> None:
    looker = DepthLooker(Known(), dataclasses.replace(DepthConfig(), max_sigma=0.05), waits=True)
    looker.look(frame(0))
    looker.take()
    [depth] = looker.take()
    assert np.isnan(depth.depth_m).all()
    looker.close()
