"""Method B in the loop: what flows where, one batch by heart, what is kept and shipped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
import torch.nn.functional as F

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.errors import SyntheticError
from kpvo_ros.geometry.sampling import pixel_grid
from kpvo_ros.methods.reconstruction.data import FramePairs, ReconstructionDataConfig
from kpvo_ros.methods.reconstruction.held_out import HeldOutFrames, consistent, make_held_out
from kpvo_ros.methods.reconstruction.loss import (
    ReconstructionLossConfig,
    keep_loss,
    place_loss,
    rebuild_loss,
    truth_loss,
)
from kpvo_ros.methods.reconstruction.network import (
    MatchingConfig,
    ReconstructionNet,
    grey,
    make_network,
    rebuild,
)
from kpvo_ros.methods.reconstruction.plateau import Plateau, StopConfig
from kpvo_ros.methods.reconstruction.task import ReconstructionConfig, ReconstructionTask
from kpvo_ros.nets.decoder import Decoder, DecoderConfig
from kpvo_ros.nets.keypoint import KeypointMaps, KeypointNet, KeypointNetConfig, load_keypoint_net
from kpvo_ros.synthetic.correspondence import from_homography
from kpvo_ros.synthetic.photo_set import PhotoSet
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

SIZE = 64
SMALL = KeypointNetConfig((8, 8, 16, 16, 16), (1, 1, 1, 1, 1), 16, 16)
SHORT = TrainingConfig(
    learning_rate=3e-3, warmup_steps=5, log_every_steps=1, precision='float32', validations=1
)
CONFIG = ReconstructionConfig(
    pairs=2,
    training=SHORT,
    data=ReconstructionDataConfig(size_px=SIZE, max_gap=2, style=0.0, homographies=0.5),
    matching=MatchingConfig(keypoints=48),
    loss=ReconstructionLossConfig(points=32, near_frames=2),
)


@pytest.fixture
def generator() -> torch.Generator:
    """Leaves the number of threads alone: pictures of 64 px gain nothing from a second one."""
    return torch.Generator().manual_seed(20240607)


def recording(frames: int = 10) -> PhotoSet:
    """A camera that moves three pixels a frame along a wall of random patches."""
    rng = np.random.default_rng(5)
    patches = rng.integers(0, 255, (10, 20, 1), dtype=np.uint8).repeat(3, axis=2)
    wall = patches.repeat(12, axis=0).repeat(12, axis=1)
    images = [np.ascontiguousarray(wall[:100, 3 * i : 3 * i + 130]) for i in range(frames)]
    return PhotoSet([images], [True])


def held_out() -> HeldOutFrames:
    return make_held_out(recording(), 4, 96, 2)


def small_task(
    config: ReconstructionConfig = CONFIG, encoder: KeypointNet | None = None
) -> ReconstructionTask:
    encoder = encoder or KeypointNet(SMALL, generator=torch.Generator().manual_seed(3))
    return ReconstructionTask(
        FramePairs(recording(), config.data).make, held_out=held_out(), config=config,
        encoder=encoder, notes={'command': 'a test'},
    )  # fmt: skip


def with_matching(**values: object) -> ReconstructionConfig:
    matching = dataclasses.replace(CONFIG.matching, **values)  # type: ignore[arg-type]
    return dataclasses.replace(CONFIG, matching=matching)


# ------------------------------------------------------------------------- gradients and flow


@pytest.mark.parametrize(
    'values',
    [{}, {'hard': True}, {'variant': 'dense'}],
    ids=['sparse', 'hard', 'dense'],
)
def test_every_trained_parameter_gets_a_finite_gradient_and_the_memory_none(
    values: dict[str, object], generator: torch.Generator
) -> None:
    task = small_task(with_matching(**values))
    for _ in range(3):
        loss = task.loss(task.batch(generator), 0.5)
        loss.total.backward()
    for name, parameter in task.network.named_parameters():
        if name.startswith('start.'):
            assert parameter.grad is None, name
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert bool((parameter.grad != 0).any()), name
    assert {'rebuild', 'keep', 'place', 'matched'} <= set(loss.parts)


def test_the_rebuilt_image_alone_teaches_the_scores_and_the_descriptors(
    generator: torch.Generator,
) -> None:
    only = ReconstructionLossConfig(truth_weight=0.0, keep_weight=0.0, place_weight=0.0)
    task = small_task(dataclasses.replace(CONFIG, loss=only))
    task.loss(task.batch(generator), 0.5).total.backward()
    for name in ('encoder.score.last.weight', 'encoder.describe.last.weight'):
        gradient = task.network.get_parameter(name).grad
        assert gradient is not None, name
        assert bool((gradient != 0).any()), name


def test_the_decoder_learns_alone_at_first(generator: torch.Generator) -> None:
    task = small_task()
    task.loss(task.batch(generator), 0.0).total.backward()
    moved = {
        name.split('.')[0]
        for name, parameter in task.network.named_parameters()
        if parameter.grad is not None and bool((parameter.grad != 0).any())
    }
    assert moved == {'decoder'}


def test_no_statistics_of_the_start_weights_drift_in_training(
    generator: torch.Generator,
) -> None:
    task = small_task()
    before = {name: value.clone() for name, value in task.network.named_buffers()}
    task.loss(task.batch(generator), 0.5)
    task.network.train()
    task.loss(task.batch(generator), 0.0)
    for name, value in task.network.named_buffers():
        if not name.startswith('decoder.'):
            assert torch.equal(value, before[name]), name


def test_without_start_weights_there_is_nothing_to_keep(generator: torch.Generator) -> None:
    task = ReconstructionTask(
        FramePairs(recording(), CONFIG.data).make, held_out=held_out(), config=CONFIG
    )
    loss = task.loss(task.batch(generator), 0.0)
    assert 'keep' not in loss.parts
    loss.total.backward()
    assert task.network.get_parameter('encoder.trunk.stem.weight').grad is not None


def test_the_same_seed_gives_the_same_batch_and_loss() -> None:
    totals = []
    for _ in range(2):
        task = small_task()
        batch = task.batch(torch.Generator().manual_seed(4))
        totals.append(float(task.loss(batch, 0.5).total.detach()))
    assert totals[0] == totals[1]


@pytest.mark.parametrize('variant', ['sparse', 'dense'])
def test_one_batch_is_learned_by_heart(variant: str, tmp_path: Path) -> None:
    task = small_task(with_matching(variant=variant))
    run = Run(tmp_path / 'run')
    train(task, SHORT, run, Sitting(Plan(steps=40), overfit=True))
    costs = [row['values']['rebuild'] for row in run.rows() if row['kind'] == 'train']
    assert costs[-1] < 0.85 * costs[0]


def told_maps(images: Tensor) -> KeypointMaps:
    """What an encoder says that knows of each cell its brightness and which one it is."""
    count = len(images)
    angle = torch.pi * F.avg_pool2d(grey(images), 8)  # (B, 1, 8, 8)
    name = torch.randn((1, 14, 8, 8), generator=torch.Generator().manual_seed(7))
    name = F.normalize(name, dim=1).expand(count, -1, -1, -1)
    code = F.normalize(torch.cat([angle.cos(), angle.sin(), name], dim=1), dim=1)
    near = ((pixel_grid(SIZE, SIZE) % 8) - 4).square().sum(-1)
    return KeypointMaps(4.0 - near.expand(count, -1, -1), code, torch.ones(count, 16) / 4.0)


@pytest.mark.parametrize('variant', ['sparse', 'dense'])
@pytest.mark.parametrize('hard', [True, False])
def test_noise_for_the_descriptors_of_a_spoils_the_image_rebuilt_from_them(
    variant: str, hard: bool
) -> None:
    """The brightness of B can come over the descriptors of A alone: the images are new each time.

    The decoder alone learns, from an encoder made by hand.
    """
    matching = MatchingConfig(variant=variant, hard=hard, temperature=0.02)
    decoder = Decoder(DecoderConfig((8, 16, 16, 16, 16), 16, 16))
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(1)

    def cost(codes_are_noise: bool = False) -> Tensor:
        coarse = torch.rand((4, 1, 8, 8), generator=generator)
        images = F.interpolate(coarse, size=(SIZE, SIZE), mode='nearest')
        maps_b = maps_a = told_maps(images)
        if codes_are_noise:
            noise = torch.randn(maps_a.descriptor.shape, generator=generator)
            maps_a = maps_a._replace(descriptor=F.normalize(noise, dim=1))
        picture = rebuild(decoder, maps_b, maps_a, matching).picture
        return rebuild_loss(picture, grey(images))

    for _ in range(50):
        optimizer.zero_grad()
        cost().backward()
        optimizer.step()
    with torch.no_grad():
        assert float(cost(codes_are_noise=True)) > 1.3 * float(cost())


@pytest.mark.parametrize('variant', ['sparse', 'dense'])
def test_images_that_show_nothing_give_a_finite_loss(
    variant: str, generator: torch.Generator
) -> None:
    task = small_task(with_matching(variant=variant))
    batch = task.batch(generator)
    blank = torch.full_like(batch.image0, 0.5)
    for image1 in (blank, batch.image1):
        empty = dataclasses.replace(batch, image0=blank, image1=image1)
        loss = task.loss(empty, 0.5)
        loss.total.backward()
        assert torch.isfinite(loss.total)
    for name, parameter in task.network.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


# ------------------------------------------------------------------------------- the terms


def test_a_rebuilt_image_costs_nothing_when_it_is_right_and_more_the_further_it_is_off(
    generator: torch.Generator,
) -> None:
    image = torch.rand((2, 1, 32, 32), generator=generator)
    noise = torch.rand(image.shape, generator=generator) - 0.5
    costs = [float(rebuild_loss((image + k * noise).clamp(0, 1), image)) for k in (0.0, 0.1, 0.5)]
    assert costs[0] == pytest.approx(0.0, abs=1e-6)
    assert costs[0] < costs[1] < costs[2]


def test_nothing_is_forgotten_at_the_start_and_any_change_costs(
    generator: torch.Generator,
) -> None:
    network = KeypointNet(SMALL)
    maps = network(torch.rand((1, 3, 64, 64), generator=generator))
    assert float(keep_loss(maps, maps).detach()) == pytest.approx(0.0, abs=1e-5)
    noise = torch.randn(maps.logits.shape, generator=generator)
    scored = maps._replace(logits=maps.logits + noise)
    turned = maps._replace(descriptor=maps.descriptor.roll(1, 1))
    for changed in (scored, turned):
        assert float(keep_loss(changed, maps).detach()) > 0.01


def test_known_truth_costs_nothing_when_descriptors_tell_the_places_apart() -> None:
    H = torch.tensor([[[1.0, 0.0, 8.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    truth = from_homography(H, (SIZE, SIZE))[0]
    config = ReconstructionLossConfig(points=24, safe_px=12.0)
    codes = torch.eye(72).view(8, 9, 72).permute(2, 0, 1)  # every cell of a wider picture its own
    right = torch.stack([codes[:, :, 1:], codes[:, :, :-1]])  # image 1 begins a cell to the left
    wrong = torch.stack([codes[:, :, 1:], codes[:, :, 1:]])
    costs = [
        float(truth_loss(maps, truth, config, torch.Generator().manual_seed(0)))
        for maps in (right, wrong)
    ]
    assert costs[0] < 0.05 < costs[1]
    assert float(truth_loss(right, None, config, torch.Generator())) == 0.0


def test_places_far_apart_are_pushed_apart_and_neighbours_are_not() -> None:
    config = ReconstructionLossConfig(near_frames=10)
    alike = F.normalize(torch.ones(2, 8), dim=1)
    far = float(place_loss(alike, alike, torch.tensor([0, 50]), config))
    near = float(place_loss(alike, alike, torch.tensor([0, 5]), config))
    assert far == pytest.approx(np.log(2.0), rel=1e-4)
    assert near == pytest.approx(0.0, abs=1e-6)


# -------------------------------------------------------------------------------------- data


def test_the_same_state_makes_the_same_batch_with_known_truth_first() -> None:
    maker = FramePairs(recording(), dataclasses.replace(CONFIG.data, style=0.5))
    one, two = (maker.make(8, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(one.image0, two.image0)
    assert torch.equal(one.image1, two.image1)
    assert one.seed == two.seed
    assert one.truth is not None
    known = len(one.truth.visible)
    assert 0 < known < 8
    assert bool((one.place[:known] > 1000).all())
    assert bool((one.place[known:] < 10).all())


def test_loose_photos_are_refused_with_what_to_pass_instead() -> None:
    photos = PhotoSet([recording().images])
    with pytest.raises(SyntheticError, match=r'frames\.txt'):
        FramePairs(photos)
    FramePairs(photos, ReconstructionDataConfig(homographies=1.0))


def test_scenes_need_a_bank_and_shares_of_more_than_everything_are_refused() -> None:
    with pytest.raises(SyntheticError, match='bank'):
        FramePairs(recording(), ReconstructionDataConfig(scenes=0.5))
    with pytest.raises(SyntheticError, match='at most 1'):
        ReconstructionDataConfig(homographies=0.7, scenes=0.5)


# ------------------------------------------------------------------- validation and the end


def two_views(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of random points seen by two cameras that stand apart and look alike."""
    points = np.stack([rng.uniform(-2, 2, count), rng.uniform(-2, 2, count),
                       rng.uniform(3, 9, count)], axis=1)  # fmt: skip
    angle = np.radians(6.0)
    R = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    moved = points @ R.T + [0.5, 0.1, 0.2]
    return tuple(250.0 * p[:, :2] / p[:, 2:] + 160.0 for p in (points, moved))  # type: ignore[return-value]


