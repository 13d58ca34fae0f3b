"""Files of others: tensors come out, code is not executed, sizes are bounded."""

from __future__ import annotations

import io
from pathlib import Path
import zipfile

import pytest
import safetensors.torch
import torch
from torch import Tensor

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.public_files import read_public_state


@pytest.mark.parametrize('wrapper', [None, 'model', 'state_dict'])
@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.safetensors'])
def test_what_is_in_a_file_comes_out(
    torch_generator: torch.Generator, tmp_path: Path, suffix: str, wrapper: str | None
) -> None:
    state = {'a.weight': torch.randn(3, 2, generator=torch_generator), 'b': torch.ones(1).half()}
    path = tmp_path / f'net{suffix}'
    if suffix == '.safetensors':
        safetensors.torch.save_file(state, path)
    else:
        torch.save({wrapper: state, 'epoch': 3} if wrapper else state, path)
    found = read_public_state(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)
    assert found['b'].dtype == torch.float16


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_executed(tmp_path: Path) -> None:
    trace = tmp_path / 'was_here'
    torch.save({'weight': torch.ones(2), 'code': Code(trace)}, tmp_path / 'net.pth')
    with pytest.raises(NetworkError, match='not executed'):
        read_public_state(tmp_path / 'net.pth')
    assert not trace.exists()
    # It would have been: the same file, read without care.
    torch.load(tmp_path / 'net.pth', weights_only=False)
    assert trace.exists()


def archive(content: dict[str, Tensor], compression: int) -> bytes:
    """What torch.save writes, packed again."""
    whole, packed = io.BytesIO(), io.BytesIO()
    torch.save(content, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(packed, 'w', compression) as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    return packed.getvalue()


def test_a_small_archive_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    path, content = tmp_path / 'net.pth', {'weight': torch.zeros(1 << 20)}
    path.write_bytes(archive(content, zipfile.ZIP_STORED))
    assert read_public_state(path)['weight'].shape == (1 << 20,)
    path.write_bytes(archive(content, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 1 << 16
    with pytest.raises(NetworkError, match='damaged or not written'):
        read_public_state(path)


@pytest.mark.parametrize(
    ('name', 'content', 'line'),
    [
        ('net.pth', b'', 'damaged'),
        ('net.pth', b'PK\x03\x04' + bytes(50), 'damaged'),
        ('net.pth', b'\x80\x02}q\x00.', 'damaged'),
        ('net.safetensors', b'', 'damaged'),
        ('net.safetensors', b'\xff' * 20, 'damaged'),
        ('net.bin', b'', r'\.safetensors, \.pth'),
        ('net', b'', r'\.safetensors, \.pth'),
    ],
)
def test_what_is_no_file_of_weights_is_refused(
    tmp_path: Path, name: str, content: bytes, line: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NetworkError, match=line) as error:
        read_public_state(tmp_path / name)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'content',
    [
        {},
        [torch.ones(1)],
        torch.ones(1),
        {'a': 1},
        {1: torch.ones(1)},
        {'a': {'b': torch.ones(1)}},
        {'a': torch.eye(2).to_sparse()},
        {'a': torch.ones(2, device='meta')},
    ],
    ids=str,
)
def test_an_archive_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / 'net.pth')
    with pytest.raises(NetworkError, match='give a file of weights'):
        read_public_state(tmp_path / 'net.pth')


def test_a_file_that_is_absent_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match='No such file'):
        read_public_state(tmp_path / 'net.pth')
    safetensors.torch.save_file({'a': torch.ones(1 << 19)}, tmp_path / 'net.safetensors')
    assert read_public_state(tmp_path / 'net.safetensors', max_bytes=3 << 20)
    with pytest.raises(NetworkError, match='more than 1 MiB'):
        read_public_state(tmp_path / 'net.safetensors', max_bytes=1 << 20)
