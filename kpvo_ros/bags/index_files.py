"""Index files of folder recordings: lines of words, stamps, and file names that stay inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
import re

from kpvo_ros.errors import BagError, EvaluationError
from kpvo_ros.evaluation.seconds import parse_seconds

_MAX_INDEX_BYTES = 1 << 28


def read_rows(path: Path, separator: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, words) of an index file without blank lines and `#` comments.

    Raises:
        BagError: the file cannot be read as text.
    """
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise BagError(f'{str(path)!r} is too large for an index file: check the folder')
        text = path.read_text('utf-8')
    except (OSError, UnicodeDecodeError):
        raise BagError(f'{str(path)!r} cannot be read as text: check the file') from None
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if line and not line.startswith('#'):
            yield number, [word.strip() for word in line.split(separator)]


def read_file_list(
    index: Path, root: Path, *, separator: str | None = None, nanoseconds: bool = False
) -> list[tuple[int, Path]]:
    """Read `stamp filename ...` lines; file names are relative to `root` and stay inside it.

    Raises:
        BagError: a line cannot be understood or points outside of `root`.
    """
    files = []
    for number, words in read_rows(index, separator):
        if len(words) < 2:
            raise BagError(f'{str(index)!r} line {number} is not `stamp filename`: mend the line')
        where = f'{str(index)!r} line {number}'
        parse = _parse_nanoseconds if nanoseconds else parse_stamp_ns
        files.append((parse(words[0], where), inside(root, words[1], where)))
    return files


def parse_stamp_ns(text: str, where: str) -> int:
    """Decimal seconds to integer nanoseconds, exactly.

    Raises:
        BagError: the text is not a number of seconds.
    """
    try:
        return parse_seconds(text)
    except EvaluationError as error:
        raise BagError(f'{where}: {error}') from None


def inside(root: Path, name: str, where: str) -> Path:
    """Join a file name from an index file to its folder, refusing to leave the folder.

    Raises:
        BagError: the name is absolute or climbs out with `..`.
    """
    parts = PurePosixPath(name.replace('\\', '/'))
    if parts.is_absolute() or '..' in parts.parts or '\0' in name or ':' in parts.parts[0]:
        raise BagError(f'{where} points outside of the folder ({name!r}): use relative names')
    return root / parts


def _parse_nanoseconds(text: str, where: str) -> int:
    if not re.fullmatch(r'[0-9]{1,19}', text) or int(text) >= 2**63:
        raise BagError(f'{where}: {text[:40]!r} is not a time in nanoseconds: mend the line')
    return int(text)
