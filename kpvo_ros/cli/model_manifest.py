"""Entries of all manifests of weights, for people: what there is, where, and what is wrong.

`frontend.models` defines the manifest and finds one model for a robot; here all are looked at,
the damaged ones too, and one may be added. A manifest is data of a stranger: names and files are
plain names, and what is shown or copied of the rest is text.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from pathlib import Path
import re
from typing import Any

import yaml

from kpvo_ros.errors import CommandError
from kpvo_ros.frontend.models import MANIFEST, SUFFIX, model_folders, read_manifest

_PLAIN = re.compile(r'\w[\w.-]{0,99}', re.ASCII)
_SHA256 = re.compile(r'[0-9a-fA-F]{64}')
_NO_TEXT = '-'


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model that a manifest names.

    Attributes:
        folder: of the manifest and of the file.
        name: of the model; printable.
        values: what the manifest says in one line of text: file, kind, sha256, url, licence...
        fault: what is wrong with the entry, '' when it can be used.
    """

    folder: Path
    name: str
    values: dict[str, str]
    fault: str = ''

    @property
    def path(self) -> Path:
        """Of the file, whether it is there or not; only for an entry without fault."""
        return self.folder / self.values['file']

    @property
    def manifest(self) -> Path:
        """Where the entry stands."""
        return self.folder / MANIFEST

    @property
    def kind(self) -> str:
        """'keypoint'..., '-' when the manifest does not say."""
        return self.values.get('kind', _NO_TEXT)

    @property
    def sha256(self) -> str:
        """What the file must hash to, lower case; only for an entry without fault."""
        return self.values['sha256'].lower()

    @property
    def url(self) -> str | None:
        """Where the file can be fetched."""
        return self.values.get('url')

    @property
    def licence(self) -> str:
        """'-' when the manifest does not say."""
        return self.values.get('licence', _NO_TEXT)

    @property
    def present(self) -> bool:
        """Whether there is a file; what is in it has not been looked at."""
        return not self.fault and self.path.is_file()


def searched_folders(first: Path | None = None) -> list[Path]:
    """All folders with a manifest: `first`, then those that the front end searches."""
    here = [first] if first is not None and (first / MANIFEST).is_file() else []
    return list(dict.fromkeys([*here, *model_folders()]))


def entries_of(folder: Path) -> list[Entry]:
    """The models of one folder in the order of its manifest, malformed ones with their fault.

    Without a manifest there are none.

    Raises:
        FrontendError: its manifest is not a list of models.
    """
    return [_entry(folder, name, values) for name, values in _models_of(folder).items()]


def new_entry(folder: Path, name: str, values: dict[str, str]) -> Entry:
    """An entry that no manifest has yet.

    Raises:
        CommandError: the name or a value cannot stand in a manifest.
    """
    entry = _entry(folder, name, values)
    if entry.fault:
        raise CommandError(f'{name!r}: {entry.fault}; give another NAME or --sha256')
    return entry


def require_place(entry: Entry, others: Sequence[Entry]) -> None:
    """Whether a model can lie in a folder beside those it has.

    Args:
        entry: of that folder.
        others: what its manifest names already.

    Raises:
        CommandError: the name, or the name of its file, is that of something else.
    """
    for other in others:
        same = not other.fault and (other.path, other.sha256) == (entry.path, entry.sha256)
        if other.name == entry.name and not same:
            raise CommandError(
                f'{entry.manifest} names another {entry.name!r}; give another --to DIR, '
                'or take that entry out'
            )
        if other.name != entry.name and other.values.get('file') == entry.values['file']:
            raise CommandError(
                f'{entry.path} belongs to the model {other.name!r}; give another --to DIR'
            )


def write_entry(entry: Entry) -> None:
    """Add an entry to the manifest of its folder; comments that stand there are kept if possible.

    The manifest is replaced as a whole. There must be none of this name, see `require_place`.

    Raises:
        CommandError: the disk refuses.
        FrontendError: there is a manifest that is not a list of models.
    """
    path = entry.manifest
    models = _models_of(entry.folder)
    partial = path.with_name(path.name + '.part')
    try:
        before = path.read_text(encoding='utf-8', errors='replace') if models else 'models:\n'
        partial.write_text(_with_entry(before, models, entry), encoding='utf-8')
        partial.replace(path)
    except OSError as error:
        raise CommandError(
            f'{path}: cannot be written ({error.strerror}); give another --to DIR'
        ) from None


# ------------------------------------------------------------------------------------ private


def _models_of(folder: Path) -> dict[Any, Any]:
    path = folder / MANIFEST
    return read_manifest(path) if path.is_file() else {}


def _entry(folder: Path, name: Any, values: Any) -> Entry:
    """An entry as it stands in a manifest, checked."""
    texts = {
        key: value
        for key, value in (values.items() if isinstance(values, dict) else ())
        if isinstance(key, str) and isinstance(value, str) and (key + value).isprintable()
    }
    fault = ''
    if not isinstance(name, str) or not _PLAIN.fullmatch(name) or name.endswith(SUFFIX):
        fault = f'a model is named by letters, digits, _ - and dots, and without {SUFFIX}'
    elif not _PLAIN.fullmatch(texts.get('file', '')):
        fault = 'its file is not the plain name of a file beside the manifest'
    elif texts['file'] == MANIFEST:
        fault = 'its file is the manifest itself'
    elif not _SHA256.fullmatch(texts.get('sha256', '')):
        fault = 'its sha256 is not 64 hexadecimal digits'
    return Entry(folder, _shown(name), texts, fault)


def _shown(name: Any) -> str:
    return name if isinstance(name, str) and _PLAIN.fullmatch(name) else ascii(name)[:60]


def _with_entry(before: str, models: dict[Any, Any], entry: Entry) -> str:
    """A manifest's text with one entry more."""
    block = yaml.safe_dump({entry.name: entry.values}, sort_keys=False)
    indented = ''.join(f'  {line}\n' for line in block.splitlines())
    text = f'{before.rstrip()}\n{indented}'
    try:
        content = yaml.safe_load(text)
        kept = list(content['models']) == [*models, entry.name]
        if kept and content['models'][entry.name] == entry.values:
            return text
    except (yaml.YAMLError, TypeError, KeyError):
        pass  # it is written in another style, e.g. with braces
    return yaml.safe_dump({'models': {**models, entry.name: entry.values}}, sort_keys=False)
