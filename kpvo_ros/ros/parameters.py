"""ROS parameters made from a configuration record, and read back into it.

Type, default, range and sentence of every parameter come from `config.schema.specs_of`; nothing
is declared here by hand. A node needs `automatically_declare_parameters_from_overrides=True`,
the public way to see what the user gave: an override that is no parameter of the record is
refused by name instead of being ignored as rclpy does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import sys
from typing import Any, Generic, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from kpvo_ros.config.schema import (
    ParameterSpec,
    Value,
    check_value,
    specs_of,
    to_flat,
    with_values,
)
from kpvo_ros.errors import ConfigError

Record = TypeVar('Record')

# Declared by rclpy itself on every node, or written for it by launch.
FOREIGN_NAMES = ('use_sim_time', 'start_type_description_service')
FOREIGN_PREFIXES = ('qos_overrides.',)
INT64_MAX = 2**63 - 1


class Parameters(Generic[Record]):
    """The parameters of one node.

    Args:
        node: made with `automatically_declare_parameters_from_overrides=True`.
        defaults: the record whose fields become parameters.
        live: names that may change while the node is configured; all others only before.
        fixed: names that are read once at start and can never change (rclpy: read only).

    Attributes:
        problems: one line per override that was refused; empty when all is well.
    """

    def __init__(
        self, node: Node, defaults: Record, live: Iterable[str] = (), fixed: Iterable[str] = ()
    ) -> None:
        self._node = node
        self._specs = {spec.name: spec for spec in specs_of(type(defaults))}
        self._live = frozenset(live)
        self._locked = False
        self._listeners: list[Callable[[Record], None]] = []
        self._record, self.problems = _with_overrides(defaults, _take_overrides(node))
        _declare(node, self._specs.values(), to_flat(self._record), self._live, frozenset(fixed))
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._store)

    @property
    def record(self) -> Record:
        """The values of this moment; a new record after every change."""
        return self._record

    def lock(self, locked: bool) -> None:
        """Refuse (or allow again) changes of parameters that are not live."""
        self._locked = locked

    def on_change(self, listener: Callable[[Record], None]) -> None:
        """Call `listener(record)` after every accepted change."""
        self._listeners.append(listener)

    def _check(self, changes: Sequence[Parameter]) -> SetParametersResult:
        for change in changes:
            spec = self._specs.get(change.name)
            if spec is None:
                continue  # a parameter of rclpy itself
            if change.type_ == Parameter.Type.NOT_SET:
                return _refusal(f'{change.name}: cannot be deleted; give it a value')
            if self._locked and change.name not in self._live:
                return _refusal(
                    f'{change.name}: takes effect at configure; deactivate and clean up the node '
                    'first, or set it in the parameter file'
                )
            try:
                check_value(spec, change.value)
            except ConfigError as error:
                return _refusal(str(error))
        return SetParametersResult(successful=True)

    def _store(self, changes: Sequence[Parameter]) -> None:
        values = {c.name: c.value for c in changes if c.name in self._specs}
        if not values:
            return
        self._record = with_values(self._record, values)
        for listener in self._listeners:
            listener(self._record)


def descriptor_of(spec: ParameterSpec, *, live: bool, fixed: bool = False) -> ParameterDescriptor:
    """What `ros2 param describe` shows, and the range rclpy enforces."""
    constraints = [f'one of: {", ".join(spec.choices)}'] if spec.choices else []
    constraints += [f'{spec.length} numbers'] if spec.length else []
    if not live:
        constraints.append('read at start' if fixed else 'takes effect at configure')
    descriptor = ParameterDescriptor(
        name=spec.name,
        description=spec.doc,
        additional_constraints='; '.join(constraints),
        read_only=fixed,
    )
    _add_range(descriptor, spec)
    return descriptor


def _add_range(descriptor: ParameterDescriptor, spec: ParameterSpec) -> None:
    if spec.low is None and spec.high is None:
        return
    if spec.type is int:
        low = -INT64_MAX if spec.low is None else int(spec.low)
        high = INT64_MAX if spec.high is None else int(spec.high)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
    elif spec.type is float:  # rclpy does not look at the elements of arrays; `_check` does
        widest = sys.float_info.max
        low_f = -widest if spec.low is None else float(spec.low)
        high_f = widest if spec.high is None else float(spec.high)
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=low_f, to_value=high_f, step=0.0)
        ]


def _take_overrides(node: Node) -> dict[str, Any]:
    """{name: value} the user gave; undeclared here, to be declared again with their descriptor."""
    overrides = {}
    for name, parameter in node.get_parameters_by_prefix('').items():
        if name in FOREIGN_NAMES or name.startswith(FOREIGN_PREFIXES):
            continue
        overrides[name] = parameter.value  # type: ignore[union-attr]
        node.undeclare_parameter(name)
    return overrides


def _with_overrides(record: Record, overrides: dict[str, Any]) -> tuple[Record, list[str]]:
    problems = []
    for name, value in overrides.items():
        try:
            record = with_values(record, {name: value})
        except ConfigError as error:
            problems.append(str(error))
    return record, problems


def _declare(
    node: Node,
    specs: Iterable[ParameterSpec],
    values: dict[str, Value],
    live: frozenset[str],
    fixed: frozenset[str],
) -> None:
    declarations: list[Any] = []
    for spec in specs:
        value = values[spec.name]
        descriptor = descriptor_of(spec, live=spec.name in live, fixed=spec.name in fixed)
        declarations.append(
            (spec.name, list(value) if isinstance(value, tuple) else value, descriptor)
        )
    # The overrides are already in `values`, converted (1 is accepted for 1.0) and checked.
    node.declare_parameters('', declarations, ignore_override=True)


def _refusal(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)
