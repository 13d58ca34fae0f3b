"""kpvo models: what trained weights there are, whether they are whole, and how to get more."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import contextlib
import os
from pathlib import Path
import sys
from typing import TYPE_CHECKING, Any

from kpvo_ros.cli import models_import
from kpvo_ros.errors import CommandError, FrontendError, KpvoError

if TYPE_CHECKING:
    from kpvo_ros.cli.download import Progress
    from kpvo_ros.cli.findings import Finding
    from kpvo_ros.cli.model_manifest import Entry

HELP = 'trained weights: list what there is, verify files, get one from the network, import'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    listing = actions.add_parser('list', help='all models that a manifest names')
    listing.add_argument('--json', action='store_true', help='for programs')
    checking = actions.add_parser('verify', help='compare hashes, and load what can be loaded')
    checking.add_argument('names', nargs='*', metavar='NAME', help='default: all')
    getting = actions.add_parser('get', help='fetch one; an interrupted download goes on')
    getting.add_argument('name', metavar='NAME', help='of a manifest, or with --url a new one')
    getting.add_argument(
        '--to',
        type=Path,
        metavar='DIR',
        help='folder (default: that of the manifest, else the data folder of the user)',
    )
    getting.add_argument('--url', metavar='URL', help='http or https, in place of the manifest')
    getting.add_argument('--sha256', metavar='HEX', help='of a model that no manifest names')
    models_import.add_parser(actions)


def run(args: argparse.Namespace) -> int:
    """Do one of the four; 1 when a file or a manifest is damaged."""
    actions = {'list': _list, 'verify': _verify, 'get': _get, 'import': models_import.run}
    return actions[args.action](args)


# --------------------------------------------------------------------------------------- list


def _list(args: argparse.Namespace) -> int:
    import json

    from kpvo_ros.evaluation.table import text_table

    entries, broken = _all_entries()
    if args.json:
        print(json.dumps([_record(entry) for entry in entries], indent=2))
    elif entries:
        header = ('name', 'kind', 'MB', 'licence', 'state', 'where')
        print(text_table([_row(entry) for entry in entries], header))
    elif not broken:
        print('no models; kpvo train makes some, kpvo models get NAME --url URL --sha256 HEX')
    for line in broken:
        print(f'kpvo models: {line}', file=sys.stderr)
    return 1 if broken else 0


def _row(entry: Entry) -> tuple[str, ...]:
    size = f'{entry.path.stat().st_size / 1e6:.1f}' if entry.present else '-'
    state = 'malformed' if entry.fault else 'present' if entry.present else 'missing'
    return (
        *(entry.name, entry.kind[:20], size, entry.licence[:30], state),
        str(entry.folder),
    )


def _record(entry: Entry) -> dict[str, Any]:
    """An entry for JSON; what is unknown is null."""
    return {
        'name': entry.name,
        'kind': entry.values.get('kind'),
        'bytes': entry.path.stat().st_size if entry.present else None,
        'licence': entry.values.get('licence'),
        'present': entry.present,
        'file': None if entry.fault else str(entry.path),
        'sha256': None if entry.fault else entry.sha256,
        'url': entry.url,
        'fault': entry.fault or None,
    }


# ------------------------------------------------------------------------------------- verify


def _verify(args: argparse.Namespace) -> int:
    from kpvo_ros.cli.findings import Finding, Level, print_findings

    entries, broken = _all_entries()
    known = {entry.name for entry in entries}
    for name in args.names:
        if name not in known:
            raise CommandError(_unknown(name, sorted(known)))
    chosen = [entry for entry in entries if not args.names or entry.name in args.names]
    here = {entry.name for entry in chosen if entry.present}
    findings = [Finding(Level.BLOCK, 'manifest', line) for line in broken]
    for entry in chosen:
        missing = not entry.present and not entry.fault
        asked = entry.name in args.names
        findings.append(_absent(entry, here, asked) if missing else _judged(entry))
    return 1 if print_findings('models', findings) else 0


def _absent(entry: Entry, here: set[str], asked: bool) -> Finding:
    """What it means that a file is not there; `here` are the names of those that are."""
    from kpvo_ros.cli.findings import Finding, Level

    if entry.name in here:
        return Finding(Level.OK, entry.name, f'not in {entry.folder}, but in another folder')
    level = Level.WARN if entry.url and not asked else Level.BLOCK
    return Finding(level, entry.name, f'{entry.path} is not there', _cure(entry))


def _judged(entry: Entry) -> Finding:
    """A file against its hash and, where one is known, the loader of its kind."""
    from kpvo_ros.cli.download import sha256_of
    from kpvo_ros.cli.findings import Finding, Level

    if entry.fault:
        advice = f'mend {entry.manifest}'
        return Finding(Level.BLOCK, entry.name, entry.fault, advice)
    try:
        found = sha256_of(entry.path)
    except OSError as error:
        said = f'{entry.path} cannot be read ({error.strerror})'
        return Finding(Level.BLOCK, entry.name, said, _cure(entry))
    if found != entry.sha256:
        said = f'{entry.path} has SHA-256 {found[:12]}..., expected {entry.sha256[:12]}...'
        return Finding(Level.BLOCK, entry.name, said, _cure(entry))
    load = _loaders().get(entry.kind)
    if load is None:
        said = f'{entry.path}: the hash is right; nothing here loads the kind {entry.kind!r}'
        return Finding(Level.OK, entry.name, said)
    try:
        load(entry.path, entry.sha256)
    except KpvoError as error:
        return Finding(Level.BLOCK, entry.name, str(error))
    return Finding(Level.OK, entry.name, f'{entry.path}: the hash is right, and it loads')


def _cure(entry: Entry) -> str:
    return f'kpvo models get {entry.name}' if entry.url else 'install the package again'


def _loaders() -> dict[str, Callable[[Path, str | None], object]]:
    """Kind -> what makes a network of such a file."""
    from kpvo_ros.nets import croco, depth_vo, diffusion, keypoint, mono_depth

    return {
        croco.KIND: croco.load_croco_net,
        mono_depth.KIND: mono_depth.load_mono_depth_net,
        depth_vo.KIND: depth_vo.load_depth_vo_net,
        keypoint.KIND: keypoint.load_keypoint_net,
        diffusion.KIND: diffusion.load_diffusion_net,
    }


# ---------------------------------------------------------------------------------------- get


def _get(args: argparse.Namespace) -> int:
    from kpvo_ros.cli.model_manifest import entries_of, require_place, write_entry

    known = _known(args)
    entry = _new(args) if known is None else _placed(args, known)
    there = entries_of(entry.folder)
    require_place(entry, there)
    listed = entry.name in {other.name for other in there}
    right = _is_right(entry, listed)
    if not right:
        _fetch(entry, args.url or entry.url)
    if not listed:
        entry = entry if known is not None else _with_kind(entry)
        write_entry(entry)
    said = f'{"is there already" if right else "fetched"}, the hash is right'
    print(f'{entry.path}: {entry.path.stat().st_size / 1e6:.1f} MB, {said}')
    _say_how_to_use(entry)
    return 0


def _known(args: argparse.Namespace) -> Entry | None:
    """The first entry of that name; that of --to before all others."""
    from kpvo_ros.cli.model_manifest import entries_of, searched_folders

    entries = [entry for folder in searched_folders(args.to) for entry in entries_of(folder)]
    found = next((entry for entry in entries if entry.name == args.name), None)
    if found is None and (args.url is None or args.sha256 is None):
        raise CommandError(_unknown(args.name, sorted({entry.name for entry in entries})))
    if found is not None and found.fault:
        raise CommandError(f'{args.name!r} of {found.manifest}: {found.fault}')
    if found is not None and args.sha256 and args.sha256.lower() != found.sha256:
        raise CommandError(
            f'{found.manifest} gives {args.name!r} the SHA-256 '
            f'{found.sha256[:12]}..., not {args.sha256[:12]}...; leave --sha256 out, or give '
            'another NAME'
        )
    return found


def _new(args: argparse.Namespace) -> Entry:
    """An entry for a model that no manifest names."""
    from kpvo_ros.cli.download import require_url
    from kpvo_ros.cli.model_manifest import new_entry
    from kpvo_ros.frontend.models import SUFFIX

    require_url(args.url)
    values = {'file': f'{args.name}{SUFFIX}', 'sha256': args.sha256.lower(), 'url': args.url}
    return new_entry(_target(args), args.name, values)


def _placed(args: argparse.Namespace, known: Entry) -> Entry:
    """The known entry in the folder where its file shall lie."""
    from kpvo_ros.cli.model_manifest import new_entry

    at_home = args.to is None and (known.present or os.access(known.folder, os.W_OK))
    if at_home or args.to == known.folder:
        return known
    return new_entry(_target(args), known.name, known.values)


def _target(args: argparse.Namespace) -> Path:
    from kpvo_ros.frontend.models import user_folder

    folder: Path | None = args.to or user_folder()
    if folder is None:
        raise CommandError('there is no home folder; give --to DIR')
    return folder


def _is_right(entry: Entry, listed: bool) -> bool:
    """Whether the file is there and whole.

    Raises:
        CommandError: there is another file of that name, and no manifest says that it is ours.
    """
    from kpvo_ros.cli.download import sha256_of

    if not entry.path.exists():
        return False
    try:
        right = sha256_of(entry.path) == entry.sha256
    except OSError as error:
        raise CommandError(
            f'{entry.path} cannot be read ({error.strerror}); give another --to DIR'
        ) from None
    if not right and not listed:
        raise CommandError(f'{entry.path} is another file; move it, or give another --to DIR')
    return right


def _fetch(entry: Entry, url: str | None) -> None:
    from kpvo_ros.cli.download import fetch
    from kpvo_ros.nets.checkpoint import MAX_BYTES

    if url is None:
        raise CommandError(
            f'the manifest does not say where {entry.name!r} can be fetched; give --url URL'
        )
    try:
        entry.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f'{entry.folder}: cannot be made ({error.strerror}); give another --to DIR'
        ) from None
    check = None if 'kind' in entry.values else _kind_of
    with _bar(entry.name) as progress:
        fetch(url, entry.path, entry.sha256, max_bytes=MAX_BYTES, progress=progress, check=check)


def _kind_of(path: Path) -> str:
    """What a file is that nobody has told the kind of: the first that can be made of it.

    Raises:
        CommandError: no network of this version.
    """
    reasons = []
    for kind, load in _loaders().items():
        try:
            load(path, None)
        except KpvoError as error:
            reasons.append(f'{kind}: {error}')
        else:
            return kind
    raise CommandError(f'no network of this version can be made of what came ({reasons[0]})')


def _with_kind(entry: Entry) -> Entry:
    from kpvo_ros.cli.model_manifest import new_entry

    values = {'file': entry.values['file'], 'kind': _kind_of(entry.path), **entry.values}
    return new_entry(entry.folder, entry.name, values)


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """A bar on the terminal, nothing when the output is not one."""
    from tqdm import tqdm

    silent = not sys.stderr.isatty()
    with tqdm(desc=name, unit='B', unit_scale=True, disable=silent, leave=False) as bar:

        def update(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def _say_how_to_use(entry: Entry) -> None:
    from kpvo_ros.frontend.models import model_folders

    if entry.kind == 'keypoint' and entry.folder.resolve() not in map(
        Path.resolve, model_folders()
    ):
        print(f'use it with frontend.extractor=kpvo frontend.weights_path={entry.path}')


# ------------------------------------------------------------------------------------- shared


def _all_entries() -> tuple[list[Entry], list[str]]:
    """Entries of all manifests that can be read, and a line for each that cannot."""
    from kpvo_ros.cli.model_manifest import entries_of, searched_folders

    entries, broken = [], []
    for folder in searched_folders():
        try:
            entries += entries_of(folder)
        except FrontendError as error:
            broken.append(str(error))
    return entries, broken


def _unknown(name: str, known: list[str]) -> str:
    have = f'there are {", ".join(known)}' if known else 'there are none'
    return f'no manifest names {name!r}: {have}; give one of them, or get it by --url and --sha256'
