"""Completion in the loop: only hidden patches count, a batch by heart, what is measured."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.errors import NetworkError
from kpvo_ros.methods.crossview.completion_task import (
    CompletionBatch,
    CompletionConfig,
    CompletionTask,
    new_completion_net,
)
from kpvo_ros.methods.crossview.frame_data import unknown_pairs
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.nets.completion import CompletionNet, load_completion_net, start_from_completion
from kpvo_ros.nets.depth_vo import TINY, DepthVoConfig, DepthVoNet
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

PATCH = 8
LITTLE = DepthVoConfig(
    32, 2, 2, 32, 4, 2, mlp_ratio=2, patch_px=PATCH, dpt_width=8, head_width=8, pose_width=16
)
HEIGHT, WIDTH = 32, 48
SHORT = TrainingConfig(
    learning_rate=3e-3, warmup_steps=5, log_every_steps=1, precision='float32', validations=1
)
CONFIG = CompletionConfig(pairs=2, mask_ratio=0.75, training=SHORT)


def moved_pairs(count: int, generator: torch.Generator) -> FramePairs:
    """A wall of random squares, and the same one eight pixels to the side; cameras known."""
    wall = torch.rand(count, 3, HEIGHT // 4, WIDTH // 4 + 2, generator=generator)
    wall = wall.repeat_interleave(4, 2).repeat_interleave(4, 3)
    pairs = unknown_pairs(wall[..., :WIDTH].clone(), wall[..., 8:].clone())
    K = torch.tensor([[40.0, 0, 23.5], [0, 40.0, 15.5], [0, 0, 1]]).expand(count, 3, 3)
    return pairs._replace(K0=K, K1=K)


def held_out(count: int = 6) -> FramePairs:
    return moved_pairs(count, torch.Generator().manual_seed(8))


def small_task(
    config: CompletionConfig = CONFIG, network: CompletionNet | None = None
) -> CompletionTask:
    network = network or CompletionNet(LITTLE, generator=torch.Generator().manual_seed(3))
    return CompletionTask(
        moved_pairs, held_out=held_out(), config=config, network=network,
        notes={'command': 'a test'},
    )  # fmt: skip


class Drawing(nn.Module):
    """Stands for a network: draws what it is told to, whatever it sees."""

    def __init__(self, drawn: Tensor) -> None:
        super().__init__()
        self.drawn = drawn

    def forward(self, *seen: Tensor) -> Tensor:
        return self.drawn


class Copying(nn.Module):
    """Stands for a network that takes the other view for this one, patch by patch."""

    def forward(self, image0: Tensor, image1: Tensor, *rest: Tensor) -> Tensor:
        return torch.stack([tiles(image, normalized=True) for image in image1])


def tiles(image: Tensor, normalized: bool) -> Tensor:
    """(3, H, W) -> (N, 3 p^2), patch by patch."""
    corners = itertools.product(range(0, HEIGHT, PATCH), range(0, WIDTH, PATCH))
    cut = torch.stack([image[:, y : y + PATCH, x : x + PATCH].flatten() for y, x in corners])
    if not normalized:
        return cut
    return (cut - cut.mean(1, keepdim=True)) / cut.std(1, keepdim=True, correction=0)


# -- the loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize('normalized', [True, False])
def test_the_hidden_patches_drawn_right_cost_nothing_whatever_the_others_are(
    normalized: bool, torch_generator: torch.Generator
) -> None:
    task = small_task(dataclasses.replace(CONFIG, normalized=normalized))
    batch = task.batch(torch_generator)
    truth = torch.stack([tiles(image, normalized) for image in batch.pairs.image0])
    noise = torch.randn(truth.shape, generator=torch_generator)
    is_masked = batch.masks.is_masked[..., None]
    task.network = Drawing(torch.where(is_masked, truth, noise))
    assert float(task.loss(batch, 0.5).total) < 1e-4
    task.network = Drawing(torch.where(is_masked, noise, truth))
    assert float(task.loss(batch, 0.5).total) > 0.5


def test_the_cost_is_the_mean_square_over_the_hidden_patches(
    torch_generator: torch.Generator,
) -> None:
    task = small_task()
    batch = task.batch(torch_generator)
    drawn = torch.randn(2, 24, 192, generator=torch_generator)
    task.network = Drawing(drawn)
    squares = []
    for image, patches, hidden in zip(
        batch.pairs.image0, drawn, batch.masks.masked.tolist(), strict=True
    ):
        assert len(hidden) == 18  # three quarters of 24
        truth = tiles(image, normalized=True)
        squares += [((patches[i] - truth[i]) ** 2).numpy() for i in hidden]
    assert float(task.loss(batch, 0.5).total) == pytest.approx(float(np.mean(squares)), rel=1e-4)


def test_every_parameter_gets_a_finite_gradient_and_the_hidden_pixels_none(
    torch_generator: torch.Generator,
) -> None:
    task = small_task()
    batch = task.batch(torch_generator)
    image = batch.pairs.image0.requires_grad_()
    drawn = task.network(image, batch.pairs.image1, batch.masks.kept)
    drawn.square().sum().backward()
    assert image.grad is not None
    touched = torch.stack([tiles(g, normalized=False) for g in image.grad]).abs().sum(-1) > 0
    assert torch.equal(touched, ~batch.masks.is_masked)
    task.network.zero_grad()
    task.loss(batch, 0.0).total.backward()
    for name, parameter in task.network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all() and bool((parameter.grad != 0).any()), name


def test_pairs_of_unknown_cameras_are_learned_from_as_well(
    torch_generator: torch.Generator,
) -> None:
    task = small_task()
    pairs = moved_pairs(2, torch_generator)
    unknown = unknown_pairs(pairs.image0, pairs.image1)
    masks = task.batch(torch_generator).masks
    loss = task.loss(CompletionBatch(unknown, masks), 0.0).total
    loss.backward()
    assert torch.isfinite(loss)
    known = task.loss(CompletionBatch(pairs, masks), 0.0).total
    assert not torch.equal(known, loss)
    deaf = small_task(dataclasses.replace(CONFIG, cameras=False))
    assert torch.equal(deaf.loss(CompletionBatch(pairs, masks), 0.0).total, loss)


# -- in the loop ------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_batch_and_loss() -> None:
    totals = []
    for seed in (4, 4, 5):
        task = small_task()
        batch = task.batch(torch.Generator().manual_seed(seed))
        totals.append(float(task.loss(batch, 0.5).total.detach()))
    assert totals[0] == totals[1] != totals[2]


def test_one_batch_is_learned_by_heart(tmp_path: Path, torch_generator: torch.Generator) -> None:
    task = small_task()
    run = Run(tmp_path / 'run')
    train(task, SHORT, run, Sitting(Plan(steps=100), overfit=True))
    costs = [row['values']['error'] for row in run.rows() if row['kind'] == 'train']
    assert costs[-1] < 0.1 * costs[0]


def test_a_run_that_is_resumed_ends_where_one_without_a_break_does(
    tmp_path: Path, torch_generator: torch.Generator
) -> None:
    ends = []
    for name, sittings in (('whole', (4,)), ('broken', (2, 2))):
        run = Run(tmp_path / name)
        for number, steps in enumerate(sittings):
            answers = iter([False] * steps + [True])
            sitting = Sitting(
                Plan(steps=4), resume=number > 0, should_stop=functools.partial(next, answers)
            )
            train(small_task(), SHORT, run, sitting)
        ends.append(load_completion_net(run.last_weights).prediction.weight)
    assert torch.equal(*ends)


def test_what_is_kept_starts_a_depth_network(
    tmp_path: Path, torch_generator: torch.Generator
) -> None:
    task = small_task()
    task.export(task.network, tmp_path / 'c.safetensors')
    again = load_completion_net(tmp_path / 'c.safetensors')
    assert again.config == LITTLE
    depth = DepthVoNet(LITTLE, generator=torch_generator)
    start_from_completion(depth, tmp_path / 'c.safetensors')
    assert torch.equal(depth.encoder.embed.weight, again.encoder.embed.weight)


# -- what is measured -------------------------------------------------------------------------


def test_the_error_on_held_out_pairs_decides_with_a_minus() -> None:
    task = small_task()
    metrics = task.validate(task.network)
    assert next(iter(metrics)) == 'minus_error' and metrics['minus_error'] == -metrics['error']
    assert metrics == task.validate(task.network)
    # Before anything is learned it is about that of an even grey.
    assert metrics['error'] == pytest.approx(1.0, abs=0.1)


def test_validation_tells_a_network_that_uses_the_other_view_from_one_that_does_not() -> None:
    image = held_out().image0
    task = CompletionTask(
        moved_pairs, held_out=unknown_pairs(image, image), config=CONFIG,
        network=CompletionNet(LITTLE),
    )  # fmt: skip
    seeing = task.validate(Copying())
    assert seeing['error'] < 1e-3 and seeing['other_view'] > 0.99
    blind = task.validate(Drawing(torch.zeros(6, 24, 192)))
    assert blind['error'] == pytest.approx(1.0, abs=1e-3)
    assert blind['other_view'] == pytest.approx(0.0, abs=1e-6)


# -- sizes ------------------------------------------------------------------------------------


def test_the_network_has_the_sizes_that_are_asked_for() -> None:
    assert new_completion_net(CompletionConfig()).config == TINY
    deeper = new_completion_net(CompletionConfig(decoder_depth=5))
    assert deeper.config == dataclasses.replace(TINY, decoder_depth=5)
    assert len(deeper.decoder.blocks) == 5
    with pytest.raises(NetworkError, match='4 or more'):
        new_completion_net(CompletionConfig(decoder_depth=2))
