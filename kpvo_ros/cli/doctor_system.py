"""What is installed on this machine, tried out in processes of their own.

A library that was built against another numpy or another ROS does not raise, it crashes; only a
process of its own can tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import os
from pathlib import Path
import platform
import subprocess
import sys
from typing import NamedTuple

from kpvo_ros.cli.findings import Finding, Level
from kpvo_ros.cli.ros_environment import PROFILE_VARIABLES, profile_path
from kpvo_ros.odometry.gtsam_version import INSTALL_GTSAM, crashes_with_numpy

_TIMEOUT_S = 120.0
_MIN_PYTHON = (3, 10)
_MIN_SHARED_MEMORY_MB = 64
_PROBE = """
import importlib, importlib.metadata as metadata, sys
module = importlib.import_module(sys.argv[1])
version = getattr(module, '__version__', '')
if not isinstance(version, str) or not version:
    try:
        version = metadata.version(sys.argv[2])
    except metadata.PackageNotFoundError:
        version = 'version unknown'
origin = 'stand-in' if 'without a ROS 2 installation' in (module.__doc__ or '') else 'of ROS 2'
print(f'{version}|{origin}')
"""
_RUN_SETUP = 'make setup, or source /opt/ros/jazzy/setup.bash'


class _Module(NamedTuple):
    """A module to try, how bad it is when it is missing, and how to get it if not by its name."""

    name: str
    package: str
    needed_for: str
    missing: Level
    install: str = ''


_MODULES = (
    _Module('numpy', 'numpy', 'everything', Level.BLOCK),
    _Module('cv2', 'opencv-python-headless', 'everything', Level.BLOCK),
    _Module('scipy', 'scipy', 'everything', Level.BLOCK),
    _Module('poselib', 'poselib', 'odometry', Level.BLOCK),
    _Module('yaml', 'PyYAML', 'parameter files', Level.BLOCK),
    _Module('rosbags', 'rosbags', 'bags', Level.BLOCK),
    _Module('tqdm', 'tqdm', 'progress bars', Level.BLOCK),
    _Module('matplotlib', 'matplotlib', 'reports', Level.BLOCK),
    _Module('gtsam', 'gtsam', 'loop_closure.enabled only', Level.OK, INSTALL_GTSAM),
    _Module('torch', 'torch', 'the demo and learned methods', Level.WARN),
    _Module('safetensors', 'safetensors', 'learned methods', Level.WARN),
    _Module('rerun', 'rerun-sdk', 'kpvo replay --rerun', Level.OK),
    _Module('rclpy', 'rclpy', 'the nodes and the demo', Level.WARN),
    _Module('tf2_msgs.msg', 'tf2_msgs', 'the nodes and the demo', Level.WARN),
    _Module('cv_bridge', 'cv_bridge', 'users of ROS images', Level.WARN),
    _Module('tf2_ros', 'tf2_ros', 'the nodes and the demo', Level.WARN),
)
_ROS_MODULES = frozenset({'rclpy', 'tf2_msgs.msg', 'cv_bridge', 'tf2_ros'})


class _Trial(NamedTuple):
    """How the import of a module went."""

    version: str
    origin: str
    error: str
    crashed: bool


def system_findings() -> Iterator[Finding]:
    """Everything worth knowing about this machine, one finding a line."""
    yield _python()
    yield _cores()
    with ThreadPoolExecutor(max_workers=2) as pool:
        trials = dict(
            zip((m.name for m in _MODULES), pool.map(_try_import, _MODULES), strict=True)
        )
    for module in _MODULES:
        yield _judge(module, trials[module.name], trials['numpy'].version)
    yield _distribution()
    yield from _transport()


# ------------------------------------------------------------------------------------ private


def _python() -> Finding:
    version = platform.python_version()
    if sys.version_info[:2] < _MIN_PYTHON:
        return Finding(Level.BLOCK, 'python', version, 'use Python 3.10 or newer')
    return Finding(Level.OK, 'python', f'{version} ({sys.executable})')


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    if cores and cores >= 2:
        return Finding(Level.OK, 'cores', str(cores))
    return Finding(Level.WARN, 'cores', str(cores), 'expect a low rate; frontend.threads=1')


def _try_import(module: _Module) -> _Trial:
    command = [sys.executable, '-c', _PROBE, module.name, module.package]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return _Trial('', '', f'import took more than {_TIMEOUT_S:g} s', True)
    if done.returncode == 0:
        version, _, origin = done.stdout.strip().splitlines()[-1].partition('|')
        return _Trial(version, origin, '', False)
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    error = lines[-1] if lines else f'ended with code {done.returncode}'
    missing = 'ModuleNotFoundError' in error
    return _Trial('', '', error, crashed=not missing)


def _judge(module: _Module, trial: _Trial, numpy_version: str) -> Finding:
    clash = _clash(module, trial, numpy_version)
    if clash is not None:
        return clash
    if not trial.error:
        version = trial.version
        if module.name in ('cv_bridge', 'tf2_ros'):
            version += f', {trial.origin}'
        return Finding(Level.OK, module.name, version)
    cure = _RUN_SETUP if module.name in _ROS_MODULES else module.install
    if trial.crashed:
        advice = cure or f'reinstall {module.package}'
        return Finding(_worse(module.missing), module.name, trial.error, advice)
    advice = cure or f'pip install {module.package}'
    return Finding(
        module.missing, module.name, f'not installed; needed for {module.needed_for}', advice
    )


def _clash(module: _Module, trial: _Trial, numpy_version: str) -> Finding | None:
    """What was built for numpy 1 and would run under numpy 2."""
    if module.name == 'cv_bridge' and trial.crashed and numpy_version.startswith('2'):
        return Finding(
            Level.BLOCK,
            module.name,
            f'crashes with numpy {numpy_version}: it was built for numpy 1',
            "pip install 'numpy<2'",
        )
    if module.name == 'gtsam' and crashes_with_numpy(trial.version, numpy_version):
        return Finding(
            Level.WARN,
            module.name,
            f'{trial.version} is too old for numpy {numpy_version} and crashes; needed for '
            f'{module.needed_for}',
            module.install,
        )
    return None


def _worse(level: Level) -> Level:
    return Level.BLOCK if level is Level.BLOCK else Level.WARN


def _distribution() -> Finding:
    distribution = os.environ.get('ROS_DISTRO')
    if not distribution:
        return Finding(
            Level.WARN,
            'ROS_DISTRO',
            'not set',
            'source standalone/env.sh or /opt/ros/jazzy/setup.bash',
        )
    rmw = os.environ.get('RMW_IMPLEMENTATION', 'default middleware')
    return Finding(Level.OK, 'ROS_DISTRO', f'{distribution}, {rmw}')


def _transport() -> Iterator[Finding]:
    """Whether images get from one process to the other."""
    profile = next((os.environ[v] for v in PROFILE_VARIABLES if os.environ.get(v)), None)
    shipped = profile_path()
    if profile is None:
        advice = f'export {PROFILE_VARIABLES[0]}={shipped}' if shipped else 'see the README'
        said = 'none: raw images over 512 KB are lost between processes'
        yield Finding(Level.WARN, 'Fast DDS profile', said, advice)
    elif not Path(profile).is_file():
        yield Finding(
            Level.WARN, 'Fast DDS profile', f'{profile} does not exist', 'correct the path'
        )
    else:
        yield Finding(Level.OK, 'Fast DDS profile', profile)
    try:
        room = os.statvfs('/dev/shm')
    except OSError:
        yield Finding(Level.WARN, 'shared memory', 'no /dev/shm', 'images go over the loopback')
        return
    size_mb = room.f_bavail * room.f_frsize / 2**20
    if size_mb < _MIN_SHARED_MEMORY_MB:
        advice = 'free /dev/shm; in a container: --shm-size=1g or --ipc=host'
        yield Finding(Level.WARN, 'shared memory', f'{size_mb:.0f} MB free', advice)
    else:
        yield Finding(Level.OK, 'shared memory', f'{size_mb:.0f} MB free')
