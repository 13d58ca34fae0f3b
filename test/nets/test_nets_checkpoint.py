"""Weights files: what is written comes back, and nothing else is taken."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import safetensors.torch
import torch

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.checkpoint import fill, load_weights, read_config, save_weights
from kpvo_ros.nets.keypoint import KIND, KeypointNet, KeypointNetConfig, load_keypoint_net

SMALL = KeypointNetConfig((4, 4, 8, 8, 8), (1, 1, 1, 1, 1), 8, 16)
NOTES = {'command': 'kpvo train', 'metric': '0.5'}


@pytest.fixture
def network(torch_generator: torch.Generator) -> KeypointNet:
    return KeypointNet(SMALL, generator=torch_generator)


@pytest.fixture
def path(network: KeypointNet, tmp_path: Path) -> Path:
    save_weights(tmp_path / 'net.safetensors', network, kind=KIND, config=SMALL, notes=NOTES)
    return tmp_path / 'net.safetensors'


def rewrite(path: Path, **changes: object) -> None:
    """The same file with other words in its header."""
    data = path.read_bytes()
    state = safetensors.torch.load(data)
    (length,) = struct.unpack_from('<Q', data)
    words = json.loads(json.loads(data[8 : 8 + length])['__metadata__']['kpvo'])
    safetensors.torch.save_file(state, path, {'kpvo': json.dumps({**words, **changes})})


def test_a_network_comes_back_with_its_configuration(network: KeypointNet, path: Path) -> None:
    image = torch.rand(1, 1, 40, 48, generator=torch.Generator().manual_seed(3))
    again = load_keypoint_net(path)
    assert again.config == SMALL
    for one, two in zip(network.eval()(image), again(image), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_the_notes_come_back_beside_kind_and_configuration(path: Path) -> None:
    _, words = load_weights(path, kind=KIND)
    assert words == {**NOTES, 'kind': KIND, 'config': words['config']}
    assert read_config(words, KeypointNetConfig()) == SMALL


def test_the_same_weights_make_the_same_bytes_and_the_hash_is_that_of_the_file(
    network: KeypointNet, path: Path, tmp_path: Path
) -> None:
    notes = dict(reversed(NOTES.items()))
    again = tmp_path / 'again.safetensors'
    sha256 = save_weights(again, network, kind=KIND, config=SMALL, notes=notes)
    assert again.read_bytes() == path.read_bytes()
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_keypoint_net(path, sha256.upper()).config == SMALL


def test_another_hash_is_refused(path: Path) -> None:
    with pytest.raises(NetworkError, match='fetch it again'):
        load_keypoint_net(path, '0' * 64)


def test_another_kind_is_refused(path: Path) -> None:
    with pytest.raises(NetworkError, match="'keypoint', needed is 'landmark'"):
        load_weights(path, kind='landmark')


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r'cannot be read \(No such file'):
        load_weights(tmp_path / 'none.safetensors', kind=KIND)


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'\x00' * 7,
        b'\xff' * 64,
        struct.pack('<Q', 1 << 62) + b'{}',
        struct.pack('<Q', 2) + b'{}',
        struct.pack('<Q', 200_000) + b'[' * 200_000,
        safetensors.torch.save({'a': torch.zeros(2)}),
        safetensors.torch.save({'a': torch.zeros(2)}, {'kpvo': '{}'}),
        safetensors.torch.save({'a': torch.zeros(2)}, {'kpvo': '[1]'}),
    ],
    ids=lambda data: f'{len(data)} bytes',
)
def test_what_is_no_weights_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / 'x.safetensors'
    path.write_bytes(data)
    with pytest.raises(NetworkError, match='not a weights file'):
        load_weights(path, kind=KIND)


@pytest.mark.parametrize(
    ('config', 'line'),
    [
        ('{}', 'another version'),
        ('nonsense', 'another version'),
        ('[' * 100_000, 'another version'),
        ({'descriptor_size': 0}, 'no network has that'),
        ({'descriptor_size': 10**9}, 'no network has that'),
        ({'descriptor_size': True}, 'no network has that'),
        ({'descriptor_size': 'many'}, 'no network has that'),
        ({'widths': [4, 4, 8, 8]}, 'no network has that'),
        ({'widths': [4, 4, 8, 8, -8]}, 'no network has that'),
        ({'extra': 1}, 'another version'),
        ({'widths': [4, 4, 8, 8, 9]}, 'wrong network|belong to another network'),
        ({'depths': [1, 1, 1, 1, 2]}, 'belong to another network'),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_configuration_that_does_not_fit_is_refused(
    path: Path, config: str | dict[str, object], line: str
) -> None:
    if isinstance(config, dict):
        _, words = load_weights(path, kind=KIND)
        config = json.dumps({**json.loads(words['config']), **config})
    rewrite(path, config=config)
    with pytest.raises(NetworkError, match=line):
        load_keypoint_net(path)


def test_missing_unknown_and_misshapen_tensors_are_refused(network: KeypointNet) -> None:
    state = network.state_dict()
    name = next(iter(state))
    for wrong, line in (
        ({k: v for k, v in state.items() if k != name}, 'lack'),
        ({**state, 'extra': torch.zeros(1)}, 'unknown'),
        ({**state, name: state[name][:1]}, 'needed is'),
        ({**state, name: state[name].double()}, 'needed is'),
    ):
        with pytest.raises(NetworkError, match=line):
            fill(KeypointNet(SMALL), wrong)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite_are_neither_written_nor_read(
    network: KeypointNet, path: Path, tmp_path: Path, value: float
) -> None:
    state = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    state['trunk.stem.bias'][0] = value
    words = {'kind': KIND, 'config': '{}'}
    safetensors.torch.save_file(state, path, {'kpvo': json.dumps(words)})
    with pytest.raises(NetworkError, match='not finite'):
        load_weights(path, kind=KIND)
    network.load_state_dict(state)
    fresh = tmp_path / 'fresh.safetensors'
    with pytest.raises(NetworkError, match='not finite'):
        save_weights(fresh, network, kind=KIND, config=SMALL, notes={})
    assert not fresh.exists()


def test_a_reserved_note_is_refused(network: KeypointNet, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match='reserved'):
        save_weights(tmp_path / 'a', network, kind=KIND, config=SMALL, notes={'kind': 'x'})


def test_a_folder_that_cannot_be_written_is_one_line(network: KeypointNet, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match='cannot be written'):
        save_weights(tmp_path / 'no' / 'a', network, kind=KIND, config=SMALL, notes={})


def test_nothing_but_the_file_is_left_after_writing(path: Path) -> None:
    assert [file.name for file in path.parent.iterdir()] == [path.name]


_DATA = st.tuples(st.integers(0, 2**32), st.binary(min_size=1, max_size=8), st.booleans())


@settings(max_examples=60, deadline=None)
@given(damage=_DATA)
def test_damaged_bytes_never_pass_the_hash_and_never_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, damage: tuple[int, bytes, bool]
) -> None:
    folder = tmp_path_factory.mktemp('damaged')
    path, bad = folder / 'a.safetensors', folder / 'b.safetensors'
    network = KeypointNet(SMALL, generator=torch.Generator().manual_seed(0))
    sha256 = save_weights(path, network, kind=KIND, config=SMALL, notes=NOTES)
    data = path.read_bytes()
    where, new, cuts = damage
    # Half of the hits go to the header, which decides how the rest is read.
    (length,) = struct.unpack_from('<Q', data)
    place = where % (length + 8) if where % 2 else where % len(data)
    changed = data[:place] + new + (b'' if cuts else data[place + len(new) :])
    bad.write_bytes(changed)
    if changed == data:
        return
    with pytest.raises(NetworkError):
        load_keypoint_net(bad, sha256)
    try:
        again = load_keypoint_net(bad)
    except NetworkError as error:
        assert '\n' not in str(error)
    else:
        assert sum(p.numel() for p in again.parameters()) == sum(
            p.numel() for p in network.parameters()
        )
