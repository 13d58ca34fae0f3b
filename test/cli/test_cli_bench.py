"""kpvo bench: what it measures comes out as a table and as JSON, and what is absent is said."""

from __future__ import annotations

import json
import re

from cli_stage import N_FRAMES, STEP_M, write_bag
import numpy as np
import pytest

from kpvo_ros.cli import bench_cases, bench_context, bench_odometry
from kpvo_ros.cli.bench import BENCHES, BenchOptions, Measurement, Table
from kpvo_ros.cli.bench_case_list import Case
from kpvo_ros.cli.bench_floors import Floor, judge, within
from kpvo_ros.cli.main import main
from kpvo_ros.errors import CommandError, EvaluationError


@pytest.fixture
def asked(monkeypatch):
    """What the odometry bench is told, instead of measuring for an hour."""
    received: list[BenchOptions] = []

    def measure(options):
        received.append(options)
        return Measurement([Table('t', ('a', 'b'), [('x', '1')])], {'n': 1})

    monkeypatch.setattr(bench_odometry, 'measure', measure)
    return received


@pytest.fixture
def wall(tmp_path, monkeypatch):
    """A folder of recorded sequences with one in it, and three cases."""
    data = tmp_path / 'data'
    data.mkdir()
    write_bag(data / 'wall')
    cases = (
        Case('wall depth', recorded='wall', floors=(Floor('ate_origin_m', at_most=1.0),)),
        Case('absent', recorded='absent', floors=(Floor('ate_origin_m', at_most=1.0),)),
        Case('too good', recorded='wall', floors=(Floor('path_m', at_least=1e3),)),
    )
    monkeypatch.setattr(bench_odometry, 'CASES', cases)
    return data


# ------------------------------------------------------------------------------------- command


def test_an_unknown_bench_is_one_line_that_lists_those_there_are(capsys):
    assert main(['bench', 'nonsense']) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    for name in BENCHES:
        assert name in err


def test_the_json_is_refused_before_anything_is_measured(tmp_path, capsys, asked):
    (tmp_path / 'file').write_text('')
    assert main(['bench', 'odometry', '--json', str(tmp_path / 'file' / 'x.json')]) == 1
    assert '--json' in capsys.readouterr().err
    assert not asked


def test_worlds_are_new_every_time_unless_a_seed_is_named(asked, tmp_path):
    path = tmp_path / 'x.json'
    for words in ([], [], ['--seed', '3']):
        assert main(['bench', 'odometry', '--json', str(path), *words]) == 0
    first, second, named = asked
    assert first.seed != second.seed
    assert min(first.seed, second.seed) > 1000  # none that a developer would choose
    assert max(first.seed, second.seed) < 2**31 - 10_000  # room for the worlds of a seed
    assert first.seed_is_drawn and second.seed_is_drawn and not named.seed_is_drawn
    assert named.seed == json.loads(path.read_text())['seed'] == 3


def test_parts_are_chosen_by_name_and_a_wrong_one_lists_those_there_are(asked, capsys):
    assert main(['bench', 'odometry', '--only', 'speed,live']) == 0
    assert asked[-1].only == ('speed', 'live')
    assert main(['bench', 'odometry', '--only', 'nonsense']) == 1
    err = capsys.readouterr().err
    for part in (*bench_odometry.PARTS, 'hololens_000_depth'):
        assert part in err
    assert len(asked) == 1


def test_a_bench_without_parts_says_so(capsys):
    pytest.importorskip('torch', reason='the renderer needs torch')
    assert main(['bench', 'renderer', '--only', 'speed']) == 1
    assert 'has no parts' in capsys.readouterr().err


def test_the_named_data_folder_wins_and_must_exist(tmp_path, monkeypatch):
    monkeypatch.setenv('KPVO_SHARED_DATA', str(tmp_path))
    assert bench_context.data_dir(None) == tmp_path
    (tmp_path / 'own').mkdir()
    assert bench_context.data_dir(tmp_path / 'own') == tmp_path / 'own'
    with pytest.raises(CommandError, match='no such folder'):
        bench_context.data_dir(tmp_path / 'gone')


def test_outside_of_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_context, '_PACKAGE', tmp_path / 'package')
    assert bench_context.commit() is None


# ------------------------------------------------------------------------------------ odometry


def test_cases_are_measured_where_there_is_data_and_judged(wall, tmp_path, capsys):
    path = tmp_path / 'deep' / 'bench.json'
    words = ['bench', 'odometry', '--data', str(wall), '--json', str(path), '--only', 'cases']
    assert main([*words, '--seed', '0', '--work', str(tmp_path / 'work')]) == 0
    out = capsys.readouterr().out
    assert re.search(r'^wall depth +20 +100\.0 +100\.0 +100\.0 +0 +0\.00 +1 ', out, re.MULTILINE)
    assert re.search(r'^absent .*skipped: no data$', out, re.MULTILINE)
    assert 'median milliseconds per stage' in out
    assert 'seed 0: 1 of 2 floors held' in out
    assert re.search(r'^cases: too good +path_m +0\.\d+ +at least 1000$', out, re.MULTILINE)
    content = json.loads(path.read_text())
    assert content['command'].startswith('kpvo bench odometry --data')
    assert content['machine']['cores'] >= 1
    assert content['machine']['libraries']['numpy'] == np.__version__
    assert content['numbers']['wall_s']['cases'] > 0
    cases = content['numbers']['cases']
    assert 'summary' not in cases['absent']
    measured = cases['wall depth']
    assert measured['summary']['frames'] == measured['frames'] == N_FRAMES
    assert measured['path_m'] == pytest.approx((N_FRAMES - 1) * STEP_M, rel=1e-3)
    assert measured['largest_jump_m'] < STEP_M
    assert measured['floors']['ate_origin_m']['held']


