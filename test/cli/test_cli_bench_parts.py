"""The parts of kpvo bench odometry: every number from input whose answer is known."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import types

from cli_stage import CAMERA, PERIOD_NS, START_NS, STEP_M, write_bag
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli import (
    bench_consistency,
    bench_determinism,
    bench_live,
    bench_speed,
    rendered,
)
from kpvo_ros.cli.bench import BenchOptions
from kpvo_ros.cli.bench_case_list import CASES, Case
from kpvo_ros.cli.bench_cases import measure_cases
from kpvo_ros.cli.bench_columns import Column, number_table
from kpvo_ros.cli.bench_consistency import (
    Moment,
    around_dark,
    measure_consistency,
    moments_of,
    summarise,
)
from kpvo_ros.cli.bench_determinism import measure_determinism, states_digest
from kpvo_ros.cli.bench_live import live_numbers, measure_live
from kpvo_ros.cli.bench_sources import DroppingSource, ForthAndBackSource
from kpvo_ros.cli.bench_speed import measure_speed
from kpvo_ros.cli.bench_watch import Watch
from kpvo_ros.cli.bench_worlds import Worlds
from kpvo_ros.config.runtime import VoConfig
from kpvo_ros.config.schema import with_words
from kpvo_ros.errors import BagError, CommandError, EvaluationError, RosError
from kpvo_ros.evaluation.consistency import Part
from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import Frame, Status, Trajectory

DEPTH = {'depth': ('scale.source=depth',)}
MONO = {'monocular': ('scale.source=none',)}


class WallWorlds:
    """Every world is the wall of `cli_stage`."""

    def __init__(self, bag):
        self._bag = bag

    def bag(self, preset, **_):
        return self._bag

    def source(self, preset, **_):
        return open_source(self._bag)


@pytest.fixture
def walls(tmp_path):
    return WallWorlds(write_bag(tmp_path / 'wall', 30))


@pytest.fixture
def options(tmp_path):
    return BenchOptions(None, tmp_path / 'work', True, 0)


def estimate(index, status=Status.TRACKING, T=None, sigma=0.1, **more):
    """As much of an `OdometryEstimate` as a watch looks at."""
    T = np.eye(4) if T is None else T
    return types.SimpleNamespace(
        stamp_ns=START_NS + index * PERIOD_NS,
        T_odom_camera=T,
        T_odom_base=T,
        covariance=np.diag([sigma**2] * 6),
        status=status,
        **{'map_id': 0, **more},
    )


def image(level):
    """A frame of noise about grey, black at level 0."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 2 * level + 1, (CAMERA.height, CAMERA.width)).astype(np.uint8)
    return Frame(0, picture, CAMERA)


# --------------------------------------------------------------------------------------- cases


def test_every_case_is_either_recorded_or_rendered_and_its_parameters_exist():
    for case in CASES:
        assert bool(case.recorded) != bool(case.preset), case.name
        with_words(VoConfig(), [word.format(height='1.5') for word in case.words])
    assert len({case.slug for case in CASES}) == len(CASES)
    assert not [case.slug for case in CASES if not case.slug.replace('.', '').isidentifier()]


def test_presets_of_the_cases_exist():
    pytest.importorskip('torch')
    from kpvo_ros.synthetic.sequence import PRESETS

    assert {case.preset for case in CASES if case.preset} <= set(PRESETS)


def test_floors_are_about_numbers_that_are_measured(walls, options):
    case = Case('wall', preset='wall', stands_still=True)
    _, numbers = measure_cases((case,), options, walls)
    assert {floor.number for case in CASES for floor in case.floors} <= set(numbers['wall'])


