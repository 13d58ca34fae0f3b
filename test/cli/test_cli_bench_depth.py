"""kpvo bench depth: a network that knows the truth scores full marks, one that errs its error."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

torch = pytest.importorskip('torch', reason='the networks need torch')

import cli_stage  # noqa: E402

from kpvo_ros.cli import (  # noqa: E402
    bench_depth,
    bench_depth_recorded,
    bench_depth_rendered,
    bench_depth_time,
    bench_depth_walks,
)
from kpvo_ros.cli.bench import BenchOptions  # noqa: E402
from kpvo_ros.cli.bench_depth_models import Model, load_models  # noqa: E402
from kpvo_ros.cli.bench_depth_pairs import SIZE, YARDSTICK, PairSet  # noqa: E402
from kpvo_ros.cli.main import main  # noqa: E402
from kpvo_ros.errors import CommandError, KpvoError  # noqa: E402
from kpvo_ros.nets import depth_vo, mono_depth  # noqa: E402
from kpvo_ros.nets.adapter import AdapterConfig, adapters, insert_adapters, save_adapters  # noqa: E402
from kpvo_ros.nets.checkpoint import save_weights  # noqa: E402
from kpvo_ros.nets.depth_vo import DepthVo, DepthVoConfig, DepthVoNet  # noqa: E402
from kpvo_ros.synthetic import walk_bank, world_choice  # noqa: E402
from kpvo_ros.synthetic.walk_bank import WalkBank  # noqa: E402

LITTLE = DepthVoConfig(32, 2, 2, 32, 4, 2, mlp_ratio=2, dpt_width=8, head_width=8, pose_width=16)
WIDTH, HEIGHT = SIZE
FOCAL_PX, WALL_M, STEP_M, SHIFT_PX = 200.0, 2.0, 0.08, 8
K = np.array([[FOCAL_PX, 0.0, 127.5], [0.0, FOCAL_PX, 95.5], [0.0, 0.0, 1.0]])


def motion(x_m: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('y', yaw_deg, degrees=True).as_matrix()
    T[0, 3] = x_m
    return T


TRUE_MOTION = motion(-STEP_M)  # the camera goes to the right, the wall to the left


class Saying:
    """A network that says the same of every pair."""

    def __init__(self, depth_m: float, T_1_0: np.ndarray) -> None:
        self._depth_m, self._T = depth_m, torch.from_numpy(T_1_0).float()

    def __call__(self, image0, image1, K0) -> DepthVo:
        assert image0.shape == image1.shape == (len(K0), 3, HEIGHT, WIDTH)
        assert float(image0.min()) >= 0.0 and 0.5 < float(image0.max()) <= 1.0
        depth = torch.full((len(K0), 1, HEIGHT, WIDTH), self._depth_m)
        sigma = torch.full_like(depth, np.log(0.1))
        return DepthVo(depth, depth, sigma, sigma, self._T.expand(len(K0), 4, 4))


def saying(name: str, depth_m: float = WALL_M, T_1_0: np.ndarray = TRUE_MOTION) -> Model:
    return Model(name, Saying(depth_m, T_1_0), {})


def wall_pairs(group: str, count: int) -> PairSet:
    """Views straight at a wall that slide along it, so the picture slides as well."""
    rng = np.random.default_rng(len(group))
    shape = (HEIGHT, WIDTH + SHIFT_PX * (count + 1))
    wall = sum(cv2.GaussianBlur(rng.normal(size=shape), None, s) * s for s in (2.0, 5.0, 12.0))
    gray = np.clip(128 + 45 * wall / wall.std(), 0, 255).astype(np.uint8)
    views = [gray[:, SHIFT_PX * i : SHIFT_PX * i + WIDTH] for i in range(count + 1)]
    images = np.repeat(np.stack(views)[..., None], 3, axis=3)
    depth = np.full(images.shape[:3], WALL_M)
    depth[:, :10] = np.nan
    T = np.stack([TRUE_MOTION] * count)
    return PairSet(group, images[:-1], images[1:], depth[:-1], depth[1:], K, T)


def options(tmp_path, **changes) -> BenchOptions:
    return BenchOptions(data_dir=tmp_path, work_dir=tmp_path, quick=True, seed=0, **changes)


@pytest.fixture
def walls(monkeypatch):
    """Two kinds of worlds, all of them walls."""
    sets = [wall_pairs('rooms', 2), wall_pairs('streets', 3), wall_pairs('rooms', 1)]
    monkeypatch.setattr(bench_depth_rendered, 'rendered_pairs', lambda *_: sets)
    return sets


@pytest.fixture
def little(tmp_path):
    """Weights of a small network, and adapters of it that change something."""
    network = DepthVoNet(LITTLE, generator=torch.Generator().manual_seed(1))
    path, beside = tmp_path / 'little.safetensors', tmp_path / 'adapters.safetensors'
    sha256 = save_weights(path, network, kind=depth_vo.KIND, config=LITTLE, notes={})
    insert_adapters(network, AdapterConfig(width=4))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for adapter in adapters(network).values():
            adapter.up.weight.normal_(generator=generator)
    save_adapters(beside, network, base_sha256=sha256, notes={})
    return path, beside


# --------------------------------------------------------------------------------------- models


def test_a_row_names_weights_and_their_adapters(little):
    path, beside = little
    plain, adapted = load_models([f'a={path}', f'b={path}+{beside}'])
    assert (plain.name, adapted.name) == ('a', 'b')
    assert set(plain.files) == {'weights'} and set(adapted.files) == {'weights', 'adapters'}
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 1, 3, 32, 48, generator=generator)
    camera = torch.tensor(K, dtype=torch.float32)[None]
    with torch.inference_mode():
        one, other = (m.network(images[0], images[1], camera).depth0 for m in (plain, adapted))
    assert float((one / other - 1.0).abs().max()) > 1e-3


@pytest.mark.parametrize('row', ['weights.safetensors', '=x.safetensors', 'a=', 'a=x.pt', 'a'])
def test_a_malformed_row_says_how_it_is_written(row):
    with pytest.raises(CommandError, match='write NAME=FILE'):
        load_models([row])


def test_rows_that_cannot_be_had_are_refused(little, tmp_path):
    path, beside = little
    with pytest.raises(CommandError, match='twice'):
        load_models([f'a={path}', f'a={path}'])
    with pytest.raises(KpvoError, match=r'nowhere\.safetensors'):
        load_models([f'a={tmp_path}/nowhere.safetensors'])
    other = tmp_path / 'other.safetensors'
    save_weights(other, DepthVoNet(LITTLE), kind=depth_vo.KIND, config=LITTLE, notes={})
    with pytest.raises(KpvoError, match='were trained on'):
        load_models([f'a={other}+{beside}'])


def test_other_benches_take_no_models(capsys):
    assert main(['bench', 'frontend', '--models', 'a=b.safetensors']) == 1
    assert '--models' in capsys.readouterr().err


# ------------------------------------------------------------------------------------- rendered


def test_the_truth_scores_full_marks_and_holds_every_floor(walls, tmp_path):
    _, numbers = bench_depth_rendered.measure_rendered(options(tmp_path), [saying('truth')])
    found = numbers['models']['truth']
    assert (numbers['pairs'], found['together']['pairs']) == (6, 6)
    assert (found['rooms']['pairs'], found['streets']['pairs']) == (3, 3)
    for group in ('together', 'rooms', 'streets'):
        assert found[group]['acc_125'] == 1.0
        assert found[group]['abs_rel'] == pytest.approx(0.0, abs=1e-6)
        assert found[group]['rotation_deg'] == pytest.approx(0.0, abs=1e-4)
        assert found[group]['step_percent'] == pytest.approx(0.0, abs=1e-4)
        assert found['refined'][group]['step_percent'] < 2.0


def test_errors_come_out_as_they_were_put_in_and_refinement_removes_those_of_motion(
    walls, tmp_path
):
    wrong = saying('wrong', 1.1 * WALL_M, motion(-1.3 * STEP_M, yaw_deg=1.0))
    tables, numbers = bench_depth_rendered.measure_rendered(options(tmp_path), [wrong])
    found = numbers['models']['wrong']
    assert found['together']['abs_rel'] == pytest.approx(0.1, abs=1e-5)
    assert found['together']['scale'] == pytest.approx(1 / 1.1, rel=1e-5)
    assert found['together']['rotation_deg'] == pytest.approx(1.0, abs=1e-3)
    assert found['together']['step_percent'] == pytest.approx(30.0, abs=0.1)
    assert found['refined']['together']['rotation_deg'] < 0.1
    # A tenth too far makes a step a tenth too long: that is all that is left.
    assert found['refined']['together']['step_percent'] == pytest.approx(10.0, abs=2.0)
    assert 'abs_rel' not in found['refined']['together']
    names = [row[0] for row in tables[0].rows]
    for name in ('wrong', 'wrong: streets', 'wrong, refined', 'wrong, refined: rooms', YARDSTICK):
        assert name in names


def test_the_yardstick_knows_the_depth_of_a_wall_and_no_motion(walls, tmp_path):
    _, numbers = bench_depth_rendered.measure_rendered(options(tmp_path), [saying('x')])
    nothing = numbers['models'][YARDSTICK]['together']
    assert nothing['acc_125'] == 1.0 and nothing['step_percent'] == pytest.approx(100.0)
    assert nothing['direction_deg'] is None


def test_worlds_are_of_all_kinds_and_far_from_those_of_trainings(monkeypatch, tmp_path):
    asked = {}

    def load_or_render(folder, walks, *, seed, size, progress):
        asked.update(folder=folder, walks=walks, seed=seed, per_part=size.per_part)
        depth = torch.full((walks, 4, 48, 64), 2.0, dtype=torch.float16)
        T = torch.eye(4).repeat(walks, 4, 1, 1)
        T[:, :, 0, 3] = torch.tensor([0.0, 0.1, 0.2, 3.0])  # the last one sees other things
        camera = torch.tensor([[50.0, 0.0, 31.5], [0.0, 50.0, 23.5], [0.0, 0.0, 1.0]])
        images = torch.zeros(walks, 4, 3, 48, 64, dtype=torch.uint8)
        return WalkBank(images, depth, T, camera.repeat(walks, 1, 1))

    monkeypatch.setattr(walk_bank, 'load_or_render', load_or_render)
    sets = bench_depth_walks.rendered_pairs(tmp_path, 7, rounds=2)
    assert (asked['walks'], asked['per_part']) == (8, 1)
    assert asked['seed'] > 1_000_000 and '7' in asked['folder'].name
    assert [pairs.group for pairs in sets] == [*bench_depth_walks.KINDS] * 2
    # neighbours 0-1 and 1-2, next but one 0-2; the camera goes to the right
    x = [T[0, 3] for T in sets[0].T_1_0]
    np.testing.assert_allclose(sorted(x), [-0.2, -0.1, -0.1], atol=1e-6)


def test_the_kinds_of_worlds_come_in_the_order_that_the_names_have(monkeypatch):
    monkeypatch.setattr(world_choice, '_ATLASES', 1)
    monkeypatch.setattr(world_choice, '_TEXTURE_SIDE', 32)
    found = []
    for turn in range(4):
        scene = world_choice.make_scene_world(np.random.default_rng(0), turn, 'cpu')
        xy = scene.path.T_world_base[:, :2, 3]
        narrow = np.ptp(xy, axis=0).min() < 2.0
        found.append('streets' if scene.night else 'corridors' if narrow else 'rooms')
    assert tuple(found) == bench_depth_walks.KINDS


# ------------------------------------------------------------------------------------- hololens


@pytest.fixture
def recording(tmp_path):
    """The wall of the command line tests under the name of the real one: 20 frames."""
    return cli_stage.write_bag(tmp_path / bench_depth_recorded.RECORDING)


def test_pairs_are_neighbours_in_the_last_two_fifths_in_the_size_of_the_networks(recording):
    pairs = bench_depth_recorded.recorded_pairs(recording)
    assert len(pairs) == 7  # of frames 12 to 19
    assert pairs.image0.shape == pairs.image1.shape == (7, HEIGHT, WIDTH, 3)
    left = 13 * cli_stage.STEP_PX
    view = cli_stage.WALL[:, left : left + cli_stage.CAMERA.width]
    expected = cv2.resize(view, SIZE, interpolation=cv2.INTER_AREA)
    assert np.abs(pairs.image1[0].astype(int) - expected).max() <= 2
    np.testing.assert_allclose(pairs.depth1, cli_stage.DISTANCE_M, rtol=1e-3)
    np.testing.assert_allclose(pairs.K[0, 0], cli_stage.CAMERA.fx * WIDTH / 160)
    np.testing.assert_allclose(pairs.T_1_0, [motion(-cli_stage.STEP_M)] * 7, atol=1e-9)


def test_depth_is_scaled_by_medians_and_the_scale_is_told(recording, tmp_path):
    half = saying('half', cli_stage.DISTANCE_M / 2, motion(-cli_stage.STEP_M))
    now = BenchOptions(data_dir=tmp_path, work_dir=tmp_path, quick=False, seed=0)
    _, numbers = bench_depth_recorded.measure_recorded(now, [half])
    found = numbers['models']['half']
    assert found['pairs'] == 7 and found['acc_125'] == 1.0
    assert found['abs_rel'] == pytest.approx(0.0, abs=1e-6)
    assert found['abs_rel_unscaled'] == pytest.approx(0.5, abs=1e-3)
    assert found['scale'] == pytest.approx(2.0, rel=1e-3)
    assert found['direction_deg'] == pytest.approx(0.0, abs=1e-3)
    assert 'adapted_over_shipped' not in numbers


def test_adapters_are_compared_when_all_three_rows_are_there():
    rows = {name: {'abs_rel': e} for name, e in (('shipped', 0.3), ('adapted', 0.21))}
    assert bench_depth_recorded.ratios(rows) == {}
    found = bench_depth_recorded.ratios({**rows, 'tuned': {'abs_rel': 0.2}})
    assert found['adapted_over_shipped'] == pytest.approx(0.7)
    assert found['adapted_over_tuned'] == pytest.approx(1.05)


def test_a_recording_without_depth_or_poses_is_refused(tmp_path):
    def without_depth(shot):
        shot.depth_m = None
        return shot

    for name, changes in (('a', {'change': without_depth}), ('b', {'truth': False})):
        path = cli_stage.write_bag(tmp_path / name, **changes)
        with pytest.raises(CommandError, match='needs depth and true poses'):
            bench_depth_recorded.recorded_pairs(path)


# ---------------------------------------------------------------------------------------- speed


def test_every_network_is_timed_in_both_precisions_and_with_both_numbers_of_threads(
    monkeypatch, tmp_path
):
    for name in ('TINY', 'SMALL'):
        monkeypatch.setattr(depth_vo, name, LITTLE)
    few = mono_depth.MonoDepthConfig(32, 4, 2, 2, levels=(1, 2, 3, 4), dpt_width=8)
    network = mono_depth.MonoDepthNet(few)
    monkeypatch.setattr(mono_depth, 'MonoDepthNet', lambda **_: network)
    monkeypatch.setattr(bench_depth_time, 'IMPORTED_SIZE', (28, 14))
    before, asked = torch.get_num_threads(), []

    def use_threads(count):  # two that wait for each other stall on a busy machine
        asked.append(count)
        torch.set_num_threads(1)

    monkeypatch.setattr(bench_depth_time, 'use_threads', use_threads)
    tables, numbers = bench_depth_time.measure_speed(options(tmp_path), [])
    assert sorted(asked) == [1, 2] and torch.get_num_threads() == before
    assert len(numbers['networks']) == len(tables[0].rows) == 6
    for row in numbers['networks'].values():
        times = [row[f'{kind}_ms_{threads}'] for kind in ('cpu', 'wall') for threads in (1, 2)]
        assert min(times) > 0.0
    used = 'bfloat16' if numbers['bfloat16_in_hardware'] else 'float32'
    assert numbers['tiny_ms'] == numbers['networks'][f'tiny {used}']['wall_ms_2']


# -------------------------------------------------------------------------------------- command


def test_the_command_writes_all_numbers_and_judges_the_floors(little, recording, tmp_path, capsys):
    path, beside = little
    words = ['bench', 'depth', '--quick', '--only', 'hololens', '--data', str(tmp_path)]
    words += ['--json', str(tmp_path / 'out.json'), '--work', str(tmp_path / 'work')]
    rows = [f'shipped={path}', f'adapted={path}+{beside}', f'tuned={path}']
    assert main([*words, '--models', *rows]) == 0
    numbers = json.loads((tmp_path / 'out.json').read_text())['numbers']
    assert set(numbers['hololens']['models']) == {YARDSTICK, 'shipped', 'adapted', 'tuned'}
    floors = numbers['floors']['adapters']
    assert set(floors) == {'adapted_over_shipped', 'adapted_over_tuned'}
    for number, floor in floors.items():
        assert floor['held'] == (numbers['hololens'][number] <= floor['at_most'])
    out = capsys.readouterr().out
    assert 'adapted_over_tuned' in out and ('held' in out or 'missed' in out)


def test_a_floor_is_held_or_missed_for_the_motion_as_said_and_as_refined(
    walls, tmp_path, monkeypatch
):
    wrong = saying('wrong', WALL_M, motion(-STEP_M, yaw_deg=2.0))
    monkeypatch.setattr(bench_depth, 'load_models_or_reason', lambda _: ([wrong], ''))
    floors = bench_depth.measure(options(tmp_path, only=('rendered',))).numbers['floors']
    assert floors['wrong']['acc_125']['held'] and floors['wrong']['abs_rel']['held']
    assert not floors['wrong']['rotation_deg']['held']
    assert floors['wrong, refined']['rotation_deg']['held']
    assert set(floors['wrong, refined']) == {'rotation_deg', 'step_percent'}


def test_a_part_that_cannot_be_measured_does_not_end_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_depth, 'load_models_or_reason', lambda _: ([], 'not installed'))
    result = bench_depth.measure(options(tmp_path, only=('rendered', 'hololens')))
    assert '--models' in result.numbers['rendered']['error']
    assert '--models' in result.numbers['hololens']['error']
    assert any('not installed' in row[0] for table in result.tables for row in table.rows)
    assert not result.numbers['floors']


def test_weights_that_were_asked_for_must_exist(tmp_path, capsys):
    words = ['bench', 'depth', '--only', 'rendered', '--work', str(tmp_path)]
    assert main([*words, '--models', f'a={tmp_path}/none.safetensors']) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
