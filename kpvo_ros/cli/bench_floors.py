"""What a measured number must reach, as data, and whether it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import math
from typing import Any, NamedTuple


class Floor(NamedTuple):
    """The least one may expect of a number.

    Attributes:
        number: its name among the numbers of a case.
        at_most: highest value that is good enough.
        at_least: lowest one.
        if_any: a number that is absent is as good; else it is a miss.
    """

    number: str
    at_most: float = math.inf
    at_least: float = -math.inf
    if_any: bool = False

    def holds(self, value: float | None) -> bool:
        """Whether a value is good enough; NaN is not."""
        if value is None:
            return self.if_any
        return self.at_least <= value <= self.at_most

    def miss(self, value: float | None) -> str:
        """In words how a value misses, '' when it holds."""
        if self.holds(value):
            return ''
        if value is None:
            return f'{self.number}: none'
        limit = f'> {self.at_most:g}' if not value < self.at_least else f'< {self.at_least:g}'
        return f'{self.number} {value:.4g} {limit}'


class Verdict(NamedTuple):
    """Floors of a case, judged.

    Attributes:
        text: 'held', what was missed, or '-' without floors.
        numbers: of each floor, ready for JSON.
    """

    text: str
    numbers: dict[str, Any]

    @property
    def held(self) -> bool:
        """Whether nothing was missed."""
        return all(floor['held'] for floor in self.numbers.values())


def judge(floors: Iterable[Floor], measured: Mapping[str, Any]) -> Verdict:
    """Compare numbers with their floors.

    Args:
        floors: what is asked for.
        measured: numbers by name; one that is missing counts as None.
    """
    numbers: dict[str, Any] = {}
    misses = []
    for floor in floors:
        value = measured.get(floor.number)
        numbers[floor.number] = {
            'value': value,
            'at_least': floor.at_least if math.isfinite(floor.at_least) else None,
            'at_most': floor.at_most if math.isfinite(floor.at_most) else None,
            'held': floor.holds(value),
        }
        misses.append(floor.miss(value))
    text = '; '.join(filter(None, misses)) or ('held' if numbers else '-')
    return Verdict(text, numbers)


def within(number: str, limit: float) -> Floor:
    """A signed number must not be further from zero than `limit`."""
    return Floor(number, at_most=limit, at_least=-limit)
