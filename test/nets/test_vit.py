"""The encoder: patches, positions, any size, any choice of patches, and what must not matter."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor
import torch.nn.functional as F

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.vit import (
    OFF,
    ON,
    VisionTransformer,
    VitConfig,
    patches,
    sinusoidal_positions,
)

SMALL = VitConfig(width=16, depth=2, heads=2, mlp_ratio=2, patch_px=8)
RICH = dataclasses.replace(SMALL, class_token=ON, layer_scale=ON, learned_grid=(4, 5))


def picture(generator: torch.Generator, *shape: int) -> Tensor:
    """Smooth noise (B, C, H, W) in 0..1."""
    return F.avg_pool2d(torch.rand(*shape, generator=generator), 3, 1, 1)


def test_patches_are_cut_row_by_row(torch_generator: torch.Generator) -> None:
    image = torch.rand(2, 3, 16, 24, generator=torch_generator)
    cut = patches(image, 8)
    assert cut.shape == (2, 6, 3 * 64)
    for i in range(6):
        top, left = 8 * (i // 3), 8 * (i % 3)
        assert torch.equal(cut[:, i], image[:, :, top : top + 8, left : left + 8].flatten(1))


def test_positions_are_waves_of_row_and_column() -> None:
    width = 16
    found = sinusoidal_positions(3, 5, width)
    for row in range(3):
        for column in range(5):
            speed = [10000 ** (-i / 4) for i in range(4)]
            expected = [
                f(p * s) for p in (row, column) for f in (math.sin, math.cos) for s in speed
            ]
            torch.testing.assert_close(found[5 * row + column], torch.tensor(expected))


def test_likeness_of_positions_depends_on_their_distance_alone() -> None:
    found = sinusoidal_positions(6, 7, 32).unflatten(0, (6, 7))
    here = (found[:-2, :-3] * found[2:, 3:]).sum(-1)  # two rows and three columns apart
    torch.testing.assert_close(here, here[:1, :1].expand_as(here))
    apart = (found.flatten(0, 1)[:, None] - found.flatten(0, 1)).norm(dim=-1)
    assert float((apart + 9 * torch.eye(42)).min()) > 0.5


@pytest.mark.parametrize('size', [(8, 8), (16, 40), (64, 24)])
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('config', [SMALL, RICH], ids=['plain', 'rich'])
def test_every_patch_gets_a_token(
    torch_generator: torch.Generator, size: tuple[int, int], channels: int, config: VitConfig
) -> None:
    encoder = VisionTransformer(config, generator=torch_generator)
    encoded = encoder(picture(torch_generator, 2, channels, *size))
    assert encoded.grid == (size[0] // 8, size[1] // 8)
    assert encoded.tokens.shape == (2, size[0] * size[1] // 64, 16)
    assert torch.isfinite(encoded.tokens).all()
    assert (encoded.class_token is None) == (config.class_token == OFF)
    if encoded.class_token is not None:
        assert encoded.class_token.shape == (2, 16) and torch.isfinite(encoded.class_token).all()


@torch.inference_mode()
def test_a_choice_of_all_patches_is_the_whole_in_the_order_of_the_choice(
    torch_generator: torch.Generator,
) -> None:
    encoder = VisionTransformer(RICH, generator=torch_generator)
    image = picture(torch_generator, 2, 3, 24, 32)
    order = torch.stack([torch.randperm(12, generator=torch_generator) for _ in range(2)])
    whole, chosen = encoder(image), encoder(image, order)
    expected = torch.stack([whole.tokens[i, order[i]] for i in range(2)])
    torch.testing.assert_close(chosen.tokens, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chosen.class_token, whole.class_token, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_what_is_in_the_patches_that_are_not_chosen_does_not_matter(
    torch_generator: torch.Generator,
) -> None:
    encoder = VisionTransformer(SMALL, generator=torch_generator)
    image = picture(torch_generator, 1, 3, 16, 24)
    other = image.clone()  # patches 1 and 5 exchanged, which leaves the exposure as it is
    other[..., :8, 8:16], other[..., 8:, 16:] = image[..., 8:, 16:], image[..., :8, 8:16]
    keep = torch.tensor([[0, 2, 3, 4]])
    seen, same = encoder(image, keep).tokens, encoder(other, keep).tokens
    assert seen.shape == (1, 4, 16)
    torch.testing.assert_close(seen, same, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(encoder(image).tokens[:, keep[0]], seen, atol=1e-2)


@torch.inference_mode()
def test_no_chosen_patch_gives_no_token() -> None:
    keep = torch.zeros(2, 0, dtype=torch.int64)
    image = torch.zeros(2, 1, 16, 16)
    assert VisionTransformer(SMALL)(image, keep).tokens.shape == (2, 0, 16)
    encoded = VisionTransformer(RICH)(image, keep)
    assert encoded.class_token is not None and torch.isfinite(encoded.class_token).all()


@torch.inference_mode()
def test_exposure_hardly_changes_the_tokens_and_three_equal_colours_are_grey(
    torch_generator: torch.Generator,
) -> None:
    encoder = VisionTransformer(SMALL, generator=torch_generator)
    image = torch.rand(1, 1, 32, 32, generator=torch_generator)
    tokens = encoder(image).tokens
    darker = encoder(0.5 * image + 0.1).tokens
    assert float((tokens - darker).norm() / tokens.norm()) < 0.05
    torch.testing.assert_close(encoder(image.expand(1, 3, 32, 32)).tokens, tokens)


@torch.inference_mode()
def test_a_picture_without_contrast_is_no_nan() -> None:
    assert torch.isfinite(VisionTransformer(SMALL)(torch.full((1, 3, 16, 16), 0.7)).tokens).all()


@torch.inference_mode()
def test_learned_positions_start_as_the_fixed_ones_and_are_spread_over_other_sizes(
    torch_generator: torch.Generator,
) -> None:
    learned = VisionTransformer(dataclasses.replace(SMALL, learned_grid=(4, 5)))
    image = picture(torch_generator, 1, 1, 32, 40)
    expected = VisionTransformer(SMALL)(image).tokens
    torch.testing.assert_close(learned(image).tokens, expected)
    # A ramp from column to column, for half as many: each lies between two (but for the borders).
    wide = VisionTransformer(dataclasses.replace(SMALL, learned_grid=(4, 10)))
    wide.positions.copy_(torch.arange(10.0).expand(1, 16, 4, 10))
    found = wide._positions(4, 5, image.device).unflatten(0, (4, 5))[:, 1:-1]
    expected = torch.tensor([2.5, 4.5, 6.5])[:, None].expand(4, 3, 16)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('config', [SMALL, RICH], ids=['plain', 'rich'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_finite_gradient(
    torch_generator: torch.Generator, config: VitConfig, dtype: torch.dtype
) -> None:
    encoder = VisionTransformer(config, generator=torch_generator)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        tokens = encoder(picture(torch_generator, 2, 3, 24, 32)).tokens
    (tokens * torch.randn(tokens.shape, generator=torch_generator)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_same_seed_makes_the_same_encoder_and_draws_nothing_else() -> None:
    state = torch.get_rng_state()
    made = [VisionTransformer(RICH, generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in made)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ('image', 'keep', 'line'),
    [
        (torch.zeros(1, 2, 16, 16), None, '1 or 3'),
        (torch.zeros(3, 16, 16), None, '1 or 3'),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), None, 'floating point'),
        (torch.zeros(1, 3, 16, 20), None, '20x16.*multiples of 8'),
        (torch.zeros(1, 3, 0, 16), None, 'multiples of 8'),
        (torch.zeros(1, 3, 16, 16), torch.tensor([[4]]), '4..4; the image has 0..3'),
        (torch.zeros(1, 3, 16, 16), torch.tensor([[-1]]), '0..3'),
        (torch.zeros(1, 3, 16, 16), torch.tensor([1]), 'B = 1'),
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 4, dtype=torch.bool), 'int64'),
    ],
    ids=str,
)
def test_what_cannot_be_encoded_is_refused(image: Tensor, keep: Tensor | None, line: str) -> None:
    with pytest.raises(NetworkError, match=line):
        VisionTransformer(SMALL)(image, keep)


@pytest.mark.parametrize(
    'change',
    [{'width': 18}, {'heads': 3}, {'depth': 65}, {'depth': 0}, {'class_token': 3}],
    ids=str,
)
def test_sizes_no_encoder_has_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(NetworkError, match='give'):
        dataclasses.replace(SMALL, **change)
