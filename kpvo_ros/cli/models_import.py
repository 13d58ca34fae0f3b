"""kpvo models import: a public checkpoint becomes a weights file of ours, with its manifest entry.

`models` declares and runs it: `add_parser(actions)` and `run(args)`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kpvo_ros.errors import CommandError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kpvo_ros.cli.model_manifest import Entry

_HELP = 'convert a public checkpoint (Depth-Anything-V2-Small, CroCo v2) into a file of ours'
_SMALL_FILE = 'depth_anything_v2_vits'  # in the authors' file name of the relative variant
_FIRST_VERSION = 'depth_anything_vit'  # in those of version 1, which reads other blocks
_METRES = {'hypersim': 20, 'indoor': 20, 'vkitti': 80, 'outdoor': 80}  # of metric variants
_MAX_DEPTH_M = 4096  # what a configuration in a weights file can say


def add_parser(actions: Any) -> None:
    """Declare the action.

    Args:
        actions: what `argparse.ArgumentParser.add_subparsers` gave.
    """
    parser: argparse.ArgumentParser = actions.add_parser('import', help=_HELP, description=_HELP)
    parser.add_argument('file', type=Path, metavar='FILE', help='.safetensors or .pth')
    parser.add_argument(
        '--name', metavar='NAME', help='of the model here (default: after what it is)'
    )
    parser.add_argument(
        '--to', type=Path, metavar='DIR', help='folder (default: the data folder of the user)'
    )
    variant = parser.add_mutually_exclusive_group()
    variant.add_argument(
        '--relative', action='store_true', help='it answers inverse depth up to scale and shift'
    )
    variant.add_argument(
        '--max-depth-m',
        type=int,
        metavar='M',
        help='it answers metres, up to M: 20 of the indoor variant (Hypersim), 80 of the outdoor '
        'one (Virtual KITTI); default: as the name of FILE says',
    )


def run(args: argparse.Namespace) -> int:
    """Convert a file and add it to the manifest of a folder."""
    from kpvo_ros.nets.importing import CROCO, DEPTH_ANYTHING, is_croco, is_depth_anything
    from kpvo_ros.nets.public_files import read_public_state

    state = read_public_state(args.file)
    if is_depth_anything(state):
        made = _depth_anything(args, state)
    elif is_croco(state):
        made = _croco(args, state)
    else:
        raise CommandError(
            f'{args.file} is no network known here; give {DEPTH_ANYTHING} or {CROCO}'
        )
    entry = _written(args, made)
    print(f'{args.file}: {made.what}{made.known and f" ({made.known})"}')
    size_mb = entry.path.stat().st_size / 1e6
    print(f'{entry.path}: {size_mb:.1f} MB, kind {entry.kind}, licence {entry.licence}')
    return 0


@dataclasses.dataclass(frozen=True)
class _Made:
    """A network and what people want to know of it.

    Attributes:
        network: with its record of sizes as `config`.
        kind: of the weights file.
        name: of the model where the user gives none.
        what: it is.
        known: who says so, '' where the file does.
        licence: of the public checkpoint.
    """

    network: nn.Module
    kind: str
    name: str
    what: str
    known: str
    licence: str


def _depth_anything(args: argparse.Namespace, state: dict[str, Tensor]) -> _Made:
    from kpvo_ros.nets.importing import DEPTH_ANYTHING, import_depth_anything
    from kpvo_ros.nets.mono_depth import KIND

    if _FIRST_VERSION in args.file.name.lower():  # its tensors do not tell
        raise CommandError(f'{args.file} is of Depth Anything 1; give {DEPTH_ANYTHING}')
    max_depth_m, source = _variant(args)
    network = import_depth_anything(state, max_depth_m)
    meaning = 'relative' if max_depth_m is None else f'metric up to {max_depth_m} m'
    ending = '' if max_depth_m is None else f'-metric-{max_depth_m}m'
    return _Made(
        network,
        KIND,
        f'{DEPTH_ANYTHING.lower()}{ending}',
        f'{DEPTH_ANYTHING}, {meaning}',
        source,
        'Apache-2.0',
    )


def _croco(args: argparse.Namespace, state: dict[str, Tensor]) -> _Made:
    from kpvo_ros.nets.croco import KIND, SMALL_DECODER
    from kpvo_ros.nets.importing import CROCO, import_croco

    if args.relative or args.max_depth_m is not None:
        raise CommandError(
            f'{args.file} is {CROCO}, no depth; leave out --relative and --max-depth-m'
        )
    network = import_croco(state)
    decoder = 'SmallDecoder' if network.config == SMALL_DECODER else 'BaseDecoder'
    return _Made(
        network,
        KIND,
        f'{CROCO}-{decoder}'.lower(),
        f'{CROCO}-{decoder}',
        '',
        'CC-BY-NC-SA-4.0 (not for commercial use)',
    )


def _variant(args: argparse.Namespace) -> tuple[int | None, str]:
    """The farthest depth of a metric network, None for a relative one, and who says so.

    The tensors do not tell: both variants have the same.
    """
    if args.relative:
        return None, 'as told'
    if args.max_depth_m is not None:
        if not 1 <= args.max_depth_m <= _MAX_DEPTH_M:
            raise CommandError(
                f'--max-depth-m {args.max_depth_m} cannot be; give 1 to {_MAX_DEPTH_M} metres'
            )
        return args.max_depth_m, 'as told'
    name = args.file.name.lower()
    said = 'as its file name says; else give --relative or --max-depth-m'
    metres = {metres for word, metres in _METRES.items() if word in name}
    if 'metric' in name and len(metres) == 1:
        return metres.pop(), said
    if 'metric' not in name and not metres and _SMALL_FILE in name:
        return None, said
    raise CommandError(
        f'{args.file} does not say whether it answers inverse depth or metres; give --relative or '
        '--max-depth-m M'
    )


def _written(args: argparse.Namespace, made: _Made) -> Entry:
    """The weights file and its entry in the manifest."""
    from kpvo_ros.cli.download import sha256_of
    from kpvo_ros.cli.model_manifest import entries_of, new_entry, require_place, write_entry
    from kpvo_ros.frontend.models import SUFFIX
    from kpvo_ros.nets.checkpoint import save_weights

    folder, name = _target(args), args.name or made.name
    values = {
        'file': f'{name}{SUFFIX}',
        'kind': made.kind,
        'sha256': '0' * 64,
        'licence': made.licence,
        'origin': made.what,
        'source_sha256': sha256_of(args.file),
    }
    entry = new_entry(folder, name, values)  # refuses a name that cannot be that of a file
    notes = {key: values[key] for key in ('licence', 'origin', 'source_sha256')}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(
            f'{folder} cannot be made ({error.strerror}); give another --to DIR'
        ) from None
    partial = folder / f'{name}.importing{SUFFIX}'
    try:
        config = made.network.config
        sha256 = save_weights(partial, made.network, kind=made.kind, config=config, notes=notes)
        entry = new_entry(folder, name, {**values, 'sha256': sha256})
        there = entries_of(folder)
        require_place(entry, there)
        listed = name in {other.name for other in there}
        if not listed and entry.path.exists() and sha256_of(entry.path) != sha256:
            raise CommandError(f'{entry.path} is another file; move it, or give another --name')
        partial.replace(entry.path)
    except OSError as error:
        raise CommandError(
            f'{entry.path} cannot be written ({error.strerror}); give another --to DIR'
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    if not listed:
        write_entry(entry)
    return entry


def _target(args: argparse.Namespace) -> Path:
    from kpvo_ros.frontend.models import user_folder

    folder: Path | None = args.to or user_folder()
    if folder is None:
        raise CommandError('there is no home folder; give --to DIR')
    return folder
