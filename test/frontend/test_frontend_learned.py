"""The learned extractor keeps the promise of `Extractor`, whatever its weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

from kpvo_ros.config.runtime import FrontendConfig
from kpvo_ros.errors import FrontendError, KpvoError
from kpvo_ros.frontend.extractor import Extractor, load_extractor

torch = pytest.importorskip('torch')


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A network that was never trained: what follows must hold for any."""
    from kpvo_ros.nets.checkpoint import save_weights
    from kpvo_ros.nets.keypoint import KIND, KeypointNet, KeypointNetConfig

    path = tmp_path_factory.mktemp('weights') / 'net.safetensors'
    network = KeypointNet(generator=torch.Generator().manual_seed(4))
    save_weights(path, network, kind=KIND, config=KeypointNetConfig(), notes={})
    return str(path)


def make(weights: str, **options: Any) -> Extractor:
    return load_extractor(FrontendConfig(extractor=weights, **options))


def scene(rng: np.random.Generator, shape: tuple[int, int] = (240, 320)) -> np.ndarray:
    """(H, W) smooth texture."""
    texture = cv2.GaussianBlur(rng.normal(size=shape).astype(np.float32), (0, 0), 2.0)
    return np.clip(128 + 40 * texture / texture.std(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize('shape', [(240, 320), (61, 333), (480, 40)])
def test_features_have_the_promised_shapes(
    rng: np.random.Generator, weights: str, shape: tuple[int, int]
) -> None:
    features = make(weights, max_keypoints=200).extract(scene(rng, shape))
    count = len(features)
    assert 20 <= count <= 200
    assert features.xy.shape == (count, 2) and features.xy.dtype == np.float32
    assert features.score.shape == (count,) and features.score.dtype == np.float32
    assert features.descriptor.shape == (count, 64) and features.descriptor.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features.descriptor, axis=1), 1.0, atol=1e-5)
    assert features.image_descriptor is not None and features.image_descriptor.shape == (256,)
    assert np.linalg.norm(features.image_descriptor) == pytest.approx(1.0, abs=1e-5)
    assert ((features.xy >= 0) & (features.xy <= (shape[1] - 1, shape[0] - 1))).all()


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
@pytest.mark.parametrize('value', [0, 100, 255])
def test_an_image_without_texture_has_no_features(
    rng: np.random.Generator, weights: str, value: int, precision: str
) -> None:
    image = np.full((120, 160), value, np.uint8)
    noisy = np.clip(image + rng.integers(0, 2, image.shape), 0, 255).astype(np.uint8)
    for flat in (image, noisy):
        features = make(weights, precision=precision).extract(flat)
        assert features.xy.shape == (0, 2) and features.descriptor.shape == (0, 64)


@pytest.mark.parametrize('shape', [(1, 1), (1, 300), (31, 200), (32, 32), (33, 2000), (40, 9000)])
def test_a_tiny_image_or_a_ribbon_is_answered(
    rng: np.random.Generator, weights: str, shape: tuple[int, int]
) -> None:
    features = make(weights).extract(rng.integers(0, 256, shape, np.uint8))
    assert features.descriptor.shape == (len(features), 64)


@pytest.mark.parametrize(
    'image',
    [np.zeros((40, 40), np.float32), np.zeros((40, 40, 4), np.uint8), np.zeros((0, 40), np.uint8)],
    ids=lambda image: f'{image.shape} {image.dtype}',
)
def test_what_is_no_image_is_refused(weights: str, image: np.ndarray) -> None:
    with pytest.raises(FrontendError, match='an image is'):
        make(weights).extract(image)


