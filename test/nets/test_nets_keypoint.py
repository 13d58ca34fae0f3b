"""The keypoint network: sizes, gradients, what must not change its answer, and its budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
import torch.nn.functional as F

from kpvo_ros.errors import NetworkError
from kpvo_ros.nets.detection import sample_descriptors
from kpvo_ros.nets.keypoint import KeypointNet, KeypointNetConfig
from kpvo_ros.nets.layers import GeneralizedMean, NormedConv2d, StandardConv2d, upsampled

# Half the picture a keypoint depends on, in pixels: see the stages of nets/keypoint.py.
REACH_PX = 300


@pytest.fixture
def network(torch_generator: torch.Generator) -> KeypointNet:
    return KeypointNet(generator=torch_generator).eval()


def picture(generator: torch.Generator, *shape: int) -> Tensor:
    """Smooth noise (B, C, H, W) in 0..1."""
    return F.avg_pool2d(torch.rand(*shape, generator=generator), 3, 1, 1)


@pytest.mark.parametrize('size', [(32, 32), (33, 47), (61, 160), (96, 64), (255, 257)])
@pytest.mark.parametrize('channels', [1, 3])
def test_every_pixel_gets_a_logit_and_every_cell_a_unit_descriptor(
    network: KeypointNet, torch_generator: torch.Generator, size: tuple[int, int], channels: int
) -> None:
    height, width = size
    maps = network(picture(torch_generator, 2, channels, height, width))
    assert maps.logits.shape == (2, height, width)
    assert maps.descriptor.shape == (2, 64, (height + 7) // 8, (width + 7) // 8)
    assert maps.image_descriptor.shape == (2, 256)
    for tensor in maps:
        assert tensor.dtype == torch.float32 and torch.isfinite(tensor).all()
    for unit in (maps.descriptor, maps.image_descriptor):
        length = unit.norm(dim=1)
        torch.testing.assert_close(length, torch.ones_like(length))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_gradient_and_none_is_nan(
    network: KeypointNet, torch_generator: torch.Generator, dtype: torch.dtype
) -> None:
    image = picture(torch_generator, 2, 3, 96, 128)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        maps = network(image)
    # Weighted by noise, since a unit vector's squares have no slope.
    loss = sum((m * torch.randn(m.shape, generator=torch_generator)).sum() for m in maps)
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_no_network_of_eight_tenths_of_a_million_parameters_is_too_large(
    network: KeypointNet,
) -> None:
    assert sum(p.numel() for p in network.parameters()) <= 800_000


@torch.inference_mode()
def test_a_picture_moved_by_the_coarsest_cell_has_moved_logits_and_descriptors(
    network: KeypointNet, torch_generator: torch.Generator
) -> None:
    side, shift = 2 * REACH_PX + 136, 32
    image = torch.full((1, 1, side + 32, side + 32), 0.5)
    image[..., 300:-300, 300:-300] = torch.rand(
        image[..., 300:-300, 300:-300].shape, generator=torch_generator
    )
    moved = image.roll((shift, shift), (2, 3))
    maps, other = network(image), network(moved)
    middle = slice(side // 2 - 16, side // 2 + 16)
    there = slice(middle.start + shift, middle.stop + shift)
    torch.testing.assert_close(
        other.logits[:, there, there], maps.logits[:, middle, middle], rtol=0, atol=1e-4
    )
    cells, moved_cells = slice(40, 44), slice(44, 48)
    torch.testing.assert_close(
        other.descriptor[..., moved_cells, moved_cells],
        maps.descriptor[..., cells, cells],
        rtol=0,
        atol=1e-4,
    )


@torch.inference_mode()
def test_a_mirrored_stem_centres_every_map_where_it_is_said_to_be(
    torch_generator: torch.Generator,
) -> None:
    """With filters that are their own mirror image, a mirrored picture has mirrored maps."""
    network = KeypointNet(generator=torch_generator)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module is not network.score.last:
            module.weight += module.weight.flip(-1)
    # The four logits of a cell are left right, left right.
    last = network.score.last.weight
    last.copy_((last + last[[1, 0, 3, 2]].flip(-1)) / 2)
    image = picture(torch_generator, 1, 1, 64, 96)
    maps, mirrored = network(image), network(image.flip(-1))
    torch.testing.assert_close(mirrored.logits.flip(-1), maps.logits, rtol=0, atol=1e-3)
    xy = torch.tensor([[[20.0, 30.0], [47.5, 31.5], [71.25, 11.0]]])
    here = sample_descriptors(maps.descriptor, xy)
    there = sample_descriptors(
        mirrored.descriptor, torch.tensor([95.0, 0.0]) + xy * torch.tensor([-1.0, 1.0])
    )
    torch.testing.assert_close(here, there, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_exposure_and_contrast_hardly_change_the_answer(
    network: KeypointNet, torch_generator: torch.Generator
) -> None:
    image = picture(torch_generator, 1, 1, 64, 64)
    contrast = image.std(correction=0)
    maps, darker = network(image), network(0.5 * image + 0.1)
    # All that is left is the noise floor of 0.01 under the contrast: a factor near one.
    factor = (contrast + 0.01) / (0.5 * contrast + 0.01) * 0.5
    assert 0.9 < factor < 1.0
    torch.testing.assert_close(maps.image_descriptor, darker.image_descriptor, rtol=0, atol=0.02)
    likeness = (maps.descriptor * darker.descriptor).sum(1)
    assert likeness.min() > 0.99


@torch.inference_mode()
def test_grey_as_three_equal_channels_is_grey(
    network: KeypointNet, torch_generator: torch.Generator
) -> None:
    gray = picture(torch_generator, 1, 1, 64, 64)
    for one, three in zip(network(gray), network(gray.expand(1, 3, 64, 64)), strict=True):
        torch.testing.assert_close(one, three, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_what_else_is_in_the_batch_does_not_matter(
    network: KeypointNet, torch_generator: torch.Generator
) -> None:
    images = picture(torch_generator, 3, 1, 64, 64)
    alone = network(images[1:2])
    for single, batch in zip(alone, network(images), strict=True):
        torch.testing.assert_close(single[0], batch[1], rtol=0, atol=1e-4)


def disturbed(network: KeypointNet, generator: torch.Generator) -> KeypointNet:
    """As if it had been trained: no gain is one, no bias zero, and the statistics are known."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        for _ in range(20):
            network.train()(picture(generator, 2, 1, 64, 64))
    return network.eval()


