"""The task of learning from video: what is learned, what stays, what is written."""

from __future__ import annotations

from collections.abc import Iterator
import copy
import dataclasses
import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from video_world import CONFIG, MOVING, film

from kpvo_ros.config.schema import to_flat, with_values, with_words
from kpvo_ros.errors import NetworkError
from kpvo_ros.methods.crossview.video_data import VideoTriplets
from kpvo_ros.methods.crossview.video_loss import look
from kpvo_ros.methods.crossview.video_task import VideoConfig, VideoTask
from kpvo_ros.nets.adapter import AdapterConfig, are_identity, insert_adapters, load_adapters
from kpvo_ros.nets.checkpoint import load_weights
from kpvo_ros.nets.depth_vo import KIND, DepthVoConfig, DepthVoNet, load_depth_vo_net
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

LITTLE = DepthVoConfig(32, 2, 2, 32, 4, 2, mlp_ratio=2, dpt_width=8, head_width=8, pose_width=16)
PLAIN = dataclasses.replace(CONFIG, jitter=0.0)
SHA256 = 'ab' * 32


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small pictures: threads would only wait for each other
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope='module')
def triplets() -> VideoTriplets:
    return VideoTriplets([film().recording.part(0, len(MOVING))], PLAIN)


@functools.cache
def few() -> VideoTriplets:
    """To validate with, quickly."""
    return VideoTriplets([film().recording.part(0, 5)], PLAIN)


def make_task(
    triplets: VideoTriplets, words: tuple[str, ...] = (), **changes: object
) -> VideoTask:
    defaults = {'pairs': 1, 'data.jitter': 0.0, 'training.warmup_steps': 2}
    config = with_words(with_values(VideoConfig(), {**defaults, **changes}), words)
    config = dataclasses.replace(config, data=triplets.config)
    start = DepthVoNet(LITTLE, generator=torch.Generator().manual_seed(3))
    return VideoTask(start, start_sha256=SHA256, triplets=triplets, held_out=few(), config=config)


def start_state() -> dict[str, Tensor]:
    return DepthVoNet(LITTLE, generator=torch.Generator().manual_seed(3)).state_dict()


# ---------------------------------------------------------------------------------------- the task


