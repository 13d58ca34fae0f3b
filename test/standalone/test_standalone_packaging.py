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

from packaging.requirements import Requirement
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
    entries = requirements(repository, 'STANDALONE') + requirements(repository, 'LOOP_CLOSURE')
    names = [re.split(r'[\[<>=]', entry)[0] for entry in entries]
    declared = {IMPORT_OF.get(name, name) for name in names}
    declared |= {entry.text for entry in manifest.findall('exec_depend')} | OPTIONAL

    undeclared = {}
    for path in (repository / 'kpvo_ros').rglob('*.py'):
        for name in imported_packages(path) - declared - {'kpvo_ros'}:
            if name not in sys.stdlib_module_names:
                undeclared.setdefault(name, str(path.relative_to(repository)))

    assert undeclared == {}


def requirements(repository: Path, name: str) -> list[str]:
    """A list of requirements in setup.py."""
    for node in ast.parse((repository / 'setup.py').read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise AssertionError(f'setup.py has no list {name}')


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
    for entry in requirements(repository, 'STANDALONE'):
        wanted.add(re.split(r'[\[<>=]', entry)[0].lower().replace('_', '-'))
    wanted |= {'gtsam', 'pytest', 'ruff', 'mypy', 'setuptools'}

    assert wanted - pins == set()


@pytest.mark.parametrize('constraints', ['constraints.txt', 'constraints-robot.txt'])
@pytest.mark.parametrize('python', ['3.10', '3.11', '3.12', '3.13'])
def test_every_python_gets_one_gtsam_that_satisfies_the_extra(repository, constraints, python):
    lines = (repository / 'standalone' / constraints).read_text().splitlines()
    pins = [Requirement(line) for line in lines if line.startswith('gtsam')]
    (pin,) = [pin for pin in pins if pin.marker.evaluate({'python_version': python})]
    (version,) = [specifier.version for specifier in pin.specifier]

    (wanted,) = requirements(repository, 'LOOP_CLOSURE')
    assert Requirement(wanted).specifier.contains(version, prereleases=True)


@pytest.mark.parametrize('version', [(3, 9, 18), (3, 10, 13), (3, 14, 0)])
def test_setup_names_the_pythons_it_can_use_before_it_touches_anything(
    repository, tmp_path, version
):
    """A stand-in that differs from this very Python in its version alone."""
    text = '.'.join(map(str, version))
    interpreter = tmp_path / 'python'
    interpreter.write_text(
        '#!/bin/bash\n'
        f'[ "$1" != --version ] || {{ echo "Python {text}"; exit; }}\n'
        f'exec {sys.executable} -c "import sys; sys.version_info = {version}; ${{2}}"\n'
    )
    interpreter.chmod(0o755)
    venv = tmp_path / 'venv'
    done = subprocess.run(
        ['bash', str(repository / 'standalone' / 'setup.sh')],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, 'PYTHON': str(interpreter), 'KPVO_VENV': str(venv)},
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f'Python {text}' in line and 'Python 3.11 to 3.13' in line and 'PYTHON' in line
    assert done.stdout == '' and not venv.exists()


def test_gtsam_is_installed_without_what_it_declares(repository):
    """Its pytest is newer than launch_pytest can work with."""
    folder = repository / 'standalone'
    listed = (folder / 'requirements-robot.txt').read_text().splitlines()
    installs = [
        line
        for line in (folder / 'setup.sh').read_text().splitlines()
        if re.search(r'\bpip install\b.*\bgtsam\b', line)
    ]

    assert not any(line.startswith('gtsam') for line in listed)
    assert not any(e.startswith('gtsam') for e in requirements(repository, 'STANDALONE'))
    assert len(installs) == 1
    assert '--no-deps' in installs[0]


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
