"""kpvo train as a user meets it: a run, its end, going on, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml

from kpvo_ros.cli.main import main
from kpvo_ros.cli.train import TASKS
from kpvo_ros.config.files import load

QUICK = ['pairs=1', 'data.size_px=64', 'data.content=false', 'data.style=false', 'loss.points=32']


@pytest.fixture
def photo_folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / 'photos'
    folder.mkdir()
    for number in range(8):
        patches = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(patches, (160, 120), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f'{number}.png'), image)
    return folder


def test_a_run_is_trained_stopped_by_its_plan_and_extended(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'run'
    words = ['train', 'homography', '--data', str(photo_folder), '--out', str(out)]
    assert main([*words, '--steps', '2', *QUICK, 'training.validations=1']) == 0
    assert 'done' in capsys.readouterr().out
    assert yaml.safe_load((out / 'config.yaml').read_text(encoding='utf-8'))['pairs'] == 1
    assert (out / 'weights.safetensors').exists()

    again = ['train', 'homography', '--out', str(out), '--resume', '--steps', '4']
    assert main(again) == 0
    lines = (out / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    assert json.loads(lines[-1])['step'] == 4
    assert len((out / 'command.txt').read_text(encoding='utf-8').splitlines()) == 2


def test_a_second_run_of_the_same_name_keeps_the_first(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / 'run'
    words = ['train', 'homography', '--data', str(photo_folder), '--out', str(out), *QUICK]
    for _ in range(2):
        assert main([*words, '--steps', '1', '--overfit']) == 0
    assert (tmp_path / 'run.1' / 'last.safetensors').exists()
    assert (out / 'last.safetensors').exists()


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        (['--out', 'r'], 'give --data'),
        (['--data', 'nowhere', '--out', 'r'], 'nowhere: does not exist'),
        (['--data', '.', '--out', 'r', '--steps', '0'], '--steps N'),
        (['--data', '.', '--out', 'r', '--minutes', 'nan'], '--minutes N'),
        (['--data', '.', '--out', 'r', '--threads', '0'], '--threads 0'),
        (['--data', '.', '--out', 'r', 'data.contents=false'], 'data.content'),
        (['--data', '.', '--out', 'r', '--steps', '1'], 'no readable picture'),
        (['--out', 'r', '--resume'], 'without --resume'),
        (['--out', 'r', '--resume', '--init', 'x'], 'leave --init out'),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(['train', 'homography', *words]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1


def test_an_earlier_run_is_not_touched_by_a_mistake(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'run'
    out.mkdir()
    (out / 'precious').touch()
    words = ['train', 'homography', '--data', str(photo_folder), '--out', str(out)]
    assert main([*words, 'no.such=1']) == 1
    assert (out / 'precious').exists()


def test_help_does_not_load_torch(repository: Path) -> None:
    code = (
        'import sys, kpvo_ros.cli.main as m\n'
        "try: m.main(['train', '--help'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert '--minutes' in done.stdout


def test_every_shipped_training_file_loads(repository: Path) -> None:
    files = sorted((repository / 'config' / 'train').glob('homography*.yaml'))
    assert files
    for path in files:
        load(TASKS['homography']().config, path)
