"""Where shipped weights lie, and what they must hash to.

A folder of weights has a manifest.yaml:

    models:
      kpvo:                       # the name that a parameter gives
        file: kpvo.safetensors    # beside the manifest
        kind: keypoint
        sha256: 64 hexadecimal digits
        ...                       # command, data, metrics, licence: for people
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
import re
import sys
from typing import Any

import yaml

from kpvo_ros.errors import FrontendError

SUFFIX = '.safetensors'
_MANIFEST = 'manifest.yaml'
_MAX_MANIFEST_BYTES = 1 << 20
_SHARE = Path('share', 'kpvo_ros', 'models')
_SHA256 = re.compile(r'[0-9a-fA-F]{64}')


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A weights file and its hash.

    Attributes:
        path: of the file.
        sha256: what it must hash to, hexadecimal; None for a file that the user named himself.
    """

    path: Path
    sha256: str | None


def resolve_model(name_or_path: str, kind: str) -> ModelFile:
    """The weights file of a shipped model, or the one that a path names.

    Args:
        name_or_path: 'kpvo', or a path that ends in .safetensors.
        kind: what it must be, e.g. 'keypoint'; of a path this is seen when it is loaded.

    Raises:
        FrontendError: there is no such model or file, it is of another kind, or its entry in the
            manifest is malformed.
    """
    if name_or_path.endswith(SUFFIX):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise FrontendError(f'there are no weights at {path}; give the path of a file')
        return ModelFile(path, None)
    known: list[str] = []
    for folder in model_folders():
        models = _read_manifest(folder / _MANIFEST)
        if name_or_path in models:
            return _entry(folder, name_or_path, models[name_or_path], kind)
        known += map(str, models)
    have = f'there are {", ".join(known)}' if known else 'none are installed'
    raise FrontendError(
        f'no weights named {name_or_path!r}: {have}; give one of them or the path of a '
        f'{SUFFIX} file that kpvo train wrote'
    )


def model_folders() -> list[Path]:
    """Folders with a manifest: beside the package, below the prefix of Python, and of ROS."""
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    places = [Path(__file__).resolve().parents[2] / 'models']
    places += [Path(prefix) / _SHARE for prefix in prefixes if prefix]
    return [place for place in dict.fromkeys(places) if (place / _MANIFEST).is_file()]


def _read_manifest(path: Path) -> dict[Any, Any]:
    """Name -> entry, unchecked."""
    try:
        with path.open('rb') as file:
            data = file.read(_MAX_MANIFEST_BYTES + 1)
        content = yaml.safe_load(data) if len(data) <= _MAX_MANIFEST_BYTES else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        content = None
    models = content.get('models') if isinstance(content, dict) else None
    if not isinstance(models, dict):
        raise FrontendError(f'{path} is not a list of models; install the package again')
    return models


def _entry(folder: Path, name: str, entry: Any, kind: str) -> ModelFile:
    """A checked entry of the manifest."""
    where = f'model {name!r} of {folder / _MANIFEST}'
    values = entry if isinstance(entry, dict) else {}
    file, sha256 = values.get('file'), values.get('sha256')
    if not isinstance(file, str) or not re.fullmatch(r'[\w-][\w.-]*', file, re.ASCII):
        raise FrontendError(f'{where}: file {file!r} is not the plain name of a file beside it')
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise FrontendError(f'{where}: sha256 {sha256!r} is not 64 hexadecimal digits')
    if values.get('kind') != kind:
        raise FrontendError(
            f'{where} is of kind {values.get("kind")!r}, needed is {kind!r}; give another one'
        )
    if not (folder / file).is_file():
        raise FrontendError(f'{where}: {file} is missing; install the package again')
    return ModelFile(folder / file, sha256)
