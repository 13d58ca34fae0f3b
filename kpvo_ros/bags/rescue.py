"""Bags that were cut off: make their readable part look complete, without touching the file.

A recorder that loses power leaves an MCAP without its summary, or an SQLite file whose newest
rows sit in a write-ahead log or whose last pages are missing. MCAP: the records are walked to the
last whole one and the missing summary is appended in memory. SQLite: a temporary copy is
recovered by SQLite itself, or row by row when pages are missing.
"""

from __future__ import annotations

from contextlib import closing, suppress
import io
import os
from pathlib import Path
import shutil
import sqlite3
import struct
from typing import BinaryIO

from kpvo_ros.errors import BagError

_MAGIC = b'\x89MCAP0\r\n'
_FOOTER_OP, _CHUNK_OP, _INDEX_OP, _CHUNK_INDEX_OP, _STATISTICS_OP, _DATA_END_OP = (
    0x02,
    0x06,
    0x07,
    0x08,
    0x0B,
    0x0F,
)
_RECORD_HEAD = struct.Struct('<BQ')
_CHUNK_HEAD = struct.Struct('<QQQI')


def mend(path: Path, scratch: Path) -> Path | MendedFile:
    """Make the readable part of a cut-off storage file look like a complete file.

    Args:
        path: a .mcap or .db3 file.
        scratch: folder for temporary copies.

    Returns:
        Something rosbags can open in place of the path.

    Raises:
        BagError: nothing in it is readable.
    """
    try:
        if path.suffix == '.mcap':
            return _mend_mcap(path)
        return _mend_sqlite(path, scratch)
    except (OSError, sqlite3.Error, struct.error) as error:
        raise BagError(f'{str(path)!r} cannot be recovered ({error}): record again') from None


def has_pending_log(path: Path) -> bool:
    """Whether an SQLite file has a journal or log beside it that was never merged."""
    return any(log.is_file() and log.stat().st_size > 0 for log in _logs_of(path))


class MendedFile:
    """The first bytes of a file followed by bytes it lacks; quacks like a `Path` to rosbags."""

    def __init__(self, path: Path, keep: int, tail: bytes) -> None:
        self._path = path
        self._keep = keep
        self._tail = tail
        self.suffix = path.suffix
        self.name = path.name

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        """Whether the file is there."""
        return self._path.exists()

    def is_dir(self) -> bool:
        """Never."""
        return False

    def open(self, _mode: str = 'rb') -> BinaryIO:
        """Open for reading."""
        return io.BufferedReader(_Joined(self._path, self._keep, self._tail), 1 << 20)


