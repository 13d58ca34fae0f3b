"""Schedule, optimizer, checkpoint and result folder, each by itself."""

from __future__ import annotations

import io
import math
from pathlib import Path
import platform
import subprocess
import sys

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
import pytest
import torch
from torch import nn
from training_toys import LineTask

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.frontend.process import keep_freed_memory
from kpvo_ros.nets.precision import profits_from_bfloat16
from kpvo_ros.training import TrainingError
from kpvo_ros.training.checkpoint import load_state, save_state
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.optimizer import AveragedWeights, make_optimizer
from kpvo_ros.training.precision import autocast
from kpvo_ros.training.run import ProgressLine, Run, clock_text
from kpvo_ros.training.schedule import Plan, learning_rate
from kpvo_ros.training.team import Alone, join_team


def test_the_rate_rises_then_follows_half_a_cosine() -> None:
    config = TrainingConfig(learning_rate=1.0, final_rate_share=0.0, warmup_steps=9)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 4, 0.0) == pytest.approx(0.5)
    assert learning_rate(config, 100, 0.5) == pytest.approx(0.5)
    assert learning_rate(config, 100, 1 / 3) == pytest.approx(0.75)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.0)


def test_the_rate_ends_at_the_share_that_shall_be_left() -> None:
    config = TrainingConfig(learning_rate=2.0, final_rate_share=0.25, warmup_steps=0)
    assert learning_rate(config, 10, 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    'lengths',
    [{}, {'steps': 0}, {'minutes': -1.0}, {'minutes': math.nan}, {'steps': 3, 'minutes': 1.0}],
)
def test_a_plan_without_one_positive_length_is_refused(lengths: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match='--minutes N or --steps N'):
        Plan(**lengths)  # type: ignore[arg-type]


def test_matrices_decay_and_biases_and_norms_do_not() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2, bias=False))
    optimizer = make_optimizer(network, TrainingConfig(weight_decay=0.5))
    decay = {
        id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']
    }
    for name, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.5 if name in ('0.weight', '2.weight') else 0.0), name


def test_a_network_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(TrainingError, match='no parameter'):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), TrainingConfig())


def test_the_average_of_constant_weights_is_those_weights() -> None:
    network = nn.BatchNorm1d(2)
    average = AveragedWeights(network, 0.99)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(5.0)  # type: ignore[union-attr]
    for step in range(3000):
        average.update(network, step)
    state = average.network.state_dict()
    assert torch.allclose(state['weight'], torch.full((2,), 3.0))
    assert torch.allclose(state['running_mean'], torch.full((2,), 5.0))


def test_the_average_halves_the_distance_in_the_time_of_its_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(0.0)
    average = AveragedWeights(network, 0.5)
    with torch.no_grad():
        network.weight.fill_(1.0)
    for _ in range(3):
        average.update(network, 1000)
    assert float(average.network.weight) == pytest.approx(1 - 0.5**3)  # type: ignore[arg-type]


def test_bfloat16_follows_the_configuration() -> None:
    cpu = torch.device('cpu')
    for precision, wanted in (
        ('float32', False),
        ('bfloat16', True),
        ('auto', profits_from_bfloat16(cpu)),
    ):
        with autocast(TrainingConfig(precision=precision), cpu):
            product = torch.ones(4, 4) @ torch.ones(4, 4)
        assert (product.dtype == torch.bfloat16) == wanted


def test_a_state_comes_back_as_it_went(tmp_path: Path) -> None:
    tensors = {'a/b': torch.arange(6.0).reshape(2, 3).T, 'c': torch.tensor(3)}
    save_state(tmp_path / 's', tensors, {'step': 7, 'best': None})
    loaded, facts = load_state(tmp_path / 's')
    assert facts == {'step': 7, 'best': None}
    assert set(loaded) == {'a/b', 'c'}
    assert torch.equal(loaded['a/b'], tensors['a/b'])
    assert loaded['c'].dtype == torch.int64
    assert [p.name for p in tmp_path.iterdir()] == ['s']


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80), st.integers(0, 200))
def test_a_damaged_state_is_one_clear_error(tmp_path: Path, junk: bytes, place: int) -> None:
    path = tmp_path / 's'
    save_state(path, {'a': torch.ones(3)}, {'step': 7})
    whole = path.read_bytes()
    damaged = whole[:place] + junk
    begin = 8 + int.from_bytes(whole[:8], 'little')  # of the numbers; any bytes are numbers
    assume(len(damaged) != len(whole) or damaged[:begin] != whole[:begin])
    path.write_bytes(damaged)
    with pytest.raises(TrainingError, match='start'):
        load_state(path)


