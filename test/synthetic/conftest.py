"""Small worlds with plain textures, quick to build and render."""

import numpy as np
import pytest
import torch

from kpvo_ros.geometry.camera import Camera
from kpvo_ros.geometry.se3 import T_BASE_OPTICAL, from_rt, rpy_to_matrix
from kpvo_ros.synthetic.builder import WorldBuilder
from kpvo_ros.synthetic.texture import TextureAtlas, standard_atlas


@pytest.fixture(scope='session')
def plain_atlas() -> TextureAtlas:
    """White, black, a picture whose four quarters differ, and a smooth pattern."""
    size = 64
    quarters = np.zeros((size, size, 3), np.uint8)
    quarters[:32, :32] = 255, 0, 0  # red top left
    quarters[:32, 32:] = 0, 255, 0  # green top right
    quarters[32:, :32] = 0, 0, 255  # blue bottom left
    quarters[32:, 32:] = 255, 255, 255
    spot = np.zeros((size, size, 3), np.uint8)
    spot[24:40, 24:40] = 255
    wave = np.arange(size) * 2 * np.pi / size
    smooth = 0.5 + 0.2 * np.sin(wave)[:, None] + 0.2 * np.cos(wave)[None]
    return TextureAtlas.pack(
        {
            'white': np.full((size, size, 3), 255, np.uint8),
            'black': np.zeros((size, size, 3), np.uint8),
            'quarters': quarters,
            'spot': spot,
            'smooth': np.repeat(smooth[..., None], 3, axis=2),
        }
    )


@pytest.fixture(scope='session')
def small_atlas() -> TextureAtlas:
    """All procedural textures at low resolution."""
    return standard_atlas(0, 128)


@pytest.fixture
def builder(plain_atlas) -> WorldBuilder:
    return WorldBuilder(plain_atlas, np.random.default_rng(0))


@pytest.fixture
def camera() -> Camera:
    return Camera(96, 64, 80.0, 82.0, 47.3, 31.1)


@pytest.fixture
def look():
    """look(x, y, z, yaw, pitch): pose of a camera, pitch downwards."""

    def pose(x=0.0, y=0.0, z=0.0, yaw=0.0, pitch=0.0, roll=0.0):
        return from_rt(rpy_to_matrix(roll, pitch, yaw), np.array([x, y, z])) @ T_BASE_OPTICAL

    return pose


@pytest.fixture(autouse=True)
def _few_threads():
    """Tests render small pictures: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