def test_right_matches_agree_on_an_epipolar_geometry_and_wrong_ones_do_not(
    rng: np.random.Generator,
) -> None:
    xy0, xy1 = two_views(200, rng)
    xy1[150:] = rng.uniform(0, 320, (50, 2))
    inlier = consistent(xy0, xy1)
    assert inlier[:150].mean() > 0.97
    assert inlier[150:].mean() < 0.2


@pytest.mark.parametrize('count', [0, 5, 12])
def test_few_matches_prove_nothing(count: int, rng: np.random.Generator) -> None:
    assert not consistent(*two_views(count, rng)).any()


def test_validation_tells_all_metrics_and_the_deciding_one_first() -> None:
    task = small_task()
    metrics = task.validate(task.network.eval())
    assert next(iter(metrics)) == 'matching_score'
    assert set(metrics) == {
        'matching_score', 'restyled_score', 'inlier_ratio', 'inliers', 'coverage', 'place',
        'carried', 'rebuild',
    }  # fmt: skip
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics == task.validate(task.network)


def test_a_blind_network_scores_zero_and_is_no_error() -> None:
    task = small_task()
    network = task.network
    assert isinstance(network, ReconstructionNet)
    forward = network.forward

    def blind(image: Tensor) -> KeypointMaps:
        maps = forward(image)
        return maps._replace(logits=torch.full_like(maps.logits, -20.0))

    network.forward = blind  # type: ignore[method-assign]
    metrics = task.validate(network)
    assert metrics['matching_score'] == metrics['coverage'] == metrics['inlier_ratio'] == 0.0


