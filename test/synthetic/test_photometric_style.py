"""Styles of photos: in range, reproducible, each effect with its own signature."""

import dataclasses

import numpy as np
import pytest
from scipy.fft import dctn
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic import illumination, imaging, photometric
from kpvo_ros.synthetic.photometric import StyleLimits, full, photometric_only, restyle


@pytest.fixture
def photos() -> torch.Tensor:
    """(6, 3, 90, 120): smooth hills with a sharp checkered part."""
    y, x = np.mgrid[:90, :120]
    hills = 0.5 + 0.3 * np.stack([np.sin(x / 9), np.cos(y / 11), np.sin((x + y) / 14)])
    hills[:, 50:, 60:] = 0.2 + 0.5 * ((x // 6 + y // 6) % 2)[50:, 60:]
    return torch.from_numpy(hills).float().expand(6, -1, -1, -1).contiguous()


@pytest.mark.parametrize('limits', [photometric_only(), full()], ids=['photometric', 'full'])
def test_any_style_keeps_shape_range_and_numbers(limits, photos, torch_generator) -> None:
    before = photos.clone()
    for _ in range(15):
        styled = restyle(photos, torch_generator, limits)
        assert styled.shape == photos.shape
        assert styled.dtype == torch.float32
        assert torch.isfinite(styled).all()
        assert styled.min() >= 0
        assert styled.max() <= 1
    assert torch.equal(photos, before)


def test_limits_without_any_share_change_nothing(photos, torch_generator) -> None:
    assert torch.equal(restyle(photos, torch_generator, StyleLimits()), photos)


def test_the_same_seed_gives_the_same_style(photos) -> None:
    first, again, other = (
        restyle(photos, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_image_has_a_style_of_its_own(photos, torch_generator) -> None:
    styled = restyle(photos, torch_generator, StyleLimits(colour=1.0))
    means = styled.mean(dim=(2, 3))
    assert torch.cdist(means, means).add(torch.eye(len(means))).min() > 1e-4


def test_a_share_is_met_on_average(torch_generator) -> None:
    images = torch.full((2000, 3, 8, 8), 0.5)
    styled = restyle(images, torch_generator, StyleLimits(gamma=0.3))
    changed = ((styled - images).abs().amax(dim=(1, 2, 3)) > 1e-6).float().mean()
    assert abs(float(changed) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 2000)


@pytest.mark.parametrize('name', photometric._SHARES)
def test_every_share_switches_something_on(name, photos, torch_generator) -> None:
    limits = dataclasses.replace(StyleLimits(), **{name: 1.0})
    changed = (restyle(photos, torch_generator, limits) - photos).abs().amax(dim=(1, 2, 3))
    assert (changed > 0.003).all()


def test_dark_pictures_are_not_made_black(torch_generator) -> None:
    dim = torch.full((200, 3, 16, 16), 0.1) + 0.02 * torch.rand(
        200, 3, 16, 16, generator=torch_generator
    )
    limits = StyleLimits(colour=1.0, exposure_stops=4.0, contrast=0.0, cast=0.0, saturation=0.0)
    assert restyle(dim, torch_generator, limits).mean(dim=(1, 2, 3)).min() > 0.075


def test_colours_disappear_from_grey_pictures(photos, torch_generator) -> None:
    grey = restyle(photos, torch_generator, StyleLimits(grey=1.0))
    assert (grey - grey[:, :1]).abs().max() < 1e-6


def test_contrast_and_exposure_are_one_affine_map_of_every_pixel(photos, torch_generator) -> None:
    limits = StyleLimits(colour=1.0, cast=0.0, saturation=0.0)
    changed = photometric.change_colour(photos, torch_generator, limits)
    for before, after in zip(photos.flatten(1), changed.flatten(1), strict=True):
        fit = np.polynomial.Polynomial.fit(before.numpy(), after.numpy(), 1)
        np.testing.assert_allclose(fit(before.numpy()), after.numpy(), atol=1e-4)


def test_a_gaussian_spreads_a_point_as_wide_as_asked(tolerance) -> None:
    point = torch.zeros(2, 1, 41, 41)
    point[:, :, 20, 20] = 1
    spread = imaging.gaussian(point, torch.tensor([0.8, 2.0]))[:, 0].double().numpy()
    offset = np.arange(41) - 20.0
    for image, sigma in zip(spread, (0.8, 2.0), strict=True):
        np.testing.assert_allclose(image.sum(), 1.0, atol=1e-5)
        variance = (image.sum(axis=0) * offset**2).sum()
        assert abs(np.sqrt(variance) - sigma) < 0.06 * sigma


def test_motion_blurs_along_one_direction_and_keeps_the_light(torch_generator) -> None:
    point = torch.zeros(20, 3, 41, 41)
    point[:, :, 20, 20] = 1
    blurred = imaging.blur_motion(point, torch_generator, 9.0)[:, 0].double().numpy()
    y, x = np.mgrid[-20:21, -20:21]
    for image in blurred:
        np.testing.assert_allclose(image.sum(), 1.0, atol=1e-5)
        xx, xy, yy = ((image * a).sum() for a in (x * x, x * y, y * y))
        across, along = np.sqrt(np.linalg.eigvalsh([[xx, xy], [xy, yy]]))
        assert across < 0.6
        assert along <= 9.0 / np.sqrt(12) + 0.6


def test_noise_grows_with_the_light_and_has_no_mean(torch_generator) -> None:
    steps = torch.tensor([0.05, 0.9]).repeat_interleave(64).expand(8, 3, 128, 128).contiguous()
    noise = (imaging.add_noise(steps, torch_generator, 0.05) - steps).numpy()
    dark, bright = noise[..., :64].std(axis=(1, 2, 3)), noise[..., 64:].std(axis=(1, 2, 3))
    assert (bright > 1.5 * dark).all()
    assert bright.max() < 0.052
    assert abs(noise.mean()) < 1e-3


def test_two_images_of_a_batch_get_different_noise(torch_generator) -> None:
    flat = torch.full((2, 3, 64, 64), 0.5)
    noise = imaging.add_noise(flat, torch_generator, 0.05) - flat
    correlation = np.corrcoef(noise.flatten(1).numpy())[0, 1]
    assert abs(correlation) < 0.1


def test_compression_leaves_few_frequencies_in_every_block(photos, torch_generator) -> None:
    grey = photos[:, :1].expand(-1, 3, -1, -1)[..., :88, :120].contiguous()
    packed = imaging.add_blocks(grey, torch_generator, 0.3)

    def few(images: torch.Tensor) -> float:
        blocks = images[:, 0].numpy().reshape(-1, 11, 8, 15, 8).swapaxes(2, 3)
        return float((np.abs(dctn(blocks, axes=(-2, -1), norm='ortho')) > 5e-3).mean())

    assert few(packed) < 0.5 * few(grey)
    assert (packed - grey).abs().mean() < 0.08


def test_the_finest_compression_gives_back_the_picture(photos, torch_generator) -> None:
    torch.testing.assert_close(
        imaging.add_blocks(photos, torch_generator, 1e-4), photos, atol=2e-3, rtol=0
    )


def test_shadows_only_take_light_and_no_more_than_their_strength(photos, torch_generator) -> None:
    shaded = illumination.add_shadows(photos, torch_generator, 0.6)
    assert (shaded <= photos + 1e-6).all()
    assert (shaded >= 0.4 * photos - 1e-6).all()


def test_vignetting_leaves_the_centre_and_darkens_the_corners(torch_generator) -> None:
    flat = torch.ones(5, 3, 31, 41)
    dark = illumination.add_vignetting(flat, torch_generator)
    torch.testing.assert_close(dark[..., 15, 20], flat[..., 15, 20])
    assert (dark[..., 0, 0] < 0.86).all()


@pytest.mark.parametrize(
    'wrong',
    [{'colour': 1.5}, {'gamma_factor': 0.5}, {'noise_sigma': -0.1}, {'blur_px': 0.0}],
)
def test_impossible_limits_are_refused(wrong: dict) -> None:
    with pytest.raises(SyntheticError, match=next(iter(wrong))):
        StyleLimits(**wrong)


def test_bytes_and_wrong_shapes_are_refused_by_name(torch_generator) -> None:
    with pytest.raises(SyntheticError, match=r'uint8 \(1, 3, 8, 8\)'):
        restyle(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch_generator)
    with pytest.raises(SyntheticError, match='horizon_px'):
        restyle(torch.zeros(2, 3, 8, 8), torch_generator, horizon_px=torch.zeros(3))
    with pytest.raises(SyntheticError, match='depth_m'):
        restyle(torch.zeros(2, 3, 8, 8), torch_generator, depth_m=torch.zeros(2, 8, 9))


def test_an_empty_batch_stays_empty(torch_generator) -> None:
    assert restyle(torch.zeros(0, 3, 32, 32), torch_generator).shape == (0, 3, 32, 32)
