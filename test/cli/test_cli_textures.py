"""kpvo train textures and kpvo textures as a user meets them: photos in, PNG textures out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kpvo_ros.cli.main import main
from kpvo_ros.synthetic.coverings import load_textures


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a generator that was trained for two steps."""
    folder = tmp_path_factory.mktemp('textures')
    rng = np.random.default_rng(1)
    photos = folder / 'photos'
    photos.mkdir()
    for number in range(8):
        patches = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        image = cv2.resize(patches, (160, 120), interpolation=cv2.INTER_LINEAR)
        cv2.imwrite(str(photos / f'{number}.png'), image)
    words = ['train', 'textures', '--data', str(photos), '--out', str(folder / 'run')]
    small = ['batch=2', 'data.size_px=16', 'training.validations=1']
    assert main([*words, '--steps', '2', *small]) == 0
    return folder / 'run' / 'weights.safetensors'


def test_textures_are_written_as_pictures_that_the_object_bank_reads(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    words = ['textures', str(weights), '--out', str(out), '--size', '24', '--steps', '2']
    assert main([*words, '--count', '3']) == 0
    assert '3 textures of 24 px' in capsys.readouterr().out
    names = sorted(path.name for path in out.iterdir())
    assert names == ['texture_000.png', 'texture_001.png', 'texture_002.png']
    textures = load_textures(out)
    assert textures.shape == (3, 3, 24, 24)
    assert float(textures.std()) > 0.01


def test_the_same_seed_gives_the_same_pictures(weights: Path, tmp_path: Path) -> None:
    pictures = []
    for name, seed in (('a', '1'), ('b', '1'), ('c', '2')):
        words = ['textures', str(weights), '--out', str(tmp_path / name), '--seed', seed]
        assert main([*words, '--count', '1', '--size', '16', '--steps', '1']) == 0
        pictures.append((tmp_path / name / 'texture_000.png').read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['--size', '60'], 'multiple of 8'),
        (['--count', '0'], 'at least 1'),
        (['--out', '.'], 'not empty'),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    says: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'something').write_text('here')
    out = [] if '--out' in words else ['--out', 'out']
    assert main(['textures', str(weights), *out, *words]) == 1
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1


def test_weights_of_another_network_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'other.safetensors'
    path.write_bytes(b'no weights')
    assert main(['textures', str(path), '--out', str(tmp_path / 'out')]) == 1
    assert 'not a weights file' in capsys.readouterr().err
