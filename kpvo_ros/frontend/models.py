"""Where shipped weights lie, and what they must hash to.

A folder of weights has a manifest.yaml:

    models:
      kpvo:                       # the name that a parameter gives
        file: kpvo.safetensors    # beside the manifest
        kind: keypoint
        sha256: 64 hexadecimal digits
        url: https://...          # where kpvo models get finds the file; may be missing
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
MANIFEST = 'manifest.yaml'
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
    missing: list[Path] = []
    for folder in model_folders():
        models = read_manifest(folder / MANIFEST)
        if name_or_path in models:
            model = _entry(folder, name_or_path, models[name_or_path], kind)
            if model.path.is_file():
                return model
            missing.append(model.path)  # another folder may have it
        known += map(str, models)
    if missing:
        raise FrontendError(
            f'the weights of {name_or_path!r} are missing at {missing[0]}; install the package '
            f'again, or: kpvo models get {name_or_path}'
        )
    have = f'there are {", ".join(known)}' if known else 'none are installed'
    raise FrontendError(
        f'no weights named {name_or_path!r}: {have}; give one of them or the path of a '
        f'{SUFFIX} file that kpvo train wrote'
    )


def model_folders() -> list[Path]:
    """Folders with a manifest: beside the package, below the prefix of Python, of ROS, the user's.

    That of the user comes last: what he has fetched does not replace what is shipped.
    """
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    places: list[Path | None] = [Path(__file__).resolve().parents[2] / 'models']
    places += [Path(prefix) / _SHARE for prefix in prefixes if prefix]
    places.append(user_folder())
    own = [place for place in places if place is not None and (place / MANIFEST).is_file()]
    return list(dict.fromkeys(own))


def user_folder() -> Path | None:
    """The user's own folder of models (XDG base directories); None for a user without a home."""
    named = Path(os.environ.get('XDG_DATA_HOME', ''))
    if named.is_absolute():
        return named / 'kpvo_ros' / 'models'
    try:
        return Path.home() / '.local' / _SHARE
    except RuntimeError:
        return None


def read_manifest(path: Path) -> dict[Any, Any]:
    """Name -> entry, unchecked.

    Raises:
        FrontendError: it cannot be read, is longer than a manifest, or not a list of models.
    """
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
    """A checked entry of the manifest; whether the file is there has not been looked at."""
    where = f'model {name!r} of {folder / MANIFEST}'
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
    return ModelFile(folder / file, sha256)
