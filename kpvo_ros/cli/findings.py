"""What a check found out, how bad it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
import enum
from typing import NamedTuple


class Level(enum.Enum):
    """How bad a finding is."""

    OK = 'ok'
    WARN = 'warn'  # works, but not as well as it could
    BLOCK = 'BLOCK'  # something will not work at all


class Finding(NamedTuple):
    """One line of a diagnosis.

    Attributes:
        level: how bad it is.
        what: the thing looked at.
        said: what was found.
        advice: what to do; '' when nothing is to be done.
    """

    level: Level
    what: str
    said: str
    advice: str = ''


def print_findings(title: str, findings: Iterable[Finding]) -> bool:
    """Print a diagnosis.

    Returns:
        Whether something blocks.
    """
    found = list(findings)
    width = max((len(finding.what) for finding in found), default=0)
    print(title)
    for finding in found:
        advice = f'  -> {finding.advice}' if finding.advice else ''
        print(f'  {finding.level.value:5s}  {finding.what:{width}s}  {finding.said}{advice}')
    return any(finding.level is Level.BLOCK for finding in found)
