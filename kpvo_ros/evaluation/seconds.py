"""Seconds as decimal text <-> stamps as integer nanoseconds.

Decimal arithmetic only: a float of today's epoch has a resolution of 240 ns.
"""

from __future__ import annotations

import decimal

from kpvo_ros.errors import EvaluationError


def parse_seconds(text: str) -> int:
    """Integer nanoseconds of a decimal number of seconds, exact down to the nanosecond.

    Args:
        text: such as '1403715273.262142976' or '1.4e9'.

    Returns:
        Nanoseconds; digits beyond the ninth decimal are rounded to the nearest, ties to even.

    Raises:
        EvaluationError: not a number, or too far from 1970 to be a stamp.
    """
    try:
        seconds = _DECIMAL.create_decimal(text)
        if seconds.is_finite() and seconds.adjusted() < 11:
            nanoseconds = _DECIMAL.scaleb(seconds, 9).to_integral_value(context=_DECIMAL)
            if abs(nanoseconds) <= MAX_STAMP_NS:
                return int(nanoseconds)
    except (decimal.DecimalException, ValueError):
        pass
    raise EvaluationError(f'{text[:40]!r} is not a time in seconds, such as 1403715273.262142976')


def format_seconds(stamp_ns: int) -> str:
    """Seconds with nine decimals; `parse_seconds` gives the same integer back."""
    whole, fraction = divmod(abs(stamp_ns), 1_000_000_000)
    return f'{"-" if stamp_ns < 0 else ""}{whole}.{fraction:09d}'


MAX_STAMP_NS = 2**62  # the year 2116; differences of two stamps still fit 64 bits
# A context of our own: neither precision nor traps depend on what the caller's thread has set.
_DECIMAL = decimal.Context(
    prec=60, rounding=decimal.ROUND_HALF_EVEN, traps=[decimal.InvalidOperation]
)