def test_a_case_has_the_numbers_of_the_wall(walls, options):
    depth = Case('wall', preset='wall', stands_still=True)
    mono = Case('mono', preset='wall', words=('scale.source=none',))
    lossy = Case('lossy', preset='wall', dropped=0.3)
    tables, numbers = measure_cases((depth, mono, lossy), options, walls)
    wall = numbers['wall']
    assert (wall['frames'], wall['maps'], wall['lost_frames']) == (30, 1, 0)
    assert wall['ate_origin_m'] < 0.02
    assert wall['ate_se3_m'] is None  # a straight line leaves the roll of a fit open
    assert 'by the first pose' in wall['note']
    assert wall['path_m'] == pytest.approx(29 * STEP_M)
    assert wall['static_drift_m'] == pytest.approx(29 * STEP_M, rel=0.02)
    assert 10 < numbers['lossy']['frames'] < 30
    assert 'static_drift_m' not in numbers['mono']
    assert [row[0] for row in tables[0].rows] == ['wall', 'mono', 'lossy']
    assert all(len(row) == len(table.header) for table in tables for row in table.rows)


class LateOdometry(Odometry):
    """Stays where it was for frames 5 to 9, then tells where it really was."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self._kept = []
        self._count = 0

    def step(self, frame):
        estimate = super().step(frame)
        self._count += 1
        if not 5 < self._count <= 10:
            return estimate
        self._kept.append(estimate)
        return dataclasses.replace(
            estimate, status=Status.STARTING, T_odom_camera=self._kept[0].T_odom_camera
        )

    def take_late(self):
        late, self._kept = (self._kept, []) if self._count > 10 else ([], self._kept)
        return late


def test_poses_told_late_complete_a_case_and_are_no_jump(walls, options, monkeypatch):
    monkeypatch.setattr('kpvo_ros.bags.replay.Odometry', LateOdometry)
    _, numbers = measure_cases((Case('wall', preset='wall'),), options, walls)
    wall = numbers['wall']
    assert wall['summary']['told_late'] == 5
    assert wall['tracked_percent'] == pytest.approx(100 * 25 / 30)
    assert wall['completed_percent'] == wall['main_map_percent'] == 100.0
    assert (wall['lost_frames'], wall['recovery_jump_m']) == (5, None)
    assert wall['largest_jump_m'] < 0.5 * STEP_M
    assert wall['path_m'] == pytest.approx(29 * STEP_M)


# ------------------------------------------------------------------------------------- sources


def test_dropped_images_are_a_third_and_the_same_every_time(tmp_path):
    bag = write_bag(tmp_path / 'bag', 60)

    def stamps():
        with DroppingSource(open_source(bag), 0.3, np.random.default_rng(1)) as source:
            assert source.info.n_frames is None
            assert source.ground_truth() is not None
            return [r.stamp_ns for r in source.records() if isinstance(r, Frame)]

    assert 33 <= len(stamps()) <= 51  # 42 with a standard deviation of 3.5
    assert stamps() == stamps()


def test_forth_and_back_never_leaps_and_its_stamps_go_on():
    frames = [
        Frame(START_NS + k * PERIOD_NS, np.full((4, 6), k, np.uint8), CAMERA) for k in range(4)
    ]
    with ForthAndBackSource(frames, 9, None) as source:
        played = list(source.records())
        assert source.info.n_frames == 9
        assert source.ground_truth() is None and source.extrinsics() is None
    assert [int(frame.image[0, 0]) for frame in played] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [frame.stamp_ns for frame in played] == [START_NS + k * PERIOD_NS for k in range(9)]
    assert played[0] is not played[6]
    with pytest.raises(BagError, match='at least two'):
        ForthAndBackSource(frames[:1], 9, None)


def test_a_watch_judges_the_image_and_not_the_mood_of_the_odometry():
    watch = Watch()
    with pytest.raises(BagError, match='not one image'):
        _ = watch.answers
    watch(image(100), estimate(0, Status.LOST))
    watch(image(0), estimate(1, Status.TRACKING, map_id=4))
    np.testing.assert_array_equal(watch.answers.visible, [True, False])
    np.testing.assert_array_equal(watch.answers.map_id, [0, 4])
    assert watch.answers.status == (Status.LOST, Status.TRACKING)


# -------------------------------------------------------------------------------------- worlds


def test_worlds_of_drawn_seeds_make_room_and_those_of_named_ones_stay(tmp_path):
    def folders(seed, drawn):
        Worlds(BenchOptions(None, tmp_path, True, seed, (), drawn))
        return sorted(path.name for path in (tmp_path / 'rendered').iterdir())

    assert folders(1, False) == ['seed_1']
    assert folders(500, True) == ['seed_1', 'seed_500']
    assert folders(600, True) == ['seed_1', 'seed_600']
    assert folders(600, False) == ['seed_1', 'seed_600']
    (tmp_path / 'file').write_text('')
    with pytest.raises(CommandError, match='--work'):
        Worlds(BenchOptions(None, tmp_path / 'file', True, 1))


def test_each_world_has_a_recipe_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip('torch', reason='presets need torch')
    asked = []
    monkeypatch.setattr(
        'kpvo_ros.cli.bench_worlds.rendered_bag',
        lambda folder, recipe: asked.append(recipe) or folder,
    )
    Worlds(BenchOptions(None, tmp_path, False, 7)).bag('room', world=2, frames=30, size=2)
    quick = Worlds(BenchOptions(None, tmp_path, True, 7))
    quick.bag('room')
    quick.bag('room', frames=30)
    quick.bag('blackout_3s')
    assert asked[0] == rendered.Recipe('room', 9, None, 30, 2)
    assert [recipe.frames for recipe in asked[1:]] == [100, 30, 310]  # bright again after 13 s
    assert len({recipe.name for recipe in asked}) == 4


# --------------------------------------------------------------------------------------- speed


def test_speed_is_that_of_the_steps_and_memory_is_looked_at(walls, options, monkeypatch):
    monkeypatch.setattr(bench_speed, '_KINDS', MONO)
    monkeypatch.setattr(bench_speed, '_QUICK_LONG_FRAMES', 50)
    tables, numbers = measure_speed(options, walls)
    assert numbers['monocular']['frames'] == 30
    assert 0 < numbers['monocular']['median_ms'] <= numbers['monocular']['p95_ms']
    fifths = numbers['long']['fifths']
    assert [fifth['frames'] for fifth in fifths.values()] == [10] * 5
    assert all(20 < fifth['memory_mb'] < 20_000 for fifth in fifths.values())
    assert tables[0].title == 'speed at 160x120, 30 frames'
    second, last = fifths['2'], fifths['5']
    assert numbers['long']['slowdown'] == last['median_ms'] / second['median_ms']
    assert numbers['long']['grown_mb'] == last['memory_mb'] - second['memory_mb']


def test_every_fifth_of_the_long_run_shows_the_same():
    frames = [
        Frame(START_NS + k * PERIOD_NS, np.full((4, 6), k, np.uint8), CAMERA) for k in range(30)
    ]
    count = bench_speed._PARTS * 40
    source = ForthAndBackSource(bench_speed._stretch(frames, count), count, None)
    shown = [int(frame.image[0, 0]) for frame in source.records()]
    fifths = np.array_split(shown, bench_speed._PARTS)
    assert set(shown) == set(range(19, 30))
    for fifth in fifths[1:]:
        np.testing.assert_array_equal(fifth, fifths[0])


def test_memory_in_use_grows_with_what_is_held():
    code = (
        'import numpy as np; from kpvo_ros.cli.bench_speed import resident_mb; '
        'before = resident_mb(); held = np.ones(40 * 2**20, np.uint8); '
        'print(resident_mb() - before)'
    )  # in a process of its own: this one may have kept memory that was freed
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(40, abs=10)


# --------------------------------------------------------------------------------- determinism


def test_two_replays_of_the_wall_are_the_same(walls, options, monkeypatch):
    monkeypatch.setattr(bench_determinism, '_KINDS', DEPTH)
    _, numbers = measure_determinism(options, walls)
    assert numbers['depth']['verdict'] == 'held'
    assert len(numbers['depth']['sha256']) == 64


def test_replays_that_differ_are_told(walls, options, monkeypatch):
    monkeypatch.setattr(bench_determinism, '_KINDS', DEPTH)
    digests = iter([('a', 's'), ('b', 's')])
    monkeypatch.setattr(bench_determinism, '_run', lambda *_: next(digests))
    _, numbers = measure_determinism(options, walls)
    assert numbers['depth']['verdict'] == 'trajectories 2 > 1'


def test_times_are_left_out_of_the_digest_of_states_and_nothing_else(tmp_path):
    def digest(name, text):
        path = tmp_path / name
        path.write_text(f'stamp_ns,status,solve_ms,total_ms\n{text}\n')
        return states_digest(path)

    first = digest('a', '5,tracking,1.0,2.0')
    assert digest('b', '5,tracking,9.0,7.0') == first
    assert digest('c', '5,lost,1.0,2.0') != first
    assert digest('d', '6,tracking,1.0,2.0') != first


# --------------------------------------------------------------------------------- consistency


def test_moments_have_the_first_poses_laid_together():
    T_base_camera = np.eye(4)
    T_base_camera[:3, 3] = [0.2, 0.0, 1.0]
    T_world_start = np.eye(4)
    T_world_start[:3, :3] = Rotation.from_euler('z', 90, degrees=True).as_matrix()
    T_world_start[:3, 3] = [5.0, 6.0, 7.0]
    way = np.tile(np.eye(4), (5, 1, 1))
    way[:, 0, 3] = np.arange(5)
    stamps_ns = START_NS + np.arange(5) * PERIOD_NS
    source = types.SimpleNamespace(
        ground_truth=lambda: Trajectory(stamps_ns, T_world_start @ way @ T_base_camera),
        extrinsics=lambda: T_base_camera,
        info=types.SimpleNamespace(name='hand-made'),
    )
    watch = Watch()
    for index, T in enumerate(way):
        T = T.copy()
        T[1, 3] += 0.01 * index  # the estimate drifts to the left
        watch(image(100), estimate(index, T=T, sigma=0.1 * (index + 1)))
    moments = moments_of(watch, source)
    np.testing.assert_allclose(moments['end'].truth, way[4], atol=1e-12)
    np.testing.assert_allclose(moments['middle'].truth, way[2], atol=1e-12)
    np.testing.assert_allclose(moments['end'].estimate[:3, 3], [4.0, 0.04, 0.0])
    np.testing.assert_allclose(np.diag(moments['end'].covariance), 0.25)
    source.ground_truth = lambda: None
    with pytest.raises(EvaluationError, match='no ground truth'):
        moments_of(watch, source)


def drawn_moments(sigma_claimed, count=20, sigma=0.1):
    rng = np.random.default_rng(3)
    moments = []
    for error in rng.normal(scale=sigma, size=(count, 6)):
        truth = np.eye(4)
        truth[:3, 3] = error[:3]
        truth[:3, :3] = Rotation.from_rotvec(error[3:]).as_matrix()
        moments.append(Moment(truth, np.eye(4), np.diag([sigma_claimed**2] * 6)))
    return moments


@pytest.mark.parametrize('part', [Part.POSITION, Part.ROTATION])
def test_honest_runs_hold_the_floor_and_boasting_ones_do_not(part):
    honest = summarise(drawn_moments(0.1), part, is_judged=True)
    assert honest['verdict'] == 'held'
    assert honest['runs'] == len(honest['nees']) == 20
    assert honest['rms_sigma'] == pytest.approx(0.1 * np.sqrt(3))
    assert honest['rms_error'] == pytest.approx(0.1 * np.sqrt(3), rel=0.3)
    boasting = summarise(drawn_moments(0.03), part, is_judged=True)
    assert boasting['verdict'].startswith('mean')
    assert boasting['mean'] == pytest.approx(honest['mean'] * (0.1 / 0.03) ** 2)
    assert summarise(drawn_moments(0.03), part, is_judged=False)['verdict'] == '-'


def test_every_run_of_every_preset_is_counted(walls, options, monkeypatch):
    kinds = {'depth': (('scale.source=depth',), ('a', 'b', 'c'))}
    monkeypatch.setattr(bench_consistency, '_KINDS', kinds)
    tables, numbers = measure_consistency(options, walls)
    assert [run['preset'] for run in numbers['runs']['depth']] == ['a', 'b', 'c']
    end = numbers['summary']['depth, position, end']
    assert end['runs'] == 3
    # The wall is the same three times, and so is the error.
    single = numbers['runs']['depth'][0]['end']
    assert end['rms_error'] == pytest.approx(np.linalg.norm(single['error'][:3]))
    assert end['rms_sigma'] == pytest.approx(np.linalg.norm(single['sigma'][:3]))
    assert numbers['blackout']['depth']['verdict'].startswith('no dark frames')
    assert len(tables[0].rows) == 4


def test_claimed_certainty_is_a_failure_and_no_crash():
    moments = drawn_moments(0.0)
    assert summarise(moments, Part.POSITION, is_judged=True)['verdict'].startswith('failed')


def test_the_covariance_must_grow_in_the_dark():
    def watched(sigmas, levels):
        watch = Watch()
        for index, (sigma, level) in enumerate(zip(sigmas, levels, strict=True)):
            watch(image(level), estimate(index, sigma=sigma))
        return around_dark(watch)

    levels = [100] * 3 + [0] * 3 + [100] * 50
    good = watched([0.1] * 3 + [0.2, 0.3, 0.4] + [0.1] * 50, levels)
    assert good['verdict'] == 'held'
    root = np.sqrt(3)
    assert (good['before_m'], good['dark_m']) == pytest.approx((0.1 * root, 0.4 * root))
    assert good['after_m'] == pytest.approx(0.1 * root)
    assert good['growth'] == pytest.approx(4.0)
    assert 'growth' in watched([0.1] * 56, levels)['verdict']
    shrinking = watched([0.1] * 3 + [0.5, 0.4, 0.3] + [0.1] * 50, levels)
    assert 'smallest_step_m' in shrinking['verdict']
    assert 'no dark frames' in watched([0.1] * 3, [100] * 3)['verdict']


# ---------------------------------------------------------------------------------------- live


def recorded(answered, p95):
    latency = {'median': 12.0, 'p95': p95, 'max': 80.0, 'count': answered}
    return {'frames': 200, 'answered': answered, 'tracked': 150, 'latency_ms': latency}


def test_drops_and_latency_come_from_the_recording():
    good = live_numbers(recorded(198, 59.0))
    assert (good['dropped_percent'], good['tracked_percent']) == (1.0, 75.0)
    assert good['verdict'] == 'held'
    assert live_numbers(recorded(190, 61.0))['verdict'] == (
        'dropped_percent 5 > 1; latency_p95_ms 61 > 60'
    )
    assert 'latency_p95_ms: none' in live_numbers(recorded(0, None))['verdict']


def test_without_ros_live_is_skipped_in_a_line(walls, options, monkeypatch):
    def refuse():
        raise RosError('ROS 2 is not there')

    monkeypatch.setattr(bench_live, 'require_ros', refuse)
    tables, numbers = measure_live(options, walls)
    assert {case['verdict'] for case in numbers.values()} == {'skipped: ROS 2 is not there'}
    assert all(row[-1].startswith('skipped') for row in tables[0].rows)


@pytest.mark.slow
def test_the_wall_plays_live_through_the_nodes(walls, options, monkeypatch, ros_domain_id):
    pytest.importorskip('rclpy', reason='ROS 2 is not installed: run `make setup`')
    monkeypatch.setattr(bench_live, '_KINDS', {'monocular': ('scale.source:=none',)})
    _, numbers = measure_live(options, walls)
    assert numbers['monocular']['frames'] == 30
    assert numbers['monocular']['answered'] >= 15  # a busy test machine drops frames
    assert numbers['monocular']['latency_median_ms'] > 0


# ------------------------------------------------------------------------------------- columns


def test_cells_show_numbers_texts_and_what_is_absent():
    columns = (Column('m', 'ate', '.2f'), Column('verdict', 'verdict'))
    cases = {'a': {'ate': 0.123, 'verdict': 'held'}, 'b': {'ate': None}}
    table = number_table('title', 'case', columns, cases)
    assert table.header == ('case', 'm', 'verdict')
    assert table.rows == [('a', '0.12', 'held'), ('b', '-', '-')]
