"""Launch files and shipped parameter files agree with the nodes.

Where launch is installed the descriptions are built; everywhere their text is checked, and the
command lines they come down to are run by test_ros_processes.py.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
import re

import pytest
import yaml

from kpvo_ros.config.files import load
from kpvo_ros.config.runtime import KeypointConfig, VoConfig

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
PARAMETER_FILES = [
    *(ROOT / 'config').glob('*.yaml'),
    *(ROOT / 'config' / 'robots').glob('*.yaml'),
]


def node_calls(path: Path) -> list[dict[str, ast.expr]]:
    tree = ast.parse(path.read_text())
    return [
        {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, 'id', '') == 'Node'
    ]


def arguments(path: Path) -> dict[str, tuple[object, str]]:
    """{name: (default, description)} of the ARGUMENTS table."""
    tree = ast.parse(path.read_text())
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'ARGUMENTS'
    )
    assert isinstance(table, ast.Tuple)
    rows = [row.elts for row in table.elts if isinstance(row, ast.Tuple)]
    return {
        ast.literal_eval(name): (ast.unparse(default), ast.literal_eval(text))
        for name, default, text in rows
    }


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda p: p.name)
def test_a_launch_file_starts_only_programs_the_package_installs(path: Path) -> None:
    scripts = set(re.findall(r'(\w+) = kpvo_ros\.ros\.\w+:main', (ROOT / 'setup.py').read_text()))
    calls = node_calls(path)
    assert calls
    for call in calls:
        assert ast.literal_eval(call['package']) == 'kpvo_ros'
        assert ast.literal_eval(call['executable']) in scripts


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda p: p.name)
def test_every_launch_argument_has_a_sentence(path: Path) -> None:
    table = arguments(path)
    assert {'namespace', 'image_topic', 'params_file', 'use_sim_time'} <= set(table)
    assert all(text for _, text in table.values())


def test_the_arguments_of_the_contract_are_there() -> None:
    wanted = {'camera_info_topic', 'depth_topic', 'publish_tf', 'two_d_mode'}
    for name in ('vo', 'replay'):
        assert wanted <= set(arguments(ROOT / 'launch' / f'{name}.launch.py'))


def test_replay_hands_on_only_arguments_that_vo_knows() -> None:
    tree = ast.parse((ROOT / 'launch' / 'replay.launch.py').read_text())
    handed = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'TO_VO'
    )
    assert set(handed) <= set(arguments(ROOT / 'launch' / 'vo.launch.py'))
    assert set(handed) <= set(arguments(ROOT / 'launch' / 'replay.launch.py'))


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda p: p.name)
def test_a_launch_file_can_be_described_where_launch_is_installed(path: Path) -> None:
    pytest.importorskip('launch_ros', reason='launch comes with a ROS 2 installation')
    try:
        from ament_index_python.packages import get_package_share_directory

        get_package_share_directory('kpvo_ros')
    except LookupError:
        pytest.skip('kpvo_ros is not installed in an ament workspace')
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(path))
    description = source.try_get_launch_description_without_context()
    assert description is not None
    names = {argument.name for argument in description.get_launch_arguments()}
    assert set(arguments(path)) <= names


@pytest.mark.parametrize('path', PARAMETER_FILES, ids=lambda p: p.name)
def test_every_shipped_parameter_file_is_accepted(path: Path) -> None:
    defaults = KeypointConfig() if path.name == 'keypoints.yaml' else VoConfig()
    record = load(defaults, path)
    layers = yaml.safe_load(path.read_text())
    assert set(layers['/**']) == {'ros__parameters'}
    assert record.node.autostart


def test_parameter_files_of_robots_change_what_they_are_named_after() -> None:
    folder = ROOT / 'config' / 'robots'
    for name, source in (
        ('rgbd', 'depth'),
        ('ground_camera_height', 'camera_height'),
        ('wheel_odometry', 'wheel'),
    ):
        assert load(VoConfig(), folder / f'{name}.yaml').scale.source == source


def test_viewer_layouts_show_topics_the_node_has() -> None:
    rviz = yaml.safe_load((ROOT / 'config' / 'rviz' / 'vo.rviz').read_text())
    displays = rviz['Visualization Manager']['Displays']
    topics = {d['Topic']['Value'] for d in displays if 'Topic' in d}
    assert topics == {'odom', 'debug_image', 'depth/image'}
    foxglove = json.loads((ROOT / 'config' / 'foxglove' / 'vo.json').read_text())
    text = json.dumps(foxglove)
    for topic in ('/odom', '/debug_image', '/diagnostics', '/vo_node/status'):
        assert topic in text
    panels = set(re.findall(r'"(\w+!\w+)"', json.dumps(foxglove['layout'])))
    assert panels == set(foxglove['configById'])
