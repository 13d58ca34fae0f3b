"""A stage for kpvo models: folders of an installation and of a user, weights, a web server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import hashlib
from pathlib import Path
import sys
from typing import Any, NamedTuple

import pytest
import torch
from web_stage import Web, serving
import yaml

from kpvo_ros.cli.main import main
from kpvo_ros.frontend import models
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.keypoint import KIND, KeypointNet, KeypointNetConfig

SMALL = KeypointNetConfig((4, 4, 8, 8, 8), (1, 1, 1, 1, 1), 8, 16)
Kpvo = Callable[..., tuple[int, str, str]]  # kpvo models WORDS -> exit code, output, errors


class Stage(NamedTuple):
    """Folder of the installation, the user's own, and a server that has the weights."""

    shipped: Path
    own: Path
    web: Web

    @property
    def weights(self) -> bytes:
        return self.web.data

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.weights).hexdigest()

    def entry(self, **changes: Any) -> dict[str, Any]:
        """An entry of the weights; None takes a value out."""
        entry = {
            'file': 'net.safetensors',
            'kind': KIND,
            'sha256': self.sha256,
            'licence': 'Apache-2.0',
            'url': self.web.url('/whole'),
            'metrics': {'repeatability': 0.5},
        }
        return {key: value for key, value in {**entry, **changes}.items() if value is not None}


@contextlib.contextmanager
def staged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """An installation without models, the only one in sight."""
    monkeypatch.setattr(models, '__file__', str(folder / 'a/kpvo_ros/frontend/models.py'))
    monkeypatch.setattr(sys, 'prefix', str(folder / 'prefix'))
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    monkeypatch.setenv('XDG_DATA_HOME', str(folder / 'data'))
    monkeypatch.setenv('no_proxy', '*')
    shipped = folder / 'prefix/share/kpvo_ros/models'
    shipped.mkdir(parents=True)
    network = KeypointNet(SMALL, generator=torch.Generator().manual_seed(1))
    path = folder / 'made.safetensors'
    save_weights(path, network, kind=KIND, config=SMALL, notes={})
    with serving(path.read_bytes()) as web:
        path.unlink()
        yield Stage(shipped, folder / 'data/kpvo_ros/models', web)


def runner(capsys: pytest.CaptureFixture[str]) -> Kpvo:
    """Runs kpvo models WORDS."""

    def run(*words: str) -> tuple[int, str, str]:
        code = main(['models', *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def ship(folder: Path, entries: Any) -> None:
    """Write a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'manifest.yaml').write_text(yaml.safe_dump({'models': entries}), encoding='utf-8')
