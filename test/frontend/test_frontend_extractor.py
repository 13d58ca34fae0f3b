"""Keypoints: one promise, whatever method makes them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kpvo_ros.config.runtime import FrontendConfig
from kpvo_ros.errors import FrontendError
from kpvo_ros.frontend.drawing import draw_features
from kpvo_ros.frontend.extractor import load_extractor
from kpvo_ros.frontend.gray import to_gray
from kpvo_ros.types import Features

HAS_AKAZE = hasattr(cv2, 'AKAZE')  # OpenCV 5 moved it out
NEEDS_AKAZE = pytest.mark.skipif(not HAS_AKAZE, reason='this OpenCV has no AKAZE')
EXTRACTORS = pytest.mark.parametrize(
    'name', ['orb', pytest.param('akaze', marks=NEEDS_AKAZE), 'sift']
)
LENGTH = {'orb': 32, 'akaze': 61, 'sift': 128}
TYPE = {'orb': np.uint8, 'akaze': np.uint8, 'sift': np.float32}


def scene(rng: np.random.Generator) -> np.ndarray:
    """(240, 320, 3): a poster of strong corners at the left, weak texture everywhere else."""
    weak = cv2.GaussianBlur(rng.normal(size=(240, 320)).astype(np.float32), (0, 0), 1.5)
    image = 128 + 9 * weak / weak.std()
    image[60:180, 20:110] = np.kron(rng.choice([20.0, 235.0], (20, 15)), np.ones((6, 6)))
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def occupied_cells(xy: np.ndarray, cell_px: int = 40) -> int:
    return len({(int(x // cell_px), int(y // cell_px)) for x, y in xy})


@EXTRACTORS
def test_features_have_the_promised_shapes(rng: np.random.Generator, name: str) -> None:
    extractor = load_extractor(FrontendConfig(extractor=name, max_keypoints=200))
    assert extractor.name == name
    features = extractor.extract(scene(rng))
    count = len(features)
    assert 50 <= count <= 200
    assert features.xy.shape == (count, 2) and features.xy.dtype == np.float32
    assert features.score.shape == (count,) and features.score.dtype == np.float32
    assert features.descriptor.shape == (count, LENGTH[name])
    assert features.descriptor.dtype == TYPE[name]
    assert features.image_descriptor is None
    assert ((features.xy >= 0) & (features.xy <= (319, 239))).all()


@EXTRACTORS
@pytest.mark.parametrize('value', [0, 128, 255])
def test_an_image_without_texture_has_no_features(name: str, value: int) -> None:
    extractor = load_extractor(FrontendConfig(extractor=name))
    features = extractor.extract(np.full((120, 160), value, np.uint8))
    assert len(features) == 0
    assert features.xy.shape == (0, 2) and features.xy.dtype == np.float32
    assert features.score.shape == (0,)
    assert features.descriptor.shape == (0, LENGTH[name])
    assert features.descriptor.dtype == TYPE[name]


@EXTRACTORS
@pytest.mark.parametrize(
    'shape', [(1, 1), (1, 300), (2, 2), (5, 9), (15, 15), (16, 16), (20, 300)]
)
def test_a_tiny_image_is_answered(
    rng: np.random.Generator, name: str, shape: tuple[int, int]
) -> None:
    extractor = load_extractor(FrontendConfig(extractor=name))
    features = extractor.extract(rng.integers(0, 256, shape, np.uint8))
    assert features.descriptor.shape == (len(features), LENGTH[name])


@EXTRACTORS
@pytest.mark.parametrize(
    'image',
    [
        np.zeros((40, 40), np.float32),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40, 1), np.uint8),
        np.zeros(40, np.uint8),
        np.zeros((0, 40), np.uint8),
        np.zeros((40, 40, 3), np.uint16),
    ],
    ids=lambda image: f'{image.shape} {image.dtype}',
)
def test_what_is_no_image_is_refused(name: str, image: np.ndarray) -> None:
    with pytest.raises(FrontendError, match='an image is'):
        load_extractor(FrontendConfig(extractor=name)).extract(image)


@EXTRACTORS
def test_the_weak_parts_of_an_image_are_covered_too(rng: np.random.Generator, name: str) -> None:
    image = scene(rng)
    count = 100
    features = load_extractor(FrontendConfig(extractor=name, max_keypoints=count)).extract(image)
    plain = getattr(cv2, name.upper()).create()
    keypoints = sorted(plain.detect(to_gray(image), None), key=lambda k: -k.response)[:count]
    theirs = np.array([k.pt for k in keypoints])
    assert occupied_cells(features.xy) > 1.2 * occupied_cells(theirs)


@EXTRACTORS
def test_never_more_keypoints_than_asked_for(rng: np.random.Generator, name: str) -> None:
    image = scene(rng)
    for count in (50, 77, 400):
        config = FrontendConfig(extractor=name, max_keypoints=count)
        assert len(load_extractor(config).extract(image)) <= count


@EXTRACTORS
def test_the_same_image_gives_the_same_features(rng: np.random.Generator, name: str) -> None:
    image = scene(rng)
    extractor = load_extractor(FrontendConfig(extractor=name))
    one, two = extractor.extract(image), extractor.extract(image.copy())
    np.testing.assert_array_equal(one.xy, two.xy)
    np.testing.assert_array_equal(one.descriptor, two.descriptor)


@EXTRACTORS
def test_descriptors_stay_with_their_keypoints(rng: np.random.Generator, name: str) -> None:
    """Each is what OpenCV computes at that very place, whatever was left out in between."""
    image = to_gray(scene(rng))
    features = load_extractor(FrontendConfig(extractor=name, max_keypoints=150)).extract(image)
    again = load_extractor(FrontendConfig(extractor=name, max_keypoints=3000)).extract(image)
    for xy, descriptor in zip(features.xy, features.descriptor, strict=True):
        here = again.descriptor[np.abs(again.xy - xy).max(1) < 1e-3]
        assert likeness(here, descriptor).max() > 0.95  # a place may carry several orientations


def likeness(descriptors: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(N,) share of equal bits, or cosine."""
    if one.dtype == np.uint8:
        return 1 - np.unpackbits(descriptors ^ one, axis=1).mean(1)
    return descriptors @ one


