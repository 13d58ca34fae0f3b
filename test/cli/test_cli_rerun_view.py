"""The viewer is told everything about a frame; without rerun-sdk there is one line."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

from cli_stage import write_bag
import numpy as np
import pytest

from kpvo_ros.cli.main import main


class Recorder(SimpleNamespace):
    """Takes the place of the rerun module and keeps what it is told."""

    ViewCoordinates = SimpleNamespace(RIGHT_HAND_Z_UP='z up', RDF='rdf')

    def __init__(self):
        super().__init__(logged=[], stamps=[], started=None, saved=None)
        for name in ('Quaternion', 'Transform3D', 'Pinhole', 'Points2D', 'DepthImage'):
            setattr(self, name, self._keep(name))
        for name in ('LineStrips3D', 'Scalars', 'TextLog'):
            setattr(self, name, self._keep(name))

    def _keep(self, name):
        return lambda *values, **named: SimpleNamespace(kind=name, values=values, named=named)

    def Image(self, image):
        return SimpleNamespace(compress=lambda jpeg_quality: SimpleNamespace(kind='Image'))

    def init(self, name, spawn):
        self.started = spawn

    def save(self, path):
        self.saved = path

    def set_time(self, name, timestamp):
        self.stamps.append(timestamp)

    def log(self, path, what, static=False):
        self.logged.append((path, what))


@pytest.fixture
def rerun(monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, 'rerun', recorder)
    return recorder


def test_every_frame_is_logged_with_pose_keypoints_and_depth(tmp_path, rerun):
    bag = write_bag(tmp_path / 'bag', 6)
    words = ['replay', str(bag), '--out', str(tmp_path / 'out'), '--rerun', 'x.rrd']
    assert main([*words, 'scale.source=depth']) == 0
    assert (rerun.started, rerun.saved) == (False, 'x.rrd')
    assert len(rerun.stamps) == 6
    assert rerun.stamps[1] - rerun.stamps[0] == pytest.approx(0.05, abs=1e-6)
    by_path: dict[str, list] = {}
    for path, what in rerun.logged:
        by_path.setdefault(path, []).append(what)
    poses = by_path['odom/camera']
    rows = np.loadtxt(tmp_path / 'out/trajectory_tum.txt')
    np.testing.assert_allclose(poses[-1].named['translation'], rows[-1, 1:4], atol=1e-6)
    assert len(by_path['odom/camera/image/keypoints']) == 6
    assert len(by_path['odom/path'][-1].values[0][0]) == 6
    assert by_path['odom/camera/image/depth'][0].values[0].max() == pytest.approx(2.0)
    keypoints = by_path['odom/camera/image/keypoints'][-1]
    assert len(keypoints.values[0]) == len(keypoints.named['colors']) > 15


def test_without_a_file_the_viewer_is_opened(tmp_path, rerun):
    bag = write_bag(tmp_path / 'bag', 2)
    assert (
        main(['replay', str(bag), 'scale.source=depth', '--out', str(tmp_path / 'o'), '--rerun'])
        == 0
    )
    assert rerun.started is True


def test_without_the_package_there_is_one_line_with_the_cure(tmp_path, capsys, monkeypatch):
    if importlib.util.find_spec('rerun') is not None:
        monkeypatch.setitem(sys.modules, 'rerun', None)
    bag = write_bag(tmp_path / 'bag', 2)
    words = ['replay', str(bag), 'scale.source=depth', '--out', str(tmp_path / 'o')]
    assert main([*words, '--rerun', 'x.rrd']) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "pip install 'rerun-sdk" in err


def test_a_parameter_taken_for_the_file_is_refused(tmp_path, capsys, rerun):
    bag = write_bag(tmp_path / 'bag', 2)
    words = ['replay', str(bag), '--out', str(tmp_path / 'o'), '--rerun', 'scale.source=depth']
    assert main(words) == 1
    assert '.rrd' in capsys.readouterr().err
