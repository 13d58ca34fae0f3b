"""What the run-time tests share: a room and films of it, each shot once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from runtime_world import Film, World, config, make_room, path_through, run, shoot, sideways_walk

from kpvo_ros.odometry.pipeline import Odometry
from kpvo_ros.types import OdometryEstimate


@pytest.fixture(scope='session')
def room() -> World:
    """A textured room."""
    return make_room(np.random.default_rng(5))


@pytest.fixture(scope='session')
def walk(room: World) -> Film:
    """Four seconds, three metres."""
    return shoot(room, sideways_walk(80))


@pytest.fixture(scope='session')
def walked(walk: Film) -> list[OdometryEstimate]:
    """The odometry with depth over `walk`."""
    return run(walk.frames)


@pytest.fixture(scope='session')
def turn(room: World) -> Film:
    """The base turns left by 2.4 rad on the spot, the camera 20 cm ahead of its axis with it."""
    return shoot(room, path_through([(3.0, 3.0)] * 4, [0.0, 0.8, 1.6, 2.4], 60))


@pytest.fixture
def odometry() -> Iterator[Odometry]:
    """A fresh odometry at the base whose camera looks ahead."""
    odometry = Odometry(config())
    yield odometry
    odometry.close()
