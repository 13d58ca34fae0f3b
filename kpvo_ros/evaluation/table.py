"""Small tables for terminals and for Markdown files.

The first column stands left, columns of numbers right, other text left.
"""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table in aligned columns.

    Args:
        rows: cells; all rows of one length.
        header: titles of the columns; without them there is no rule either.

    Returns:
        Lines without trailing blanks, joined by line feeds, no final one; '' for no rows.

    Raises:
        ValueError: rows of unequal length.
    """
    table = [*([header] if header else []), *rows]
    widths = _widths(table)
    right = _right_columns(rows, len(widths))
    lines = [_line(row, widths, right).rstrip() for row in table]
    if header:
        lines.insert(1, '  '.join('-' * width for width in widths))
    return '\n'.join(lines)


def markdown_table(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """The same as a Markdown table; a bar or line feed within a cell is escaped."""
    safe = [[_escape(cell) for cell in row] for row in (header, *rows)]
    widths = [max(width, 3) for width in _widths(safe)]
    right = _right_columns(rows, len(widths))
    rule = ['-' * (w - 1) + ':' if r else '-' * w for w, r in zip(widths, right, strict=True)]
    lines = [_line(row, widths, right, ' | ') for row in (safe[0], rule, *safe[1:])]
    return '\n'.join(f'| {line} |' for line in lines)


# ------------------------------------------------------------------------------------ private


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*table, strict=True)]


def _right_columns(rows: Sequence[Sequence[str]], count: int) -> list[bool]:
    """Which columns hold numbers (with a sign or a unit), '-' for none, or nothing."""
    return [
        index > 0 and all(row[index][:1] in _NUMBER_STARTS for row in rows)
        for index in range(count)
    ]


_NUMBER_STARTS = ('', *'0123456789+-.')


def _escape(cell: str) -> str:
    return cell.replace('|', '\\|').replace('\n', ' ')


def _line(
    row: Sequence[str], widths: Sequence[int], right: Sequence[bool], separator: str = '  '
) -> str:
    cells = [
        cell.rjust(width) if to_the_right else cell.ljust(width)
        for cell, width, to_the_right in zip(row, widths, right, strict=True)
    ]
    return separator.join(cells)
