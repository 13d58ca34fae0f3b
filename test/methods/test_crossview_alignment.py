"""Alignment in the loop: costs at the truth, the probe, a batch by heart, what is measured."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry import se3
from kpvo_ros.methods.crossview.alignment_task import (
    AlignmentConfig,
    AlignmentLossConfig,
    AlignmentTask,
    CodeConfig,
    code_share,
    network_sizes,
    picture_costs,
    pose_cost,
    score_alignment,
)
from kpvo_ros.methods.crossview.frame_data import joined, unknown_pairs
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.nets.alignment import (
    AlignmentNet,
    AlignmentNetConfig,
    load_alignment_net,
    plain_picture,
)
from kpvo_ros.nets.depth_vo import SMALL
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

LITTLE = AlignmentNetConfig(
    32, 2, 2, 2, 8, latents=12, latent_width=24, latent_depth=1, latent_heads=2, equivariant=6,
    decoder_depth=1, feature_width=4, pose_width=16,
)  # fmt: skip
HEIGHT, WIDTH = 16, 24
SHORT = TrainingConfig(
    learning_rate=3e-3, warmup_steps=5, log_every_steps=1, precision='float32', validations=1
)
CONFIG = AlignmentConfig(pairs=2, training=SHORT)
POSES = [[0.1, 0.0, 0.0, 0.0, 0.2, 0.0], [0.0, 0.1, 0.2, 0.1, 0.0, 0.0]]


def pairs_of(count: int, generator: torch.Generator) -> FramePairs:
    """Random squares, and the same ones a patch to the side; motions taken from `POSES`."""
    wall = torch.rand(count, 3, HEIGHT // 4, WIDTH // 4 + 2, generator=generator)
    wall = wall.repeat_interleave(4, 2).repeat_interleave(4, 3)
    pairs = unknown_pairs(wall[..., :WIDTH].clone(), wall[..., 8:].clone())
    K = torch.tensor([[20.0, 0, 11.5], [0, 20.0, 7.5], [0, 0, 1]]).expand(count, 3, 3)
    T = torch.stack([torch.from_numpy(se3.exp_se3(POSES[i % 2])).float() for i in range(count)])
    return pairs._replace(K0=K, K1=K, T_1_0=T)


def held_out(count: int = 4) -> FramePairs:
    return pairs_of(count, torch.Generator().manual_seed(8))


def small_net() -> AlignmentNet:
    return AlignmentNet(LITTLE, generator=torch.Generator().manual_seed(3))


def small_task(loss: AlignmentLossConfig = CONFIG.loss, **values: FramePairs) -> AlignmentTask:
    config = dataclasses.replace(CONFIG, loss=loss)
    return AlignmentTask(
        pairs_of, held_out=values.get('held_out', held_out()), config=config, network=small_net(),
        notes={'command': 'a test'},
    )  # fmt: skip


def without_truth(pairs: FramePairs) -> FramePairs:
    return unknown_pairs(pairs.image0, pairs.image1)


def gradients(loss: AlignmentLossConfig, pairs: FramePairs) -> dict[str, Tensor]:
    task = small_task(loss)
    task.loss(pairs, 0.5).total.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in task.network.named_parameters()
    }


# -- the loss ---------------------------------------------------------------------------------


def test_the_other_picture_from_the_other_code_costs_nothing_and_a_wrong_one_more(
    torch_generator: torch.Generator,
) -> None:
    pairs = pairs_of(2, torch_generator)
    with torch.inference_mode():
        found = small_net()(pairs.image0, pairs.image1)
    # First image 1 from image 0, then back.
    truth = plain_picture(torch.cat([pairs.image1, pairs.image0]))
    right = found._replace(rebuilt=truth, moved=found.code)
    assert [float(cost) for cost in picture_costs(right, pairs)] == [0.0, 0.0]
    own = found._replace(rebuilt=truth.flip(0), moved=found.code.flip(0))
    assert all(float(cost) > 1e-3 for cost in picture_costs(own, pairs))


def test_the_cost_of_a_small_error_of_colour_is_half_its_square(
    torch_generator: torch.Generator,
) -> None:
    pairs = pairs_of(1, torch_generator)
    with torch.inference_mode():
        found = small_net()(pairs.image0, pairs.image1)
    truth = plain_picture(torch.cat([pairs.image1, pairs.image0]))
    for error, cost in ((0.03, 0.5 * 3 * 0.03**2), (0.3, 0.1 * (0.3 * 3**0.5 - 0.05))):
        colour, _ = picture_costs(found._replace(rebuilt=truth + error), pairs)
        assert float(colour) == pytest.approx(cost, rel=1e-3)


def test_the_cost_of_a_motion_is_that_of_the_paper(torch_generator: torch.Generator) -> None:
    pairs = pairs_of(2, torch_generator)
    network = small_net().eval()
    still = torch.eye(6).expand(2, 6, 6)  # codes that are not turned: no motion at all
    with torch.inference_mode():
        cost, told = pose_cost(network, still, pairs, 0.1)
    T = pairs.T_1_0.double().numpy()
    expected = [
        np.square(np.eye(3) - t[:3, :3]).sum() + 0.1 * np.square(t[:3, 3]).sum() for t in T
    ]
    assert float(cost) == pytest.approx(float(np.mean(expected)), rel=1e-4)
    degrees = np.rad2deg([se3.rotation_angle_rad(t) for t in T])
    assert float(told['rotation_deg']) == pytest.approx(float(degrees.mean()), rel=1e-3)
    metres = np.linalg.norm(T[:, :3, 3], axis=1).mean()
    assert float(told['translation_m']) == pytest.approx(float(metres), rel=1e-3)


def test_motions_that_are_not_known_cost_nothing(torch_generator: torch.Generator) -> None:
    known = pairs_of(2, torch_generator)
    unknown = without_truth(known)
    turn = torch.eye(6).expand(2, 6, 6)
    network = small_net()
    none, _ = pose_cost(network, turn, unknown, 0.1)
    assert float(none.detach()) == 0.0
    some, _ = pose_cost(network, turn.repeat(2, 1, 1), joined([known, unknown]), 0.1)
    every, _ = pose_cost(network, turn, known, 0.1)
    torch.testing.assert_close(some, every)
    assert all(torch.isfinite(g).all() for g in gradients(CONFIG.loss, unknown).values())


def test_every_parameter_gets_a_finite_gradient(torch_generator: torch.Generator) -> None:
    found = gradients(CONFIG.loss, pairs_of(2, torch_generator))
    for name, gradient in found.items():
        assert torch.isfinite(gradient).all() and bool((gradient != 0).any()), name


def test_a_probe_learns_from_motions_and_teaches_nobody(torch_generator: torch.Generator) -> None:
    pairs = pairs_of(2, torch_generator)
    off, probe, taught = (
        gradients(AlignmentLossConfig(pose=pose), pairs) for pose in ('off', 'probe', 'taught')
    )
    for name in off:
        is_head = name.startswith('pose.')
        assert bool((probe[name] != 0).any()) or not is_head, name
        assert torch.equal(off[name], torch.zeros_like(off[name])) == is_head, name
        if not is_head:
            assert torch.equal(probe[name], off[name]), name
    assert not torch.allclose(taught['encoder.embed.weight'], off['encoder.embed.weight'])


# -- in the loop ------------------------------------------------------------------------------


def test_one_batch_is_learned_by_heart(tmp_path: Path, torch_generator: torch.Generator) -> None:
    """Pictures and the motions of the probe; and the codes do not all become one on the way."""
    task = small_task()
    run = Run(tmp_path / 'run')
    train(task, SHORT, run, Sitting(Plan(steps=200), overfit=True))
    rows = [row['values'] for row in run.rows() if row['kind'] == 'train']
    assert rows[-1]['picture'] < 0.4 * rows[0]['picture']
    assert rows[-1]['rotation_deg'] < 0.3 * rows[0]['rotation_deg']
    assert max(row['code'] for row in rows[60:]) > 0.2
    assert rows[-1]['code'] < 0.05


def test_codes_count_only_after_a_while() -> None:
    shares = [code_share(progress, 0.3) for progress in (0.0, 0.3, 0.475, 0.65, 1.0)]
    assert shares == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    assert code_share(0.0, 0.0) == 0.0 and code_share(0.5, 0.0) == 1.0
    pairs = held_out(2)
    early, late = (
        float(small_task().loss(pairs, progress).total.detach()) for progress in (0.2, 0.9)
    )
    code = float(small_task().loss(pairs, 0.0).parts['code'])
    assert late - early == pytest.approx(0.01 * code, rel=1e-3)


def test_motions_alone_are_learned_as_relative_pose(
    tmp_path: Path, torch_generator: torch.Generator
) -> None:
    task = small_task(AlignmentLossConfig(picture_weight=0.0, pose='taught'))
    run = Run(tmp_path / 'run')
    train(task, SHORT, run, Sitting(Plan(steps=60), overfit=True))
    rows = [row['values'] for row in run.rows() if row['kind'] == 'train']
    assert rows[-1]['rotation_deg'] < 0.2 * rows[0]['rotation_deg']
    assert rows[-1]['translation_m'] < 0.5 * rows[0]['translation_m']
    assert next(iter(task.validate(task.network))) == 'minus_rotation_deg'


def test_what_is_kept_is_the_network(tmp_path: Path) -> None:
    task = small_task()
    task.export(task.network, tmp_path / 'a.safetensors')
    again = load_alignment_net(tmp_path / 'a.safetensors')
    assert again.config == LITTLE
    with torch.inference_mode():
        for image in held_out()[:2]:
            code = task.network.eval().get_submodule('encoder')(image)
            torch.testing.assert_close(again.encoder(image).tokens, code.tokens)


# -- what is measured -------------------------------------------------------------------------


def test_metrics_of_a_new_network_are_those_of_no_motion_and_an_empty_picture() -> None:
    task = small_task()
    metrics = task.validate(task.network)
    assert next(iter(metrics)) == 'minus_loss'
    assert metrics['minus_loss'] == -(metrics['picture'] + 0.01 * metrics['code'])
    assert metrics == task.validate(task.network)
    degrees = [np.rad2deg(np.linalg.norm(pose[3:])) for pose in POSES]
    assert min(degrees) - 1e-3 < metrics['still_deg'] < max(degrees) + 1e-3
    assert metrics['rotation_deg'] == pytest.approx(metrics['still_deg'], abs=4.0)
    assert abs(metrics['explained']) < 0.2


def test_without_known_motions_there_is_no_metric_of_them() -> None:
    task = small_task(held_out=without_truth(held_out()))
    metrics = task.validate(task.network)
    assert set(metrics) == {'minus_loss', 'picture', 'code', 'explained'}
    assert all(np.isfinite(value) for value in metrics.values())
    half = joined([held_out(), without_truth(held_out())])
    network = small_net()
    some, every = (score_alignment(network, pairs, 0.01) for pairs in (half, held_out()))
    assert some['still_deg'] == pytest.approx(every['still_deg'])
    assert some['picture'] == pytest.approx(every['picture'], rel=1e-4)


def test_many_held_out_pairs_are_measured_as_few_are(torch_generator: torch.Generator) -> None:
    """More than are looked at at once, and the last part is smaller."""
    pairs = held_out(19)
    parts = [FramePairs(*(v[i : i + 1] for v in pairs)) for i in range(19)]
    network = small_net()
    whole = score_alignment(network, pairs, 0.01)
    single = [score_alignment(network, part, 0.01)['picture'] for part in parts]
    assert whole['picture'] == pytest.approx(float(np.mean(single)), rel=1e-4)


# -- sizes ------------------------------------------------------------------------------------


def test_the_network_has_the_sizes_that_are_asked_for() -> None:
    code = CodeConfig(vectors=40, width=64, blocks=3, heads=2, equivariant=8, decoder_blocks=5)
    sizes = network_sizes(AlignmentConfig(model='small', code=code))
    assert sizes.encoder == SMALL.encoder
    assert (sizes.latents, sizes.latent_width, sizes.latent_depth) == (40, 64, 3)
    assert (sizes.latent_heads, sizes.equivariant, sizes.decoder_depth) == (2, 8, 5)
    with pytest.raises(NetworkError, match='decide no rotation'):
        network_sizes(AlignmentConfig(code=CodeConfig(vectors=10)))
