"""The environment in which several ROS 2 processes of one machine find each other, and only them.

The same settings as standalone/env.sh, for processes started from Python.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import fcntl
import importlib.util
import os
from pathlib import Path
import sys
import tempfile

from kpvo_ros.errors import RosError

PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
_DOMAIN_IDS = range(1, 101)  # above 101 the ports meet those the system hands out


def require_ros() -> None:
    """Check that nodes can be started.

    Raises:
        RosError: ROS 2 is not there.
    """
    for module in ('rclpy', 'tf2_ros', 'tf2_msgs', 'nav_msgs'):
        if importlib.util.find_spec(module) is None:
            raise RosError(
                f'ROS 2 is not there (no module {module}): run make setup, or source '
                '/opt/ros/jazzy/setup.bash'
            )


@contextlib.contextmanager
def private_ros_environment() -> Iterator[dict[str, str]]:
    """Variables for processes that shall meet nobody else on this machine or in the network."""
    with _private_domain() as domain_id:
        environment = dict(os.environ)
        profile = profile_path()
        for variable in PROFILE_VARIABLES:
            if profile is not None:
                environment.setdefault(variable, str(profile))
        environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        environment['ROS_DOMAIN_ID'] = str(domain_id)
        environment['PYTHONUNBUFFERED'] = '1'
        yield environment


def profile_path() -> Path | None:
    """The Fast DDS profile of this package, in a checkout or where it was installed."""
    package = Path(__file__).resolve().parent.parent
    places = [package.parent / 'standalone', Path(sys.prefix) / 'share/kpvo_ros/standalone']
    prefixes = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    places += [Path(prefix) / 'share/kpvo_ros/standalone' for prefix in prefixes if prefix]
    return next((p / 'fastdds.xml' for p in places if (p / 'fastdds.xml').is_file()), None)


@contextlib.contextmanager
def _private_domain() -> Iterator[int]:
    """A DDS domain that neither the tests nor another demo of this user has.

    Raises:
        RosError: all are taken.
    """
    user = os.getuid()
    for offset in range(len(_DOMAIN_IDS)):
        domain_id = _DOMAIN_IDS[(os.getpid() + offset) % len(_DOMAIN_IDS)]
        # The tests claim their domains by the same files (test/conftest.py).
        path = Path(tempfile.gettempdir()) / f'kpvo_test_{user}_domain_{domain_id}.lock'
        with path.open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain_id
            return
    raise RosError(f'all {len(_DOMAIN_IDS)} DDS domains are taken; end other demos and tests')
