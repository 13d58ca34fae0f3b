"""Shipped weights are found by name, and a manifest cannot lead anywhere else."""

from __future__ import annotations

from pathlib import Path
import sys
from typing import Any

import pytest
import yaml

from kpvo_ros.errors import FrontendError
from kpvo_ros.frontend import models
from kpvo_ros.frontend.models import ModelFile, model_folders, resolve_model, user_folder

HASH = 'a1' * 32
ENTRY = {'file': 'net.safetensors', 'kind': 'keypoint', 'sha256': HASH, 'licence': 'Apache-2.0'}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models folder of an installation, the only one in sight."""
    monkeypatch.setattr(models, '__file__', str(tmp_path / 'a/kpvo_ros/frontend/models.py'))
    monkeypatch.setattr(sys, 'prefix', str(tmp_path / 'prefix'))
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'data'))
    folder = tmp_path / 'prefix/share/kpvo_ros/models'
    folder.mkdir(parents=True)
    return folder


def write(folder: Path, content: Any) -> None:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'manifest.yaml').write_text(text, encoding='utf-8')


def test_a_name_leads_to_the_file_beside_the_manifest_and_its_hash(folder: Path) -> None:
    write(folder, {'models': {'kpvo': ENTRY}})
    (folder / 'net.safetensors').touch()
    assert resolve_model('kpvo', 'keypoint') == ModelFile(folder / 'net.safetensors', HASH)


def test_the_source_tree_comes_before_python_and_python_before_ros(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / 'a/models'
    ros = [tmp_path / name / 'share/kpvo_ros/models' for name in ('ros1', 'ros2')]
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{tmp_path}/ros1::{tmp_path}/none:{tmp_path}/ros2')
    for place in (*ros, folder, source):
        write(place, {'models': {}})
    assert model_folders() == [source, folder, *ros]
    write(ros[1], {'models': {'kpvo': ENTRY}})
    (ros[1] / 'net.safetensors').touch()
    assert resolve_model('kpvo', 'keypoint').path.parent == ros[1]


def test_the_folder_of_the_user_comes_last_and_helps_out_where_a_file_is_missing(
    folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / 'data/kpvo_ros/models'
    for place in (own, folder):
        write(place, {'models': {'kpvo': ENTRY}})
    assert model_folders() == [folder, own]
    with pytest.raises(FrontendError, match=r'are missing at .*kpvo models get kpvo'):
        resolve_model('kpvo', 'keypoint')
    (own / 'net.safetensors').touch()
    assert resolve_model('kpvo', 'keypoint').path.parent == own
    (folder / 'net.safetensors').touch()
    assert resolve_model('kpvo', 'keypoint').path.parent == folder


@pytest.mark.parametrize('named', ['', 'not/absolute'])
def test_without_a_data_folder_the_home_is_taken(
    named: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('XDG_DATA_HOME', named)  # a relative one is to be ignored
    monkeypatch.setenv('HOME', str(tmp_path))
    assert user_folder() == tmp_path / '.local/share/kpvo_ros/models'


def test_a_path_is_used_as_it_is_and_has_no_expected_hash(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / 'mine.safetensors'
    path.touch()
    assert resolve_model(str(path), 'keypoint') == ModelFile(path, None)


def test_without_an_installed_model_the_message_says_so(folder: Path) -> None:
    with pytest.raises(FrontendError, match=r"no weights named 'kpvo': none are installed"):
        resolve_model('kpvo', 'keypoint')
    write(folder, {'models': {'other': ENTRY}})
    with pytest.raises(FrontendError, match='there are other'):
        resolve_model('kpvo', 'keypoint')


@pytest.mark.parametrize(
    'file',
    ['../net.safetensors', '/etc/passwd', 'a/b', 'a\\b', '..', '.', '', '.hidden', 'a\n', None, 7],
)
def test_a_file_name_that_leads_elsewhere_is_refused(folder: Path, file: Any) -> None:
    (folder.parent / 'net.safetensors').touch()
    write(folder, {'models': {'kpvo': {**ENTRY, 'file': file}}})
    with pytest.raises(FrontendError, match='not the plain name of a file'):
        resolve_model('kpvo', 'keypoint')


@pytest.mark.parametrize(
    ('change', 'line'),
    [
        ({'sha256': 'a1'}, '64 hexadecimal'),
        ({'sha256': None}, '64 hexadecimal'),
        ({'sha256': HASH + '\n'}, '64 hexadecimal'),
        ({'kind': 'landmark'}, "of kind 'landmark', needed is 'keypoint'"),
        ({'file': 'gone.safetensors'}, 'are missing at'),
    ],
    ids=str,
)
def test_a_malformed_entry_is_refused(folder: Path, change: dict[str, Any], line: str) -> None:
    (folder / 'net.safetensors').touch()
    write(folder, {'models': {'kpvo': {**ENTRY, **change}}})
    with pytest.raises(FrontendError, match=line):
        resolve_model('kpvo', 'keypoint')


@pytest.mark.parametrize(
    'text',
    [
        '',
        'models: 3',
        '[1, 2]',
        'models: !!python/object/apply:os.getcwd []',
        '[' * 5000,
        'a: b: c',
        'x' * (1 << 21),
    ],
    ids=lambda text: text[:30],
)
def test_a_manifest_that_is_none_is_refused_and_nothing_in_it_is_run(
    folder: Path, text: str
) -> None:
    write(folder, text)
    with pytest.raises(FrontendError, match='not a list of models'):
        resolve_model('kpvo', 'keypoint')
