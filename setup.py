"""Installs the package, for pip and for colcon alike. The version is read from package.xml."""

from pathlib import Path
import xml.etree.ElementTree as ElementTree

from setuptools import find_packages, setup

NAME = 'kpvo_ros'
HERE = Path(__file__).resolve().parent
MANIFEST = ElementTree.parse(HERE / 'package.xml').getroot()

# On a robot these come from rosdep and standalone/requirements-robot.txt. They are an extra and
# not requirements, because system packages answer to other names (opencv) and a requirement pip
# cannot see would stop a node installed by colcon.
STANDALONE = [
    'matplotlib',
    'numpy',
    'opencv-python-headless<5',
    'poselib',
    'PyYAML',
    'rich',
    'rosbags',
    'rosbags-image',
    'safetensors',
    'scipy',
    'torch',
    'tqdm',
]
# Needed for loop_closure.enabled alone, and not part of STANDALONE: gtsam 4.3.0 declares a pytest
# newer than launch_pytest can work with. standalone/setup.sh installs it without dependencies.
LOOP_CLOSURE = ['gtsam>=4.3a1']


def shared_files():
    """Where launch, configuration and weights go below share/kpvo_ros, folder by folder."""
    folders = {}
    for room in ('config', 'launch', 'models'):
        for path in sorted((HERE / room).rglob('*')):
            hidden = any(part.startswith(('.', '__')) for part in path.relative_to(HERE).parts)
            if path.is_file() and not hidden:
                relative = path.relative_to(HERE)
                folders.setdefault(f'share/{NAME}/{relative.parent}', []).append(str(relative))
    return list(folders.items())


setup(
    name=NAME,
    version=MANIFEST.findtext('version'),
    description=' '.join(MANIFEST.findtext('description').split()),
    maintainer=MANIFEST.findtext('maintainer'),
    maintainer_email=MANIFEST.find('maintainer').get('email'),
    license=MANIFEST.findtext('license'),
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    python_requires='>=3.10',
    install_requires=['setuptools'],
    extras_require={
        'standalone': STANDALONE,
        'loop_closure': LOOP_CLOSURE,
        'test': ['hypothesis', 'pytest<9', 'pytest-timeout', 'pytest-xdist'],
        'lint': ['codespell', 'mypy', 'ruff', 'types-PyYAML'],
        'evo': ['evo'],
        'viewer': ['rerun-sdk'],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/standalone', ['standalone/fastdds.xml']),
        *shared_files(),
    ],
    entry_points={
        'console_scripts': [
            'kpvo = kpvo_ros.cli.main:main',
            'vo_node = kpvo_ros.ros.vo_node:main',
            'keypoint_node = kpvo_ros.ros.keypoint_node:main',
            'bag_player = kpvo_ros.ros.bag_player:main',
            'bag_recorder = kpvo_ros.ros.bag_recorder:main',
        ],
    },
    zip_safe=False,
)