class _Joined(io.RawIOBase):
    """Random access to a file's beginning and a tail in memory."""

    def __init__(self, path: Path, keep: int, tail: bytes) -> None:
        self._file = path.open('rb')
        self._keep = keep
        self._tail = tail
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = self._keep + len(self._tail)
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence]
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at < self._keep:
            self._file.seek(self._at)
            data = self._file.read(min(len(buffer), self._keep - self._at))
        else:
            start = self._at - self._keep
            data = self._tail[start : start + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _mend_mcap(path: Path) -> MendedFile:
    size = path.stat().st_size
    chunks: list[_Chunk] = []
    channels: set[int] = set()
    with path.open('rb') as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise BagError(f'{str(path)!r} is not an MCAP file: check the path')
        at = len(_MAGIC)
        while (head := file.read(_RECORD_HEAD.size)) and len(head) == _RECORD_HEAD.size:
            op, length = _RECORD_HEAD.unpack(head)
            end = at + _RECORD_HEAD.size + length
            if end > size or op in (0, _FOOTER_OP, _DATA_END_OP):
                break
            if op == _CHUNK_OP:
                chunks.append(_Chunk.read(file, at, length))
            elif op == _INDEX_OP and length >= 2:
                channels.add(struct.unpack('<H', file.read(2))[0])
            file.seek(end)
            at = end
    return MendedFile(path, at, _mcap_tail(at, chunks, sorted(channels)))


class _Chunk:
    """What the index has to say about one chunk."""

    def __init__(
        self, at: int, length: int, head: tuple[int, int, int, int], name: bytes, stored: int
    ) -> None:
        self.start_ns, self.end_ns, self.size, _ = head
        self.at = at
        self.length = _RECORD_HEAD.size + length
        self.compression = name
        self.stored_size = stored

    @classmethod
    def read(cls, file: BinaryIO, at: int, length: int) -> _Chunk:
        head = _CHUNK_HEAD.unpack(file.read(_CHUNK_HEAD.size))
        (name_length,) = struct.unpack('<I', file.read(4))
        name = file.read(min(name_length, 16))
        (stored,) = struct.unpack('<Q', file.read(8))
        return cls(at, length, head, name, stored)

    def index_record(self, channels: list[int]) -> bytes:
        """A ChunkIndex that claims some message of every channel: readers skip no chunk."""
        spacing = 32  # one message index record of a single entry
        first = self.at + self.length
        offsets = b''.join(
            struct.pack('<HQ', channel, first + spacing * i) for i, channel in enumerate(channels)
        )
        body = struct.pack('<QQQQ', self.start_ns, self.end_ns, self.at, self.length)
        body += struct.pack('<I', len(offsets)) + offsets
        body += struct.pack('<Q', spacing * len(channels))
        body += struct.pack('<I', len(self.compression)) + self.compression
        return _record(_CHUNK_INDEX_OP, body + struct.pack('<QQ', self.stored_size, self.size))


def _mcap_tail(at: int, chunks: list[_Chunk], channels: list[int]) -> bytes:
    """End of data, summary (only of use when there are indexed chunks), footer."""
    data_end = _record(_DATA_END_OP, bytes(4))
    summary = b''
    if chunks and channels:
        # Statistics of zeros make rosbags count for itself instead of trusting the index.
        summary = b''.join(chunk.index_record(channels) for chunk in chunks)
        summary += _record(_STATISTICS_OP, bytes(46))
    summary_start = at + len(data_end) if summary else 0
    footer = _record(_FOOTER_OP, struct.pack('<QQI', summary_start, 0, 0))
    return data_end + summary + footer + _MAGIC


def _record(op: int, body: bytes) -> bytes:
    return _RECORD_HEAD.pack(op, len(body)) + body


def _logs_of(path: Path) -> list[Path]:
    return [path.with_name(path.name + ending) for ending in ('-wal', '-journal')]


def _mend_sqlite(path: Path, scratch: Path) -> Path:
    copy = scratch / path.name
    shutil.copyfile(path, copy)
    for log in _logs_of(path):
        if log.is_file():
            shutil.copyfile(log, scratch / log.name)
    with suppress(sqlite3.Error), closing(sqlite3.connect(copy)) as database:
        database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        database.execute('PRAGMA journal_mode=DELETE')
        if database.execute('PRAGMA quick_check(1)').fetchone() == ('ok',):
            return copy
    salvaged = scratch / f'salvaged_{path.name}'
    _copy_readable_rows(copy, salvaged)
    return salvaged


def _copy_readable_rows(damaged: Path, salvaged: Path) -> None:
    """Copy tables row by row, each until the first page that is missing."""
    with closing(sqlite3.connect(damaged)) as old, closing(sqlite3.connect(salvaged)) as new:
        old.text_factory = lambda raw: raw.decode('utf-8', 'replace')
        old.execute('PRAGMA writable_schema=ON')  # else a file shorter than its header is refused
        tables = "SELECT name, sql FROM sqlite_master WHERE type='table' AND sql IS NOT NULL"
        for name, sql in old.execute(tables).fetchall():
            if name.startswith('sqlite_'):
                continue
            new.execute(sql)
            quoted = '"' + name.replace('"', '""') + '"'
            with suppress(sqlite3.Error):
                for row in old.execute(f'SELECT * FROM {quoted} NOT INDEXED ORDER BY rowid'):
                    places = ','.join('?' * len(row))
                    new.execute(f'INSERT INTO {quoted} VALUES ({places})', row)
        new.commit()
