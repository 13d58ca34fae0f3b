"""One description of the package serves pip, colcon and ROS, and nothing is missing from it."""

from __future__ import annotations

import ast
import configparser
from importlib import metadata
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

import pytest

# Distribution names as pip, imports and rosdep call them.
IMPORT_OF = {
    'opencv-python-headless': 'cv2',
    'PyYAML': 'yaml',
    'rosbags-image': 'rosbags',
}
OPTIONAL = {'rerun'}
NODES = {'vo_node', 'keypoint_node', 'bag_player', 'bag_recorder'}


@pytest.fixture(scope='module')
def manifest(repository: Path) -> ElementTree.Element:
    """package.xml."""
    return ElementTree.parse(repository / 'package.xml').getroot()


@pytest.fixture(scope='module')
def checkout(repository: Path, tmp_path_factory) -> Path:
    """A copy of everything that installing reads, so that building leaves no trace here."""
    copy = tmp_path_factory.mktemp('checkout') / 'kpvo_ros'
    copy.mkdir()
    unwanted = shutil.ignore_patterns('__pycache__', '*.egg-info', 'build')
    for name in ('config', 'kpvo_ros', 'launch', 'models', 'resource', 'standalone'):
        if (repository / name).is_dir():
            shutil.copytree(repository / name, copy / name, ignore=unwanted)
    for name in ('LICENSE', 'package.xml', 'pyproject.toml', 'setup.cfg', 'setup.py'):
        shutil.copy(repository / name, copy / name)
    return copy


def shipped_files(repository: Path) -> set[str]:
    """What has to arrive below share/kpvo_ros."""
    return {
        str(path.relative_to(repository))
        for room in ('config', 'launch', 'models')
        for path in (repository / room).rglob('*')
        if path.is_file() and not any(part.startswith(('.', '__')) for part in path.parts)
    }


def python_packages(repository: Path) -> set[str]:
    """Every folder of the package that holds code."""
    return {
        '.'.join(path.parent.relative_to(repository).parts)
        for path in (repository / 'kpvo_ros').rglob('*.py')
    }


def test_the_installed_version_is_the_one_of_the_manifest(manifest):
    try:
        installed = metadata.version('kpvo_ros')
    except metadata.PackageNotFoundError:
        pytest.skip('kpvo_ros is not installed: run `make setup`')

    assert installed == manifest.findtext('version')


def test_the_version_is_written_in_the_manifest_only(repository, manifest):
    version = re.escape(manifest.findtext('version'))
    files = [repository / name for name in ('setup.py', 'setup.cfg', 'pyproject.toml')]
    files += sorted((repository / 'kpvo_ros').rglob('*.py'))

    repeated = [
        str(path.relative_to(repository))
        for path in files
        if re.search(rf'version\W+[\'"]?{version}', path.read_text())
    ]

    assert repeated == []


def test_every_folder_with_code_is_a_package(repository):
    for name in python_packages(repository):
        assert (repository / name.replace('.', '/') / '__init__.py').is_file(), name


def test_every_import_is_declared(repository, manifest):
    names = [re.split(r'[\[<>=]', entry)[0] for entry in standalone_requirements(repository)]
    declared = {IMPORT_OF.get(name, name) for name in names}
    declared |= {entry.text for entry in manifest.findall('exec_depend')} | OPTIONAL

    undeclared = {}
    for path in (repository / 'kpvo_ros').rglob('*.py'):
        for name in imported_packages(path) - declared - {'kpvo_ros'}:
            if name not in sys.stdlib_module_names:
                undeclared.setdefault(name, str(path.relative_to(repository)))

    assert undeclared == {}


def standalone_requirements(repository: Path) -> list[str]:
    """The list STANDALONE in setup.py."""
    for node in ast.parse((repository / 'setup.py').read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'STANDALONE':
            return ast.literal_eval(node.value)
    raise AssertionError('setup.py has no list STANDALONE')


def imported_packages(path: Path) -> set[str]:
    """The top-level names a module imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split('.')[0])
    return names


def test_every_requirement_is_pinned(repository):
    folder = repository / 'standalone'
    pins = {
        line.split('==')[0].lower().replace('_', '-')
        for line in (folder / 'constraints.txt').read_text().splitlines()
        if '==' in line and not line.startswith('#')
    }
    wanted = {
        re.split(r'[\[<>=]', line)[0].lower().replace('_', '-')
        for line in (folder / 'requirements-ros.txt').read_text().splitlines()
        if line and not line.startswith('#')
    }
    for entry in standalone_requirements(repository):
        wanted.add(re.split(r'[\[<>=]', entry)[0].lower().replace('_', '-'))
    wanted |= {'pytest', 'ruff', 'mypy', 'setuptools'}

    assert wanted - pins == set()


def test_every_command_can_be_loaded():
    pytest.importorskip('rclpy', reason='ROS 2 is not installed: run `make setup`')
    commands = metadata.entry_points(group='console_scripts')
    own = {entry.name: entry for entry in commands if entry.value.startswith('kpvo_ros.')}
    if not own:
        pytest.skip('kpvo_ros is not installed: run `make setup`')

    assert set(own) == NODES | {'kpvo'}
    for entry in own.values():
        assert callable(entry.load()), entry.name


def test_the_wheel_holds_all_code_and_all_shared_files(checkout, tmp_path):
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
        + ['--no-index', '-w', str(tmp_path), str(checkout)],
        check=True,
    )
    (wheel,) = tmp_path.glob('*.whl')
    contents = zipfile.ZipFile(wheel)
    names = set(contents.namelist())
    share = {name.split('/share/kpvo_ros/')[1] for name in names if '/share/kpvo_ros/' in name}
    (commands,) = [name for name in names if name.endswith('entry_points.txt')]
    parser = configparser.ConfigParser()
    parser.read_string(contents.read(commands).decode())

    assert share >= shipped_files(checkout) | {'package.xml', 'standalone/fastdds.xml'}
    for package in python_packages(checkout):
        assert f'{package.replace(".", "/")}/__init__.py' in names
    assert set(parser['console_scripts']) == NODES | {'kpvo'}


@pytest.mark.slow
def test_colcon_puts_nodes_where_launch_looks_for_them(checkout, tmp_path):
    pytest.importorskip('colcon_ros', reason='colcon is not installed')
    command = [sys.executable, '-m', 'colcon', '--log-base', str(tmp_path / 'log'), 'build']
    command += ['--base-paths', str(checkout), '--packages-select', 'kpvo_ros']
    built = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, 'PYTHONWARNINGS': 'ignore'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    prefix = tmp_path / 'install' / 'kpvo_ros'
    executables = {path.name for path in (prefix / 'lib' / 'kpvo_ros').iterdir()}
    assert executables >= NODES
    assert all(os.access(prefix / 'lib' / 'kpvo_ros' / name, os.X_OK) for name in executables)
    assert (prefix / 'share/ament_index/resource_index/packages/kpvo_ros').is_file()
    for name in shipped_files(checkout):
        assert (prefix / 'share' / 'kpvo_ros' / name).is_file(), name