@torch.inference_mode()
def test_the_fused_network_gives_the_same_maps_without_gradients(
    network: KeypointNet, torch_generator: torch.Generator
) -> None:
    network = disturbed(network, torch_generator)
    fused = network.fused()
    assert not any(isinstance(module, NormedConv2d) for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert all(parameter.requires_grad for parameter in network.parameters())
    image = picture(torch_generator, 1, 1, 64, 96)
    for whole, folded in zip(network(image), fused(image), strict=True):
        torch.testing.assert_close(whole, folded, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_half_precision_changes_descriptors_little(
    network: KeypointNet, torch_generator: torch.Generator
) -> None:
    image = picture(torch_generator, 1, 1, 64, 96)
    exact, rough = network.fused()(image), network.fused(torch.bfloat16)(image)
    assert all(tensor.dtype == torch.float32 for tensor in rough)
    assert (exact.descriptor * rough.descriptor).sum(1).min() > 0.99
    assert (exact.image_descriptor * rough.image_descriptor).sum(1).min() > 0.99
    assert (exact.logits - rough.logits).abs().max() < 0.2 * exact.logits.std()


def test_the_same_seed_makes_the_same_network_and_draws_nothing_else() -> None:
    state = torch.get_rng_state()
    networks = [KeypointNet(generator=torch.Generator().manual_seed(s)) for s in (5, 5, 6)]
    KeypointNet()
    assert torch.equal(torch.get_rng_state(), state)
    one, same, other = (torch.cat([p.flatten() for p in n.parameters()]) for n in networks)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_other_sizes_are_a_matter_of_configuration(torch_generator: torch.Generator) -> None:
    config = KeypointNetConfig((8, 8, 16, 16, 24), (1, 1, 1, 1, 1), 32, 128)
    maps = KeypointNet(config, generator=torch_generator)(
        torch.rand(1, 1, 40, 72, generator=torch_generator)
    )
    assert maps.descriptor.shape == (1, 32, 5, 9)
    assert maps.image_descriptor.shape == (1, 128)


@pytest.mark.parametrize(
    ('image', 'line'),
    [
        (torch.zeros(1, 1, 31, 64), 'too small'),
        (torch.zeros(1, 1, 64, 20), 'too small'),
        (torch.zeros(1, 2, 64, 64), '1 or 3'),
        (torch.zeros(3, 64, 64), '1 or 3'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 'floating point'),
    ],
    ids=str,
)
def test_what_is_no_batch_of_images_is_refused(
    network: KeypointNet, image: Tensor, line: str
) -> None:
    with pytest.raises(NetworkError, match=line):
        network(image)


def test_standardized_filters_have_zero_mean_and_the_gain_as_their_strength(
    torch_generator: torch.Generator,
) -> None:
    conv = StandardConv2d(5, 7, generator=torch_generator)
    with torch.no_grad():
        conv.weight.mul_(40.0).add_(3.0)
        conv.gain.copy_(torch.linspace(0.5, 2.0, 7))
    filters = conv.standardized().flatten(1)
    torch.testing.assert_close(filters.mean(1), torch.zeros(7), rtol=0, atol=1e-5)
    expected = (2.0 / (1.0 - 1.0 / torch.pi)) ** 0.5 * conv.gain
    torch.testing.assert_close(filters.norm(dim=1), expected, rtol=1e-4, atol=0)


def test_signals_neither_grow_nor_die_on_their_way_through_a_new_network(
    network: KeypointNet, torch_generator: torch.Generator
) -> None:
    image = torch.rand(4, 1, 128, 128, generator=torch_generator)
    for features in network.forward_features(image):
        assert 0.2 < features.std() < 5.0


@pytest.mark.parametrize('power', [1.0, 3.0])
def test_the_generalized_mean_is_a_power_mean(
    torch_generator: torch.Generator, power: float
) -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch_generator) + 0.1
    expected = [[sum(v**power for v in c.flatten().tolist()) / 20 for c in image] for image in x]
    pooled = GeneralizedMean(power)(x)
    torch.testing.assert_close(pooled, torch.tensor(expected) ** (1 / power), rtol=1e-4, atol=0)


def test_a_doubled_ramp_is_the_same_ramp_between_the_pixel_centres() -> None:
    ramp = torch.arange(6.0).expand(1, 1, 4, 6)
    # New pixel x lies at old pixel (x + 0.5) / 2 - 0.5; the ends are held.
    expected = ((torch.arange(12.0) + 0.5) / 2 - 0.5).clamp(0, 5)
    torch.testing.assert_close(upsampled(ramp)[0, 0, 3], expected)
