"""Where a measurement was made: the machine, the commit, the data."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
import platform
import subprocess
from typing import Any

from kpvo_ros.errors import CommandError

_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARIES = ('numpy', 'opencv-python-headless', 'scipy', 'poselib', 'torch', 'gtsam')


def data_dir(named: Path | None) -> Path | None:
    """The folder of recorded sequences, None when there is none.

    Raises:
        CommandError: the named folder does not exist.
    """
    if named is not None:
        if not named.is_dir():
            raise CommandError(f'{named}: no such folder; leave --data out to skip recorded data')
        return named
    places = [_PACKAGE.parent.parent / 'shared' / 'data']
    if os.environ.get('KPVO_SHARED_DATA'):
        places.insert(0, Path(os.environ['KPVO_SHARED_DATA']))
    return next((place for place in places if place.is_dir()), None)


def commit() -> str | None:
    """The commit of the checkout, with '+changes' when it was changed; None without git."""
    head = _git('rev-parse', 'HEAD')
    if head is None:
        return None
    return head + ('+changes' if _git('status', '--porcelain', '-uno') else '')


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load, and versions of what does the work."""
    versions: dict[str, str | None] = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    return {
        'processor': _field('/proc/cpuinfo', 'model name') or platform.processor(),
        'cores': len(os.sched_getaffinity(0)),
        'load': round(os.getloadavg()[0], 2),
        'memory': _field('/proc/meminfo', 'MemTotal'),
        'system': platform.platform(),
        'python': platform.python_version(),
        'libraries': versions,
    }


def _git(*words: str) -> str | None:
    command = ['git', '-C', str(_PACKAGE.parent), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _field(path: str, name: str) -> str | None:
    """The first `name: value` of a file of /proc."""
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except OSError:
        return None
    return next((line.partition(':')[2].strip() for line in lines if line.startswith(name)), None)
