"""kpvo bench depth: the networks that are compared, each with a name of the user's choice."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
from pathlib import Path
import re
from typing import TYPE_CHECKING

from kpvo_ros.errors import CommandError, KpvoError
from kpvo_ros.frontend.models import resolve_model

if TYPE_CHECKING:
    from kpvo_ros.nets.depth_vo import DepthVoNet

SHIPPED, ADAPTED, TUNED = 'shipped', 'adapted', 'tuned'  # names that have floors of their own
_IN_MANIFEST = 'depth_vo'
# The file may be the name of shipped weights.
_ROW = re.compile(r'(?P<name>[^=]+)=(?P<file>\w+|.+?\.safetensors)(?:\+(?P<adapters>.+))?')


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network to be measured.

    Attributes:
        name: for tables.
        network: float32, without gradients.
        files: what it was made of: name of the role -> path and SHA-256.
    """

    name: str
    network: DepthVoNet
    files: dict[str, str]


def load_models(rows: Sequence[str]) -> list[Model]:
    """The networks of `NAME=FILE[+ADAPTERS]`; the shipped one when there are no rows.

    Raises:
        CommandError: a row is malformed or a name is there twice.
        KpvoError: weights or adapters cannot be used.
    """
    models: dict[str, Model] = {}
    for row in rows or (f'{SHIPPED}={_IN_MANIFEST}',):
        found = _ROW.fullmatch(row)
        if found is None:
            raise CommandError(
                f'--models {row!r}: write NAME=FILE.safetensors or NAME=FILE.safetensors+ADAPTERS'
            )
        if found['name'] in models:
            raise CommandError(f'--models: {found["name"]!r} is there twice; give another name')
        models[found['name']] = _load(**found.groupdict())
    return list(models.values())


def load_models_or_reason(rows: Sequence[str]) -> tuple[list[Model], str]:
    """As `load_models`, but the shipped one may be absent: then none, and why.

    Raises:
        KpvoError: one that was asked for cannot be had.
    """
    try:
        return load_models(rows), ''
    except KpvoError as error:
        if rows:
            raise
        return [], str(error)


def _load(name: str, file: str, adapters: str | None) -> Model:
    from kpvo_ros.nets.adapter import load_adapters
    from kpvo_ros.nets.depth_vo import KIND, load_depth_vo_net

    model = resolve_model(file, KIND)
    sha256 = model.sha256 or _sha256(model.path)
    network = load_depth_vo_net(model.path, sha256)
    files = {'weights': f'{model.path} {sha256}'}
    if adapters is not None:
        path = Path(adapters)
        load_adapters(path, network, base_sha256=sha256)
        files['adapters'] = f'{path} {_sha256(path)}'
    return Model(name, network.fused(), files)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CommandError(f'{path}: cannot be read ({error.strerror}); check --models') from None