def test_the_image_is_left_as_it_is_and_the_answer_is_the_same_twice(
    rng: np.random.Generator, weights: str
) -> None:
    image = scene(rng)
    before = image.copy()
    extractor = make(weights)
    one, two = extractor.extract(image), extractor.extract(image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(one.xy, two.xy)
    np.testing.assert_array_equal(one.descriptor, two.descriptor)


def test_no_keypoint_lies_where_the_mask_ignores(rng: np.random.Generator, weights: str) -> None:
    image = scene(rng)
    ignore = np.zeros(image.shape, bool)
    ignore[:, 100:260] = True
    for max_side_px in (1280, 200):
        features = make(weights, max_side_px=max_side_px).extract(image, ignore)
        inside = (features.xy[:, 0] > 103) & (features.xy[:, 0] < 256)  # less the refinement
        assert len(features) > 10 and not inside.any()
    assert len(make(weights).extract(image, np.ones(image.shape, bool))) == 0
    with pytest.raises(FrontendError, match='mask'):
        make(weights).extract(image, np.zeros((10, 10), bool))


def test_cells_share_the_keypoints(rng: np.random.Generator, weights: str) -> None:
    image = scene(rng)

    def occupied(cell_px: int) -> int:
        xy = make(weights, max_keypoints=100, grid_cell_px=cell_px).extract(image).xy
        return len({(int(x // 40), int(y // 40)) for x, y in xy})

    assert occupied(40) > occupied(512)


def test_a_large_image_is_shrunk_and_its_keypoints_are_where_they_were(
    rng: np.random.Generator, weights: str
) -> None:
    small = scene(rng)
    large = cv2.resize(small, (640, 480), interpolation=cv2.INTER_NEAREST)  # each pixel four times
    here = make(weights, max_keypoints=300, grid_cell_px=20).extract(small)
    there = make(weights, max_keypoints=300, grid_cell_px=40, max_side_px=320).extract(large)
    # The centre of pixel x lies between the two that show it: 2 x + 0.5.
    np.testing.assert_allclose(there.xy, 2 * here.xy + 0.5, atol=1e-3)
    np.testing.assert_allclose(there.descriptor, here.descriptor, atol=1e-5)


def test_the_threads_of_torch_are_left_alone(rng: np.random.Generator, weights: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    make(weights, threads=2).extract(scene(rng))
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_the_name_is_the_one_of_the_configuration(weights: str) -> None:
    assert make(weights).name == weights
    config = FrontendConfig(extractor='kpvo', weights_path=weights)
    assert load_extractor(config).name == 'kpvo'


@pytest.mark.parametrize('name', ['surf', '', 'kpvo.pth', '../models/kpvo'])
def test_an_unknown_extractor_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(FrontendError, match='orb, akaze, sift, kpvo'):
        load_extractor(FrontendConfig(extractor=name))


def test_weights_that_are_missing_or_broken_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / 'net.safetensors'
    with pytest.raises(FrontendError, match='there are no weights at'):
        load_extractor(FrontendConfig(extractor=str(path)))
    path.write_bytes(b'nothing')
    with pytest.raises(KpvoError, match='not a weights file'):
        load_extractor(FrontendConfig(extractor='kpvo', weights_path=str(path)))


def test_classical_keypoints_need_no_torch(repository: Path, weights: str) -> None:
    code = (
        'import sys\n'
        "sys.modules['torch'] = None\n"  # as if it were not installed
        'from kpvo_ros.config.runtime import FrontendConfig\n'
        'from kpvo_ros.frontend.extractor import load_extractor\n'
        'from kpvo_ros.errors import FrontendError\n'
        'load_extractor(FrontendConfig())\n'
        'try:\n'
        f'    load_extractor(FrontendConfig(extractor={weights!r}))\n'
        'except FrontendError as error:\n'
        '    print(error)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=repository, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert 'needs torch; install it' in done.stdout


def test_every_new_parameter_has_a_working_default() -> None:
    config = dataclasses.asdict(FrontendConfig())
    assert (config['weights_path'], config['precision']) == ('', 'auto')
    assert config['max_side_px'] >= 1241  # KITTI is not shrunk
