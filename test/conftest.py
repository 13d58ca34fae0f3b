"""What every test may ask for: seeded randomness, real data, tolerances, an own ROS world."""

from __future__ import annotations

from collections.abc import Iterator
import fcntl
import os
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
import pytest

# Before anybody imports a library that reads them.
os.environ['MPLBACKEND'] = 'Agg'
os.environ.setdefault('OMP_NUM_THREADS', '1')  # on a busy machine two stall each other

ROOT = Path(__file__).resolve().parent.parent
_SEED = 20240607
_DOMAIN_IDS = range(1, 101)  # above 101 the ports meet those the system hands out


@pytest.fixture(scope='session')
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that gives the same numbers in every run, for each test anew."""
    return np.random.default_rng(_SEED)


@pytest.fixture
def torch_generator() -> Any:
    """The same for torch."""
    torch = pytest.importorskip('torch')
    torch.set_num_threads(1)  # threads that wait for each other stall on a busy machine
    return torch.Generator().manual_seed(_SEED)


@pytest.fixture
def tolerance() -> dict[str, dict[str, float]]:
    """Keyword arguments for `np.testing.assert_allclose`, by precision.

    `exact`: same operations, other order; `double`, `single`: some dozens of operations.
    """
    return {
        'exact': {'rtol': 1e-12, 'atol': 1e-12},
        'double': {'rtol': 1e-7, 'atol': 1e-9},
        'single': {'rtol': 1e-4, 'atol': 1e-5},
    }


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """The folder of real sequences; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get('KPVO_SHARED_DATA', ROOT.parent / 'shared' / 'data'))
    if not folder.is_dir():
        pytest.skip(f'no recorded sequences at {folder}: set KPVO_SHARED_DATA to their folder')
    return folder


@pytest.fixture(scope='session')
def ros_domain_id() -> Iterator[int]:
    """A DDS domain no other test process of this machine uses; child processes inherit it."""
    pytest.importorskip('rclpy', reason='ROS 2 is not installed: run `make setup`')
    domain_id, lock = _claim_domain()
    os.environ['ROS_DOMAIN_ID'] = str(domain_id)
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    profile = ROOT / 'standalone' / 'fastdds.xml'
    os.environ.setdefault('FASTRTPS_DEFAULT_PROFILES_FILE', str(profile))  # Fast DDS 2
    os.environ.setdefault('FASTDDS_DEFAULT_PROFILES_FILE', str(profile))  # Fast DDS 3
    yield domain_id
    lock.close()


@pytest.fixture
def ros_context(ros_domain_id: int) -> Iterator[Any]:
    """A context of its own, so that tests cannot meet each other."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain_id)
    yield context
    context.try_shutdown()


def _claim_domain() -> tuple[int, Any]:
    """The first domain whose lock file is free; the open file is the claim."""
    first = os.getpid()
    for offset in range(len(_DOMAIN_IDS)):
        domain_id = _DOMAIN_IDS[(first + offset) % len(_DOMAIN_IDS)]
        path = Path(tempfile.gettempdir()) / f'kpvo_test_{os.getuid()}_domain_{domain_id}.lock'
        lock = path.open('w')
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return domain_id, lock
    raise RuntimeError(f'all {len(_DOMAIN_IDS)} DDS domains are taken by running tests')