def learn(task: VideoTask, steps: int, rate: float) -> list[float]:
    """Costs of one batch that is learned by heart."""
    batch = task.batch(torch.Generator().manual_seed(5))
    trained = [p for p in task.network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    costs = []
    for _ in range(steps):
        loss = task.loss(batch, 0.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        costs.append(float(loss.total.detach()))
    return costs


# Colours alone: what they cost on these few pixels is smooth enough to be followed.
BY_HEART = ('loss.ignore_static=false', 'loss.smoothness_weight=0', 'remember_weight=0')


def test_adapters_learn_a_batch_by_heart_and_the_base_stays_as_it_was(
    triplets: VideoTriplets,
) -> None:
    task = make_task(triplets, BY_HEART)
    costs = learn(task, 20, 2e-2)
    assert max(costs[-3:]) < 0.75 * costs[0]
    state, before = task.network.state_dict(), start_state()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert state.keys() - before.keys()
    assert not are_identity(task.network)


def test_all_weights_learn_a_batch_by_heart(triplets: VideoTriplets) -> None:
    task = make_task(triplets, (*BY_HEART, 'adapters=false'))
    costs = learn(task, 24, 3e-3)
    assert max(costs[-3:]) < 0.75 * costs[0]
    state, before = task.network.state_dict(), start_state()
    assert state.keys() == before.keys()
    assert sum(not torch.equal(state[name], before[name]) for name in before) > 0.9 * len(before)


@pytest.mark.parametrize('adapters', [True, False])
def test_what_is_trained_gets_finite_gradients_and_nothing_else_any(
    adapters: bool, triplets: VideoTriplets
) -> None:
    task = make_task(triplets, adapters=adapters, pairs=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # away from birth, where half of an adapter has no slope
        for parameter in task.network.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    loss = task.loss(task.batch(generator), 0.5)
    loss.total.backward()
    for name, parameter in task.network.named_parameters():
        if adapters and '.adapter.' not in name:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name
    assert {'photometric', 'consistency', 'smoothness', 'remember', 'doubt'} <= loss.parts.keys()
    assert all(torch.isfinite(part) and not part.requires_grad for part in loss.parts.values())


def test_before_training_the_scale_is_one(triplets: VideoTriplets) -> None:
    task = make_task(triplets)
    metrics = task.validate(task.network.eval())
    assert next(iter(metrics)) == 'synthesis'
    assert metrics['synthesis'] < 0
    assert metrics['scale'] == pytest.approx(1.0, abs=1e-5)


def test_at_birth_nothing_is_forgotten(triplets: VideoTriplets) -> None:
    task = make_task(triplets)
    parts = task.loss(task.batch(torch.Generator().manual_seed(0)), 0.0).parts
    assert float(parts['remember']) < 1e-6
    assert float(parts['doubt']) < 1e-6


def test_a_network_that_left_its_scale_is_drawn_back(triplets: VideoTriplets) -> None:
    task = make_task(triplets, ('adapters=false', 'remember_weight=5'))
    with torch.no_grad():
        bias = dict(task.network.named_parameters())['depth.last.bias']
        bias[: len(bias) // 2] += 0.5  # the half that tells the logarithm of depth
    batch = task.batch(torch.Generator().manual_seed(0))
    first = float(task.loss(batch, 0.0).parts['remember'])
    assert first == pytest.approx(0.5, abs=0.05)
    learn(task, 12, 3e-3)
    assert float(task.loss(batch, 0.0).parts['remember']) < 0.5 * first


def test_the_rate_is_gentle_for_a_whole_network_unless_it_is_given() -> None:
    assert VideoConfig().training.learning_rate == 1e-3
    assert with_words(VideoConfig(), ['adapters=false']).training.learning_rate == 1e-4
    given = with_words(VideoConfig(), ['adapters=false', 'training.learning_rate=3e-4'])
    assert given.training.learning_rate == 3e-4
    again = with_values(VideoConfig(), to_flat(with_words(VideoConfig(), ['adapters=false'])))
    assert again.training.learning_rate == 1e-4


# ----------------------------------------------------------------------------------------- files


def test_adapters_are_written_bound_to_their_base_and_give_the_same_answers(
    triplets: VideoTriplets, tmp_path: Path
) -> None:
    task = make_task(triplets)
    learn(task, 3, 1e-2)
    task.export(task.network, tmp_path / 'adapters')
    base = DepthVoNet(LITTLE, generator=torch.Generator().manual_seed(3)).eval()
    with pytest.raises(NetworkError, match='adapt anew'):
        load_adapters(tmp_path / 'adapters', base, base_sha256='cd' * 32)
    notes = load_adapters(tmp_path / 'adapters', base, base_sha256=SHA256)
    batch = triplets.fixed(1)[0]
    with torch.no_grad():
        for one, two in zip(look(base, batch), look(task.network.eval(), batch), strict=True):
            assert torch.equal(one, two)
    assert float(notes['trained_share']) == pytest.approx(task.trained_share, abs=1e-4)


def test_a_whole_network_is_written_as_one(triplets: VideoTriplets, tmp_path: Path) -> None:
    task = make_task(triplets, adapters=False)
    learn(task, 2, 1e-3)
    task.export(task.network, tmp_path / 'weights')
    loaded = load_depth_vo_net(tmp_path / 'weights').state_dict()
    assert all(torch.equal(loaded[n], value) for n, value in task.network.state_dict().items())
    words = load_weights(tmp_path / 'weights', kind=KIND)[1]
    assert words['start_sha256'] == SHA256
    assert words['trained_share'] == '1.0000'


def test_the_notes_tell_the_share_that_was_trained_and_the_seconds_of_a_step(
    triplets: VideoTriplets, tmp_path: Path
) -> None:
    task = make_task(triplets)
    counts = {n: p.numel() for n, p in task.network.named_parameters()}
    own = sum(count for name, count in counts.items() if '.adapter.' in name)
    assert task.trained_share == pytest.approx(own / sum(counts.values()))
    task.export(task.network, tmp_path / 'first')
    assert 'seconds_per_step' not in load_weights(tmp_path / 'first', kind='adapter')[1]
    for seed in range(3):
        task.batch(torch.Generator().manual_seed(seed))
    task.export(task.network, tmp_path / 'then')
    assert float(load_weights(tmp_path / 'then', kind='adapter')[1]['seconds_per_step']) >= 0


def test_adapters_have_the_asked_width_and_seed(triplets: VideoTriplets) -> None:
    one, two, other = (
        make_task(triplets, adapter_width=8, **{'training.seed': seed}).network.state_dict()
        for seed in (1, 1, 2)
    )
    names = [name for name in one if name.endswith('adapter.down.weight')]
    assert all(one[name].shape[0] == 8 for name in names)
    assert all(torch.equal(one[name], two[name]) for name in names)
    assert not any(torch.equal(one[name], other[name]) for name in names)


def test_a_network_with_adapters_is_refused(triplets: VideoTriplets) -> None:
    start = DepthVoNet(LITTLE)
    insert_adapters(start, AdapterConfig(8))
    with pytest.raises(NetworkError, match='adapters already'):
        VideoTask(
            start, start_sha256=SHA256, triplets=triplets, held_out=few(), config=VideoConfig()
        )


@pytest.mark.parametrize('adapters', [True, False])
def test_a_run_in_two_sittings_equals_one_in_one_sitting(
    adapters: bool, triplets: VideoTriplets, tmp_path: Path
) -> None:
    def sit(folder: str, steps: int, resume: bool) -> dict[str, Tensor]:
        task = make_task(triplets, adapters=adapters)
        training = dataclasses.replace(task._config.training, validations=1, precision='float32')
        asked = iter([False] * steps + [True] * 9)
        sitting = Sitting(Plan(steps=4), resume=resume, should_stop=lambda: next(asked))
        train(task, training, Run(tmp_path / folder, resume=resume), sitting)
        return copy.deepcopy(task.network.state_dict())

    whole = sit('whole', 4, False)
    sit('parts', 2, False)
    parts = sit('parts', 2, True)
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    before = start_state()
    moved = {name for name, value in before.items() if not torch.equal(whole[name], value)}
    assert bool(moved) is not adapters