def test_an_earlier_run_is_moved_aside_and_latest_points_to_the_new_one(tmp_path: Path) -> None:
    first = Run(tmp_path / 'run')
    first.log('the first')
    second = Run(tmp_path / 'run')
    assert second.moved_to == tmp_path / 'run.1'
    assert (tmp_path / 'run.1' / 'log.txt').read_text(encoding='utf-8') == 'the first\n'
    assert list((tmp_path / 'run').iterdir()) == []
    assert (tmp_path / 'latest').resolve() == tmp_path / 'run'
    Run(tmp_path / 'other')
    assert (tmp_path / 'latest').resolve() == tmp_path / 'other'


def test_a_folder_named_latest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / 'latest').mkdir()
    (tmp_path / 'latest' / 'mine').touch()
    Run(tmp_path / 'run')
    assert (tmp_path / 'latest' / 'mine').exists()


def test_resume_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='without --resume'):
        Run(tmp_path / 'nothing', resume=True)


def test_rows_after_the_checkpoint_and_a_torn_line_are_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path / 'run')
    for step in (10, 20, 30):
        run.record({'kind': 'train', 'step': step})
    with (run.path / 'metrics.jsonl').open('a', encoding='utf-8') as file:
        file.write('{"kind": "tra')
    run.forget_after(20)
    assert [row['step'] for row in run.rows()] == [10, 20]


def test_a_process_that_does_not_write_leaves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / 'run', writes=False)
    run.log('x')
    run.record({'step': 1})
    run.describe('', [])
    assert list(tmp_path.iterdir()) == []


def test_a_progress_line_in_a_file_is_a_line_each(tmp_path: Path) -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    line.show('one')
    line.keep('two')
    assert stream.getvalue() == 'one\ntwo\n'
    ProgressLine(None).show('nowhere')


def test_times_read_like_a_clock() -> None:
    assert clock_text(59.6) == '1:00'
    assert clock_text(3 * 3600 + 4 * 60 + 5) == '3:04:05'


def test_a_process_without_torchrun_is_alone() -> None:
    assert isinstance(join_team(torch.device('cpu'), {}), Alone)
    with pytest.raises(TrainingError, match='WORLD_SIZE'):
        join_team(torch.device('cpu'), {'WORLD_SIZE': 'many'})


def test_the_loop_leaves_the_global_random_numbers_alone(tmp_path: Path) -> None:
    task = LineTask()
    before = torch.get_rng_state().clone()
    train(task, TrainingConfig(), Run(tmp_path / 'run'), Sitting(Plan(steps=3)))
    assert torch.equal(before, torch.get_rng_state())


def test_the_c_library_keeps_freed_memory_where_it_can() -> None:
    has_glibc = platform.libc_ver()[0] == 'glibc'
    assert keep_freed_memory() == has_glibc


_COUNT_FAULTS = """
import resource, sys, threading
from kpvo_ros.frontend.process import keep_freed_memory
keep_freed_memory(int(sys.argv[1]))
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytes([1]) * (16 << 20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=faults)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has mallopt')
def test_memory_that_was_warmed_is_warm_in_every_thread() -> None:
    cold, warm = (
        int(subprocess.check_output([sys.executable, '-c', _COUNT_FAULTS, str(size)]))
        for size in (0, 32 << 20)
    )
    assert warm < 100 < cold  # pages of 4 KiB: 4096 of them, unless the kernel gives larger ones
