"""Depth and odometry in the loop: gradients, one batch by heart, starts, weights, the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import crossview_walks
import pytest
import torch
from torch import Tensor, nn

from kpvo_ros.cli.main import main
from kpvo_ros.config.files import load
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry.warp import exp_se3_torch
from kpvo_ros.methods.crossview.alignment_task import AlignmentConfig
from kpvo_ros.methods.crossview.completion_task import CompletionConfig
from kpvo_ros.methods.crossview.depth_task import DepthConfig, DepthTask, start_network
from kpvo_ros.methods.crossview.held_out_depth import score_held_out
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.methods.crossview.rendered_data import RenderedDataConfig, RenderedPairs
from kpvo_ros.methods.crossview.video_task import VideoConfig
from kpvo_ros.nets.checkpoint import load_weights, save_weights
from kpvo_ros.nets.completion import CompletionNet
from kpvo_ros.nets.depth_vo import (
    KIND,
    TINY,
    DepthVo,
    DepthVoConfig,
    DepthVoNet,
    load_depth_vo_net,
)
from kpvo_ros.synthetic import walk_bank
from kpvo_ros.synthetic.walk_bank import WalkBank
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

DATA = RenderedDataConfig(height_px=32, width_px=32)
SMALLEST = DepthVoConfig(32, 1, 2, 32, 4, 2, dpt_width=8, head_width=8, pose_width=16)
QUICK = TrainingConfig(learning_rate=3e-3, warmup_steps=5, validations=1, ema_decay=0.5)


def config(**change: Any) -> DepthConfig:
    return dataclasses.replace(DepthConfig(pairs=2, data=DATA, training=QUICK), **change)


def new_network(seed: int = 0) -> DepthVoNet:
    return DepthVoNet(SMALLEST, generator=torch.Generator().manual_seed(seed))


def task(network: DepthVoNet | None = None) -> DepthTask:
    pairs = RenderedPairs(crossview_walks.small_bank(), DATA)
    return DepthTask(
        pairs.make,
        held_out=pairs.fixed(5),
        config=config(),
        network=network or new_network(),
        notes={'command': 'a test'},
    )


def rows_of(run: Run, kind: str) -> list[dict[str, Any]]:
    return [row['values'] for row in run.rows() if row['kind'] == kind]


def test_every_parameter_gets_a_finite_gradient(torch_generator: torch.Generator) -> None:
    subject = task()
    optimiser = torch.optim.SGD(subject.network.parameters(), 1e-3)
    for _ in range(3):  # last layers begin at zero and let nothing through at first
        optimiser.zero_grad()
        loss = subject.loss(subject.batch(torch_generator), 0.0)
        loss.total.backward()
        optimiser.step()
    for name, parameter in subject.network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert bool((parameter.grad != 0).any()), name
    told = {'depth', 'rotation', 'translation', 'depth_log_error', 'rotation_deg', 'translation_m'}
    assert set(loss.parts) == told


def test_the_loss_is_in_float32_under_autocast(torch_generator: torch.Generator) -> None:
    subject = task()
    batch = subject.batch(torch_generator)
    with torch.autocast('cpu', torch.bfloat16):
        loss = subject.loss(batch, 0.0)
    assert loss.total.dtype == torch.float32 and bool(torch.isfinite(loss.total))


def test_one_batch_is_learned_by_heart(tmp_path: Path) -> None:
    run = Run(tmp_path / 'run')
    training = dataclasses.replace(QUICK, log_every_steps=5)
    train(task(), training, run, Sitting(Plan(steps=60, minutes=None), overfit=True))
    told = rows_of(run, 'train')
    assert told[-1]['depth_log_error'] < 0.4 * told[0]['depth_log_error']
    assert told[-1]['translation_m'] < 0.5 * told[0]['translation_m']


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    ends = []
    for parts in ([4], [2, 4]):
        run = Run(tmp_path / f'run{len(parts)}')
        for sitting, steps in enumerate(parts):
            subject = task(new_network(sitting))
            plan = Plan(steps=4, minutes=None)
            asked = iter([False] * steps + [True] * 9)
            resume = sitting > 0
            train(
                subject, QUICK, run,
                Sitting(plan, resume=resume, should_stop=lambda asked=asked: next(asked)),
            )  # fmt: skip
        ends.append(load_weights(run.last_weights, kind=KIND)[0])
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_exported_weights_are_a_network_again(tmp_path: Path) -> None:
    subject = task()
    path = tmp_path / 'w.safetensors'
    subject.export(subject.network, path)
    again = load_depth_vo_net(path)
    assert again.config == SMALLEST
    assert load_weights(path, kind=KIND)[1]['command'] == 'a test'
    held_out = RenderedPairs(crossview_walks.small_bank(), DATA).fixed(5)
    assert score_held_out(again, held_out) == subject.validate(subject.network)


class Truthful(nn.Module):
    """Answers with the truth, made wrong by known amounts."""

    def __init__(self, pairs: FramePairs, factor: float, twist: Tensor) -> None:
        super().__init__()
        self.pairs, self.factor, self.wrong = pairs, factor, exp_se3_torch(twist)

    def forward(self, image0: Tensor, image1: Tensor, K0: Tensor, K1: Tensor) -> DepthVo:
        rows = [
            next(i for i, own in enumerate(self.pairs.image0) if torch.equal(own, image))
            for image in image0
        ]
        pairs = FramePairs(*(value[rows] for value in self.pairs))
        depth = [
            torch.nan_to_num(depth, nan=3.0) * self.factor
            for depth in (pairs.depth0, pairs.depth1)
        ]
        doubt = torch.zeros_like(depth[0])
        return DepthVo(depth[0], depth[1], doubt, doubt, pairs.T_1_0 @ self.wrong)


def different_pairs() -> FramePairs:
    """Held-out pairs whose first images differ, so that they can be told apart."""
    pairs = RenderedPairs(crossview_walks.small_bank(), DATA).fixed(10_000)
    _, first = pairs.image0.flatten(1).unique(dim=0, return_inverse=True)
    rows = [int((first == k).nonzero()[0, 0]) for k in range(int(first.max()) + 1)]
    return FramePairs(*(value[rows] for value in pairs))


def test_the_truth_scores_full_marks_and_known_errors_are_measured() -> None:
    pairs = different_pairs()
    assert len(pairs.K0) > 8  # more than a batch
    score = score_held_out(Truthful(pairs, 1.0, torch.zeros(6)), pairs)
    assert next(iter(score)) == 'acc_125'
    assert score['acc_125'] == 1.0 and score['abs_rel'] < 1e-6
    assert score['rotation_deg'] < 0.05 and score['translation_share'] < 1e-5

    turned = torch.tensor([0.0, 0.0, 0.0, 0.0, torch.deg2rad(torch.tensor(3.0)), 0.0])
    score = score_held_out(Truthful(pairs, 1.2, turned), pairs)
    assert score['acc_125'] == 1.0 and score['abs_rel'] == pytest.approx(0.2, abs=0.01)
    assert score['rotation_deg'] == pytest.approx(3.0, abs=0.01)
    assert score_held_out(Truthful(pairs, 1.3, turned), pairs)['acc_125'] < 0.02


def test_the_length_of_the_step_is_the_measure_of_its_error() -> None:
    pairs = different_pairs()
    shift = torch.tensor([0.0, 0.0, 0.2, 0.0, 0.0, 0.0])
    score = score_held_out(Truthful(pairs, 1.0, shift), pairs)
    assert score['translation_share'] == pytest.approx(
        float((0.2 / pairs.length_m).quantile(0.5)), rel=1e-3
    )


def test_a_new_network_has_the_size_asked_for_and_the_seed_decides() -> None:
    one, same = start_network(config()), start_network(config())
    other = start_network(config(training=dataclasses.replace(QUICK, seed=1)))
    weights = [next(network.encoder.parameters()) for network in (one, same, other)]
    assert one.config == TINY
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_whole_weights_are_a_start_of_their_own_size(tmp_path: Path) -> None:
    before = new_network(5)
    save_weights(tmp_path / 'w', before, kind=KIND, config=SMALLEST, notes={})
    network = start_network(config(), tmp_path / 'w')
    assert network.config == SMALLEST and network.training
    assert all(p.requires_grad for p in network.parameters())
    for (name, a), b in zip(
        before.state_dict().items(), network.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_completion_starts_encoder_and_decoder_with_new_heads(tmp_path: Path) -> None:
    before = CompletionNet(TINY, generator=torch.Generator().manual_seed(7))
    save_weights(tmp_path / 'c', before, kind='completion', config=TINY, notes={})
    network, new = start_network(config(), tmp_path / 'c'), start_network(config())
    for part in ('encoder', 'decoder'):
        taken, given = getattr(network, part).state_dict(), getattr(before, part).state_dict()
        assert all(torch.equal(taken[name], given[name]) for name in given)
    for part in ('depth', 'motion'):
        taken, given = getattr(network, part).state_dict(), getattr(new, part).state_dict()
        assert all(torch.equal(taken[name], given[name]) for name in given)


def test_a_file_that_starts_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'w').write_bytes(b'nothing of the kind')
    with pytest.raises(NetworkError, match='not a weights file'):
        start_network(config(), tmp_path / 'w')


# ------------------------------------------------------------------------------- the command


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, int]]:
    """A bank that is there already; returns what was asked for."""
    asked: list[tuple[Path, int]] = []

    def kept(folder: Path, walks: int, *, first_part: int = 0, **keywords: Any) -> WalkBank:
        asked.append((folder, first_part))
        return crossview_walks.small_bank().first(walks)

    monkeypatch.setattr(walk_bank, 'load_or_render', kept)
    return asked


WORDS = ['walks=5', 'held_out_walks=2', 'held_out_pairs=2', 'pairs=1', 'training.validations=1',
         'data.height_px=32', 'data.width_px=32']  # fmt: skip


def test_the_command_needs_no_data_and_remembers_its_bank(
    tmp_path: Path, no_rendering: list[tuple[Path, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, bank = tmp_path / 'run', tmp_path / 'bank'
    words = ['train', 'depth', '--out', str(out), '--device', 'cpu']
    assert main([*words, '--bank', str(bank), '--steps', '1', *WORDS]) == 0
    assert 'done' in capsys.readouterr().out
    assert load_depth_vo_net(out / 'weights.safetensors').config == TINY
    assert main([*words, '--resume', '--steps', '2']) == 0
    lines = (out / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    assert json.loads(lines[-1])['step'] == 2
    assert no_rendering == [(bank, 9000), (bank, 0)] * 2


def test_recordings_are_refused_as_there_is_no_truth_in_them(
    tmp_path: Path, no_rendering: list[tuple[Path, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['train', 'depth', '--out', str(tmp_path / 'run'), '--data', str(tmp_path)]
    assert main([*words, '--steps', '1', *WORDS]) == 1
    assert 'leave --data out' in capsys.readouterr().err
    assert not no_rendering


@pytest.mark.parametrize(
    ('name', 'defaults'),
    [
        ('depth', DepthConfig()),
        ('completion', CompletionConfig()),
        ('alignment', AlignmentConfig()),
        ('video', VideoConfig()),
    ],
)
def test_the_shipped_file_of_a_task_states_its_defaults(
    name: str, defaults: Any, repository: Path
) -> None:
    assert load(defaults, repository / 'config' / 'train' / f'{name}.yaml') == defaults


def test_the_shipped_file_for_gpus_loads(repository: Path) -> None:
    assert load(DepthConfig(), repository / 'config/train/depth_gpu.yaml').model == 'small'
