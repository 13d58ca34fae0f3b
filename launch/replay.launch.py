"""A recorded bag through the real vo_node: player, odometry and recorder, each a process.

ros2 launch kpvo_ros replay.launch.py bag:=my_bag out:=results
Ends when the bag has been played and the odometry has fallen silent.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = Path(get_package_share_directory('kpvo_ros'))

ARGUMENTS = (
    ('bag', None, 'rosbag2 to play'),
    ('out', None, 'new folder for the recording'),
    ('rate', '1.0', 'speed of the player'),
    ('namespace', '', 'namespace of all nodes'),
    ('image_topic', '/camera/image_raw', 'image topic of the bag'),
    ('camera_info_topic', '/camera/camera_info', 'camera_info topic of the bag'),
    ('depth_topic', '/camera/depth', 'depth topic of the bag, for scale.source depth'),
    ('mask_topic', '/camera/mask', 'mask topic of the bag, for node.use_mask'),
    ('params_file', str(SHARE / 'config' / 'vo.yaml'), 'parameters of the robot'),
    ('use_sim_time', 'true', 'run on the clock of the bag'),
    ('publish_tf', '', 'empty: as in params_file'),
    ('two_d_mode', '', 'empty: as in params_file'),
)
TO_VO = (
    'namespace',
    'image_topic',
    'camera_info_topic',
    'depth_topic',
    'mask_topic',
    'params_file',
    'use_sim_time',
    'publish_tf',
    'two_d_mode',
)


def generate_launch_description():
    """Start vo_node and the recorder, play, and end with the recorder."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, default, text in ARGUMENTS
    ]
    odometry = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'vo.launch.py')),
        launch_arguments=[(name, LaunchConfiguration(name)) for name in TO_VO],
    )
    recorder = Node(
        package='kpvo_ros',
        executable='bag_recorder',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        arguments=['--out', LaunchConfiguration('out'), '--idle-timeout', '5'],
    )
    player = Node(
        package='kpvo_ros',
        executable='bag_player',
        namespace=LaunchConfiguration('namespace'),
        output='screen',
        arguments=[
            LaunchConfiguration('bag'),
            '--rate',
            LaunchConfiguration('rate'),
            '--wait-for',
            'odom',
            '--clock',
        ],
    )
    at_end = RegisterEventHandler(
        OnProcessExit(target_action=recorder, on_exit=[EmitEvent(event=Shutdown())])
    )
    return LaunchDescription([*arguments, odometry, recorder, player, at_end])
