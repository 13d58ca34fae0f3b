"""The texture generator in the loop: gradients, one batch learned by heart, samples that tile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.errors import NetworkError
from kpvo_ros.methods.textures.quality import seam_ratio
from kpvo_ros.methods.textures.sample import draw_conditions, sample_textures
from kpvo_ros.methods.textures.statistics import measure
from kpvo_ros.methods.textures.task import Noised, TexturesTask, noised
from kpvo_ros.nets.diffusion import DiffusionConfig, DiffusionNet, load_diffusion_net
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

SMALL = DiffusionConfig(widths=(16, 16, 32), depths=(1, 1, 1), context=32, examples=16)


def plain(count: int, generator: torch.Generator) -> Tensor:
    """(B, 3, 16, 16) of one colour each."""
    return torch.rand(count, 3, 1, 1, generator=generator).expand(-1, 3, 16, 16).contiguous()


def small_task(seed: int = 0) -> TexturesTask:
    held_out = plain(8, torch.Generator().manual_seed(9))
    return TexturesTask(
        plain, batch=8, held_out=held_out, network=SMALL, seed=seed, notes={'command': 'a test'}
    )


@pytest.fixture(scope='module', autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose time when a second thread waits for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240607)


@pytest.fixture(scope='module')
def trained(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> DiffusionNet:
    """A generator of plain pictures, which are learned in seconds."""
    folder = tmp_path_factory.mktemp('textures') / 'run'
    config = TrainingConfig(
        learning_rate=4e-3, warmup_steps=20, validations=1, ema_decay=0.95, precision='float32'
    )
    train(small_task(), config, Run(folder), Sitting(Plan(steps=300)))
    return load_diffusion_net(folder / 'last.safetensors')


def test_noised_pictures_and_their_velocity_lead_back_to_the_picture(
    generator: torch.Generator,
) -> None:
    pictures = plain(64, generator)
    batch = noised(pictures, generator)
    assert bool((batch.time > 0).all() and (batch.time < 1).all())
    time = batch.time[:, None, None, None]
    clean = batch.noisy - time * batch.velocity
    torch.testing.assert_close(0.5 + 0.5 * clean, pictures, atol=1e-5, rtol=0)
    noise = batch.noisy + (1 - time) * batch.velocity
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    torch.testing.assert_close(batch.condition, measure(pictures))


def test_every_parameter_gets_a_finite_gradient(generator: torch.Generator) -> None:
    task = small_task()
    with torch.no_grad():  # the last layers begin with zeros, behind which no gradient gets
        for parameter in task.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    loss = task.loss(task.batch(generator), 0.5)
    loss.total.backward()
    assert set(loss.parts) == {'velocity'}
    for name, parameter in task.network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert bool((parameter.grad != 0).any()), name


def test_a_network_that_knows_nothing_costs_one(generator: torch.Generator) -> None:
    """Independent pixels with the spread that is assumed leave nothing but the linear guess."""
    clean = 0.5 + 0.25 * torch.randn(64, 3, 32, 32, generator=generator)
    batch = noised(clean, generator)
    cost = small_task().loss(batch, 0.0).total
    assert float(cost.detach()) == pytest.approx(1.0, abs=0.03)


def test_the_same_seed_gives_the_same_batch() -> None:
    first, second = (small_task().batch(torch.Generator().manual_seed(4)) for _ in range(2))
    assert isinstance(first, Noised)
    assert torch.equal(first.noisy, second.noisy) and torch.equal(first.time, second.time)


def test_the_network_keeps_conditions_of_training_pictures(
    generator: torch.Generator,
) -> None:
    examples = small_task().network.examples
    assert isinstance(examples, Tensor) and examples.shape == (16, 7)
    assert bool((examples[:, :3].abs() <= 2.0).all()) and float(examples[:, 0].std()) > 0.5


def test_validation_tells_fit_spectrum_and_seam() -> None:
    task = small_task()
    metrics = task.validate(task.network)
    assert list(metrics) == ['fit', 'spectrum', 'seam']
    assert metrics == task.validate(task.network), 'the same pictures, noise and times each time'


def test_a_trained_generator_makes_pictures_of_the_colour_that_is_asked_for(
    trained: DiffusionNet, generator: torch.Generator
) -> None:
    wanted = torch.tensor([[0.2, 0.8, 0.5], [0.7, 0.3, 0.3], [0.5, 0.5, 0.9]])
    pictures = wanted[:, :, None, None].expand(-1, -1, 16, 16)
    made = sample_textures(trained, 3, 16, generator, conditions=measure(pictures))
    colour = made.mean(dim=(2, 3))
    assert float((colour - wanted).abs().mean()) < 0.12
    assert torch.cdist(colour, wanted).argmin(dim=1).tolist() == [0, 1, 2]
    assert float(made.std(dim=(2, 3)).mean()) < 0.2


@pytest.mark.parametrize('size', [16, 40])
def test_samples_tile_at_any_size_and_repeat_with_their_seed(
    trained: DiffusionNet, size: int
) -> None:
    made = [
        sample_textures(trained, 8, size, torch.Generator().manual_seed(5), steps=4)
        for _ in range(2)
    ]
    assert torch.equal(made[0], made[1])
    assert made[0].shape == (8, 3, size, size)
    assert float(made[0].min()) >= 0.0 and float(made[0].max()) <= 1.0
    assert seam_ratio(made[0]) == pytest.approx(1.0, abs=0.25)


def test_conditions_are_drawn_near_those_of_training_pictures(
    trained: DiffusionNet, generator: torch.Generator
) -> None:
    drawn = draw_conditions(trained, 400, generator)
    drawn, known = drawn[:, :3], trained.examples[:, :3]  # colour is all in which these differ
    scale = known.std(dim=0)
    distance = torch.cdist(drawn / scale, known / scale).min(dim=1).values
    assert 0.05 < float(distance.mean()) < 1.0
    nearest = torch.cdist(drawn / scale, known / scale).argmin(dim=1)
    assert len(nearest.unique()) > 12, 'of 16'


@pytest.mark.parametrize(('count', 'steps'), [(0, 4), (2, 0)])
def test_senseless_numbers_are_refused(
    trained: DiffusionNet, generator: torch.Generator, count: int, steps: int
) -> None:
    with pytest.raises(NetworkError, match='at least 1'):
        sample_textures(trained, count, 16, generator, steps=steps)


def test_exported_weights_say_where_they_come_from(tmp_path: Path) -> None:
    from kpvo_ros.nets.checkpoint import load_weights

    task = small_task()
    task.export(task.network, tmp_path / 'w.safetensors')
    _, words = load_weights(tmp_path / 'w.safetensors', kind='diffusion')
    assert words['command'] == 'a test'
