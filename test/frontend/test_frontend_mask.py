"""What is ignored in an image, and that no keypoint lies there."""

from __future__ import annotations

from pathlib import Path

import cv2
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from kpvo_ros.config.runtime import FrontendConfig
from kpvo_ros.errors import FrontendError
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.frontend.mask import IgnoredRegion, allowed
from kpvo_ros.geometry.camera import Camera, DistortionModel
from kpvo_ros.types import Frame

CAMERA = Camera(320, 240, 200.0, 200.0, 159.5, 119.5)
NEEDS_AKAZE = pytest.mark.skipif(not hasattr(cv2, 'AKAZE'), reason='this OpenCV has no AKAZE')
EXTRACTORS = pytest.mark.parametrize(
    'name', ['orb', pytest.param('akaze', marks=NEEDS_AKAZE), 'sift']
)


def frame(mask: np.ndarray | None = None, camera: Camera = CAMERA) -> Frame:
    image = np.zeros((camera.height, camera.width), np.uint8)
    return Frame(1, image, camera, 'camera', None, mask)


def texture(rng: np.random.Generator) -> np.ndarray:
    noise = rng.integers(0, 256, (240, 320), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)


def write_png(path: Path, pixels: np.ndarray) -> str:
    assert cv2.imwrite(str(path), pixels)
    return str(path)


# ---------------------------------------------------------------------------------- the region


def test_nothing_is_ignored_unless_told() -> None:
    region = IgnoredRegion(FrontendConfig())
    assert region.of(frame()) is None
    assert region.of(frame(np.zeros((240, 320), bool))) is None


