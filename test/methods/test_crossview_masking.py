"""Patches and masks: cutting and joining are inverse, masks are fair, only the hidden costs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kpvo_ros.errors import ConfigError, GeometryError
from kpvo_ros.methods.crossview.masking import (
    completion_loss,
    normalize_patches,
    patchify,
    random_masks,
    restore,
    take,
    unpatchify,
)


@pytest.fixture
def image(torch_generator: torch.Generator) -> Tensor:
    return torch.rand((2, 3, 12, 20), generator=torch_generator)


def test_patches_are_the_squares_of_the_image_row_by_row(image: Tensor) -> None:
    patches = patchify(image, 4)
    assert patches.shape == (2, 3 * 5, 3 * 4 * 4)
    for index, (y, x) in {0: (0, 0), 4: (0, 16), 5: (4, 0), 13: (8, 12)}.items():
        assert torch.equal(patches[:, index].reshape(2, 3, 4, 4), image[..., y : y + 4, x : x + 4])


@pytest.mark.parametrize('size_px', [1, 2, 4])
def test_joining_patches_gives_the_image_back(image: Tensor, size_px: int) -> None:
    assert torch.equal(unpatchify(patchify(image, size_px), size_px, (12, 20)), image)


@pytest.mark.parametrize(
    ('patches', 'ratio', 'hidden'),
    [(100, 0.9, 90), (196, 0.75, 147), (4, 0.99, 3), (4, 0.01, 1), (2, 0.5, 1)],
)
def test_kept_and_masked_patches_are_all_patches_once(
    patches: int, ratio: float, hidden: int, torch_generator: torch.Generator
) -> None:
    masks = random_masks(5, patches, ratio, torch_generator)
    assert masks.masked.shape == (5, hidden)
    for kept, masked, is_masked in zip(masks.kept, masks.masked, masks.is_masked, strict=True):
        assert sorted(kept.tolist() + masked.tolist()) == list(range(patches))
        assert kept.tolist() == sorted(kept.tolist())
        assert is_masked.nonzero().squeeze(1).tolist() == masked.tolist()


def test_masks_depend_on_the_generator_alone_and_differ_between_images() -> None:
    one, same, other = (
        random_masks(3, 60, 0.5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one.kept, same.kept)
    assert not torch.equal(one.kept, other.kept)
    assert not torch.equal(one.kept[0], one.kept[1])


def test_every_patch_is_masked_as_often(torch_generator: torch.Generator) -> None:
    often = random_masks(4000, 12, 0.75, torch_generator).is_masked.float().mean(dim=0)
    # Standard deviation of a share of 4000 draws: 0.007.
    assert float((often - 0.75).abs().max()) < 0.035


def test_kept_tokens_return_to_their_places_and_a_filler_takes_the_others(
    torch_generator: torch.Generator,
) -> None:
    tokens = torch.randn((3, 10, 4), generator=torch_generator)
    masks = random_masks(3, 10, 0.7, torch_generator)
    filler = torch.tensor([9.0, 8.0, 7.0, 6.0], requires_grad=True)
    whole = restore(take(tokens, masks.kept), filler, masks)
    hidden = masks.is_masked
    assert torch.equal(whole[~hidden], tokens[~hidden])
    assert torch.equal(whole[hidden], filler.expand(21, 4))
    whole.sum().backward()
    assert filler.grad is not None
    assert filler.grad.tolist() == [21.0] * 4
    both = restore(take(tokens, masks.kept), take(tokens, masks.masked), masks)
    assert torch.equal(both, tokens)


def test_normal_patches_forget_brightness_and_contrast(torch_generator: torch.Generator) -> None:
    patches = torch.rand((2, 5, 48), generator=torch_generator, dtype=torch.float64)
    normal, mean, deviation = normalize_patches(patches)
    torch.testing.assert_close(normal.mean(dim=-1), torch.zeros(2, 5, dtype=torch.float64))
    assert float((normal.var(dim=-1, correction=0) - 1).abs().max()) < 1e-4
    torch.testing.assert_close(normal * deviation + mean, patches)
    brighter, _, _ = normalize_patches(0.5 * patches + 0.3)
    torch.testing.assert_close(brighter, normal, atol=1e-3, rtol=0)


def test_a_patch_of_one_colour_is_zero_with_finite_gradients() -> None:
    patches = torch.full((1, 2, 12), 0.4, requires_grad=True)
    normal, _, _ = normalize_patches(patches)
    normal.square().sum().backward()
    assert float(normal.detach().abs().max()) < 1e-3
    assert patches.grad is not None
    assert torch.isfinite(patches.grad).all()


@pytest.mark.parametrize('normalized', [True, False])
def test_the_right_patches_cost_nothing_and_wrong_ones_their_square(
    normalized: bool, image: Tensor, torch_generator: torch.Generator
) -> None:
    masks = random_masks(2, 15, 0.6, torch_generator)
    truth = patchify(image, 4)
    if normalized:
        truth = (truth - truth.mean(-1, keepdim=True)) / truth.std(-1, keepdim=True, correction=0)
    loss = completion_loss(truth, image, masks, 4, normalized)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    for step in (-0.5, 0.5):
        loss = completion_loss(truth + step, image, masks, 4, normalized)
        assert float(loss) == pytest.approx(0.25, rel=1e-3)


def test_only_masked_patches_cost_and_learn(
    image: Tensor, torch_generator: torch.Generator
) -> None:
    masks = random_masks(2, 15, 0.6, torch_generator)
    guess = torch.randn((2, 15, 48), generator=torch_generator, requires_grad=True)
    completion_loss(guess, image, masks, 4).backward()
    assert guess.grad is not None
    touched = guess.grad.abs().amax(dim=-1) > 0
    assert torch.equal(touched, masks.is_masked)
    seen_wrong = torch.where(masks.is_masked[..., None], guess.detach(), 1e6)
    assert float(completion_loss(seen_wrong, image, masks, 4)) == pytest.approx(
        float(completion_loss(guess.detach(), image, masks, 4))
    )


def test_guessing_nothing_costs_the_variance(
    image: Tensor, torch_generator: torch.Generator
) -> None:
    masks = random_masks(2, 15, 0.6, torch_generator)
    nothing = torch.zeros(2, 15, 48)
    assert float(completion_loss(nothing, image, masks, 4)) == pytest.approx(1.0, rel=1e-3)
    half = completion_loss(nothing.bfloat16(), image, masks, 4)
    assert half.dtype == torch.float32


def test_mistakes_are_named(image: Tensor, torch_generator: torch.Generator) -> None:
    for ratio in (0.0, 1.0, -0.1):
        with pytest.raises(ConfigError, match=str(ratio)):
            random_masks(1, 10, ratio, torch_generator)
    with pytest.raises(ConfigError, match='1 patches'):
        random_masks(1, 1, 0.5, torch_generator)
    with pytest.raises(GeometryError, match=r'\(2, 3, 12, 20\)'):
        patchify(image, 8)
    with pytest.raises(GeometryError, match='12 x 24'):
        unpatchify(patchify(image, 4), 4, (12, 24))
    masks = random_masks(2, 15, 0.6, torch_generator)
    with pytest.raises(GeometryError, match=r'\(2, 14, 48\)'):
        completion_loss(torch.zeros(2, 14, 48), image, masks, 4)