def test_sift_descriptors_are_unit_vectors_with_nothing_negative(
    rng: np.random.Generator,
) -> None:
    descriptor = load_extractor(FrontendConfig(extractor='sift')).extract(scene(rng)).descriptor
    np.testing.assert_allclose(np.linalg.norm(descriptor, axis=1), 1.0, atol=1e-5)
    assert (descriptor >= 0).all()


def test_sift_descriptors_are_the_roots_of_opencvs(rng: np.random.Generator) -> None:
    image = to_gray(scene(rng))
    features = load_extractor(FrontendConfig(extractor='sift', max_keypoints=100)).extract(image)
    keypoints, plain = cv2.SIFT.create(contrastThreshold=0.02).detectAndCompute(image, None)
    expected = np.sqrt(plain / plain.sum(1, keepdims=True))
    places = np.array([k.pt for k in keypoints])
    for xy, descriptor in zip(features.xy[:30], features.descriptor[:30], strict=True):
        here = np.linalg.norm(places - xy, axis=1) < 1e-3
        assert likeness(expected[here], descriptor).max() > 0.995


@EXTRACTORS
def test_colour_is_read_as_rgb(rng: np.random.Generator, name: str) -> None:
    image = rng.integers(0, 256, (120, 160, 3), np.uint8)
    image = cv2.GaussianBlur(image, (0, 0), 2.0)
    extractor = load_extractor(FrontendConfig(extractor=name))
    from_rgb = extractor.extract(image)
    from_gray = extractor.extract(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    np.testing.assert_array_equal(from_rgb.xy, from_gray.xy)


def test_drawing_leaves_the_image_and_marks_the_keypoints() -> None:
    image = np.zeros((60, 80), np.uint8)
    xy = np.array([[40.0, 30.0], [500.0, 500.0]], np.float32)  # one outside: no harm
    features = Features(xy, np.ones(2, np.float32), np.zeros((2, 32), np.uint8))
    canvas = draw_features(image, features, 'TRACKING')
    assert canvas.shape == (60, 80, 3) and canvas.dtype == np.uint8
    assert not image.any()
    assert canvas[25:36, 35:46].any()
    assert canvas[:24].any()
    assert not draw_features(image, features)[:20].any()


def test_an_opencv_without_akaze_is_one_line_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(cv2, 'AKAZE', raising=False)
    with pytest.raises(FrontendError, match=r'orb or sift, or install opencv below 5$'):
        load_extractor(FrontendConfig(extractor='akaze'))
