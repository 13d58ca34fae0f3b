"""kpvo models get as a user meets it; weights and web server are made here."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
import os
from pathlib import Path
from typing import Any

from models_stage import SMALL, Kpvo, Stage, runner, ship, staged
import pytest
import torch
from web_stage import OTHER
import yaml

from kpvo_ros.frontend.models import ModelFile, resolve_model
from kpvo_ros.nets import diffusion
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.keypoint import KIND, load_keypoint_net


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with staged(tmp_path, monkeypatch) as stage:
        yield stage


@pytest.fixture
def kpvo(capsys: pytest.CaptureFixture[str]) -> Kpvo:
    return runner(capsys)


def named(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / 'manifest.yaml').read_text(encoding='utf-8'))['models']


def test_get_brings_a_model_that_the_front_end_finds(stage: Stage, kpvo: Kpvo) -> None:
    ship(stage.shipped, {'kpvo': stage.entry()})
    before = (stage.shipped / 'manifest.yaml').read_bytes()
    code, out, err = kpvo('get', 'kpvo')
    assert (code, err) == (0, '')
    assert 'fetched, the hash is right' in out
    path = stage.shipped / 'net.safetensors'
    assert path.read_bytes() == stage.weights
    assert resolve_model('kpvo', KIND) == ModelFile(path, stage.sha256)
    assert (stage.shipped / 'manifest.yaml').read_bytes() == before
    assert not stage.own.exists()


def test_get_of_what_is_there_and_right_does_nothing(stage: Stage, kpvo: Kpvo) -> None:
    ship(stage.shipped, {'kpvo': stage.entry()})
    assert kpvo('get', 'kpvo')[0] == 0
    before = (stage.shipped / 'net.safetensors').stat()
    code, out, _ = kpvo('get', 'kpvo')
    assert code == 0 and 'is there already' in out
    assert (stage.shipped / 'net.safetensors').stat() == before
    assert len(stage.web.asked) == 1


def test_get_mends_a_damaged_file(stage: Stage, kpvo: Kpvo) -> None:
    ship(stage.shipped, {'kpvo': stage.entry()})
    (stage.shipped / 'net.safetensors').write_bytes(b'half')
    assert kpvo('get', 'kpvo')[0] == 0
    assert kpvo('verify', 'kpvo')[0] == 0


@pytest.mark.parametrize(
    ('way', 'says'),
    [
        ('/other', 'expected'),
        ('/nothing', '404'),
        ('/loop', 'redirects'),
        ('/long', 'too many'),
        ('/cut-no-ranges', 'broke off'),
    ],
)
def test_a_download_that_fails_is_one_line_and_no_file(
    way: str, says: str, stage: Stage, kpvo: Kpvo
) -> None:
    ship(stage.shipped, {'kpvo': stage.entry(url=stage.web.url(way))})
    code, out, err = kpvo('get', 'kpvo')
    assert (code, out) == (1, '')
    assert says in err and len(err.splitlines()) == 1
    assert not (stage.shipped / 'net.safetensors').exists()


def test_another_address_may_be_given_and_the_hash_stays(stage: Stage, kpvo: Kpvo) -> None:
    ship(stage.shipped, {'kpvo': stage.entry(url=None)})
    code, _, err = kpvo('get', 'kpvo')
    assert code == 1 and 'give --url URL' in err
    assert kpvo('get', 'kpvo', '--url', stage.web.url('/other'))[0] == 1
    words = ('get', 'kpvo', '--url', stage.web.url('/no-ranges'))
    code, _, err = kpvo(*words, '--sha256', 'a1' * 32)
    assert code == 1 and 'leave --sha256 out' in err
    assert kpvo(*words, '--sha256', stage.sha256.upper())[0] == 0
    assert (stage.shipped / 'net.safetensors').read_bytes() == stage.weights


def test_without_leave_to_write_it_goes_to_the_folder_of_the_user(
    stage: Stage, kpvo: Kpvo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, 'access', lambda path, mode: Path(path) != stage.shipped)
    ship(stage.shipped, {'kpvo': stage.entry()})
    assert kpvo('get', 'kpvo')[0] == 0
    assert not (stage.shipped / 'net.safetensors').exists()
    assert (stage.own / 'net.safetensors').read_bytes() == stage.weights
    assert resolve_model('kpvo', KIND).path == stage.own / 'net.safetensors'
    wanted = stage.entry(metrics=None)  # text alone is copied
    assert named(stage.own) == {'kpvo': wanted}
    code, out, _ = kpvo('get', 'kpvo')
    assert code == 0 and 'is there already' in out
    assert named(stage.own) == {'kpvo': wanted}


def test_a_known_model_can_be_put_into_a_folder(stage: Stage, kpvo: Kpvo, tmp_path: Path) -> None:
    ship(stage.shipped, {'kpvo': stage.entry()})
    code, out, _ = kpvo('get', 'kpvo', '--to', str(tmp_path / 'to'))
    assert code == 0
    assert f'frontend.weights_path={tmp_path / "to" / "net.safetensors"}' in out
    assert list(named(tmp_path / 'to')) == ['kpvo']
    assert not (stage.shipped / 'net.safetensors').exists()


def test_a_model_that_no_manifest_names_gets_an_entry(stage: Stage, kpvo: Kpvo) -> None:
    url = stage.web.url('/whole?version=2&name=net')
    code, _, err = kpvo('get', 'mine', '--url', url, '--sha256', stage.sha256.upper())
    assert (code, err) == (0, '')
    assert named(stage.own) == {
        'mine': {'file': 'mine.safetensors', 'kind': KIND, 'sha256': stage.sha256, 'url': url}
    }
    assert load_keypoint_net(stage.own / 'mine.safetensors', stage.sha256).config == SMALL
    assert resolve_model('mine', KIND).path == stage.own / 'mine.safetensors'
    assert kpvo('verify', 'mine')[0] == 0
    assert kpvo('get', 'mine')[0] == 0


def test_the_kind_of_a_new_model_is_seen_in_the_file(
    stage: Stage, kpvo: Kpvo, tmp_path: Path
) -> None:
    config = diffusion.DiffusionConfig((16, 16, 32), (1, 1, 1), 16, 7, 8)
    network = diffusion.DiffusionNet(config, generator=torch.Generator().manual_seed(2))
    path = tmp_path / 'textures.safetensors'
    sha256 = save_weights(path, network, kind=diffusion.KIND, config=config, notes={})
    stage.web.data = path.read_bytes()
    words = ('--url', stage.web.url('/whole'), '--sha256', sha256)
    assert kpvo('get', 'textures', *words)[0] == 0
    assert named(stage.own)['textures']['kind'] == 'diffusion'


def test_what_is_no_network_gets_neither_name_nor_entry(stage: Stage, kpvo: Kpvo) -> None:
    words = ('--url', stage.web.url('/other'), '--sha256', hashlib.sha256(OTHER).hexdigest())
    code, _, err = kpvo('get', 'mine', *words)
    assert code == 1
    assert 'no network of this version' in err and len(err.splitlines()) == 1
    assert list(stage.own.iterdir()) == []


def test_comments_of_a_manifest_survive_a_new_entry(
    stage: Stage, kpvo: Kpvo, tmp_path: Path
) -> None:
    text = '# ours\nmodels:\n  kpvo:  # the first\n    file: x\n    sha256: ' + 'a1' * 32 + '\n'
    (tmp_path / 'manifest.yaml').write_text(text)
    words = ('--url', stage.web.url('/whole'), '--sha256', stage.sha256, '--to', str(tmp_path))
    assert kpvo('get', 'mine', *words)[0] == 0
    assert (tmp_path / 'manifest.yaml').read_text().startswith(text)
    assert list(named(tmp_path)) == ['kpvo', 'mine']


@pytest.mark.parametrize(
    'text',
    ['models: {kpvo: {file: x}}\n', 'models: {}\n', 'models:\n    a: 1\n', '{models: {a: 1}}'],
)
def test_a_manifest_of_another_style_gets_the_entry_too(
    text: str, stage: Stage, kpvo: Kpvo, tmp_path: Path
) -> None:
    (tmp_path / 'manifest.yaml').write_text(text)
    before = named(tmp_path)
    words = ('--url', stage.web.url('/whole'), '--sha256', stage.sha256, '--to', str(tmp_path))
    assert kpvo('get', 'mine', *words)[0] == 0
    after = named(tmp_path)
    assert after.pop('mine')['file'] == 'mine.safetensors'
    assert after == before


@pytest.mark.parametrize('name', ['../mine', '/tmp/mine', '.mine', 'a/b', '..', '', 'a\nb', 'ä'])
def test_a_name_that_leads_elsewhere_is_refused(name: str, stage: Stage, kpvo: Kpvo) -> None:
    words = ('--url', stage.web.url('/whole'), '--sha256', stage.sha256)
    code, _, err = kpvo('get', name, *words)
    assert code == 1 and len(err.splitlines()) == 1
    assert stage.web.asked == []
    assert not stage.own.exists()


@pytest.mark.parametrize('file', ['../net.safetensors', '/tmp/net.safetensors', '..', 'a/b'])
def test_a_manifest_cannot_have_files_written_elsewhere(
    file: str, stage: Stage, kpvo: Kpvo
) -> None:
    ship(stage.shipped, {'kpvo': stage.entry(file=file)})
    code, _, err = kpvo('get', 'kpvo')
    assert code == 1 and 'not the plain name of a file' in err
    assert stage.web.asked == []


def test_get_of_an_unknown_name_says_what_it_needs(stage: Stage, kpvo: Kpvo) -> None:
    for words in ((), ('--url', stage.web.url('/whole')), ('--sha256', stage.sha256)):
        code, _, err = kpvo('get', 'mine', *words)
        assert code == 1 and '--url and --sha256' in err
    url = stage.web.url('/whole')
    code, _, err = kpvo('get', 'mine', '--url', url, '--sha256', 'a1')
    assert code == 1 and '64 hexadecimal' in err
    code, _, err = kpvo('get', 'mine', '--url', 'file:///x', '--sha256', stage.sha256)
    assert code == 1 and 'give http(s)://' in err
    assert stage.web.asked == []


def test_what_lies_in_the_folder_is_not_overwritten(
    stage: Stage, kpvo: Kpvo, tmp_path: Path
) -> None:
    words = ('--url', stage.web.url('/whole'), '--sha256', stage.sha256, '--to', str(tmp_path))
    (tmp_path / 'mine.safetensors').write_bytes(b'my own')
    code, _, err = kpvo('get', 'mine', *words)
    assert code == 1 and 'is another file' in err
    (tmp_path / 'mine.safetensors').unlink()
    ship(tmp_path, {'first': stage.entry(file='mine.safetensors')})
    code, _, err = kpvo('get', 'mine', *words)
    assert code == 1 and "belongs to the model 'first'" in err
    ship(stage.shipped, {'kpvo': stage.entry()})
    ship(stage.own, {'kpvo': stage.entry(sha256='a1' * 32)})
    code, _, err = kpvo('get', 'kpvo', '--to', str(stage.own))
    assert code == 1 and 'expected a1a1a1' in err  # the entry of --to decides
    assert named(tmp_path) == {'first': stage.entry(file='mine.safetensors')}


def test_a_user_without_a_home_is_told_what_to_give(
    stage: Stage, kpvo: Kpvo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.setenv('XDG_DATA_HOME', 'not/absolute')  # to be ignored, says the specification
    monkeypatch.setattr(Path, 'home', no_home)
    words = ('--url', stage.web.url('/whole'), '--sha256', stage.sha256)
    code, _, err = kpvo('get', 'mine', *words)
    assert code == 1 and 'give --to DIR' in err
    assert kpvo('list')[0] == 0