def test_one_case_may_be_named_alone(wall, tmp_path, capsys):
    words = ['bench', 'odometry', '--data', str(wall), '--work', str(tmp_path / 'work')]
    assert main([*words, '--seed', '0', '--only', 'too_good']) == 0
    out = capsys.readouterr().out
    assert 'too good' in out and 'wall depth' not in out


def test_a_part_that_fails_does_not_end_the_others(tmp_path, monkeypatch):
    def fail(options, worlds):
        raise EvaluationError('no such luck')

    parts = {'cases': fail, 'speed': lambda options, worlds: ([], {'fine': 1})}
    monkeypatch.setattr(bench_odometry, 'PARTS', parts)
    result = bench_odometry.measure(BenchOptions(None, tmp_path, False, 0))
    assert result.numbers['cases'] == {'error': 'no such luck'}
    assert result.numbers['speed'] == {'fine': 1}
    assert result.tables[0].rows == [('no such luck',)]


def test_a_case_that_fails_misses_its_floors_and_lets_the_others_run(wall, tmp_path, monkeypatch):
    (wall / 'wrong').mkdir()
    cases = (
        Case('wrong', recorded='wrong', floors=(Floor('path_m', at_least=0.0),)),
        Case('wall', recorded='wall'),
    )
    monkeypatch.setattr(bench_odometry, 'CASES', cases)
    options = BenchOptions(wall, tmp_path / 'work', False, 0, ('cases',))
    result = bench_odometry.measure(options)
    assert result.numbers['cases']['wrong']['verdict'].startswith('failed: ')
    assert result.numbers['cases']['wall']['frames'] == N_FRAMES
    assert result.tables[-1].rows == [('cases: wrong', 'path_m', 'none', 'at least 0')]


def test_parameters_of_the_user_take_the_place_of_those_of_a_case(
    wall, tmp_path, capsys, monkeypatch
):
    used, replay = [], bench_cases.replay

    def watched(source, config, *args, **options):
        used.append(config)
        return replay(source, config, *args, **options)

    monkeypatch.setattr(bench_cases, 'replay', watched)
    path = tmp_path / 'bench.json'
    words = ['bench', 'odometry', '--data', str(wall), '--work', str(tmp_path / 'work')]
    words += ['--seed', '0', '--only', 'wall_depth', '--json', str(path)]
    words += ['--with', 'scale.source=none,frontend.roi=0,0,1,1,memory.extractor=orb']
    assert main(words) == 0
    given = ['scale.source=none', 'frontend.roi=0,0,1,1', 'memory.extractor=orb']
    assert f'with {" ".join(given)}' in capsys.readouterr().out
    numbers = json.loads(path.read_text())['numbers']
    assert numbers['with'] == given
    assert list(numbers['cases']) == ['wall depth']  # the other parts have their own parameters
    assert numbers['cases']['wall depth']['words'] == given  # scale.source=depth is gone
    assert [(c.scale.source, c.memory.extractor) for c in used] == [('none', 'orb')]


def test_parameters_are_refused_before_anything_is_measured(asked, tmp_path, capsys):
    for words, why in (
        (['odometry', '--with', 'memory.extractor=nonsense'], 'nonsense'),
        (['odometry', '--with', 'no.such=1'], 'no.such'),
        (['odometry', '--with', 'orb'], 'key=value'),
        (['frontend', '--with', 'memory.extractor=orb'], '--with'),
    ):
        assert main(['bench', *words]) == 1
        err = capsys.readouterr().err
        assert why in err and len(err.splitlines()) == 1
    assert not asked


def test_parameters_are_for_the_cases_alone(tmp_path):
    options = BenchOptions(None, tmp_path, False, 0, ('speed',), words=('memory.extractor=orb',))
    with pytest.raises(CommandError, match='speed'):
        bench_odometry.measure(options)


# -------------------------------------------------------------------------------------- floors


@pytest.mark.parametrize(
    ('floor', 'value', 'miss'),
    [
        (Floor('n', at_most=2.0), 2.0, ''),
        (Floor('n', at_most=2.0), 2.5, 'n 2.5 > 2'),
        (Floor('n', at_least=2.0), 1.5, 'n 1.5 < 2'),
        (Floor('n', at_least=2.0), None, 'n: none'),
        (Floor('n', at_most=2.0, if_any=True), None, ''),
        (Floor('n', at_most=2.0), float('nan'), 'n nan > 2'),
        (within('n', 3.0), -2.9, ''),
        (within('n', 3.0), -3.1, 'n -3.1 < -3'),
        (within('n', 3.0), 3.1, 'n 3.1 > 3'),
    ],
)
def test_a_floor_is_held_or_missed_in_words(floor, value, miss):
    assert floor.miss(value) == miss
    assert floor.holds(value) == (miss == '')


def test_a_verdict_names_every_miss_and_keeps_the_numbers():
    floors = (Floor('a', at_most=1.0), Floor('b', at_least=1.0), Floor('c', at_most=1.0))
    verdict = judge(floors, {'a': 0.5, 'b': 0.5})
    assert verdict.text == 'b 0.5 < 1; c: none'
    assert [verdict.numbers[name]['held'] for name in 'abc'] == [True, False, False]
    assert not verdict.held
    assert judge(floors[:1], {'a': 0.5}).text == 'held'
    assert judge((), {}).text == '-'
    json.dumps(verdict.numbers, allow_nan=False)
