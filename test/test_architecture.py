"""The house rules that a machine can check: doors between rooms, side effects, forbidden things.

The table of doors is that of docs/architecture.md. A new room needs a row here before it can be
imported by anybody.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
import functools
import importlib.metadata
import importlib.util
import os
from pathlib import Path
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / 'kpvo_ros'
FILES = sorted(PACKAGE.rglob('*.py'))
MAX_LINES = 400
MAX_FUNCTION_LINES = 60

RUN_TIME = {'frontend', 'odometry'}
EVALUATION_NAMES = {f'evaluation.{name}' for name in ('files', 'seconds', 'report', 'states')}
# Room (or one module of it) -> rooms or modules behind an open door. Rooms see themselves.
DOORS: dict[str, set[str]] = {
    'errors': set(),
    'config': {'errors'},
    'geometry': {'errors'},
    'types': {'errors', 'geometry.camera'},
    'synthetic': {'errors', 'types', 'geometry'},
    'evaluation': {'errors', 'types', 'geometry'},
    'nets': {'errors', 'geometry.sampling', 'geometry.procrustes'},
    'losses': {'errors', 'geometry'},
    'training': {'errors', 'config', 'evaluation.plot_style', 'nets.precision'},
    'methods': {'errors'},
    'methods.crossview': {
        'errors', 'config', 'geometry', 'nets', 'losses', 'synthetic', 'training',
        'evaluation.depth',
    },
    'methods.homography': {
        'errors', 'config', 'geometry', 'nets', 'losses', 'synthetic', 'training',
        'evaluation.keypoints',
    },
    'methods.reconstruction': {
        'errors', 'config', 'geometry', 'nets', 'losses', 'synthetic', 'training',
    },
    'methods.textures': {'errors', 'config', 'nets', 'synthetic', 'training'},
    'frontend': {'errors', 'types', 'geometry', 'config', 'nets'},
    'odometry': {'errors', 'types', 'geometry', 'config', 'frontend'},
    'bags': {'errors', 'types', 'geometry'} | EVALUATION_NAMES,
    'bags.replay': {'errors', 'types', 'geometry', 'config'} | EVALUATION_NAMES | RUN_TIME,
    'ros': {'errors', 'types', 'geometry', 'config', 'bags', 'evaluation.files'} | RUN_TIME,
    'cli': {'errors', 'types', 'geometry', 'config', 'synthetic', 'bags', 'evaluation'}
    | {'nets', 'methods', 'training'}
    | RUN_TIME,
}  # fmt: skip
TORCH_PLACES = (
    'geometry.procrustes', 'geometry.sampling', 'geometry.warp', 'synthetic', 'nets', 'losses',
    'training', 'methods', 'frontend.learned', 'frontend.learned_depth', 'cli.bench_renderer',
)  # fmt: skip
LATE_IS_FINE = ('cli', 'frontend.extractor', 'frontend.depth_source')
ROS_PACKAGE = re.compile(
    r'rclpy|rcl_interfaces|\w+_(msgs|srvs|interfaces)|tf2_\w+|cv_bridge|sensor_msgs_py'
    r'|tf_transformations|launch(_ros|_pytest)?|ament_\w+'
)
FORBIDDEN_MODULES = {'pickle', 'cPickle', 'dill', 'joblib', 'shelve', 'marshal', 'random', 'evo'}
FORBIDDEN_CALLS = {
    'eval', 'exec', 'os.system', 'os.popen', 'subprocess.getoutput', 'torch.load', 'yaml.load',
    'yaml.full_load', 'yaml.unsafe_load', 'torch.manual_seed',
}  # fmt: skip
# Public checkpoints come as .pth: read with weights_only, of which nothing is executed.
READS_PUBLIC_WEIGHTS = ('nets.public_files', 'torch.load')
CLOCKS = {'time.time', 'time.time_ns', 'datetime.now', 'datetime.datetime.now'}
CLOCK_ROOMS = ('bags', 'odometry', 'frontend', 'geometry', 'evaluation', 'synthetic', 'types')
OWN_GENERATORS = {'default_rng', 'Generator', 'SeedSequence', 'PCG64'}
TORCH_DRAWS = {'rand', 'randn', 'randint', 'randperm', 'normal', 'bernoulli', 'multinomial'}


def module_name(path: Path) -> str:
    """Dotted name below the package; '' for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path) for path in FILES}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'), str(path))


