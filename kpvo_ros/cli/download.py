"""Fetches a file whose SHA-256 is known over HTTP: it gets its name whole and right, or not.

What has come lies beside it in a .part file whose name holds the hash. When the connection breaks
the rest is asked for (RFC 9110, section 14: Range), now or by the next call; a server that knows
no ranges sends everything again. Nothing is believed of what a server says: sizes are bounded,
redirects lead to http and https only, and the hash decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import fcntl
import hashlib
from http.client import HTTPException, HTTPMessage, HTTPResponse, responses
import os
from pathlib import Path
import re
from typing import IO, BinaryIO
from urllib.error import HTTPError
from urllib.parse import urlsplit
import urllib.request

from kpvo_ros.errors import CommandError, KpvoError

Progress = Callable[[int, 'int | None'], None]  # bytes that are there, bytes of all if known
_TIMEOUT_S = 30.0  # without a single byte
_CONNECTIONS = 5  # for one file, when each of them breaks
_REDIRECTS = 5
_CHUNK_BYTES = 1 << 18
_URL = re.compile(r'https?://[!-~]+', re.IGNORECASE)  # no blanks, no control characters
_CONTENT_RANGE = re.compile(r'bytes (\d{1,15})-\d{1,15}/(?:\d{1,15}|\*)')
_RANGE_NOT_SATISFIABLE = 416


def fetch(
    url: str,
    path: Path,
    sha256: str,
    *,
    max_bytes: int,
    progress: Progress,
    check: Callable[[Path], object] | None = None,
) -> None:
    """Fetch a file; one that exists is replaced when the new one is complete.

    Args:
        url: http or https.
        path: of the file; its folder exists.
        sha256: what it must hash to, hexadecimal.
        max_bytes: a longer file is not fetched.
        progress: told after every piece.
        check: looks at the complete file before it gets its name, and may raise.

    Raises:
        CommandError: the address is none, the server cannot be reached or has no such file, the
            connection broke too often (what came is kept), the file is too long or has another
            hash (nothing is kept), the disk refuses, or somebody else is fetching it.
    """
    require_url(url)
    sha256 = sha256.lower()
    partial = path.with_name(f'{path.name}.{sha256[:8]}.part')
    try:
        with _opened(partial) as file:
            _complete(_Part(file, max_bytes), url, sha256, progress)
            _look_at(partial, check)
            os.fsync(file.fileno())
            partial.replace(path)
    except _UselessError as error:
        partial.unlink(missing_ok=True)
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(
            f'{path}: cannot be written ({error.strerror}); make room or give another --to DIR'
        ) from None


def require_url(url: str) -> None:
    """Whether this is an address to fetch from.

    Raises:
        CommandError: not http or https, or no host.
    """
    try:
        parts = urlsplit(url)
        good = bool(_URL.fullmatch(url) and parts.hostname and parts.port != 0)
    except ValueError:  # a port that is no number
        good = False
    if not good or '@' in parts.netloc:
        raise CommandError(f'{ascii(url)[:200]} is no address; give http(s)://host/path')


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open('rb') as file:
        return _hash_of(file).hexdigest()


# ------------------------------------------------------------------------------------ private


class _UselessError(Exception):
    """What came is not the file and never will be."""


class _BrokenError(Exception):
    """The connection broke before the end."""


class _Part:
    """What has come so far: an open file, its size and its hash.

    Args:
        file: to read and write; a longer one than `max_bytes` is begun anew.
    """

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self.max_bytes = max_bytes
        self.size = os.fstat(file.fileno()).st_size
        if self.size > max_bytes:
            self.clear()
        self._hash = _hash_of(file)

    @property
    def sha256(self) -> str:
        """Of all that has come."""
        return self._hash.hexdigest()

    def append(self, data: bytes) -> None:
        """Add what came; not buffered, so that a killed process leaves what it got."""
        self.require_fits(self.size + len(data))
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(data)
        self.size += len(data)

    def clear(self) -> None:
        """Begin anew."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def require_fits(self, size: int) -> None:
        """Raise `_UselessError` for a size no weights have."""
        if size > self.max_bytes:
            raise _UselessError(
                f'the server sends more than {self.max_bytes / 1e6:.0f} MB, too many to be '
                'weights; check the address'
            )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to http and https."""

    max_redirections = _REDIRECTS
    max_repeats = _REDIRECTS
    # Python 3.10 does not know 308, which is 307 for good.
    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        require_url(newurl)
        return super().redirect_request(
            req, fp, 307 if code == 308 else code, msg, headers, newurl
        )


def _look_at(partial: Path, check: Callable[[Path], object] | None) -> None:
    try:
        if check is not None:
            check(partial)
    except KpvoError as error:
        raise _UselessError(str(error)) from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file to read and append, made when there is none; nobody else has it meanwhile."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o666), 'r+b', buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody who had it until now has given it its name: that file is complete.
            mine = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise CommandError(
                f'{path} is being fetched by another process; wait until it has ended'
            )
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:  # nothing came, nothing to go on with
                path.unlink(missing_ok=True)


def _complete(part: _Part, url: str, sha256: str, progress: Progress) -> None:
    """Ask for what is missing until all is there and right."""
    connections = 0
    # All may have come before: then only the name was missing.
    while part.sha256 != sha256:
        if connections == _CONNECTIONS:
            raise CommandError(
                f'{_host(url)} broke off {connections} times, {part.size / 1e6:.1f} MB are here; '
                'run the same command again to go on'
            )
        connections += 1
        resumed = part.size > 0
        try:
            whole = _receive(part, url, progress)
        except _BrokenError:
            continue
        if whole and part.sha256 != sha256 and resumed:
            part.clear()  # perhaps the disk has spoilt what was there: once more, all of it
        elif whole and part.sha256 != sha256:
            raise _UselessError(
                f'what {_host(url)} sends has SHA-256 {part.sha256[:12]}..., expected '
                f'{sha256[:12]}...; it was removed: check the address and the hash'
            )


def _receive(part: _Part, url: str, progress: Progress) -> bool:
    """One connection; whether it was the file to its end.

    False says that what was there is of no use, and the next connection begins anew.
    """
    with contextlib.ExitStack() as stack:
        response = _answer(url, part.size)
        if response is None:
            part.clear()
            return False
        stack.enter_context(response)
        first = _first_byte(response)
        if first != part.size:
            part.clear()
        if first not in (0, part.size):
            return False
        end = None if response.length is None else first + response.length
        part.require_fits(end or 0)
        progress(part.size, end)
        while data := _read(response):
            part.append(data)
            progress(part.size, end)
        if end is not None and part.size < end:
            raise _BrokenError
    return True


def _answer(url: str, size: int) -> HTTPResponse | None:
    """The answer to a request for all from byte `size` on; None when there is no such range."""
    request = urllib.request.Request(url, headers={'User-Agent': 'kpvo_ros'})
    if size:
        request.add_header('Range', f'bytes={size}-')
    try:
        answer: HTTPResponse = _opener().open(request, timeout=_TIMEOUT_S)
        return answer
    except HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE and size:
            return None
        raise CommandError(_refusal(url, error.code)) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', error)
        said = str(getattr(reason, 'strerror', None) or reason or type(error).__name__)
        line = ''.join(letter if letter.isprintable() else ' ' for letter in said[:80])
        raise CommandError(
            f'{_host(url)} cannot be reached ({line}); check the connection and the address'
        ) from None


def _opener() -> urllib.request.OpenerDirector:
    """Of http and https, and proxies that the environment names; nothing for files or ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def _refusal(url: str, code: int) -> str:
    if 300 <= code < 400:
        return (
            f'{_host(url)} answers {code}: it redirects more than {_REDIRECTS} times or to what '
            'is no web address; check the address'
        )
    said = f'{code} {responses.get(code, "")}'.strip()
    return f'{_host(url)} answers {said}; check the address, or try again later'


def _first_byte(response: HTTPResponse) -> int:
    """Where in the file the answer begins; -1 for a range nobody understands."""
    if response.status != 206:
        return 0
    found = _CONTENT_RANGE.fullmatch(response.headers.get('Content-Range', ''))
    return int(found[1]) if found else -1


def _read(response: HTTPResponse) -> bytes:
    """The next piece, b'' at the end."""
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, HTTPException, ValueError):  # ValueError: a chunk of no size
        raise _BrokenError from None


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _hash_of(file: BinaryIO) -> hashlib._Hash:
    """Of a file from its position to its end."""
    found = hashlib.sha256()
    while data := file.read(_CHUNK_BYTES):
        found.update(data)
    return found
