"""A small web server of 127.0.0.1 that serves one file in good and in bad ways."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import re
import threading
from typing import NamedTuple

OTHER = b'another file'
_MOVED = {
    '/moved': (302, '/whole'),
    '/moved-for-good': (308, '/whole'),
    '/loop': (302, '/loop'),
    '/round': (302, '/round?again'),
    '/to-a-file': (302, 'file:///etc/hostname'),
    '/to-ftp': (302, 'ftp://127.0.0.1/x'),
    '/to-nowhere': (302, 'http://user:word@127.0.0.1/whole'),
}


class Asked(NamedTuple):
    """One request: path, and header Range or ''."""

    path: str
    range: str


class Web:
    """The server: `data` is the file, `asked` what was asked for so far."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[Asked] = []
        self.bytes_sent = 0
        self.port = 0

    def url(self, path: str) -> str:
        return f'http://127.0.0.1:{self.port}{path}'


class _Handler(BaseHTTPRequestHandler):
    web: Web

    def do_GET(self) -> None:
        begin = self.headers.get('Range', '')
        self.web.asked.append(Asked(self.path, begin))
        path = self.path.partition('?')[0]
        if path in _MOVED:
            code, place = _MOVED[path]
            self._send(code, b'', {'Location': place})
        elif path.startswith('/far/'):
            self._send(302, b'', {'Location': f'/far/{int(path[5:]) + 1}'})
        elif path in ('/whole', '/cut', '/confused'):
            self._ranged(path, int(re.findall(r'\d+', begin)[0]) if begin else 0)
        elif path in ('/no-ranges', '/cut-no-ranges'):
            data = self.web.data
            sent = data[: len(data) // 2] if path.startswith('/cut') else data
            self._send(200, sent, {'Content-Length': str(len(data))})
        elif path == '/other':
            self._send(200, OTHER, {'Content-Length': str(len(OTHER))})
        elif path == '/empty':
            self._send(200, b'', {'Content-Length': '0'})
        elif path == '/long':
            self._send(200, b'x', {'Content-Length': str(1 << 40)})
        elif path == '/endless':
            self._endless()
        elif path == '/no-length':
            self._send(200, self.web.data, {})
        else:
            self._send(404, b'not here\n', {})

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _ranged(self, path: str, begin: int) -> None:
        data = self.web.data
        if begin >= len(data):
            self._send(416, b'', {'Content-Range': f'bytes */{len(data)}'})
            return
        rest = data[begin:]
        sent = rest[: max(1, len(rest) // 2)] if path == '/cut' else rest
        told = begin + 1 if path == '/confused' else begin
        headers = {'Content-Length': str(len(rest))}
        if begin:
            headers['Content-Range'] = f'bytes {told}-{len(data) - 1}/{len(data)}'
        self._send(206 if begin else 200, sent, headers)

    def _endless(self) -> None:
        self._send(200, b'', {})
        with contextlib.suppress(OSError):  # the client goes away, as it should
            for _ in range(4096):
                self.wfile.write(bytes(4096))
                self.web.bytes_sent += 4096

    def _send(self, code: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.web.bytes_sent += len(data)


@contextlib.contextmanager
def serving(data: bytes) -> Iterator[Web]:
    """The server as long as the block runs."""
    web = Web(data)
    server = ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (_Handler,), {'web': web}))
    server.daemon_threads = True
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