def test_the_region_of_interest_is_given_in_shares_of_the_image() -> None:
    region = IgnoredRegion(FrontendConfig(roi=(0.25, 0.1, 1.0, 0.5)))
    for camera in (CAMERA, CAMERA.resized(640, 480)):
        ignore = region.of(frame(camera=camera))
        expected = np.ones((camera.height, camera.width), bool)
        width, height = camera.width, camera.height
        expected[height // 10 : height // 2, width // 4 :] = False
        np.testing.assert_array_equal(ignore, expected)


def test_the_mask_of_a_frame_counts_for_that_frame_only(rng: np.random.Generator) -> None:
    region = IgnoredRegion(FrontendConfig(roi=(0.0, 0.5, 1.0, 1.0)))
    mask = rng.random((240, 320)) < 0.3
    before = mask.copy()
    upper = np.arange(240)[:, None] < 120
    np.testing.assert_array_equal(region.of(frame(mask)), mask | upper)
    np.testing.assert_array_equal(region.of(frame()), np.broadcast_to(upper, mask.shape))
    np.testing.assert_array_equal(mask, before)


def test_what_is_ignored_in_every_image_is_worked_out_once_for_each_camera() -> None:
    region = IgnoredRegion(FrontendConfig(roi=(0.5, 0.0, 1.0, 1.0)))
    first = region.of(frame())
    assert region.of(frame()) is first
    assert region.of(frame(camera=CAMERA.resized(160, 120))).shape == (120, 160)


@pytest.mark.parametrize('roi', [(0.5, 0.0, 0.5, 1.0), (0.0, 0.8, 1.0, 0.2)])
def test_a_region_without_inside_is_refused(roi: tuple[float, ...]) -> None:
    with pytest.raises(FrontendError, match=r'frontend\.roi .* is empty; give'):
        IgnoredRegion(FrontendConfig(roi=roi))


def test_a_mask_of_another_size_is_refused_with_both_sizes() -> None:
    with pytest.raises(FrontendError, match='mask is 160x120 but the image is 320x240'):
        IgnoredRegion(FrontendConfig()).of(frame(np.ones((120, 160), bool)))


# ------------------------------------------------------------------------------------ the body


@pytest.mark.parametrize('scale', [0.5, 1.0, 2.0])
def test_the_body_is_drawn_in_any_size_of_the_images_shape(tmp_path: Path, scale: float) -> None:
    picture = np.zeros((round(240 * scale), round(320 * scale)), np.uint8)
    picture[round(160 * scale) :, : round(100 * scale)] = 255
    path = write_png(tmp_path / 'body.png', picture)
    ignore = IgnoredRegion(FrontendConfig(body_mask_path=path)).of(frame())
    expected = np.zeros((240, 320), bool)
    expected[160:, :100] = True
    np.testing.assert_array_equal(ignore, expected)


def test_the_smallest_part_of_the_body_survives_when_its_picture_is_shrunk(tmp_path: Path) -> None:
    picture = np.zeros((960, 1280), np.uint8)
    picture[401, 802] = 1  # non-zero, not white
    path = write_png(tmp_path / 'body.png', picture)
    ignore = IgnoredRegion(FrontendConfig(body_mask_path=path)).of(frame())
    assert np.argwhere(ignore).tolist() == [[100, 200]]


@pytest.mark.parametrize('kind', ['grey', '16 bit', 'colour', 'transparent colour', 'one channel'])
def test_any_png_will_do_and_transparency_means_nothing(tmp_path: Path, kind: str) -> None:
    body = np.zeros((240, 320), bool)
    body[200:, 50:90] = True
    grey = body.astype(np.uint8) * 200
    colour = np.dstack([grey * 0, grey * 0, grey])
    pixels = {
        'grey': grey,
        '16 bit': body.astype(np.uint16) * 3,
        'colour': np.dstack([grey] * 3),
        'transparent colour': np.dstack([colour, np.full_like(grey, 255)]),
        'one channel': colour,
    }[kind]
    path = write_png(tmp_path / 'body.png', pixels)
    ignore = IgnoredRegion(FrontendConfig(body_mask_path=path)).of(frame())
    np.testing.assert_array_equal(ignore, body)


def test_a_picture_that_is_missing_or_none_is_one_clear_line(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(FrontendError) as caught:
            IgnoredRegion(FrontendConfig(body_mask_path=str(path)))
        assert '\n' not in str(caught.value)
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert 'No such file' in message(tmp_path / 'nowhere.png')
    assert 'cannot be read' in message(tmp_path)
    for content in (b'', b'not a picture'):
        (tmp_path / 'text.png').write_bytes(content)
        assert 'is not an image' in message(tmp_path / 'text.png')


def test_a_picture_of_another_shape_is_refused_when_the_image_is_known(tmp_path: Path) -> None:
    path = write_png(tmp_path / 'body.png', np.zeros((300, 300), np.uint8))
    region = IgnoredRegion(FrontendConfig(body_mask_path=path))
    with pytest.raises(FrontendError, match='is 300x300, not of the shape of the image 320x240'):
        region.of(frame())
    assert region.of_image((200, 200)) is None


def test_an_inverted_mask_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    path = write_png(tmp_path / 'body.png', np.full((240, 320), 255, np.uint8))
    with pytest.raises(FrontendError, match='leave nothing of the image; is the mask inverted'):
        IgnoredRegion(FrontendConfig(body_mask_path=path)).of(frame())


# ------------------------------------------------------------------------------------ the lens


def test_a_fisheye_is_ignored_beyond_the_widest_angle() -> None:
    f = 100.0  # 160 pixels are 92 degrees
    fisheye = Camera(320, 240, f, f, 159.5, 119.5, DistortionModel.EQUIDISTANT, (0.0,) * 4)
    x, y = np.meshgrid(np.arange(320) - 159.5, np.arange(240) - 119.5)
    for limit_deg in (40.0, 75.0):
        ignore = IgnoredRegion(FrontendConfig(max_angle_deg=limit_deg)).of(frame(camera=fisheye))
        np.testing.assert_array_equal(ignore, np.hypot(x, y) / f > np.deg2rad(limit_deg))
    assert IgnoredRegion(FrontendConfig()).of_image((240, 320)) is None  # an unknown lens


def test_a_pinhole_has_a_rim_too() -> None:
    ignore = IgnoredRegion(FrontendConfig(max_angle_deg=40.0)).of(frame())
    x, y = np.meshgrid(np.arange(320) - 159.5, np.arange(240) - 119.5)
    np.testing.assert_array_equal(ignore, np.hypot(x, y) / 200.0 > np.tan(np.deg2rad(40.0)))


def test_pixels_that_no_ray_reaches_are_ignored() -> None:
    folded = Camera(
        320, 240, 130.0, 130.0, 159.5, 119.5, DistortionModel.PLUMB_BOB, (-0.4, 0.02, 0, 0, 0)
    )
    ignore = IgnoredRegion(FrontendConfig()).of(frame(camera=folded))
    nowhere = np.isnan(folded.unproject(folded.pixel_centers())).any(axis=2)
    assert nowhere.any()
    assert ignore is not None and ignore[nowhere].all() and not ignore[100:140, 100:220].any()


# --------------------------------------------------------------------------------- the look-up


def test_a_pixel_is_allowed_by_the_nearest_centre() -> None:
    ignore = np.zeros((3, 4), bool)
    ignore[1, 2] = True
    xy = [[2, 1], [2.49, 1.49], [1.51, 0.51], [2.51, 1], [2, 1.51], [1.49, 1], [0, 0], [3, 2]]
    expected = [False, False, False, True, True, True, True, True]
    assert allowed(np.array(xy), ignore).tolist() == expected


def test_outside_and_nowhere_are_not_allowed_and_without_a_mask_everything_is() -> None:
    outside = np.array(
        [[-0.51, 0], [0, -1], [3.51, 0], [0, 2.51], [np.nan, 0], [0, np.inf], [-1e30, 1e30]],
        np.float32,
    )
    assert not allowed(outside, np.zeros((3, 4), bool)).any()
    assert allowed(np.array([[-0.49, -0.49], [3.49, 2.49]]), np.zeros((3, 4), bool)).all()
    assert allowed(outside, None).all()
    for ignore in (None, np.zeros((3, 4), bool)):
        assert allowed(np.zeros((0, 2)), ignore).shape == (0,)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-2, 8, width=32), st.floats(-2, 8, width=32)), max_size=20),
    st.integers(0, 2**30 - 1),
)
def test_the_look_up_is_that_of_one_pixel_after_the_other(
    points: list[tuple[float, float]], bits: int
) -> None:
    ignore = np.array([bits >> i & 1 for i in range(30)], bool).reshape(5, 6)

    def one(x: float, y: float) -> bool:
        column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        return 0 <= row < 5 and 0 <= column < 6 and not ignore[row, column]

    xy = np.array(points, np.float32).reshape(-1, 2).astype(np.float64)
    assert allowed(xy, ignore).tolist() == [one(x, y) for x, y in xy]


