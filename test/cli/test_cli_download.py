"""Downloads: whole and right under their name, or not there; against a server of this machine."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import hashlib
from pathlib import Path
import socket
import time

import pytest
from web_stage import Asked, Web, serving

from kpvo_ros.cli import download
from kpvo_ros.cli.download import fetch, require_url, sha256_of
from kpvo_ros.errors import CommandError, NetworkError

DATA = bytes(range(256)) * 4000  # four pieces: more than one call of read
HASH = hashlib.sha256(DATA).hexdigest()
HALF = len(DATA) // 2


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv('no_proxy', '*')
    with serving(DATA) as web:
        yield web


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'net.safetensors'


@pytest.fixture
def part(path: Path) -> Path:
    """Where what has come of DATA is kept."""
    return path.with_name(f'{path.name}.{HASH[:8]}.part')


def get(url: str, path: Path, *, sha256: str = HASH, max_bytes: int = 1 << 22) -> list[tuple]:
    """What `fetch` told of its progress."""
    told: list[tuple] = []
    fetch(
        url,
        path,
        sha256,
        max_bytes=max_bytes,
        progress=lambda done, all_: told.append((done, all_)),
    )
    return told


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.iterdir())


def test_a_file_comes_whole_and_leaves_no_other_behind(web: Web, path: Path) -> None:
    told = get(web.url('/whole'), path, sha256=HASH.upper())
    assert path.read_bytes() == DATA
    assert files(path) == [path.name]
    assert web.asked == [Asked('/whole', '')]
    assert told[0] == (0, len(DATA)) and told[-1] == (len(DATA), len(DATA))
    assert told == sorted(told) and len(told) > 2


def test_an_interrupted_download_goes_on_where_it_stopped(
    web: Web, path: Path, part: Path
) -> None:
    part.write_bytes(DATA[:HALF])
    told = get(web.url('/whole'), path)
    assert path.read_bytes() == DATA
    assert web.asked == [Asked('/whole', f'bytes={HALF}-')]
    assert web.bytes_sent == len(DATA) - HALF
    assert told[0] == (HALF, len(DATA))


@pytest.mark.parametrize('way', ['/no-ranges', '/no-length'])
def test_a_server_without_ranges_sends_all_again(
    way: str, web: Web, path: Path, part: Path
) -> None:
    part.write_bytes(DATA[:HALF])
    get(web.url(way), path)
    assert path.read_bytes() == DATA
    assert len(web.asked) == 1


def test_a_part_that_is_complete_only_gets_its_name(web: Web, path: Path, part: Path) -> None:
    part.write_bytes(DATA)
    assert get(web.url('/whole'), path) == []
    assert path.read_bytes() == DATA and files(path) == [path.name]
    assert web.asked == []


@pytest.mark.parametrize('length', [len(DATA), len(DATA) + 9])
def test_a_part_that_is_longer_or_spoilt_is_begun_anew(
    length: int, web: Web, path: Path, part: Path
) -> None:
    part.write_bytes(b'x' * length)
    get(web.url('/whole'), path)
    assert path.read_bytes() == DATA
    assert [asked.range for asked in web.asked] == [f'bytes={length}-', '']


def test_a_part_with_a_spoilt_byte_is_fetched_once_more(web: Web, path: Path, part: Path) -> None:
    part.write_bytes(b'x' + DATA[1:HALF])
    get(web.url('/whole'), path)
    assert path.read_bytes() == DATA
    assert [asked.range for asked in web.asked] == [f'bytes={HALF}-', '']


def test_a_part_larger_than_all_weights_is_thrown_away_unread(
    web: Web, path: Path, part: Path
) -> None:
    with part.open('wb') as file:
        file.truncate(1 << 40)  # sparse: to hash it would take an hour
    get(web.url('/whole'), path)
    assert path.read_bytes() == DATA
    assert web.asked == [Asked('/whole', '')]


def test_a_server_that_sends_another_range_is_asked_for_all(
    web: Web, path: Path, part: Path
) -> None:
    part.write_bytes(DATA[:HALF])
    get(web.url('/confused'), path)
    assert path.read_bytes() == DATA
    assert [asked.range for asked in web.asked] == [f'bytes={HALF}-', '']


def test_a_cut_connection_is_taken_up_again_and_what_came_is_kept(
    web: Web, path: Path, part: Path
) -> None:
    with pytest.raises(CommandError, match=r'broke off 5 times, 1\.0 MB are here; run the same'):
        get(web.url('/cut'), path)
    # Every connection brings half of what is missing: 1 - 2**-5 of all.
    assert part.read_bytes() == DATA[: len(DATA) - len(DATA) // 32]
    assert files(path) == [part.name]
    get(web.url('/whole'), path)
    assert path.read_bytes() == DATA and files(path) == [path.name]


def test_a_server_that_cuts_and_knows_no_ranges_is_given_up(
    web: Web, path: Path, part: Path
) -> None:
    with pytest.raises(CommandError, match='broke off 5 times'):
        get(web.url('/cut-no-ranges'), path)
    assert part.read_bytes() == DATA[:HALF]
    assert len(web.asked) == 5


@pytest.mark.parametrize('way', ['/other', '/empty'])
def test_what_has_another_hash_is_removed_and_an_old_file_stays(
    way: str, web: Web, path: Path
) -> None:
    path.write_bytes(b'old')
    with pytest.raises(CommandError, match=f'expected {HASH[:12]}.*; it was removed'):
        get(web.url(way), path)
    assert files(path) == [path.name]
    assert path.read_bytes() == b'old'


def test_a_right_file_replaces_an_old_one(web: Web, path: Path) -> None:
    path.write_bytes(b'old')
    get(web.url('/whole'), path)
    assert path.read_bytes() == DATA


def test_a_length_that_no_weights_have_is_refused_before_it_comes(web: Web, path: Path) -> None:
    with pytest.raises(CommandError, match='more than 4 MB, too many'):
        get(web.url('/long'), path)
    assert files(path) == []


def test_a_file_without_end_is_given_up(web: Web, path: Path) -> None:
    with pytest.raises(CommandError, match='more than 1 MB, too many'):
        get(web.url('/endless'), path, max_bytes=1 << 20)
    assert files(path) == []
    assert web.bytes_sent < 1 << 24  # it would have sent as much


@pytest.mark.parametrize('way', ['/moved', '/moved-for-good'])
def test_a_redirect_is_followed_and_the_range_with_it(
    way: str, web: Web, path: Path, part: Path
) -> None:
    part.write_bytes(DATA[:HALF])
    get(web.url(way), path)
    assert path.read_bytes() == DATA
    assert web.asked == [Asked(way, f'bytes={HALF}-'), Asked('/whole', f'bytes={HALF}-')]


@pytest.mark.parametrize('way', ['/loop', '/round', '/far/0'])
def test_redirects_without_end_end(way: str, web: Web, path: Path) -> None:
    with pytest.raises(CommandError, match='redirects more than 5 times'):
        get(web.url(way), path)
    assert len(web.asked) <= 6


@pytest.mark.parametrize('way', ['/to-a-file', '/to-ftp', '/to-nowhere'])
def test_a_redirect_to_what_is_not_the_web_is_not_followed(
    way: str, web: Web, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('ftp_proxy', web.url('/whole'))  # would make an ftp address reachable
    with pytest.raises(CommandError, match=r'no (web )?address'):
        get(web.url(way), path)
    assert len(web.asked) == 1
    assert files(path) == []


def test_a_file_that_is_not_there_is_one_line(web: Web, path: Path, part: Path) -> None:
    part.write_bytes(DATA[:HALF])
    with pytest.raises(CommandError, match='answers 404 Not Found; check the address'):
        get(web.url('/nothing'), path)
    assert part.read_bytes() == DATA[:HALF]  # the address may have been wrong, not the part


def test_a_server_that_does_not_listen_is_one_line(path: Path) -> None:
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(CommandError, match='cannot be reached') as error:
        get(f'http://127.0.0.1:{port}/x', path)
    assert '\n' not in str(error.value)


def test_a_server_that_says_nothing_is_not_waited_for_forever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, '_TIMEOUT_S', 0.1)
    monkeypatch.setenv('no_proxy', '*')
    began_s = time.monotonic()
    with (
        socket.create_server(('127.0.0.1', 0)) as server,
        pytest.raises(CommandError, match='cannot be reached'),
    ):
        get(f'http://127.0.0.1:{server.getsockname()[1]}/x', path)
    assert time.monotonic() - began_s < 10.0
    assert files(path) == []


@pytest.mark.parametrize(
    'url',
    [
        'file:///etc/hostname',
        'ftp://127.0.0.1/x',
        'http://',
        'http:///x',
        'https://host name/x',
        'http://host/x\n',
        'http://host/\x1b[2J',
        'http://host:port/x',
        'http://host:99999/x',
        'http://user:word@host/x',
        'http://[::1/x',
        'http://höst/x',
        'host/x',
        '',
    ],
)
def test_what_is_no_address_is_refused(url: str, path: Path) -> None:
    with pytest.raises(CommandError, match=r'no address; give http\(s\)://') as error:
        get(url, path)
    assert str(error.value).isprintable()
    assert files(path) == []


@pytest.mark.parametrize(
    'url', ['https://host/a/b?c=d&e=%20#f', 'HTTP://127.0.0.1:8000/x', 'http://[::1]:80/x']
)
def test_an_address_is_one(url: str) -> None:
    require_url(url)


def test_two_processes_do_not_write_one_file(web: Web, path: Path, part: Path) -> None:
    with part.open('wb') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CommandError, match='being fetched by another process'):
            get(web.url('/whole'), path)
    get(web.url('/whole'), path)
    assert path.read_bytes() == DATA


def test_a_link_in_place_of_the_part_is_not_written_through(
    web: Web, path: Path, part: Path, tmp_path: Path
) -> None:
    precious = tmp_path / 'precious'
    precious.write_bytes(b'precious')
    part.symlink_to(precious)
    with pytest.raises(CommandError, match='cannot be written'):
        get(web.url('/whole'), path)
    assert precious.read_bytes() == b'precious'


def test_a_full_disk_is_one_line_and_not_taken_for_a_broken_connection(
    web: Web, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(part: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(download._Part, 'append', full)
    with pytest.raises(CommandError, match=r'cannot be written \(No space left'):
        get(web.url('/whole'), path)
    assert len(web.asked) == 1


def test_a_folder_that_is_not_there_is_one_line(web: Web, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match='cannot be written'):
        get(web.url('/whole'), tmp_path / 'gone' / 'x')


def test_a_check_sees_the_complete_file_before_it_has_its_name(web: Web, path: Path) -> None:
    def check(file: Path) -> None:
        assert file.read_bytes() == DATA
        assert not path.exists()
        raise NetworkError('not this one')

    with pytest.raises(CommandError, match='not this one'):
        fetch(
            web.url('/whole'),
            path,
            HASH,
            max_bytes=1 << 22,
            progress=lambda done, all_: None,
            check=check,
        )
    assert files(path) == []


def test_what_came_before_ctrl_c_is_kept(web: Web, path: Path, part: Path) -> None:
    def stop(done: int, all_: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        fetch(web.url('/whole'), path, HASH, max_bytes=1 << 22, progress=stop)
    came = part.read_bytes()
    assert 0 < len(came) < len(DATA)
    assert came == DATA[: len(came)]


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    # FIPS 180-2, appendix B.3 and the empty message.
    (tmp_path / 'a').write_bytes(b'a' * 1_000_000)
    (tmp_path / 'empty').touch()
    assert sha256_of(tmp_path / 'a').startswith('cdc76e5c9914fb92')
    assert sha256_of(tmp_path / 'empty').startswith('e3b0c44298fc1c14')
