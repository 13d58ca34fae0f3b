"""A bag through the real nodes: player, vo_node and recorder as processes of their own over DDS.

Nothing is waited for by the clock: each step begins when the one before it is seen to be done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
import subprocess

from kpvo_ros.cli.common import progress_bar, stop_on_signals
from kpvo_ros.cli.ros_environment import private_ros_environment
from kpvo_ros.cli.ros_processes import RosProcess, RosProcesses, last_line
from kpvo_ros.errors import RosError

IMAGE_TOPIC, INFO_TOPIC, DEPTH_TOPIC = '/camera/image_raw', '/camera/camera_info', '/camera/depth'
_LISTEN_S = 60.0  # longest wait of the player for nodes that are starting
_IDLE_S = 3.0  # silence of the odometry after which the recorder ends
_LOOK_S = 0.2
_AFTERWARDS_S = 30.0


def play_through_nodes(
    bag: Path,
    result_dir: Path,
    frames: int,
    remaps: Mapping[str, str],
    parameters: Sequence[str],
) -> None:
    """Play at the rate of the recording, with stamps of now, into a folder of the recorder.

    Args:
        bag: what to play.
        result_dir: an empty folder for the recording; logs go to `logs` in it.
        frames: images in the bag, for the progress bar.
        remaps: topics of vo_node to those of the bag; these and /tf_static are played.
        parameters: of vo_node, as `name:=value`.

    Raises:
        RosError: a node ended before its time.
        KeyboardInterrupt: the user asked to stop.
    """
    with (
        private_ros_environment() as environment,
        RosProcesses(result_dir / 'logs', environment) as nodes,
        stop_on_signals() as stop,
    ):
        recorder = nodes.start(
            'bag_recorder',
            'kpvo_ros.ros.bag_recorder',
            ['--out', str(result_dir), '--idle-timeout', f'{_IDLE_S:g}'],
        )
        vo_node = nodes.start('vo_node', 'kpvo_ros.ros.vo_node', _vo_words(remaps, parameters))
        player = nodes.start(
            'bag_player', 'kpvo_ros.ros.bag_player', _player_words(bag, list(remaps.values()))
        )
        with progress_bar('playing') as progress:
            while not _ended(player):
                if stop():
                    raise KeyboardInterrupt
                nodes.require_alive(recorder, vo_node)
                progress(_recorded_frames(result_dir), frames)
        if player.process.returncode:
            raise RosError(f'bag_player: {last_line(player.log)}; see {player.log}')
        if not _ended(recorder, _AFTERWARDS_S):
            nodes.stop(recorder)


# ------------------------------------------------------------------------------------ private


def _vo_words(remaps: Mapping[str, str], parameters: Sequence[str]) -> list[str]:
    words = [word for topic in remaps for word in ('-r', f'{topic}:={remaps[topic]}')]
    words += [word for parameter in parameters for word in ('-p', parameter)]
    return ['--ros-args', *words]


def _player_words(bag: Path, topics: list[str]) -> list[str]:
    return [
        str(bag),
        '--restamp',
        '--quiet',
        '--wait',
        f'{_LISTEN_S:g}',
        '--wait-for',
        'odom',
        '--topics',
        *topics,
        '/tf_static',
    ]


def _ended(running: RosProcess, patience_s: float = _LOOK_S) -> bool:
    try:
        running.process.wait(patience_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _recorded_frames(result_dir: Path) -> int:
    from kpvo_ros.evaluation.files import STATES_FILE

    states = result_dir / STATES_FILE
    if not states.is_file():
        return 0
    with states.open('rb') as file:
        return max(0, sum(1 for _ in file) - 1)
