"""kpvo train reconstruction as a user meets it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from kpvo_ros.cli.main import main
from kpvo_ros.cli.train_reconstruction import reconstruction
from kpvo_ros.config.files import load
from kpvo_ros.nets.checkpoint import save_weights
from kpvo_ros.nets.keypoint import KIND, KeypointNet, load_keypoint_net

QUICK = ['pairs=1', 'data.size_px=64', 'loss.points=32', 'training.validations=1', '--threads=1']


@pytest.fixture
def frames(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A recording of ten frames, as the index file beside them says."""
    folder = tmp_path / 'recording'
    folder.mkdir()
    wall = cv2.resize(rng.integers(0, 255, (12, 24, 3), dtype=np.uint8), (300, 120))
    for number in range(10):
        cv2.imwrite(str(folder / f'{number}.png'), wall[:, 4 * number : 4 * number + 160])
    (folder / 'frames.txt').write_text('0.0 0.png\n', encoding='utf-8')
    return folder


def words(folder: Path, out: Path) -> list[str]:
    return ['train', 'reconstruction', '--data', str(folder), '--out', str(out), *QUICK]


def test_a_run_starts_from_method_a_and_goes_on_without_being_told_again(
    frames: Path, tmp_path: Path
) -> None:
    start = KeypointNet()
    save_weights(tmp_path / 'a.safetensors', start, kind=KIND, config=start.config, notes={})
    out = tmp_path / 'run'
    init = ['--init', str(tmp_path / 'a.safetensors'), '--steps', '2']
    assert main([*words(frames, out), *init, 'loss.decoder_first=0']) == 0
    assert main(['train', 'reconstruction', '--out', str(out), '--resume', '--steps', '3']) == 0
    trained = load_keypoint_net(out / 'last.safetensors')
    assert trained.config == start.config
    assert not (trained.trunk.stem.weight == start.trunk.stem.weight).all()


def test_a_reached_threshold_ends_a_run_before_its_plan(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'run'
    assert main([*words(frames, out), '--steps', '500', 'stop.below=1.0']) == 0
    assert 'done' in capsys.readouterr().out
    assert (out / 'last.safetensors').exists()


def test_loose_photos_are_one_line_with_what_to_give_instead(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (frames / 'frames.txt').unlink()
    assert main([*words(frames, tmp_path / 'run'), '--steps', '1']) == 1
    error = capsys.readouterr().err
    assert 'frames.txt' in error
    assert len(error.strip().splitlines()) <= 2  # the first tells how many pictures were found


def test_scenes_without_their_bank_are_one_line(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(frames, tmp_path / 'run'), '--steps', '1', 'data.scenes=0.5']) == 1
    assert 'kpvo train homography' in capsys.readouterr().err


def test_the_shipped_file_loads_and_says_what_the_defaults_are(repository: Path) -> None:
    defaults = reconstruction().config
    path = repository / 'config' / 'train' / 'reconstruction.yaml'
    assert load(defaults, path) == defaults
