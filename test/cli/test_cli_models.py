"""kpvo models list and verify as a user meets them; the weights are made here."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib
import json
from pathlib import Path
from typing import Any

from models_stage import Kpvo, Stage, runner, ship, staged
import pytest
from web_stage import OTHER


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with staged(tmp_path, monkeypatch) as stage:
        yield stage


@pytest.fixture
def kpvo(capsys: pytest.CaptureFixture[str]) -> Kpvo:
    return runner(capsys)


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# --------------------------------------------------------------------------------------- list


def test_list_names_the_models_of_all_folders(stage: Stage, kpvo: Kpvo) -> None:
    ship(stage.shipped, {'kpvo': stage.entry(), 'gone': stage.entry(file='gone', licence=None)})
    (stage.shipped / 'net.safetensors').write_bytes(bytes(1_340_000))
    ship(stage.own, {'mine': stage.entry(file='mine', kind='landmark')})
    code, out, err = kpvo('list')
    assert (code, err) == (0, '')
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ['name', 'kind', 'MB', 'licence', 'state', 'where']
    assert rows[2:] == [
        ['gone', 'keypoint', '-', '-', 'missing', str(stage.shipped)],
        ['kpvo', 'keypoint', '1.3', 'Apache-2.0', 'present', str(stage.shipped)],
        ['mine', 'landmark', '-', 'Apache-2.0', 'missing', str(stage.own)],
    ]


def test_list_for_programs_says_the_same_and_more(stage: Stage, kpvo: Kpvo) -> None:
    ship(stage.shipped, {'kpvo': stage.entry(), 'odd': {'file': '../odd'}})
    (stage.shipped / 'net.safetensors').write_bytes(b'12345')
    code, out, _ = kpvo('list', '--json')
    good, odd = json.loads(out)
    assert code == 0
    assert good == {
        'name': 'kpvo',
        'kind': 'keypoint',
        'bytes': 5,
        'licence': 'Apache-2.0',
        'present': True,
        'file': str(stage.shipped / 'net.safetensors'),
        'sha256': stage.sha256,
        'url': stage.web.url('/whole'),
        'fault': None,
    }
    assert (odd['name'], odd['present'], odd['file'], odd['bytes']) == ('odd', False, None, None)
    assert 'not the plain name' in odd['fault']


def test_without_a_model_list_says_how_to_get_one(stage: Stage, kpvo: Kpvo) -> None:
    assert kpvo('list') == (0, kpvo('list')[1], '')
    assert kpvo('list')[1].startswith('no models; kpvo train')
    assert kpvo('list', '--json')[1] == '[]\n'
    assert kpvo('verify')[0] == 0


@pytest.mark.parametrize('text', ['models: 3', 'models: !!python/object/apply:os.getcwd []', ''])
def test_a_damaged_manifest_is_told_and_the_others_are_listed(
    text: str, stage: Stage, kpvo: Kpvo
) -> None:
    (stage.shipped / 'manifest.yaml').write_text(text)
    ship(stage.own, {'mine': stage.entry()})
    code, out, err = kpvo('list')
    assert code == 1
    assert 'mine' in out
    assert 'not a list of models' in err and len(err.splitlines()) == 1
    code, out, _ = kpvo('verify', 'mine')
    assert code == 1 and 'BLOCK  manifest' in out


@pytest.mark.parametrize(
    'entries',
    [
        {'kpvo': {'kind': 'keypoint'}},
        {'kpvo': None},
        {'kpvo': ['file']},
        {7: {'file': 'x', 'sha256': 'a1' * 32}},
        {'a/b': {'file': 'x', 'sha256': 'a1' * 32}},
        {'..': {'file': 'x', 'sha256': 'a1' * 32}},
        {'net.safetensors': {'file': 'x', 'sha256': 'a1' * 32}},
        {'\x1b[2J\nkpvo': {'file': 'x', 'sha256': 'a1' * 32, 'licence': '\x1b[2J'}},
        {'kpvo': {'file': 'manifest.yaml', 'sha256': 'a1' * 32}},
    ],
    ids=str,
)
def test_a_malformed_entry_is_shown_as_such_and_cannot_write_to_the_terminal(
    entries: dict[Any, Any], stage: Stage, kpvo: Kpvo
) -> None:
    ship(stage.shipped, entries)
    code, out, _ = kpvo('list')
    assert code == 0
    assert 'malformed' in out
    assert len(out.splitlines()) == 3 and '\x1b' not in out
    code, out, _ = kpvo('verify')
    assert code == 1
    assert out.count('BLOCK') == 1 and len(out.splitlines()) == 2 and '\x1b' not in out


# ------------------------------------------------------------------------------------- verify


def test_verify_passes_a_whole_file_and_blames_each_damaged_one(stage: Stage, kpvo: Kpvo) -> None:
    names = ('good', 'spoilt', 'short')
    ship(stage.shipped, {name: stage.entry(file=name) for name in names})
    for name in names:
        (stage.shipped / name).write_bytes(stage.weights)
    assert kpvo('verify')[0] == 0
    spoil(stage.shipped / 'spoilt')
    (stage.shipped / 'short').write_bytes(stage.weights[:-1])
    code, out, _ = kpvo('verify')
    assert code == 1
    lines = {line.split()[1]: line for line in out.splitlines()[1:]}
    assert lines['good'].split()[0] == 'ok' and 'it loads' in lines['good']
    for name in ('spoilt', 'short'):
        assert lines[name].split()[0] == 'BLOCK'
        assert f'expected {stage.sha256[:12]}' in lines[name]
        assert lines[name].endswith(f'-> kpvo models get {name}')
    assert kpvo('verify', 'good')[0] == 0
    assert kpvo('verify', 'good', 'short')[0] == 1


def test_verify_loads_what_has_the_right_hash(stage: Stage, kpvo: Kpvo) -> None:
    sha256 = hashlib.sha256(OTHER).hexdigest()
    ship(stage.shipped, {'kpvo': stage.entry(sha256=sha256)})
    (stage.shipped / 'net.safetensors').write_bytes(OTHER)
    code, out, _ = kpvo('verify')
    assert code == 1
    assert 'not a weights file' in out


def test_verify_compares_the_hash_of_a_kind_it_does_not_know(stage: Stage, kpvo: Kpvo) -> None:
    ship(stage.shipped, {'kpvo': stage.entry(kind='something new')})
    (stage.shipped / 'net.safetensors').write_bytes(stage.weights)
    code, out, _ = kpvo('verify')
    assert code == 0
    assert "nothing here loads the kind 'something new'" in out
    spoil(stage.shipped / 'net.safetensors')
    assert kpvo('verify')[0] == 1


def test_a_file_that_can_be_fetched_may_be_missing_unless_it_is_asked_for(
    stage: Stage, kpvo: Kpvo
) -> None:
    ship(stage.shipped, {'kpvo': stage.entry()})
    code, out, _ = kpvo('verify')
    assert code == 0 and 'warn' in out and out.endswith('-> kpvo models get kpvo\n')
    assert kpvo('verify', 'kpvo')[0] == 1
    ship(stage.own, {'kpvo': stage.entry()})
    (stage.own / 'net.safetensors').write_bytes(stage.weights)
    assert kpvo('verify', 'kpvo')[0] == 0
    ship(stage.shipped, {'other': stage.entry(url=None)})
    code, out, _ = kpvo('verify')
    assert code == 1 and '-> install the package again' in out


def test_verify_of_an_unknown_name_lists_those_there_are(stage: Stage, kpvo: Kpvo) -> None:
    ship(stage.shipped, {'b': stage.entry(), 'a': stage.entry(file='a')})
    code, _, err = kpvo('verify', 'c')
    assert code == 1
    assert "no manifest names 'c': there are a, b" in err and len(err.splitlines()) == 1
