"""kpvo bench: what it measures comes out as a table and as JSON, and what is absent is said."""

from __future__ import annotations

import json
import re

from cli_stage import N_FRAMES, STEP_M, write_bag
import numpy as np
import pytest

from kpvo_ros.bags.sources import open_source
from kpvo_ros.cli import bench_context, bench_odometry
from kpvo_ros.cli.bench import BENCHES
from kpvo_ros.cli.bench_odometry import Case, DroppingSource
from kpvo_ros.cli.main import main
from kpvo_ros.errors import CommandError
from kpvo_ros.types import Frame


def test_an_unknown_bench_is_one_line_that_lists_those_there_are(capsys):
    assert main(['bench', 'nonsense']) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    for name in BENCHES:
        assert name in err


@pytest.fixture
def wall(tmp_path, monkeypatch):
    """A folder of recorded sequences with one in it, and two cases."""
    data = tmp_path / 'data'
    data.mkdir()
    write_bag(data / 'wall')
    cases = (Case('wall depth', recorded='wall'), Case('absent', recorded='absent'))
    monkeypatch.setattr(bench_odometry, 'CASES', cases)
    return data


def test_odometry_measures_what_is_there_and_skips_what_is_not(wall, tmp_path, capsys):
    path = tmp_path / 'deep' / 'bench.json'
    words = ['bench', 'odometry', '--data', str(wall), '--json', str(path)]
    assert main([*words, '--work', str(tmp_path / 'work')]) == 0
    out = capsys.readouterr().out
    assert re.search(r'^wall depth +20 +100\.0 ', out, re.MULTILINE)
    assert re.search(r'^absent +skipped', out, re.MULTILINE)
    assert 'median milliseconds per stage' in out
    content = json.loads(path.read_text())
    assert content['command'].startswith('kpvo bench odometry --data')
    assert content['machine']['cores'] >= 1
    assert content['machine']['libraries']['numpy'] == np.__version__
    assert content['numbers']['absent'] is None
    measured = content['numbers']['wall depth']
    assert measured['summary']['frames'] == N_FRAMES
    assert measured['metrics']['path_length_m'] == pytest.approx((N_FRAMES - 1) * STEP_M, rel=1e-3)


def test_the_json_is_refused_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_odometry, 'measure', lambda options: pytest.fail('measured'))
    (tmp_path / 'file').write_text('')
    assert main(['bench', 'odometry', '--json', str(tmp_path / 'file' / 'x.json')]) == 1
    assert '--json' in capsys.readouterr().err


def test_dropped_images_are_a_third_and_the_same_every_time(tmp_path):
    bag = write_bag(tmp_path / 'bag', 60)

    def stamps():
        with DroppingSource(open_source(bag), 0.3, np.random.default_rng(1)) as source:
            assert source.info.n_frames is None
            assert source.ground_truth() is not None
            return [r.stamp_ns for r in source.records() if isinstance(r, Frame)]

    assert 33 <= len(stamps()) <= 51  # 42 with a standard deviation of 3.5
    assert stamps() == stamps()


def test_every_case_is_either_recorded_or_rendered_and_its_parameters_exist():
    from kpvo_ros.config.runtime import VoConfig
    from kpvo_ros.config.schema import with_words

    for case in bench_odometry.CASES:
        assert bool(case.recorded) != bool(case.preset), case.name
        with_words(VoConfig(), [word.format(height='1.5') for word in case.words])


def test_presets_of_the_cases_exist():
    pytest.importorskip('torch')
    from kpvo_ros.synthetic.sequence import PRESETS

    assert {case.preset for case in bench_odometry.CASES if case.preset} <= set(PRESETS)


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
