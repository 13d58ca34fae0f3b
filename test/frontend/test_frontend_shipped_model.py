"""The weights in models/: whole, small, described, and better than weights that never learned."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip('torch', reason='torch is not installed')

from kpvo_ros.config.frontend import FrontendConfig
from kpvo_ros.evaluation.keypoints import share_within, transfer_errors_px
from kpvo_ros.frontend.extractor import Extractor, load_extractor
from kpvo_ros.frontend.learned import LearnedExtractor
from kpvo_ros.nets.keypoint import KeypointNet
from kpvo_ros.types import Features

MODELS = Path(__file__).resolve().parents[2] / 'models'
ENTRIES = yaml.safe_load((MODELS / 'manifest.yaml').read_text(encoding='utf-8'))['models']
MAX_MB = 25
CONFIG = FrontendConfig(extractor='kpvo', max_keypoints=400, grid_cell_px=512)


@pytest.mark.parametrize('name', ENTRIES)
def test_a_shipped_file_is_the_one_of_the_manifest(name: str) -> None:
    data = (MODELS / ENTRIES[name]['file']).read_bytes()
    assert len(data) < MAX_MB * 1e6
    assert hashlib.sha256(data).hexdigest() == ENTRIES[name]['sha256']
    for told in ('licence', 'data', 'command', 'metrics'):
        assert ENTRIES[name][told], told
    assert name in (MODELS / 'MODEL_CARD.md').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A drawn picture, the same seen from elsewhere in other light, and the homography."""
    rng = np.random.default_rng(4)
    picture = np.full((240, 320), 120, np.uint8)
    for _ in range(120):
        corners = rng.uniform(0, (320, 240), 2) + rng.uniform(-25, 25, (4, 2))
        cv2.fillPoly(picture, [corners.astype(np.int32)], float(rng.uniform(20, 235)))
    picture = cv2.GaussianBlur(picture, (0, 0), 0.8)
    turn = cv2.getRotationMatrix2D((160, 120), 12.0, 1.15)
    H = np.vstack([turn, [2e-4, -1e-4, 1.0]])
    other = cv2.warpPerspective(picture, H, (320, 240), borderMode=cv2.BORDER_REFLECT)
    darker = 0.6 * other + rng.normal(0.0, 4.0, other.shape)
    return picture, np.clip(darker, 0, 255).astype(np.uint8), H


def right_within_3_px(
    extractor: Extractor, pair: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> float:
    one, two = (extractor.extract(image) for image in pair[:2])
    index0, index1 = mutual(one, two)
    return share_within(transfer_errors_px(one.xy[index0], two.xy[index1], pair[2]), 3.0)


def mutual(one: Features, two: Features) -> tuple[np.ndarray, np.ndarray]:
    similarity = one.descriptor @ two.descriptor.T
    nearest, back = similarity.argmax(1), similarity.argmax(0)
    index = np.flatnonzero(back[nearest] == np.arange(len(nearest)))
    return index, nearest[index]


def test_the_shipped_keypoints_match_where_untrained_ones_do_not(
    pair: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    trained = right_within_3_px(load_extractor(CONFIG), pair)
    untrained = right_within_3_px(LearnedExtractor(CONFIG, KeypointNet().eval()), pair)
    assert trained > 0.6
    assert untrained < 0.5 * trained


def test_the_shipped_keypoints_find_nothing_on_a_wall() -> None:
    features = load_extractor(CONFIG).extract(np.full((240, 320), 180, np.uint8))
    assert features.xy.shape == (0, 2)
    assert features.image_descriptor is not None
