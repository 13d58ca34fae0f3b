"""How a parameter is declared: once, with type, default, range and one sentence.

A configuration is a frozen dataclass whose fields are made by `parameter`; records may nest one
level (one record per room). YAML files, `key=value` words of the command line, rclpy's parameter
declarations and docs/parameters.md are all derived from `specs_of`, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
import math
from typing import Any, TypeVar, get_type_hints

from kpvo_ros.errors import ConfigError

Value = bool | int | float | str | tuple[float, ...]
Record = TypeVar('Record')


@dataclasses.dataclass(frozen=True)
class ParameterSpec:
    """One declared parameter.

    Attributes:
        name: dotted name, e.g. 'scale.camera_height_m'.
        type: bool, int, float, str, or tuple (of floats).
        default: the value without any file.
        doc: one sentence that says when to change it.
        low: smallest allowed value (numbers), None when unbounded.
        high: largest allowed value (numbers), None when unbounded.
        choices: allowed values (strings), empty when free.
        length: number of elements (tuples), None otherwise.
    """

    name: str
    type: type
    default: Value
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    length: int | None = None


def parameter(
    default: Value,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare one parameter as the field of a configuration record."""
    meta = {'doc': doc, 'low': low, 'high': high, 'choices': choices}
    return dataclasses.field(default=default, metadata=meta)


def section(record_type: type) -> Any:
    """Declare a nested record: its parameters get the field's name as prefix."""
    return dataclasses.field(default_factory=record_type)


def specs_of(record_type: type, prefix: str = '') -> list[ParameterSpec]:
    """All parameters of a record type, nested ones with dotted names, in declaration order."""
    hints = get_type_hints(record_type)
    specs: list[ParameterSpec] = []
    for field in dataclasses.fields(record_type):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            specs += specs_of(kind, f'{prefix}{field.name}.')  # type: ignore[arg-type]
            continue
        default = field.default
        assert default is not dataclasses.MISSING, f'{field.name} has no default'
        is_tuple = isinstance(default, tuple)
        length = len(default) if isinstance(default, tuple) else None
        specs.append(
            ParameterSpec(
                name=prefix + field.name,
                type=tuple if is_tuple else type(default),
                default=default,
                length=length,
                **field.metadata,
            )
        )
    return specs


def to_flat(record: Any, prefix: str = '') -> dict[str, Value]:
    """The record as {dotted name: value}."""
    flat: dict[str, Value] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value):
            flat |= to_flat(value, f'{prefix}{field.name}.')
        else:
            flat[prefix + field.name] = value
    return flat


def to_nested(record: Any) -> dict[str, Any]:
    """The record as nested plain dicts and lists, ready for YAML."""
    nested: dict[str, Any] = {}
    for name, value in to_flat(record).items():
        node = nested
        *parents, leaf = name.split('.')
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = list(value) if isinstance(value, tuple) else value
    return nested


def with_values(record: Record, values: Mapping[str, Any]) -> Record:
    """A copy of `record` with some parameters replaced.

    Args:
        record: a configuration record.
        values: {dotted name: value}; values may be of a neighbouring type (an int for a float).

    Raises:
        ConfigError: unknown name (with a suggestion), wrong type, or out of range.
    """
    specs = {spec.name: spec for spec in specs_of(type(record))}
    checked = {}
    for name, value in values.items():
        if name not in specs:
            raise ConfigError(_unknown(name, specs))
        checked[name] = check_value(specs[name], value)
    return _replace(record, checked, '')


def with_words(record: Record, words: Iterable[str]) -> Record:
    """A copy of `record` changed by `key=value` words of a command line.

    Raises:
        ConfigError: a word without '=', or any of `with_values`' reasons.
    """
    specs = {spec.name: spec for spec in specs_of(type(record))}
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition('=')
        if not equals:
            raise ConfigError(f"'{word}' is not key=value; write for example scale.source=depth")
        if name not in specs:
            raise ConfigError(_unknown(name, specs))
        values[name] = _from_text(specs[name], text)
    return with_values(record, values)


def flatten(nested: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """{'scale': {'source': 'depth'}} -> {'scale.source': 'depth'}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}.')
        else:
            flat[f'{prefix}{key}'] = value
    return flat


def check_value(spec: ParameterSpec, value: Any) -> Value:
    """`value` as the parameter's own type.

    Raises:
        ConfigError: wrong type or out of range; the message names both.
    """
    converted = _convert(spec, value)
    numbers = converted if isinstance(converted, tuple) else (converted,)
    for number in numbers:
        if isinstance(number, float) and not math.isfinite(number):
            raise ConfigError(f'{spec.name}: {value!r} is not finite; give a number')
        if spec.low is not None and number < spec.low:  # type: ignore[operator]
            raise ConfigError(f'{spec.name}: {value!r} is below the minimum {spec.low:g}')
        if spec.high is not None and number > spec.high:  # type: ignore[operator]
            raise ConfigError(f'{spec.name}: {value!r} is above the maximum {spec.high:g}')
    if spec.choices and converted not in spec.choices:
        close = difflib.get_close_matches(str(converted), spec.choices, n=1)
        hint = f'; did you mean {close[0]!r}?' if close else ''
        raise ConfigError(f'{spec.name}: {value!r} is not one of {", ".join(spec.choices)}{hint}')
    return converted


def _convert(spec: ParameterSpec, value: Any) -> Value:
    if spec.type is bool and isinstance(value, bool):
        return value
    if spec.type is str and isinstance(value, str):
        return value
    if isinstance(value, bool):
        raise ConfigError(f'{spec.name}: {value!r} is a bool; it needs {_type_name(spec)}')
    if spec.type is int and isinstance(value, int):
        return value
    if spec.type is float and isinstance(value, int | float):
        return _to_float(value)
    if spec.type is tuple and not isinstance(value, str) and hasattr(value, '__iter__'):
        elements = list(value)
        numeric = all(isinstance(e, int | float) and not isinstance(e, bool) for e in elements)
        if numeric and len(elements) == spec.length:
            return tuple(_to_float(e) for e in elements)
    raise ConfigError(f'{spec.name}: {value!r} has the wrong type; it needs {_type_name(spec)}')


def _to_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf if number > 0 else -math.inf


def _from_text(spec: ParameterSpec, text: str) -> Any:
    if spec.type is bool and text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    try:
        if spec.type in (int, float):
            return spec.type(text)
        if spec.type is tuple:
            return [float(part) for part in text.strip('[]()').split(',')]
    except ValueError:
        pass  # check_value names the parameter and the type it needs
    return text


def _type_name(spec: ParameterSpec) -> str:
    names = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a word'}
    return f'{spec.length} numbers' if spec.type is tuple else names[spec.type]


def _unknown(name: str, specs: Mapping[str, ParameterSpec]) -> str:
    close = difflib.get_close_matches(name, specs, n=1, cutoff=0.5)
    same_leaf = [other for other in specs if other.split('.')[-1] == name.split('.')[-1]]
    best = (same_leaf or close)[:1]
    hint = f'did you mean {best[0]!r}?' if best else "see 'kpvo params' for all names"
    return f'unknown parameter {name!r}; {hint}'


def _replace(record: Record, values: Mapping[str, Any], prefix: str) -> Record:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        name = prefix + field.name
        child = getattr(record, field.name)
        if dataclasses.is_dataclass(child):
            changes[field.name] = _replace(child, values, f'{name}.')
        elif name in values:
            changes[field.name] = values[name]
    return dataclasses.replace(record, **changes)  # type: ignore[type-var]