# -------------------------------------------------------------------------------- the extractor


@EXTRACTORS
def test_keypoints_lie_only_where_they_are_allowed_and_are_as_many(
    rng: np.random.Generator, name: str
) -> None:
    image = texture(rng)
    ignore = rng.random((24, 32)) < 0.3
    ignore = np.kron(ignore, np.ones((10, 10))).astype(bool)
    extractor = load_extractor(FrontendConfig(extractor=name, max_keypoints=100))
    features = extractor.extract(image, ignore)
    assert allowed(features.xy, ignore).all()
    assert len(features) == len(extractor.extract(image)) == 100
    assert features.descriptor.shape[0] == features.score.shape[0] == 100


@EXTRACTORS
def test_the_edge_of_a_mask_is_no_texture(rng: np.random.Generator, name: str) -> None:
    image = texture(rng)
    ignore = np.zeros(image.shape, bool)
    ignore[40:200, 60:260] = True
    image[cv2.erode(ignore.astype(np.uint8), np.ones((61, 61))) == 0] = 128
    extractor = load_extractor(FrontendConfig(extractor=name))
    assert len(extractor.extract(image)) > 20
    assert len(extractor.extract(image, ignore)) == 0


@EXTRACTORS
def test_an_image_that_is_ignored_as_a_whole_has_no_features(
    rng: np.random.Generator, name: str
) -> None:
    extractor = load_extractor(FrontendConfig(extractor=name))
    features = extractor.extract(texture(rng), np.ones((240, 320), bool))
    assert len(features) == 0
    assert features.descriptor.shape[1] == extractor.extract(texture(rng)).descriptor.shape[1]


def test_a_mask_of_another_size_than_the_image_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(FrontendError, match='not of the size'):
        load_extractor(FrontendConfig()).extract(texture(rng), np.zeros((10, 10), bool))
