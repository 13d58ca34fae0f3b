"""What training textures are made of, and the numbers that describe them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kpvo_ros.methods.textures.data import (
    TextureDataConfig,
    TextureMaker,
    even_parts,
    recoloured,
)
from kpvo_ros.methods.textures.quality import seam_ratio, spectrum_distance
from kpvo_ros.methods.textures.statistics import SIZE, evenness, measure
from kpvo_ros.training import TrainingError


def stripes(angle_rad: float, period_px: float = 8.0, size: int = 64) -> Tensor:
    """(1, 3, S, S) grey waves; the brightness changes along the angle, down from the x axis."""
    place = torch.arange(size, dtype=torch.float32)
    along = math.cos(angle_rad) * place[None] + math.sin(angle_rad) * place[:, None]
    return (0.5 + 0.4 * torch.sin(2 * math.pi * along / period_px)).expand(1, 3, size, size)


def noise(generator: torch.Generator, count: int = 4, size: int = 64) -> Tensor:
    return torch.rand(count, 3, size, size, generator=generator)


def test_colour_is_measured_channel_by_channel() -> None:
    picture = torch.tensor([0.25, 0.5, 1.0])[None, :, None, None].expand(1, 3, 16, 16)
    assert measure(picture)[0, :3].tolist() == pytest.approx([-1.0, 0.0, 2.0])
    assert measure(picture).shape == (1, SIZE)
    assert torch.isfinite(measure(picture)).all(), 'also of a plain picture'


@pytest.mark.parametrize('angle_deg', [0, 30, 90, 135])
def test_direction_is_that_of_the_stripes(angle_deg: int) -> None:
    angle = math.radians(angle_deg)
    row = measure(stripes(angle))[0].double()
    strength = 0.5 * torch.linalg.vector_norm(row[5:7])
    assert float(strength) == pytest.approx(1.0, abs=0.05)
    expected = [2 * math.cos(2 * angle), 2 * math.sin(2 * angle)]
    assert row[5:7].tolist() == pytest.approx(expected, abs=0.1)


def test_finer_pictures_have_more_grain_and_paler_ones_less_contrast() -> None:
    fine, coarse = measure(stripes(0.0, 4.0))[0], measure(stripes(0.0, 16.0))[0]
    assert fine[4] > coarse[4] + 1.0
    assert fine[3] == pytest.approx(float(coarse[3]), abs=0.05)
    pale = measure(0.5 + 0.5 * (stripes(0.0, 4.0) - 0.5))[0]
    assert float(fine[3] - pale[3]) == pytest.approx(math.log(2.0), abs=1e-3)
    assert pale[4] == pytest.approx(float(fine[4]), abs=1e-3)


def test_a_texture_is_even_and_a_thing_before_a_wall_is_not(
    torch_generator: torch.Generator,
) -> None:
    texture = noise(torch_generator, 1)
    thing = torch.full((1, 3, 64, 64), 0.5)
    thing[..., 16:48, 16:48] = texture[..., 16:48, 16:48]
    halves = torch.zeros(1, 3, 64, 64)
    halves[..., 32:] = 1.0
    wall = torch.full((1, 3, 64, 64), 0.7)
    values = [float(evenness(picture)) for picture in (texture, thing, halves, wall)]
    assert values[0] > 0.7
    assert max(values[1:]) < 0.05


def test_the_most_even_parts_of_photos_are_kept(rng: np.random.Generator) -> None:
    photo = np.full((64, 96, 3), 90, np.uint8)
    photo[:32, 32:64] = rng.integers(0, 255, (32, 32, 3))
    [part] = even_parts([photo], 32, 0.01)
    np.testing.assert_array_equal(part, photo[:32, 32:64])
    assert len(even_parts([photo, photo], 32, 0.5)) == 6
    assert even_parts([photo[:20]], 32, 0.5) == []


def solid(value: float) -> object:
    def crops(count: int, size_hw: tuple[int, int], generator: torch.Generator) -> Tensor:
        return torch.full((count, 3, *size_hw), value)

    return crops


@pytest.mark.parametrize(('share', 'photos'), [(0.0, 0), (0.25, 2), (1.0, 8)])
def test_a_batch_has_its_share_of_photos(
    share: float, photos: int, torch_generator: torch.Generator
) -> None:
    config = TextureDataConfig(size_px=16, photo_share=share)
    maker = TextureMaker(solid(0.8), solid(0.1), config)  # type: ignore[arg-type]
    batch = maker.make(8, torch_generator)
    assert batch.shape == (8, 3, 16, 16)
    assert int((batch.mean(dim=(1, 2, 3)) > 0.4).sum()) == photos


def test_the_same_generator_gives_the_same_batch() -> None:
    maker = TextureMaker(solid(0.8), solid(0.1), TextureDataConfig())  # type: ignore[arg-type]
    first, second = (maker.make(4, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)


def test_recolouring_keeps_what_a_picture_shows(torch_generator: torch.Generator) -> None:
    pictures = 0.5 * noise(torch_generator, 32, 8)
    changed = recoloured(pictures, torch_generator)
    turned = 0
    for before, after in zip(pictures, changed, strict=True):
        gains = (after.mean(dim=(1, 2)) / before.mean(dim=(1, 2)))[:, None, None]
        same = torch.allclose(after, before * gains, atol=1e-5)
        flipped = torch.allclose(after, before.transpose(1, 2) * gains, atol=1e-5)
        assert same or flipped
        turned += flipped
    assert 4 < turned < 28


def test_a_size_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(TrainingError, match='multiple of 8'):
        TextureDataConfig(size_px=60)


def test_pictures_like_the_real_ones_have_no_spectrum_distance(
    torch_generator: torch.Generator,
) -> None:
    real = noise(torch_generator, 64)
    assert spectrum_distance(real, real) == 0.0
    assert spectrum_distance(noise(torch_generator, 64), real) < 0.2
    # Half the contrast is a quarter of the power: two octaves at every frequency.
    assert spectrum_distance(0.5 * real, real) == pytest.approx(2.0, abs=1e-3)
    blurred = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    assert spectrum_distance(blurred, real) > 1.0


def test_a_seam_is_seen(torch_generator: torch.Generator) -> None:
    waves = torch.cat([stripes(0.0).roll(shift, 3) for shift in range(8)])
    assert seam_ratio(torch.cat([waves, waves.transpose(2, 3)])) == pytest.approx(1.0, abs=1e-3)
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    assert seam_ratio(0.5 * (ramp + ramp.transpose(2, 3))) > 20
    assert seam_ratio(noise(torch_generator, 64)) == pytest.approx(1.0, abs=0.05)
