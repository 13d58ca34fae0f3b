"""The loop: it learns, ends when planned, goes on exactly, and survives bad batches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from PIL import Image
import pytest
from safetensors.torch import load_file
import torch
from torch import Tensor
from training_toys import TRUTH, LineTask, StepClock

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.training import TrainingError
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

CONFIG = TrainingConfig(
    learning_rate=0.05, warmup_steps=5, ema_decay=0.9, log_every_steps=5, validations=4
)


def state_of(task: LineTask) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in task.network.state_dict().items()}


def test_a_linear_map_is_learned(tmp_path: Path) -> None:
    task = LineTask()
    position = train(task, CONFIG, Run(tmp_path / 'run'), Sitting(Plan(steps=300)))
    assert position.step == 300
    shipped = load_file(tmp_path / 'run' / 'weights.safetensors')['weight']
    assert torch.allclose(shipped, TRUTH, atol=0.05)


def test_a_run_in_two_sittings_equals_one_in_one_sitting(tmp_path: Path) -> None:
    whole = LineTask()
    train(whole, CONFIG, Run(tmp_path / 'whole'), Sitting(Plan(steps=40)))

    first = LineTask()
    stop = Sitting(Plan(steps=40), should_stop=lambda: len(first.batches) >= 17)
    position = train(first, CONFIG, Run(tmp_path / 'parts'), stop)
    assert position.step == 17
    second = LineTask()
    run = Run(tmp_path / 'parts', resume=True)
    position = train(second, CONFIG, run, Sitting(Plan(steps=40), resume=True))

    assert position.step == 40
    assert len(second.batches) == 23
    for name, value in state_of(whole).items():
        assert torch.equal(value, state_of(second)[name]), name
    for name in ('weights.safetensors', 'last.safetensors'):
        one = load_file(tmp_path / 'whole' / name)['weight']
        two = load_file(tmp_path / 'parts' / name)['weight']
        assert torch.equal(one, two), name


def test_minutes_end_a_run_and_count_over_all_sittings(tmp_path: Path) -> None:
    task = LineTask()
    calm = dataclasses.replace(CONFIG, checkpoint_every_s=1e9)
    plan = Plan(minutes=1.0)
    stop = Sitting(plan, should_stop=lambda: len(task.batches) >= 6, clock=StepClock(2.0))
    first = train(task, calm, Run(tmp_path / 'run'), stop)
    assert 12.0 <= first.elapsed_s < 60.0

    again = Sitting(plan, resume=True, clock=StepClock(4.0))
    done = train(LineTask(), calm, Run(tmp_path / 'run', resume=True), again)
    assert 60.0 <= done.elapsed_s < 70.0
    left_s = 60.0 - first.elapsed_s
    assert first.step < done.step <= first.step + left_s / 4.0 + 1


def test_progress_never_goes_back_and_ends_at_one(tmp_path: Path) -> None:
    train(LineTask(), CONFIG, Run(tmp_path / 'run'), Sitting(Plan(steps=40)))
    rows = Run(tmp_path / 'run', resume=True).rows()
    shares = [row['values']['progress'] for row in rows if row['kind'] == 'train']
    assert shares == sorted(shares)
    assert 0.0 <= shares[0] < shares[-1] <= 1.0
    assert rows[-1]['kind'] == 'validation'
    assert rows[-1]['progress'] == 1.0


def test_the_last_steps_are_told_as_well(tmp_path: Path) -> None:
    rare = dataclasses.replace(CONFIG, log_every_steps=7)
    train(LineTask(), rare, Run(tmp_path / 'run'), Sitting(Plan(steps=10)))
    stopped = LineTask()
    stop = Sitting(Plan(steps=100), should_stop=lambda: len(stopped.batches) >= 3)
    train(stopped, rare, Run(tmp_path / 'stopped'), stop)
    for name, steps in (('run', [7, 10]), ('stopped', [3])):
        rows = Run(tmp_path / name, resume=True).rows()
        assert [row['step'] for row in rows if row['kind'] == 'train'] == steps


def test_validations_are_spread_over_the_run(tmp_path: Path) -> None:
    train(LineTask(), CONFIG, Run(tmp_path / 'run'), Sitting(Plan(steps=40)))
    rows = Run(tmp_path / 'run', resume=True).rows()
    assert [r['step'] for r in rows if r['kind'] == 'validation'] == [0, 10, 20, 30, 40]


def test_a_batch_without_finite_loss_is_skipped_and_counted(tmp_path: Path) -> None:
    task = LineTask(poison_steps=(3, 7))
    position = train(task, CONFIG, Run(tmp_path / 'run'), Sitting(Plan(steps=200)))
    assert position.skipped == 2
    assert torch.isfinite(task.network.weight).all()
    assert torch.allclose(task.network.weight, TRUTH, atol=0.1)
    assert (tmp_path / 'run' / 'log.txt').read_text(encoding='utf-8').count('skipped') >= 2


def test_a_run_without_finite_gradients_gives_up(tmp_path: Path) -> None:
    few = dataclasses.replace(CONFIG, max_skipped=4)
    task = LineTask(poison_steps=tuple(range(10, 100)))
    with pytest.raises(TrainingError, match=r'4 steps in a row.*learning_rate'):
        train(task, few, Run(tmp_path / 'run'), Sitting(Plan(steps=60)))
    assert len(task.batches) == 14


def test_overfit_sees_one_batch_only(tmp_path: Path) -> None:
    task = LineTask()
    train(task, CONFIG, Run(tmp_path / 'run'), Sitting(Plan(steps=200), overfit=True))
    assert len(task.batches) == 1
    x = task.batches[0]
    assert (task.network(x) - x @ TRUTH.T).abs().max() < 0.05


def test_another_seed_gives_other_data_and_the_same_seed_the_same(tmp_path: Path) -> None:
    first = []
    for number, seed in enumerate((0, 0, 1)):
        task = LineTask()
        config = dataclasses.replace(CONFIG, seed=seed)
        train(task, config, Run(tmp_path / str(number)), Sitting(Plan(steps=1)))
        first.append(task.batches[0])
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_the_folder_tells_the_whole_story(tmp_path: Path) -> None:
    run = Run(tmp_path / 'run')
    run.describe('a: 1\n', ['kpvo', 'train', 'a b'])
    train(LineTask(), CONFIG, run, Sitting(Plan(steps=20)))
    assert (run.path / 'command.txt').read_text(encoding='utf-8') == "kpvo train 'a b'\n"
    for line in (run.path / 'metrics.jsonl').read_text(encoding='utf-8').splitlines():
        assert {'kind', 'step', 'minutes', 'values'} <= set(json.loads(line))
    assert Image.open(run.curve).size[0] > 300


def test_a_state_of_another_task_is_refused(tmp_path: Path) -> None:
    train(LineTask(), CONFIG, Run(tmp_path / 'run'), Sitting(Plan(steps=2)))
    stranger = LineTask()
    stranger.name = 'circle'
    with pytest.raises(TrainingError, match="'line', not 'circle'"):
        train(
            stranger,
            CONFIG,
            Run(tmp_path / 'run', resume=True),
            Sitting(Plan(steps=4), resume=True),
        )


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    train(LineTask(), CONFIG, Run(tmp_path / 'run'), Sitting(Plan(steps=2)))
    wider = LineTask()
    wider.network = torch.nn.Linear(5, 1)
    with pytest.raises(TrainingError, match='does not fit this network'):
        train(
            wider, CONFIG, Run(tmp_path / 'run', resume=True), Sitting(Plan(steps=4), resume=True)
        )
