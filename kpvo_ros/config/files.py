"""Parameter files: plain nested YAML, or the layout of `ros2 run --params-file`.

scale: {source: depth}                              # plain
/**: {ros__parameters: {scale: {source: depth}}}    # ROS, any node name in place of /**
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import pathlib
from typing import Any, TypeVar

import yaml

from kpvo_ros.config.runtime import KeypointConfig, VoConfig
from kpvo_ros.config.schema import (
    ParameterSpec,
    flatten,
    specs_of,
    to_nested,
    with_values,
    with_words,
)
from kpvo_ros.errors import ConfigError

Record = TypeVar('Record')
MAX_FILE_BYTES = 1 << 20  # a parameter file is a page; anything larger is a mistake or an attack


def load(record: Record, path: pathlib.Path | None, words: Iterable[str] = ()) -> Record:
    """`record` changed by a parameter file, then by `key=value` words (the words win).

    Raises:
        ConfigError: file missing or not YAML, or a parameter is unknown or out of range.
    """
    if path is not None:
        try:
            record = with_values(record, read_values(path))
        except ConfigError as error:
            raise ConfigError(
                f'{path}: {error}' if str(path) not in str(error) else str(error)
            ) from None
    return with_words(record, words)


def read_values(path: pathlib.Path) -> dict[str, Any]:
    """{dotted name: value} of a parameter file.

    Raises:
        ConfigError: file missing, too large, not YAML, or not a mapping.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f'{path}: larger than 1 MiB; this is not a parameter file')
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: cannot be read ({error}); give a parameter YAML') from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = str(error).replace('\n', ' ')
        raise ConfigError(f'{path}: not valid YAML ({line}); mend the file') from None
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(f'{path}: holds no "name: value" lines; see kpvo params --yaml')
    try:
        return _flat_without_ros_layers(content)
    except RecursionError:
        raise ConfigError(f'{path}: contains itself through an alias; mend the file') from None


def dump_yaml(record: Any) -> str:
    """The record as a parameter file that both the command line and rclpy accept."""
    return yaml.safe_dump({'/**': {'ros__parameters': to_nested(record)}}, sort_keys=False)


def markdown_table(record_type: type) -> str:
    """One Markdown table row per parameter, for docs/parameters.md."""
    lines = ['| parameter | type | default | range | meaning |', '|---|---|---|---|---|']
    for spec in specs_of(record_type):
        kind = f'{spec.length} floats' if spec.type is tuple else spec.type.__name__
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        lines.append(f'| `{spec.name}` | {kind} | `{default}` | {range_text(spec)} | {spec.doc} |')
    return '\n'.join(lines) + '\n'


def parameter_page() -> str:
    """docs/parameters.md: the parameters of every node."""
    return (
        '# Parameters\n\n'
        'Made by `kpvo params --markdown` (`make docs`); a test keeps it current. The same names '
        'work in a YAML file,\nas `key=value` of `kpvo replay`, and as ROS parameters.\n\n'
        f'## vo_node, kpvo replay\n\n{markdown_table(VoConfig)}\n'
        f'## keypoint_node\n\n{markdown_table(KeypointConfig)}'
    )


def range_text(spec: ParameterSpec) -> str:
    """The allowed values of a parameter in words."""
    if spec.choices:
        return ', '.join(f'`{choice}`' for choice in spec.choices)
    if spec.low is None and spec.high is None:
        return ''
    low = '-inf' if spec.low is None else f'{spec.low:g}'
    high = 'inf' if spec.high is None else f'{spec.high:g}'
    return f'{low} .. {high}'


def _flat_without_ros_layers(content: Mapping[str, Any]) -> dict[str, Any]:
    """Strip `node_name: ros__parameters:`; several nodes in one file are merged."""
    merged: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping) and set(value) == {'ros__parameters'}:
            parameters = value['ros__parameters']
            if not isinstance(parameters, Mapping | None):
                raise ConfigError(
                    f'{key}: ros__parameters holds no "name: value" lines; see kpvo params --yaml'
                )
            merged |= flatten(parameters or {})
        else:
            merged |= flatten({str(key): value})
    return merged
