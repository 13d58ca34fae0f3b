"""Method A in the loop: gradients everywhere, one batch learned by heart, weights that load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from kpvo_ros.config.training import TrainingConfig
from kpvo_ros.errors import NetworkError
from kpvo_ros.geometry.sampling import pixel_grid
from kpvo_ros.methods.homography.held_out import HeldOut, make_held_out, score_held_out
from kpvo_ros.methods.homography.loss import HomographyLossConfig
from kpvo_ros.methods.homography.task import HomographyTask
from kpvo_ros.nets.checkpoint import load_weights
from kpvo_ros.nets.keypoint import KeypointMaps
from kpvo_ros.synthetic.correspondence import Pairs, from_homography
from kpvo_ros.synthetic.homography import (
    HomographyLimits,
    random_homographies,
    warp_by_homography,
)
from kpvo_ros.training.loop import Sitting, train
from kpvo_ros.training.run import Run
from kpvo_ros.training.schedule import Plan

SIZE = 64
CALM = HomographyLimits(tilt_deg=20.0, roll_deg=15.0, any_roll_share=0.0, scale=1.2)


def photos(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Coarse and fine random patches, which have corners everywhere."""
    coarse = torch.rand((count, 3, size // 8, size // 8), generator=generator)
    fine = torch.rand((count, 3, size // 3, size // 3), generator=generator)
    grown = [F.interpolate(x, size=(size, size), mode='nearest') for x in (coarse, fine)]
    return 0.7 * grown[0] + 0.3 * grown[1]


def make_pairs(count: int, generator: torch.Generator) -> Pairs:
    image0 = photos(count, SIZE, generator)
    H = random_homographies(count, (SIZE, SIZE), generator, CALM)
    to1, to0 = from_homography(H, (SIZE, SIZE))
    still = torch.zeros((count, SIZE, SIZE), dtype=torch.bool)
    return Pairs(image0, warp_by_homography(image0, H)[0], to1, to0, still, still)


def small_task(seed: int = 0, init: dict[str, Tensor] | None = None) -> HomographyTask:
    held_out = photos(4, 96, torch.Generator().manual_seed(9))
    loss = HomographyLossConfig(points=48)
    return HomographyTask(
        make_pairs, pairs=2, held_out=held_out, loss=loss, seed=seed, init=init,
        notes={'command': 'a test'},
    )  # fmt: skip


@pytest.mark.parametrize('progress', [0.0, 0.12, 0.9])
def test_every_parameter_gets_a_finite_gradient(
    progress: float, torch_generator: torch.Generator
) -> None:
    task = small_task()
    for _ in range(3):  # a first batch may have no peak that deserves a score
        loss = task.loss(task.batch(torch_generator), progress)
        loss.total.backward()
    for name, parameter in task.network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert bool((parameter.grad != 0).any()), name
    named = {'descriptor', 'score', 'place', 'image', 'keypoints', 'teacher'}
    assert set(loss.parts) == named


def test_the_same_seed_gives_the_same_batch_and_loss() -> None:
    totals = []
    for _ in range(2):
        task = small_task(seed=3)
        batch = task.batch(torch.Generator().manual_seed(4))
        totals.append(float(task.loss(batch, 0.5).total.detach()))
    assert totals[0] == totals[1]


def test_one_batch_is_learned_by_heart(tmp_path: Path) -> None:
    task = small_task()
    config = TrainingConfig(warmup_steps=5, log_every_steps=1, precision='float32')
    run = Run(tmp_path / 'run')
    train(task, config, run, Sitting(Plan(steps=40), overfit=True))
    rows = [row['values'] for row in run.rows() if row['kind'] == 'train']
    assert rows[-1]['descriptor'] < 0.5 * rows[0]['descriptor']
    assert rows[-1]['score'] < 0.7 * rows[0]['score']


def test_what_is_shipped_loads_as_keypoint_weights_and_starts_another_run(tmp_path: Path) -> None:
    task = small_task(seed=1)
    task.export(task.network, tmp_path / 'w.safetensors')
    state, words = load_weights(tmp_path / 'w.safetensors', kind='keypoint')
    assert words['command'] == 'a test'
    other = small_task(seed=2, init=state)
    for name, value in task.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name
    with pytest.raises(NetworkError):
        small_task(init={'nothing': torch.ones(1)})


class _Oracle(nn.Module):
    """Knows the pair it is shown: peaks on the grid of image 0, descriptors of its places."""

    def __init__(self, pairs: HeldOut) -> None:
        super().__init__()
        self._pairs = pairs

    def forward(self, image: Tensor) -> KeypointMaps:
        height, width = image.shape[-2:]
        first = torch.equal(image, self._pairs.image0)
        inverse = torch.linalg.inv(self._pairs.H_0to1)
        H = torch.eye(3).expand(len(image), 3, 3) if first else inverse
        full = _mapped(H, pixel_grid(height, width))
        near = ((full % 12) - 6).square().sum(-1)
        cells = _mapped(H, 8.0 * pixel_grid(height // 8, width // 8) + 3.5)
        waves = [f(cells * k / 60.0) for k in (1, 2, 4) for f in (torch.sin, torch.cos)]
        code = F.normalize(torch.cat(waves, dim=-1).permute(0, 3, 1, 2), dim=1)
        vector = F.normalize(torch.eye(len(image), 8), dim=1)
        return KeypointMaps(8.0 - near, code, vector)


def _mapped(H: Tensor, xy: Tensor) -> Tensor:
    points = torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1)
    mapped = torch.einsum('bij,hwj->bhwi', H, points)
    return mapped[..., :2] / mapped[..., 2:]


def test_who_knows_the_answer_scores_high_and_an_untrained_network_does_not() -> None:
    generator = torch.Generator().manual_seed(2)
    pairs = make_held_out(photos(6, 192, generator), generator)
    knows = score_held_out(_Oracle(pairs), pairs)
    guesses = score_held_out(small_task().network.eval(), pairs)
    assert next(iter(knows)) == 'corner_auc'
    assert knows['corner_auc'] > 0.6
    assert knows['repeatability'] > 0.75
    assert knows['place'] == 1.0
    for name in ('corner_auc', 'match_1px', 'match_3px', 'repeatability'):
        assert guesses[name] < knows[name], name


def test_an_image_without_any_keypoint_scores_zero_and_is_no_error() -> None:
    class Blind(nn.Module):
        def forward(self, image: Tensor) -> KeypointMaps:
            count, _, height, width = image.shape
            dark = torch.full((count, height, width), -20.0)
            code = F.normalize(torch.ones(count, 4, height // 8, width // 8), dim=1)
            return KeypointMaps(dark, code, F.normalize(torch.ones(count, 4), dim=1))

    generator = torch.Generator().manual_seed(2)
    pairs = make_held_out(photos(2, 96, generator), generator)
    metrics = score_held_out(Blind(), pairs)
    assert metrics['keypoints'] == metrics['match_3px'] == metrics['corner_auc'] == 0.0