def test_a_plateau_or_the_threshold_ends_a_run() -> None:
    patient = Plateau(StopConfig(patience=2, gain=0.01))
    seen = []
    for loss in (1.0, 0.9, 0.899, 0.8, 0.8, 0.8):
        patient.see(loss)
        seen.append(patient.reached)
    assert seen == [False, False, False, False, False, True]
    threshold = Plateau(StopConfig(below=0.5))
    threshold.see(0.51)
    assert not threshold.reached
    threshold.see(0.49)
    threshold.see(0.9)
    assert threshold.reached
    never = Plateau(StopConfig())
    for _ in range(50):
        never.see(1.0)
    assert not never.reached


def test_a_task_says_when_it_has_converged() -> None:
    task = small_task(dataclasses.replace(CONFIG, stop=StopConfig(below=1.0)))
    assert not task.converged
    task.validate(task.network)
    assert task.converged


def test_what_is_shipped_is_the_encoder_alone(tmp_path: Path) -> None:
    task = small_task()
    task.export(task.network, tmp_path / 'w.safetensors')
    loaded = load_keypoint_net(tmp_path / 'w.safetensors')
    assert loaded.config == SMALL
    assert isinstance(task.network, ReconstructionNet)
    image = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    for one, two in zip(loaded(image), task.network.encoder(image), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_a_resumed_run_still_knows_the_weights_it_began_with(tmp_path: Path) -> None:
    first = small_task()
    began = {name: value.clone() for name, value in first.network.state_dict().items()}
    train(first, SHORT, Run(tmp_path / 'run'), Sitting(Plan(steps=4)))
    again = ReconstructionTask(
        FramePairs(recording(), CONFIG.data).make, held_out=held_out(), config=CONFIG,
        encoder=None,
    )  # fmt: skip
    # The command gives a resumed run no start weights; sizes are those of this test's network.
    again.network = make_network(KeypointNet(SMALL), remembers=False)
    train(again, SHORT, Run(tmp_path / 'run', resume=True), Sitting(Plan(steps=6), resume=True))
    state = again.network.state_dict()
    assert bool(state['remembers'])
    for name, value in began.items():
        if name.startswith('start.'):
            assert torch.equal(state[name], value), name
    assert not torch.equal(state['encoder.trunk.stem.weight'], began['encoder.trunk.stem.weight'])
