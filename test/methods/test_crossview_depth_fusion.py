"""Both pretext tasks behind the depth task: how fused networks learn, start, score, and stay."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kpvo_ros.cli import train_depth
from kpvo_ros.cli.main import main
from kpvo_ros.cli.train_inputs import Inputs
from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry import se3
from kpvo_ros.methods.crossview.depth_task import DepthConfig, DepthTask, start_network
from kpvo_ros.methods.crossview.frame_data import unknown_pairs
from kpvo_ros.methods.crossview.held_out_depth import score_held_out
from kpvo_ros.methods.crossview.pairs import FramePairs
from kpvo_ros.nets.alignment import AlignmentNet, alignment_sizes
from kpvo_ros.nets.checkpoint import read_kind, save_weights
from kpvo_ros.nets.completion import CompletionNet
from kpvo_ros.nets.depth_vo import DepthVoConfig, DepthVoNet
from kpvo_ros.nets.fusion import EarlyFusionNet, LateFusionNet, load_fusion_net, make_fusion
from kpvo_ros.synthetic.walk_bank import WalkBank
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

LITTLE = DepthVoConfig(
    32, 4, 2, 24, 4, 2, mlp_ratio=2, patch_px=8, dpt_width=8, head_width=8, pose_width=16
)
CODE = alignment_sizes(
    LITTLE, latents=12, latent_width=24, latent_depth=1, latent_heads=2, equivariant=6,
    decoder_depth=1, feature_width=4,
)  # fmt: skip
QUICK = TrainingConfig(warmup_steps=0, validations=1, ema_decay=0.5, precision='float32')
HEIGHT, WIDTH, FOCAL_PX, DEPTH_M = 16, 24, 20.0, 0.3  # a new network says 0.3 m behind this lens
FUSED = pytest.mark.parametrize('fusion', ['early', 'late'])


def config(**change: Any) -> DepthConfig:
    return dataclasses.replace(DepthConfig(pairs=2, training=QUICK), **change)


def walls(count: int, generator: torch.Generator) -> FramePairs:
    """Random squares and the same ones a patch to the side; depth and motion are known."""
    wall = torch.rand(count, 3, HEIGHT // 4, WIDTH // 4 + 2, generator=generator)
    wall = wall.repeat_interleave(4, 2).repeat_interleave(4, 3)
    pairs = unknown_pairs(wall[..., :WIDTH].clone(), wall[..., 8:].clone())
    K = torch.tensor([[FOCAL_PX, 0, 11.5], [0, FOCAL_PX, 7.5], [0, 0, 1]]).expand(count, 3, 3)
    T_1_0 = torch.from_numpy(se3.exp_se3([-0.12, 0.0, 0.0, 0.0, 0.1, 0.0])).float()
    depth = torch.full((count, 1, HEIGHT, WIDTH), DEPTH_M)
    T_1_0 = T_1_0.expand(count, 4, 4)
    return pairs._replace(K0=K, K1=K, depth0=depth, depth1=depth, T_1_0=T_1_0)


def held_out(count: int = 10) -> FramePairs:
    return walls(count, torch.Generator().manual_seed(8))


def network_of(fusion: str, seed: int = 1) -> DepthVoNet | LateFusionNet:
    generator = torch.Generator().manual_seed(seed)
    return make_fusion(fusion, LITTLE, CODE, generator=generator)


def late() -> LateFusionNet:
    network = network_of('late')
    assert isinstance(network, LateFusionNet)
    return network


def task(network: Any) -> DepthTask:
    return DepthTask(
        walls, held_out=held_out(), config=config(), network=network, notes={'command': 'a test'}
    )


def same(one: nn.Module, two: nn.Module) -> bool:
    """Whether two parts have the same tensors."""
    state, other = one.state_dict(), two.state_dict()
    return state.keys() == other.keys() and all(torch.equal(state[n], other[n]) for n in state)


# -- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@FUSED
def test_every_parameter_gets_a_finite_gradient(
    fusion: str, dtype: torch.dtype, torch_generator: torch.Generator
) -> None:
    subject = task(network_of(fusion))
    batch = subject.batch(torch_generator)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        loss = subject.loss(batch, 0.0)
    assert loss.total.dtype == torch.float32
    loss.total.backward()
    for name, parameter in subject.network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    told = {'depth', 'rotation', 'translation', 'depth_log_error', 'rotation_deg', 'translation_m'}
    assert set(loss.parts) == told | ({'completion', 'alignment'} if fusion == 'late' else set())


def test_the_networks_of_a_late_fusion_learn_as_if_each_were_alone(
    torch_generator: torch.Generator,
) -> None:
    network, batch = late(), walls(2, torch_generator)
    loss = task(network).loss(batch, 0.0)
    loss.total.backward()
    for name in ('completion', 'alignment'):
        part = network.get_submodule(name)
        found = {n: p.grad.clone() for n, p in part.named_parameters() if p.grad is not None}
        part.zero_grad()
        alone = task(part).loss(batch, 0.0).total
        assert float(loss.parts[name]) == pytest.approx(float(alone.detach()), rel=1e-5)
        alone.backward()
        for n, parameter in part.named_parameters():
            torch.testing.assert_close(found[n], parameter.grad, rtol=1e-3, atol=1e-5)


def test_a_network_that_is_wrong_loses_its_vote(torch_generator: torch.Generator) -> None:
    """Depths are e^2 times too far in one network and right in the other, both as sure of it."""
    for wrong in (0, 1):
        network = late()
        part = (network.completion, network.alignment)[wrong]
        with torch.no_grad():
            part.depth.last.bias[0] += 2.0
        task(network).loss(walls(2, torch_generator), 0.0).total.backward()
        assert network.votes.grad is not None
        slope = network.votes.grad[0]  # a step goes down
        assert float(slope[wrong]) > 0.01 and float(slope[1 - wrong]) < -0.01


@FUSED
def test_a_batch_is_learned_by_heart(fusion: str, torch_generator: torch.Generator) -> None:
    subject = task(network_of(fusion))
    batch = walls(1, torch_generator)
    batch = batch._replace(depth0=4 * batch.depth0, depth1=4 * batch.depth1)
    optimizer = torch.optim.Adam(subject.network.parameters(), lr=5e-3)
    told = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = subject.loss(batch, 0.0)
        loss.total.backward()
        optimizer.step()
        told.append({name: float(part) for name, part in loss.parts.items()})
    for name in ('depth_log_error', 'translation_m', 'rotation_deg'):
        assert told[-1][name] < 0.5 * told[0][name], name


# -- scoring and keeping ----------------------------------------------------------------------


@pytest.mark.parametrize('trusted', ['completion', 'alignment'])
def test_a_late_fusion_that_trusts_one_network_scores_as_that_one(trusted: str) -> None:
    network = late()
    one = network.get_submodule(trusted)
    row = ('completion', 'alignment').index(trusted)
    with torch.no_grad():
        for number, part in enumerate((network.completion, network.alignment)):
            part.depth.last.bias[0] += 0.15 * number  # so that they differ
        network.votes.fill_(-50.0)
        network.votes[:, row] = 50.0
    both, alone = score_held_out(network, held_out()), score_held_out(one, held_out())
    assert both == pytest.approx(alone, rel=1e-3)
    assert 0.0 < alone['abs_rel'] < 0.5


@FUSED
def test_what_a_run_leaves_is_a_network_again(fusion: str, tmp_path: Path) -> None:
    subject, run = task(network_of(fusion)), Run(tmp_path / 'run')
    train(subject, QUICK, run, Sitting(Plan(steps=2, minutes=None)))
    assert read_kind(run.last_weights) == 'depth_vo_fusion'
    again = load_fusion_net(run.last_weights)
    assert again.config.fusion == {'early': 1, 'late': 2}[fusion]
    assert again.alignment.config if fusion == 'late' else isinstance(again, EarlyFusionNet)
    told = [row['values'] for row in run.rows() if row['kind'] == 'validation'][-1]
    assert score_held_out(again, held_out()) == pytest.approx(told, rel=1e-4)


# -- starts -----------------------------------------------------------------------------------


def kept(path: Path, network: nn.Module, kind: str) -> Path:
    save_weights(path, network, kind=kind, config=network.config, notes={})
    return path


def completion(folder: Path, **change: int) -> tuple[CompletionNet, Path]:
    sizes = dataclasses.replace(LITTLE, **change)
    network = CompletionNet(sizes, generator=torch.Generator().manual_seed(11))
    return network, kept(folder / 'completion', network, 'completion')


def alignment(folder: Path, **change: int) -> tuple[AlignmentNet, str]:
    network = AlignmentNet(
        dataclasses.replace(CODE, **change), generator=torch.Generator().manual_seed(12)
    )
    return network, str(kept(folder / 'alignment', network, 'alignment'))


@pytest.mark.parametrize('depth', [6, 8])
def test_completion_brings_its_sizes_and_new_heads(depth: int, tmp_path: Path) -> None:
    before, path = completion(tmp_path, decoder_depth=depth)
    network, again = start_network(config(), path), start_network(config(), path)
    assert network.config == before.config and len(network.decoder.blocks) == depth
    for name in ('encoder', 'decoder', 'rays'):
        assert same(network.get_submodule(name), before.get_submodule(name))
    other = start_network(config(training=dataclasses.replace(QUICK, seed=1)), path)
    assert same(network.depth, again.depth) and not same(network.depth, other.depth)
    found = network(*(held_out(1)[i] for i in (0, 1, 2)))
    assert found.depth0.shape == (1, 1, HEIGHT, WIDTH)


@FUSED
def test_a_fusion_starts_from_both_pretext_tasks(fusion: str, tmp_path: Path) -> None:
    first, path = completion(tmp_path, decoder_depth=5)
    second, file = alignment(tmp_path, latents=9)
    network = start_network(config(fusion=fusion, alignment=file), path)
    assert network.config.decoder_depth == 5
    if isinstance(network, LateFusionNet):
        own, other, decoder = network.completion.encoder, network.alignment, network.completion
        assert same(other.latents, second.latents) and len(other.latents.first) == 9
        assert same(other.encoder, second.encoder) and same(other.pose, second.pose)
    else:
        assert isinstance(network, EarlyFusionNet)
        own, decoder = network.encoders.completion, network
        assert same(network.encoders.alignment, second.encoder)
    assert same(own, first.encoder) and same(decoder.decoder, first.decoder)


def test_without_fusion_alignment_starts_the_encoder_alone(tmp_path: Path) -> None:
    sizes = start_network(config()).config
    before = AlignmentNet(alignment_sizes(sizes), generator=torch.Generator().manual_seed(12))
    path = kept(tmp_path / 'a', before, 'alignment')
    network, new = start_network(config(alignment=str(path))), start_network(config())
    assert isinstance(network, DepthVoNet) and same(network.encoder, before.encoder)
    assert same(network.decoder, new.decoder) and not same(network.encoder, new.encoder)


@FUSED
def test_a_fused_network_is_trained_on_as_it_is(fusion: str, tmp_path: Path) -> None:
    before = network_of(fusion, 5)
    network = start_network(config(fusion=fusion), kept(tmp_path / 'w', before, 'depth_vo_fusion'))
    assert type(network) is type(before) and network.training and same(network, before)
    assert network.config == before.config
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    ('change', 'start', 'says'),
    [
        ({'fusion': 'early'}, 'plain', r'fusion=none, not early; give fusion=none'),
        ({'fusion': 'late'}, 'early', r'fusion=early, not late'),
        ({}, 'late', r'fusion=late, not none'),
        ({'fusion': 'late', 'alignment': 'alignment'}, 'late', 'leave alignment out'),
        ({'alignment': 'alignment'}, 'completion', 'one file or a fusion'),
        ({'alignment': 'alignment'}, None, r'width = 32, that of model=tiny 192.*same model'),
        ({'fusion': 'early', 'alignment': 'alignment'}, 'wide', r'width = 32.*wide 48'),
        ({'fusion': 'early', 'alignment': 'completion'}, None, "of kind 'completion'"),
        ({'alignment': 'nowhere'}, None, 'cannot be read'),
        ({}, 'alignment', "of kind 'alignment' and start no depth network.*alignment=FILE"),
        ({}, 'nothing', 'not a weights file'),
        ({}, 'nowhere', 'cannot be read'),
        ({'fusion': 'late'}, 'shallow', r'encoder has 2.*4 or more'),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_line(
    change: dict[str, str],
    start: str | None,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    completion(tmp_path), alignment(tmp_path)
    for name, sizes in (('wide', {'encoder_width': 48}), ('shallow', {'encoder_depth': 2})):
        kept(Path(name), CompletionNet(dataclasses.replace(LITTLE, **sizes)), 'completion')
    for name in ('early', 'late'):
        kept(Path(name), network_of(name), 'depth_vo_fusion')
    kept(Path('plain'), network_of('none'), 'depth_vo')
    Path('nothing').write_bytes(b'nothing of the kind')
    with pytest.raises(NetworkError, match=says) as error:
        start_network(config(**change), None if start is None else Path(start))
    assert '\n' not in str(error.value)


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two short walks along a wall three metres away, without rendering."""

    def make(inputs: Inputs, count: int, seed: int, first_part: int = 0) -> WalkBank:
        rng = np.random.default_rng(seed + first_part)
        images = torch.from_numpy(rng.integers(0, 255, (2, 3, 3, 48, 64), dtype=np.uint8))
        T = torch.eye(4).repeat(2, 3, 1, 1)
        T[:, :, 0, 3] = torch.linspace(0, 0.2, 3)
        K = torch.tensor([[50.0, 0, 31.5], [0, 50.0, 23.5], [0, 0, 1]]).repeat(2, 1, 1)
        return WalkBank(images, torch.full((2, 3, 48, 64), 3.0).half(), T, K)

    monkeypatch.setattr(train_depth, 'walks', make)


def test_the_command_fuses_both_files(
    tmp_path: Path, walks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = completion(tmp_path)
    _, file = alignment(tmp_path)
    words = ['train', 'depth', '--init', str(path), '--device=cpu', '--steps=1', 'pairs=1',
             'held_out_pairs=2', 'data.height_px=32', 'data.width_px=48', 'data.light=false',
             'training.validations=1', f'alignment={file}']  # fmt: skip
    assert main([*words, '--out', str(tmp_path / 'run'), 'fusion=late']) == 0
    network = load_fusion_net(tmp_path / 'run' / 'weights.safetensors')
    assert isinstance(network, LateFusionNet) and network.config.latents == 12
    capsys.readouterr()
    assert main([*words, '--out', str(tmp_path / 'more')]) == 1
    error = capsys.readouterr().err.strip()
    assert 'one file or a fusion' in error and len(error.splitlines()) == 1
