"""Tables of a bench: one row per case, one column per number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kpvo_ros.cli.bench import Table


class Column(NamedTuple):
    """A number and how it is shown.

    Attributes:
        title: of the column, with the unit.
        number: its name among the numbers of a case.
        spec: format of a number; texts are shown as they are.
    """

    title: str
    number: str
    spec: str = '.3f'

    def cell(self, numbers: Mapping[str, Any]) -> str:
        """The text, '-' where there is no number."""
        value = numbers.get(self.number)
        if value is None:
            return '-'
        return value if isinstance(value, str) else f'{value:{self.spec}}'


def number_table(
    title: str,
    first: str,
    columns: Sequence[Column],
    cases: Mapping[str, Mapping[str, Any]],
) -> Table:
    """One row per case.

    Args:
        title: of the table.
        first: title of the column with the names of the cases.
        columns: the others.
        cases: numbers of each case.
    """
    rows = [(name, *(column.cell(case) for column in columns)) for name, case in cases.items()]
    return Table(title, (first, *(column.title for column in columns)), rows)
