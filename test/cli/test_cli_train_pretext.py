"""kpvo train completion and alignment as a user meets them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest
import torch

from kpvo_ros.cli import train_pretext
from kpvo_ros.cli.main import main
from kpvo_ros.cli.train import TASKS
from kpvo_ros.cli.train_inputs import Inputs
from kpvo_ros.config.files import load
from kpvo_ros.methods.crossview.completion_task import CompletionConfig
from kpvo_ros.nets.alignment import KIND as ALIGNMENT
from kpvo_ros.nets.alignment import AlignmentNet, load_alignment_net
from kpvo_ros.nets.checkpoint import load_weights, save_weights
from kpvo_ros.nets.completion import KIND as COMPLETION
from kpvo_ros.nets.completion import CompletionNet, load_completion_net
from kpvo_ros.nets.depth_vo import TINY
from kpvo_ros.synthetic.walk_bank import WalkBank

QUICK = [
    'pairs=2', 'held_out_pairs=4', 'data.height_px=32', 'data.width_px=48', 'data.light=false',
    'training.validations=1', 'training.precision=float32', '--threads=1', '--steps=2',
]  # fmt: skip
FRAMES_ONLY = 'frames.share=1'


@pytest.fixture
def frames(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A recording of twelve frames, as the index file beside them says."""
    folder = tmp_path / 'recording'
    folder.mkdir()
    wall = cv2.resize(rng.integers(0, 255, (12, 24, 3), dtype=np.uint8), (300, 120))
    for number in range(12):
        cv2.imwrite(str(folder / f'{number}.png'), wall[:, 4 * number : 4 * number + 160])
    (folder / 'frames.txt').write_text('0.0 0.png\n', encoding='utf-8')
    return folder


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Three short walks along a wall three metres away; the first parts asked for are noted."""
    asked: list[int] = []

    def make(inputs: Inputs, count: int, seed: int, first_part: int = 0) -> WalkBank:
        asked.append(first_part)
        rng = np.random.default_rng(seed + first_part)
        images = torch.from_numpy(rng.integers(0, 255, (3, 4, 3, 48, 64), dtype=np.uint8))
        T = torch.eye(4).repeat(3, 4, 1, 1)
        T[:, :, 0, 3] = torch.linspace(0, 0.3, 4)
        K = torch.tensor([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]]).repeat(3, 1, 1)
        return WalkBank(images, torch.full((3, 4, 48, 64), 3.0).half(), T, K)

    monkeypatch.setattr(train_pretext, 'walks', make)
    return asked


def test_completion_of_frames_alone_is_trained_resumed_and_begun_with(
    frames: Path, tmp_path: Path, walks: list[int]
) -> None:
    out = tmp_path / 'run'
    words = ['train', 'completion', FRAMES_ONLY, *QUICK, '--data', str(frames)]
    assert main([*words, '--out', str(out)]) == 0
    assert walks == []  # none are rendered when none are asked for
    first = load_completion_net(out / 'last.safetensors')
    assert first.config == TINY
    notes = load_weights(out / 'last.safetensors', kind=COMPLETION)[1]
    assert notes['data'] == 'frames of recording' and 'train completion' in notes['command']
    assert main(['train', 'completion', '--out', str(out), '--resume', '--steps=3']) == 0
    again = load_completion_net(out / 'last.safetensors')
    assert not torch.equal(again.prediction.weight, first.prediction.weight)
    init = ['--init', str(out / 'last.safetensors'), 'training.learning_rate=1e-7']
    assert main([*words, '--out', str(tmp_path / 'more'), *init]) == 0
    more = load_completion_net(tmp_path / 'more' / 'last.safetensors')
    torch.testing.assert_close(more.prediction.weight, again.prediction.weight, rtol=0, atol=1e-5)


def test_alignment_of_rendered_walks_needs_no_recording(tmp_path: Path, walks: list[int]) -> None:
    out = tmp_path / 'run'
    words = ['code.vectors=16', 'code.width=32', 'code.equivariant=6', 'code.blocks=1']
    assert main(['train', 'alignment', '--out', str(out), *QUICK, *words]) == 0
    assert sorted(walks) == [0, 9000]
    network = load_alignment_net(out / 'last.safetensors')
    assert network.config.latents == 16 and network.config.encoder == TINY.encoder
    words = load_weights(out / 'last.safetensors', kind=ALIGNMENT)[1]
    assert words['data'] == '600 rendered walks, seed 0'


def test_walks_and_frames_are_mixed(frames: Path, tmp_path: Path, walks: list[int]) -> None:
    config = load(CompletionConfig(), None, [w for w in QUICK if not w.startswith('--')])
    said: list[str] = []
    inputs = Inputs([frames], tmp_path, None, torch.device('cpu'), {}, said.append)
    make_pairs, held_out = train_pretext.pairs_of(config, inputs)
    known = ~torch.isnan(held_out.check().T_1_0[:, 0, 0])
    assert known.sum() == 2 and len(known) == 4
    pairs = make_pairs(200, torch.Generator().manual_seed(2)).check()
    share = float((~torch.isnan(pairs.T_1_0[:, 0, 0])).float().mean())
    assert share == pytest.approx(0.5, abs=0.1)
    assert pairs.image0.shape == (200, 3, 32, 48)
    assert '8 training and 4 held-out' in said[0]
    again = train_pretext.pairs_of(config, inputs)[1]
    assert torch.equal(again.image0, held_out.image0)  # the same in every run


@pytest.mark.parametrize(
    ('words', 'says'),
    [
        ([FRAMES_ONLY], 'give --data'),
        (['frames.share=0', '--data', 'recording'], 'leave it out'),
        (['--data', 'loose'], 'frames.txt'),
        (['--init', 'other.safetensors'], "of kind 'alignment'"),
        (['--init', 'deep.safetensors'], 'decoder_depth = 5'),
        (['decoder_depth=2'], '4 or more'),
        (['mask_ratio=1.5'], 'mask_ratio'),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(
    words: list[str],
    says: str,
    frames: Path,
    walks: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(frames, 'loose', ignore=shutil.ignore_patterns('*.txt'))
    deep = dataclasses.replace(TINY, decoder_depth=5)
    save_weights('deep.safetensors', CompletionNet(deep), kind=COMPLETION, config=deep, notes={})
    other = AlignmentNet()
    save_weights('other.safetensors', other, kind=ALIGNMENT, config=other.config, notes={})
    assert main(['train', 'completion', *QUICK, *words, '--out', 'run']) == 1
    error = capsys.readouterr().err.strip()
    assert says in error
    assert len(error.splitlines()) <= 2  # the first tells how many pictures were found


def test_the_tasks_can_be_asked_for() -> None:
    assert {'completion', 'alignment'} <= set(TASKS)
    for name in ('completion', 'alignment'):
        assert not TASKS[name]().needs_data
