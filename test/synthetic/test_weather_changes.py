"""Weather, season and time of day: each does what it is known by."""

import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic import weather
from kpvo_ros.synthetic.photometric import StyleLimits, restyle
from kpvo_ros.synthetic.weather import Scene, WeatherLimits, scene_of

SIZE = (96, 128)
EFFECTS = ('season', 'fog', 'rain', 'snow', 'dusk', 'night')


@pytest.fixture
def streets() -> torch.Tensor:
    """(8, 3, 96, 128): bright sky, checkered ground, green on the left half of the ground."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    checks = 0.25 + 0.3 * ((x // 8 + y // 8) % 2)
    image = np.stack([checks] * 3)
    image[:, y < 40] = np.array([0.7, 0.8, 0.95])[:, None]
    green = (y >= 40) & (x < 64)
    image[0, green] *= 0.5
    image[2, green] *= 0.4
    return torch.from_numpy(image).float().expand(8, -1, -1, -1).contiguous()


def scene(images: torch.Tensor, depth_m: torch.Tensor | None = None) -> Scene:
    return scene_of(images, torch.full((len(images),), 40.0), depth_m)


@pytest.mark.parametrize('name', EFFECTS)
def test_a_share_of_one_reaches_every_picture(name, streets, torch_generator) -> None:
    limits = StyleLimits(weather=WeatherLimits(**{name: 1.0}))
    styled = restyle(streets, torch_generator, limits)
    assert ((styled - streets).abs().amax(dim=(1, 2, 3)) > 0.03).all()


def test_no_strength_changes_nothing(streets, torch_generator) -> None:
    limits = StyleLimits(weather=WeatherLimits(season=1.0, fog=1.0, night=1.0, strength=0.0))
    torch.testing.assert_close(
        restyle(streets, torch_generator, limits), streets, atol=1e-6, rtol=0
    )


def test_fog_takes_contrast_the_farther_the_more(torch_generator) -> None:
    checks = torch.from_numpy(np.indices(SIZE).sum(0) // 4 % 2).float().expand(8, 3, -1, -1)
    depth = torch.linspace(2, 60, SIZE[1]).expand(8, 1, *SIZE)
    foggy = weather.add_fog(checks, torch_generator, scene(checks, depth))
    contrast = [foggy[..., at : at + 16].std(dim=(1, 2, 3)) for at in (0, 56, 112)]
    assert (contrast[0] > contrast[1]).all()
    assert contrast[1].mean() > 1.1 * contrast[2].mean()  # fog has banks: not in each picture
    assert min(float(c.min()) for c in contrast) > 0.05  # something is left to be matched


def test_pictures_of_known_depth_use_it_and_not_the_guess(streets) -> None:
    depth = torch.full((8, *SIZE), 5.0)
    depth[:, 0] = np.nan
    near = StyleLimits(weather=WeatherLimits(fog=1.0))
    known = restyle(streets, torch.Generator().manual_seed(0), near, depth_m=depth)
    guessed = restyle(streets, torch.Generator().manual_seed(0), near)
    assert (known[..., 45, :] - guessed[..., 45, :]).abs().mean() > 0.02
    assert torch.isfinite(known).all()


def test_the_guess_of_depth_is_that_of_flat_ground(streets) -> None:
    depth = scene(streets).depth_m[0, 0, :, 0].numpy()
    below = np.arange(20, 56)
    np.testing.assert_allclose(depth[40 + below], 1.4 * 0.9 * 128 / below, rtol=1e-5)
    assert depth[40] == depth.max()


def test_night_is_dark_and_blue_apart_from_the_lamps(streets, torch_generator) -> None:
    night = weather.add_night(streets, torch_generator, scene(streets)).clamp(0, 1)
    assert (night.mean(dim=(1, 2, 3)) < 0.6 * streets.mean(dim=(1, 2, 3))).all()
    sky = night[..., :20, :].flatten(2).median(dim=2).values
    assert (sky.amax(1) < 0.35).all()
    assert (night[:, 2].median() / night[:, 0].median()) > (
        streets[:, 2].median() / streets[:, 0].median()
    )


def test_the_ground_can_still_be_recognised_at_night(streets, torch_generator) -> None:
    night = weather.add_night(streets, torch_generator, scene(streets)).clamp(0, 1)
    before, after = (i[:, 1, 48:, 64:].flatten(1).numpy() for i in (streets, night))
    similar = [np.corrcoef(a, b)[0, 1] for a, b in zip(before, after, strict=True)]
    assert np.mean(similar) > 0.3


def test_dusk_is_warmer_at_the_horizon_than_at_the_bottom(torch_generator) -> None:
    grey = torch.full((8, 3, *SIZE), 0.5)
    dusk = weather.add_dusk(grey, torch_generator, scene(grey))
    warmth = dusk[:, 0] / dusk[:, 2]
    assert (warmth[:, 40].mean(1) > warmth[:, 95].mean(1)).all()


def test_the_season_turns_leaves_and_leaves_the_road_alone(streets, torch_generator) -> None:
    autumn = weather.add_season(streets, torch_generator, scene(streets))
    leaf_before, leaf_after = (i[:, :, 48:, :60].mean(dim=(2, 3)) for i in (streets, autumn))
    assert (leaf_before[:, 1] > 1.5 * leaf_before[:, 0]).all()
    assert (leaf_after[:, 0] / leaf_after[:, 1] > leaf_before[:, 0] / leaf_before[:, 1]).all()
    torch.testing.assert_close(autumn[..., 68:], streets[..., 68:], atol=1e-5, rtol=0)


def test_snow_whitens_the_ground_and_takes_its_colour(streets, torch_generator) -> None:
    snowy = weather.add_snow(streets, torch_generator, scene(streets)).clamp(0, 1)
    ground = (slice(None), slice(None), slice(60, None))
    assert (snowy[ground].mean(dim=(1, 2, 3)) > 1.3 * streets[ground].mean(dim=(1, 2, 3))).all()
    colour = [(i.amax(1) - i.amin(1))[:, 60:].mean() for i in (snowy, streets)]
    assert colour[0] < 0.5 * colour[1]


def test_rain_dims_the_sky_and_mirrors_it_in_the_ground(torch_generator) -> None:
    image = torch.full((8, 3, *SIZE), 0.2)
    image[:, :, :40] = 0.2
    image[:, :, 20:36, 50:80] = 1.0  # a bright house just above the horizon
    far = Scene(torch.full((8,), 40.0), torch.full((8, 1, *SIZE), 1e-3))
    wet = weather.add_rain(image, torch_generator, far)
    house, elsewhere = wet[:, 0, 46:58, 55:75].mean(), wet[:, 0, 46:58, :30].mean()
    assert house > elsewhere + 0.02
    assert (wet[:, :, 22:34, 52:78].mean(dim=(1, 2, 3)) < 1.0).all()


def test_rain_falls_in_streaks_longer_than_wide(torch_generator) -> None:
    grey = torch.full((8, 3, 128, 128), 0.4)
    streaks = (weather.add_streaks(grey, torch_generator) - grey)[:, 0]
    assert streaks.min() >= 0
    assert (streaks.amax(dim=(1, 2)) > 0.05).all()
    rough_down = (streaks[:, 1:] - streaks[:, :-1]).abs().mean()
    rough_right = (streaks[..., 1:] - streaks[..., :-1]).abs().mean()
    assert rough_right > 1.5 * rough_down


def test_shares_that_exclude_each_other_must_fit_together() -> None:
    with pytest.raises(SyntheticError, match='must not exceed 1'):
        WeatherLimits(fog=0.6, rain=0.6)
    with pytest.raises(SyntheticError, match=r'night=1\.2'):
        WeatherLimits(night=1.2)