def imports_of(path: Path, tree: ast.AST | None = None) -> Iterator[str]:
    """Dotted names of all modules a file imports, also late and for typing only."""
    for node in ast.walk(tree or tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: relative import'
            assert node.module is not None
            for alias in node.names:
                full = f'{node.module}.{alias.name}'
                own = full.removeprefix('kpvo_ros.')
                yield full if own in MODULES else node.module


def own_imports_of(path: Path, tree: ast.AST | None = None) -> Iterator[str]:
    """Modules of the package that a file imports, without the package's name."""
    for name in imports_of(path, tree):
        if name == 'kpvo_ros' or name.startswith('kpvo_ros.'):
            yield name.removeprefix('kpvo_ros').removeprefix('.')


def room_of(module: str) -> str:
    """The first part of a name; of the training rooms, which must not meet, the first two."""
    parts = module.split('.')
    return '.'.join(parts[:2] if parts[0] == 'methods' else parts[:1])


def is_within(module: str, place: str) -> bool:
    return module == place or module.startswith(place + '.')


def calls_of(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, node) of every call."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


# --------------------------------------------------------------------------------------- doors


def test_a_module_imports_only_through_the_doors_of_its_room() -> None:
    closed = []
    for path in FILES:
        module = module_name(path)
        room = room_of(module)
        assert room in {*DOORS, ''}, f'room {room!r} has no row in DOORS: add one on purpose'
        doors = DOORS.get(module, DOORS.get(room, set())) | {room} - {''}
        closed += [
            f'{module} -> {name}'
            for name in own_imports_of(path)
            if not any(is_within(name, door) for door in doors)
        ]
    assert not closed


def test_every_door_leads_from_and_to_something_that_exists() -> None:
    for name in {*DOORS, *(door for doors in DOORS.values() for door in doors)}:
        assert name in MODULES, f'{name} is in DOORS but not in the package'


def test_no_cycle_between_rooms() -> None:
    # `types` needs `geometry.camera` alone, so single modules named in DOORS count as rooms.
    graph: dict[str, set[str]] = {}
    for path in FILES:
        room = module_name(path).split('.')[0]
        others = {name.split('.')[0] for name in own_imports_of(path)} - {room, ''}
        graph.setdefault(room, set()).update(others)
    assert_no_cycle(graph)


def test_no_cycle_between_modules() -> None:
    graph = {module_name(path): set(own_imports_of(path)) - {''} for path in FILES}
    assert_no_cycle(graph)


def assert_no_cycle(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(node: str, way: tuple[str, ...]) -> None:
        assert node not in way, 'cycle: ' + ' -> '.join([*way[way.index(node) :], node])
        if node not in done:
            for other in sorted(graph.get(node, ())):
                visit(other, (*way, node))
            done.add(node)

    for node in graph:
        visit(node, ())


def test_the_cycle_check_finds_a_cycle() -> None:
    with pytest.raises(AssertionError, match='a -> b -> a'):
        assert_no_cycle({'a': {'b'}, 'b': {'a'}})


def test_ros_is_imported_in_its_own_room_only() -> None:
    for path in FILES:
        if not is_within(module_name(path), 'ros'):
            foreign = {name.split('.')[0] for name in imports_of(path)}
            assert not {name for name in foreign if ROS_PACKAGE.fullmatch(name)}, path


def test_torch_is_loaded_only_where_batches_or_gradients_are_the_point() -> None:
    """Elsewhere neither torch nor a module that needs it is imported, or only when it is used."""
    for path in FILES:
        module = module_name(path)
        if any(is_within(module, place) for place in TORCH_PLACES):
            continue
        late_is_fine = any(is_within(module, place) for place in LATE_IS_FINE)
        names = set(imports_of(path, imports_at_start(path) if late_is_fine else None))
        own = {name.removeprefix('kpvo_ros.') for name in names}
        needs = {name for name in own if any(is_within(name, p) for p in ('torch', *TORCH_PLACES))}
        assert not needs, f'{module} imports {needs}'


def imports_at_start(path: Path) -> ast.Module:
    """The import statements that run when the module is imported."""
    body = tree_of(path).body
    return ast.Module([n for n in body if isinstance(n, ast.Import | ast.ImportFrom)], [])


# -------------------------------------------------------------------------------- side effects

_IMPORT_EVERYTHING = """
import importlib, logging, os, signal, sys, threading
import numpy as np
before = dict(os.environ), list(sys.path), signal.getsignal(signal.SIGINT)
state = np.random.get_state()[1].copy()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == 1, threading.enumerate()
assert os.listdir() == [], os.listdir()
assert logging.getLogger().handlers == [], logging.getLogger().handlers
assert (np.random.get_state()[1] == state).all(), 'global random numbers were drawn or seeded'
after = dict(os.environ), list(sys.path), signal.getsignal(signal.SIGINT)
assert before[1:] == after[1:], 'sys.path or the signal handler changed'
changed = {k for k in before[0].keys() | after[0].keys() if before[0].get(k) != after[0].get(k)}
assert not {k for k in changed if k.startswith(('ROS', 'RMW', 'OMP', 'KPVO'))}, changed
"""


def run_python(code: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-c', code, *arguments],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize('room', sorted({name.split('.')[0] for name in DOORS}))
def test_importing_a_room_does_nothing_else(room: str, tmp_path: Path) -> None:
    if room == 'ros' and importlib.util.find_spec('rclpy') is None:
        pytest.skip('ROS 2 is not installed: run `make setup`')
    names = [f'kpvo_ros.{name}' for name in sorted(MODULES) if is_within(name, room)]
    done = run_python(_IMPORT_EVERYTHING, tmp_path, *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ''
    assert done.stderr == ''


def test_the_run_time_rooms_start_without_torch_and_without_ros(tmp_path: Path) -> None:
    code = (
        'import kpvo_ros.odometry.pipeline, kpvo_ros.bags.replay, kpvo_ros.bags.sources, sys\n'
        "assert not {'torch', 'rclpy', 'matplotlib'} & set(sys.modules)"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------------- forbidden things


def test_nothing_unsafe_is_imported_or_called() -> None:
    for path in FILES:
        assert not {name.split('.')[0] for name in imports_of(path)} & FORBIDDEN_MODULES, path
        for name, node in calls_of(path):
            where = f'{path.name}:{node.lineno}: {name}'
            if (module_name(path), name) == READS_PUBLIC_WEIGHTS:
                assert keywords_of(node).get('weights_only') == 'True', where
            else:
                assert name not in FORBIDDEN_CALLS, where
            for switch in ('shell', 'allow_pickle'):
                value = keywords_of(node).get(switch, 'False')
                assert value == 'False', f'{where}({switch}={value})'


def test_every_random_draw_comes_from_a_passed_generator() -> None:
    for path in FILES:
        for name, node in calls_of(path):
            where = f'{path.name}:{node.lineno}: {name}'
            owner, _, function = name.rpartition('.')
            if owner in ('np.random', 'numpy.random'):
                assert function in OWN_GENERATORS, f'{where} draws from the global generator'
                assert function != 'default_rng' or node.args, f'{where} without a seed'
            if owner == 'torch' and function in TORCH_DRAWS:
                assert 'generator' in keywords_of(node), f'{where} without a generator'


def test_no_clock_decides_what_comes_out() -> None:
    for path in FILES:
        if any(is_within(module_name(path), room) for room in CLOCK_ROOMS):
            for name, node in calls_of(path):
                assert name not in CLOCKS, f'{path.name}:{node.lineno}: {name}'


def keywords_of(node: ast.Call) -> dict[str, str]:
    return {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}


def test_every_module_says_what_it_is_for() -> None:
    for path in FILES:
        text = ast.get_docstring(tree_of(path))
        assert text and len(text.split()) >= 2, path


def test_no_module_and_no_function_is_too_long_to_read() -> None:
    for path in FILES:
        assert len(path.read_text(encoding='utf-8').splitlines()) <= MAX_LINES, path
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                assert lines <= MAX_FUNCTION_LINES, f'{path}: {node.name} has {lines} lines'


# ------------------------------------------------------------------------------- the repository


def test_the_version_lives_in_package_xml_and_everybody_agrees() -> None:
    written = ElementTree.parse(ROOT / 'package.xml').findtext('version')
    try:
        installed = importlib.metadata.version('kpvo_ros')
    except importlib.metadata.PackageNotFoundError:
        pytest.skip('kpvo_ros is not installed: run `make setup`')
    assert written == installed


def test_the_licence_is_apache_2_everywhere() -> None:
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert manifest.findtext('license') == 'Apache-2.0'
    assert 'Apache License' in (ROOT / 'LICENSE').read_text(encoding='utf-8')


def tracked_texts() -> Iterator[tuple[str, str]]:
    """(path, text) of every text file under version control."""
    try:
        done = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip('git is not installed')
    if done.returncode != 0:
        pytest.skip('not a git checkout')
    for name in filter(None, done.stdout.split('\0')):
        path = ROOT / name
        if not path.is_file():
            continue
        content = path.read_bytes()
        if b'\0' not in content:
            yield name, content.decode('utf-8')


def test_no_code_under_a_licence_that_is_not_ours() -> None:
    words = ('GNU General' + ' Public', 'GNU Lesser' + ' General', 'License-Identifier: ' + 'GPL')
    for name, text in tracked_texts():
        if name.endswith(('.py', '.sh', '.msg', '.srv', '.yaml')):
            flat = ' '.join(text.split()).lower()
            assert not [word for word in words if word.lower() in flat], name


def test_no_path_of_somebodys_machine_in_the_repository() -> None:
    machine = re.compile(r'(?<![\w.~-])/(' + '|'.join(('work', 'root', 'home')) + r')/\w')
    found = [
        f'{name}: {line.strip()}'
        for name, text in tracked_texts()
        for line in text.splitlines()
        if machine.search(line)
    ]
    assert not found
