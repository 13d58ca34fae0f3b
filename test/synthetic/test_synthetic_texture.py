"""The texture table: packing, mip levels, sampling, seeds, files."""

import cv2
import numpy as np
import pytest
import torch

from kpvo_ros.errors import SyntheticError
from kpvo_ros.synthetic.patterns import ground, noise, signs, things, walls
from kpvo_ros.synthetic.texture import TextureAtlas, load_pictures, standard_atlas


def random_picture(size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def sample(atlas, u, v, level=0.0, texture=0):
    count = len(np.atleast_1d(u))
    values = [np.broadcast_to(np.asarray(x, np.float32), count).copy() for x in (u, v, level)]
    tensors = [torch.from_numpy(x) for x in values]
    return atlas.sample(torch.full((count,), texture), *tensors).numpy()


def test_texel_centres_return_the_texels():
    picture = random_picture()
    atlas = TextureAtlas.pack({'other': random_picture(seed=1), 'picture': picture})
    rows, columns = np.mgrid[0:16, 0:16].reshape(2, -1)
    colours = sample(atlas, (columns + 0.5) / 16, (rows + 0.5) / 16, texture=1)
    np.testing.assert_allclose(colours.reshape(16, 16, 3) * 255, picture, atol=1e-3)


def test_sampling_between_texels_is_bilinear_as_in_opencv():
    picture = random_picture()
    atlas = TextureAtlas.pack({'picture': picture})
    xy = np.random.default_rng(2).uniform(0, 15, (200, 2)).astype(np.float32)
    expected = cv2.remap(picture.astype(np.float32), xy[None], None, cv2.INTER_LINEAR)[0]
    colours = sample(atlas, (xy[:, 0] + 0.5) / 16, (xy[:, 1] + 0.5) / 16)
    np.testing.assert_allclose(colours * 255, expected, atol=5.0)  # OpenCV has 1/32 px steps


def test_textures_repeat_without_a_seam():
    atlas = TextureAtlas.pack({'picture': random_picture()})
    u = np.random.default_rng(3).uniform(0, 1, 50)
    np.testing.assert_allclose(sample(atlas, u, u), sample(atlas, u + 3, u - 2), atol=1e-4)


def test_every_level_has_the_mean_light_of_the_picture():
    picture = random_picture(64)
    atlas = TextureAtlas.pack({'picture': picture})
    mean_light = ((picture / 255.0) ** 2).mean(axis=(0, 1))
    for level in range(atlas.levels):
        side = 64 >> level
        grid = (np.mgrid[0:side, 0:side].reshape(2, -1) + 0.5) / side
        light = sample(atlas, grid[1], grid[0], level) ** 2
        np.testing.assert_allclose(light.mean(axis=0), mean_light, rtol=0.02)


def test_levels_beyond_the_last_are_the_last():
    atlas = TextureAtlas.pack({'picture': random_picture()})
    np.testing.assert_allclose(sample(atlas, 0.3, 0.7, 99.0), sample(atlas, 0.9, 0.1, 4.0))


@pytest.mark.parametrize('axis', [0, 1])
def test_stretched_footprint_averages_along_its_longer_side(axis):
    """Stripes across the long side vanish, stripes along it stay."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # vary along u
    atlas = TextureAtlas.pack({'stripes': stripes})
    u = (torch.arange(64, dtype=torch.float32) + 0.5) / 64
    uv = torch.stack([u, torch.full_like(u, 0.5)])
    texel = 1 / 64
    long, short = 4 * texel, texel
    step_u = torch.zeros_like(uv)
    step_v = torch.zeros_like(uv)
    step_u[0], step_v[1] = (long, short) if axis == 0 else (short, long)
    spread = atlas.sample_footprint(torch.zeros(64, dtype=torch.int64), uv, step_u, step_v).std()
    assert (spread < 0.05) if axis == 0 else (spread > 0.4)


def test_round_footprint_needs_one_sample_of_its_level():
    atlas = TextureAtlas.pack({'picture': random_picture(64)})
    uv = torch.rand(2, 40, generator=torch.Generator().manual_seed(0))
    step_x, step_y = torch.zeros_like(uv), torch.zeros_like(uv)
    step_x[0] = step_y[1] = 4 / 64
    texture = torch.zeros(40, dtype=torch.int64)
    actual = atlas.sample_footprint(texture, uv, step_x, step_y).numpy()
    np.testing.assert_allclose(actual, sample(atlas, uv[0], uv[1], 2.0), atol=1e-3)


@pytest.mark.parametrize(
    ('pictures', 'message'),
    [
        ({}, 'at least one'),
        ({'odd': np.zeros((48, 48, 3), np.uint8)}, 'power of two'),
        ({'grey': np.zeros((32, 32), np.uint8)}, 'grey'),
        ({'a': np.zeros((32, 32, 3)), 'b': np.zeros((64, 64, 3))}, "'b'"),
    ],
)
def test_unfit_pictures_are_refused_by_name(pictures, message):
    with pytest.raises(SyntheticError, match=message):
        TextureAtlas.pack(pictures)


def test_unknown_texture_names_those_that_exist():
    atlas = TextureAtlas.pack({'brick': random_picture()})
    with pytest.raises(SyntheticError, match='brick'):
        atlas['brik']


def test_same_seed_draws_the_same_textures_and_another_seed_others():
    standard_atlas.cache_clear()
    first = standard_atlas(7, 64)
    standard_atlas.cache_clear()
    again, other = standard_atlas(7, 64), standard_atlas(8, 64)
    assert torch.equal(first.table, again.table)
    assert not torch.equal(first.table, other.table)
    assert first.names == other.names


@pytest.mark.parametrize(
    'pattern',
    [ground.asphalt, ground.paving, ground.grass, walls.brick, walls.plaster, things.grime],
)
def test_ground_and_wall_textures_tile_without_a_seam(pattern):
    """Opposite borders differ no more than neighbouring columns do."""
    image = pattern(np.random.default_rng(0), 128)
    across = np.abs(image[:, 0] - image[:, -1]).mean()
    inside = np.abs(np.diff(image, axis=1)).mean(axis=(0, 2))
    assert across <= 1.5 * inside.max()


def test_standard_textures_are_rich_in_corners_but_no_white_noise(small_atlas):
    """Most pictures give a detector something, and neighbouring texels are alike."""
    per_texture = len(small_atlas.table) // len(small_atlas.names)
    smooth = ('clouds', 'car_body', 'car_glass', 'tyre')
    corners = []
    for index, name in enumerate(small_atlas.names):
        start = index * per_texture
        rows = small_atlas.table[start : start + 128 * 128, :3].numpy().reshape(128, 128, 3)
        gray = cv2.cvtColor(np.ascontiguousarray(rows), cv2.COLOR_RGB2GRAY)
        half = gray.astype(float)
        if name not in smooth:
            corners.append(len(cv2.FastFeatureDetector_create(12).detect(gray)))
        a, b = half[:, 1:].ravel(), half[:, :-1].ravel()
        assert np.corrcoef(a, b)[0, 1] > 0.15, name
    assert np.median(corners) > 150


def test_landmark_of_unknown_class_is_refused():
    with pytest.raises(SyntheticError, match='disc'):
        signs.landmark(np.random.default_rng(0), 64, 'circle')


def test_landmark_classes_look_different_whatever_the_seed():
    pictures = [
        [signs.landmark(np.random.default_rng(seed), 64, name) for seed in (0, 1)]
        for name in signs.LANDMARK_CLASSES
    ]
    for index, (first, second) in enumerate(pictures):
        own = np.abs(first - second).mean()
        others = [np.abs(first - p[0]).mean() for k, p in enumerate(pictures) if k != index]
        assert own < 0.5 * min(others)


def test_image_files_become_textures(tmp_path):
    picture = random_picture(32)
    path = tmp_path / 'wall.png'
    cv2.imwrite(str(path), picture[..., ::-1])
    pictures = load_pictures([path], size=32)
    np.testing.assert_array_equal(pictures['wall'], picture)
    assert TextureAtlas.pack(pictures)['wall'] == 0


def test_file_that_is_no_image_is_refused_by_its_path(tmp_path):
    path = tmp_path / 'notes.png'
    path.write_text('not a picture')
    with pytest.raises(SyntheticError, match=r'notes\.png'):
        load_pictures([path])


@pytest.mark.parametrize('exponent', [0.5, 1.0, 2.0])
def test_spectral_noise_has_the_slope_asked_for(exponent):
    field = noise.spectral(np.random.default_rng(0), 256, exponent)
    signal = np.arctanh(np.clip(2 * field.astype(float) - 1, -0.999, 0.999))
    power = np.abs(np.fft.fft2(signal)) ** 2
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(256) * 256] * 2))
    bands = [(4, 8), (32, 64)]
    level = [np.log(power[(radius >= a) & (radius < b)].mean()) for a, b in bands]
    slope = (level[1] - level[0]) / np.log(8)
    assert slope == pytest.approx(-2 * exponent, abs=0.35)
